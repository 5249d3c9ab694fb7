//! Notifications as people read them: messages, their attempts, and the ledger of notices.

mod ledger;
mod notices;
mod presence;

use std::time::Duration;

use picket_proto::Timestamp;
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

pub use self::{
    ledger::{
        LedgerEntry, LedgerReason, LedgerStep, LedgerSum, NotificationLedger, read_notification_ledger,
    },
    notices::{
        ListedNotice, NoticeFilter, NoticesOf, list_notices, list_notices_of_tags, list_selected_notices,
    },
    presence::{NotifierPresence, read_notifier_presence},
};
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
    /// Time of its creation.
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
    /// Only notifications about this incident.
    pub incident: Option<i64>,
    /// Only those that tell of a site with one of these tags, and of them what concerns such sites:
    /// no answer of a receiver, and no title that names other sites.
    pub tags: Option<&'a [String]>,
    /// Only notifications made at this time or later.
    pub from: Option<Timestamp>,
    /// Only notifications after the one with this time and number, in the order of the list.
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

/// Finds at most two notifications by the end of their number, made of hexadecimal digits and dashes.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_numbers_by_ending(store: &Store, ending: &str) -> Result<Vec<Uuid>, Error> {
    let query = sqlx::query_scalar(
        "SELECT notification_id::text FROM picket.notifications
         WHERE right(notification_id::text, length($1)) = $1 LIMIT 2",
    )
    .bind(ending);
    let found: Vec<String> = store
        .with_timeout(NOTIFICATIONS_TIMEOUT, "look up the notification", query.fetch_all(&store.pool))
        .await?;
    Ok(found.iter().filter_map(|number| Uuid::parse_str(number).ok()).collect())
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

/// Notifications at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct NotificationStatus {
    /// Number of channels.
    pub channels: i64,
    /// Names of failing and unusable channels.
    pub failing: Vec<String>,
    /// Number of waiting notices.
    pub waiting: i64,
    /// Time of the oldest transition among the waiting notices.
    pub oldest_waiting_at: Option<DbTimestamp>,
    /// Notices of the last 24 hours unaccounted for.
    pub unaccounted: i64,
    /// Notifiers, and the events that they have still to decide.
    #[sqlx(skip)]
    pub notifiers: NotifierPresence,
}

/// Reads how notifications are; `None` without a channel.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_notification_status(store: &Store) -> Result<Option<NotificationStatus>, Error> {
    let read = async {
        let found: Option<NotificationStatus> = sqlx::query_as(
            "WITH known AS MATERIALIZED (SELECT * FROM report.channels)
             SELECT (SELECT count(*) FROM known) AS channels,
                    ARRAY(SELECT channel FROM known WHERE is_failing OR problem IS NOT NULL ORDER BY channel) AS failing,
                    (SELECT coalesce(sum(waiting), 0)::bigint FROM known) AS waiting,
                    (SELECT min(oldest_waiting_at) FROM known) AS oldest_waiting_at,
                    (SELECT coalesce(sum(unaccounted), 0)::bigint
                     FROM report.notification_ledger(now() - interval '24 hours', now())) AS unaccounted
             WHERE EXISTS (SELECT FROM known)",
        )
        .fetch_optional(&store.pool)
        .await?;
        let Some(status) = found else { return Ok(None) };
        let notifiers = presence::select_presence(store, None).await?;
        Ok(Some(NotificationStatus { notifiers, ..status }))
    };
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "read the state of notifications", read).await
}
