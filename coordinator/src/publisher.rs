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
use picket_proto::{Epoch, Kind, ScheduledTick, Timestamp};
use picket_runtime::{
    Backoff, Bus, ErrorChain,
    clock::{Boottime, DbClock},
};
use ractor::ActorRef;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::{
    ack_inbox::{AckInbox, PendingAcks, PublishOutcome},
    fence::{Admission, Fence},
    metrics::{JobsLostLabel, Metrics},
    publish_gaps::PublishGaps,
    scheduler,
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
    /// The tick that it is for.
    pub tick: ScheduledTick,
    /// The epoch that it was planned under, for the fence.
    pub epoch: Epoch,
}

impl Job {
    /// Tells the ledger that this was given up.
    fn record_gap(&self, lapses: &PublishGaps) {
        let ScheduledTick { shard, kind, scheduled_at, expires_at, .. } = self.tick;
        if kind == Kind::Scheduled {
            lapses.record_gap(shard, just_before(scheduled_at), expires_at);
        }
    }
}

/// Since when the stream of jobs has not been reached, if it has not.
#[derive(Clone, Debug, Default)]
pub struct PublishHealth(Arc<AtomicI64>);

impl PublishHealth {
    /// A publish succeeded.
    pub fn record_success(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A publish that began at `since` failed.
    pub fn record_failure(&self, since: Boottime) {
        let _ = self.0.compare_exchange(0, since.as_micros().max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// For how long nothing could be published.
    pub fn failing_for(&self, now: Boottime) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros((now.as_micros() - since).max(0).unsigned_abs()),
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
    pub fn set_ours(&self, ours: bool) {
        self.0.store(ours, Ordering::Relaxed);
    }
}

/// Why a job was not given to the client.
enum SendError {
    TooLarge(String),
    Other(String),
}

/// What publishing needs.
#[derive(Clone)]
pub struct Publisher {
    pub bus: Bus,
    pub ack_inbox: AckInbox,
    pub fence: Fence,
    pub publish_health: PublishHealth,
    pub ownership: Ownership,
    pub publish_gaps: PublishGaps,
    pub metrics: Metrics,
}

/// Tells the planner that a batch is done, whatever became of its task.
struct BatchDoneGuard {
    scheduler: ActorRef<scheduler::Msg>,
    batch: Option<scheduler::JobBatch>,
}

impl Drop for BatchDoneGuard {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            // A planner that is gone needs no telling.
            let _ = self.scheduler.cast(scheduler::Msg::BatchDone(batch));
        }
    }
}

impl Publisher {
    /// Publishes `jobs` in a task of its own and tells `planner` when `batch` is done.
    pub fn spawn_batch(
        &self,
        jobs: Vec<Job>,
        clock: DbClock,
        batch: scheduler::JobBatch,
        planner: ActorRef<scheduler::Msg>,
    ) {
        let publisher = self.clone();
        tokio::spawn(async move {
            let _done = BatchDoneGuard { scheduler: planner, batch: Some(batch) };
            publisher.publish_jobs(jobs, clock).await;
        });
    }

    /// Publishes `jobs` in a task of its own; nobody waits for them.
    pub fn spawn_detached(&self, jobs: Vec<Job>, clock: DbClock) {
        let publisher = self.clone();
        tokio::spawn(async move { publisher.publish_jobs(jobs, clock).await });
    }

    async fn publish_jobs(&self, mut jobs: Vec<Job>, clock: DbClock) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        self.metrics.batch_jobs.observe(jobs.len() as f64);
        loop {
            let (left, error) = self.publish_once(jobs, clock).await;
            if left.is_empty() {
                return;
            }
            self.metrics.publish_retries.inc_by(left.len() as u64);
            if let Some(error) = error {
                warn!(
                    jobs = left.len(),
                    error,
                    "could not publish {} jobs, trying again: {error}",
                    left.len()
                );
            }
            jobs = left;
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Publishes all, then waits for all acknowledgements. Returns what must be tried again, and why.
    async fn publish_once(&self, jobs: Vec<Job>, clock: DbClock) -> (Vec<Job>, Option<String>) {
        let began = Boottime::now();
        let until = Instant::now() + Bus::ACK_TIMEOUT;
        let mut left = Vec::new();
        let mut error = None;
        let mut expected = self.ack_inbox.reserve_batch(jobs.len());
        let mut sent = Vec::with_capacity(jobs.len());
        for job in jobs {
            let now = Boottime::now();
            let gateway = self.fence.check_admission(job.tick.shard, job.epoch, now);
            let life = job.tick.expires_at.saturating_duration_since(clock.time_at(now));
            if gateway == Admission::Closed || life.is_zero() {
                let cause = if life.is_zero() { "expired" } else { "fenced" };
                self.metrics.jobs_lost.get_or_create(&JobsLostLabel { cause }).inc();
                if life.is_zero() {
                    job.record_gap(&self.publish_gaps);
                }
            } else if gateway == Admission::Expired || error.is_some() {
                // With the bus away each further try would wait for as long as the first.
                left.push(job);
            } else if let Err(why) = self.check_connection() {
                error = Some(why);
                left.push(job);
            } else {
                match self.send_job(&job, life, &mut expected, until).await {
                    Ok(()) => sent.push(job),
                    Err(SendError::TooLarge(why)) => {
                        // No trying again makes it smaller.
                        warn!(error = why, job = job.id, "the bus takes no job of this size");
                        self.metrics.jobs_lost.get_or_create(&JobsLostLabel { cause: "refused" }).inc();
                        job.record_gap(&self.publish_gaps);
                    }
                    Err(SendError::Other(why)) => {
                        error = Some(why);
                        left.push(job);
                    }
                }
            }
        }
        // One deadline for all: acknowledgements that were lost with a connection do not each take their time.
        let answers = expected.wait_all(Instant::now() + Bus::ACK_TIMEOUT).await;
        for (job, answer) in sent.into_iter().zip(answers) {
            match answer {
                Some(Ok(stored)) => {
                    self.publish_health.record_success();
                    self.metrics.jobs_published.inc();
                    if stored == PublishOutcome::Duplicate {
                        self.metrics.jobs_duplicate.inc();
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
            self.publish_health.record_failure(began);
        }
        (left, error)
    }

    /// Hands a job to the client, which has room for it while there is a connection.
    async fn send_job(
        &self,
        job: &Job,
        life: Duration,
        expected: &mut PendingAcks,
        until: Instant,
    ) -> Result<(), SendError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, job.id.as_str());
        headers.insert(NATS_MESSAGE_TTL, HeaderValue::from(life.as_secs() + 1));
        let (subject, payload) = (job.subject.clone(), job.payload.clone());
        let Some(reply) = expected.reply_subject() else {
            return Err(SendError::Other("there is no place for its acknowledgement".to_owned()));
        };
        let client = &self.bus.client;
        let sending = client.publish_with_reply_and_headers(subject, reply, headers, payload);
        match timeout_at(until, sending).await {
            Ok(Ok(())) => {
                expected.record_sent();
                Ok(())
            }
            Ok(Err(why)) if why.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(SendError::TooLarge(ErrorChain(&why).to_string()))
            }
            Ok(Err(why)) => Err(SendError::Other(ErrorChain(&why).to_string())),
            Err(_) => Err(SendError::Other("NATS takes no jobs".to_owned())),
        }
    }

    /// What is given to a client without a connection is sent when it has one again, however late that is and
    /// whoever holds the shard by then. And on the bus of another installation that one's sinks would take the results.
    fn check_connection(&self) -> Result<(), String> {
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
pub fn just_before(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - 1)
}
