//! Heartbeat of a coordinator: records that it is alive, and reads the database's clock, the number
//! of live coordinators, the lease time and the leases in doubt, in a single statement.

use std::time::Duration;

use picket_proto::{Epoch, Timestamp};

use super::{LEASE_STATEMENT_TIMEOUT, LeaseTime, ObservedLease, to_millis, to_shard};
use crate::{DbTimestamp, Error, Store};

/// State of the cluster, read with a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// The database's clock.
    pub now: Timestamp,
    /// The newest `scheduled_through` of all shards, on the clocks of the coordinators that wrote
    /// them.
    pub newest_scheduled_through: Option<Timestamp>,
    /// Expired leases, and leases that outlast any lease granted now because the database's clock
    /// was set back. Usually empty.
    pub doubtful_leases: Vec<ObservedLease>,
    /// Number of live coordinators that are not draining.
    pub live_coordinators: usize,
    /// Number of shards.
    pub shard_count: usize,
    /// Lease time for leases granted from now on.
    pub lease_time: LeaseTime,
}

/// Tolerance above the lease time before a lease is reported in [`ClusterView::doubtful_leases`]:
/// clock readings are not exact.
const EXPIRY_TOLERANCE: Duration = Duration::from_secs(5);

type HeartbeatRow = (
    DbTimestamp,
    i64,
    i16,
    Option<DbTimestamp>,
    Option<Vec<i16>>,
    Option<Vec<i64>>,
    Option<Vec<DbTimestamp>>,
    Option<Vec<i64>>,
    i64,
    i64,
);

/// Records the heartbeat of coordinator `id` and whether it is draining. Coordinators without a
/// heartbeat within `alive`, the lease time that the caller knows, are not counted.
///
/// Whether a lease is doubtful is judged by the lease time for which it was granted, so that
/// coordinators agree on it while a change of the setting is on its way.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn record_heartbeat(
    store: &Store,
    id: &str,
    draining: bool,
    alive: Duration,
) -> Result<ClusterView, Error> {
    let (now, live, shards, newest_mark, far_shards, far_epochs, far, far_times, lease_ms, lease_version): HeartbeatRow = store
        .with_timeout(
            LEASE_STATEMENT_TIMEOUT,
            "record the heartbeat",
            sqlx::query_as(
                // The caller is counted separately, because the statement does not see its own
                // insert.
                // A heartbeat in the future dates from before the clock was set back.
                "WITH me AS (
                     INSERT INTO picket.coordinators AS c (id, version, draining) VALUES ($1, $2, $3)
                     ON CONFLICT (id) DO UPDATE SET seen_at = now(), draining = excluded.draining
                 )
                 SELECT clock_timestamp(),
                        (SELECT count(*) FROM picket.coordinators
                         WHERE id <> $1 AND NOT draining AND seen_at > now() - $4 * interval '1 millisecond'
                           AND seen_at < now() + $4 * interval '1 millisecond')
                        + (NOT $3)::int,
                        (SELECT shards FROM picket.settings),
                        (SELECT max(scheduled_through) FROM picket.leases),
                        far.shards, far.epochs, far.expire, far.times,
                        (SELECT (extract(epoch FROM lease_time) * 1000)::bigint FROM picket.settings),
                        (SELECT lease_time_version FROM picket.settings)
                 FROM (SELECT array_agg(shard) AS shards, array_agg(epoch) AS epochs, array_agg(expires_at) AS expire,
                              array_agg((extract(epoch FROM granted) * 1000)::bigint) AS times
                       FROM (SELECT *, coalesce(lease_time, $4 * interval '1 millisecond') AS granted
                             FROM picket.leases) AS lease
                       WHERE expires_at > clock_timestamp() + granted + $5 * interval '1 millisecond'
                          OR (expires_at < clock_timestamp() AND expires_at > '-infinity')) AS far",
            )
            .bind(id)
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(draining)
            .bind(to_millis(alive))
            .bind(to_millis(EXPIRY_TOLERANCE))
            .fetch_one(&store.pool),
        )
        .await?;
    let far_shards = far_shards.unwrap_or_default().into_iter().zip(far_epochs.unwrap_or_default());
    let expiries = far.unwrap_or_default().into_iter().zip(far_times.unwrap_or_default());
    let doubtful = far_shards.zip(expiries).map(|((shard, epoch), (expires_at, time))| ObservedLease {
        shard: to_shard(shard),
        epoch: Epoch(epoch),
        expires_at: expires_at.into(),
        lease_time: Duration::from_millis(time.unsigned_abs()),
    });
    Ok(ClusterView {
        now: now.into(),
        newest_scheduled_through: newest_mark.map(Timestamp::from),
        doubtful_leases: doubtful.collect(),
        live_coordinators: usize::try_from(live).unwrap_or(0),
        shard_count: usize::try_from(shards).unwrap_or(0),
        lease_time: LeaseTime {
            duration: Duration::from_millis(lease_ms.unsigned_abs()),
            version: lease_version,
        },
    })
}
