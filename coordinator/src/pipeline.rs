//! The actors of the coordinator, built together and drained by the release of all shards.

use picket_runtime::{Bus, Pipeline, ReadinessCheck, spawn_task};
use picket_store::{Store, tickets::Keyring};
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
            batch_delay: self.config.batch_delay,
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
        spawn_task("confirmation_listener", confirmation_listener.run(), supervisor.clone()).await?;
        let catalog = Catalog {
            store: self.store.clone(),
            intervals: self.config.intervals,
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
            stream_limits: self.config.stream_limits,
            retention: self.config.retention,
            metrics: self.metrics.clone(),
            readiness: self.streams_readiness.clone(),
        };
        let (stream_reconciler, _) =
            Actor::spawn_linked(None, stream_reconciler, (), supervisor.clone()).await?;
        let ledger = LedgerCloser {
            name: self.config.name.clone(),
            grace: self.config.ledger_grace,
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
            retention: self.config.retention,
            metrics: self.metrics.clone(),
        };
        Actor::spawn_linked(None, housekeeper, (), supervisor.clone()).await?;
        // Last of the working actors, so that a shard is acquired only when everything it needs is running.
        let lease = LeaseManager {
            name: self.config.name.clone(),
            lease_time: self.config.lease_time,
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
        };
        spawn_task("notification_listener", notification_listener.run(), supervisor).await?;
        Ok(lease)
    }

    async fn drain(&self, lease: Self::Actors) {
        let (done, drained) = oneshot::channel();
        if lease.cast(lease::Msg::Drain(done)).is_ok() {
            let _ = drained.await;
        }
    }
}
