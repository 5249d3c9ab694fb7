//! Leases: judged by the database alone.

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};
use picket_store::leases::{self, AcquireCriteria, ShardProgress};

use crate::{Database, new_database};

const LONG: Duration = Duration::from_secs(60);

fn shard_progress(lease: &leases::Lease, through: Timestamp) -> ShardProgress {
    ShardProgress { shard: lease.shard, epoch: lease.epoch, scheduled_through: through }
}

#[tokio::test]
async fn concurrent_acquirers_get_each_shard_exactly_once() {
    let database = new_database().await;

    let takers = (0..8).map(|n| {
        let store = database.store.clone();
        tokio::spawn(async move {
            leases::acquire_leases(&store, &format!("c{n}"), &AcquireCriteria::expired_only(64), LONG)
                .await
                .unwrap()
        })
    });
    let mut taken: Vec<u16> = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        taken.extend(taker.await.unwrap().iter().map(|lease| lease.shard.0));
    }
    // Leases that were locked for a moment are free for the next round of any coordinator.
    taken.extend(
        leases::acquire_leases(&database.store, "c9", &AcquireCriteria::expired_only(64), LONG)
            .await
            .unwrap()
            .iter()
            .map(|lease| lease.shard.0),
    );

    taken.sort_unstable();
    assert_eq!(taken, (0..64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_holder_that_resumes_after_its_lease_was_acquired_renews_and_writes_nothing() {
    let database = new_database().await;
    let old =
        leases::acquire_leases(&database.store, "old", &AcquireCriteria::expired_only(1), Duration::ZERO)
            .await
            .unwrap()
            .remove(0);
    let new = leases::acquire_leases(&database.store, "new", &AcquireCriteria::expired_only(64), LONG)
        .await
        .unwrap();
    let new = new.into_iter().find(|lease| lease.shard == old.shard).unwrap();

    let kept =
        leases::renew_leases(&database.store, "old", &[shard_progress(&old, Timestamp::MAX)], None, LONG)
            .await
            .unwrap();
    leases::release_leases(&database.store, "old", &[shard_progress(&old, Timestamp::MAX)]).await.unwrap();

    assert_eq!((kept, new.epoch), (vec![], Epoch(old.epoch.0 + 1)));
    let kept = leases::renew_leases(
        &database.store,
        "new",
        &[shard_progress(&new, new.scheduled_through)],
        None,
        LONG,
    )
    .await
    .unwrap();
    assert_eq!(kept, [old.shard]);
}

#[tokio::test]
async fn an_expired_lease_is_not_renewed_even_if_it_is_free() {
    let database = new_database().await;
    let lease =
        leases::acquire_leases(&database.store, "c", &AcquireCriteria::expired_only(1), Duration::ZERO)
            .await
            .unwrap()
            .remove(0);

    let kept = leases::renew_leases(
        &database.store,
        "c",
        &[shard_progress(&lease, lease.scheduled_through)],
        None,
        LONG,
    )
    .await
    .unwrap();

    assert_eq!(kept, []);
}

/// Red while the lease time was counted from `now()`, which is when the statement began: a renewal that had waited
/// behind a lock took seconds from its holder that a later renewal had given.
#[tokio::test]
async fn a_renewal_delayed_by_a_lock_does_not_shorten_a_later_one() {
    let Database { store, pool } = new_database().await;
    let mut held =
        leases::acquire_leases(&store, "c", &AcquireCriteria::expired_only(64), LONG).await.unwrap();
    held.sort_by_key(|lease| lease.shard);
    let both: Vec<ShardProgress> =
        held[..2].iter().map(|lease| shard_progress(lease, lease.scheduled_through)).collect();
    let expires = "SELECT extract(epoch FROM expires_at)::float8 FROM picket.leases WHERE shard = 1";
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM picket.leases WHERE shard = 0 FOR UPDATE").execute(&mut *other).await.unwrap();
    let early = tokio::spawn({
        let (store, both) = (store.clone(), both.clone());
        async move { leases::renew_leases(&store, "c", &both, None, LONG).await }
    });
    let waiting = async |count: i64| {
        picket_harness::eventually(Duration::from_secs(20), "renewals that wait", async || {
            let waits = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND query LIKE '%UPDATE picket.leases%' AND state = 'active'
                           AND pid <> pg_backend_pid()";
            let found: i64 = sqlx::query_scalar(waits).fetch_one(&pool).await.unwrap();
            (found == count).then_some(()).ok_or(found)
        })
        .await;
    };
    waiting(1).await;

    assert_eq!(leases::renew_leases(&store, "c", &both[1..], None, LONG).await.unwrap(), [Shard(1)]);
    let given: f64 = sqlx::query_scalar(expires).fetch_one(&pool).await.unwrap();
    other.commit().await.unwrap();
    // The client may have timed out; the statement continues.
    let _ = early.await.unwrap();
    waiting(0).await;

    let left: f64 = sqlx::query_scalar(expires).fetch_one(&pool).await.unwrap();
    assert!(left >= given, "{} s less", given - left);
}

#[tokio::test]
async fn a_successor_begins_at_the_predecessors_watermark_and_never_before_it() {
    let database = new_database().await;
    let first = leases::acquire_leases(&database.store, "first", &AcquireCriteria::expired_only(1), LONG)
        .await
        .unwrap()
        .remove(0);
    let there = first.scheduled_through.saturating_add(Duration::from_secs(9));
    leases::renew_leases(&database.store, "first", &[shard_progress(&first, there)], None, LONG)
        .await
        .unwrap();
    leases::release_leases(&database.store, "first", &[shard_progress(&first, Timestamp::default())])
        .await
        .unwrap();

    let second = leases::acquire_leases(&database.store, "second", &AcquireCriteria::expired_only(64), LONG)
        .await
        .unwrap();

    let second = second.iter().find(|lease| lease.shard == first.shard).unwrap();
    assert_eq!(second.scheduled_through, there);
}

#[tokio::test]
async fn silent_and_leaving_coordinators_are_not_counted() {
    let database = new_database().await;

    assert_eq!(
        leases::record_heartbeat(&database.store, "a", false, LONG).await.unwrap().live_coordinators,
        1
    );
    assert_eq!(
        leases::record_heartbeat(&database.store, "b", false, LONG).await.unwrap().live_coordinators,
        2
    );
    assert_eq!(
        leases::record_heartbeat(&database.store, "b", true, LONG).await.unwrap().live_coordinators,
        1
    );
    let roll = leases::record_heartbeat(&database.store, "c", false, Duration::ZERO).await.unwrap();
    assert_eq!((roll.live_coordinators, roll.shard_count), (1, 64));
}

#[tokio::test]
async fn the_number_of_shards_is_set_when_the_database_is_created() {
    let url = picket_harness::servers::shared_postgres().await.create_database().await;
    let store = crate::open_store(&url);
    store.migrate(16).await.unwrap();
    store.migrate(32).await.unwrap();

    let taken = leases::acquire_leases(&store, "c", &AcquireCriteria::expired_only(64), LONG).await.unwrap();

    assert_eq!(taken.len(), 16);
    assert!(taken.iter().all(|lease| lease.shard < Shard(16)));
}
