//! Warnings: what needs attention at sites that are up.

use axum::{
    extract::{OriginalUri, State},
    response::Response,
};
use picket_proto::{RegionName, Timestamp, Warning};
use picket_store::{
    DbTimestamp,
    incident_pages::{self, EpisodeFilter, ListedWarning},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    api_row::api_row,
    paging::{Page, PageRequest},
};
use crate::{
    access::Reader,
    extract::{ApiQuery, PageLimit},
    problem::Problem,
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_warnings))
}

api_row! {
    /// A warning of a site.
    #[schema(example = json!({
        "warning_id": 3, "site_id": 7, "site": "shop", "kind": "certificate", "opened_at": "2026-11-20T12:00:10.000000Z",
        "closed_at": null, "seconds": 90, "expires_at": "2026-12-01T00:00:00.000000Z", "days_left": 10,
        "message": "the certificate expires in 10 days", "regions": ["eu-west"]
    }))]
    SiteWarning from ListedWarning {
        /// Id of the warning.
        warning_id: i64,
        /// Id of the site.
        site_id: i64,
        /// Name of the site, or its URL.
        site: String,
        /// `slow`, `certificate`, `domain` or `loss`.
        kind: String,
        /// Due time of the check that opened the warning.
        #[schema(value_type = String, format = DateTime)]
        opened_at: DbTimestamp,
        /// Due time of the check that ended the warning; null while it is open.
        #[schema(value_type = Option<String>, format = DateTime)]
        closed_at: Option<DbTimestamp>,
        /// Duration in seconds, up to now for an open warning.
        seconds: i64,
        /// End of the certificate or of the registration.
        #[schema(value_type = Option<String>, format = DateTime)]
        expires_at: Option<DbTimestamp>,
        /// Days until then.
        days_left: Option<i32>,
        /// The warning in words.
        message: Option<String>,
        /// Regions that warned when the warning opened.
        regions: Vec<String>,
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WarningQuery {
    /// Only open warnings, or only closed ones.
    open: Option<bool>,
    /// Only warnings of the site with this id.
    site: Option<i64>,
    /// Only warnings of this kind: `slow`, `certificate`, `domain` or `loss`.
    #[param(value_type = Option<String>)]
    kind: Option<Warning>,
    /// Only warnings in which this region took part.
    #[param(value_type = Option<String>)]
    region: Option<RegionName>,
    /// Only warnings that were open at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Only warnings that opened before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists warnings, the newest first.
#[utoipa::path(
    get, path = "/warnings", tag = "incidents", security(("token" = ["read"])), params(WarningQuery),
    responses((status = OK, body = Page<SiteWarning>, headers(("Link" = String, description = "The next page, if any")))),
)]
async fn list_warnings(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiQuery(query): ApiQuery<WarningQuery>,
) -> Result<Response, Problem> {
    let request = PageRequest::new(query.limit, query.cursor.as_deref())?;
    let filter = EpisodeFilter {
        tags: access.tag_limit(),
        tag: None,
        open: query.open,
        site_id: query.site,
        region: query.region.as_ref().map(RegionName::as_str),
        kind: query.kind.map(|kind| kind.as_str()),
        from: query.from,
        to: query.to,
        after: request.after,
        limit: request.row_limit(),
    };
    let rows = incident_pages::list_warnings(&api.store, &filter).await?;
    let page = request.build_page(rows, |row| (row.opened_at.into(), row.warning_id), SiteWarning::from);
    Ok(page.into_response(&uri))
}
