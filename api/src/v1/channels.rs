//! Notification channels: where messages go. Their credentials are names of secrets, whose values only notifiers have.

mod body;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use picket_store::{
    Error,
    channel_tests::TestProgress,
    channels::{self, Channel as StoredChannel},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::body::{Channel, ChannelList, NewChannel, decode_channel, describe_fields};
use super::{
    api_row::api_row,
    catch_up::CatchUpQuery,
    location::respond_with_location,
    preconditions::{WRITE_ATTEMPTS, build_etag, check_if_match},
    site_body::merge_patch,
};
use crate::{
    access::{Access, Administrator, Reader, Writer},
    channels::{require_channel, send_test},
    extract::{ApiJson, ApiPath, ApiQuery},
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_channels, add_channel))
        .routes(routes!(read_channel, replace_channel, change_channel, delete_channel))
        .routes(routes!(test_channel))
}

/// A new channel.
#[derive(Serialize, ToSchema)]
struct AddedChannel {
    #[serde(flatten)]
    channel: Channel,
    /// Number of notices of what was open already; null without `catch_up`.
    caught_up: Option<i64>,
}

/// Lists all channels by name. A token with a tag limit sees their names and states, and no settings.
#[utoipa::path(
    get, path = "/channels", tag = "channels", security(("token" = ["read"])),
    responses((status = OK, body = ChannelList)),
)]
async fn list_channels(Reader(access): Reader, State(api): State<Api>) -> Result<Json<ChannelList>, Problem> {
    let found = channels::list_channels(&api.store).await?;
    Ok(Json(ChannelList { items: found.iter().map(|channel| Channel::new(channel, &access)).collect() }))
}

/// Adds a channel. It is told of what its routes name, from then on.
///
/// A credential is never sent here: `{"secret": NAME}` names an entry of the file that PICKET_SECRETS_FILE of the
/// notifiers names, which also says to which hosts it may be sent.
#[utoipa::path(
    post, path = "/channels", tag = "channels", security(("token" = ["admin"])), params(CatchUpQuery), request_body = NewChannel,
    responses(
        (status = CREATED, body = AddedChannel,
            headers(("Location" = String, description = "Address of the channel"), ("ETag" = String, description = "Version"))),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "A channel has the name: `existing`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn add_channel(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<CatchUpQuery>,
    ApiJson(body): ApiJson<Value>,
) -> Result<Response, Problem> {
    access.require_all_sites()?;
    let channel = decode_channel(&body, None)?;
    let added = match query.catch_up {
        true => channels::add_channel_with_catch_up(&api.store, &channel).await.map(Some),
        false => channels::add_channel(&api.store, &channel).await.map(|()| None),
    };
    let caught_up = match added {
        Err(Error::Invalid(why)) if why.field == "name" => {
            return Err(Problem::new(ProblemKind::Conflict, why.to_string()).with_existing(channel.name));
        }
        added => added?,
    };
    let location = format!("/api/v1/channels/{}", channel.name);
    let found = require_channel(&api, &channel.name).await?;
    let added = AddedChannel { channel: Channel::new(&found, &access), caught_up };
    let etag = [(header::ETAG, build_etag(&found.version))];
    Ok(respond_with_location(StatusCode::CREATED, &location, (etag, Json(added))))
}

/// Reads a channel with its state.
#[utoipa::path(
    get, path = "/channels/{name}", tag = "channels", security(("token" = ["read"])),
    params(("name" = String, Path, description = "Name of the channel")),
    responses(
        (status = OK, body = Channel, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such channel."),
    ),
)]
async fn read_channel(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
) -> Result<Response, Problem> {
    Ok(respond_with_channel(&require_channel(&api, &name).await?, &access))
}

/// Replaces the definition of a channel. An absent field gets its default. Waiting messages are tried at once.
#[utoipa::path(
    put, path = "/channels/{name}", tag = "channels", security(("token" = ["admin"])), request_body = NewChannel,
    params(
        ("name" = String, Path, description = "Name of the channel"),
        ("If-Match" = Option<String>, Header, description = "Changes the channel only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Channel, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such channel."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The channel has another version than `If-Match`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn replace_channel(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Value>,
) -> Result<Response, Problem> {
    write_channel(&api, &access, &name, &headers, |_| Ok(body.clone())).await
}

/// Changes fields of a channel by a merge patch (RFC 7396). A null field gets its default. `{"enabled": false}`
/// pauses the channel: new events are not sent, waiting messages are suppressed.
#[utoipa::path(
    patch, path = "/channels/{name}", tag = "channels", security(("token" = ["admin"])),
    request_body(content = Value, content_type = "application/merge-patch+json",
        description = "The fields to change, as in the body of PUT; `application/json` is accepted as well",
        example = json!({"enabled": false})),
    params(
        ("name" = String, Path, description = "Name of the channel"),
        ("If-Match" = Option<String>, Header, description = "Changes the channel only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Channel, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such channel."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The channel has another version than `If-Match`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn change_channel(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
    headers: HeaderMap,
    ApiJson(patch): ApiJson<Value>,
) -> Result<Response, Problem> {
    write_channel(&api, &access, &name, &headers, |found| {
        let stored = found.definition.as_ref().map_err(|why| {
            let detail = format!("the channel cannot be read, so it can only be replaced with PUT: {why}");
            Problem::new(ProblemKind::Conflict, detail)
        })?;
        let mut fields = describe_fields(stored);
        merge_patch(&mut fields, &patch);
        Ok(fields)
    })
    .await
}

/// Removes a channel without routes. Waiting messages are suppressed.
#[utoipa::path(
    delete, path = "/channels/{name}", tag = "channels", security(("token" = ["admin"])),
    params(
        ("name" = String, Path, description = "Name of the channel"),
        ("If-Match" = Option<String>, Header, description = "Removes the channel only if it still has this `ETag`"),
    ),
    responses(
        (status = NO_CONTENT, description = "The channel was removed."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such channel."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json", description = "Routes name the channel."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The channel has another version than `If-Match`."),
    ),
)]
async fn delete_channel(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    access.require_all_sites()?;
    for _ in 0..WRITE_ATTEMPTS {
        let found = require_channel(&api, &name).await?;
        check_if_match(&headers, &build_etag(&found.version))?;
        match channels::remove_channel(&api.store, &name, Some(&found.version)).await {
            Ok(true) => return Ok(StatusCode::NO_CONTENT),
            Ok(false) => {}
            Err(Error::Invalid(why)) => return Err(Problem::new(ProblemKind::Conflict, why.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Err(describe_changed_channel(&name))
}

api_row! {
    /// How far a test message is.
    Progress from TestProgress {
        /// `waiting`, `delivered`, `failed` or `superseded`.
        state: String,
        /// Why the test failed without an attempt.
        reason: Option<String>,
        /// First line of the message; null before the attempt.
        title: Option<String>,
        /// Time of the request.
        #[schema(value_type = String, format = DateTime)]
        requested_at: picket_store::DbTimestamp,
        /// Start of the attempt.
        #[schema(value_type = Option<String>, format = DateTime)]
        started_at: Option<picket_store::DbTimestamp>,
        /// End of the attempt.
        #[schema(value_type = Option<String>, format = DateTime)]
        ended_at: Option<picket_store::DbTimestamp>,
        /// `delivered`, `retry`, `refused`, `gone` or `moved`; null while the attempt lasts.
        outcome: Option<String>,
        /// HTTP status, SMTP reply code or exit code.
        status: Option<i32>,
        /// The receiver's answer, or the failure in words.
        message: Option<String>,
        /// Duration of the attempt in milliseconds.
        duration_ms: Option<i64>,
    }
}

/// A test message, and the answer of the receiver.
#[derive(Serialize, ToSchema)]
struct TestResult {
    /// Name of the channel.
    channel: String,
    /// Number of the notification, for `GET /notifications/{id}`.
    notification_id: String,
    #[serde(flatten)]
    progress: Progress,
}

/// Sends a message marked TEST through a channel, paused or not, on the way of every notification, and waits at most 28
/// seconds for the receiver's answer. A test is not tried again.
#[utoipa::path(
    post, path = "/channels/{name}/test", tag = "channels", security(("token" = ["write"])),
    params(("name" = String, Path, description = "Name of the channel")),
    responses(
        (status = OK, body = TestResult, description = "The attempt has ended, well or not: `outcome`."),
        (status = ACCEPTED, body = TestResult, description = "The attempt has not ended yet.",
            headers(("Location" = String, description = "Address of the notification"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such channel."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "Five tests of the channel wait already."),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json",
            description = "No notifier runs."),
    ),
)]
async fn test_channel(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
) -> Result<Response, Problem> {
    access.require_all_sites()?;
    let (id, progress) = send_test(&api, &name).await?;
    let is_over = progress.is_over();
    let body = TestResult { channel: name, notification_id: id.to_string(), progress: progress.into() };
    let location = format!("/api/v1/notifications/{id}");
    Ok(match is_over {
        true => Json(body).into_response(),
        false => respond_with_location(StatusCode::ACCEPTED, &location, Json(body)),
    })
}

async fn write_channel(
    api: &Api,
    access: &Access,
    name: &str,
    headers: &HeaderMap,
    define: impl Fn(&StoredChannel) -> Result<Value, Problem>,
) -> Result<Response, Problem> {
    access.require_all_sites()?;
    for _ in 0..WRITE_ATTEMPTS {
        let found = require_channel(api, name).await?;
        check_if_match(headers, &build_etag(&found.version))?;
        let channel = decode_channel(&define(&found)?, Some(name))?;
        if found.definition.as_ref().is_ok_and(|stored| *stored == channel)
            || channels::update_channel(&api.store, &channel, Some(&found.version)).await?
        {
            return Ok(respond_with_channel(&require_channel(api, name).await?, access));
        }
    }
    Err(describe_changed_channel(name))
}

fn respond_with_channel(found: &StoredChannel, access: &Access) -> Response {
    ([(header::ETAG, build_etag(&found.version))], Json(Channel::new(found, access))).into_response()
}

fn describe_changed_channel(name: &str) -> Problem {
    Problem::new(ProblemKind::Conflict, format!("other clients keep changing channel '{name}'; try again"))
}
