//! Incidents: the outages of sites.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use http::Uri;
use picket_proto::{RegionName, SiteId, Timestamp};
use picket_store::{
    DbTimestamp,
    acknowledgements::list_acknowledgements,
    incident_pages::{self, EpisodeFilter, IncidentEvidence, ListedIncident, RegionVote},
    notifications::{ListedNotice, NoticesOf, list_notices},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    acknowledgements::Acknowledgement,
    api_row::api_row,
    notifications::{MAX_NOTICES, Notice},
    paging::{Page, PageRequest},
    sites::find_site,
};
use crate::{
    access::{Access, Reader},
    extract::{ApiPath, ApiQuery, PageLimit},
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_incidents))
        .routes(routes!(read_incident))
        .routes(routes!(list_site_incidents))
}

api_row! {
    /// An incident of a site.
    #[schema(example = json!({
        "incident_id": 12, "site_id": 7, "site": "shop", "opened_at": "2026-11-20T12:00:10.000000Z", "closed_at": null,
        "seconds": 90, "first_failure_at": "2026-11-20T12:00:00.000000Z", "cause": "connect",
        "message": "connection refused", "regions": ["eu-west", "us-east"]
    }))]
    Incident from ListedIncident {
        /// Id of the incident.
        incident_id: i64,
        /// Id of the site.
        site_id: i64,
        /// Name of the site, or its URL.
        site: String,
        /// Due time of the check that made the site down: failures in a row, in a quorum of the reporting regions.
        #[schema(value_type = String, format = DateTime)]
        opened_at: DbTimestamp,
        /// Due time of the check that made the site up again; null while it is down.
        #[schema(value_type = Option<String>, format = DateTime)]
        closed_at: Option<DbTimestamp>,
        /// Duration in seconds, up to now for an open incident.
        seconds: i64,
        /// Due time of the first of the failing checks.
        #[schema(value_type = String, format = DateTime)]
        first_failure_at: DbTimestamp,
        /// Cause in the region that failed first.
        cause: Option<String>,
        /// The cause in words.
        message: Option<String>,
        /// Regions that were down when the incident opened.
        regions: Vec<String>,
    }
}

api_row! {
    /// What a region reported from the first failure to the opening of an incident.
    Vote from RegionVote {
        /// Name of the region.
        region: String,
        /// True if the region was down when the incident opened.
        down: bool,
        /// Number of `down` checks in that time.
        failures: i64,
        /// Number of confirmation checks in that time.
        confirmations: i64,
        /// Due time of the region's newest check in that time.
        #[schema(value_type = String, format = DateTime)]
        checked_at: DbTimestamp,
        /// Outcome of that check: `up`, `down` or `missed`.
        outcome: String,
        /// Cause of that check, if it was not up.
        cause: Option<String>,
        /// The cause in words.
        message: Option<String>,
    }
}

/// An incident with its evidence.
#[derive(Serialize, ToSchema)]
struct IncidentDetail {
    #[serde(flatten)]
    incident: Incident,
    /// Time when the incident was recorded.
    #[schema(value_type = String, format = DateTime)]
    recorded_at: Timestamp,
    /// Seconds from the first failure to the check that decided.
    seconds_to_open: f64,
    /// Seconds from the first failure until the incident was recorded.
    seconds_to_record: f64,
    /// True if the incident closed because the site is no longer checked.
    unwatched: bool,
    /// Number of times at which confirmation checks were due.
    confirmation_rounds: i64,
    /// What each region reported from the first failure to the opening, of the last hour before it. Results are
    /// kept for `retention_days`, so that old incidents have no votes.
    votes: Vec<Vote>,
    /// Who takes care of the incident; null while nobody has acknowledged it.
    acknowledgement: Option<Acknowledgement>,
    /// Which channels were told of it, or are to be told, and what came of it; at most 500, the oldest first.
    notices: Vec<Notice>,
}

impl IncidentDetail {
    fn new(
        evidence: IncidentEvidence,
        acknowledgement: Option<Acknowledgement>,
        notices: Vec<ListedNotice>,
    ) -> Self {
        let first = Timestamp::from(evidence.incident.first_failure_at);
        let seconds_since_first = |at: Timestamp| at.saturating_duration_since(first).as_secs_f64();
        Self {
            seconds_to_open: seconds_since_first(evidence.incident.opened_at.into()),
            seconds_to_record: seconds_since_first(evidence.recorded_at),
            incident: evidence.incident.into(),
            recorded_at: evidence.recorded_at,
            unwatched: evidence.unwatched,
            confirmation_rounds: evidence.confirmation_rounds,
            votes: evidence.votes.into_iter().map(Vote::from).collect(),
            acknowledgement,
            notices: notices.into_iter().map(Notice::from).collect(),
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct IncidentQuery {
    /// Only open incidents, or only closed ones.
    open: Option<bool>,
    /// Only incidents of the site with this id.
    site: Option<i64>,
    /// Only incidents in which this region was down.
    #[param(value_type = Option<String>)]
    region: Option<RegionName>,
    /// Only incidents that were open at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Only incidents that opened before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists incidents, the newest first.
#[utoipa::path(
    get, path = "/incidents", tag = "incidents", security(("token" = ["read"])), params(IncidentQuery),
    responses((status = OK, body = Page<Incident>, headers(("Link" = String, description = "The next page, if any")))),
)]
async fn list_incidents(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiQuery(query): ApiQuery<IncidentQuery>,
) -> Result<Response, Problem> {
    respond_with_page(&api, &access, &uri, query).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SiteIncidentQuery {
    /// Only open incidents, or only closed ones.
    open: Option<bool>,
    /// Only incidents in which this region was down.
    #[param(value_type = Option<String>)]
    region: Option<RegionName>,
    /// Only incidents that were open at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Only incidents that opened before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the incidents of a site, the newest first. Those of a removed site are in `/incidents?site=`.
#[utoipa::path(
    get, path = "/sites/{site}/incidents", tag = "sites", security(("token" = ["read"])),
    params(("site" = i64, Path, description = "Id of the site"), SiteIncidentQuery),
    responses(
        (status = OK, body = Page<Incident>, headers(("Link" = String, description = "The next page, if any"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
    ),
)]
async fn list_site_incidents(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiPath(site): ApiPath<i64>,
    ApiQuery(query): ApiQuery<SiteIncidentQuery>,
) -> Result<Response, Problem> {
    find_site(&api, &access, SiteId(site)).await?;
    let SiteIncidentQuery { open, region, from, to, limit, cursor } = query;
    let query = IncidentQuery { open, site: Some(site), region, from, to, limit, cursor };
    respond_with_page(&api, &access, &uri, query).await
}

async fn respond_with_page(
    api: &Api,
    access: &Access,
    uri: &Uri,
    query: IncidentQuery,
) -> Result<Response, Problem> {
    let request = PageRequest::new(query.limit, query.cursor.as_deref())?;
    let filter = EpisodeFilter {
        tags: access.tag_limit(),
        tag: None,
        open: query.open,
        site_id: query.site,
        region: query.region.as_ref().map(RegionName::as_str),
        kind: None,
        from: query.from,
        to: query.to,
        after: request.after,
        limit: request.row_limit(),
    };
    let rows = incident_pages::list_incidents(&api.store, &filter).await?;
    let page = request.build_page(rows, |row| (row.opened_at.into(), row.incident_id), Incident::from);
    Ok(page.into_response(uri))
}

/// Reads an incident with each region's votes, its confirmations, the delay of the decision, and who was told.
#[utoipa::path(
    get, path = "/incidents/{id}", tag = "incidents", security(("token" = ["read"])),
    params(("id" = i64, Path, description = "Id of the incident")),
    responses(
        (status = OK, body = IncidentDetail),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such incident, or the token is limited to tags of which its site has none."),
    ),
)]
async fn read_incident(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
) -> Result<Json<IncidentDetail>, Problem> {
    match incident_pages::read_incident(&api.store, id, access.tag_limit()).await? {
        Some(evidence) => {
            let acknowledged = list_acknowledgements(&api.store, &[id]).await?.pop();
            let notices = list_notices(&api.store, NoticesOf::Incident(id), MAX_NOTICES).await?;
            Ok(Json(IncidentDetail::new(evidence, acknowledged.map(Acknowledgement::from), notices)))
        }
        None => Err(Problem::new(ProblemKind::NotFound, format!("there is no incident {id}"))),
    }
}
