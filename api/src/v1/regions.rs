//! Regions, the locations of probers.

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use picket_proto::RegionName;
use picket_store::regions;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{Reader, Writer},
    problem::Problem,
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_regions)).routes(routes!(add_region, remove_region))
}

/// A region.
#[derive(Serialize, ToSchema)]
struct Region {
    /// Name of the region.
    name: String,
    /// Number of schedules in force.
    schedules: i64,
}

/// Active regions.
#[derive(Serialize, ToSchema)]
struct RegionList {
    items: Vec<Region>,
}

/// Lists the active regions by name.
#[utoipa::path(
    get, path = "/regions", tag = "regions", security(("token" = ["read"])),
    responses((status = OK, body = RegionList), (status = "default", body = Problem, content_type = "application/problem+json")),
)]
async fn list_regions(_: Reader, State(api): State<Api>) -> Result<Json<RegionList>, Problem> {
    let rows = regions::list_regions(&api.store).await?;
    let items = rows.into_iter().map(|row| Region { name: row.name, schedules: row.schedules }).collect();
    Ok(Json(RegionList { items }))
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
    Path(region): Path<String>,
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
    Path(region): Path<String>,
) -> Result<StatusCode, Problem> {
    access.require_all_sites()?;
    regions::remove_region(&api.store, &parse_region(&region)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse_region(name: &str) -> Result<RegionName, Problem> {
    name.parse().map_err(|error| Problem::invalid_field("/region", &error))
}
