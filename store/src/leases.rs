//! Shard leases: the holder and the expiry of the right to schedule a shard, by the database's
//! clock.
//!
//! Lease times come from `clock_timestamp()`, read when the row changes, and not from `now()`, the
//! start of the statement. A statement delayed by a lock would otherwise set an earlier expiry than
//! a newer one has already reported to the holder.

mod heartbeat;

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};

pub use self::heartbeat::{ClusterView, record_heartbeat};
use crate::{DbTimestamp, Error, Store};

/// Deadline of a lease statement. A later response is useless to the caller.
const LEASE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which leases are granted, as set in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// The time.
    pub duration: Duration,
    /// Number of changes of the setting before. A lease is not renewed by an older lease time,
    /// because a delayed statement could shorten it.
    pub version: i64,
}

impl From<Duration> for LeaseTime {
    fn from(duration: Duration) -> Self {
        Self { duration, version: 0 }
    }
}

/// An acquired shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: Shard,
    /// Acquisition number, one higher than the previous holder's.
    pub epoch: Epoch,
    /// All ticks up to this time have been acknowledged by the job stream.
    pub scheduled_through: Timestamp,
}

/// Progress of a held shard, written by a renewal or release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardProgress {
    /// The shard.
    pub shard: Shard,
    /// Epoch of the lease.
    pub epoch: Epoch,
    /// All ticks up to this time have been acknowledged by the job stream.
    pub scheduled_through: Timestamp,
}

/// A lease as another coordinator holds or held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedLease {
    /// The shard.
    pub shard: Shard,
    /// Epoch of the lease.
    pub epoch: Epoch,
    /// Expiry by the database's clock at the last renewal; changes with every renewal.
    pub expires_at: Timestamp,
    /// Lease time of the last renewal, which may differ from the present setting.
    pub lease_time: Duration,
}

/// Criteria for leases to acquire. Released leases always qualify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquireCriteria {
    /// Maximum number of leases to acquire.
    pub max_leases: usize,
    /// The caller's clock, the end of the time without a scheduler; the database's clock if absent.
    pub now: Option<Timestamp>,
    /// Leases qualify if expired both by the database's clock and by this time; expired leases do
    /// not qualify if absent.
    pub expired_by: Option<Timestamp>,
    /// Time for which the database's clock has been steady. An expired lease qualifies only if its
    /// own lease time is not longer: otherwise a jump of the clock may have ended it.
    pub steady_for: Duration,
    /// Leases qualify if the caller has observed no renewal for a lease time.
    pub unrenewed: Vec<ObservedLease>,
}

impl AcquireCriteria {
    /// Up to `max_leases` leases that have expired by the database's clock alone.
    pub fn expired_only(max_leases: usize) -> Self {
        Self {
            max_leases,
            now: None,
            expired_by: Some(Timestamp::MAX),
            steady_for: Duration::MAX,
            unrenewed: vec![],
        }
    }
}

/// A row of the lease list.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LeaseRow {
    /// The shard.
    pub shard: i16,
    /// The current holder, if any.
    pub holder: Option<String>,
    /// Number of acquisitions.
    pub epoch: i64,
    /// Seconds until expiry; absent without a holder.
    pub expires_in_seconds: Option<f64>,
    /// Lag of the published ticks behind the current time, in seconds.
    pub scheduled_behind_seconds: f64,
    /// Number of schedules in force.
    pub schedules: i64,
}

/// Acquires unowned shards, and records the time since each shard was last scheduled as a gap.
/// Skips locked rows, so that the call never waits for another coordinator.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn acquire_leases(
    store: &Store,
    id: &str,
    free: &AcquireCriteria,
    lease: impl Into<LeaseTime>,
) -> Result<Vec<Lease>, Error> {
    let lease = lease.into();
    let AcquireCriteria { max_leases, now, expired_by, steady_for, unrenewed } = free;
    let rows: Vec<(i16, i64, DbTimestamp)> = store
        .with_timeout(
            LEASE_STATEMENT_TIMEOUT,
            "acquire leases",
            sqlx::query_as(
                // A locked row is being changed by another coordinator, so it is skipped. An
                // unrenewed lease must match exactly: a renewal since its observation changed
                // `expires_at`.
                "WITH taken AS (
                     UPDATE picket.leases AS lease
                     SET holder = $1, epoch = epoch + 1, expires_at = clock_timestamp() + $3 * interval '1 millisecond',
                         lease_time = $3 * interval '1 millisecond', lease_time_version = $10
                     FROM (SELECT shard FROM picket.leases
                           WHERE expires_at = '-infinity'
                              OR ($4::timestamptz IS NOT NULL AND expires_at < least(clock_timestamp(), $4)
                                  AND extract(epoch FROM coalesce(lease_time, $3 * interval '1 millisecond')) * 1000 <= $9)
                              OR (shard, epoch, expires_at) IN (
                                  SELECT * FROM unnest($6::smallint[], $7::bigint[], $8::timestamptz[]))
                           ORDER BY expires_at, shard LIMIT $2 FOR UPDATE SKIP LOCKED) AS free
                     WHERE lease.shard = free.shard
                     RETURNING lease.shard, lease.epoch, lease.scheduled_through
                 ), gap AS (
                     INSERT INTO picket.gaps (shard, gap_from, gap_to)
                     SELECT shard, scheduled_through, moment FROM taken, coalesce($5, clock_timestamp()) AS moment
                     WHERE scheduled_through < moment - interval '1 second'
                       AND picket.had_schedules(shard, scheduled_through)
                     ON CONFLICT (shard, gap_from) DO UPDATE SET gap_to = greatest(gaps.gap_to, excluded.gap_to)
                 )
                 SELECT shard, epoch, scheduled_through FROM taken",
            )
            .bind(id)
            .bind(i64::try_from(*max_leases).unwrap_or(i64::MAX))
            .bind(to_millis(lease.duration))
            .bind(expired_by.map(DbTimestamp))
            .bind(now.map(DbTimestamp))
            .bind(unrenewed.iter().map(|held| from_shard(held.shard)).collect::<Vec<_>>())
            .bind(unrenewed.iter().map(|held| held.epoch.0).collect::<Vec<_>>())
            .bind(unrenewed.iter().map(|held| DbTimestamp(held.expires_at)).collect::<Vec<_>>())
            .bind(to_millis(*steady_for))
            .bind(lease.version)
            .fetch_all(&store.pool),
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(shard, epoch, through)| Lease {
            shard: to_shard(shard),
            epoch: Epoch(epoch),
            scheduled_through: through.into(),
        })
        .collect())
}

/// Renews all leases of `held` in a single statement and records their progress; returns the renewed
/// shards. A shard missing from the result has expired or belongs to another coordinator, and the
/// caller must stop scheduling it.
///
/// A lease expires only when both the database's clock and `now`, the caller's clock, have passed
/// its expiry. If the two clocks differ widely, the database's clock has jumped, and the lease
/// stays with its holder until another coordinator acquires it.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn renew_leases(
    store: &Store,
    id: &str,
    held: &[ShardProgress],
    now: Option<Timestamp>,
    lease: impl Into<LeaseTime>,
) -> Result<Vec<Shard>, Error> {
    let lease = lease.into();
    let (shards, epochs, through) = to_columns(held);
    let renewed: Vec<i16> = store
        .with_timeout(
            LEASE_STATEMENT_TIMEOUT,
            "renew leases",
            sqlx::query_scalar(
                // Ordered, as in all statements that lock these rows, to avoid deadlocks.
                "WITH mine AS (
                     SELECT lease.shard, held.through
                     FROM unnest($2::smallint[], $3::bigint[], $4::timestamptz[]) AS held (shard, epoch, through)
                     JOIN picket.leases AS lease ON lease.shard = held.shard AND lease.epoch = held.epoch
                     WHERE lease.holder = $1 AND lease.expires_at > least(clock_timestamp(), $6)
                       AND lease.lease_time_version <= $7
                     ORDER BY lease.shard FOR UPDATE OF lease
                 )
                 UPDATE picket.leases AS lease
                 SET expires_at = clock_timestamp() + $5 * interval '1 millisecond',
                     lease_time = $5 * interval '1 millisecond', lease_time_version = $7,
                     scheduled_through = greatest(lease.scheduled_through, mine.through)
                 FROM mine WHERE lease.shard = mine.shard
                 RETURNING lease.shard",
            )
            .bind(id)
            .bind(shards)
            .bind(epochs)
            .bind(through)
            .bind(to_millis(lease.duration))
            .bind(now.map(DbTimestamp))
            .bind(lease.version)
            .fetch_all(&store.pool),
        )
        .await?;
    Ok(renewed.into_iter().map(to_shard).collect())
}

/// Releases the leases of `held` for immediate acquisition, and notifies the other coordinators.
///
/// # Errors
/// If the database cannot be reached in time; the leases then expire.
pub async fn release_leases(store: &Store, id: &str, held: &[ShardProgress]) -> Result<(), Error> {
    let (shards, epochs, through) = to_columns(held);
    store
        .with_timeout(
            LEASE_STATEMENT_TIMEOUT,
            "release leases",
            sqlx::query(
                // Holder and epoch must match: another coordinator may have acquired the lease
                // since.
                "WITH mine AS (
                     SELECT lease.shard, held.through
                     FROM unnest($2::smallint[], $3::bigint[], $4::timestamptz[]) AS held (shard, epoch, through)
                     JOIN picket.leases AS lease ON lease.shard = held.shard AND lease.epoch = held.epoch
                     WHERE lease.holder = $1
                     ORDER BY lease.shard FOR UPDATE OF lease
                 ), released AS (
                     UPDATE picket.leases AS lease
                     SET holder = NULL, expires_at = '-infinity',
                         scheduled_through = greatest(lease.scheduled_through, mine.through)
                     FROM mine WHERE lease.shard = mine.shard
                     RETURNING lease.shard
                 )
                 SELECT pg_notify('picket_leases', count(*)::text) FROM released",
            )
            .bind(id)
            .bind(shards)
            .bind(epochs)
            .bind(through)
            .execute(&store.pool),
        )
        .await?;
    Ok(())
}

/// Lists all shards with their holders and schedule counts.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_leases(store: &Store) -> Result<Vec<LeaseRow>, Error> {
    store
        .with_timeout(
            Duration::from_secs(30),
            "list leases",
            sqlx::query_as(
                "SELECT shard, CASE WHEN expires_at > now() THEN holder END AS holder, epoch,
                        CASE WHEN expires_at > now() THEN extract(epoch FROM expires_at - now())::float8 END AS expires_in_seconds,
                        extract(epoch FROM now() - scheduled_through)::float8 AS scheduled_behind_seconds,
                        coalesce(schedules, 0) AS schedules
                 FROM picket.leases
                 LEFT JOIN (SELECT shard, count(*) AS schedules FROM picket.schedules WHERE valid_to IS NULL GROUP BY shard)
                   AS counted USING (shard)
                 ORDER BY shard",
            )
            .fetch_all(&store.pool),
        )
        .await
}

fn to_columns(held: &[ShardProgress]) -> (Vec<i16>, Vec<i64>, Vec<DbTimestamp>) {
    let shards = held.iter().map(|progress| from_shard(progress.shard)).collect();
    let epochs = held.iter().map(|progress| progress.epoch.0).collect();
    let through = held.iter().map(|progress| DbTimestamp(progress.scheduled_through)).collect();
    (shards, epochs, through)
}

pub(crate) fn to_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Shards are 0 to 1023 by the schema, so neither conversion loses anything.
pub(crate) fn from_shard(shard: Shard) -> i16 {
    i16::try_from(shard.0).unwrap_or(i16::MAX)
}

pub(crate) fn to_shard(shard: i16) -> Shard {
    Shard(shard.unsigned_abs())
}
