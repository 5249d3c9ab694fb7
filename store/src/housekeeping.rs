//! Rollups and retention. Each function does one bounded piece, in a transaction of its own, and may be called by any number of
//! coordinators at once: who finds another at it does nothing.
//!
//! Each takes the time by the caller's own clock, `now`, and does nothing but fail with [`Error::Clock`] when the database's
//! clock, by which the statement goes, is not near it.

use std::time::Duration;

use picket_proto::Timestamp;
use sqlx::{Postgres, types::time::Date};
use tokio::time::Instant;

use crate::{DbTimestamp, Error, Store, leases::to_millis};

/// An hour of millions of rows takes longer than a statement usually may.
const HOUSEKEEPING_TIMEOUT: Duration = Duration::from_secs(300);
/// No more rows than these are deleted at once.
const MAX_PRUNED_ROWS: i32 = 5_000;
/// No more results in the future than these are deleted at once, and those that are due with the last of them. The next piece has
/// to be deleted before its ticks are due.
pub const MAX_FUTURE_ROWS: i32 = 50_000;

/// Adds the next `piece` of results to the rollups, if the ledger of all of it is closed; a piece does not reach beyond its
/// hour. Returns up to where the rollups are now; `None` when there was nothing to do.
///
/// # Errors
/// When the database cannot be reached in time; trying again is safe.
pub async fn roll_up_results(
    store: &Store,
    now: Timestamp,
    piece: Duration,
) -> Result<Option<Timestamp>, Error> {
    let query =
        sqlx::query_scalar("SELECT picket.roll_up($1 * interval '1 millisecond')").bind(to_millis(piece));
    let through: Option<DbTimestamp> = with_long_timeout(store, now, "roll results up", query).await?;
    Ok(through.map(Timestamp::from))
}

/// Does one hour of the rollups anew whose rows have changed; returns it, or `None` when there is none.
///
/// # Errors
/// When the database cannot be reached in time; trying again is safe.
pub async fn rebuild_dirty_hour(store: &Store, now: Timestamp) -> Result<Option<Timestamp>, Error> {
    let query = sqlx::query_scalar("SELECT picket.mend_rollups()");
    let hour: Option<DbTimestamp> = with_long_timeout(store, now, "mend the rollups", query).await?;
    Ok(hour.map(Timestamp::from))
}

/// Sums up one day from its hours; returns it, or `None` when there is none to do.
///
/// # Errors
/// When the database cannot be reached in time; trying again is safe.
pub async fn roll_up_day(store: &Store, now: Timestamp) -> Result<Option<Date>, Error> {
    with_long_timeout(store, now, "roll a day up", sqlx::query_scalar("SELECT picket.roll_up_day()")).await
}

/// Counts the rows of the hour that began at the full hour `ago` hours before this one, and has it done anew if the rollups say
/// something else; returns whether they did.
///
/// # Errors
/// When the database cannot be reached in time; trying again is safe.
pub async fn recount_hour(store: &Store, now: Timestamp, ago: i32) -> Result<bool, Error> {
    let query =
        sqlx::query_scalar("SELECT picket.recount_rollups(picket.hour_of(now()) - $1 * interval '1 hour')")
            .bind(ago);
    with_long_timeout(store, now, "count results again", query).await
}

/// The age of the oldest snapshot that somebody holds. No dead row is removed as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, sqlx::FromRow)]
pub struct OldestSnapshot {
    /// Since it was taken; 0 for none.
    pub seconds: f64,
    /// Transactions since it was taken. Those of replicas and replication slots have this age only.
    pub transactions: i64,
}

/// The oldest snapshot; `None` where the schema's owner may not see the sessions of others.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn find_oldest_snapshot(store: &Store) -> Result<Option<OldestSnapshot>, Error> {
    let query = sqlx::query_as(
        "SELECT seconds, transactions FROM picket.oldest_snapshot() WHERE seconds IS NOT NULL",
    );
    store
        .with_timeout(Duration::from_secs(10), "look for old snapshots", query.fetch_optional(&store.pool))
        .await
}

/// How long things are kept, in days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Results.
    pub result_days: u32,
    /// Rollups; never shorter than results.
    pub rollup_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { result_days: 30, rollup_days: 730 }
    }
}

/// What was thrown away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneSummary {
    /// A day of results.
    pub dropped_day: Option<Date>,
    /// A month of hourly rollups, by its first day.
    pub dropped_month: Option<Date>,
    /// Rows of other tables.
    pub deleted_rows: u64,
    /// Why nothing was, if clock, marks and results disagree.
    pub refusal_reason: Option<String>,
}

impl PruneSummary {
    /// Whether there may be more.
    pub fn has_pruned_any(&self) -> bool {
        self.dropped_day.is_some() || self.dropped_month.is_some() || self.deleted_rows > 0
    }
}

/// Whether this reason of [`Dropped::refused`] is only that the clock has not been observed for long enough yet.
pub fn is_too_early(refused: &str) -> bool {
    // As `picket.refuses_deletion` says it.
    refused.starts_with("the clock has been steady since")
}

/// Drops the oldest day of results and the oldest month of rollups, if their time is over, and deletes some of the other rows
/// whose time is.
///
/// # Errors
/// When the database cannot be reached in time, or the table is busy ([`Error::is_transient`]); trying again is safe.
pub async fn prune_expired(
    store: &Store,
    now: Timestamp,
    retention: Retention,
) -> Result<PruneSummary, Error> {
    let days = i32::try_from(retention.result_days).unwrap_or(i32::MAX);
    let rollup_days = i32::try_from(retention.rollup_days.max(retention.result_days)).unwrap_or(i32::MAX);
    // Each takes the time anew: the one before may have taken minutes.
    let began = Instant::now();
    let now = || now.saturating_add(began.elapsed());
    // In a transaction of its own: what it finds out about the clock is to be remembered.
    let query = sqlx::query_scalar("SELECT picket.refuses_deletion()");
    let refused: Option<String> =
        with_long_timeout(store, now(), "ask whether anything may be deleted", query).await?;
    if refused.is_some() {
        return Ok(PruneSummary { refusal_reason: refused, ..PruneSummary::default() });
    }
    let query = sqlx::query_scalar("SELECT picket.prune($1, $2, $3)")
        .bind(days)
        .bind(rollup_days)
        .bind(MAX_PRUNED_ROWS);
    let rows: i64 = with_long_timeout(store, now(), "delete what is too old", query).await?;
    let query = sqlx::query_scalar("SELECT picket.drop_results($1)").bind(days);
    let day = with_long_timeout(store, now(), "drop a day of results", query).await?;
    let query = sqlx::query_scalar("SELECT picket.drop_rollups($1)").bind(rollup_days);
    let month = with_long_timeout(store, now(), "drop a month of rollups", query).await?;
    Ok(PruneSummary {
        dropped_day: day,
        dropped_month: month,
        deleted_rows: rows.unsigned_abs(),
        refusal_reason: None,
    })
}

/// Takes marks that lie in the future back to now: the database's clock was ahead once. Says what was repaired, and how many of
/// each. `thoroughly` reads all schedules.
///
/// # Errors
/// When the database cannot be reached in time; trying again is safe.
pub async fn repair_future_marks(
    store: &Store,
    now: Timestamp,
    thoroughly: bool,
) -> Result<Vec<(String, i64)>, Error> {
    let query = sqlx::query_scalar("SELECT array_agg(mark || ' ' || repaired) FROM picket.repair_marks($1)");
    let repaired: Option<Vec<String>> =
        with_long_timeout(store, now, "repair marks in the future", query.bind(thoroughly)).await?;
    let read = |word: &String| {
        let (mark, number) = word.split_once(' ')?;
        Some((mark.to_owned(), number.parse().ok()?))
    };
    Ok(repaired.unwrap_or_default().iter().filter_map(read).collect())
}

/// Deletes results of ticks that are due more than a minute from now, at most about [`FUTURE_AT_ONCE`]; returns how many. Their
/// checks were made by a clock that was ahead, and no others would take their place.
///
/// # Errors
/// When the database cannot be reached in time; trying again is safe.
pub async fn delete_future_results(store: &Store, now: Timestamp) -> Result<u64, Error> {
    let query = sqlx::query_scalar("SELECT picket.delete_future_results($1)").bind(MAX_FUTURE_ROWS);
    let deleted: i64 =
        with_long_timeout(store, now, "delete results of ticks that are still to come", query).await?;
    Ok(deleted.unsigned_abs())
}

/// Runs a statement that may take longer than others, if the time that it goes by is `now`.
async fn with_long_timeout<T>(
    store: &Store,
    now: Timestamp,
    doing: &'static str,
    query: sqlx::query::QueryScalar<'static, Postgres, T, sqlx::postgres::PgArguments>,
) -> Result<T, Error>
where
    T: Send + Unpin,
    (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
{
    /// `now()` of a transaction, which all that is done in it goes by.
    const BEGIN: &str = "SELECT now() FROM set_config('statement_timeout', '5min', true)";
    let run = async {
        let mut transaction = store.pool.begin().await?;
        let database = sqlx::query_scalar::<_, DbTimestamp>(BEGIN).fetch_one(&mut *transaction).await?;
        if let Err(error) = Error::reject_clock_mismatch(doing, database.into(), now) {
            return Ok(Err(error));
        }
        let done = query.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Ok(done))
    };
    store.with_timeout(HOUSEKEEPING_TIMEOUT, doing, run).await?
}
