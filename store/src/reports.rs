//! Reports over spans of days for `picket report`, read from the rollups and, for newer times, from
//! result rows.

use std::time::Duration;

use picket_proto::{RegionName, Timestamp};
use serde::Serialize;
use sqlx::{
    AssertSqlSafe, FromRow,
    postgres::{PgArguments, PgRow},
    query::QueryAs,
};

use crate::{DbTimestamp, Error, Store, leases::to_millis};

/// Deadline of a report query; reports may read many rows.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Filter of a report.
#[derive(Clone, Debug, Default)]
pub struct ReportFilter {
    /// Age of the start; the report begins with the UTC day that contains it.
    pub since: Duration,
    /// Only sites with this tag.
    pub tag: Option<String>,
    /// Only results of this region.
    pub region: Option<RegionName>,
    /// Only sites with at least one of these tags.
    pub tag_limit: Option<Vec<String>>,
    /// Only the first rows, in the order of the report.
    pub limit: Option<u32>,
}

/// Values by day, the last for today; absent for days without data.
pub type DailyValues = Vec<Option<f64>>;

/// Uptime of a site.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct UptimeRow {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// Number of checks due.
    pub checks: i64,
    /// Number of `up` checks.
    pub up: i64,
    /// Number of `down` checks.
    pub down: i64,
    /// Number of `missed` checks.
    pub missed: i64,
    /// Percentage: up of (up + down).
    pub uptime_pct: Option<f64>,
    /// Percentage as above, excluding maintenance windows.
    pub uptime_pct_excl_maintenance: Option<f64>,
    /// Percentage: (up + down) of checks.
    pub coverage_pct: Option<f64>,
    /// `uptime_pct` by day.
    pub days: DailyValues,
}

/// Response times of a site.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct LatencyRow {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// Number of `up` checks.
    pub checks: i64,
    /// Median duration.
    pub p50_ms: Option<f64>,
    /// 95th percentile of the duration.
    pub p95_ms: Option<f64>,
    /// 99th percentile of the duration.
    pub p99_ms: Option<f64>,
    /// `p95_ms` of the slowest region, by day.
    pub days: DailyValues,
}

/// An incident of a site.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct IncidentRow {
    /// Id of the incident.
    pub incident_id: i64,
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// Time of opening.
    pub opened_at: DbTimestamp,
    /// Time of closing; absent while open.
    pub closed_at: Option<DbTimestamp>,
    /// Duration in seconds, up to now for an open incident.
    pub seconds: i64,
    /// Cause of the incident.
    pub cause: Option<String>,
    /// The cause in words.
    pub message: Option<String>,
}

/// A warning of a site.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct WarningRow {
    /// Id of the warning.
    pub warning_id: i64,
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// Kind of the warning.
    pub kind: String,
    /// Time of opening.
    pub opened_at: DbTimestamp,
    /// Time of closing; absent while open.
    pub closed_at: Option<DbTimestamp>,
    /// Duration in seconds, up to now for an open warning.
    pub seconds: i64,
    /// Days until the certificate or the registration ends.
    pub days_left: Option<i32>,
    /// End of the certificate or of the registration.
    pub expires_at: Option<DbTimestamp>,
    /// The warning in words.
    pub message: Option<String>,
}

/// Number of checks without success, by region and cause.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct FailureRow {
    /// Name of the region.
    pub region: String,
    /// Cause of the failures.
    pub cause: String,
    /// Number of checks.
    pub checks: i64,
    /// Number of affected sites.
    pub sites: i64,
    /// `checks` by day.
    pub days: DailyValues,
}

impl UptimeRow {
    /// Names of the columns in CSV. The values by day are only in JSON.
    pub const COLUMNS: &'static [&'static str] = &[
        "site_id",
        "site",
        "uptime_pct",
        "uptime_pct_excl_maintenance",
        "coverage_pct",
        "checks",
        "up",
        "down",
        "missed",
    ];
}

impl LatencyRow {
    /// Names of the columns in CSV. The values by day are only in JSON.
    pub const COLUMNS: &'static [&'static str] = &["site_id", "site", "p50_ms", "p95_ms", "p99_ms", "checks"];
}

impl IncidentRow {
    /// Names of the columns in CSV.
    pub const COLUMNS: &'static [&'static str] =
        &["incident_id", "site_id", "site", "opened_at", "closed_at", "seconds", "cause", "message"];
}

impl FailureRow {
    /// Names of the columns in CSV. The values by day are only in JSON.
    pub const COLUMNS: &'static [&'static str] = &["region", "cause", "checks", "sites"];
}

impl ReportFilter {
    /// Start of the report: of the UTC day that contains the age.
    pub fn find_start(&self, now: Timestamp) -> Timestamp {
        const DAY_US: i64 = 86_400_000_000;
        let start = now.saturating_sub(self.since).as_micros();
        Timestamp::from_micros(start - start.rem_euclid(DAY_US))
    }

    /// Conditions on `relation`; $1 is the span, $2 the tag, $3 the region and $4 the
    /// limit of tags. Unused conditions
    /// are omitted, so that they do not hide an index from the query planner.
    fn sql_conditions(&self, relation: &str) -> String {
        let mut sql = String::new();
        if self.tag.is_some() {
            sql += &format!(
                " AND {relation}.site_id = ANY (ARRAY(SELECT id FROM picket.known_sites WHERE $2 = ANY (tags)))"
            );
        }
        if self.tag_limit.is_some() {
            sql += &format!(
                " AND {relation}.site_id = ANY (ARRAY(SELECT id FROM picket.known_sites WHERE $4 && tags))"
            );
        }
        if self.region.is_some() {
            sql += &format!(" AND {relation}.region_id = (SELECT id FROM picket.regions WHERE name = $3)");
        }
        sql
    }

    /// Conditions as above for `relation` with a column `regions`: a filter by region selects rows in
    /// which the region took part.
    fn sql_conditions_by_regions(&self, relation: &str) -> String {
        let mut sql = Self { region: None, ..self.clone() }.sql_conditions(relation);
        if self.region.is_some() {
            sql += &format!(" AND $3 = ANY ({relation}.regions)");
        }
        sql
    }

    async fn fetch_report<T>(&self, store: &Store, doing: &'static str, sql: String) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        // Null is no limit.
        let sql = format!("{sql} LIMIT $5");
        let query: QueryAs<'_, _, T, PgArguments> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(to_millis(self.since))
            .bind(&self.tag)
            .bind(self.region.as_ref().map(RegionName::as_str))
            .bind(&self.tag_limit)
            .bind(self.limit.map(i64::from));
        store.with_timeout(REPORT_TIMEOUT, doing, query.fetch_all(&store.pool)).await
    }
}

/// The first day, and all days to join with sparse values. (Mentions $2 to $4, because a parameter
/// without any mention has no type.)
const SPAN_CTE_SQL: &str = "span AS MATERIALIZED (
     SELECT picket.day_of(now() - $1::bigint * interval '1 millisecond') AS first, $2::text AS tag, $3::text AS region, $4::text[] AS tag_limit
 ),
 all_days AS (
     SELECT day::date AS day FROM span, generate_series(span.first::timestamp, now() AT TIME ZONE 'UTC', interval '1 day') AS day
 )";

/// Reports the uptime of each site, the worst first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn report_uptime(store: &Store, scope: &ReportFilter) -> Result<Vec<UptimeRow>, Error> {
    let sql = format!(
        "WITH {SPAN_CTE_SQL},
         by_day AS MATERIALIZED (
             SELECT site_id, day, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed,
                    sum(gap)::bigint AS gap, sum(up_in_maintenance)::bigint AS up_off,
                    sum(down_in_maintenance)::bigint AS down_off
             FROM picket.daily WHERE day >= (SELECT first FROM span){}
             GROUP BY site_id, day
         )
         SELECT summed.site_id, coalesce(site.site, 'site ' || summed.site_id) AS site,
                up + down + missed + gap AS checks, up, down, missed, picket.percent(up, up + down) AS uptime_pct,
                picket.percent(up - up_off, up - up_off + down - down_off) AS uptime_pct_excl_maintenance,
                picket.percent(up + down, up + down + missed + gap) AS coverage_pct,
                ARRAY(SELECT picket.percent(by_day.up, by_day.up + by_day.down)
                      FROM all_days
                      LEFT JOIN unnest(summed.days, summed.ups, summed.downs) AS by_day (day, up, down) USING (day)
                      ORDER BY all_days.day) AS days
         FROM (
             SELECT site_id, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed,
                    sum(gap)::bigint AS gap, sum(up_off)::bigint AS up_off, sum(down_off)::bigint AS down_off,
                    array_agg(day) AS days, array_agg(up) AS ups, array_agg(down) AS downs
             FROM by_day GROUP BY site_id
         ) AS summed
         LEFT JOIN picket.known_sites AS site ON site.id = summed.site_id
         ORDER BY uptime_pct NULLS LAST, down DESC, site_id",
        scope.sql_conditions("daily")
    );
    scope.fetch_report(store, "report uptime", sql).await
}

/// Reports the response times of each site, the slowest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn report_latency(store: &Store, scope: &ReportFilter) -> Result<Vec<LatencyRow>, Error> {
    let sql = format!(
        "WITH {SPAN_CTE_SQL},
         by_day AS MATERIALIZED (
             SELECT site_id, day, sum(up)::bigint AS up, sum(histogram) AS histogram, max(p95) AS p95
             FROM picket.daily WHERE day >= (SELECT first FROM span){}
             GROUP BY site_id, day
         )
         SELECT summed.site_id, coalesce(site.site, 'site ' || summed.site_id) AS site, up AS checks,
                picket.bucket_ms(p[3]) AS p50_ms, picket.bucket_ms(p[2]) AS p95_ms, picket.bucket_ms(p[1]) AS p99_ms,
                ARRAY(SELECT picket.bucket_ms(by_day.p95)
                      FROM all_days LEFT JOIN unnest(summed.days, summed.p95s) AS by_day (day, p95) USING (day)
                      ORDER BY all_days.day) AS days
         FROM (
             SELECT site_id, sum(up)::bigint AS up, array_agg(day) AS days, array_agg(p95) AS p95s,
                    picket.percentile_buckets(sum(histogram), sum(up)::bigint, '{{0.99,0.95,0.5}}') AS p
             FROM by_day GROUP BY site_id
         ) AS summed
         LEFT JOIN picket.known_sites AS site ON site.id = summed.site_id
         WHERE up > 0
         ORDER BY p[2] DESC NULLS LAST, p[1] DESC, site_id",
        scope.sql_conditions("daily")
    );
    scope.fetch_report(store, "report latency", sql).await
}

/// Reports the incidents open within the span, the newest first. A filter by region selects
/// incidents in which the region took part.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn report_incidents(store: &Store, scope: &ReportFilter) -> Result<Vec<IncidentRow>, Error> {
    let conditions = scope.sql_conditions_by_regions("incident");
    let sql = format!(
        "WITH {SPAN_CTE_SQL}
         SELECT incident.incident_id, incident.site_id, coalesce(incident.site, 'site ' || incident.site_id) AS site,
                incident.opened_at, incident.closed_at, -- A manually closed incident may last forever.
                least(extract(epoch FROM incident.duration), 1e12)::bigint AS seconds,
                incident.cause::text AS cause, incident.message
         FROM report.incidents AS incident
         WHERE coalesce(incident.closed_at, now()) >= (SELECT picket.start_of_day(first) FROM span){conditions}
         ORDER BY incident.opened_at DESC, incident.incident_id DESC"
    );
    scope.fetch_report(store, "report incidents", sql).await
}

/// Reports the warnings open within the span: the open ones first, then the newest. A filter by
/// region selects warnings in which the region took part.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn report_warnings(store: &Store, scope: &ReportFilter) -> Result<Vec<WarningRow>, Error> {
    let sql = format!(
        "WITH {SPAN_CTE_SQL}
         SELECT warning.warning_id, warning.site_id, coalesce(warning.site, 'site ' || warning.site_id) AS site,
                warning.kind::text AS kind, warning.opened_at, warning.closed_at,
                least(extract(epoch FROM warning.duration), 1e12)::bigint AS seconds,
                warning.days_left, warning.expires_at, warning.message
         FROM report.warnings AS warning
         WHERE coalesce(warning.closed_at, now()) >= (SELECT picket.start_of_day(first) FROM span){}
         ORDER BY warning.closed_at IS NOT NULL, warning.opened_at DESC, warning.warning_id DESC",
        scope.sql_conditions_by_regions("warning")
    );
    scope.fetch_report(store, "report warnings", sql).await
}

/// Reports unsuccessful checks by region and cause, the most frequent first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn report_failures(store: &Store, scope: &ReportFilter) -> Result<Vec<FailureRow>, Error> {
    let sql = format!(
        "WITH {SPAN_CTE_SQL},
         by_site AS MATERIALIZED (
             SELECT region_id, cause, picket.day_of(hour) AS day, site_id, sum(checks)::bigint AS checks
             FROM picket.hourly_failures WHERE hour >= (SELECT picket.start_of_day(first) FROM span){}
             GROUP BY region_id, cause, picket.day_of(hour), site_id
         ),
         by_day AS MATERIALIZED (
             SELECT region_id, cause, day, sum(checks) AS checks FROM by_site GROUP BY region_id, cause, day
         )
         SELECT region.name AS region, summed.cause::text AS cause, summed.checks, summed.sites,
                ARRAY(SELECT (SELECT sum(checks) FROM by_day
                              WHERE by_day.day = all_days.day AND by_day.region_id = summed.region_id
                                AND by_day.cause = summed.cause)::float8
                      FROM all_days ORDER BY all_days.day) AS days
         FROM (SELECT region_id, cause, sum(checks)::bigint AS checks, count(DISTINCT site_id) AS sites
               FROM by_site GROUP BY region_id, cause) AS summed
         JOIN picket.regions AS region ON region.id = summed.region_id
         ORDER BY summed.checks DESC, region.name, cause",
        scope.sql_conditions("hourly_failures")
    );
    scope.fetch_report(store, "report failures", sql).await
}
