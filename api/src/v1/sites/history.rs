//! The history of a site: its checks, its response times, its uptime.

mod rows;

use std::time::Duration;

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use picket_proto::{CheckKind, Outcome, RegionName, SiteId, Timestamp};
use picket_runtime::clock::wall_clock_now;
use picket_store::site_history::{self, ChecksFilter, Span, require_site};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::rows::{HistogramPart, LatencyPart, RegionUptime, SiteCheck};
use crate::{
    access::{Access, Reader},
    extract::{ApiPath, ApiQuery, PageLimit},
    problem::{Problem, ProblemKind},
    state::Api,
    v1::paging::{Page, refuse_query},
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_checks))
        .routes(routes!(read_check))
        .routes(routes!(list_latency))
        .routes(routes!(read_histogram))
        .routes(routes!(read_uptime))
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
