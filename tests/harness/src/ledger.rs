//! Ledger oracle: counts the ticks of a span and their rows tick by tick, from the history of
//! schedules alone and independently of `report.ledger`.
//!
//! Times are SQL expressions of the database's clock, such as `now() - interval '1 minute'`.

use picket_proto::Timestamp;
use sqlx::{AssertSqlSafe, PgPool};

/// Outcomes of the ticks in a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickCounts {
    /// Ticks due.
    pub ticks: i64,
    /// Ticks without a row.
    pub unaccounted: i64,
    /// Rows with outcome `up`.
    pub up: i64,
    /// Rows with outcome `down`.
    pub down: i64,
    /// Rows with outcome `missed`.
    pub missed: i64,
}

/// SQL expression of a fixed time.
pub fn sql_time(at: impl Into<Timestamp>) -> String {
    format!("'{}'::timestamptz", at.into())
}

/// FROM clause of all ticks in a span, each with its row.
fn ticks_with_rows(from: &str, to: &str) -> String {
    format!(
        "FROM picket.schedules AS schedule
         JOIN picket.regions AS region ON region.id = schedule.region_id
         CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, coalesce(valid_to, 'infinity'), {from}, {to}) AS tick
         LEFT JOIN picket.check_results AS result
           ON result.scheduled_at = tick AND result.site_id = schedule.site_id
          AND result.region_id = schedule.region_id AND kind = 'scheduled'"
    )
}

/// Counts the ticks of a past span and the ticks without a row.
///
/// # Errors
/// Fails if the database does not answer.
pub async fn count_ticks(database: &PgPool, from: &str, to: &str) -> Result<TickCounts, sqlx::Error> {
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE result.site_id IS NULL),
                count(*) FILTER (WHERE outcome = 'up'), count(*) FILTER (WHERE outcome = 'down'),
                count(*) FILTER (WHERE outcome = 'missed') {}",
        ticks_with_rows(from, to)
    );
    let (ticks, unaccounted, up, down, missed) =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_one(database).await?;
    Ok(TickCounts { ticks, unaccounted, up, down, missed })
}

/// Describes the ticks of a past span without a real result, `up` or `down`, for schedules that
/// match `condition` on `schedule` and `region`.
///
/// # Errors
/// Fails if the database does not answer.
pub async fn list_unchecked(
    database: &PgPool,
    from: &str,
    to: &str,
    condition: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let sql = format!(
        "SELECT schedule.site_id || ' in ' || region.name || ': ' || tick || coalesce(' ' || cause, ' no row') {}
         WHERE {condition} AND outcome IS DISTINCT FROM 'up' AND outcome IS DISTINCT FROM 'down'",
        ticks_with_rows(from, to)
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(database).await
}
