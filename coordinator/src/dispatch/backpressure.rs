//! Backpressure: monitors the results that wait for a sink and pauses publishing before the stream
//! would discard any of them.
//!
//! The results stream discards its oldest message when it is full. For stored results that is
//! intended; for results that no sink has read it would be a silent loss. The stream cannot reject
//! new messages instead, because it is always full: it keeps three days of results for a restore.
//! Therefore no new jobs are published while too many results wait.
//!
//! The pause stops regular probers, but not a client that publishes results nobody requested. While
//! sinks are behind, arrivals are counted by region (`backpressure/arrivals.rs`), so that an
//! operator sees which credential to revoke.
//!
//! Bound: one sample at a time. Loss: none; the next sample covers everything the missed one would
//! have shown.

mod arrivals;
mod monitor;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{context::ConsumerInfoErrorKind, stream::Info};
use picket_proto::subject;
use picket_runtime::{Bus, ReadinessCheck};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use self::{
    arrivals::ArrivalCounter,
    monitor::{Assessment, BacklogMonitor, ConsumerSample, StreamSample, Transition},
};
use crate::metrics::Metrics;

/// Pauses publishing. Cheap to clone; all clones share one flag.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublishPause(Arc<AtomicBool>);

impl PublishPause {
    /// Returns true while no jobs may be published.
    pub(crate) fn is_paused(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set_paused(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

pub(crate) enum Msg {
    /// Take a sample of the results stream.
    Sample,
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct BackpressureActor {
    pub(crate) bus: Bus,
    pub(crate) publish_pause: PublishPause,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: ReadinessCheck,
}

/// Interval between samples. The fifth of the stream above the pause threshold must not fill up
/// meanwhile.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout for all requests of one sample.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(5);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// State of the actor.
#[derive(Debug, Default)]
pub(crate) struct BackpressureState {
    monitor: BacklogMonitor,
    arrivals: ArrivalCounter,
}

impl Actor for BackpressureActor {
    type Msg = Msg;
    type State = BackpressureState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        (): (),
    ) -> Result<BackpressureState, ActorProcessingErr> {
        myself.cast(Msg::Sample)?;
        Ok(BackpressureState::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::Sample: Msg,
        state: &mut BackpressureState,
    ) -> Result<(), ActorProcessingErr> {
        match timeout(SAMPLE_TIMEOUT, self.sample_stream()).await {
            Ok(Ok(sample)) => {
                let BackpressureState { monitor, arrivals } = state;
                let assessment = monitor.assess_sample(sample);
                self.count_arrivals(arrivals, assessment.ratio, monitor.is_paused).await;
                self.report_assessment(assessment, &sample, monitor);
            }
            // The stream reconciler reports problems of the streams; the pause stays unchanged.
            Ok(Err(why)) => debug!(error = why, "could not sample the results stream"),
            Err(_) => debug!("sampling the results stream timed out"),
        }
        myself.send_after(SAMPLE_INTERVAL, || Msg::Sample);
        Ok(())
    }
}

impl BackpressureActor {
    async fn sample_stream(&self) -> Result<StreamSample, Error> {
        let jetstream = &self.bus.jetstream;
        // Read before and after the consumer, so that results arriving in between do not count as
        // lost.
        let mut stream = jetstream.get_stream(subject::RESULTS_STREAM).await?;
        let last_before = stream.cached_info().state.last_sequence;
        let consumer = match stream.consumer_info(subject::SINK_CONSUMER).await {
            Ok(consumer) => Some(consumer),
            Err(why) if why.kind() == ConsumerInfoErrorKind::NotFound => None,
            Err(why) => return Err(why.into()),
        };
        let Info { config, created, state, .. } = stream.info().await?.clone();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(StreamSample {
            created,
            last_seq_before: last_before,
            last_seq: state.last_sequence,
            messages: state.messages,
            bytes: state.bytes,
            max_bytes: u64::try_from(config.max_bytes).unwrap_or(0),
            consumer: consumer.map(|consumer| ConsumerSample {
                created: consumer.created,
                undelivered: consumer.num_pending,
                unacked: count(consumer.num_ack_pending),
                deliveries: consumer.delivered.consumer_sequence,
                ack_floor: consumer.ack_floor.stream_sequence,
            }),
        })
    }

    fn report_assessment(&self, assessment: Assessment, sample: &StreamSample, monitor: &BacklogMonitor) {
        let Assessment { waiting, ratio, lost, transition } = assessment;
        self.metrics.results_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics.results_waiting_ratio.set(ratio);
        self.metrics.publishing_paused.set(i64::from(monitor.is_paused));
        self.publish_pause.set_paused(monitor.is_paused);
        let (percent, max_mib) = ((ratio * 100.0).round(), sample.max_bytes >> 20);
        if lost > 0 {
            self.metrics.results_discarded.inc_by(lost);
            error!(
                messages = lost,
                "results left the stream before a sink had stored them; their ticks will be recorded as missed"
            );
        }
        match transition {
            Some(Transition::Paused) => error!(
                waiting,
                percent,
                max_mib,
                "paused publishing, too many results wait for a sink; check that sinks run and that the \
                 database is healthy"
            ),
            Some(Transition::Resumed) => {
                info!(waiting, percent, "resumed publishing, sinks have caught up")
            }
            Some(Transition::BacklogHigh) => warn!(
                waiting,
                percent,
                max_mib,
                pause_percent = BacklogMonitor::PAUSE_ABOVE * 100.0,
                "results backlog is high; publishing pauses at pause_percent"
            ),
            None => {}
        }
        // Set after each sample, since the number in the reason changes while the pause lasts.
        match monitor.is_paused {
            true => self.readiness.set_unready(format!(
                "no jobs are published: {waiting} messages with results wait for a sink, {percent} % of the stream's limit"
            )),
            false => self.readiness.set_ready(),
        }
    }
}
