//! The installation's identity and the keys of its tickets.

use std::collections::HashSet;

use picket_proto::{Kind, Shard, SiteId, Timestamp, ticket::Claims};
use picket_store::{MIGRATOR, tickets::Keyring};
use sqlx::{Executor, PgPool};

use crate::{database, store};

#[tokio::test]
async fn each_database_has_an_identity_and_a_key_of_its_own_and_requires_tickets() {
    let (one, other) = (database().await, database().await);
    let read = async |database: &crate::Database| Keyring::load(&database.store).await.unwrap().tickets();
    let (first, again, second) = (read(&one).await, read(&one).await, read(&other).await);

    assert_eq!(first.installation(), again.installation());
    assert_ne!(first.installation(), second.installation());
    assert!(first.are_required());
    let region = "eu".parse().unwrap();
    let at = Timestamp::from_millis(1_795_176_000_000);
    let claims = Claims {
        site: SiteId(1),
        shard: Shard(1),
        region: &region,
        kind: Kind::Scheduled,
        scheduled_at: at,
        expires_at: at,
    };
    let ticket = first.ticket(&claims).unwrap().to_string();
    assert_eq!(again.verify(Some(&ticket), &claims), Ok(()));
    assert!(second.verify(Some(&ticket), &claims).is_err());
    let mut keys = HashSet::new();
    for database in [&one, &other] {
        let key: Vec<u8> =
            sqlx::query_scalar("SELECT key FROM picket.ticket_keys").fetch_one(&database.pool).await.unwrap();
        keys.insert(key);
    }
    assert!(keys.len() == 2 && keys.iter().all(|key| key.len() == 32));
}

#[tokio::test]
async fn a_database_that_had_sites_when_it_was_migrated_requires_no_tickets_until_somebody_says_so() {
    let url = picket_testkit::servers::postgres().await.database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    MIGRATOR.run_to(15, &pool).await.unwrap();
    pool.execute("INSERT INTO picket.sites (url) VALUES ('http://a.example/')").await.unwrap();
    let store = store(&url);
    store.migrate(64).await.unwrap();

    let keyring = Keyring::load(&store).await.unwrap();
    assert!(!keyring.tickets().are_required());
    pool.execute("UPDATE picket.settings SET require_tickets = true").await.unwrap();
    assert!(keyring.refresh(&store).await.unwrap().are_required());
    assert!(keyring.tickets().are_required());
}

#[tokio::test]
async fn a_key_that_is_retired_for_ever_or_was_never_in_use_is_read_like_any_other() {
    let database = database().await;
    let sql = "INSERT INTO picket.ticket_keys (retired_at) VALUES ('infinity'), ('-infinity'), (now())";
    database.pool.execute(sql).await.unwrap();

    assert!(Keyring::load(&database.store).await.unwrap().tickets().has_key());
    database.pool.execute("DELETE FROM picket.ticket_keys").await.unwrap();
    assert!(!Keyring::load(&database.store).await.unwrap().tickets().has_key());
}
