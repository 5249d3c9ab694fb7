//! Regions, the locations of probers.

use axum::{Json, extract::State};
use http::StatusCode;
use picket_proto::RegionName;
use picket_runtime::discovery::ProberRecord;
use picket_store::{
    DbTimestamp,
    regions::{self, RegionOverview},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::probers::discover_probers;
use crate::{
    access::{Reader, Writer},
    extract::{ApiPath, ApiQuery},
    problem::Problem,
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_regions)).routes(routes!(add_region, remove_region))
}

/// A region.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"name": "eu-west", "schedules": 120, "silent_since": null, "probers": 2}))]
struct Region {
    /// Name of the region.
    name: String,
    /// Number of schedules in force, of sites that the token may see.
    schedules: i64,
    /// Start of the silence of its probers; null while a prober is active.
    #[schema(value_type = Option<String>, format = DateTime)]
    silent_since: Option<DbTimestamp>,
    /// Number of probers that answered, with `probers=true`; otherwise, and while NATS is away, null.
    probers: Option<usize>,
}

/// Active regions.
#[derive(Serialize, ToSchema)]
struct RegionList {
    items: Vec<Region>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RegionQuery {
    /// Counts the probers that answer now, which takes half a second.
    #[serde(default)]
    probers: bool,
}

/// Lists the active regions by name.
#[utoipa::path(
    get, path = "/regions", tag = "regions", security(("token" = ["read"])), params(RegionQuery),
    responses((status = OK, body = RegionList), (status = "default", body = Problem, content_type = "application/problem+json")),
)]
async fn list_regions(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<RegionQuery>,
) -> Result<Json<RegionList>, Problem> {
    let discover = async {
        match query.probers {
            true => discover_probers(&api.bus).await.ok(),
            false => None,
        }
    };
    let (rows, probers) =
        tokio::join!(regions::list_region_overview(&api.store, access.tag_limit()), discover);
    let count = |region: &str| {
        let is_there = |record: &&ProberRecord| record.region == region && record.prober.is_some();
        probers.as_ref().map(|records| records.iter().filter(is_there).count())
    };
    let region = |row: RegionOverview| Region {
        probers: count(&row.name),
        name: row.name,
        schedules: row.schedules,
        silent_since: row.silent_since,
    };
    Ok(Json(RegionList { items: rows?.into_iter().map(region).collect() }))
}

/// Adds a region, or reactivates a removed one.
#[utoipa::path(
    put, path = "/regions/{region}", tag = "regions", security(("token" = ["write"])),
    params(("region" = String, Path, description = "Name of the region")),
    responses(
        (status = CREATED, description = "The region was added."),
        (status = NO_CONTENT, description = "The region is active already."),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn add_region(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(region): ApiPath<String>,
) -> Result<StatusCode, Problem> {
    access.require_all_sites()?;
    match regions::add_region(&api.store, &parse_region(&region)?).await? {
        true => Ok(StatusCode::CREATED),
        false => Ok(StatusCode::NO_CONTENT),
    }
}

/// Removes a region. Its schedules end at once; its rows remain.
#[utoipa::path(
    delete, path = "/regions/{region}", tag = "regions", security(("token" = ["write"])),
    params(("region" = String, Path, description = "Name of the region")),
    responses(
        (status = NO_CONTENT, description = "The region was removed."),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn remove_region(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(region): ApiPath<String>,
) -> Result<StatusCode, Problem> {
    access.require_all_sites()?;
    regions::remove_region(&api.store, &parse_region(&region)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse_region(name: &str) -> Result<RegionName, Problem> {
    name.parse().map_err(|error| Problem::invalid_field("/region", &error))
}
