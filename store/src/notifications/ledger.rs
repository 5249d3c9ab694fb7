//! The ledger of notifications: what was to be told, and what came of it.

use picket_proto::Timestamp;
use serde::Serialize;
use sqlx::FromRow;

use super::NOTIFICATIONS_TIMEOUT;
use crate::{DbTimestamp, Error, Store};

/// What was to be told, and what came of it, summed over a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromRow)]
pub struct LedgerSum {
    /// Name of the channel; absent for events without the notices that they should have.
    pub channel: Option<String>,
    /// Number of planned notices.
    pub expected: i64,
    /// Number of delivered notices.
    pub delivered: i64,
    /// Number of suppressed notices, with a reason.
    pub suppressed: i64,
    /// Number of failed notices, with a reason.
    pub failed: i64,
    /// Number of waiting notices.
    pub waiting: i64,
    /// Number of unaccounted notices; 0 unless Picket has a defect.
    pub unaccounted: i64,
}

/// A row of the ledger of notifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct LedgerEntry {
    /// The incident, for events of incidents.
    pub incident_id: Option<i64>,
    /// Name of the event.
    pub event: String,
    /// Name of the channel; absent if there is no notice at all.
    pub channel: Option<String>,
    /// Time when the event was recorded.
    pub recorded_at: DbTimestamp,
    /// Number of unaccounted notices.
    pub unaccounted: i64,
}

/// Notices that were not delivered, by channel and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct LedgerReason {
    /// Name of the channel.
    pub channel: String,
    /// `event`, `reminder`, `escalation` or `calm`.
    pub step: String,
    /// `suppressed` or `failed`.
    pub state: String,
    /// The reason.
    pub reason: String,
    /// Number of notices.
    pub notices: i64,
}

/// Reminders, escalations and notes of calm of a channel. An event has any number of them, so that no
/// number of them is expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct LedgerStep {
    /// Name of the channel.
    pub channel: String,
    /// `reminder`, `escalation` or `calm`.
    pub step: String,
    /// Number of delivered notices.
    pub delivered: i64,
    /// Number of suppressed notices, with a reason.
    pub suppressed: i64,
    /// Number of failed notices, with a reason.
    pub failed: i64,
    /// Number of waiting notices.
    pub waiting: i64,
}

/// The ledger of notifications between two times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotificationLedger {
    /// Sums by channel.
    pub channels: Vec<LedgerSum>,
    /// Reminders and escalations of the same events, which the sums do not count.
    pub steps: Vec<LedgerStep>,
    /// Reasons of notices that were not delivered.
    pub reasons: Vec<LedgerReason>,
    /// The newest unaccounted rows.
    pub unaccounted: Vec<LedgerEntry>,
    /// Number of events that no route told to a channel.
    pub untold: i64,
}

impl NotificationLedger {
    /// Number of unaccounted notices.
    pub fn unaccounted_total(&self) -> i64 {
        self.channels.iter().map(|sum| sum.unaccounted).sum()
    }
}

/// Reads the ledger of notifications, with at most `limit` unaccounted rows.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_notification_ledger(
    store: &Store,
    from: Timestamp,
    to: Timestamp,
    limit: i64,
) -> Result<NotificationLedger, Error> {
    let (from, to) = (DbTimestamp(from), DbTimestamp(to));
    let read = async {
        let mut transaction =
            store.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        let channels = sqlx::query_as(
            "SELECT channel, sum(expected)::bigint AS expected, sum(delivered)::bigint AS delivered,
                    sum(suppressed)::bigint AS suppressed, sum(failed)::bigint AS failed, sum(waiting)::bigint AS waiting,
                    sum(unaccounted)::bigint AS unaccounted
             FROM report.notification_ledger($1, $2) GROUP BY channel ORDER BY channel",
        )
        .bind(from)
        .bind(to)
        .fetch_all(&mut *transaction)
        .await?;
        let unaccounted = sqlx::query_as(
            "SELECT incident_id, event, channel, recorded_at, unaccounted FROM report.notification_ledger($1, $2)
             WHERE unaccounted <> 0 ORDER BY recorded_at DESC, channel LIMIT $3",
        )
        .bind(from)
        .bind(to)
        .bind(limit)
        .fetch_all(&mut *transaction)
        .await?;
        let steps = sqlx::query_as(
            "SELECT notice.channel, notice.step::text AS step,
                    count(*) FILTER (WHERE notice.state = 'delivered') AS delivered,
                    count(*) FILTER (WHERE notice.state = 'suppressed') AS suppressed,
                    count(*) FILTER (WHERE notice.state = 'failed') AS failed,
                    count(*) FILTER (WHERE notice.state = 'waiting') AS waiting
             FROM picket.transitions AS transition
             JOIN picket.notices AS notice ON notice.transition_id = transition.transition_id AND notice.step <> 'event'
             WHERE transition.recorded_at >= $1 AND transition.recorded_at < $2
             GROUP BY notice.channel, notice.step ORDER BY notice.channel, notice.step",
        )
        .bind(from)
        .bind(to)
        .fetch_all(&mut *transaction)
        .await?;
        let reasons = sqlx::query_as(
            "SELECT notice.channel, notice.step::text AS step, notice.state::text AS state, coalesce(notice.reason, '') AS reason,
                    count(*) AS notices
             FROM picket.transitions AS transition
             JOIN picket.notices AS notice ON notice.transition_id = transition.transition_id
             WHERE transition.recorded_at >= $1 AND transition.recorded_at < $2 AND notice.state IN ('suppressed', 'failed')
             GROUP BY notice.channel, notice.step, notice.state, notice.reason
             ORDER BY notice.channel, notice.step, notice.state, notices DESC, reason",
        )
        .bind(from)
        .bind(to)
        .fetch_all(&mut *transaction)
        .await?;
        let untold = sqlx::query_scalar(
            "SELECT count(*) FROM picket.transitions WHERE recorded_at >= $1 AND recorded_at < $2 AND channels = 0",
        )
        .bind(from)
        .bind(to)
        .fetch_one(&mut *transaction)
        .await?;
        Ok(NotificationLedger { channels, steps, reasons, unaccounted, untold })
    };
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "read the ledger of notifications", read).await
}
