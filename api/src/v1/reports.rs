//! Reports over days, as JSON or CSV.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use picket_proto::{RegionName, ValidationError, duration::DurationArg, safe_text::escape_formula};
use picket_store::{
    DbTimestamp,
    reports::{self, FailureRow, IncidentRow, LatencyRow, ReportFilter, UptimeRow},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{api_row::api_row, span::MAX_SPAN};
use crate::{
    access::{Access, Reader},
    extract::{ApiQuery, PageLimit},
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(report_uptime))
        .routes(routes!(report_latency))
        .routes(routes!(report_incidents))
        .routes(routes!(report_failures))
}

api_row! {
    /// Uptime of a site.
    Uptime from UptimeRow {
        /// Id of the site.
        site_id: i64,
        /// Name of the site, or its URL.
        site: String,
        /// Number of ticks due.
        checks: i64,
        /// Number of `up` checks.
        up: i64,
        /// Number of `down` checks.
        down: i64,
        /// Number of `missed` ticks.
        missed: i64,
        /// Percentage: up of (up + down).
        uptime_pct: Option<f64>,
        /// Percentage as above, without maintenance windows.
        uptime_pct_excl_maintenance: Option<f64>,
        /// Percentage: (up + down) of checks.
        coverage_pct: Option<f64>,
        /// `uptime_pct` by day, the last for today. Not in CSV.
        days: Vec<Option<f64>>,
    }
}

api_row! {
    /// Response times of a site.
    Latency from LatencyRow {
        /// Id of the site.
        site_id: i64,
        /// Name of the site, or its URL.
        site: String,
        /// Number of `up` checks.
        checks: i64,
        /// Median duration.
        p50_ms: Option<f64>,
        /// 95th percentile of the duration.
        p95_ms: Option<f64>,
        /// 99th percentile of the duration.
        p99_ms: Option<f64>,
        /// `p95_ms` of the slowest region by day, the last for today. Not in CSV.
        days: Vec<Option<f64>>,
    }
}

api_row! {
    /// An incident within the span.
    ReportedIncident from IncidentRow {
        /// Id of the incident.
        incident_id: i64,
        /// Id of the site.
        site_id: i64,
        /// Name of the site, or its URL.
        site: String,
        /// Time of opening.
        #[schema(value_type = String, format = DateTime)]
        opened_at: DbTimestamp,
        /// Time of closing; null while open.
        #[schema(value_type = Option<String>, format = DateTime)]
        closed_at: Option<DbTimestamp>,
        /// Duration in seconds, up to now for an open incident.
        seconds: i64,
        /// Cause of the incident.
        cause: Option<String>,
        /// The cause in words.
        message: Option<String>,
    }
}

api_row! {
    /// Checks that were not up, by region and cause.
    Failures from FailureRow {
        /// Name of the region.
        region: String,
        /// Cause of the failures.
        cause: String,
        /// Number of checks.
        checks: i64,
        /// Number of sites.
        sites: i64,
        /// `checks` by day, the last for today. Not in CSV.
        days: Vec<Option<f64>>,
    }
}

/// Rows of a report.
#[derive(Serialize, ToSchema)]
struct Report<T> {
    /// Rows in the order of the report.
    items: Vec<T>,
}

/// Format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReportFormat {
    Json,
    Csv,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReportQuery {
    /// Age of the first day (UTC), such as 7d; at most 400d.
    #[param(default = "30d", example = "7d")]
    since: Option<String>,
    /// Only sites with this tag.
    tag: Option<String>,
    /// Only checks from this region.
    #[param(value_type = Option<String>)]
    region: Option<RegionName>,
    /// Maximum number of rows, the first ones in the order of the report: 1 to 1000. Without it, all rows; a report
    /// of more than 10,000, or with more than 1,000,000 values by day, is refused.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<PageLimit>,
    /// `json` or `csv`; by default `csv` if the header `Accept` prefers `text/csv`, else `json`.
    format: Option<ReportFormat>,
}

impl ReportQuery {
    fn parse(self, access: &Access, headers: &HeaderMap) -> Result<(ReportFilter, ReportFormat), Problem> {
        const DEFAULT_SINCE: Duration = Duration::from_secs(30 * 86_400);
        let since = match &self.since {
            None => DEFAULT_SINCE,
            Some(text) => match text.parse::<DurationArg>() {
                Ok(DurationArg(since)) if since <= MAX_SPAN => since,
                _ => {
                    let error =
                        ValidationError::new("since", text, "a duration up to 400d, such as 7d or 12h");
                    return Err(Problem::invalid_field("?since", &error));
                }
            },
        };
        let tag_limit = access.tag_limit().map(<[String]>::to_vec);
        // One row more shows that there are too many.
        let limit = Some(self.limit.map_or(MAX_REPORT_ROWS + 1, |limit| limit.0.into()));
        let filter = ReportFilter { since, tag: self.tag, region: self.region, tag_limit, limit };
        Ok((filter, self.format.unwrap_or_else(|| negotiate_format(headers))))
    }
}

/// Maximum number of rows of a whole report.
const MAX_REPORT_ROWS: u32 = 10_000;

/// Maximum number of values by day of a report. They are kept in memory until a slow reader has them all.
const MAX_DAILY_VALUES: u64 = 1_000_000;

/// Refuses a report that is too long, since one that is cut off would pass for the whole. `days` is the number of
/// values by day of a row.
fn refuse_long_report(rows: usize, days: u64) -> Result<(), Problem> {
    let rows = u64::try_from(rows).unwrap_or(u64::MAX);
    let (present, left) = match () {
        () if rows > u64::from(MAX_REPORT_ROWS) => (
            format!("more than {MAX_REPORT_ROWS} rows"),
            format!("a filter by tag that leaves at most {MAX_REPORT_ROWS} rows"),
        ),
        () if rows.saturating_mul(days) > MAX_DAILY_VALUES => (
            format!("{rows} rows of {days} days"),
            format!(
                "a filter by tag or a shorter span that leaves at most {MAX_DAILY_VALUES} values by day; CSV has none"
            ),
        ),
        () => return Ok(()),
    };
    let error = ValidationError::new(
        "limit",
        format!("(absent, and the report has {present})"),
        format!("a limit of 1 to 1000, or {left}"),
    );
    Err(Problem::invalid_field("?limit", &error))
}

/// Number of values by day that a row of a report has in JSON: of whole days, the present one included.
fn count_days(since: Duration) -> u64 {
    since.as_secs() / 86_400 + 1
}

/// The format that `Accept` names first.
fn negotiate_format(headers: &HeaderMap) -> ReportFormat {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut types = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
    match types.find(|media| matches!(*media, "text/csv" | "application/json")) {
        Some("text/csv") => ReportFormat::Csv,
        _ => ReportFormat::Json,
    }
}

/// Reports the uptime of each site, the worst first.
#[utoipa::path(
    get, path = "/reports/uptime", tag = "reports", security(("token" = ["read"])), params(ReportQuery),
    responses(
        (status = OK, content((Report<Uptime> = "application/json"), (String = "text/csv"))),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json",
            description = "Too many reports at once, or the database is not available; `Retry-After` has the time to wait."),
    ),
)]
async fn report_uptime(
    Reader(access): Reader,
    State(api): State<Api>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<ReportQuery>,
) -> Result<Response, Problem> {
    let (filter, format) = query.parse(&access, &headers)?;
    let (store, days) = (api.store.clone(), count_days(filter.since));
    let rows = api.reports.read(async move { reports::report_uptime(&store, &filter).await }).await?;
    respond_with_report::<Uptime>(rows, format, days)
}

/// Reports the response times of each site, the slowest first.
#[utoipa::path(
    get, path = "/reports/latency", tag = "reports", security(("token" = ["read"])), params(ReportQuery),
    responses(
        (status = OK, content((Report<Latency> = "application/json"), (String = "text/csv"))),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json",
            description = "Too many reports at once, or the database is not available; `Retry-After` has the time to wait."),
    ),
)]
async fn report_latency(
    Reader(access): Reader,
    State(api): State<Api>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<ReportQuery>,
) -> Result<Response, Problem> {
    let (filter, format) = query.parse(&access, &headers)?;
    let (store, days) = (api.store.clone(), count_days(filter.since));
    let rows = api.reports.read(async move { reports::report_latency(&store, &filter).await }).await?;
    respond_with_report::<Latency>(rows, format, days)
}

/// Reports the incidents open within the span, the newest first.
#[utoipa::path(
    get, path = "/reports/incidents", tag = "reports", security(("token" = ["read"])), params(ReportQuery),
    responses(
        (status = OK, content((Report<ReportedIncident> = "application/json"), (String = "text/csv"))),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json",
            description = "Too many reports at once, or the database is not available; `Retry-After` has the time to wait."),
    ),
)]
async fn report_incidents(
    Reader(access): Reader,
    State(api): State<Api>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<ReportQuery>,
) -> Result<Response, Problem> {
    let (filter, format) = query.parse(&access, &headers)?;
    let store = api.store.clone();
    let rows = api.reports.read(async move { reports::report_incidents(&store, &filter).await }).await?;
    respond_with_report::<ReportedIncident>(rows, format, 0)
}

/// Reports checks that were not up by region and cause, the most frequent first.
#[utoipa::path(
    get, path = "/reports/failures", tag = "reports", security(("token" = ["read"])), params(ReportQuery),
    responses(
        (status = OK, content((Report<Failures> = "application/json"), (String = "text/csv"))),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json",
            description = "Too many reports at once, or the database is not available; `Retry-After` has the time to wait."),
    ),
)]
async fn report_failures(
    Reader(access): Reader,
    State(api): State<Api>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<ReportQuery>,
) -> Result<Response, Problem> {
    let (filter, format) = query.parse(&access, &headers)?;
    let (store, days) = (api.store.clone(), count_days(filter.since));
    let rows = api.reports.read(async move { reports::report_failures(&store, &filter).await }).await?;
    respond_with_report::<Failures>(rows, format, days)
}

/// Columns of a report in CSV, as `picket report` has them. The values by day are only in JSON.
trait CsvColumns: Serialize {
    const COLUMNS: &'static [&'static str];
}

impl CsvColumns for Uptime {
    const COLUMNS: &'static [&'static str] = UptimeRow::COLUMNS;
}

impl CsvColumns for Latency {
    const COLUMNS: &'static [&'static str] = LatencyRow::COLUMNS;
}

impl CsvColumns for ReportedIncident {
    const COLUMNS: &'static [&'static str] = IncidentRow::COLUMNS;
}

impl CsvColumns for Failures {
    const COLUMNS: &'static [&'static str] = FailureRow::COLUMNS;
}

fn respond_with_report<T: CsvColumns>(
    rows: Vec<impl Into<T>>,
    format: ReportFormat,
    days: u64,
) -> Result<Response, Problem> {
    refuse_long_report(rows.len(), if format == ReportFormat::Json { days } else { 0 })?;
    let items: Vec<T> = rows.into_iter().map(Into::into).collect();
    match format {
        ReportFormat::Json => Ok(Json(Report { items }).into_response()),
        ReportFormat::Csv => {
            let text = render_csv(&items).ok_or_else(|| {
                Problem::new(ProblemKind::Internal, "the report could not be written as CSV")
            })?;
            Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response())
        }
    }
}

/// Renders rows below a line of names. Memory cannot fail to be written; a failure would mean rows that are no
/// objects.
fn render_csv<T: CsvColumns>(rows: &[T]) -> Option<String> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(T::COLUMNS).ok()?;
    for row in rows {
        let fields = serde_json::to_value(row).ok()?;
        let cells = T::COLUMNS.iter().map(|column| match fields.get(*column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => escape_formula(text.clone()),
            Some(other) => other.to_string(),
        });
        writer.write_record(cells).ok()?;
    }
    String::from_utf8(writer.into_inner().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn csv_has_its_header_without_rows_and_no_formulas() {
        let row = Failures {
            region: "=1+1".to_owned(),
            cause: "dns".to_owned(),
            checks: 2,
            sites: 1,
            days: vec![None],
        };

        assert_eq!(render_csv::<Failures>(&[]).unwrap(), "region,cause,checks,sites\r\n");
        assert_eq!(render_csv(&[row]).unwrap(), "region,cause,checks,sites\r\n'=1+1,dns,2,1\r\n");
    }

    #[test]
    fn a_report_is_refused_beyond_its_limit_with_what_to_do() {
        refuse_long_report(10_000, 31).unwrap();
        refuse_long_report(2_500, 400).unwrap();
        let refusal = refuse_long_report(2_501, 400).unwrap_err();
        assert!(
            refusal.detail().contains("2501 rows of 400 days") && refusal.detail().contains("shorter span")
        );
        let refusal = refuse_long_report(10_001, 0).unwrap_err();
        assert_eq!(refusal.status(), http::StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refusal.detail().contains("more than 10000 rows") && refusal.detail().contains("by tag"));
    }

    #[test]
    fn the_first_known_type_of_accept_decides() {
        for (accept, format) in [
            ("text/csv", ReportFormat::Csv),
            ("text/html, text/csv;q=0.9, application/json", ReportFormat::Csv),
            ("application/json, text/csv", ReportFormat::Json),
            ("*/*", ReportFormat::Json),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(negotiate_format(&headers), format, "{accept}");
        }
    }
}
