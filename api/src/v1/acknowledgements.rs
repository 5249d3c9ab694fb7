//! Acknowledgements of incidents: reminders and escalation stop.

use axum::{Json, extract::State};
use http::StatusCode;
use picket_store::{
    DbTimestamp,
    acknowledgements::{
        Acknowledged, Acknowledgement as StoredAcknowledgement,
        acknowledge_incident as insert_acknowledgement, withdraw_acknowledgement as delete_acknowledgement,
    },
    incident_pages,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::api_row::api_row;
use crate::{
    access::{Access, Writer},
    extract::{ApiJson, ApiPath},
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(acknowledge_incident, withdraw_acknowledgement))
}

api_row! {
    /// The acknowledgement of an incident.
    #[schema(example = json!({
        "incident_id": 12, "acknowledged_at": "2026-11-20T12:04:00.000000Z", "acknowledged_by": "ada", "note": "restarting it"
    }))]
    Acknowledgement from StoredAcknowledgement {
        /// Id of the incident.
        incident_id: i64,
        /// Time of the acknowledgement.
        #[schema(value_type = String, format = DateTime)]
        acknowledged_at: DbTimestamp,
        /// Name of the token or the person.
        acknowledged_by: String,
        /// Remark about the incident.
        note: Option<String>,
    }
}

/// An acknowledgement to write, under the name of the token or the session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"note": "restarting it"}))]
struct NewAcknowledgement {
    /// Remark about the incident.
    note: Option<String>,
}

/// Acknowledges an open incident: no reminder and no escalation follows, and its end is told.
#[utoipa::path(
    put, path = "/incidents/{id}/acknowledgement", tag = "incidents", security(("token" = ["write"])),
    request_body = NewAcknowledgement,
    params(("id" = i64, Path, description = "Id of the incident")),
    responses(
        (status = OK, body = Acknowledgement, description = "The incident is acknowledged."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such incident, or the token is limited to tags of which its site has none."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "The incident is closed, or somebody has acknowledged it otherwise; DELETE takes that back."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "The note is not allowed."),
    ),
)]
async fn acknowledge_incident(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    ApiJson(body): ApiJson<NewAcknowledgement>,
) -> Result<Json<Acknowledgement>, Problem> {
    let note = body.note.as_deref();
    acknowledge(&api, &access, id, note).await.map(|acknowledged| Json(acknowledged.into()))
}

/// Takes an acknowledgement back: reminders and escalation go on.
#[utoipa::path(
    delete, path = "/incidents/{id}/acknowledgement", tag = "incidents", security(("token" = ["write"])),
    params(("id" = i64, Path, description = "Id of the incident")),
    responses(
        (status = NO_CONTENT, description = "The acknowledgement was taken back."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such incident, nobody has acknowledged it, or the token is limited to other tags."),
    ),
)]
async fn withdraw_acknowledgement(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
) -> Result<StatusCode, Problem> {
    withdraw(&api, &access, id).await.map(|()| StatusCode::NO_CONTENT)
}

/// Acknowledges an incident within the tag limit.
///
/// # Errors
/// If there is no such incident, it is closed, or acknowledged in other words.
pub(crate) async fn acknowledge(
    api: &Api,
    access: &Access,
    id: i64,
    note: Option<&str>,
) -> Result<StoredAcknowledgement, Problem> {
    require_incident(api, access, id).await?;
    match insert_acknowledgement(&api.store, id, Some(&access.name), note).await? {
        Acknowledged::Now(acknowledged) => Ok(acknowledged),
        Acknowledged::Before(earlier)
            if earlier.acknowledged_by == access.name && earlier.note.as_deref() == note =>
        {
            Ok(earlier)
        }
        Acknowledged::Before(earlier) => {
            let (by, at) = (earlier.acknowledged_by, earlier.acknowledged_at.0);
            Err(Problem::new(ProblemKind::Conflict, format!("{by} has acknowledged incident {id} at {at}")))
        }
        Acknowledged::Closed => {
            let detail = format!("incident {id} is closed, so there is nothing to stop");
            Err(Problem::new(ProblemKind::Conflict, detail))
        }
        Acknowledged::NotFound => Err(describe_missing_incident(id)),
    }
}

/// Takes the acknowledgement of an incident back within the tag limit.
///
/// # Errors
/// If there is no such incident, or no acknowledgement.
pub(crate) async fn withdraw(api: &Api, access: &Access, id: i64) -> Result<(), Problem> {
    require_incident(api, access, id).await?;
    match delete_acknowledgement(&api.store, id).await? {
        true => Ok(()),
        false => Err(Problem::new(ProblemKind::NotFound, format!("nobody has acknowledged incident {id}"))),
    }
}

async fn require_incident(api: &Api, access: &Access, id: i64) -> Result<(), Problem> {
    let found = incident_pages::read_incident(&api.store, id, access.tag_limit()).await?;
    found.map(drop).ok_or_else(|| describe_missing_incident(id))
}

fn describe_missing_incident(id: i64) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no incident {id}"))
}
