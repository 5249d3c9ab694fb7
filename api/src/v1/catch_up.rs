//! Telling channels, or the channels of a route, of what is open already.

use axum::{Json, extract::State};
use picket_store::channels::catch_up;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::Administrator,
    channels::{require_channel, require_route},
    extract::ApiPath,
    problem::Problem,
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(catch_up_channel)).routes(routes!(catch_up_route))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CatchUpQuery {
    /// Tells the new one once of what is open now and concerns it.
    #[serde(default)]
    pub(super) catch_up: bool,
}

/// What was caught up.
#[derive(Serialize, ToSchema)]
struct CaughtUp {
    /// Number of notices that wait now; 0 if all of it was told before.
    notices: i64,
}

/// Tells a channel once of what is open now and concerns it: of what began before the channel was there. Nothing is told
/// twice, so that a repeated request is harmless.
#[utoipa::path(
    post, path = "/channels/{name}/catch-up", tag = "channels", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "Name of the channel")),
    responses(
        (status = OK, body = CaughtUp),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such channel."),
    ),
)]
async fn catch_up_channel(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<CaughtUp>, Problem> {
    access.require_all_sites()?;
    require_channel(&api, &name).await?;
    Ok(Json(CaughtUp { notices: catch_up(&api.store, Some(&name), None).await? }))
}

/// Tells the channels of a route once of what is open now and concerns it. Nothing is told twice, so that a repeated
/// request is harmless.
#[utoipa::path(
    post, path = "/routes/{name}/catch-up", tag = "routes", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "Name of the route")),
    responses(
        (status = OK, body = CaughtUp),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such route."),
    ),
)]
async fn catch_up_route(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<CaughtUp>, Problem> {
    access.require_all_sites()?;
    require_route(&api, &name).await?;
    Ok(Json(CaughtUp { notices: catch_up(&api.store, None, Some(&name)).await? }))
}
