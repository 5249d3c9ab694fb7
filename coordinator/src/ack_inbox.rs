//! Acknowledgements of published messages, awaited by the batch.
//!
//! The NATS client can wait for each message separately, but then each has an inbox, a table entry,
//! a channel and timers, which cost a third of the CPU per job
//! (docs/adr/0003-acknowledge-by-the-batch.md). Here all messages share an inbox; a batch has one
//! table entry and one deadline, and a message a number.
//!
//! Bound: one slot per unacknowledged message. Loss: a late acknowledgement counts as missing; the
//! message is published again with the same id.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::{Client, Message, StatusCode, Subject, SubscribeError, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tracing::warn;

/// Receives acknowledgements. Cheap to clone; dropping the last clone unsubscribes.
#[derive(Clone)]
pub struct AckInbox(Arc<AckListener>);

struct AckListener {
    inbox: String,
    pending: Arc<Mutex<PendingBatches>>,
    /// Id of the next batch.
    next_batch_id: AtomicU64,
    task: AbortHandle,
}

impl Drop for AckListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Pending batches by id.
type PendingBatches = HashMap<u64, Arc<PendingBatch>>;

/// Replies to the messages of one batch.
struct PendingBatch {
    replies: Mutex<Replies>,
    all_received: Notify,
}

struct Replies {
    by_number: Vec<Option<Message>>,
    received: usize,
    /// Number of messages sent, or `usize::MAX` until it is known.
    sent: usize,
}

/// Pending acknowledgements of one batch. Dropping it discards late replies.
pub struct PendingAcks {
    inbox: AckInbox,
    batch_id: u64,
    batch: Arc<PendingBatch>,
    /// Reply subjects of all messages, concatenated.
    reply_subjects: Bytes,
    subject_bytes: usize,
    capacity: usize,
    sent: usize,
}

/// Payload of an acknowledgement. The client's own type tries each of its enum variants in turn,
/// which took 5 % of the CPU per job.
#[derive(Debug, Deserialize)]
struct AckPayload {
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<jetstream::Error>,
}

/// A message is stored in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Stored by this publish.
    Stored,
    /// Stored by an earlier publish with the same id.
    Duplicate,
}

impl AckInbox {
    /// Maximum number of replies taken from the subscription at once.
    const MAX_CHUNK_ACKS: usize = 256;

    /// Subscribes to a new inbox.
    ///
    /// # Errors
    /// If the client is closed.
    pub async fn subscribe(client: &Client) -> Result<Self, SubscribeError> {
        let inbox = client.new_inbox();
        let mut chunks = client.subscribe(format!("{inbox}.*.*")).await?.ready_chunks(Self::MAX_CHUNK_ACKS);
        let waiting = Arc::new(Mutex::new(PendingBatches::new()));
        let pending = waiting.clone();
        let task = tokio::spawn(async move {
            while let Some(answers) = chunks.next().await {
                answers.into_iter().for_each(|answer| deliver_ack(answer, &pending));
            }
            // Ends only with the client itself; messages published from now on are not known to be
            // stored.
            warn!("ack subscription closed");
        });
        let task = task.abort_handle();
        Ok(Self(Arc::new(AckListener { inbox, pending: waiting, next_batch_id: AtomicU64::new(0), task })))
    }

    /// Reserves slots for the acknowledgements of `capacity` messages.
    pub fn reserve_batch(&self, capacity: usize) -> PendingAcks {
        let number = self.0.next_batch_id.fetch_add(1, Ordering::Relaxed);
        let mut replies = String::new();
        let width = capacity.to_string().len();
        for message in 0..capacity {
            // Writing to a `String` cannot fail.
            let _ = write!(replies, "{}.{number}.{message:0width$}", self.0.inbox);
        }
        let answers = Replies { by_number: vec![None; capacity], received: 0, sent: usize::MAX };
        let places = Arc::new(PendingBatch { replies: Mutex::new(answers), all_received: Notify::new() });
        lock_unpoisoned(&self.0.pending).insert(number, places.clone());
        let reply_bytes = replies.len().checked_div(capacity).unwrap_or(0);
        PendingAcks {
            inbox: self.clone(),
            batch_id: number,
            batch: places,
            reply_subjects: replies.into(),
            subject_bytes: reply_bytes,
            capacity,
            sent: 0,
        }
    }
}

impl PendingAcks {
    /// Reply subject of the next message; `None` if all reserved slots are used.
    pub fn reply_subject(&self) -> Option<Subject> {
        if self.sent >= self.capacity {
            return None;
        }
        let at = self.sent * self.subject_bytes;
        Subject::from_utf8(self.reply_subjects.slice(at..at + self.subject_bytes)).ok()
    }

    /// Records that the message with the current reply subject was sent.
    pub fn record_sent(&mut self) {
        self.sent += 1;
    }

    /// Waits for the acknowledgements of all sent messages, in the order of sending. The result is
    /// `None` for acknowledgements missing at `until`.
    pub async fn wait_all(self, until: Instant) -> Vec<Option<Result<PublishOutcome, String>>> {
        let is_all = {
            let mut answers = lock_unpoisoned(&self.batch.replies);
            answers.sent = self.sent;
            answers.received >= answers.sent
        };
        if !is_all {
            // On timeout, the replies received so far count.
            let _ = timeout_at(until, self.batch.all_received.notified()).await;
        }
        let answers = std::mem::take(&mut lock_unpoisoned(&self.batch.replies).by_number);
        answers.into_iter().take(self.sent).map(|answer| answer.as_ref().map(parse_ack)).collect()
    }
}

impl Drop for PendingAcks {
    fn drop(&mut self) {
        lock_unpoisoned(&self.inbox.0.pending).remove(&self.batch_id);
    }
}

fn lock_unpoisoned<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stores a reply in its slot; replies without a slot are dropped.
fn deliver_ack(answer: Message, waiting: &Mutex<PendingBatches>) {
    let mut numbers = answer.subject.rsplit('.');
    let (Some(message), Some(batch)) = (numbers.next(), numbers.next()) else { return };
    let (Ok(message), Ok(batch)) = (message.parse::<usize>(), batch.parse()) else { return };
    let Some(places) = lock_unpoisoned(waiting).get(&batch).cloned() else { return };
    let mut answers = lock_unpoisoned(&places.replies);
    if let Some(place) = answers.by_number.get_mut(message)
        && place.is_none()
    {
        *place = Some(answer);
        answers.received += 1;
        if answers.received == answers.sent {
            places.all_received.notify_one();
        }
    }
}

fn parse_ack(answer: &Message) -> Result<PublishOutcome, String> {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err("no stream for this subject".to_owned());
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(AckPayload { error: Some(error), .. }) => Err(error.to_string()),
        Ok(AckPayload { seq: Some(_), duplicate: false, .. }) => Ok(PublishOutcome::Stored),
        Ok(AckPayload { seq: Some(_), duplicate: true, .. }) => Ok(PublishOutcome::Duplicate),
        Ok(AckPayload { seq: None, .. }) => Err("acknowledgement without a sequence number".to_owned()),
        Err(why) => Err(format!("invalid acknowledgement: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &'static str, status: Option<StatusCode>) -> Message {
        Message {
            subject: "_INBOX.a.0.00".into(),
            reply: None,
            payload: Bytes::from_static(payload.as_bytes()),
            headers: None,
            status,
            description: None,
            length: 0,
        }
    }

    /// A table with one batch of two messages, number 7.
    fn table() -> (Mutex<PendingBatches>, Arc<PendingBatch>) {
        let answers = Replies { by_number: vec![None; 2], received: 0, sent: usize::MAX };
        let places = Arc::new(PendingBatch { replies: Mutex::new(answers), all_received: Notify::new() });
        (Mutex::new(HashMap::from([(7, places.clone())])), places)
    }

    fn answer_at(subject: &'static str) -> Message {
        Message { subject: Subject::from_static(subject), ..answer("{}", None) }
    }

    #[test]
    fn an_answer_counts_for_its_own_message_of_its_own_batch_and_once() {
        let (waiting, places) = table();

        for elsewhere in ["_INBOX.a.6.0", "_INBOX.a.7.2", "_INBOX.a.7.x", "_INBOX.a", "7"] {
            deliver_ack(answer_at(elsewhere), &waiting);
        }
        assert_eq!(lock_unpoisoned(&places.replies).received, 0);
        deliver_ack(answer_at("_INBOX.a.7.1"), &waiting);
        deliver_ack(answer_at("_INBOX.a.7.1"), &waiting);

        let answers = lock_unpoisoned(&places.replies);
        assert_eq!(answers.received, 1);
        assert_eq!(answers.by_number.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_the_last_answer_even_if_that_came_first() {
        let (waiting, places) = table();
        lock_unpoisoned(&places.replies).sent = 2;

        deliver_ack(answer_at("_INBOX.a.7.0"), &waiting);
        deliver_ack(answer_at("_INBOX.a.7.1"), &waiting);

        // Would wait forever if the notification were lost.
        places.all_received.notified().await;
    }

    #[test]
    fn an_answer_is_an_acknowledgement_only_if_it_names_a_place_in_the_stream() {
        let read = |payload| parse_ack(&answer(payload, None));

        assert_eq!(read(r#"{"stream":"PICKET_JOBS","seq":7}"#), Ok(PublishOutcome::Stored));
        assert_eq!(
            read(r#"{"stream":"PICKET_JOBS","seq":7,"duplicate":true}"#),
            Ok(PublishOutcome::Duplicate)
        );
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"PICKET_JOBS","seq":0}"#;
        assert!(read(full).unwrap_err().contains("maximum messages exceeded"));
        assert!(read(r#"{"stream":"PICKET_JOBS"}"#).is_err());
        assert!(read("pong").is_err());
        let nobody = answer("", Some(StatusCode::NO_RESPONDERS));
        assert_eq!(super::parse_ack(&nobody), Err("no stream for this subject".to_owned()));
    }
}
