//! The stream's acknowledgements of what was published, a batch at a time.
//!
//! The client can wait for each message by itself; then each has an inbox, an entry in a table, a channel and timers of its
//! own, which was a third of what a job cost (BENCHMARKS.md). Here all share an inbox, a batch has one entry and one deadline, and
//! a message its number.
//!
//! Bound: a place for each message that is waited for. Loss: an acknowledgement that does not come in time is as good as none;
//! its message is published again under the same id.

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

/// Hears acknowledgements. Cheap to clone; the last clone that goes ends it.
#[derive(Clone)]
pub struct AckInbox(Arc<AckListener>);

struct AckListener {
    inbox: String,
    pending: Arc<Mutex<PendingBatches>>,
    /// How many batches there were.
    next_batch_id: AtomicU64,
    task: AbortHandle,
}

impl Drop for AckListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Those that wait, by their numbers.
type PendingBatches = HashMap<u64, Arc<PendingBatch>>;

/// Where the answers to a batch's messages are put.
struct PendingBatch {
    replies: Mutex<Replies>,
    all_received: Notify,
}

struct Replies {
    by_number: Vec<Option<Message>>,
    received: usize,
    /// How many messages were sent, once that is known.
    sent: usize,
}

/// The answers to one batch.
pub struct PendingAcks {
    inbox: AckInbox,
    batch_id: u64,
    batch: Arc<PendingBatch>,
    /// Where each message is answered, one behind the other.
    reply_subjects: Bytes,
    subject_bytes: usize,
    capacity: usize,
    sent: usize,
}

/// What the stream says of a message. The library's own type is read as each of its variants in turn, which took a twentieth of
/// what a job cost.
#[derive(Debug, Deserialize)]
struct AckPayload {
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<jetstream::Error>,
}

/// A message is in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Now.
    Stored,
    /// Since it was published before under the same id.
    Duplicate,
}

impl AckInbox {
    /// Answers taken off the subscription together.
    const MAX_CHUNK_ACKS: usize = 256;

    /// Begins to listen, on an inbox of its own.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn subscribe(client: &Client) -> Result<Self, SubscribeError> {
        let inbox = client.new_inbox();
        let mut heard = client.subscribe(format!("{inbox}.*.*")).await?.ready_chunks(Self::MAX_CHUNK_ACKS);
        let waiting = Arc::new(Mutex::new(PendingBatches::new()));
        let those_that_wait = waiting.clone();
        let task = tokio::spawn(async move {
            while let Some(answers) = heard.next().await {
                answers.into_iter().for_each(|answer| deliver_ack(answer, &those_that_wait));
            }
            // Only with the client itself. What is published from now on is not known to be stored.
            warn!("acknowledgements are heard no more");
        });
        let task = task.abort_handle();
        Ok(Self(Arc::new(AckListener { inbox, pending: waiting, next_batch_id: AtomicU64::new(0), task })))
    }

    /// Makes room for the answers to `most` messages.
    pub fn reserve_batch(&self, most: usize) -> PendingAcks {
        let number = self.0.next_batch_id.fetch_add(1, Ordering::Relaxed);
        let mut replies = String::new();
        let width = most.to_string().len();
        for message in 0..most {
            // Writing to a String cannot fail.
            let _ = write!(replies, "{}.{number}.{message:0width$}", self.0.inbox);
        }
        let answers = Replies { by_number: vec![None; most], received: 0, sent: usize::MAX };
        let places = Arc::new(PendingBatch { replies: Mutex::new(answers), all_received: Notify::new() });
        lock_unpoisoned(&self.0.pending).insert(number, places.clone());
        let reply_bytes = replies.len().checked_div(most).unwrap_or(0);
        PendingAcks {
            inbox: self.clone(),
            batch_id: number,
            batch: places,
            reply_subjects: replies.into(),
            subject_bytes: reply_bytes,
            capacity: most,
            sent: 0,
        }
    }
}

impl PendingAcks {
    /// Where the next message is answered; nowhere if there are more than was said.
    pub fn reply_subject(&self) -> Option<Subject> {
        if self.sent >= self.capacity {
            return None;
        }
        let at = self.sent * self.subject_bytes;
        Subject::from_utf8(self.reply_subjects.slice(at..at + self.subject_bytes)).ok()
    }

    /// That message was sent.
    pub fn record_sent(&mut self) {
        self.sent += 1;
    }

    /// Waits for the answers to all that were sent, in the order in which they were; `None` for those that have not come `until` then.
    pub async fn wait_all(self, until: Instant) -> Vec<Option<Result<PublishOutcome, String>>> {
        let is_all = {
            let mut answers = lock_unpoisoned(&self.batch.replies);
            answers.sent = self.sent;
            answers.received >= answers.sent
        };
        if !is_all {
            // What has come by then counts.
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

/// Puts an answer into its place; nobody waits for one without.
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
        return Err("there is no stream for it".to_owned());
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(AckPayload { error: Some(error), .. }) => Err(error.to_string()),
        Ok(AckPayload { seq: Some(_), duplicate: false, .. }) => Ok(PublishOutcome::Stored),
        Ok(AckPayload { seq: Some(_), duplicate: true, .. }) => Ok(PublishOutcome::Duplicate),
        Ok(AckPayload { seq: None, .. }) => Err("the answer is no acknowledgement".to_owned()),
        Err(why) => Err(format!("the answer is no acknowledgement: {why}")),
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

    /// A table with one batch of two messages in it, number 7.
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

        // It would wait for ever.
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
        assert_eq!(super::parse_ack(&nobody), Err("there is no stream for it".to_owned()));
    }
}
