//! Publishes one batch of jobs until the stream has acknowledged each, or it is no longer worth it.
//!
//! Bound: the planner lets only so many jobs be under way. Loss: a job whose acknowledgement does not come is
//! published again under the same id, which the stream knows; one that expires meanwhile is counted, and the
//! ledger will say `missed`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap, HeaderValue, Subject,
    client::PublishErrorKind,
    connection::State,
    header::{NATS_MESSAGE_ID, NATS_MESSAGE_TTL},
};
use bytes::Bytes;
use picket_proto::{Epoch, Kind, Shard, Timestamp};
use picket_runtime::{
    Backoff, Bus, Chain,
    clock::{Boottime, DatabaseClock},
};
use ractor::ActorRef;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::{
    acks::{Acks, Expected, Stored},
    fence::{Fence, Gateway},
    lapses::Lapses,
    metrics::{Lost, Metrics},
    planner,
};

/// A job, ready to be published.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its identity: who computes the tick again computes the same.
    pub id: String,
    /// Where to.
    pub subject: Subject,
    /// What.
    pub payload: Bytes,
    /// When it is due.
    pub scheduled_at: Timestamp,
    /// Past this it is not worth publishing.
    pub expires_at: Timestamp,
    /// Its shard, for the fence.
    pub shard: Shard,
    /// The epoch that it was planned under, for the fence.
    pub epoch: Epoch,
    /// A tick, which the ledger wants to hear of if it is given up, or a confirming check, which is none.
    pub kind: Kind,
}

impl Job {
    /// Tells the ledger that this was given up.
    fn give_up(&self, lapses: &Lapses) {
        if self.kind == Kind::Scheduled {
            lapses.note(self.shard, before(self.scheduled_at), self.expires_at);
        }
    }
}

/// Since when the stream of jobs has not been reached, if it has not.
#[derive(Clone, Debug, Default)]
pub struct Reach(Arc<AtomicI64>);

impl Reach {
    /// A publish succeeded.
    pub fn reached(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A publish that began at `since` failed.
    pub fn failed(&self, since: Boottime) {
        let _ = self.0.compare_exchange(0, since.micros().max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// For how long nothing could be published.
    pub fn unreached_for(&self, now: Boottime) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros((now.micros() - since).max(0).unsigned_abs()),
        }
    }
}

/// Whether the bus is known to belong to this installation. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Ownership(Arc<AtomicBool>);

impl Ownership {
    /// Whether jobs may be published on the bus.
    pub fn is_ours(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Records what the streams' metadata says.
    pub fn set(&self, ours: bool) {
        self.0.store(ours, Ordering::Relaxed);
    }
}

/// Why a job was not given to the client.
enum Unsent {
    TooLarge(String),
    Other(String),
}

/// What publishing needs.
#[derive(Clone)]
pub struct Publisher {
    pub bus: Bus,
    pub acks: Acks,
    pub fence: Fence,
    pub reach: Reach,
    pub ownership: Ownership,
    pub lapses: Lapses,
    pub metrics: Metrics,
}

/// Tells the planner that a batch is done, whatever became of its task.
struct Done {
    planner: ActorRef<planner::Msg>,
    batch: Option<planner::Batch>,
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            // A planner that is gone needs no telling.
            let _ = self.planner.cast(planner::Msg::Done(batch));
        }
    }
}

impl Publisher {
    /// Publishes `jobs` in a task of its own and tells `planner` when `batch` is done.
    pub fn spawn(
        &self,
        jobs: Vec<Job>,
        clock: DatabaseClock,
        batch: planner::Batch,
        planner: ActorRef<planner::Msg>,
    ) {
        let publisher = self.clone();
        tokio::spawn(async move {
            let _done = Done { planner, batch: Some(batch) };
            publisher.publish(jobs, clock).await;
        });
    }

    /// Publishes `jobs` in a task of its own; nobody waits for them.
    pub fn spawn_aside(&self, jobs: Vec<Job>, clock: DatabaseClock) {
        let publisher = self.clone();
        tokio::spawn(async move { publisher.publish(jobs, clock).await });
    }

    async fn publish(&self, mut jobs: Vec<Job>, clock: DatabaseClock) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        self.metrics.batch.observe(jobs.len() as f64);
        loop {
            let (left, error) = self.round(jobs, clock).await;
            if left.is_empty() {
                return;
            }
            self.metrics.retries.inc_by(left.len() as u64);
            if let Some(error) = error {
                warn!(
                    jobs = left.len(),
                    error,
                    "could not publish {} jobs, trying again: {error}",
                    left.len()
                );
            }
            jobs = left;
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Publishes all, then waits for all acknowledgements. Returns what must be tried again, and why.
    async fn round(&self, jobs: Vec<Job>, clock: DatabaseClock) -> (Vec<Job>, Option<String>) {
        let began = Boottime::now();
        let until = Instant::now() + Bus::ACK_TIMEOUT;
        let mut left = Vec::new();
        let mut error = None;
        let mut expected = self.acks.expect(jobs.len());
        let mut sent = Vec::with_capacity(jobs.len());
        for job in jobs {
            let now = Boottime::now();
            let gateway = self.fence.look(job.shard, job.epoch, now);
            let life = job.expires_at.since(clock.at(now));
            if gateway == Gateway::Shut || life.is_zero() {
                let cause = if life.is_zero() { "expired" } else { "fenced" };
                self.metrics.lost.get_or_create(&Lost { cause }).inc();
                if life.is_zero() {
                    job.give_up(&self.lapses);
                }
            } else if gateway == Gateway::Late || error.is_some() {
                // With the bus away each further try would wait for as long as the first.
                left.push(job);
            } else if let Err(why) = self.connected() {
                error = Some(why);
                left.push(job);
            } else {
                match self.send(&job, life, &mut expected, until).await {
                    Ok(()) => sent.push(job),
                    Err(Unsent::TooLarge(why)) => {
                        // No trying again makes it smaller.
                        warn!(error = why, job = job.id, "the bus takes no job of this size");
                        self.metrics.lost.get_or_create(&Lost { cause: "refused" }).inc();
                        job.give_up(&self.lapses);
                    }
                    Err(Unsent::Other(why)) => {
                        error = Some(why);
                        left.push(job);
                    }
                }
            }
        }
        // One deadline for all: acknowledgements that were lost with a connection do not each take their time.
        let answers = expected.all(Instant::now() + Bus::ACK_TIMEOUT).await;
        for (job, answer) in sent.into_iter().zip(answers) {
            match answer {
                Some(Ok(stored)) => {
                    self.reach.reached();
                    self.metrics.published.inc();
                    if stored == Stored::Already {
                        self.metrics.duplicates.inc();
                    }
                }
                Some(Err(why)) => {
                    error.get_or_insert(why);
                    left.push(job);
                }
                None => {
                    error.get_or_insert_with(|| "no acknowledgement came in time".to_owned());
                    left.push(job);
                }
            }
        }
        if error.is_some() {
            self.reach.failed(began);
        }
        (left, error)
    }

    /// Hands a job to the client, which has room for it while there is a connection.
    async fn send(
        &self,
        job: &Job,
        life: Duration,
        expected: &mut Expected,
        until: Instant,
    ) -> Result<(), Unsent> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, job.id.as_str());
        headers.insert(NATS_MESSAGE_TTL, HeaderValue::from(life.as_secs() + 1));
        let (subject, payload) = (job.subject.clone(), job.payload.clone());
        let Some(reply) = expected.reply() else {
            return Err(Unsent::Other("there is no place for its acknowledgement".to_owned()));
        };
        let client = &self.bus.client;
        let sending = client.publish_with_reply_and_headers(subject, reply, headers, payload);
        match timeout_at(until, sending).await {
            Ok(Ok(())) => {
                expected.sent();
                Ok(())
            }
            Ok(Err(why)) if why.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(Unsent::TooLarge(Chain(&why).to_string()))
            }
            Ok(Err(why)) => Err(Unsent::Other(Chain(&why).to_string())),
            Err(_) => Err(Unsent::Other("NATS takes no jobs".to_owned())),
        }
    }

    /// What is given to a client without a connection is sent when it has one again, however late that is and
    /// whoever holds the shard by then. And on the bus of another installation that one's sinks would take the results.
    fn connected(&self) -> Result<(), String> {
        match self.bus.client.connection_state() {
            State::Connected if !self.ownership.is_ours() => {
                Err("the bus is not known to belong to this installation".to_owned())
            }
            State::Connected => Ok(()),
            _ => Err("there is no connection to NATS".to_owned()),
        }
    }
}

/// The start of a span whose first tick is `at`.
pub fn before(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.micros() - 1)
}
