//! The store against a real Postgres, a database for each test.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod copying;
mod days;
mod incidents;
mod leases;
mod ledger;
mod reporting;
mod results;
mod retention;
mod roles;
mod rollups;
mod sites;
mod tickets;

use picket_store::{DatabaseOptions, Store};
use sqlx::PgPool;

struct Database {
    store: Store,
    pool: PgPool,
}

fn store(url: &str) -> Store {
    let options = DatabaseOptions { database_url: Some(url.to_owned()) };
    Store::new(&options, "test", 10).unwrap()
}

/// A migrated database of one's own, through the store and around it.
async fn database() -> Database {
    let url = picket_testkit::servers::postgres().await.database().await;
    let store = store(&url);
    store.migrate(64).await.unwrap();
    Database { store, pool: PgPool::connect(&url).await.unwrap() }
}
