//! Who checks what, when: leases on shards of schedules, and a job published for each tick when it is due.

pub mod acks;
pub mod backlog;
pub mod catalog;
pub mod clock;
mod confirm;
pub mod fence;
pub mod lapses;
pub mod lease;
pub mod ledger;
mod listener;
pub mod metrics;
pub mod options;
pub mod piece;
pub mod planner;
pub mod provision;
pub mod publish;
pub mod silence;
pub mod upkeep;

use std::time::Duration;

use picket_proto::site::IntervalRange;
use picket_runtime::{Backoff, Bus, Condition, Health, Pipeline, Running, bus, streams::Durability};
use picket_store::{Store, tickets::Keyring, upkeep::Retention};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tokio::sync::oneshot;
use tracing::warn;

use crate::{
    acks::Acks,
    backlog::{Backlog, Brake},
    catalog::Catalog,
    clock::SharedClock,
    confirm::Confirming,
    fence::Fence,
    lapses::Lapses,
    lease::LeaseHolder,
    ledger::Ledger,
    listener::Listening,
    metrics::Metrics,
    planner::Planner,
    provision::Provision,
    publish::{Ownership, Publisher, Reach},
    upkeep::Upkeep,
};

/// What a coordinator is told once and for all.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it is called in leases and logs; no two alike.
    pub name: String,
    /// How long a shard stays leased without being renewed.
    pub lease_time: Duration,
    /// The intervals that a site may have.
    pub intervals: IntervalRange,
    /// How the streams are kept.
    pub durability: Durability,
    /// How long after a tick its ledger is closed.
    pub ledger_grace: Duration,
    /// For how long jobs may wait for others to be published with.
    pub gather: Duration,
    /// How long results and rollups are kept.
    pub retention: Retention,
}

/// Why a coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus cannot be used.
    #[error("the bus cannot be used")]
    Bus(#[from] bus::Error),
    /// Acknowledgements cannot be heard.
    #[error("acknowledgements cannot be heard")]
    Acks(#[from] async_nats::SubscribeError),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Store(#[from] picket_store::Error),
    /// An actor did not start.
    #[error("could not start")]
    Spawn(#[from] SpawnErr),
}

/// How long giving all back may take.
const DRAIN: Duration = Duration::from_secs(15);

/// Waits for NATS and for a database with a fitting schema, then runs until drained.
///
/// # Errors
/// When what it needs is there and cannot be used.
pub async fn start(config: Config, bus: Bus, store: Store, health: Health) -> Result<Running, Error> {
    let database = health.condition("database");
    bus.connected().await?;
    let mut told = None;
    store
        .ready(|error| {
            let why = picket_runtime::Chain(error).to_string();
            database.fails(why.clone());
            if told.as_ref() != Some(&why) {
                warn!(error = why, "waiting for the database: {why}");
                told = Some(why);
            }
        })
        .await?;
    let keyring = load_keyring(&store, &database).await;
    database.holds();
    let coordinator = Coordinator {
        acks: Acks::hear(&bus.client).await?,
        metrics: Metrics::new(&health),
        schedules: health.condition("schedules"),
        leases: health.condition("leases"),
        provision: health.condition("streams"),
        backlog: health.condition("backlog"),
        config,
        bus,
        store,
        keyring,
    };
    Ok(Running::start("coordinator", coordinator, DRAIN).await?)
}

async fn load_keyring(store: &Store, database: &Condition) -> Keyring {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match Keyring::load(store).await {
            Ok(keyring) => return keyring,
            Err(error) => {
                let why = picket_runtime::Chain(&error).to_string();
                warn!(error = why, "could not read the keys of tickets, trying again");
                database.fails(why);
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}

#[derive(Clone)]
struct Coordinator {
    config: Config,
    bus: Bus,
    acks: Acks,
    store: Store,
    keyring: Keyring,
    metrics: Metrics,
    schedules: Condition,
    leases: Condition,
    provision: Condition,
    backlog: Condition,
}

impl Pipeline for Coordinator {
    type Parts = ActorRef<lease::Msg>;

    async fn build(&self, supervisor: ActorCell) -> Result<Self::Parts, SpawnErr> {
        // New with each pipeline, so that nothing of an earlier one can publish.
        let (fence, reach, lapses) = (Fence::default(), Reach::default(), Lapses::default());
        let ownership = Ownership::default();
        let clock = SharedClock::default();
        let publisher = Publisher {
            bus: self.bus.clone(),
            acks: self.acks.clone(),
            fence: fence.clone(),
            reach: reach.clone(),
            ownership: ownership.clone(),
            lapses: lapses.clone(),
            metrics: self.metrics.clone(),
        };
        let brake = Brake::default();
        let backlog = Backlog {
            bus: self.bus.clone(),
            brake: brake.clone(),
            metrics: self.metrics.clone(),
            condition: self.backlog.clone(),
        };
        Actor::spawn_linked(None, backlog, (), supervisor.clone()).await?;
        let planner = Planner {
            publisher,
            brake,
            gather: self.config.gather,
            keyring: self.keyring.clone(),
            metrics: self.metrics.clone(),
        };
        let (planner, _) = Actor::spawn_linked(None, planner, (), supervisor.clone()).await?;
        let confirming = Confirming {
            bus: self.bus.clone(),
            fence: fence.clone(),
            planner: planner.clone(),
            metrics: self.metrics.clone(),
        };
        tokio::spawn(confirming.run());
        let catalog = Catalog {
            store: self.store.clone(),
            intervals: self.config.intervals,
            planner: planner.clone(),
            fence: fence.clone(),
            metrics: self.metrics.clone(),
            condition: self.schedules.clone(),
        };
        let (catalog, _) = Actor::spawn_linked(None, catalog, (), supervisor.clone()).await?;
        let provision = Provision {
            bus: self.bus.clone(),
            store: self.store.clone(),
            fence: fence.clone(),
            keyring: self.keyring.clone(),
            ownership: ownership.clone(),
            clock: clock.clone(),
            durability: self.config.durability,
            retention: self.config.retention,
            metrics: self.metrics.clone(),
            condition: self.provision.clone(),
        };
        let (provision, _) = Actor::spawn_linked(None, provision, (), supervisor.clone()).await?;
        let ledger = Ledger {
            name: self.config.name.clone(),
            grace: self.config.ledger_grace,
            bus: self.bus.clone(),
            store: self.store.clone(),
            fence: fence.clone(),
            clock: clock.clone(),
            lapses,
            metrics: self.metrics.clone(),
        };
        Actor::spawn_linked(None, ledger, (), supervisor.clone()).await?;
        let upkeep = Upkeep {
            store: self.store.clone(),
            clock: clock.clone(),
            retention: self.config.retention,
            metrics: self.metrics.clone(),
        };
        Actor::spawn_linked(None, upkeep, (), supervisor.clone()).await?;
        let lease = LeaseHolder {
            name: self.config.name.clone(),
            lease: self.config.lease_time,
            store: self.store.clone(),
            jetstream: self.bus.jetstream.clone(),
            planner,
            catalog: catalog.clone(),
            fence,
            clock,
            reach,
            ownership,
            metrics: self.metrics.clone(),
            condition: self.leases.clone(),
        };
        let (lease, _) = Actor::spawn_linked(None, lease, (), supervisor).await?;
        let listening = Listening { store: self.store.clone(), catalog, lease: lease.clone(), provision };
        tokio::spawn(listening.run());
        Ok(lease)
    }

    async fn drain(&self, lease: Self::Parts) {
        let (done, drained) = oneshot::channel();
        if lease.cast(lease::Msg::Drain(done)).is_ok() {
            let _ = drained.await;
        }
    }
}
