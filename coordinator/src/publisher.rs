//! Publishes a batch of jobs until each is acknowledged by the stream or no longer worth
//! publishing.
//!
//! Bound: the scheduler limits the jobs in flight. Loss: a job without an acknowledgement is
//! published again with the same id, which the stream deduplicates; an expired job is counted, and
//! its tick is recorded as `missed`.

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
    /// Message id; always the same for the same tick.
    pub id: String,
    /// Subject of the message.
    pub subject: Subject,
    /// Payload of the message.
    pub payload: Bytes,
    /// Time of the tick.
    pub scheduled_at: Timestamp,
    /// Time after which the job is not worth publishing.
    pub expires_at: Timestamp,
    /// Shard, for the fence.
    pub shard: Shard,
    /// Epoch under which the job was scheduled, for the fence.
    pub epoch: Epoch,
    /// Kind of the check. A dropped tick is recorded as a publish gap; a dropped confirming check
    /// is not.
    pub kind: Kind,
}

impl Job {
    /// Records a publish gap for this job, if it is a tick.
    fn record_gap(&self, publish_gaps: &PublishGaps) {
        if self.kind == Kind::Scheduled {
            publish_gaps.record_gap(self.shard, just_before(self.scheduled_at), self.expires_at);
        }
    }
}

/// Time of the first failed publish since the last success.
#[derive(Clone, Debug, Default)]
pub struct PublishHealth(Arc<AtomicI64>);

impl PublishHealth {
    /// Records a successful publish.
    pub fn record_success(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Records a failed publish that began at `since`.
    pub fn record_failure(&self, since: Boottime) {
        let _ = self.0.compare_exchange(0, since.as_micros().max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Time for which publishing has failed; zero if the last publish succeeded.
    pub fn failing_for(&self, now: Boottime) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros((now.as_micros() - since).max(0).unsigned_abs()),
        }
    }
}

/// True if the bus is known to belong to this installation. Cheap to clone; all clones share one
/// flag.
#[derive(Clone, Debug, Default)]
pub struct Ownership(Arc<AtomicBool>);

impl Ownership {
    /// Returns true if jobs may be published on the bus.
    pub fn is_ours(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Records the ownership found in the metadata of the streams.
    pub fn set_ours(&self, ours: bool) {
        self.0.store(ours, Ordering::Relaxed);
    }
}

/// Reasons for which a job was not passed to the client.
enum SendError {
    TooLarge(String),
    Other(String),
}

/// Publishes jobs. Cheap to clone.
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

/// Notifies the scheduler on drop that a batch is done, even if its task panics.
struct BatchDoneGuard {
    scheduler: ActorRef<scheduler::Msg>,
    batch: Option<scheduler::JobBatch>,
}

impl Drop for BatchDoneGuard {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            // A stopped scheduler needs no notification.
            let _ = self.scheduler.cast(scheduler::Msg::BatchDone(batch));
        }
    }
}

impl Publisher {
    /// Publishes `jobs` in a task and notifies `scheduler` when `batch` is done.
    pub fn spawn_batch(
        &self,
        jobs: Vec<Job>,
        clock: DbClock,
        batch: scheduler::JobBatch,
        scheduler: ActorRef<scheduler::Msg>,
    ) {
        let publisher = self.clone();
        tokio::spawn(async move {
            let _done = BatchDoneGuard { scheduler, batch: Some(batch) };
            publisher.publish_jobs(jobs, clock).await;
        });
    }

    /// Publishes `jobs` in a task without notification.
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
                warn!(jobs = left.len(), error, "could not publish jobs, retrying");
            }
            jobs = left;
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Publishes all jobs once, then waits for all acknowledgements. Returns the jobs to retry and
    /// the first error.
    async fn publish_once(&self, jobs: Vec<Job>, clock: DbClock) -> (Vec<Job>, Option<String>) {
        let began = Boottime::now();
        let until = Instant::now() + Bus::ACK_TIMEOUT;
        let mut left = Vec::new();
        let mut error = None;
        let mut expected = self.ack_inbox.reserve_batch(jobs.len());
        let mut sent = Vec::with_capacity(jobs.len());
        for job in jobs {
            // Checked right before each message, because waiting for earlier ones may take seconds.
            let now = Boottime::now();
            let admission = self.fence.check_admission(job.shard, job.epoch, now);
            let life = job.expires_at.saturating_duration_since(clock.time_at(now));
            if admission == Admission::Closed || life.is_zero() {
                let cause = if life.is_zero() { "expired" } else { "fenced" };
                self.metrics.jobs_lost.get_or_create(&JobsLostLabel { cause }).inc();
                if life.is_zero() {
                    job.record_gap(&self.publish_gaps);
                }
            } else if admission == Admission::Expired || error.is_some() {
                // If the bus is unavailable, each further attempt would wait as long as the first.
                left.push(job);
            } else if let Err(why) = self.check_connection() {
                error = Some(why);
                left.push(job);
            } else {
                match self.send_job(&job, life, &mut expected, until).await {
                    Ok(()) => sent.push(job),
                    Err(SendError::TooLarge(why)) => {
                        // A retry cannot make the job smaller.
                        warn!(error = why, job = job.id, "job exceeds max_payload");
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
        // One deadline for all, so that acknowledgements lost with a connection do not add up their
        // timeouts.
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
                    error.get_or_insert_with(|| "no acknowledgement in time".to_owned());
                    left.push(job);
                }
            }
        }
        if error.is_some() {
            self.publish_health.record_failure(began);
        }
        (left, error)
    }

    /// Passes a job to the client, which accepts it at once while it is connected.
    async fn send_job(
        &self,
        job: &Job,
        life: Duration,
        expected: &mut PendingAcks,
        until: Instant,
    ) -> Result<(), SendError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, job.id.as_str());
        // Rounded up, so that the stream never drops a job before its expiry.
        headers.insert(NATS_MESSAGE_TTL, HeaderValue::from(life.as_secs() + 1));
        let (subject, payload) = (job.subject.clone(), job.payload.clone());
        let Some(reply) = expected.reply_subject() else {
            return Err(SendError::Other("no slot reserved for its acknowledgement".to_owned()));
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
            Err(_) => Err(SendError::Other("publishing timed out".to_owned())),
        }
    }

    /// Returns an error if the bus must not be used now. A client without a connection would send
    /// its buffered jobs after reconnecting, however late and whoever holds the shard by then. On
    /// the bus of another installation, that installation's sinks would consume the results.
    fn check_connection(&self) -> Result<(), String> {
        match self.bus.client.connection_state() {
            State::Connected if !self.ownership.is_ours() => {
                Err("the bus is not known to belong to this installation".to_owned())
            }
            State::Connected => Ok(()),
            _ => Err("no connection to NATS".to_owned()),
        }
    }
}

/// Start of a span whose first tick is `at`.
pub fn just_before(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - 1)
}
