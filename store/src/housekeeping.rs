//! Rollups and retention. Each function does one bounded chunk of work in its own transaction, and
//! may be called by any number of coordinators at once; a call does nothing if another coordinator
//! is at work.
//!
//! Each takes `now`, the caller's clock, and fails with [`Error::ClockMismatch`] without any change
//! if the database's clock, used by the statement, differs from it.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp};
use sqlx::{Postgres, types::time::Date};
use tokio::time::Instant;

use crate::{DbTimestamp, Error, Store, leases::to_millis};

/// Deadline for the rollup of an hour with millions of rows, longer than that of other statements.
const HOUSEKEEPING_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum number of rows deleted at once.
const MAX_PRUNED_ROWS: i32 = 5_000;
/// Maximum number of future results deleted at once, not counting further results due at the same
/// time as the last of them. Bounded because the next chunk has to be deleted before its ticks are
/// due.
pub const MAX_FUTURE_ROWS: i32 = 50_000;

/// Adds the next `chunk` of results to the rollups, if its ledger is closed. A chunk does not
/// extend beyond its hour. Returns the new end of the rollups; `None` if there is nothing to do.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn roll_up_results(
    store: &Store,
    now: Timestamp,
    chunk: Duration,
) -> Result<Option<Timestamp>, Error> {
    let query =
        sqlx::query_scalar("SELECT picket.roll_up($1 * interval '1 millisecond')").bind(to_millis(chunk));
    let through: Option<DbTimestamp> = with_long_timeout(store, now, "roll up results", query).await?;
    Ok(through.map(Timestamp::from))
}

/// Rebuilds the rollups of one hour whose rows have changed. Returns the hour; `None` if there is
/// nothing to rebuild.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn rebuild_dirty_hour(store: &Store, now: Timestamp) -> Result<Option<Timestamp>, Error> {
    let query = sqlx::query_scalar("SELECT picket.rebuild_rollups()");
    let hour: Option<DbTimestamp> = with_long_timeout(store, now, "rebuild the rollups", query).await?;
    Ok(hour.map(Timestamp::from))
}

/// Sums up one day from its hours. Returns the day; `None` if there is nothing to do.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn roll_up_day(store: &Store, now: Timestamp) -> Result<Option<Date>, Error> {
    with_long_timeout(store, now, "roll up a day", sqlx::query_scalar("SELECT picket.roll_up_day()")).await
}

/// Recounts the rows of the full hour that began `ago` hours before the current hour, and schedules
/// a rebuild if the rollups differ. Returns true if they differ.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn recount_hour(store: &Store, now: Timestamp, ago: i32) -> Result<bool, Error> {
    let query =
        sqlx::query_scalar("SELECT picket.recount_rollups(picket.hour_of(now()) - $1 * interval '1 hour')")
            .bind(ago);
    with_long_timeout(store, now, "recount results", query).await
}

/// Follows states of sites that change without a transition, and computes marked summaries again, of
/// at most `max_sites` of each kind. Returns true if more may be due at once.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn refresh_site_summaries(store: &Store, now: Timestamp, max_sites: u32) -> Result<bool, Error> {
    /// Other housekeeping waits meanwhile.
    const REFRESH_TIMEOUT: Duration = Duration::from_secs(30);
    let query = sqlx::query_scalar("SELECT picket.refresh_site_summaries($1)")
        .bind(i32::try_from(max_sites).unwrap_or(i32::MAX));
    with_deadline(store, now, REFRESH_TIMEOUT, "refresh the summaries of sites", query).await
}

/// Counts the marks of sites whose summary is due to be computed again, up to 100,000.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_waiting_summaries(store: &Store) -> Result<i64, Error> {
    let query = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM picket.site_summaries_dirty WHERE due_at <= now() LIMIT 100000) AS waiting",
    );
    store.with_timeout(Duration::from_secs(10), "count waiting summaries", query.fetch_one(&store.pool)).await
}

/// Computes the summary of one site from its rollups and its present state, or marks all sites, of
/// which [`refresh_site_summaries`] computes some at a time.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn rebuild_site_summaries(
    store: &Store,
    now: Timestamp,
    site: Option<SiteId>,
) -> Result<(), Error> {
    let query =
        sqlx::query_scalar("SELECT picket.rebuild_site_summary($1) IS NULL").bind(site.map(|id| id.0));
    let _: bool = with_long_timeout(store, now, "rebuild the summary of sites", query).await?;
    Ok(())
}

/// Age of the oldest snapshot held by any session. No dead row is removed while it lives.
#[derive(Clone, Copy, Debug, PartialEq, sqlx::FromRow)]
pub struct OldestSnapshot {
    /// Seconds since the snapshot was taken; 0 if there is none.
    pub seconds: f64,
    /// Transactions since the snapshot was taken. The only known age for replicas and replication
    /// slots.
    pub transactions: i64,
}

/// Returns the oldest snapshot; `None` if the schema's owner may not see the sessions of other
/// users.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_oldest_snapshot(store: &Store) -> Result<Option<OldestSnapshot>, Error> {
    let query = sqlx::query_as(
        "SELECT seconds, transactions FROM picket.oldest_snapshot() WHERE seconds IS NOT NULL",
    );
    store
        .with_timeout(Duration::from_secs(10), "find the oldest snapshot", query.fetch_optional(&store.pool))
        .await
}

/// Retention times in days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Retention of results.
    pub result_days: u32,
    /// Retention of hourly rollups; never shorter than that of results.
    pub rollup_hours_days: u32,
    /// Retention of daily rollups; never shorter than that of results.
    pub rollup_days_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { result_days: 30, rollup_hours_days: 730, rollup_days_days: 730 }
    }
}

/// Summary of the deleted data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneSummary {
    /// Dropped day of results.
    pub dropped_day: Option<Date>,
    /// Dropped month of hourly rollups, by its first day.
    pub dropped_month: Option<Date>,
    /// Number of rows deleted from other tables.
    pub deleted_rows: u64,
    /// Reason for deleting nothing: clock, marks and results disagree.
    pub refusal_reason: Option<String>,
}

impl PruneSummary {
    /// Returns true if more may be due for deletion.
    pub fn has_pruned_any(&self) -> bool {
        self.dropped_day.is_some() || self.dropped_month.is_some() || self.deleted_rows > 0
    }
}

/// Returns true if this [`PruneSummary::refusal_reason`] means only that the clock has not been
/// observed for long enough.
pub fn is_too_early(refused: &str) -> bool {
    // Wording of `picket.refuses_deletion`.
    refused.starts_with("the clock has been steady since")
}

/// Drops the oldest expired day of results and the oldest expired month of rollups, and deletes
/// some expired rows of other tables.
///
/// # Errors
/// If the database cannot be reached in time, or the table is busy ([`Error::is_transient`]); safe
/// to retry.
pub async fn prune_expired(
    store: &Store,
    now: Timestamp,
    retention: Retention,
) -> Result<PruneSummary, Error> {
    let days = i32::try_from(retention.result_days).unwrap_or(i32::MAX);
    let [hours_days, days_days] = [retention.rollup_hours_days, retention.rollup_days_days]
        .map(|days| i32::try_from(days.max(retention.result_days)).unwrap_or(i32::MAX));
    // The time advances between the steps: a step may take minutes.
    let began = Instant::now();
    let now = || now.saturating_add(began.elapsed());
    // A separate transaction, because its observations of the clock must be committed.
    let query = sqlx::query_scalar("SELECT picket.refuses_deletion()");
    let refused: Option<String> =
        with_long_timeout(store, now(), "check whether rows may be deleted", query).await?;
    if refused.is_some() {
        return Ok(PruneSummary { refusal_reason: refused, ..PruneSummary::default() });
    }
    let query = sqlx::query_scalar("SELECT picket.prune($1, $2, $3)")
        .bind(days)
        .bind(days_days)
        .bind(MAX_PRUNED_ROWS);
    let rows: i64 = with_long_timeout(store, now(), "delete expired rows", query).await?;
    // As long as the rollups, so that reports and the ledger of notifications cover the same time.
    let query =
        sqlx::query_scalar("SELECT picket.prune_notifications($1, $2)").bind(days_days).bind(MAX_PRUNED_ROWS);
    let notifications: i64 = with_long_timeout(store, now(), "delete expired notifications", query).await?;
    let query = sqlx::query_scalar("SELECT picket.drop_results($1)").bind(days);
    let day = with_long_timeout(store, now(), "drop a day of results", query).await?;
    let query = sqlx::query_scalar("SELECT picket.drop_rollups($1)").bind(hours_days);
    let month = with_long_timeout(store, now(), "drop a month of rollups", query).await?;
    Ok(PruneSummary {
        dropped_day: day,
        dropped_month: month,
        deleted_rows: rows.unsigned_abs() + notifications.unsigned_abs(),
        refusal_reason: None,
    })
}

/// Resets marks in the future to the current time, after the database's clock was ahead. Returns
/// the kinds of repaired marks and their numbers. `thoroughly` reads all schedules.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn repair_future_marks(
    store: &Store,
    now: Timestamp,
    thoroughly: bool,
) -> Result<Vec<(String, i64)>, Error> {
    let query = sqlx::query_scalar("SELECT array_agg(mark || ' ' || repaired) FROM picket.repair_marks($1)");
    let repaired: Option<Vec<String>> =
        with_long_timeout(store, now, "repair future marks", query.bind(thoroughly)).await?;
    let read = |word: &String| {
        let (mark, number) = word.split_once(' ')?;
        Some((mark.to_owned(), number.parse().ok()?))
    };
    Ok(repaired.unwrap_or_default().iter().filter_map(read).collect())
}

/// Deletes results of ticks due more than a minute from now, about [`MAX_FUTURE_ROWS`] at most;
/// returns the number. Their checks were made by a clock that was ahead, and would block the
/// results of the real checks.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn delete_future_results(store: &Store, now: Timestamp) -> Result<u64, Error> {
    let query = sqlx::query_scalar("SELECT picket.delete_future_results($1)").bind(MAX_FUTURE_ROWS);
    let deleted: i64 = with_long_timeout(store, now, "delete results of future ticks", query).await?;
    Ok(deleted.unsigned_abs())
}

/// Runs a long statement, if the transaction's time is near `now`.
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
    with_deadline(store, now, HOUSEKEEPING_TIMEOUT, doing, query).await
}

/// Runs a statement that takes at most `limit`, if the transaction's time is near `now`.
async fn with_deadline<T>(
    store: &Store,
    now: Timestamp,
    limit: Duration,
    doing: &'static str,
    query: sqlx::query::QueryScalar<'static, Postgres, T, sqlx::postgres::PgArguments>,
) -> Result<T, Error>
where
    T: Send + Unpin,
    (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
{
    /// Reads the transaction's `now()`, used by all its statements.
    const BEGIN: &str = "SELECT now() FROM set_config('statement_timeout', $1, true)";
    let run = async {
        let mut transaction = store.pool.begin().await?;
        // Compared inside the transaction, because the statement uses its `now()`.
        let database = sqlx::query_scalar::<_, DbTimestamp>(BEGIN)
            .bind(format!("{}ms", limit.as_millis()))
            .fetch_one(&mut *transaction)
            .await?;
        if let Err(error) = Error::reject_clock_mismatch(doing, database.into(), now) {
            return Ok(Err(error));
        }
        let done = query.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Ok(done))
    };
    store.with_timeout(limit, doing, run).await?
}
