//! The list of sites, each with its summary.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use picket_proto::{RegionName, SiteId, ValidationError};
use picket_store::{
    DbTimestamp,
    site_list::{
        Direction, SiteFilter, SiteSort, SiteState, SiteSummary, find_site_summary, list_sites_page,
    },
};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    access::Reader,
    extract::{ApiPath, ApiQuery, PageLimit},
    problem::Problem,
    state::Api,
    v1::{
        api_row::api_row,
        paging::{Page, refuse_query},
    },
};

api_row! {
    /// A site in the list, with its state and its statistics.
    #[schema(example = json!({
        "site_id": 7, "site": "shop", "url": "https://example.com", "tags": ["shop"], "regions": [], "type": "http",
        "interval_seconds": 60, "enabled": true, "problem": null, "created_at": "2026-11-20T12:00:00.000000Z",
        "state": "up", "state_since": "2026-11-20T12:00:10.000000Z", "incident_id": null, "warnings": [],
        "uptime_24h_pct": 100.0, "coverage_24h_pct": 99.9306, "p50_us": 48000, "p95_us": 81000
    }))]
    ListedSite from SiteSummary {
        /// Id of the site.
        site_id: i64,
        /// Name of the site, or its URL.
        site: String,
        /// URL of the site.
        url: String,
        /// Tags of the site.
        tags: Vec<String>,
        /// Regions that check the site; empty for all.
        regions: Vec<String>,
        /// Type of check, such as `http`.
        #[serde(rename = "type")]
        check_type: String,
        /// Interval of each region.
        interval_seconds: i32,
        /// False while the site is paused.
        enabled: bool,
        /// Reason why the site cannot be checked; null for none.
        problem: Option<String>,
        /// Time of creation.
        #[schema(value_type = String, format = DateTime)]
        created_at: DbTimestamp,
        /// `down`, `unknown`, `problem`, `up` or `paused`.
        #[schema(value_type = String)]
        state: SiteState,
        /// Start of the state.
        #[schema(value_type = String, format = DateTime)]
        state_since: DbTimestamp,
        /// The open incident; null for none.
        incident_id: Option<i64>,
        /// Kinds of the open warnings.
        warnings: Vec<String>,
        /// Percentage of the last 24 whole hours: up of (up + down).
        uptime_24h_pct: Option<f64>,
        /// The same of the last 7 whole days and today.
        uptime_7d_pct: Option<f64>,
        /// The same of the last 30 whole days and today.
        uptime_30d_pct: Option<f64>,
        /// The same of the last 90 whole days and today.
        uptime_90d_pct: Option<f64>,
        /// Percentage of the last 24 whole hours: (up + down) of the ticks that were due.
        coverage_24h_pct: Option<f64>,
        /// The same of the last 7 whole days and today.
        coverage_7d_pct: Option<f64>,
        /// The same of the last 30 whole days and today.
        coverage_30d_pct: Option<f64>,
        /// The same of the last 90 whole days and today.
        coverage_90d_pct: Option<f64>,
        /// Median duration of the last 24 hours.
        p50_us: Option<i32>,
        /// 95th percentile of the duration of the last 24 hours.
        p95_us: Option<i32>,
        /// A letter a day for 365 days, the last for `days_through`.
        days: String,
        /// The day of the last letter.
        days_through: Option<String>,
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SiteQuery {
    /// Only sites in this state: `down`, `unknown`, `problem`, `up` or `paused`. May be repeated.
    #[serde(default)]
    #[param(value_type = Vec<String>)]
    status: Vec<String>,
    /// Only sites with this tag.
    tag: Option<String>,
    /// Only sites that this region checks.
    #[param(value_type = Option<String>)]
    region: Option<RegionName>,
    /// Only sites with each of these words in the name, the URL or a tag.
    q: Option<String>,
    /// Only sites that are enabled, or only paused ones.
    enabled: Option<bool>,
    /// `name`, `state`, `state_since`, `uptime_24h`, `uptime_7d`, `uptime_30d`, `uptime_90d`, `coverage`, `p50`, `p95`
    /// or `created`; with `-` before it the greatest first. Sites without a value are last.
    #[param(default = "created", example = "-p95")]
    sort: Option<String>,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before, in the same order.
    cursor: Option<String>,
}

/// Lists sites with their state and statistics.
#[utoipa::path(
    get, path = "/sites", tag = "sites", security(("token" = ["read"])), params(SiteQuery),
    responses((status = OK, body = Page<ListedSite>, headers(("Link" = String, description = "The next page, if any")))),
)]
pub(super) async fn list_sites(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiQuery(query): ApiQuery<SiteQuery>,
) -> Result<Response, Problem> {
    let invalid = |error: ValidationError| refuse_query(error.into());
    let status: Vec<SiteState> =
        query.status.iter().map(|word| word.parse()).collect::<Result<_, _>>().map_err(invalid)?;
    let filter = SiteFilter {
        status: &status,
        tag: query.tag.as_deref(),
        region: query.region.as_ref(),
        query: query.q.as_deref(),
        enabled: query.enabled,
        ids: None,
        tag_limit: access.tag_limit(),
    };
    let sort = query.sort.as_deref().unwrap_or(SiteSort::Created.as_str());
    let (direction, sort) = match sort.strip_prefix('-') {
        Some(sort) => (Direction::Descending, sort),
        None => (Direction::Ascending, sort),
    };
    let sort: SiteSort = sort.parse().map_err(invalid)?;
    let cursor = query.cursor.as_deref();
    let page = list_sites_page(&api.store, &filter, sort, direction, cursor, query.limit.0.into()).await;
    let page = page.map_err(refuse_query)?;
    let items = page.items.into_iter().map(ListedSite::from).collect();
    Ok(Page { items, next_cursor: page.next_cursor }.into_response(&uri))
}

/// Reads the state and the statistics of a site.
#[utoipa::path(
    get, path = "/sites/{site}/status", tag = "sites", security(("token" = ["read"])),
    params(("site" = i64, Path, description = "Id of the site")),
    responses(
        (status = OK, body = ListedSite),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
    ),
)]
pub(super) async fn read_status(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(site): ApiPath<i64>,
) -> Result<Json<ListedSite>, Problem> {
    let site = SiteId(site);
    let found = find_site_summary(&api.store, site, access.tag_limit()).await?;
    Ok(Json(found.ok_or(picket_store::Error::SiteNotFound(site))?.into()))
}
