//! Mutual exclusion between processes: by rows and tables that only the working roles can lock, never by advisory locks,
//! which every login may take.

use crate::results::now;
use std::time::Duration;

use picket_proto::Timestamp;
use picket_store::{housekeeping, outbox, partitions};
use sqlx::{Connection, Executor, PgConnection};

use crate::{Database, new_database, open_store};

/// Advisory locks that earlier releases took, and the one that sqlx's migrator takes unless told otherwise.
const HOLD_ALL: &str = "
    SELECT pg_advisory_lock(hashtextextended('picket.' || name, 0))
    FROM unnest('{outbox,rollups,ensure_partitions,prune}'::text[]) AS name";

/// A session of a login that may only read reports.
async fn connect_reader(database: &Database) -> PgConnection {
    let options = database.pool.connect_options();
    let mut reader = PgConnection::connect_with(&options).await.unwrap();
    reader.execute("SET SESSION AUTHORIZATION picket_report").await.unwrap();
    reader
}

/// Lets there be something to do for everything that is done by one process at a time.
async fn insert_fixture(database: &Database) {
    let rows = "
        INSERT INTO picket.regions (name) VALUES ('eu');
        INSERT INTO picket.sites (url) VALUES ('http://a.example/');
        INSERT INTO picket.silent_regions SELECT id, now() FROM picket.regions;
        UPDATE picket.leases SET accounted_through = now();
        UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now() - interval '2 h');
        INSERT INTO picket.dead_letters (received_at, subject, reason, payload)
        VALUES (now() - interval '90 days', 'a', 'b', 'c')";
    database.pool.execute(rows).await.unwrap();
    let day = "SELECT format('DROP TABLE picket.check_results_%s', to_char((now() AT TIME ZONE 'UTC')::date + 7, 'YYYYMMDD'))";
    let drop: String = sqlx::query_scalar(day).fetch_one(&database.pool).await.unwrap();
    database.pool.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
}

#[tokio::test]
async fn a_report_reader_that_holds_our_advisory_locks_blocks_nothing() {
    let database = new_database().await;
    insert_fixture(&database).await;
    let mut reader = connect_reader(&database).await;
    reader.execute(HOLD_ALL).await.unwrap();

    let taken = outbox::lock_next_events(&database.store).await.unwrap();
    assert_eq!(taken.map(|taken| taken.events.len()), Some(1), "the outbox");
    let made = partitions::ensure_partitions(&database.store, now(), housekeeping::Retention::default())
        .await
        .unwrap();
    assert_eq!(made, 1, "partitions");
    let rolled =
        housekeeping::roll_up_results(&database.store, now(), Duration::from_secs(60)).await.unwrap();
    assert!(rolled.is_some_and(|through| through < Timestamp::from(time_now())), "rollups");
    let pruned = housekeeping::prune_expired(&database.store, now(), housekeeping::Retention::default())
        .await
        .unwrap();
    assert_eq!(pruned.deleted_rows, 1, "retention");
}

fn time_now() -> sqlx::types::time::OffsetDateTime {
    sqlx::types::time::OffsetDateTime::now_utc()
}

#[tokio::test]
async fn a_report_reader_that_holds_the_migrators_advisory_lock_blocks_no_migration() {
    let database = new_database().await;
    let mut reader = connect_reader(&database).await;
    // The key that sqlx computes from the database's name, found by its waiters.
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut reader).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(0x3d32_ad9e * i64::from(crc32(name.as_bytes())))
        .execute(&mut reader)
        .await
        .unwrap();
    database.pool.execute("DELETE FROM public._sqlx_migrations WHERE version = 999").await.unwrap();

    database.store.migrate(64).await.unwrap();
}

/// As sqlx computes it (CRC-32/ISO-HDLC).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}

#[tokio::test]
async fn two_migrations_of_an_empty_database_at_once_both_succeed() {
    let url = picket_harness::servers::shared_postgres().await.create_database().await;
    let (one, two) = (open_store(&url), open_store(&url));

    let (first, second) = tokio::join!(one.migrate(4), two.migrate(4));

    first.unwrap();
    second.unwrap();
    one.check_schema().await.unwrap();
}

#[tokio::test]
async fn no_function_of_the_schema_takes_an_advisory_lock() {
    let database = new_database().await;

    let taking: Vec<String> = sqlx::query_scalar(
        "SELECT oid::regprocedure::text FROM pg_proc
         WHERE pronamespace IN ('picket'::regnamespace, 'report'::regnamespace)
           AND pg_get_functiondef(oid) ~* 'advisory'",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();

    assert_eq!(taking, Vec::<String>::new());
}

#[tokio::test]
async fn two_publishers_of_the_outbox_take_turns() {
    let database = new_database().await;
    insert_fixture(&database).await;

    let first = outbox::lock_next_events(&database.store).await.unwrap();
    let second = outbox::lock_next_events(&database.store).await.unwrap();

    assert!(first.is_some() && second.is_none());
    drop(first);
    let third =
        picket_harness::eventually(Duration::from_secs(10), "the outbox to be free again", async || {
            outbox::lock_next_events(&database.store).await.unwrap().ok_or("held")
        })
        .await;
    assert_eq!(third.events.len(), 1);
}
