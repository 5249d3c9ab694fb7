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
pub struct Acks(Arc<Hearing>);

struct Hearing {
    inbox: String,
    waiting: Arc<Mutex<Batches>>,
    /// How many batches there were.
    batches: AtomicU64,
    task: AbortHandle,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Those that wait, by their numbers.
type Batches = HashMap<u64, Arc<Places>>;

/// Where the answers to a batch's messages are put.
struct Places {
    answers: Mutex<Answers>,
    all: Notify,
}

struct Answers {
    by_number: Vec<Option<Message>>,
    came: usize,
    /// How many messages were sent, once that is known.
    sent: usize,
}

/// The answers to one batch.
pub struct Expected {
    acks: Acks,
    number: u64,
    places: Arc<Places>,
    /// Where each message is answered, one behind the other.
    replies: Bytes,
    reply_bytes: usize,
    most: usize,
    sent: usize,
}

/// What the stream says of a message. The library's own type is read as each of its variants in turn, which took a twentieth of
/// what a job cost.
#[derive(Debug, Deserialize)]
struct Ack {
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<jetstream::Error>,
}

/// A message is in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Now.
    New,
    /// Since it was published before under the same id.
    Already,
}

impl Acks {
    /// Answers taken off the subscription together.
    const CHUNK: usize = 256;

    /// Begins to listen, on an inbox of its own.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn hear(client: &Client) -> Result<Self, SubscribeError> {
        let inbox = client.new_inbox();
        let mut heard = client.subscribe(format!("{inbox}.*.*")).await?.ready_chunks(Self::CHUNK);
        let waiting = Arc::new(Mutex::new(Batches::new()));
        let those_that_wait = waiting.clone();
        let task = tokio::spawn(async move {
            while let Some(answers) = heard.next().await {
                answers.into_iter().for_each(|answer| take(answer, &those_that_wait));
            }
            // Only with the client itself. What is published from now on is not known to be stored.
            warn!("acknowledgements are heard no more");
        });
        let task = task.abort_handle();
        Ok(Self(Arc::new(Hearing { inbox, waiting, batches: AtomicU64::new(0), task })))
    }

    /// Makes room for the answers to `most` messages.
    pub fn expect(&self, most: usize) -> Expected {
        let number = self.0.batches.fetch_add(1, Ordering::Relaxed);
        let mut replies = String::new();
        let width = most.to_string().len();
        for message in 0..most {
            // Writing to a String cannot fail.
            let _ = write!(replies, "{}.{number}.{message:0width$}", self.0.inbox);
        }
        let answers = Answers { by_number: vec![None; most], came: 0, sent: usize::MAX };
        let places = Arc::new(Places { answers: Mutex::new(answers), all: Notify::new() });
        lock(&self.0.waiting).insert(number, places.clone());
        let reply_bytes = replies.len().checked_div(most).unwrap_or(0);
        Expected { acks: self.clone(), number, places, replies: replies.into(), reply_bytes, most, sent: 0 }
    }
}

impl Expected {
    /// Where the next message is answered; nowhere if there are more than was said.
    pub fn reply(&self) -> Option<Subject> {
        if self.sent >= self.most {
            return None;
        }
        let at = self.sent * self.reply_bytes;
        Subject::from_utf8(self.replies.slice(at..at + self.reply_bytes)).ok()
    }

    /// That message was sent.
    pub fn sent(&mut self) {
        self.sent += 1;
    }

    /// Waits for the answers to all that were sent, in the order in which they were; `None` for those that have not come `until` then.
    pub async fn all(self, until: Instant) -> Vec<Option<Result<Stored, String>>> {
        let is_all = {
            let mut answers = lock(&self.places.answers);
            answers.sent = self.sent;
            answers.came >= answers.sent
        };
        if !is_all {
            // What has come by then counts.
            let _ = timeout_at(until, self.places.all.notified()).await;
        }
        let answers = std::mem::take(&mut lock(&self.places.answers).by_number);
        answers.into_iter().take(self.sent).map(|answer| answer.as_ref().map(read)).collect()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        lock(&self.acks.0.waiting).remove(&self.number);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts an answer into its place; nobody waits for one without.
fn take(answer: Message, waiting: &Mutex<Batches>) {
    let mut numbers = answer.subject.rsplit('.');
    let (Some(message), Some(batch)) = (numbers.next(), numbers.next()) else { return };
    let (Ok(message), Ok(batch)) = (message.parse::<usize>(), batch.parse()) else { return };
    let Some(places) = lock(waiting).get(&batch).cloned() else { return };
    let mut answers = lock(&places.answers);
    if let Some(place) = answers.by_number.get_mut(message)
        && place.is_none()
    {
        *place = Some(answer);
        answers.came += 1;
        if answers.came == answers.sent {
            places.all.notify_one();
        }
    }
}

fn read(answer: &Message) -> Result<Stored, String> {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err("there is no stream for it".to_owned());
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(Ack { error: Some(error), .. }) => Err(error.to_string()),
        Ok(Ack { seq: Some(_), duplicate: false, .. }) => Ok(Stored::New),
        Ok(Ack { seq: Some(_), duplicate: true, .. }) => Ok(Stored::Already),
        Ok(Ack { seq: None, .. }) => Err("the answer is no acknowledgement".to_owned()),
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
    fn table() -> (Mutex<Batches>, Arc<Places>) {
        let answers = Answers { by_number: vec![None; 2], came: 0, sent: usize::MAX };
        let places = Arc::new(Places { answers: Mutex::new(answers), all: Notify::new() });
        (Mutex::new(HashMap::from([(7, places.clone())])), places)
    }

    fn answer_at(subject: &'static str) -> Message {
        Message { subject: Subject::from_static(subject), ..answer("{}", None) }
    }

    #[test]
    fn an_answer_counts_for_its_own_message_of_its_own_batch_and_once() {
        let (waiting, places) = table();

        for elsewhere in ["_INBOX.a.6.0", "_INBOX.a.7.2", "_INBOX.a.7.x", "_INBOX.a", "7"] {
            take(answer_at(elsewhere), &waiting);
        }
        assert_eq!(lock(&places.answers).came, 0);
        take(answer_at("_INBOX.a.7.1"), &waiting);
        take(answer_at("_INBOX.a.7.1"), &waiting);

        let answers = lock(&places.answers);
        assert_eq!(answers.came, 1);
        assert_eq!(answers.by_number.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_the_last_answer_even_if_that_came_first() {
        let (waiting, places) = table();
        lock(&places.answers).sent = 2;

        take(answer_at("_INBOX.a.7.0"), &waiting);
        take(answer_at("_INBOX.a.7.1"), &waiting);

        // It would wait for ever.
        places.all.notified().await;
    }

    #[test]
    fn an_answer_is_an_acknowledgement_only_if_it_names_a_place_in_the_stream() {
        let read = |payload| read(&answer(payload, None));

        assert_eq!(read(r#"{"stream":"PICKET_JOBS","seq":7}"#), Ok(Stored::New));
        assert_eq!(read(r#"{"stream":"PICKET_JOBS","seq":7,"duplicate":true}"#), Ok(Stored::Already));
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"PICKET_JOBS","seq":0}"#;
        assert!(read(full).unwrap_err().contains("maximum messages exceeded"));
        assert!(read(r#"{"stream":"PICKET_JOBS"}"#).is_err());
        assert!(read("pong").is_err());
        let nobody = answer("", Some(StatusCode::NO_RESPONDERS));
        assert_eq!(super::read(&nobody), Err("there is no stream for it".to_owned()));
    }
}
