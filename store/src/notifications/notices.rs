//! Notices: what each channel was or is to be told, and the outcome.

use picket_proto::Timestamp;
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::NOTIFICATIONS_TIMEOUT;
use crate::{DbTimestamp, Error, Store};

/// What a channel was or is to be told, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct ListedNotice {
    /// Name of the event, such as `incident.opened`.
    pub event: String,
    /// Time when the event was recorded.
    pub recorded_at: DbTimestamp,
    /// The incident, for events of incidents.
    pub incident_id: Option<i64>,
    /// Name of the site, or its URL, for events of sites.
    pub site: Option<String>,
    /// Name of the channel.
    pub channel: String,
    /// `event`, `reminder`, `escalation` or `calm`.
    pub step: String,
    /// Number of the reminder or of the step.
    pub number: i16,
    /// Name of the route.
    pub route: Option<String>,
    /// `waiting`, `delivered`, `suppressed` or `failed`.
    pub state: String,
    /// Reason of a suppression or a failure, or the object of the wait.
    pub reason: Option<String>,
    /// Earliest time of the message, while it waits.
    pub due_at: Option<DbTimestamp>,
    /// Time when it ended.
    pub ended_at: Option<DbTimestamp>,
    /// Number of the telling notification.
    pub notification_id: Option<String>,
}

/// Selection of notices: of a notification or of an incident.
#[derive(Clone, Copy, Debug)]
pub enum NoticesOf {
    /// All notices told by a notification.
    Notification(Uuid),
    /// All notices of an incident.
    Incident(i64),
}

/// Selection of notices, such as those behind a number of the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoticeFilter<'a> {
    /// Only notices told by this notification.
    pub notification: Option<Uuid>,
    /// Only notices of this incident.
    pub incident: Option<i64>,
    /// Only of this channel.
    pub channel: Option<&'a str>,
    /// Only in this state, from [`STATES`](Self::STATES).
    pub state: Option<&'a str>,
    /// Only with this reason.
    pub reason: Option<&'a str>,
    /// Only of this step, from [`STEPS`](Self::STEPS).
    pub step: Option<&'a str>,
    /// Only of events recorded at this time or later, as in the ledger.
    pub from: Option<Timestamp>,
    /// Only of events recorded before this time.
    pub to: Option<Timestamp>,
    /// Only about sites with one of these tags.
    pub tags: Option<&'a [String]>,
    /// Lists the newest first in place of the oldest.
    pub newest_first: bool,
    /// Maximum number of notices.
    pub limit: i64,
}

impl NoticeFilter<'_> {
    /// States of notices.
    pub const STATES: [&'static str; 4] = ["waiting", "delivered", "suppressed", "failed"];
    /// Steps of notices.
    pub const STEPS: [&'static str; 4] = ["event", "reminder", "escalation", "calm"];
}

/// Lists at most `limit` of the selected notices, the oldest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_notices(store: &Store, of: NoticesOf, limit: i64) -> Result<Vec<ListedNotice>, Error> {
    list_notices_of_tags(store, of, None, limit).await
}

/// As [`list_notices`]; with tags, only notices about sites with one of the tags.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_notices_of_tags(
    store: &Store,
    of: NoticesOf,
    tags: Option<&[String]>,
    limit: i64,
) -> Result<Vec<ListedNotice>, Error> {
    let filter = NoticeFilter { tags, limit, ..NoticeFilter::default() };
    let filter = match of {
        NoticesOf::Notification(id) => NoticeFilter { notification: Some(id), ..filter },
        NoticesOf::Incident(id) => NoticeFilter { incident: Some(id), ..filter },
    };
    list_selected_notices(store, &filter).await
}

/// Lists the selected notices.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_selected_notices(
    store: &Store,
    filter: &NoticeFilter<'_>,
) -> Result<Vec<ListedNotice>, Error> {
    let query = sqlx::query_as(
        "SELECT transition.event, transition.recorded_at, transition.incident_id, site.site, notice.channel,
                notice.step::text AS step, notice.number, notice.route, notice.state::text AS state, notice.reason,
                CASE WHEN notice.state = 'waiting' THEN notice.due_at END AS due_at, notice.ended_at,
                notice.notification_id::text AS notification_id
         FROM picket.notices AS notice
         JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
         LEFT JOIN picket.known_sites AS site ON site.id = transition.site_id
         WHERE ($1::uuid IS NULL OR notice.notification_id = $1::uuid) AND ($2::bigint IS NULL OR transition.incident_id = $2)
           AND ($4::text[] IS NULL OR site.tags && $4)
           AND ($5::text IS NULL OR notice.channel = $5) AND ($6::text IS NULL OR notice.state::text = $6)
           AND ($7::text IS NULL OR notice.reason = $7) AND ($8::text IS NULL OR notice.step::text = $8)
           AND ($9::timestamptz IS NULL OR transition.recorded_at >= $9)
           AND ($10::timestamptz IS NULL OR transition.recorded_at < $10)
         ORDER BY CASE WHEN $11 THEN -transition.transition_id ELSE transition.transition_id END,
                  notice.channel, notice.step, notice.number
         LIMIT $3",
    )
    .bind(filter.notification.map(|id| id.to_string()))
    .bind(filter.incident)
    .bind(filter.limit)
    .bind(filter.tags)
    .bind(filter.channel)
    .bind(filter.state)
    .bind(filter.reason)
    .bind(filter.step)
    .bind(filter.from.map(DbTimestamp))
    .bind(filter.to.map(DbTimestamp))
    .bind(filter.newest_first);
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "list notices", query.fetch_all(&store.pool)).await
}
