//! A transaction left open: its cost, and its detection.

use std::time::Duration;

use picket_harness::eventually;
use picket_store::{housekeeping, leases};
use sqlx::{Connection, Executor, PgConnection};

use crate::new_database;

#[tokio::test]
async fn an_open_reader_transaction_is_reported_with_its_age_until_it_ends() {
    let database = new_database().await;
    let mut reader = PgConnection::connect_with(&database.pool.connect_options()).await.unwrap();
    let open = "SET SESSION AUTHORIZATION picket_report; BEGIN ISOLATION LEVEL REPEATABLE READ;
                SELECT count(*) FROM report.sites";
    reader.execute(open).await.unwrap();
    sqlx::query("INSERT INTO picket.regions (name) VALUES ('eu')").execute(&database.pool).await.unwrap();
    sqlx::query("UPDATE picket.leases SET epoch = 0").execute(&database.pool).await.unwrap();

    let old = eventually(Duration::from_secs(30), "its age", async || {
        let oldest = housekeeping::find_oldest_snapshot(&database.store).await.unwrap().unwrap();
        if oldest.seconds > 0.5 { Ok(oldest) } else { Err(oldest) }
    })
    .await;
    assert!(old.transactions >= 2, "{old:?}");

    reader.close().await.unwrap();
    eventually(Duration::from_secs(30), "nothing old to be left", async || {
        let oldest = housekeeping::find_oldest_snapshot(&database.store).await.unwrap().unwrap();
        if oldest.seconds < old.seconds { Ok(()) } else { Err(oldest) }
    })
    .await;
}

#[tokio::test]
async fn the_age_is_unknown_and_not_zero_without_permission_to_see_sessions() {
    let database = new_database().await;
    database.pool.execute("CREATE ROLE without_stats NOLOGIN").await.unwrap();
    database.pool.execute("ALTER FUNCTION picket.oldest_snapshot() OWNER TO without_stats").await.unwrap();

    assert_eq!(housekeeping::find_oldest_snapshot(&database.store).await.unwrap(), None);
}

/// How the cost of a renewal grows with the renewals before it, as long as a reader's transaction is open.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_renewal_cost_beside_an_open_transaction() {
    let database = new_database().await;
    let lease = Duration::from_secs(3_600);
    let held =
        leases::acquire_leases(&database.store, "me", &leases::AcquireCriteria::expired_only(64), lease)
            .await
            .unwrap();
    let held: Vec<leases::ShardProgress> = held
        .iter()
        .map(|lease| leases::ShardProgress {
            shard: lease.shard,
            epoch: lease.epoch,
            scheduled_through: lease.scheduled_through,
        })
        .collect();
    let mut reader = PgConnection::connect_with(&database.pool.connect_options()).await.unwrap();
    let open = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM report.sites";
    for is_open in [false, true] {
        if is_open {
            reader.execute(open).await.unwrap();
        }
        for hundred in 0..5 {
            let began = tokio::time::Instant::now();
            for _ in 0..100 {
                leases::renew_leases(&database.store, "me", &held, None, lease).await.unwrap();
            }
            let size: i64 = sqlx::query_scalar("SELECT pg_relation_size('picket.leases')")
                .fetch_one(&database.pool)
                .await
                .unwrap();
            eprintln!(
                "open transaction: {is_open}, renewals {}00: {:.1} ms each, {} KiB",
                hundred + 1,
                began.elapsed().as_secs_f64() * 10.0,
                size >> 10
            );
        }
    }
}
