//! Closes the ledger of the held shards: every few seconds, a piece at a time, as far as the grace allows.
//!
//! Bound: one statement at a time, over a piece that is made smaller when it was slow. Loss: none, since where each
//! shard stands is in the database; a coordinator that dies, or loses a shard, leaves the rest to the next holder.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use picket_proto::{Timestamp, subject};
use picket_runtime::{Bus, ErrorChain};
use picket_store::{Store, ledger};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::{
    adaptive_chunk::AdaptiveChunk,
    fence::Fence,
    metrics::{Metrics, MissedLabel},
    publish_gaps::PublishGaps,
    shared_clock::SharedClock,
};

pub enum Msg {
    /// Time to close what can be closed.
    CloseLedger,
}

/// See the module.
#[derive(Clone)]
pub struct LedgerCloser {
    pub name: String,
    pub grace: Duration,
    pub bus: Bus,
    pub store: Store,
    pub fence: Fence,
    pub clock: SharedClock,
    pub publish_gaps: PublishGaps,
    pub metrics: Metrics,
}

/// How things stand.
pub struct CloserState {
    chunk: AdaptiveChunk,
    is_failure_reported: bool,
}

/// Between rounds.
const LEDGER_INTERVAL: Duration = Duration::from_secs(5);
/// A piece that takes longer is too large, and one that takes a small part of it could be larger.
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
        let piece = AdaptiveChunk::new(
            INITIAL_CHUNK_SPAN,
            MIN_CHUNK_SPAN,
            MAX_CHUNK_SPAN,
            SLOW_THRESHOLD,
            SLOW_THRESHOLD / 8,
        );
        Ok(CloserState { chunk: piece, is_failure_reported: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::CloseLedger: Msg,
        closing: &mut CloserState,
    ) -> Result<(), ActorProcessingErr> {
        let began = Instant::now();
        let more = match self.close_ledger(closing).await {
            Ok(more) => {
                if std::mem::take(&mut closing.is_failure_reported) {
                    info!("the ledger is closed again");
                }
                more
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                if !std::mem::replace(&mut closing.is_failure_reported, true) {
                    warn!(error = %ErrorChain(&error), "the ledger could not be closed, trying again");
                }
                false
            }
        };
        // What there is to catch up with takes half of the time at the most: results come first.
        let pause = if more { began.elapsed().min(LEDGER_INTERVAL) } else { LEDGER_INTERVAL };
        myself.send_after(pause, || Msg::CloseLedger);
        Ok(())
    }
}

impl LedgerCloser {
    /// Closes one piece; says whether there is more.
    async fn close_ledger(&self, closing: &mut CloserState) -> Result<bool, picket_store::Error> {
        if self.store.adopt_cluster().await? {
            warn!("the database was restored from another cluster, replaced its transaction numbers");
        }
        let lapses = self.publish_gaps.drain_gaps();
        if !lapses.is_empty()
            && let Err(error) = ledger::record_gaps(&self.store, &lapses).await
        {
            self.publish_gaps.restore_gaps(lapses);
            return Err(error);
        }
        if let Err(why) = self.clock.database_now() {
            debug!(why, "the ledger is not closed by a clock that is in doubt");
            return Ok(false);
        }
        let held = self.fence.held_epochs();
        if held.is_empty() {
            self.metrics.ledger_lag.set(0.0);
            return Ok(false);
        }
        let late_since = self.oldest_unstored_result().await;
        let began = Instant::now();
        let closed = ledger::close_interval(
            &self.store,
            &self.name,
            &held,
            self.grace,
            closing.chunk.current_size(),
            late_since,
        )
        .await;
        let took = began.elapsed();
        self.metrics.ledger_close_duration.observe(took.as_secs_f64());
        closing.chunk.record_duration(took);
        let Some(closed) = closed? else {
            debug!("a shard was lost while its ledger was being closed: nothing was written");
            return Ok(false);
        };
        let missed: u64 = closed.missed_by_cause.iter().map(|(_, ticks)| ticks).sum();
        for (cause, ticks) in closed.missed_by_cause {
            info!(cause, ticks, "wrote {ticks} ticks down as missed: {cause}");
            self.metrics.ticks_missed.get_or_create(&MissedLabel { cause }).inc_by(ticks);
        }
        let behind = closed.lag.unwrap_or_default();
        self.metrics.ledger_lag.set(behind.as_secs_f64());
        Ok(behind > self.grace + 2 * LEDGER_INTERVAL && (missed > 0 || took < SLOW_THRESHOLD))
    }

    /// Since when results wait for a sink, if any do: they may be those that are lacking.
    async fn oldest_unstored_result(&self) -> Option<Timestamp> {
        let jetstream = &self.bus.jetstream;
        let asking = async {
            let consumer = jetstream
                .get_consumer_from_stream::<pull::Config, _, _>(
                    subject::SINK_CONSUMER,
                    subject::RESULTS_STREAM,
                )
                .await
                .ok()?;
            let info = consumer.cached_info();
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                return None;
            }
            let stream = jetstream.get_stream_no_info(subject::RESULTS_STREAM).await.ok()?;
            let oldest = stream
                .raw_message_builder()
                .sequence(info.ack_floor.stream_sequence + 1)
                .next_by_subject(subject::RESULT_SUBJECTS)
                .send()
                .await;
            Some(Timestamp::from(oldest.ok()?.time))
        };
        timeout(LEDGER_INTERVAL, asking).await.ok().flatten()
    }
}
