//! The history of a site: its checks, its response times, its uptime.

use std::time::Duration;

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use picket_proto::{CheckKind, Outcome, RegionName, SiteId, Timestamp};
use picket_runtime::clock::wall_clock_now;
use picket_store::{
    DbTimestamp,
    site_history::{self, CheckRow, ChecksFilter, HeatColumn, LatencyBucket, Span, TickSums, require_site},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{Access, Reader},
    extract::{ApiPath, ApiQuery, PageLimit},
    problem::{Problem, ProblemKind},
    state::Api,
    v1::{
        api_row::api_row,
        paging::{Page, refuse_query},
    },
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_checks))
        .routes(routes!(read_check))
        .routes(routes!(list_latency))
        .routes(routes!(read_histogram))
        .routes(routes!(read_uptime))
}

/// Durations of the phases of a check, in microseconds. A phase that did not happen is null.
#[derive(Serialize, ToSchema)]
struct CheckTiming {
    /// Time to resolve the name.
    dns_us: Option<i32>,
    /// Time to connect.
    connect_us: Option<i32>,
    /// Time of the TLS handshake.
    tls_us: Option<i32>,
    /// From the established connection to the head of the response.
    first_byte_us: Option<i32>,
    /// From the head of the response to the end of its body.
    transfer_us: Option<i32>,
    /// Time of the whole check.
    total_us: Option<i32>,
}

/// A check, with the names of its result on NATS.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "site_id": 7, "region": "eu-west", "kind": "scheduled", "prober": "host-7f3a", "scheduled_at": "2026-11-20T12:00:00.000000Z",
    "started_at": "2026-11-20T12:00:00.004211Z", "lateness_us": 4211, "outcome": "up", "cause": null, "message": null,
    "http_status": 200, "http_version": "2", "remote_addr": "93.184.216.34:443", "timing": {"dns_us": 1200, "connect_us": 8100,
    "tls_us": 9500, "first_byte_us": 15200, "transfer_us": 300, "total_us": 34300}, "redirects": 0, "body_bytes": 1256,
    "regex_matched": true, "tls_expires_at": "2027-01-15T23:59:59.000000Z", "warnings": [], "details": null
}))]
struct SiteCheck {
    /// Id of the site.
    site_id: i64,
    /// Region of the prober.
    region: String,
    /// `scheduled` for a tick, `confirm` for a confirmation.
    kind: String,
    /// The prober; null if none ran the check.
    prober: Option<String>,
    /// Due time of the check.
    #[schema(value_type = String, format = DateTime)]
    scheduled_at: DbTimestamp,
    /// Start of the check; null if it never started.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<DbTimestamp>,
    /// From the due time to the start.
    lateness_us: Option<i32>,
    /// `up`, `down` or `missed`.
    outcome: String,
    /// Cause of a check that was not up.
    cause: Option<String>,
    /// The cause in words.
    message: Option<String>,
    /// Status of the last response.
    http_status: Option<i16>,
    /// Version of HTTP.
    http_version: Option<String>,
    /// Address and port of the last connection.
    remote_addr: Option<String>,
    /// Durations of the phases.
    timing: CheckTiming,
    /// Number of redirects.
    redirects: i16,
    /// Bytes of the decoded body that were read.
    body_bytes: Option<i32>,
    /// True if the regex matched; null without a regex.
    regex_matched: Option<bool>,
    /// End of the certificate.
    #[schema(value_type = Option<String>, format = DateTime)]
    tls_expires_at: Option<DbTimestamp>,
    /// Properties of an up result that need attention.
    warnings: Vec<String>,
    /// Observations that depend on the type of check.
    details: Option<Value>,
}

impl From<CheckRow> for SiteCheck {
    fn from(row: CheckRow) -> Self {
        Self {
            site_id: row.site_id,
            region: row.region,
            kind: row.kind,
            prober: row.prober,
            scheduled_at: row.scheduled_at,
            started_at: row.started_at,
            lateness_us: row.lateness_us,
            outcome: row.outcome,
            cause: row.cause,
            message: row.message,
            http_status: row.http_status,
            http_version: row.http_version,
            remote_addr: row.remote_addr,
            timing: CheckTiming {
                dns_us: row.dns_us,
                connect_us: row.connect_us,
                tls_us: row.tls_us,
                first_byte_us: row.first_byte_us,
                transfer_us: row.transfer_us,
                total_us: row.total_us,
            },
            redirects: row.redirects,
            body_bytes: row.body_bytes,
            regex_matched: row.regex_matched,
            tls_expires_at: row.tls_expires_at,
            warnings: row.warnings.unwrap_or_default(),
            details: row.details,
        }
    }
}

api_row! {
    /// Response times of a part of a span in one region, of the checks that were up.
    LatencyPart from LatencyBucket {
        /// Start of the part.
        #[schema(value_type = String, format = DateTime)]
        from: DbTimestamp,
        /// Name of the region.
        region: String,
        /// Number of `up` checks.
        checks: i64,
        /// Median duration.
        p50_us: Option<i32>,
        /// 95th percentile of the duration.
        p95_us: Option<i32>,
        /// 99th percentile of the duration.
        p99_us: Option<i32>,
        /// Mean time to resolve the name.
        dns_us: Option<f64>,
        /// Mean time to connect.
        connect_us: Option<f64>,
        /// Mean time of the TLS handshake.
        tls_us: Option<f64>,
        /// Mean time from the established connection to the head of the response.
        first_byte_us: Option<f64>,
    }
}

api_row! {
    /// How many checks of a part of a span took how long.
    HistogramPart from HeatColumn {
        /// Start of the part.
        #[schema(value_type = String, format = DateTime)]
        from: DbTimestamp,
        /// Pairs of a bucket and its number of checks. Buckets are those of `picket.bucket_us`, accurate to 4.43 %.
        #[schema(value_type = Vec<[u32; 2]>)]
        counts: Vec<(u8, u32)>,
    }
}

api_row! {
    /// Ticks of a site in a region.
    RegionUptime from TickSums {
        /// Name of the region.
        region: String,
        /// Number of ticks due.
        checks: i64,
        /// Number of `up` checks.
        up: i64,
        /// Number of `down` checks.
        down: i64,
        /// Number of `missed` ticks.
        missed: i64,
        /// Number of ticks inside a recorded gap.
        gap: i64,
        /// Percentage: up of (up + down).
        uptime_pct: Option<f64>,
        /// Percentage as above, without maintenance windows.
        uptime_pct_excl_maintenance: Option<f64>,
        /// Percentage: (up + down) of checks.
        coverage_pct: Option<f64>,
    }
}

/// Parts of a span.
#[derive(Serialize, ToSchema)]
struct SpanParts<T> {
    /// Start of the span.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Exclusive end of the span.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// Parts in order.
    items: Vec<T>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ChecksQuery {
    /// Start of the span; by default a day before its end. At most 400 days before it.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Exclusive end of the span; now by default.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Only checks of this region.
    #[param(value_type = Option<String>)]
    region: Option<RegionName>,
    /// Only checks with this outcome: `up`, `down` or `missed`.
    #[param(value_type = Option<String>)]
    outcome: Option<Outcome>,
    /// Only checks of this kind: `scheduled` or `confirm`.
    #[param(value_type = Option<String>)]
    kind: Option<CheckKind>,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SeriesQuery {
    /// Start of the span; by default a day before its end. At most 400 days before it.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Exclusive end of the span; now by default.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Only checks of this region.
    #[param(value_type = Option<String>)]
    region: Option<RegionName>,
    /// Maximum number of parts.
    #[serde(default = "default_buckets")]
    #[param(default = 100, minimum = 1, maximum = 500)]
    buckets: u32,
}

fn default_buckets() -> u32 {
    100
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UptimeQuery {
    /// Start of the span; by default a day before its end. At most 400 days before it.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Exclusive end of the span; now by default.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CheckQuery {
    /// `scheduled` or `confirm`.
    #[param(value_type = Option<String>, default = "scheduled")]
    kind: Option<CheckKind>,
}

/// A site that the sender may see, or might have seen before it was removed, and a span.
async fn resolve_span(
    api: &Api,
    access: &Access,
    site: i64,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> Result<(SiteId, Timestamp, Timestamp, Span), Problem> {
    const DEFAULT_SPAN: Duration = Duration::from_secs(86_400);
    require_site(&api.store, SiteId(site), access.tag_limit()).await?;
    let to = to.unwrap_or_else(wall_clock_now);
    let from = from.unwrap_or_else(|| to.saturating_sub(DEFAULT_SPAN));
    let span = Span::new(from, to).map_err(|error| refuse_query(error.into()))?;
    Ok((SiteId(site), from, to, span))
}

/// Lists the checks of a site, the newest first.
#[utoipa::path(
    get, path = "/sites/{site}/checks", tag = "sites", security(("token" = ["read"])),
    params(("site" = i64, Path, description = "Id of the site"), ChecksQuery),
    responses((status = OK, body = Page<SiteCheck>, headers(("Link" = String, description = "The next page, if any")))),
)]
async fn list_checks(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiPath(site): ApiPath<i64>,
    ApiQuery(query): ApiQuery<ChecksQuery>,
) -> Result<Response, Problem> {
    let (site, .., span) = resolve_span(&api, &access, site, query.from, query.to).await?;
    let filter = ChecksFilter { region: query.region.as_ref(), outcome: query.outcome, kind: query.kind };
    let (cursor, limit) = (query.cursor.as_deref(), query.limit.0.into());
    let page = site_history::list_checks_page(&api.store, site, span, filter, cursor, limit)
        .await
        .map_err(refuse_query)?;
    let items = page.items.into_iter().map(SiteCheck::from).collect();
    Ok(Page { items, next_cursor: page.next_cursor }.into_response(&uri))
}

/// Reads one check of a site.
#[utoipa::path(
    get, path = "/sites/{site}/checks/{region}/{scheduled_at}", tag = "sites", security(("token" = ["read"])),
    params(
        ("site" = i64, Path, description = "Id of the site"),
        ("region" = String, Path, description = "Name of the region"),
        ("scheduled_at" = String, Path, description = "Due time of the check, such as 2026-11-20T12:00:00.000000Z"),
        CheckQuery,
    ),
    responses(
        (status = OK, body = SiteCheck),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such check, or the token is limited to tags of which the site has none."),
    ),
)]
async fn read_check(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath((site, region, scheduled_at)): ApiPath<(i64, String, String)>,
    ApiQuery(query): ApiQuery<CheckQuery>,
) -> Result<Json<SiteCheck>, Problem> {
    require_site(&api.store, SiteId(site), access.tag_limit()).await?;
    let missing = || {
        let detail = format!("site {site} has no such check in the region '{region}' at '{scheduled_at}'");
        Problem::new(ProblemKind::NotFound, picket_proto::validation::sanitize_text(&detail, 300))
    };
    let region_name: RegionName = region.parse().map_err(|_| missing())?;
    let at: Timestamp = scheduled_at.parse().map_err(|_| missing())?;
    let kind = query.kind.unwrap_or(CheckKind::Scheduled);
    let found = site_history::find_check(&api.store, SiteId(site), &region_name, at, kind).await?;
    found.map(|row| Json(row.into())).ok_or_else(missing)
}

/// Lists response times by part of a span and region. Up to three hours are exact; longer spans are accurate to
/// 4.43 %, in whole hours up to 62 days, else in days.
#[utoipa::path(
    get, path = "/sites/{site}/latency", tag = "sites", security(("token" = ["read"])),
    params(("site" = i64, Path, description = "Id of the site"), SeriesQuery),
    responses((status = OK, body = SpanParts<LatencyPart>)),
)]
async fn list_latency(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(site): ApiPath<i64>,
    ApiQuery(query): ApiQuery<SeriesQuery>,
) -> Result<Json<SpanParts<LatencyPart>>, Problem> {
    let (site, from, to, span) = resolve_span(&api, &access, site, query.from, query.to).await?;
    let rows = site_history::list_latency(&api.store, site, query.region.as_ref(), span, query.buckets).await;
    let items = rows.map_err(refuse_query)?.into_iter().map(LatencyPart::from).collect();
    Ok(Json(SpanParts { from, to, items }))
}

/// Reads how many checks took how long, by part of a span: whole hours up to 62 days, else days.
#[utoipa::path(
    get, path = "/sites/{site}/histogram", tag = "sites", security(("token" = ["read"])),
    params(("site" = i64, Path, description = "Id of the site"), SeriesQuery),
    responses((status = OK, body = SpanParts<HistogramPart>)),
)]
async fn read_histogram(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(site): ApiPath<i64>,
    ApiQuery(query): ApiQuery<SeriesQuery>,
) -> Result<Json<SpanParts<HistogramPart>>, Problem> {
    let (site, from, to, span) = resolve_span(&api, &access, site, query.from, query.to).await?;
    let rows =
        site_history::load_heat_map(&api.store, site, query.region.as_ref(), span, query.buckets).await;
    let items = rows.map_err(refuse_query)?.into_iter().map(HistogramPart::from).collect();
    Ok(Json(SpanParts { from, to, items }))
}

/// Sums the ticks of a site by region: of the hours that the span touches, or of the days if it is longer than 62
/// days.
#[utoipa::path(
    get, path = "/sites/{site}/uptime", tag = "sites", security(("token" = ["read"])),
    params(("site" = i64, Path, description = "Id of the site"), UptimeQuery),
    responses((status = OK, body = SpanParts<RegionUptime>)),
)]
async fn read_uptime(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(site): ApiPath<i64>,
    ApiQuery(query): ApiQuery<UptimeQuery>,
) -> Result<Json<SpanParts<RegionUptime>>, Problem> {
    let (site, from, to, span) = resolve_span(&api, &access, site, query.from, query.to).await?;
    let rows = site_history::sum_ticks(&api.store, site, span).await?;
    Ok(Json(SpanParts { from, to, items: rows.into_iter().map(RegionUptime::from).collect() }))
}
