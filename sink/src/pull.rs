//! One request for messages, from asking to its end.
//!
//! It brings what there is, or waits for the first message: to take each as it comes would wake up the server and the sink once
//! a message, where both can do with four times a second. By hand, since the client's own batches lose their wake-up at a heartbeat (0.51) and its endless stream asks for
//! more than there is leave for.

use std::time::Duration;

use async_nats::{
    Message, StatusCode, Subscriber,
    jetstream::consumer::{PullConsumer, pull::BatchConfig},
};
use futures_util::{StreamExt, stream::ReadyChunks};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a request waits for messages at the server.
const REQUEST_EXPIRY: Duration = Duration::from_secs(5);
/// How often the server says that it is there; twice this without a word, and it is not.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// For what arrived while this process was held up, and has not been read yet: all deadlines have passed by then.
const LATE_READ_TIMEOUT: Duration = Duration::from_millis(500);
/// For what needs no answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages handed on together.
const MAX_CHUNK_MESSAGES: usize = 256;

/// A request that is open.
pub(crate) struct PullRequest {
    messages: ReadyChunks<Subscriber>,
    remaining: usize,
    deadline: Instant,
}

/// Some messages, and whether more may come.
pub(crate) struct MessageChunk {
    pub(crate) messages: Vec<Message>,
    pub(crate) end: Option<PullEnd>,
}

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PullEnd {
    /// With all that there was, or its time is over.
    Drained,
    /// It is full, and there may be more.
    Full,
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("could not ask for results")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not ask for results: NATS is away")]
    Unavailable,
    #[error("NATS has not been heard of for {} s", (2 * HEARTBEAT_INTERVAL).as_secs())]
    HeartbeatLost,
    #[error("the request for results ended: {0}")]
    Ended(String),
}

impl PullRequest {
    /// Asks for at most so many messages of so many bytes together.
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
            // With an `expires` the server waits for the first, and ends the request with the last that there is.
            no_wait: true,
            idle_heartbeat: HEARTBEAT_INTERVAL,
            ..BatchConfig::default()
        };
        let asking = async {
            let subscriber =
                client.subscribe(inbox.clone()).await.map_err(|error| Error::Request(error.into()))?;
            let asked = consumer.request_batch(request, inbox.into()).await;
            asked.map_err(|error| Error::Request(error.into()))?;
            Ok(subscriber)
        };
        let subscriber = timeout(SEND_TIMEOUT, asking).await.map_err(|_| Error::Unavailable)??;
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
            // Who drops the request drops what came for it, and the server would miss that after a while only.
            Err(_) => {
                timeout(LATE_READ_TIMEOUT, self.messages.next()).await.map_err(|_| Error::HeartbeatLost)?
            }
        };
        match received {
            Some(messages) => Ok(self.split_status(messages)),
            None => Err(Error::Ended("the connection was closed".to_owned())),
        }
    }

    /// Tells messages from what the server says of the request.
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

/// What a status means: `None` if the request goes on.
/// Source: <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md>
fn end_from_status(status: StatusCode, description: Option<&str>) -> Option<PullEnd> {
    let description = description.unwrap_or_default();
    match status {
        StatusCode::IDLE_HEARTBEAT => None,
        StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Some(PullEnd::Drained),
        // The next message is larger than what is left, or the server has no more for this request.
        _ if ["Message Size Exceeds MaxBytes", "Batch Completed"].contains(&description) => {
            Some(PullEnd::Full)
        }
        StatusCode::NO_RESPONDERS => Some(PullEnd::Failed("there is no such consumer".to_owned())),
        status => Some(PullEnd::Failed(format!("{} {description}", status.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_drained_or_full_ended_well_and_one_without_its_consumer_did_not() {
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
