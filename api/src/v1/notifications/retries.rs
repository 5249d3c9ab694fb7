//! Another try of all that failed on a channel.

use axum::{Json, extract::State};
use picket_proto::Timestamp;
use picket_store::notifications::{RetrySelection, retry_failed};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{access::Writer, channels::require_channel, extract::ApiJson, problem::Problem, state::Api};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(retry_notifications))
}

/// Selection of failed notifications.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"channel": "ops", "since": "2026-12-01T09:00:00Z"}))]
struct RetryRequest {
    /// Name of the channel.
    channel: String,
    /// Only what failed at this time or later.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

/// What is tried again.
#[derive(Serialize, ToSchema)]
struct Retried {
    /// Number of messages, and of notices without a message, that wait for another try now.
    retried: i64,
}

/// Has all that failed on a channel since a time tried once more, at once, each message under its number. What is said is
/// composed anew from what is true then. What waits already is not counted again, so that a repeated request is harmless.
#[utoipa::path(
    post, path = "/notifications/retry", tag = "notifications", security(("token" = ["write"])), request_body = RetryRequest,
    responses(
        (status = OK, body = Retried),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags, and a channel tells of all sites."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such channel."),
    ),
)]
async fn retry_notifications(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiJson(request): ApiJson<RetryRequest>,
) -> Result<Json<Retried>, Problem> {
    access.require_all_sites()?;
    require_channel(&api, &request.channel).await?;
    let selection = RetrySelection::Channel(&request.channel, request.since);
    Ok(Json(Retried { retried: retry_failed(&api.store, selection).await? }))
}
