//! Notifications as people read them: messages, their attempts, and the ledger of notices.

mod ledger;

use std::time::Duration;

use picket_proto::Timestamp;
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

pub use self::ledger::{LedgerEntry, LedgerReason, LedgerSum, NotificationLedger, read_notification_ledger};
use crate::{DbTimestamp, Error, Store};

const NOTIFICATIONS_TIMEOUT: Duration = Duration::from_secs(30);

/// A row of `report.notifications`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct ListedNotification {
    /// Number of the notification.
    pub notification_id: String,
    /// Name of the channel.
    pub channel: String,
    /// `alert`, `reminder`, `escalation`, `digest` or `test`.
    pub purpose: String,
    /// `waiting`, `delivered`, `failed` or `superseded`.
    pub state: String,
    /// Why it failed or was superseded.
    pub reason: Option<String>,
    /// First line of the last attempt.
    pub title: Option<String>,
    /// Number of attempts so far.
    pub attempts: i32,
    /// Time when it was made.
    pub created_at: DbTimestamp,
    /// Time when it was delivered or given up.
    pub ended_at: Option<DbTimestamp>,
    /// Time of the next attempt.
    pub next_attempt_at: Option<DbTimestamp>,
    /// Outcome of the last attempt.
    pub last_outcome: Option<String>,
    /// Status of the last attempt.
    pub last_status: Option<i32>,
    /// The receiver's answer to the last attempt, or the failure in words.
    pub last_message: Option<String>,
    /// Start of the last attempt.
    pub last_attempt_at: Option<DbTimestamp>,
    /// Attempts of which it is unknown whether the receiver has the message.
    pub unknown_ends: i64,
    /// The incidents of which it tells.
    pub incident_ids: Vec<i64>,
}

/// Selection of notifications.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotificationFilter<'a> {
    /// Only the notification with this number.
    pub id: Option<Uuid>,
    /// Only of this channel.
    pub channel: Option<&'a str>,
    /// Only in this state.
    pub state: Option<&'a str>,
    /// Only those that tell of this incident.
    pub incident: Option<i64>,
    /// Only those that tell of a site with one of these tags, and of them what concerns such sites:
    /// no answer of a receiver, and no title that names other sites.
    pub tags: Option<&'a [String]>,
    /// Only those made at this time or later.
    pub from: Option<Timestamp>,
    /// Only those after the one made at this time with this number, in the order of the list.
    pub after: Option<(Timestamp, Uuid)>,
    /// Maximum number of notifications.
    pub limit: Option<i64>,
}

/// Lists the selected notifications, the newest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_notifications(
    store: &Store,
    filter: NotificationFilter<'_>,
) -> Result<Vec<ListedNotification>, Error> {
    let query = sqlx::query_as(
        "SELECT notification_id::text AS notification_id, channel, purpose, state::text AS state, reason,
                CASE WHEN $9::text[] IS NULL OR NOT EXISTS (
                    SELECT FROM picket.notices AS notice
                    JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
                    LEFT JOIN picket.known_sites AS site ON site.id = transition.site_id
                    WHERE notice.notification_id = message.notification_id AND NOT coalesce(site.tags && $9, false))
                THEN title END AS title,
                attempts, created_at, ended_at, next_attempt_at, last_outcome, last_status,
                CASE WHEN $9 IS NULL THEN last_message END AS last_message, last_attempt_at, unknown_ends,
                CASE WHEN $9 IS NULL THEN coalesce(incident_ids, '{}') ELSE ARRAY(
                    SELECT DISTINCT transition.incident_id FROM picket.notices AS notice
                    JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
                    JOIN picket.known_sites AS site ON site.id = transition.site_id AND site.tags && $9
                    WHERE notice.notification_id = message.notification_id AND transition.incident_id IS NOT NULL
                    ORDER BY transition.incident_id) END AS incident_ids
         FROM report.notifications AS message
         WHERE ($1::uuid IS NULL OR notification_id = $1::uuid) AND ($2::text IS NULL OR channel = $2)
           AND ($3::text IS NULL OR state::text = $3) AND ($4::timestamptz IS NULL OR created_at >= $4)
           AND ($5::timestamptz IS NULL OR (created_at, notification_id) < ($5, $6::uuid))
           AND ($8::bigint IS NULL OR notification_id IN (
               SELECT notice.notification_id FROM picket.transitions AS transition
               JOIN picket.notices AS notice ON notice.transition_id = transition.transition_id
               WHERE transition.incident_id = $8))
           AND ($9 IS NULL OR EXISTS (
               SELECT FROM picket.notices AS notice
               JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
               JOIN picket.known_sites AS site ON site.id = transition.site_id AND site.tags && $9
               WHERE notice.notification_id = message.notification_id))
         ORDER BY created_at DESC, notification_id DESC LIMIT $7",
    )
    .bind(filter.id.map(|id| id.to_string()))
    .bind(filter.channel)
    .bind(filter.state)
    .bind(filter.from.map(DbTimestamp))
    .bind(filter.after.map(|(at, _)| DbTimestamp(at)))
    .bind(filter.after.map(|(_, id)| id.to_string()))
    .bind(filter.limit)
    .bind(filter.incident)
    .bind(filter.tags);
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "list notifications", query.fetch_all(&store.pool)).await
}

/// An attempt to deliver a notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct ListedAttempt {
    /// Number of the attempt, from 1.
    pub number: i32,
    /// Start of the attempt.
    pub started_at: DbTimestamp,
    /// End of the attempt; absent while it lasts, or if its end is unknown.
    pub ended_at: Option<DbTimestamp>,
    /// `delivered`, `retry`, `refused`, `gone` or `moved`; `sending` while it lasts, `unknown` if the
    /// notifier ended before it.
    pub outcome: String,
    /// HTTP status, SMTP reply code or exit code.
    pub status: Option<i32>,
    /// The receiver's answer or the failure in words.
    pub message: Option<String>,
    /// Time that the receiver demanded before the next attempt, in milliseconds.
    pub retry_after_ms: Option<i64>,
    /// Id of the notifier.
    pub notifier: String,
}

/// Lists the attempts of a notification in their order.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_attempts(store: &Store, id: Uuid) -> Result<Vec<ListedAttempt>, Error> {
    let query = sqlx::query_as(
        "SELECT attempt.number, attempt.started_at, attempt.ended_at,
                coalesce(attempt.outcome, CASE WHEN EXISTS (
                    SELECT FROM picket.channel_lanes AS held
                    WHERE held.channel = message.channel AND held.lane = message.lane AND held.epoch = attempt.epoch
                      AND held.leased_until > clock_timestamp()) THEN 'sending' ELSE 'unknown' END) AS outcome,
                attempt.status, attempt.message, attempt.retry_after_ms, attempt.notifier
         FROM picket.delivery_attempts AS attempt
         JOIN picket.notifications AS message ON message.notification_id = attempt.notification_id
         WHERE attempt.notification_id = $1::uuid ORDER BY attempt.number",
    )
    .bind(id.to_string());
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "list attempts", query.fetch_all(&store.pool)).await
}

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
    /// Why it was suppressed or failed, or what it waits for.
    pub reason: Option<String>,
    /// Earliest time of the message, while it waits.
    pub due_at: Option<DbTimestamp>,
    /// Time when it ended.
    pub ended_at: Option<DbTimestamp>,
    /// Number of the notification that tells of it.
    pub notification_id: Option<String>,
}

/// Selection of notices: of a notification or of an incident.
#[derive(Clone, Copy, Debug)]
pub enum NoticesOf {
    /// Those that a notification tells.
    Notification(Uuid),
    /// Those of an incident.
    Incident(i64),
}

/// Lists at most `limit` of the selected notices, the oldest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_notices(store: &Store, of: NoticesOf, limit: i64) -> Result<Vec<ListedNotice>, Error> {
    list_notices_of_tags(store, of, None, limit).await
}

/// As [`list_notices`]; with tags, only those about sites with one of them.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_notices_of_tags(
    store: &Store,
    of: NoticesOf,
    tags: Option<&[String]>,
    limit: i64,
) -> Result<Vec<ListedNotice>, Error> {
    let (notification, incident) = match of {
        NoticesOf::Notification(id) => (Some(id.to_string()), None),
        NoticesOf::Incident(id) => (None, Some(id)),
    };
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
         ORDER BY transition.transition_id, notice.channel, notice.step, notice.number LIMIT $3",
    )
    .bind(notification)
    .bind(incident)
    .bind(limit)
    .bind(tags);
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "list notices", query.fetch_all(&store.pool)).await
}

/// Failed notifications to try again.
#[derive(Clone, Copy, Debug)]
pub enum RetrySelection<'a> {
    /// A notification.
    One(Uuid),
    /// Those of a channel that failed at this time or later.
    Channel(&'a str, Timestamp),
}

/// Has failed notifications tried once more, at once; returns their number.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn retry_failed(store: &Store, selection: RetrySelection<'_>) -> Result<i64, Error> {
    let (id, channel, since) = match selection {
        RetrySelection::One(id) => (Some(id.to_string()), None, None),
        RetrySelection::Channel(channel, since) => (None, Some(channel), Some(DbTimestamp(since))),
    };
    let query =
        sqlx::query_scalar("SELECT picket.retry_failed($1::uuid, $2, $3)").bind(id).bind(channel).bind(since);
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "retry notifications", query.fetch_one(&store.pool)).await
}

/// Counts the notifiers that were alive in the last two minutes.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_notifiers(store: &Store) -> Result<i64, Error> {
    let query = sqlx::query_scalar(
        "SELECT count(*) FROM picket.notifiers WHERE seen_at > clock_timestamp() - interval '2 minutes'",
    );
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "count notifiers", query.fetch_one(&store.pool)).await
}

/// Notifications at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct NotificationStatus {
    /// Number of channels.
    pub channels: i64,
    /// Names of the channels that fail or cannot be used.
    pub failing: Vec<String>,
    /// Number of notices that wait.
    pub waiting: i64,
    /// Time of the oldest transition of which a channel is still to be told.
    pub oldest_waiting_at: Option<DbTimestamp>,
    /// Notices of the last 24 hours unaccounted for.
    pub unaccounted: i64,
    /// Number of notifiers that were alive in the last two minutes.
    pub notifiers: i64,
}

/// Reads how notifications are; `None` without a channel.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_notification_status(store: &Store) -> Result<Option<NotificationStatus>, Error> {
    let query = sqlx::query_as(
        "WITH known AS MATERIALIZED (SELECT * FROM report.channels)
         SELECT (SELECT count(*) FROM known) AS channels,
                ARRAY(SELECT channel FROM known WHERE is_failing OR problem IS NOT NULL ORDER BY channel) AS failing,
                (SELECT coalesce(sum(waiting), 0)::bigint FROM known) AS waiting,
                (SELECT min(oldest_waiting_at) FROM known) AS oldest_waiting_at,
                (SELECT coalesce(sum(unaccounted), 0)::bigint FROM report.notification_ledger(now() - interval '24 hours', now()))
                    AS unaccounted,
                (SELECT count(*) FROM picket.notifiers WHERE seen_at > clock_timestamp() - interval '2 minutes') AS notifiers
         WHERE EXISTS (SELECT FROM known)",
    );
    store
        .with_timeout(
            NOTIFICATIONS_TIMEOUT,
            "read the state of notifications",
            query.fetch_optional(&store.pool),
        )
        .await
}
