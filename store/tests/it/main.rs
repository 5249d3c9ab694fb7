//! The store against a real Postgres, a database for each test.
#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

mod check_model;
mod clock;
mod days;
mod episodes;
mod identity;
mod incidents;
mod lane_contents;
mod lanes;
mod large_batches;
mod leases;
mod ledger;
mod locks;
mod notice_rules;
mod notification_definitions;
mod notifications;
mod odd_rows;
mod other_chain;
mod pooler;
mod public_rights;
mod reads;
mod regions;
mod reporting;
mod restore;
mod results;
mod retention;
mod roles;
mod rollups;
mod settings;
mod site_history;
mod site_list;
mod site_summary;
mod sites;
mod snapshots;
mod tickets;
mod ticks;
mod validated;

use picket_proto::Timestamp;
use picket_store::{DatabaseOptions, Store};
use sqlx::PgPool;

struct Database {
    store: Store,
    pool: PgPool,
}

fn open_store(url: &str) -> Store {
    let options = DatabaseOptions { database_url: Some(url.to_owned()) };
    Store::new(&options, "test", 10).unwrap()
}

/// Now, by this machine's clock, which is the test database's too.
#[expect(clippy::disallowed_methods, reason = "the store's tests know no runtime")]
fn wall_clock_now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(now.as_micros()).unwrap())
}

/// A migrated database of one's own, through the store and around it.
async fn new_database() -> Database {
    let url = picket_harness::servers::shared_postgres().await.create_database().await;
    let store = open_store(&url);
    store.migrate(64).await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    // Tests have no time for longer ones.
    sqlx::query("UPDATE picket.settings SET min_interval = '1 second'").execute(&pool).await.unwrap();
    Database { store, pool }
}
