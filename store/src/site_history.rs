//! The history of one site: checks, response times, sums of a span, changes of its schedules.
//!
//! Callers check first, with [`require_site`], that there is such a site within a token's limit.

mod checks;
mod columns;
mod latency;

use picket_proto::{SiteId, Timestamp, ValidationError};
use serde::Serialize;

pub use self::{
    checks::{CheckRow, ChecksFilter, find_check, list_checks, list_checks_page},
    columns::{HistoryColumn, list_history},
    latency::{HeatColumn, LatencyBucket, list_latency, load_heat_map},
};
use crate::{DbTimestamp, Error, Store};

/// A span of time, from inclusive to exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first moment.
    from: Timestamp,
    /// The first moment after it.
    to: Timestamp,
}

impl Span {
    /// Longest allowed span, in days.
    pub const MAX_DAYS: u64 = 400;

    /// A span of at most 400 days.
    ///
    /// # Errors
    /// If it is empty or longer.
    pub fn new(from: Timestamp, to: Timestamp) -> Result<Self, ValidationError> {
        let seconds = to.saturating_duration_since(from).as_secs();
        if from < to && seconds <= Self::MAX_DAYS * 86_400 {
            return Ok(Self { from, to });
        }
        Err(ValidationError::new("to", to, format!("after 'from', by at most {} days", Self::MAX_DAYS)))
    }

    fn seconds(self) -> u64 {
        self.to.saturating_duration_since(self.from).as_secs()
    }

    fn bounds(self) -> (DbTimestamp, DbTimestamp) {
        (self.from.into(), self.to.into())
    }
}

/// Checks that there is such a site, or was one, and that it has one of the tags of a token's limit.
///
/// # Errors
/// If there is none, or the database cannot be reached in time.
pub async fn require_site(store: &Store, site: SiteId, tag_limit: Option<&[String]>) -> Result<(), Error> {
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM picket.known_sites WHERE id = $1 AND ($2::text[] IS NULL OR tags && $2))",
        )
        .bind(site.0)
        .bind(tag_limit)
        .fetch_one(&mut *transaction)
        .await
    };
    match store.read_for_page("look up the site", read).await? {
        true => Ok(()),
        false => Err(Error::SiteNotFound(site)),
    }
}

/// Account of the ticks of a site in a region, of the hours that a span touches.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct TickSums {
    /// Name of the region.
    pub region: String,
    /// Number of ticks due: those below.
    pub checks: i64,
    /// Number of `up` checks.
    pub up: i64,
    /// Number of `down` checks.
    pub down: i64,
    /// Number of `missed` checks.
    pub missed: i64,
    /// Number of ticks without a row in recorded gaps.
    pub gap: i64,
    /// Percentage: up of (up + down).
    pub uptime_pct: Option<f64>,
    /// Percentage as above, excluding maintenance windows.
    pub uptime_pct_excl_maintenance: Option<f64>,
    /// Percentage: (up + down) of checks.
    pub coverage_pct: Option<f64>,
}

/// Longest span added up from hours; longer ones are from whole days of UTC.
const MAX_HOURLY_SECONDS: u64 = 62 * 86_400;

/// Sums the ticks of a site by region, over the hours that the span touches, or the days if it is
/// longer than 62 days.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn sum_ticks(store: &Store, site: SiteId, span: Span) -> Result<Vec<TickSums>, Error> {
    let source = match span.seconds() <= MAX_HOURLY_SECONDS {
        true => "picket.hourly WHERE site_id = $1 AND hour >= picket.hour_of($2) AND hour < $3",
        false => {
            "picket.daily WHERE site_id = $1 AND day >= picket.day_of($2)
             AND day <= picket.day_of($3 - interval '1 microsecond')"
        }
    };
    let sql = format!(
        "SELECT region.name AS region, up + down + missed + gap AS checks, up, down, missed, gap,
                picket.percent(up, up + down) AS uptime_pct,
                picket.percent(up - up_off, up + down - up_off - down_off) AS uptime_pct_excl_maintenance,
                picket.percent(up + down, up + down + missed + gap) AS coverage_pct
         FROM (SELECT region_id, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed,
                      sum(gap)::bigint AS gap, sum(up_in_maintenance)::bigint AS up_off,
                      sum(down_in_maintenance)::bigint AS down_off
               FROM {source} GROUP BY region_id) AS summed
         JOIN picket.regions AS region ON region.id = summed.region_id ORDER BY region.name"
    );
    let (from, to) = span.bounds();
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(site.0).bind(from).bind(to);
        query.fetch_all(&mut *transaction).await
    };
    store.read_for_page("sum the ticks of the site", read).await
}

/// Begin or end of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct ScheduleChange {
    /// Time of the change.
    pub at: DbTimestamp,
    /// Name of the region.
    pub region: String,
    /// True for the begin.
    pub is_begin: bool,
    /// Interval of the schedule.
    pub interval_ms: i32,
}

/// Lists the changes of a site's schedules within a span, the newest first, up to 1,000.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_schedule_changes(
    store: &Store,
    site: SiteId,
    span: Span,
) -> Result<Vec<ScheduleChange>, Error> {
    let (from, to) = span.bounds();
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(
            "SELECT change.at, region.name AS region, change.is_begin, schedule.interval_ms
             FROM picket.schedules AS schedule
             JOIN picket.regions AS region ON region.id = schedule.region_id
             CROSS JOIN LATERAL (VALUES (schedule.valid_from, true), (schedule.valid_to, false)) AS change (at, is_begin)
             WHERE schedule.site_id = $1 AND change.at >= $2 AND change.at < $3
             ORDER BY change.at DESC, region.name, change.is_begin DESC LIMIT 1000",
        )
        .bind(site.0)
        .bind(from)
        .bind(to)
        .fetch_all(&mut *transaction)
        .await
    };
    store.read_for_page("list changes of schedules", read).await
}
