//! Keeps what the others stand on: the streams, a consumer for each region, the days' partitions.
//!
//! Every coordinator does this, over and over, from what it finds and not from what it is told, so that what
//! somebody deleted is made again. Bound: one round at a time. Loss: none.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use picket_proto::{Region, subject};
use picket_runtime::{
    Bus, Chain, Condition,
    streams::{self, Durability},
};
use picket_store::{Store, partitions, regions, upkeep::Retention};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::metrics::{In, Metrics};

pub enum Msg {
    /// Time to look.
    Round,
    /// Regions may have changed, at the latest then.
    Called(Instant),
}

/// See the module.
#[derive(Clone)]
pub struct Provision {
    pub bus: Bus,
    pub store: Store,
    pub durability: Durability,
    pub retention: Retention,
    pub metrics: Metrics,
    pub condition: Condition,
}

/// What was found or made.
#[derive(Default)]
pub struct Found {
    rounds: u64,
    looked_at: Option<Instant>,
    told: bool,
}

const ROUND: Duration = Duration::from_secs(5);
/// Partitions are made a week ahead; looking every quarter of an hour is plenty.
const PARTITION_ROUNDS: u64 = 180;

impl Actor for Provision {
    type Msg = Msg;
    type State = Found;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Found, ActorProcessingErr> {
        myself.cast(Msg::Round)?;
        Ok(Found::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        found: &mut Found,
    ) -> Result<(), ActorProcessingErr> {
        let round = match message {
            Msg::Round => true,
            // Looked at since; calls pile up while the bus is away.
            Msg::Called(at) if found.looked_at.is_some_and(|looked_at| at < looked_at) => return Ok(()),
            Msg::Called(_) => false,
        };
        found.looked_at = Some(Instant::now());
        match self.provide(found, round).await {
            Ok(()) => {
                self.condition.holds();
                found.told = false;
            }
            Err(error) => {
                self.condition.fails(Chain(&*error).to_string());
                if !std::mem::replace(&mut found.told, true) {
                    warn!(error = %Chain(&*error), "streams, consumers or partitions are not as they should be, trying again");
                }
            }
        }
        if round {
            myself.send_after(ROUND, || Msg::Round);
        }
        Ok(())
    }
}

impl Provision {
    async fn provide(
        &self,
        found: &mut Found,
        round: bool,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.streams(found.rounds == 0).await?;
        for region in regions::in_use(&self.store).await? {
            self.consumer(&region, found.rounds == 0).await?;
        }
        if round {
            if found.rounds.is_multiple_of(PARTITION_ROUNDS) {
                let made = partitions::ensure(&self.store, self.retention).await.inspect_err(|_| {
                    self.metrics.database_errors.inc();
                })?;
                if made > 0 {
                    info!(partitions = made, "made {made} partitions of results");
                }
            }
            found.rounds += 1;
        }
        Ok(())
    }

    /// Settings are brought up to date at the start; afterwards only what is missing is made.
    async fn streams(&self, first: bool) -> Result<(), streams::Error> {
        for config in [
            streams::jobs(self.durability),
            streams::results(self.durability),
            streams::events(self.durability),
        ] {
            let there = !first && self.bus.jetstream.get_stream(&config.name).await.is_ok();
            if !there {
                let name = config.name.clone();
                streams::bring_up_to_date(&self.bus.jetstream, config).await?;
                if !first {
                    warn!(stream = name, "the stream {name} was gone and has been made again");
                }
            }
        }
        Ok(())
    }

    async fn consumer(&self, region: &Region, first: bool) -> Result<(), streams::Error> {
        let name = subject::prober_consumer(region);
        let found =
            self.bus.jetstream.get_consumer_from_stream::<pull::Config, _, _>(&name, subject::JOBS).await;
        if let Ok(consumer) = &found {
            let waiting = i64::try_from(consumer.cached_info().num_pending).unwrap_or(i64::MAX);
            self.metrics.waiting.get_or_create(&In { region: region.to_string() }).set(waiting);
        }
        if first || found.is_err() {
            streams::ensure_consumer(&self.bus.jetstream, subject::JOBS, streams::prober_consumer(region))
                .await?;
            info!(region = %region, "jobs of region {region} can be pulled");
        }
        Ok(())
    }
}
