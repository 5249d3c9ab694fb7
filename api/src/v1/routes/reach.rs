//! Which channels are told when a site is down, and how many sites have no channel.

use axum::{Json, extract::State};
use picket_proto::SiteId;
use picket_store::routes::{ReachFilter, SiteReach, count_reach, list_reach};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::Reader,
    extract::{ApiQuery, PageLimit},
    problem::Problem,
    state::Api,
    v1::{api_row::api_row, sites::find_site, tag_limit::require_tag},
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(read_reach))
}

api_row! {
    /// Channels of an incident of a site in all its regions.
    #[schema(example = json!({
        "site_id": 7, "site": "shop", "routes": ["shop"], "channels": ["ops"], "escalation_channels": ["phone"]
    }))]
    SiteChannels from SiteReach {
        /// Id of the site.
        site_id: i64,
        /// Name of the site, or its URL.
        site: String,
        /// Names of the matching routes, in their order.
        routes: Vec<String>,
        /// Names of the channels told at once.
        channels: Vec<String>,
        /// Names of the channels told later, until an acknowledgement.
        escalation_channels: Vec<String>,
    }
}

/// Channels of incidents.
#[derive(Serialize, ToSchema)]
struct ReachedSites {
    /// Number of enabled sites, within the tag limit.
    sites: i64,
    /// Number of sites without a channel.
    unreached: i64,
    /// Number of routes.
    routes: i64,
    /// The first of the selected sites, by id.
    items: Vec<SiteChannels>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReachQuery {
    /// Only the site with this id.
    site: Option<i64>,
    /// Only sites with this tag.
    tag: Option<String>,
    #[serde(default)]
    limit: PageLimit,
}

/// Tells which channels the incidents of sites reach, and how many sites have no channel.
#[utoipa::path(
    get, path = "/reach", tag = "routes", security(("token" = ["read"])), params(ReachQuery),
    responses(
        (status = OK, body = ReachedSites),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to other tags."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
    ),
)]
async fn read_reach(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<ReachQuery>,
) -> Result<Json<ReachedSites>, Problem> {
    let ids = match query.site {
        Some(site) => Some([find_site(&api, &access, SiteId(site)).await?.site.id.0]),
        None => None,
    };
    let tag = query.tag.map(|tag| require_tag(&access, "?tag", tag).map(|tag| [tag])).transpose()?;
    let filter = ReachFilter {
        ids: ids.as_ref().map(|ids| &ids[..]),
        tags: tag.as_ref().map(|tag| &tag[..]).or(access.tag_limit()),
        limit: Some(query.limit.0.into()),
    };
    let reach = count_reach(&api.store, access.tag_limit()).await?;
    let found = list_reach(&api.store, filter).await?;
    Ok(Json(ReachedSites {
        sites: reach.sites,
        unreached: reach.unreached,
        routes: reach.routes,
        items: found.into_iter().map(SiteChannels::from).collect(),
    }))
}
