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
const EXPIRES: Duration = Duration::from_secs(5);
/// How often the server says that it is there; twice this without a word, and it is not.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// For what arrived while this process was held up, and has not been read yet: all deadlines have passed by then.
const READ: Duration = Duration::from_millis(500);
/// For what needs no answer.
const ASK: Duration = Duration::from_secs(5);
/// Messages handed on together.
const CHUNK: usize = 256;

/// A request that is open.
pub(crate) struct Pull {
    messages: ReadyChunks<Subscriber>,
    left: usize,
    until: Instant,
}

/// Some messages, and whether more may come.
pub(crate) struct Chunk {
    pub(crate) messages: Vec<Message>,
    pub(crate) end: Option<End>,
}

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With all that there was, or its time is over.
    Drained,
    /// It is full, and there may be more.
    Full,
    Badly(String),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("could not ask for results")]
    Ask(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not ask for results: NATS is away")]
    Away,
    #[error("NATS has not been heard of for {} s", (2 * HEARTBEAT).as_secs())]
    Silent,
    #[error("the request for results ended: {0}")]
    Ended(String),
}

impl Pull {
    /// Asks for at most so many messages of so many bytes together.
    pub(crate) async fn ask(
        client: &async_nats::Client,
        consumer: &PullConsumer,
        messages: usize,
        bytes: usize,
    ) -> Result<Self, Error> {
        let inbox = client.new_inbox();
        let request = BatchConfig {
            batch: messages,
            max_bytes: bytes,
            expires: Some(EXPIRES),
            // With an `expires` the server waits for the first, and ends the request with the last that there is.
            no_wait: true,
            idle_heartbeat: HEARTBEAT,
            ..BatchConfig::default()
        };
        let asking = async {
            let subscriber =
                client.subscribe(inbox.clone()).await.map_err(|error| Error::Ask(error.into()))?;
            let asked = consumer.request_batch(request, inbox.into()).await;
            asked.map_err(|error| Error::Ask(error.into()))?;
            Ok(subscriber)
        };
        let subscriber = timeout(ASK, asking).await.map_err(|_| Error::Away)??;
        let until = Instant::now() + EXPIRES + HEARTBEAT;
        Ok(Self { messages: subscriber.ready_chunks(CHUNK), left: messages, until })
    }

    /// The next messages; cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Chunk, Error> {
        let until = self.until.min(Instant::now() + 2 * HEARTBEAT);
        let received = match timeout_at(until, self.messages.next()).await {
            Ok(received) => received,
            // Who drops the request drops what came for it, and the server would miss that after a while only.
            Err(_) => timeout(READ, self.messages.next()).await.map_err(|_| Error::Silent)?,
        };
        match received {
            Some(messages) => Ok(self.sort(messages)),
            None => Err(Error::Ended("the connection was closed".to_owned())),
        }
    }

    /// Tells messages from what the server says of the request.
    fn sort(&mut self, received: Vec<Message>) -> Chunk {
        let mut messages = Vec::with_capacity(received.len());
        let mut end = None;
        for message in received {
            match message.status {
                None | Some(StatusCode::OK) => messages.push(message),
                Some(status) => end = end.or_else(|| end_of(status, message.description.as_deref())),
            }
        }
        self.left = self.left.saturating_sub(messages.len());
        if self.left == 0 {
            end = end.or(Some(End::Full));
        }
        Chunk { messages, end }
    }
}

/// What a status means: `None` if the request goes on.
/// Source: <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md>
fn end_of(status: StatusCode, description: Option<&str>) -> Option<End> {
    let description = description.unwrap_or_default();
    match status {
        StatusCode::IDLE_HEARTBEAT => None,
        StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Some(End::Drained),
        // The next message is larger than what is left, or the server has no more for this request.
        _ if ["Message Size Exceeds MaxBytes", "Batch Completed"].contains(&description) => Some(End::Full),
        StatusCode::NO_RESPONDERS => Some(End::Badly("there is no such consumer".to_owned())),
        status => Some(End::Badly(format!("{} {description}", status.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_drained_or_full_ended_well_and_one_without_its_consumer_did_not() {
        let conflict = StatusCode::from_u16(409).unwrap();

        assert_eq!(end_of(StatusCode::IDLE_HEARTBEAT, Some("Idle Heartbeat")), None);
        assert_eq!(end_of(StatusCode::TIMEOUT, Some("Request Timeout")), Some(End::Drained));
        assert_eq!(end_of(StatusCode::NOT_FOUND, Some("No Messages")), Some(End::Drained));
        assert_eq!(end_of(conflict, Some("Message Size Exceeds MaxBytes")), Some(End::Full));
        let deleted = End::Badly("409 Consumer Deleted".to_owned());
        assert_eq!(end_of(conflict, Some("Consumer Deleted")), Some(deleted));
        assert!(matches!(end_of(StatusCode::NO_RESPONDERS, None), Some(End::Badly(_))));
    }
}
