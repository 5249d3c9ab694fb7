//! The actors of the coordinator, built together and drained by the release of all shards.

use picket_runtime::{Bus, Pipeline, ReadinessCheck, spawn_task};
use picket_store::{Store, settings::SharedSettings, tickets::Keyring};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tokio::sync::oneshot;

use crate::{
    config::Config,
    confirmation::ConfirmationListener,
    dispatch::backpressure::{BackpressureActor, PublishPause},
    dispatch::publish_gaps::PublishGaps,
    dispatch::publisher::{Ownership, PublishHealth, Publisher},
    fence::Fence,
    housekeeper::Housekeeper,
    lease::{self, LeaseManager},
    ledger_closer::LedgerCloser,
    metrics::Metrics,
    schedule::catalog::Catalog,
    schedule::listener::NotificationListener,
    schedule::scheduler::Scheduler,
    settings_follower::SettingsFollower,
    shared_clock::SharedClock,
    stream_setup::StreamReconciler,
};

/// Parts of the coordinator that outlive a rebuild of its actors.
#[derive(Clone)]
pub(crate) struct CoordinatorPipeline {
    pub(crate) config: Config,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) keyring: Keyring,
    pub(crate) settings: SharedSettings,
    pub(crate) metrics: Metrics,
    pub(crate) catalog_readiness: ReadinessCheck,
    pub(crate) lease_readiness: ReadinessCheck,
    pub(crate) streams_readiness: ReadinessCheck,
    pub(crate) backpressure_readiness: ReadinessCheck,
}

impl Pipeline for CoordinatorPipeline {
    type Actors = ActorRef<lease::Msg>;

    async fn spawn_actors(&self, supervisor: ActorCell) -> Result<Self::Actors, SpawnErr> {
        // New in each pipeline, so that no task of an earlier pipeline can publish.
        let (fence, publish_health, publish_gaps) =
            (Fence::default(), PublishHealth::default(), PublishGaps::default());
        let ownership = Ownership::default();
        let clock = SharedClock::default();
        let publisher = Publisher {
            bus: self.bus.clone(),
            fence: fence.clone(),
            publish_health: publish_health.clone(),
            ownership: ownership.clone(),
            publish_gaps: publish_gaps.clone(),
            metrics: self.metrics.clone(),
        };
        // Downstream first: each actor gets references to actors that already run.
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
        // A loop without messages is a supervised task, so that its end rebuilds the pipeline as
        // well.
        spawn_task("confirmation_listener", confirmation_listener.run(), supervisor.clone()).await?;
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
        // Last of the working actors, so that a shard is acquired only when everything it needs is running.
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
        let (lease, _) = Actor::spawn_linked(None, lease, (), supervisor.clone()).await?;
        let notification_listener = NotificationListener {
            store: self.store.clone(),
            catalog,
            lease_manager: lease.clone(),
            stream_reconciler,
            settings_follower,
        };
        spawn_task("notification_listener", notification_listener.run(), supervisor).await?;
        Ok(lease)
    }

    async fn drain(&self, lease: Self::Actors) {
        let (done, drained) = oneshot::channel();
        if lease.cast(lease::Msg::Drain(done)).is_ok() {
            // Without a timeout here, because the supervisor bounds the whole drain.
            let _ = drained.await;
        }
    }
}
