//! Leases on shards: who schedules which, until when, judged by the database's clock alone.
//!
//! By `clock_timestamp()`, read when a row is changed, and not by `now()`, which is when the statement began: one that
//! waits for a lock would end a lease sooner than a later one, which its holder believes in, has said.

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};

use crate::{DbTimestamp, Error, Store};

/// Lease statements are short; one that takes longer is of no use to its caller.
const LEASE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// A shard that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which.
    pub shard: Shard,
    /// One more than the holder's before.
    pub epoch: Epoch,
    /// All ticks up to here have been acknowledged by the stream of jobs.
    pub scheduled_through: Timestamp,
}

/// What is written with a renewal or a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardProgress {
    /// Which.
    pub shard: Shard,
    /// Under which epoch it is held.
    pub epoch: Epoch,
    /// All ticks up to here have been acknowledged by the stream of jobs.
    pub scheduled_through: Timestamp,
}

/// How things stood when a coordinator said that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// The database's clock.
    pub now: Timestamp,
    /// The newest time that coordinators have written down, as they knew it.
    pub newest_scheduled_through: Option<Timestamp>,
    /// Leases that are over, and those that last for longer than any that is given now can, since the database's clock was set
    /// back. None, usually.
    pub doubtful_leases: Vec<ObservedLease>,
    /// Coordinators that are alive and not about to leave.
    pub live_coordinators: usize,
    /// How many shards there are.
    pub shard_count: usize,
}

/// A lease as somebody holds it, or held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedLease {
    /// Which.
    pub shard: Shard,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Until when, by the database's clock as it was then. Another one after each renewal.
    pub expires_at: Timestamp,
}

/// Which leases are free to take. Those that were released always are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquireCriteria {
    /// How many to take at most.
    pub max_leases: usize,
    /// The time by the taker's own clock, up to which the shards had no scheduler; without it the database's.
    pub now: Option<Timestamp>,
    /// Leases are free that have expired by the database's clock and by this one, whichever is earlier; without it none is.
    pub expired_by: Option<Timestamp>,
    /// Those are free, too, of which the taker knows that nobody has renewed them for a lease time.
    pub unrenewed: Vec<ObservedLease>,
}

impl AcquireCriteria {
    /// Up to `most` that have expired by the database's clock alone.
    pub fn expired_only(max_leases: usize) -> Self {
        Self { max_leases, now: None, expired_by: Some(Timestamp::MAX), unrenewed: vec![] }
    }
}

/// One line of the listing.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LeaseRow {
    /// The shard.
    pub shard: i16,
    /// Who holds it, if anybody does.
    pub holder: Option<String>,
    /// How often it has been taken.
    pub epoch: i64,
    /// Seconds until it expires; absent when nobody holds it.
    pub expires_in_seconds: Option<f64>,
    /// How far behind now the published ticks are, in seconds.
    pub scheduled_behind_seconds: f64,
    /// Schedules in force in it.
    pub schedules: i64,
}

/// What a lease may last beyond the lease time before it is [`Roll::doubtful`]: readings are not exact.
const EXPIRY_TOLERANCE: Duration = Duration::from_secs(5);

type HeartbeatRow = (
    DbTimestamp,
    i64,
    i16,
    Option<DbTimestamp>,
    Option<Vec<i16>>,
    Option<Vec<i64>>,
    Option<Vec<DbTimestamp>>,
);

/// Says that coordinator `id` is there, and whether it is about to leave. Who has not said so for `alive`, which is the lease
/// time, is not counted.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn record_heartbeat(
    store: &Store,
    id: &str,
    draining: bool,
    alive: Duration,
) -> Result<ClusterView, Error> {
    let (now, live, shards, newest_mark, far_shards, far_epochs, far): HeartbeatRow = store
        .with_timeout(
            LEASE_STATEMENT_TIMEOUT,
            "announce this coordinator",
            sqlx::query_as(
                // A coordinator that was seen in the future was seen before the clock was set back.
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
                        far.shards, far.epochs, far.expire
                 FROM (SELECT array_agg(shard) AS shards, array_agg(epoch) AS epochs, array_agg(expires_at) AS expire
                       FROM picket.leases
                       WHERE expires_at > clock_timestamp() + $5 * interval '1 millisecond'
                          OR (expires_at < clock_timestamp() AND expires_at > '-infinity')) AS far",
            )
            .bind(id)
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(draining)
            .bind(to_millis(alive))
            .bind(to_millis(alive + EXPIRY_TOLERANCE))
            .fetch_one(&store.pool),
        )
        .await?;
    let far_shards = far_shards.unwrap_or_default().into_iter().zip(far_epochs.unwrap_or_default());
    let doubtful = far_shards.zip(far.unwrap_or_default()).map(|((shard, epoch), expires_at)| {
        ObservedLease { shard: to_shard(shard), epoch: Epoch(epoch), expires_at: expires_at.into() }
    });
    Ok(ClusterView {
        now: now.into(),
        newest_scheduled_through: newest_mark.map(Timestamp::from),
        doubtful_leases: doubtful.collect(),
        live_coordinators: usize::try_from(live).unwrap_or(0),
        shard_count: usize::try_from(shards).unwrap_or(0),
    })
}

/// Takes shards that nobody holds, and writes down since when they had no scheduler. Never waits for another.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn acquire_leases(
    store: &Store,
    id: &str,
    free: &AcquireCriteria,
    lease: Duration,
) -> Result<Vec<Lease>, Error> {
    let AcquireCriteria { max_leases: most, now, expired_by, unrenewed } = free;
    let rows: Vec<(i16, i64, DbTimestamp)> = store
        .with_timeout(
            LEASE_STATEMENT_TIMEOUT,
            "take leases",
            sqlx::query_as(
                "WITH taken AS (
                     UPDATE picket.leases AS lease
                     SET holder = $1, epoch = epoch + 1, expires_at = clock_timestamp() + $3 * interval '1 millisecond'
                     FROM (SELECT shard FROM picket.leases
                           WHERE expires_at = '-infinity'
                              OR ($4::timestamptz IS NOT NULL AND expires_at < least(clock_timestamp(), $4))
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
            .bind(i64::try_from(*most).unwrap_or(i64::MAX))
            .bind(to_millis(lease))
            .bind(expired_by.map(DbTimestamp))
            .bind(now.map(DbTimestamp))
            .bind(unrenewed.iter().map(|held| from_shard(held.shard)).collect::<Vec<_>>())
            .bind(unrenewed.iter().map(|held| held.epoch.0).collect::<Vec<_>>())
            .bind(unrenewed.iter().map(|held| DbTimestamp(held.expires_at)).collect::<Vec<_>>())
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

/// Renews all of `held` at once and writes down how far they are. A shard that is missing from the answer
/// is another's now, or has expired: its holder must stop. It has expired if it has by the database's clock and by `now`, the
/// holder's own: where they differ by much the database's has jumped, and as long as nobody has taken it, it is the holder's.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn renew_leases(
    store: &Store,
    id: &str,
    held: &[ShardProgress],
    now: Option<Timestamp>,
    lease: Duration,
) -> Result<Vec<Shard>, Error> {
    let (shards, epochs, through) = to_columns(held);
    let kept: Vec<i16> = store
        .with_timeout(
            LEASE_STATEMENT_TIMEOUT,
            "renew leases",
            sqlx::query_scalar(
                // In order, as everybody locks these rows, or two would wait for each other.
                "WITH mine AS (
                     SELECT lease.shard, held.through
                     FROM unnest($2::smallint[], $3::bigint[], $4::timestamptz[]) AS held (shard, epoch, through)
                     JOIN picket.leases AS lease ON lease.shard = held.shard AND lease.epoch = held.epoch
                     WHERE lease.holder = $1 AND lease.expires_at > least(clock_timestamp(), $6)
                     ORDER BY lease.shard FOR UPDATE OF lease
                 )
                 UPDATE picket.leases AS lease
                 SET expires_at = clock_timestamp() + $5 * interval '1 millisecond',
                     scheduled_through = greatest(lease.scheduled_through, mine.through)
                 FROM mine WHERE lease.shard = mine.shard
                 RETURNING lease.shard",
            )
            .bind(id)
            .bind(shards)
            .bind(epochs)
            .bind(through)
            .bind(to_millis(lease))
            .bind(now.map(DbTimestamp))
            .fetch_all(&store.pool),
        )
        .await?;
    Ok(kept.into_iter().map(to_shard).collect())
}

/// Gives `held` back, so that others can take them at once, and wakes those others.
///
/// # Errors
/// When the database cannot be reached in time; the leases then expire.
pub async fn release_leases(store: &Store, id: &str, held: &[ShardProgress]) -> Result<(), Error> {
    let (shards, epochs, through) = to_columns(held);
    store
        .with_timeout(
            LEASE_STATEMENT_TIMEOUT,
            "release leases",
            sqlx::query(
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

/// All shards, who holds them, and what is in them.
///
/// # Errors
/// When the database cannot be reached in time.
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

/// Shards are 0 to 1023 by the schema, so neither way loses anything.
pub(crate) fn from_shard(shard: Shard) -> i16 {
    i16::try_from(shard.0).unwrap_or(i16::MAX)
}

pub(crate) fn to_shard(shard: i16) -> Shard {
    Shard(shard.unsigned_abs())
}
