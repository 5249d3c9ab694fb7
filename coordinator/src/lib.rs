//! The coordinator: holds leases on shards of schedules and publishes a job for each tick when it
//! is due.

pub mod ack_inbox;
pub mod adaptive_chunk;
pub mod backpressure;
pub mod catalog;
mod confirmation;
pub mod fence;
pub mod housekeeper;
pub mod lease;
pub mod ledger_closer;
mod listener;
pub mod metrics;
pub mod options;
pub mod publish_gaps;
pub mod publisher;
pub mod region_liveness;
pub mod scheduler;
pub mod settings_follower;
pub mod shared_clock;
pub mod stream_setup;

use std::time::Duration;

use picket_runtime::{Backoff, Bus, Health, Pipeline, PipelineHandle, ReadinessCheck, bus};
use picket_store::{Store, settings::SharedSettings, tickets::Keyring};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tokio::sync::oneshot;
use tracing::warn;

use crate::{
    ack_inbox::AckInbox,
    backpressure::{BackpressureActor, PublishPause},
    catalog::Catalog,
    confirmation::ConfirmationListener,
    fence::Fence,
    housekeeper::Housekeeper,
    lease::LeaseManager,
    ledger_closer::LedgerCloser,
    listener::NotificationListener,
    metrics::Metrics,
    publish_gaps::PublishGaps,
    publisher::{Ownership, PublishHealth, Publisher},
    scheduler::Scheduler,
    settings_follower::SettingsFollower,
    shared_clock::SharedClock,
    stream_setup::StreamReconciler,
};

/// Configuration of a coordinator, constant at run time. What all processes must agree on is a
/// setting of the database.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name in leases and logs; unique among coordinators.
    pub name: String,
    /// Maximum size of the jobs stream in bytes.
    pub max_jobs_bytes: i64,
}

/// Reasons for which a coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus cannot be used.
    #[error("the bus cannot be used")]
    Bus(#[from] bus::Error),
    /// The inbox for acknowledgements cannot be subscribed to.
    #[error("could not subscribe to acknowledgements")]
    Acks(#[from] async_nats::SubscribeError),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Store(#[from] picket_store::Error),
    /// An actor did not start.
    #[error("could not start the coordinator's actors")]
    Spawn(#[from] SpawnErr),
}

/// Maximum time to release all shards.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Waits for NATS and for a database with a compatible schema, then runs until drained.
///
/// # Errors
/// If NATS or the database is reachable but cannot be used.
pub async fn start(config: Config, bus: Bus, store: Store, health: Health) -> Result<PipelineHandle, Error> {
    let database = health.add_readiness_check("database");
    bus.wait_connected().await?;
    // The same failure recurs with every attempt and is logged once.
    let mut last_reason = None;
    store
        .wait_ready(|error| {
            let why = picket_runtime::ErrorChain(error).to_string();
            database.set_unready(why.clone());
            if last_reason.as_ref() != Some(&why) {
                warn!(error = why, "waiting for the database");
                last_reason = Some(why);
            }
        })
        .await?;
    let (keyring, settings) = load_shared_state(&store, &database).await;
    database.set_ready();
    let coordinator = Coordinator {
        ack_inbox: AckInbox::subscribe(&bus.client).await?,
        metrics: Metrics::new(&health),
        catalog_readiness: health.add_readiness_check("schedules"),
        lease_readiness: health.add_readiness_check("leases"),
        streams_readiness: health.add_readiness_check("streams"),
        backpressure_readiness: health.add_readiness_check("backlog"),
        config,
        bus,
        store,
        keyring,
        settings,
    };
    Ok(PipelineHandle::start("coordinator", coordinator, DRAIN_TIMEOUT).await?)
}

async fn load_shared_state(store: &Store, database: &ReadinessCheck) -> (Keyring, SharedSettings) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match tokio::try_join!(Keyring::load_from(store), SharedSettings::load_from(store)) {
            Ok(loaded) => return loaded,
            Err(error) => {
                let why = picket_runtime::ErrorChain(&error).to_string();
                warn!(error = why, "could not load ticket keys and settings, retrying");
                database.set_unready(why);
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

#[derive(Clone)]
struct Coordinator {
    config: Config,
    bus: Bus,
    ack_inbox: AckInbox,
    store: Store,
    keyring: Keyring,
    settings: SharedSettings,
    metrics: Metrics,
    catalog_readiness: ReadinessCheck,
    lease_readiness: ReadinessCheck,
    streams_readiness: ReadinessCheck,
    backpressure_readiness: ReadinessCheck,
}

impl Pipeline for Coordinator {
    type Actors = ActorRef<lease::Msg>;

    async fn spawn_actors(&self, supervisor: ActorCell) -> Result<Self::Actors, SpawnErr> {
        // New in each pipeline, so that no task of an earlier pipeline can publish.
        let (fence, publish_health, publish_gaps) =
            (Fence::default(), PublishHealth::default(), PublishGaps::default());
        let ownership = Ownership::default();
        let clock = SharedClock::default();
        let publisher = Publisher {
            bus: self.bus.clone(),
            ack_inbox: self.ack_inbox.clone(),
            fence: fence.clone(),
            publish_health: publish_health.clone(),
            ownership: ownership.clone(),
            publish_gaps: publish_gaps.clone(),
            metrics: self.metrics.clone(),
        };
        let publish_pause = PublishPause::default();
        let backpressure = BackpressureActor {
            bus: self.bus.clone(),
            publish_pause: publish_pause.clone(),
            metrics: self.metrics.clone(),
            readiness: self.backpressure_readiness.clone(),
        };
        Actor::spawn_linked(None, backpressure, (), supervisor.clone()).await?;
        let scheduler = Scheduler {
            publisher,
            publish_pause,
            settings: self.settings.clone(),
            keyring: self.keyring.clone(),
            metrics: self.metrics.clone(),
        };
        let (scheduler, _) = Actor::spawn_linked(None, scheduler, (), supervisor.clone()).await?;
        let confirmation_listener = ConfirmationListener {
            bus: self.bus.clone(),
            fence: fence.clone(),
            scheduler: scheduler.clone(),
            metrics: self.metrics.clone(),
        };
        tokio::spawn(confirmation_listener.run());
        let catalog = Catalog {
            store: self.store.clone(),
            scheduler: scheduler.clone(),
            fence: fence.clone(),
            metrics: self.metrics.clone(),
            readiness: self.catalog_readiness.clone(),
        };
        let (catalog, _) = Actor::spawn_linked(None, catalog, (), supervisor.clone()).await?;
        let stream_reconciler = StreamReconciler {
            bus: self.bus.clone(),
            store: self.store.clone(),
            fence: fence.clone(),
            keyring: self.keyring.clone(),
            ownership: ownership.clone(),
            clock: clock.clone(),
            max_jobs_bytes: self.config.max_jobs_bytes,
            settings: self.settings.clone(),
            metrics: self.metrics.clone(),
            readiness: self.streams_readiness.clone(),
        };
        let (stream_reconciler, _) =
            Actor::spawn_linked(None, stream_reconciler, (), supervisor.clone()).await?;
        let ledger = LedgerCloser {
            name: self.config.name.clone(),
            settings: self.settings.clone(),
            bus: self.bus.clone(),
            store: self.store.clone(),
            fence: fence.clone(),
            clock: clock.clone(),
            publish_gaps,
            metrics: self.metrics.clone(),
        };
        Actor::spawn_linked(None, ledger, (), supervisor.clone()).await?;
        let housekeeper = Housekeeper {
            store: self.store.clone(),
            clock: clock.clone(),
            settings: self.settings.clone(),
            metrics: self.metrics.clone(),
        };
        Actor::spawn_linked(None, housekeeper, (), supervisor.clone()).await?;
        let settings_follower = SettingsFollower {
            store: self.store.clone(),
            settings: self.settings.clone(),
            stream_reconciler: stream_reconciler.clone(),
        };
        let (settings_follower, _) =
            Actor::spawn_linked(None, settings_follower, (), supervisor.clone()).await?;
        // Last of the actors, so that a shard is acquired only when everything it needs is running.
        let lease = LeaseManager {
            name: self.config.name.clone(),
            settings: self.settings.clone(),
            store: self.store.clone(),
            jetstream: self.bus.jetstream.clone(),
            scheduler,
            catalog: catalog.clone(),
            fence,
            clock,
            publish_health,
            ownership,
            metrics: self.metrics.clone(),
            readiness: self.lease_readiness.clone(),
        };
        let (lease, _) = Actor::spawn_linked(None, lease, (), supervisor).await?;
        let notification_listener = NotificationListener {
            store: self.store.clone(),
            catalog,
            lease_manager: lease.clone(),
            stream_reconciler,
            settings_follower,
        };
        tokio::spawn(notification_listener.run());
        Ok(lease)
    }

    async fn drain(&self, lease: Self::Actors) {
        let (done, drained) = oneshot::channel();
        if lease.cast(lease::Msg::Drain(done)).is_ok() {
            let _ = drained.await;
        }
    }
}
