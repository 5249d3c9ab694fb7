//! Closes the ledger of the held shards: every few seconds, a piece at a time, as far as the grace allows.
//!
//! Bound: one statement at a time, over a piece that is made smaller when it was slow. Loss: none, since where each
//! shard stands is in the database; a coordinator that dies, or loses a shard, leaves the rest to the next holder.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use picket_proto::{Timestamp, subject};
use picket_runtime::{Bus, Chain};
use picket_store::{Store, ledger};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::{
    clock::SharedClock,
    fence::Fence,
    lapses::Lapses,
    metrics::{Metrics, Missed},
    piece::Piece,
};

pub enum Msg {
    /// Time to close what can be closed.
    Round,
}

/// See the module.
#[derive(Clone)]
pub struct Ledger {
    pub name: String,
    pub grace: Duration,
    pub bus: Bus,
    pub store: Store,
    pub fence: Fence,
    pub clock: SharedClock,
    pub lapses: Lapses,
    pub metrics: Metrics,
}

/// How things stand.
pub struct Closing {
    piece: Piece,
    told: bool,
}

/// Between rounds.
const ROUND: Duration = Duration::from_secs(5);
/// A piece that takes longer is too large, and one that takes a small part of it could be larger.
const SLOW: Duration = Duration::from_secs(2);
const LEAST_PIECE: Duration = Duration::from_secs(5);
const FIRST_PIECE: Duration = Duration::from_secs(60);
const MOST_PIECE: Duration = Duration::from_secs(600);

impl Actor for Ledger {
    type Msg = Msg;
    type State = Closing;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Closing, ActorProcessingErr> {
        myself.send_after(ROUND, || Msg::Round);
        let piece = Piece::new(FIRST_PIECE, LEAST_PIECE, MOST_PIECE, SLOW, SLOW / 8);
        Ok(Closing { piece, told: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::Round: Msg,
        closing: &mut Closing,
    ) -> Result<(), ActorProcessingErr> {
        let began = Instant::now();
        let more = match self.round(closing).await {
            Ok(more) => {
                if std::mem::take(&mut closing.told) {
                    info!("the ledger is closed again");
                }
                more
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                if !std::mem::replace(&mut closing.told, true) {
                    warn!(error = %Chain(&error), "the ledger could not be closed, trying again");
                }
                false
            }
        };
        // What there is to catch up with takes half of the time at the most: results come first.
        let pause = if more { began.elapsed().min(ROUND) } else { ROUND };
        myself.send_after(pause, || Msg::Round);
        Ok(())
    }
}

impl Ledger {
    /// Closes one piece; says whether there is more.
    async fn round(&self, closing: &mut Closing) -> Result<bool, picket_store::Error> {
        if self.store.adopt_cluster().await? {
            warn!("the database was restored from another cluster, replaced its transaction numbers");
        }
        let lapses = self.lapses.take();
        if !lapses.is_empty()
            && let Err(error) = ledger::note(&self.store, &lapses).await
        {
            self.lapses.put_back(lapses);
            return Err(error);
        }
        if let Err(why) = self.clock.now() {
            debug!(why, "the ledger is not closed by a clock that is in doubt");
            return Ok(false);
        }
        let held = self.fence.held();
        if held.is_empty() {
            self.metrics.ledger_behind.set(0.0);
            return Ok(false);
        }
        let late_since = self.late_since().await;
        let began = Instant::now();
        let closed =
            ledger::close(&self.store, &self.name, &held, self.grace, closing.piece.size(), late_since).await;
        let took = began.elapsed();
        self.metrics.ledger_seconds.observe(took.as_secs_f64());
        closing.piece.took(took);
        let Some(closed) = closed? else {
            debug!("a shard was lost while its ledger was being closed: nothing was written");
            return Ok(false);
        };
        let missed: u64 = closed.missed.iter().map(|(_, ticks)| ticks).sum();
        for (cause, ticks) in closed.missed {
            info!(cause, ticks, "wrote {ticks} ticks down as missed: {cause}");
            self.metrics.missed.get_or_create(&Missed { cause }).inc_by(ticks);
        }
        let behind = closed.behind.unwrap_or_default();
        self.metrics.ledger_behind.set(behind.as_secs_f64());
        Ok(behind > self.grace + 2 * ROUND && (missed > 0 || took < SLOW))
    }

    /// Since when results wait for a sink, if any do: they may be those that are lacking.
    async fn late_since(&self) -> Option<Timestamp> {
        let jetstream = &self.bus.jetstream;
        let asking = async {
            let consumer = jetstream
                .get_consumer_from_stream::<pull::Config, _, _>(subject::SINK, subject::RESULTS)
                .await
                .ok()?;
            let info = consumer.cached_info();
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                return None;
            }
            let stream = jetstream.get_stream_no_info(subject::RESULTS).await.ok()?;
            let oldest = stream
                .raw_message_builder()
                .sequence(info.ack_floor.stream_sequence + 1)
                .next_by_subject(subject::RESULT_SUBJECTS)
                .send()
                .await;
            Some(Timestamp::from(oldest.ok()?.time))
        };
        timeout(ROUND, asking).await.ok().flatten()
    }
}
