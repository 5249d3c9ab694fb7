//! A pull request for messages, from its sending to its end.
//!
//! A pull request returns the available messages, or waits for the first message. Fetching each
//! message on arrival would wake up the server and the sink once per message, where four times a
//! second are enough. The client's own APIs are not used: its batches lose their wake-up at a
//! heartbeat (async-nats 0.51), and its endless stream requests more messages than there are
//! permits for.

use std::time::Duration;

use async_nats::{
    Message, StatusCode, Subscriber,
    jetstream::consumer::{PullConsumer, pull::BatchConfig},
};
use futures_util::{StreamExt, stream::ReadyChunks};
use tokio::time::{Instant, timeout, timeout_at};

/// Waiting time of a request at the server.
const REQUEST_EXPIRY: Duration = Duration::from_secs(5);
/// Interval of the server's heartbeats. Two intervals without any message mean that the server is
/// lost.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout to read messages received while this process was suspended; all deadlines have passed by
/// then.
const LATE_READ_TIMEOUT: Duration = Duration::from_millis(500);
/// Timeout to send a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum messages per chunk.
const MAX_CHUNK_MESSAGES: usize = 256;

/// An open pull request.
pub(crate) struct PullRequest {
    messages: ReadyChunks<Subscriber>,
    remaining: usize,
    deadline: Instant,
}

/// Some messages, and the end of the request if no more follow.
pub(crate) struct MessageChunk {
    pub(crate) messages: Vec<Message>,
    pub(crate) end: Option<PullEnd>,
}

/// Reason for the end of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PullEnd {
    /// All available messages were delivered, or the request expired.
    Drained,
    /// The request is full, and more messages may be available.
    Full,
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("could not request results")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not request results: NATS unavailable")]
    Unavailable,
    #[error("no heartbeat from NATS for {} s", (2 * HEARTBEAT_INTERVAL).as_secs())]
    HeartbeatLost,
    #[error("pull request ended: {0}")]
    Ended(String),
}

impl PullRequest {
    /// Requests at most `messages` messages of at most `bytes` bytes together.
    pub(crate) async fn send(
        client: &async_nats::Client,
        consumer: &PullConsumer,
        messages: usize,
        bytes: usize,
    ) -> Result<Self, Error> {
        let inbox = client.new_inbox();
        let request = BatchConfig {
            batch: messages,
            max_bytes: bytes,
            expires: Some(REQUEST_EXPIRY),
            // With `expires` set, the server waits for the first message, and ends the request
            // after the last available one.
            no_wait: true,
            idle_heartbeat: HEARTBEAT_INTERVAL,
            ..BatchConfig::default()
        };
        let sending = async {
            let subscriber =
                client.subscribe(inbox.clone()).await.map_err(|error| Error::Request(error.into()))?;
            let sent = consumer.request_batch(request, inbox.into()).await;
            sent.map_err(|error| Error::Request(error.into()))?;
            Ok(subscriber)
        };
        let subscriber = timeout(SEND_TIMEOUT, sending).await.map_err(|_| Error::Unavailable)??;
        let until = Instant::now() + REQUEST_EXPIRY + HEARTBEAT_INTERVAL;
        Ok(Self {
            messages: subscriber.ready_chunks(MAX_CHUNK_MESSAGES),
            remaining: messages,
            deadline: until,
        })
    }

    /// The next messages; cancel-safe.
    pub(crate) async fn next_chunk(&mut self) -> Result<MessageChunk, Error> {
        let until = self.deadline.min(Instant::now() + 2 * HEARTBEAT_INTERVAL);
        let received = match timeout_at(until, self.messages.next()).await {
            Ok(received) => received,
            // Dropping the request would drop messages that have arrived, and the server would
            // redeliver them only after the acknowledgement timeout.
            Err(_) => {
                timeout(LATE_READ_TIMEOUT, self.messages.next()).await.map_err(|_| Error::HeartbeatLost)?
            }
        };
        match received {
            Some(messages) => Ok(self.split_status(messages)),
            None => Err(Error::Ended("the connection was closed".to_owned())),
        }
    }

    /// Separates messages from the server's status of the request.
    fn split_status(&mut self, received: Vec<Message>) -> MessageChunk {
        let mut messages = Vec::with_capacity(received.len());
        let mut end = None;
        for message in received {
            match message.status {
                None | Some(StatusCode::OK) => messages.push(message),
                Some(status) => end = end.or_else(|| end_from_status(status, message.description.as_deref())),
            }
        }
        self.remaining = self.remaining.saturating_sub(messages.len());
        if self.remaining == 0 {
            end = end.or(Some(PullEnd::Full));
        }
        MessageChunk { messages, end }
    }
}

/// The end of the request by `status`; `None` if the request continues.
///
/// Source: <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md>
fn end_from_status(status: StatusCode, description: Option<&str>) -> Option<PullEnd> {
    let description = description.unwrap_or_default();
    match status {
        StatusCode::IDLE_HEARTBEAT => None,
        StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Some(PullEnd::Drained),
        // The next message exceeds the remaining bytes, or the server has delivered the whole
        // batch.
        _ if ["Message Size Exceeds MaxBytes", "Batch Completed"].contains(&description) => {
            Some(PullEnd::Full)
        }
        StatusCode::NO_RESPONDERS => Some(PullEnd::Failed("consumer does not exist".to_owned())),
        status => Some(PullEnd::Failed(format!("{} {description}", status.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_or_full_pull_succeeds_and_a_pull_without_its_consumer_fails() {
        let conflict = StatusCode::from_u16(409).unwrap();

        assert_eq!(end_from_status(StatusCode::IDLE_HEARTBEAT, Some("Idle Heartbeat")), None);
        assert_eq!(end_from_status(StatusCode::TIMEOUT, Some("Request Timeout")), Some(PullEnd::Drained));
        assert_eq!(end_from_status(StatusCode::NOT_FOUND, Some("No Messages")), Some(PullEnd::Drained));
        assert_eq!(end_from_status(conflict, Some("Message Size Exceeds MaxBytes")), Some(PullEnd::Full));
        let deleted = PullEnd::Failed("409 Consumer Deleted".to_owned());
        assert_eq!(end_from_status(conflict, Some("Consumer Deleted")), Some(deleted));
        assert!(matches!(end_from_status(StatusCode::NO_RESPONDERS, None), Some(PullEnd::Failed(_))));
    }
}
