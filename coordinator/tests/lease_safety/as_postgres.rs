//! The simulated table behaves as the statements do on a real Postgres.

use std::{collections::BTreeSet, time::Duration};

use picket_harness::servers;
use picket_proto::{Epoch, Shard, Timestamp};
use picket_store::{
    DatabaseOptions, Store,
    leases::{self, AcquireCriteria, LeaseTime, ShardProgress},
};
use sqlx::PgPool;

use crate::{
    history::SplitMix64,
    table::{CoordinatorName, LeaseTable},
};

/// Long enough for the run time of the test not to matter.
const LEASE_TIME: Duration = Duration::from_secs(1_000);
/// No sum of these comes near to the lease time.
const STEP_TIMES_S: [u64; 3] = [310, 720, 1_130];
const SHARD_COUNT: u16 = 6;

/// Holder, epoch, seconds until it expires or `None`, progress in microseconds.
type StoredLease = (Option<String>, i64, Option<f64>, i64);

#[tokio::test]
async fn the_statements_behave_on_postgres_as_in_the_simulation() {
    let url = servers::shared_postgres().await.create_database().await;
    let store = Store::new(&DatabaseOptions { database_url: Some(url.clone()) }, "test", 2).unwrap();
    store.migrate(SHARD_COUNT).await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    sqlx::query("UPDATE picket.leases SET scheduled_through = to_timestamp(0)").execute(&pool).await.unwrap();
    let (mut table, mut chance, mut now) =
        (LeaseTable::new(SHARD_COUNT.into(), LEASE_TIME), SplitMix64(7), 0_i64);
    let mut refused = 0;

    for step in 0..400 {
        // Statements of the setting as it is, and of an earlier one.
        let version = i64::from(step / 50);
        let lease = |version| LeaseTime { duration: LEASE_TIME, version };
        let (old, lease) = (lease((version - 1).max(0)), lease(version));
        let id: CoordinatorName = ["a", "b", "c"][chance.next_u64() as usize % 3];
        let progress: Vec<ShardProgress> = random_shards(&mut chance)
            .into_iter()
            .map(|shard| ShardProgress {
                shard,
                // Its own, or one that is over.
                epoch: Epoch(table.rows[usize::from(shard.0)].epoch.0 - i64::from(chance.in_thousand(300))),
                scheduled_through: Timestamp::from_millis(chance.in_range(0, 100_000).cast_signed()),
            })
            .collect();
        match chance.in_range(0, 4) {
            0 => {
                let passed = STEP_TIMES_S[chance.next_u64() as usize % 3];
                now += (passed * 1_000_000).cast_signed();
                let seconds = passed as f64;
                for pass in [
                    "UPDATE picket.leases SET expires_at = expires_at - $1 * interval '1 second'",
                    "UPDATE picket.coordinators SET seen_at = seen_at - $1 * interval '1 second'",
                ] {
                    sqlx::query(pass).bind(seconds).execute(&pool).await.unwrap();
                }
            }
            1 => {
                let leaving = chance.in_thousand(300);
                let roll = leases::record_heartbeat(&store, id, leaving, LEASE_TIME).await.unwrap();
                let expected = table.record_heartbeat(now, now, id, leaving, LEASE_TIME);
                assert_eq!(
                    (roll.live_coordinators, roll.shard_count),
                    (expected.live_coordinators, expected.shard_count)
                );
            }
            2 => {
                let most = chance.in_range(0, 3) as usize;
                let taking = AcquireCriteria::expired_only(most);
                let taken = leases::acquire_leases(&store, id, &taking, lease).await.unwrap();
                let free = table.free_places(now, &taking);
                assert_eq!(taken.len(), most.min(free.len()));
                for granted in taken {
                    // The order of leases that expire together is undefined.
                    let place = usize::from(granted.shard.0);
                    assert!(free.contains(&place));
                    assert_eq!(granted, table.grant_lease(now, id, place, lease));
                }
            }
            3 => {
                let lease = if chance.in_thousand(200) { old } else { lease };
                let kept = leases::renew_leases(&store, id, &progress, None, lease).await.unwrap();
                let expected = table.renew_leases(now, id, &progress, None, lease);
                refused += progress.len() - kept.len();
                assert_eq!(BTreeSet::from_iter(kept), BTreeSet::from_iter(expected));
            }
            _ => {
                leases::release_leases(&store, id, &progress).await.unwrap();
                table.release_leases(id, &progress);
            }
        }
        assert_same_rows(&pool, &table, now).await;
    }

    assert!(refused > 50 && table.rows.iter().all(|row| row.epoch.0 > 5), "{refused}, {table:?}");
}

fn random_shards(chance: &mut SplitMix64) -> Vec<Shard> {
    (0..SHARD_COUNT).map(Shard).filter(|_| chance.in_thousand(600)).collect()
}

async fn assert_same_rows(pool: &PgPool, table: &LeaseTable, now: i64) {
    let all = "SELECT holder, epoch,
                      CASE WHEN expires_at > '-infinity' THEN extract(epoch FROM expires_at - now())::float8 END,
                      (extract(epoch FROM scheduled_through) * 1000000)::bigint
               FROM picket.leases ORDER BY shard";
    let found: Vec<StoredLease> = sqlx::query_as(all).fetch_all(pool).await.unwrap();
    assert_eq!(found.len(), table.rows.len());
    for (found, row) in found.iter().zip(&table.rows) {
        let (holder, epoch, expires_in_s, through_us) = found;
        assert_eq!(
            (holder.as_deref(), *epoch, *through_us),
            (row.holder, row.epoch.0, row.scheduled_through.as_micros())
        );
        let expected_s = (row.expires_at != i64::MIN).then(|| (row.expires_at - now) as f64 / 1e6);
        let close = match (expires_in_s, expected_s) {
            (Some(found_s), Some(expected_s)) => (found_s - expected_s).abs() < 60.0,
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(close, "expires in {expires_in_s:?} s, not {expected_s:?} s");
    }
}
