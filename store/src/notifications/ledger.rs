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
    /// Number of notices that there should be.
    pub expected: i64,
    /// Number of those that were delivered.
    pub delivered: i64,
    /// Number of those that were suppressed, with a reason.
    pub suppressed: i64,
    /// Number of those that failed, with a reason.
    pub failed: i64,
    /// Number of those that still wait.
    pub waiting: i64,
    /// Number of those of which nothing is known; 0 unless Picket has a defect.
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
    /// Number of notices that are unaccounted for.
    pub unaccounted: i64,
}

/// Notices that were not delivered, by channel and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct LedgerReason {
    /// Name of the channel.
    pub channel: String,
    /// `suppressed` or `failed`.
    pub state: String,
    /// The reason.
    pub reason: String,
    /// Number of notices.
    pub notices: i64,
}

/// The ledger of notifications between two times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotificationLedger {
    /// Sums by channel.
    pub channels: Vec<LedgerSum>,
    /// Reasons of notices that were not delivered.
    pub reasons: Vec<LedgerReason>,
    /// The newest of what is unaccounted for.
    pub unaccounted: Vec<LedgerEntry>,
    /// Number of events that no route told to a channel.
    pub untold: i64,
}

impl NotificationLedger {
    /// Number of notices that are unaccounted for.
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
        let reasons = sqlx::query_as(
            "SELECT notice.channel, notice.state::text AS state, coalesce(notice.reason, '') AS reason, count(*) AS notices
             FROM picket.transitions AS transition
             JOIN picket.notices AS notice ON notice.transition_id = transition.transition_id AND notice.step = 'event'
             WHERE transition.recorded_at >= $1 AND transition.recorded_at < $2 AND notice.state IN ('suppressed', 'failed')
             GROUP BY 1, 2, 3 ORDER BY 1, 2, 4 DESC, 3",
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
        Ok(NotificationLedger { channels, reasons, unaccounted, untold })
    };
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "read the ledger of notifications", read).await
}
