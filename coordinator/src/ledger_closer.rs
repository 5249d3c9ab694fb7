//! Closes the ledger of the held shards every few seconds, chunk by chunk, up to the grace period.
//!
//! Bound: one statement at a time, over a chunk that shrinks after a slow statement. Loss: none,
//! because the progress of each shard is in the database; the next holder of a lost shard continues
//! there.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use picket_proto::{Timestamp, subject};
use picket_runtime::{Bus, ErrorChain};
use picket_store::{Store, ledger, settings::SharedSettings};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::{
    adaptive_chunk::AdaptiveChunk,
    dispatch::publish_gaps::PublishGaps,
    fence::Fence,
    metrics::{Metrics, MissedLabel},
    shared_clock::SharedClock,
};

pub(crate) enum Msg {
    /// Close the ledger as far as possible.
    CloseLedger,
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct LedgerCloser {
    pub(crate) name: String,
    pub(crate) settings: SharedSettings,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) fence: Fence,
    pub(crate) clock: SharedClock,
    pub(crate) publish_gaps: PublishGaps,
    pub(crate) metrics: Metrics,
}

/// State of the ledger closer.
pub(crate) struct CloserState {
    chunk: AdaptiveChunk,
    is_failure_reported: bool,
}

/// Pause between rounds.
const LEDGER_INTERVAL: Duration = Duration::from_secs(5);
/// A statement slower than this halves the chunk; one faster than an eighth of it doubles the
/// chunk.
const SLOW_THRESHOLD: Duration = Duration::from_secs(2);
const MIN_CHUNK_SPAN: Duration = Duration::from_secs(5);
const INITIAL_CHUNK_SPAN: Duration = Duration::from_secs(60);
const MAX_CHUNK_SPAN: Duration = Duration::from_secs(600);

impl Actor for LedgerCloser {
    type Msg = Msg;
    type State = CloserState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<CloserState, ActorProcessingErr> {
        myself.send_after(LEDGER_INTERVAL, || Msg::CloseLedger);
        let chunk = AdaptiveChunk::new(
            INITIAL_CHUNK_SPAN,
            MIN_CHUNK_SPAN,
            MAX_CHUNK_SPAN,
            SLOW_THRESHOLD,
            SLOW_THRESHOLD / 8,
        );
        Ok(CloserState { chunk, is_failure_reported: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::CloseLedger: Msg,
        state: &mut CloserState,
    ) -> Result<(), ActorProcessingErr> {
        let began = Instant::now();
        let more = match self.close_ledger(state).await {
            Ok(more) => {
                if std::mem::take(&mut state.is_failure_reported) {
                    info!("resumed closing the ledger");
                }
                more
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                if !std::mem::replace(&mut state.is_failure_reported, true) {
                    warn!(error = %ErrorChain(&error), "could not close the ledger, retrying");
                }
                false
            }
        };
        // Catching up takes at most half of the time, because writing results has priority.
        let pause = if more { began.elapsed().min(LEDGER_INTERVAL) } else { LEDGER_INTERVAL };
        myself.send_after(pause, || Msg::CloseLedger);
        Ok(())
    }
}

impl LedgerCloser {
    /// Closes one chunk. Returns true if there is more.
    async fn close_ledger(&self, state: &mut CloserState) -> Result<bool, picket_store::Error> {
        // Before anything is closed: the schedules of a restored database carry transaction numbers
        // of the former cluster.
        if self.store.adopt_cluster().await? {
            warn!("the database was restored from another cluster, replaced its transaction numbers");
        }
        // Gaps first: closing an interval uses them for the cause of missed ticks.
        let gaps = self.publish_gaps.drain_gaps();
        if !gaps.is_empty()
            && let Err(error) = ledger::record_gaps(&self.store, &gaps).await
        {
            self.publish_gaps.restore_gaps(gaps);
            return Err(error);
        }
        if let Err(why) = self.clock.database_now() {
            debug!(why, "database clock in doubt, not closing the ledger");
            return Ok(false);
        }
        let held = self.fence.held_epochs();
        if held.is_empty() {
            self.metrics.ledger_lag.set(0.0);
            return Ok(false);
        }
        let grace = self.settings.current().ledger_grace;
        // Sampled before closing, so that ticks with results still in the stream count as late.
        let late_since = self.oldest_unstored_result().await;
        let began = Instant::now();
        let closed = ledger::close_interval(
            &self.store,
            &self.name,
            &held,
            grace,
            state.chunk.current_size(),
            late_since,
        )
        .await;
        let took = began.elapsed();
        self.metrics.ledger_close_duration.observe(took.as_secs_f64());
        state.chunk.record_duration(took);
        let Some(closed) = closed? else {
            debug!("lost a shard while closing its ledger, wrote nothing");
            return Ok(false);
        };
        let missed: u64 = closed.missed_by_cause.iter().map(|(_, ticks)| ticks).sum();
        for (cause, ticks) in closed.missed_by_cause {
            info!(cause, ticks, "recorded missed ticks");
            self.metrics.ticks_missed.get_or_create(&MissedLabel { cause }).inc_by(ticks);
        }
        let behind = closed.lag.unwrap_or_default();
        self.metrics.ledger_lag.set(behind.as_secs_f64());
        // A slow statement that recorded nothing is not repeated at once: it found the database
        // busy.
        Ok(behind > grace + 2 * LEDGER_INTERVAL && (missed > 0 || took < SLOW_THRESHOLD))
    }

    /// Time of the oldest result waiting for a sink, if any; possibly the result of a tick
    /// without a row.
    async fn oldest_unstored_result(&self) -> Option<Timestamp> {
        let jetstream = &self.bus.jetstream;
        let query = async {
            let consumer = jetstream
                .get_consumer_from_stream::<pull::Config, _, _>(
                    subject::SINK_CONSUMER,
                    subject::RESULTS_STREAM,
                )
                .await
                .ok()?;
            let info = consumer.cached_info();
            // A sink acknowledges after its commit, so without these nothing is unstored.
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                return None;
            }
            let stream = jetstream.get_stream_no_info(subject::RESULTS_STREAM).await.ok()?;
            let oldest = stream
                .raw_message_builder()
                // A later message may be stored already. An earlier time only makes the ledger more
                // cautious.
                .sequence(info.ack_floor.stream_sequence + 1)
                .next_by_subject(subject::RESULT_SUBJECTS)
                .send()
                .await;
            Some(Timestamp::from(oldest.ok()?.time))
        };
        // Without an answer the ledger closes as if no result waited; a late result replaces its
        // `missed` row.
        timeout(LEDGER_INTERVAL, query).await.ok().flatten()
    }
}
