//! The installation's identity and the keys of its tickets.

use std::collections::HashSet;

use picket_proto::{CheckKind, ScheduledTick, Shard, SiteId, Timestamp, ticket::TicketClaims};
use picket_store::{Store, settings::read_settings, tickets::Keyring};
use sqlx::Executor;

use crate::new_database;

async fn load_keyring(store: &Store) -> Keyring {
    Keyring::load_from(store, &read_settings(store).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn each_database_has_its_own_identity_and_key_and_requires_tickets() {
    let (one, other) = (new_database().await, new_database().await);
    let read = async |database: &crate::Database| load_keyring(&database.store).await.tickets();
    let (first, again, second) = (read(&one).await, read(&one).await, read(&other).await);

    assert_eq!(first.installation(), again.installation());
    assert_ne!(first.installation(), second.installation());
    assert!(first.is_required());
    let region = "eu".parse().unwrap();
    let at = Timestamp::from_millis(1_795_176_000_000);
    let tick = ScheduledTick {
        site: SiteId(1),
        shard: Shard(1),
        kind: CheckKind::Scheduled,
        scheduled_at: at,
        expires_at: at,
    };
    let claims = TicketClaims { tick, region: &region };
    let ticket = first.issue_ticket(&claims).unwrap().to_string();
    assert_eq!(again.verify_ticket(Some(&ticket), &claims), Ok(()));
    assert!(second.verify_ticket(Some(&ticket), &claims).is_err());
    let mut keys = HashSet::new();
    for database in [&one, &other] {
        let key: Vec<u8> =
            sqlx::query_scalar("SELECT key FROM picket.ticket_keys").fetch_one(&database.pool).await.unwrap();
        keys.insert(key);
    }
    assert!(keys.len() == 2 && keys.iter().all(|key| key.len() == 32));
}

#[tokio::test]
async fn tickets_are_required_according_to_the_setting() {
    let database = new_database().await;
    let keyring = load_keyring(&database.store).await;

    for required in [false, true] {
        let sql = sqlx::query("UPDATE picket.settings SET require_tickets = $1").bind(required);
        sql.execute(&database.pool).await.unwrap();
        let settings = read_settings(&database.store).await.unwrap();
        assert_eq!(keyring.refresh_keys(&database.store, &settings).await.unwrap().is_required(), required);
        assert_eq!(keyring.tickets().is_required(), required);
    }
}

#[tokio::test]
async fn a_key_retired_for_ever_or_never_used_is_readable() {
    let database = new_database().await;
    let sql = "INSERT INTO picket.ticket_keys (retired_at) VALUES ('infinity'), ('-infinity'), (now())";
    database.pool.execute(sql).await.unwrap();

    assert!(load_keyring(&database.store).await.tickets().has_signing_key());
    database.pool.execute("DELETE FROM picket.ticket_keys").await.unwrap();
    assert!(!load_keyring(&database.store).await.tickets().has_signing_key());
}
