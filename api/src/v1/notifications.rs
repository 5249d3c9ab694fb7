//! Notifications: the messages to channels, their attempts, and their notices.

mod account;
mod notices;
mod retries;

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use http::StatusCode;
use picket_store::{
    DbTimestamp,
    notifications::{
        ListedAttempt, ListedNotice, ListedNotification, NoticesOf, NotificationFilter, RetrySelection,
        list_attempts, list_notices_of_tags, list_notifications as read_notifications, retry_failed,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    api_row::api_row,
    location::respond_with_location,
    paging::{Page, PageRequest},
};
use crate::{
    access::{Access, Reader, Writer},
    extract::{ApiPath, ApiQuery, PageLimit},
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Maximum notices in a response.
pub(super) const MAX_NOTICES: i64 = 500;
/// States of notifications.
pub(crate) const NOTIFICATION_STATES: [&str; 4] = ["waiting", "delivered", "failed", "superseded"];

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_notifications))
        .routes(routes!(read_notification))
        .routes(routes!(retry_notification))
        .merge(account::build_routes())
        .merge(notices::build_routes())
        .merge(retries::build_routes())
}

api_row! {
    /// A message to a channel. A receiver knows it by its number, as `webhook-id` or `Message-ID`.
    Notification from ListedNotification {
        /// Number of the notification.
        notification_id: String,
        /// Name of the channel.
        channel: String,
        /// `alert`, `reminder`, `escalation`, `digest` or `test`.
        purpose: String,
        /// `waiting` (for an attempt or its end), `delivered`, `failed` or `superseded` (nothing was left to say).
        state: String,
        /// Reason of a failure, or of being superseded.
        reason: Option<String>,
        /// First line of the last attempt; null if it names sites that the token may not see.
        title: Option<String>,
        /// Number of attempts so far.
        attempts: i32,
        /// Time of creation.
        #[schema(value_type = String, format = DateTime)]
        created_at: DbTimestamp,
        /// Time of the delivery or of giving up.
        #[schema(value_type = Option<String>, format = DateTime)]
        ended_at: Option<DbTimestamp>,
        /// Time of the next attempt.
        #[schema(value_type = Option<String>, format = DateTime)]
        next_attempt_at: Option<DbTimestamp>,
        /// Outcome of the last attempt.
        last_outcome: Option<String>,
        /// HTTP status, SMTP reply code or exit code of the last attempt.
        last_status: Option<i32>,
        /// The receiver's answer to the last attempt, or the failure in words; null for a token with a tag limit.
        last_message: Option<String>,
        /// Start of the last attempt.
        #[schema(value_type = Option<String>, format = DateTime)]
        last_attempt_at: Option<DbTimestamp>,
        /// Attempts with an unknown end: the receiver may have the message, and a later attempt repeats the message.
        unknown_ends: i64,
        /// Ids of the told incidents, of sites within the tag limit.
        incident_ids: Vec<i64>,
    }
}

api_row! {
    /// An attempt to deliver a notification.
    Attempt from ListedAttempt {
        /// Number of the attempt, from 1.
        number: i32,
        /// Start of the attempt.
        #[schema(value_type = String, format = DateTime)]
        started_at: DbTimestamp,
        /// End of the attempt; null while it lasts, or if its end is unknown.
        #[schema(value_type = Option<String>, format = DateTime)]
        ended_at: Option<DbTimestamp>,
        /// `delivered`, `retry`, `refused`, `gone` or `moved`; `sending` while it lasts, `unknown` if the notifier ended
        /// before it.
        outcome: String,
        /// HTTP status, SMTP reply code or exit code.
        status: Option<i32>,
        /// The receiver's answer, or the failure in words; null for a token with a tag limit.
        message: Option<String>,
        /// Time that the receiver demanded before the next attempt, in milliseconds.
        retry_after_ms: Option<i64>,
        /// Id of the notifier.
        notifier: String,
    }
}

api_row! {
    /// What a channel was or is to be told, and the outcome.
    Notice from ListedNotice {
        /// Name of the event, such as `incident.opened`.
        event: String,
        /// Time when the event was recorded.
        #[schema(value_type = String, format = DateTime)]
        recorded_at: DbTimestamp,
        /// The incident, for events of incidents.
        incident_id: Option<i64>,
        /// Name of the site, or its URL, for events of sites.
        site: Option<String>,
        /// Name of the channel.
        channel: String,
        /// `event`, `reminder`, `escalation`, `calm` (a site that was flapping has become steady) or
        /// `acknowledgement` (as PagerDuty and Opsgenie are told).
        step: String,
        /// Number of the reminder or of the step.
        number: i16,
        /// Name of the route.
        route: Option<String>,
        /// `waiting`, `delivered`, `suppressed` or `failed`.
        state: String,
        /// Reason of a suppression or a failure, or the object of the wait.
        reason: Option<String>,
        /// Earliest time of the message, while it waits.
        #[schema(value_type = Option<String>, format = DateTime)]
        due_at: Option<DbTimestamp>,
        /// Time of the end.
        #[schema(value_type = Option<String>, format = DateTime)]
        ended_at: Option<DbTimestamp>,
        /// Number of the message.
        notification_id: Option<String>,
    }
}

/// A notification with its attempts and with its notices.
#[derive(Serialize, ToSchema)]
struct NotificationDetail {
    #[serde(flatten)]
    notification: Notification,
    /// Attempts in their order.
    attempt_list: Vec<Attempt>,
    /// Notices, at most 500, the oldest first.
    notices: Vec<Notice>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct NotificationQuery {
    /// Only of the channel with this name.
    channel: Option<String>,
    /// Only in this state: waiting, delivered, failed or superseded.
    state: Option<String>,
    /// Only those about the incident with this id.
    incident: Option<i64>,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists notifications, the newest first. A token with a tag limit sees messages about its sites.
#[utoipa::path(
    get, path = "/notifications", tag = "notifications", security(("token" = ["read"])), params(NotificationQuery),
    responses((status = OK, body = Page<Notification>, headers(("Link" = String, description = "The next page, if any")))),
)]
async fn list_notifications(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiQuery(query): ApiQuery<NotificationQuery>,
) -> Result<Response, Problem> {
    let request: PageRequest<Uuid> = PageRequest::new(query.limit, query.cursor.as_deref())?;
    if let Some(state) = query.state.as_deref().filter(|state| !NOTIFICATION_STATES.contains(state)) {
        return Err(Problem::invalid_parameter("state", state, &NOTIFICATION_STATES.join(", ")));
    }
    let filter = NotificationFilter {
        channel: query.channel.as_deref(),
        state: query.state.as_deref(),
        incident: query.incident,
        tags: access.tag_limit(),
        after: request.after,
        limit: Some(request.row_limit()),
        ..NotificationFilter::default()
    };
    let rows = read_notifications(&api.store, filter).await?;
    let key = |row: &ListedNotification| {
        (row.created_at.0, Uuid::parse_str(&row.notification_id).unwrap_or_default())
    };
    Ok(request.build_page(rows, key, Notification::from).into_response(&uri))
}

/// Reads a notification with its attempts and with its notices.
#[utoipa::path(
    get, path = "/notifications/{id}", tag = "notifications", security(("token" = ["read"])),
    params(("id" = String, Path, description = "Number of the notification")),
    responses(
        (status = OK, body = NotificationDetail),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such notification, or the token is limited to tags and it tells of other sites."),
    ),
)]
async fn read_notification(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Json<NotificationDetail>, Problem> {
    let notification = find_notification(&api, &access, id).await?;
    let (attempts, notices) = read_parts(&api, &access, id).await?;
    Ok(Json(NotificationDetail {
        notification: notification.into(),
        attempt_list: attempts.into_iter().map(Attempt::from).collect(),
        notices: notices.into_iter().map(Notice::from).collect(),
    }))
}

/// Has a failed notification tried once more, at once, under its number.
#[utoipa::path(
    post, path = "/notifications/{id}/retry", tag = "notifications", security(("token" = ["write"])),
    params(("id" = String, Path, description = "Number of the notification")),
    responses(
        (status = ACCEPTED, body = Notification, description = "The notification waits for the attempt.",
            headers(("Location" = String, description = "Address of the notification"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such notification, or the token is limited to tags and it tells of other sites."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "The notification has not failed, or its channel was removed."),
    ),
)]
async fn retry_notification(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Response, Problem> {
    retry(&api, &access, id).await?;
    let notification = Notification::from(find_notification(&api, &access, id).await?);
    let location = format!("/api/v1/notifications/{id}");
    Ok(respond_with_location(StatusCode::ACCEPTED, &location, Json(notification)))
}

/// Has a failed notification within the tag limit tried once more.
///
/// # Errors
/// If there is no such notification, or it has not failed.
pub(crate) async fn retry(api: &Api, access: &Access, id: Uuid) -> Result<(), Problem> {
    let found = find_notification(api, access, id).await?;
    if found.purpose == "test" {
        let detail = format!("notification {id} is a test; send another one");
        return Err(Problem::new(ProblemKind::Conflict, detail));
    }
    if retry_failed(&api.store, RetrySelection::One(id)).await? > 0 {
        return Ok(());
    }
    let detail = match found.state.as_str() {
        "failed" => format!("channel '{}' was removed, so nothing can be sent", found.channel),
        state => format!("notification {id} is {state}; only a failed one is tried again"),
    };
    Err(Problem::new(ProblemKind::Conflict, detail))
}

/// Finds a notification within the tag limit.
///
/// # Errors
/// If there is none.
pub(crate) async fn find_notification(
    api: &Api,
    access: &Access,
    id: Uuid,
) -> Result<ListedNotification, Problem> {
    let filter =
        NotificationFilter { id: Some(id), tags: access.tag_limit(), ..NotificationFilter::default() };
    let found = read_notifications(&api.store, filter).await?;
    let missing = || Problem::new(ProblemKind::NotFound, format!("there is no notification {id}"));
    found.into_iter().next().ok_or_else(missing)
}

/// Reads the attempts of a notification, and what it tells of sites within the tag limit.
///
/// # Errors
/// If the database cannot be reached in time.
pub(crate) async fn read_parts(
    api: &Api,
    access: &Access,
    id: Uuid,
) -> Result<(Vec<ListedAttempt>, Vec<ListedNotice>), Problem> {
    let limit = access.tag_limit();
    let mut attempts = list_attempts(&api.store, id).await?;
    // An answer may name what the channel's settings have, such as a recipient.
    if limit.is_some() {
        attempts.iter_mut().for_each(|attempt| attempt.message = None);
    }
    let notices = list_notices_of_tags(&api.store, NoticesOf::Notification(id), limit, MAX_NOTICES).await?;
    Ok((attempts, notices))
}
