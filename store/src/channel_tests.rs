//! Test messages, which pass through the same tables and the same transport as alerts.

use picket_proto::{ValidationError, validation::sanitize_text};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use crate::{DbTimestamp, Error, Store, channels::CHANNELS_TIMEOUT};

/// A requested test message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestRequest {
    /// The number of the notification.
    Requested(Uuid),
    /// There is no such channel.
    UnknownChannel,
    /// Too many tests of this channel wait already.
    Busy,
}

/// State of a test message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct TestProgress {
    /// State of the notification: `waiting`, `delivered`, `failed` or `superseded`.
    pub state: String,
    /// Why the notification failed without an attempt.
    pub reason: Option<String>,
    /// First line of the message; absent before the first attempt.
    pub title: Option<String>,
    /// Time of the request.
    pub requested_at: DbTimestamp,
    /// Start of the first attempt.
    pub started_at: Option<DbTimestamp>,
    /// End of the first attempt; absent while it lasts.
    pub ended_at: Option<DbTimestamp>,
    /// Outcome of the first attempt: `delivered`, `retry`, `refused`, `gone` or `moved`.
    pub outcome: Option<String>,
    /// HTTP status, SMTP reply code or exit code.
    pub status: Option<i32>,
    /// The receiver's answer or the failure in words.
    pub message: Option<String>,
    /// Duration of the attempt in milliseconds.
    pub duration_ms: Option<i64>,
}

impl TestProgress {
    /// Returns true if nothing further will come.
    pub fn is_over(&self) -> bool {
        self.ended_at.is_some() || self.state != "waiting"
    }

    /// Returns true if the receiver has accepted the message.
    pub fn was_delivered(&self) -> bool {
        self.outcome.as_deref().unwrap_or(&self.state) == "delivered"
    }

    /// What came back, with its name: the receiver's answer, or why there is none.
    pub fn describe_answer(&self) -> (&'static str, String) {
        let words = self.message.as_deref().filter(|message| !message.is_empty());
        let words = words.map(|words| sanitize_text(words, 500));
        match (self.status, words) {
            (Some(status), Some(words)) => ("receiver", format!("{status} {words}")),
            (Some(status), None) => ("receiver", status.to_string()),
            (None, Some(words)) if self.was_delivered() => ("receiver", words),
            (None, None) if self.was_delivered() => ("receiver", "accepted it without an answer".to_owned()),
            (None, words) => {
                ("failure", words.or_else(|| self.reason.clone()).unwrap_or_else(|| "no answer".to_owned()))
            }
        }
    }
}

/// Requests a test message through the channel, paused or not.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn request_test(store: &Store, channel: &str) -> Result<TestRequest, Error> {
    let id = Uuid::now_v7();
    let query =
        sqlx::query_scalar("SELECT picket.request_test($1, $2::uuid)").bind(channel).bind(id.to_string());
    let refusal: Option<String> =
        store.with_timeout(CHANNELS_TIMEOUT, "request a test message", query.fetch_one(&store.pool)).await?;
    match refusal.as_deref() {
        None => Ok(TestRequest::Requested(id)),
        Some("busy") => Ok(TestRequest::Busy),
        Some(_) => Ok(TestRequest::UnknownChannel),
    }
}

/// Reads how far a test message is.
///
/// # Errors
/// If there is no such test, or the database cannot be reached in time.
pub async fn read_test(store: &Store, id: Uuid) -> Result<TestProgress, Error> {
    let query = sqlx::query_as(
        "SELECT message.state::text AS state, message.reason, message.title, message.created_at AS requested_at,
                attempt.started_at, attempt.ended_at, attempt.outcome, attempt.status, attempt.message,
                (extract(epoch FROM attempt.ended_at - attempt.started_at) * 1000)::bigint AS duration_ms
         FROM picket.notifications AS message
         LEFT JOIN picket.delivery_attempts AS attempt
             ON attempt.notification_id = message.notification_id AND attempt.number = 1
         WHERE message.notification_id = $1::uuid AND message.purpose = 'test'",
    )
    .bind(id.to_string());
    let found = store
        .with_timeout(CHANNELS_TIMEOUT, "read the test message", query.fetch_optional(&store.pool))
        .await?;
    found.ok_or_else(|| ValidationError::new("id", id, "the number of a test message").into())
}

/// Gives a test message up, so that it is not sent later.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn cancel_test(store: &Store, id: Uuid) -> Result<(), Error> {
    let query = sqlx::query("SELECT picket.cancel_test($1::uuid)").bind(id.to_string());
    store.with_timeout(CHANNELS_TIMEOUT, "cancel the test message", query.execute(&store.pool)).await?;
    Ok(())
}
