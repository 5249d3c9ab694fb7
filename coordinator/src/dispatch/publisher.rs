//! Publishes a batch of jobs until each is acknowledged by the stream or no longer worth
//! publishing.
//!
//! Bound: the scheduler limits the jobs in flight, and [`Bus`] the acknowledgements that a process
//! awaits. Loss: a job without an acknowledgement is published again with the same id, which the
//! stream deduplicates; an expired job is counted, and its tick is recorded as `missed`.
//!
//! Order: the messages of a batch reach the stream in the order of its jobs, because the client
//! sends them over one connection. Batches run concurrently, and a retried job comes after later
//! ones. The client keeps a table entry, some 200 bytes, for each acknowledgement that never
//! arrives; a coordinator without acknowledgements loses its leases after ten seconds, which bounds
//! the entries of an outage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Subject,
    connection::State,
    jetstream::{
        context::{PublishAckFuture, PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use bytes::Bytes;
use picket_proto::{CheckKind, Epoch, ScheduledTick, Timestamp};
use picket_runtime::{
    Backoff, Bus, ErrorChain,
    clock::{Boottime, DbClock},
};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, debug_span, warn};

use crate::{
    dispatch::publish_gaps::PublishGaps,
    fence::{Admission, Fence},
    metrics::{JobsLostLabel, Metrics},
};

/// A job, ready to be published.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Message id; always the same for the same tick.
    pub(crate) id: String,
    /// Subject of the message.
    pub(crate) subject: Subject,
    /// Payload of the message.
    pub(crate) payload: Bytes,
    /// Tick of the job. A dropped tick is recorded as a publish gap; a dropped confirming check is
    /// not.
    pub(crate) tick: ScheduledTick,
    /// Epoch under which the job was scheduled, for the fence.
    pub(crate) epoch: Epoch,
}

impl Job {
    /// Records a publish gap for this job, if it is a tick.
    fn record_gap(&self, publish_gaps: &PublishGaps) {
        let ScheduledTick { shard, kind, scheduled_at, expires_at, .. } = self.tick;
        if kind == CheckKind::Scheduled {
            publish_gaps.record_gap(shard, just_before(scheduled_at), expires_at);
        }
    }
}

/// Time of the first failed publish since the last success.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublishHealth(Arc<AtomicI64>);

impl PublishHealth {
    /// Records a successful publish.
    pub(crate) fn record_success(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Records a failed publish that began at `since`.
    pub(crate) fn record_failure(&self, since: Boottime) {
        let _ = self.0.compare_exchange(0, since.as_micros().max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Time for which publishing has failed; zero if the last publish succeeded.
    pub(crate) fn failing_for(&self, now: Boottime) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros((now.as_micros() - since).max(0).unsigned_abs()),
        }
    }
}

/// True if the bus is known to belong to this installation. Cheap to clone; all clones share one
/// flag.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ownership(Arc<AtomicBool>);

impl Ownership {
    /// Returns true if jobs may be published on the bus.
    pub(crate) fn is_ours(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Records the ownership found in the metadata of the streams.
    pub(crate) fn set_ours(&self, ours: bool) {
        self.0.store(ours, Ordering::Relaxed);
    }
}

/// Publishes jobs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) bus: Bus,
    pub(crate) fence: Fence,
    pub(crate) publish_health: PublishHealth,
    pub(crate) ownership: Ownership,
    pub(crate) publish_gaps: PublishGaps,
    pub(crate) metrics: Metrics,
}

/// Calls the function on drop, i.e. even if the task of a batch panics.
struct BatchDoneGuard<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for BatchDoneGuard<F> {
    fn drop(&mut self) {
        if let Some(on_done) = self.0.take() {
            on_done();
        }
    }
}

impl Publisher {
    /// Publishes `jobs` in a task and calls `on_done` when all are acknowledged or dropped.
    pub(crate) fn spawn_batch(
        &self,
        jobs: Vec<Job>,
        clock: DbClock,
        batch_id: u64,
        on_done: impl FnOnce() + Send + 'static,
    ) {
        let publisher = self.clone();
        let span = debug_span!("publish_batch", batch.id = batch_id, jobs = jobs.len());
        let publishing = async move {
            let _done = BatchDoneGuard(Some(on_done));
            publisher.publish_jobs(jobs, clock).await;
        };
        tokio::spawn(publishing.instrument(span));
    }

    /// Publishes `jobs` in a task without notification.
    pub(crate) fn spawn_detached(&self, jobs: Vec<Job>, clock: DbClock) {
        let publisher = self.clone();
        let span = debug_span!("publish_confirmations", jobs = jobs.len());
        tokio::spawn(async move { publisher.publish_jobs(jobs, clock).await }.instrument(span));
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
        let mut sent = Vec::with_capacity(jobs.len());
        for job in jobs {
            // Checked right before each message, because waiting for earlier ones may take seconds.
            let now = Boottime::now();
            let admission = self.fence.check_admission(job.tick.shard, job.epoch, now);
            let life = job.tick.expires_at.saturating_duration_since(clock.time_at(now));
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
                match self.send_job(&job, life, until).await {
                    Ok(ack) => sent.push((job, ack)),
                    Err(why) if why.kind() == PublishErrorKind::MaxPayloadExceeded => {
                        // A retry cannot make the job smaller.
                        warn!(error = %ErrorChain(&why), job.id, "job exceeds max_payload");
                        self.metrics.jobs_lost.get_or_create(&JobsLostLabel { cause: "refused" }).inc();
                        job.record_gap(&self.publish_gaps);
                    }
                    Err(why) => {
                        error = Some(ErrorChain(&why).to_string());
                        left.push(job);
                    }
                }
            }
        }
        // One deadline for all, so that acknowledgements lost with a connection do not add up their
        // timeouts. Acknowledgements that arrive in another order wait in their futures, and those
        // received by the deadline count.
        let until = Instant::now() + Bus::ACK_TIMEOUT;
        for (job, ack) in sent {
            match wait_until(until, ack.into_future()).await {
                Ok(stored) => {
                    self.publish_health.record_success();
                    self.metrics.jobs_published.inc();
                    if stored.duplicate {
                        self.metrics.jobs_duplicate.inc();
                    }
                }
                Err(why) => {
                    error.get_or_insert_with(|| ErrorChain(&why).to_string());
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
        until: Instant,
    ) -> Result<PublishAckFuture, PublishError> {
        let message = PublishMessage::build()
            .message_id(&job.id)
            // Rounded up, so that the stream never drops a job before its expiry.
            .ttl(Duration::from_secs(life.as_secs() + 1))
            .payload(job.payload.clone());
        wait_until(until, self.bus.jetstream.send_publish(job.subject.clone(), message)).await
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

/// Waits for a step of a publish, at most until `until`.
async fn wait_until<T>(
    until: Instant,
    step: impl Future<Output = Result<T, PublishError>>,
) -> Result<T, PublishError> {
    timeout_at(until, step).await.unwrap_or_else(|_| Err(PublishError::new(PublishErrorKind::TimedOut)))
}

/// Start of a span whose first tick is `at`.
pub(crate) fn just_before(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - 1)
}

#[cfg(test)]
mod tests {
    use picket_harness::{builders::scheduled_job_subject, servers};
    use picket_proto::{Role, Shard, SiteId};
    use picket_runtime::{
        Health,
        clock::ClockReading,
        options::NatsOptions,
        streams::{self, StreamLimits},
    };

    use super::*;

    const EPOCH: Epoch = Epoch(1);
    const SHARD: Shard = Shard(0);
    const MAX_PAYLOAD: usize = 1 << 20;

    struct PublisherStack {
        _nats: servers::TestNats,
        publisher: Publisher,
        clock: DbClock,
    }

    impl PublisherStack {
        async fn new() -> Self {
            let nats = servers::start_nats().await;
            let health = Health::new();
            let options = NatsOptions::with_url(nats.url());
            let bus = Bus::connect(&options, &Role::Coordinator, "test", &health).await.unwrap();
            bus.wait_connected().await.unwrap();
            let limits = StreamLimits { max_jobs_bytes: 64 << 20, ..StreamLimits::default() };
            streams::create_if_missing(&bus.jetstream, streams::jobs_config(limits)).await.unwrap();
            let publisher = Publisher {
                bus,
                fence: Fence::default(),
                publish_health: PublishHealth::default(),
                ownership: Ownership::default(),
                publish_gaps: PublishGaps::default(),
                metrics: Metrics::new(&health),
            };
            publisher.ownership.set_ours(true);
            let now = Boottime::now();
            publisher.fence.open_shard(SHARD, EPOCH, now.saturating_add(Duration::from_secs(600)));
            let remote_time = picket_runtime::clock::wall_clock_now();
            let clock = DbClock::new(ClockReading { sent_at: now, received_at: now, remote_time });
            Self { _nats: nats, publisher, clock }
        }

        fn job(&self, site: i64, subject: Option<&str>, bytes: usize) -> Job {
            let now = self.clock.time_at(Boottime::now());
            let region = "eu".parse().unwrap();
            let subject = subject.map_or_else(|| scheduled_job_subject(&region, SiteId(site)), str::to_owned);
            Job {
                id: format!("{site}.eu.1"),
                subject: subject.into(),
                payload: vec![b' '; bytes].into(),
                tick: ScheduledTick {
                    site: SiteId(site),
                    shard: SHARD,
                    kind: CheckKind::Scheduled,
                    scheduled_at: now,
                    expires_at: now.saturating_add(Duration::from_secs(60)),
                },
                epoch: EPOCH,
            }
        }
    }

    fn ids(jobs: &[Job]) -> Vec<&str> {
        jobs.iter().map(|job| job.id.as_str()).collect()
    }

    #[tokio::test]
    async fn each_job_of_a_batch_gets_its_own_acknowledgement_or_error() {
        let stack = PublisherStack::new().await;
        let metrics = &stack.publisher.metrics;
        let jobs: Vec<Job> = (1..=10).map(|site| stack.job(site, None, 2)).collect();

        let (left, error) = stack.publisher.publish_once(jobs.clone(), stack.clock).await;
        assert_eq!((ids(&left), error), (vec![], None));
        assert_eq!((metrics.jobs_published.get(), metrics.jobs_duplicate.get()), (10, 0));
        assert_eq!(stack.publisher.publish_health.failing_for(Boottime::now()), Duration::ZERO);

        let more = [
            jobs[0].clone(),
            stack.job(11, Some("picket.elsewhere"), 2),
            stack.job(12, None, MAX_PAYLOAD + 1),
            stack.job(13, None, 2),
        ];
        let (left, error) = stack.publisher.publish_once(more.to_vec(), stack.clock).await;
        assert_eq!(ids(&left), ["11.eu.1"], "a job without a stream is tried again");
        assert_eq!(error.as_deref(), Some("no stream found for given subject"));
        assert_eq!((metrics.jobs_published.get(), metrics.jobs_duplicate.get()), (12, 1));
        let refused = metrics.jobs_lost.get_or_create(&JobsLostLabel { cause: "refused" }).get();
        assert_eq!((refused, stack.publisher.publish_gaps.drain_gaps().len()), (1, 1));
        assert!(stack.publisher.publish_health.failing_for(Boottime::now()) > Duration::ZERO);
    }

    #[tokio::test]
    async fn an_unacknowledged_job_is_retried_after_one_deadline_and_delays_no_other() {
        let stack = PublisherStack::new().await;
        let _silent = stack.publisher.bus.client.subscribe("picket.elsewhere").await.unwrap();
        let silent = |site| stack.job(site, Some("picket.elsewhere"), 2);

        let began = Instant::now();
        let jobs = vec![silent(1), silent(2), stack.job(3, None, 2), silent(4)];
        let (left, error) = stack.publisher.publish_once(jobs, stack.clock).await;

        assert_eq!(ids(&left), ["1.eu.1", "2.eu.1", "4.eu.1"]);
        assert_eq!(error.as_deref(), Some("timed out: didn't receive ack in time"));
        assert_eq!(stack.publisher.metrics.jobs_published.get(), 1);
        assert!(began.elapsed() < 2 * Bus::ACK_TIMEOUT, "{:?}", began.elapsed());
    }
}
