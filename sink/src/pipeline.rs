//! The actors of the sink, built together and drained in the direction of the data.

use std::time::Duration;

use picket_runtime::{Bus, Pipeline, ReadinessCheck, spawn_task};
use picket_store::{Store, settings::SharedSettings};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tracing::warn;

use crate::{
    Config,
    batch::BatchPermits,
    database_clock::SharedDatabaseClock,
    fetcher::{self, Fetcher},
    installation_guard::InstallationGuard,
    metrics::Metrics,
    outbox_publisher::{self, OutboxPublisher},
    recovery::Recovery,
    writer::{self, Writer},
};

pub(crate) struct SinkPipeline {
    pub(crate) config: Config,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) settings: SharedSettings,
    pub(crate) clock: SharedDatabaseClock,
    pub(crate) recovery: Recovery,
    pub(crate) guard: InstallationGuard,
    pub(crate) metrics: Metrics,
    pub(crate) database: ReadinessCheck,
    pub(crate) stream: ReadinessCheck,
}

pub(crate) struct SinkActors {
    fetcher: ActorRef<fetcher::Msg>,
    writer: ActorRef<writer::Msg>,
    outbox: ActorRef<outbox_publisher::Msg>,
    client: async_nats::Client,
}

impl Pipeline for SinkPipeline {
    type Actors = SinkActors;

    async fn spawn_actors(&self, supervisor: ActorCell) -> Result<SinkActors, SpawnErr> {
        let client = self.bus.client.clone();
        let settings_follower = self.settings.clone().follow_database(self.store.clone());
        spawn_task("settings_follower", settings_follower, supervisor.clone()).await?;
        let outbox = OutboxPublisher {
            bus: self.bus.clone(),
            store: self.store.clone(),
            guard: self.guard.clone(),
            metrics: self.metrics.clone(),
        };
        let (outbox, _) = Actor::spawn_linked(None, outbox, (), supervisor.clone()).await?;
        let writer = Writer {
            store: self.store.clone(),
            clock: self.clock.clone(),
            results: self.recovery.guarded_results(),
            recovery: self.recovery.clone(),
            client: client.clone(),
            metrics: self.metrics.clone(),
            database: self.database.clone(),
            outbox: outbox.clone(),
        };
        let (writer, _) = Actor::spawn_linked(None, writer, (), supervisor.clone()).await?;
        let fetcher = Fetcher {
            config: self.config,
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            guard: self.guard.clone(),
            writer: writer.clone(),
            metrics: self.metrics.clone(),
            stream: self.stream.clone(),
            // Each build has new permits, because actors of the last build may have died with some
            // of its permits.
            permits: BatchPermits::new(self.config.batch_size as usize),
        };
        let (fetcher, _) = Actor::spawn_linked(None, fetcher, (), supervisor).await?;
        Ok(SinkActors { fetcher, writer, outbox, client })
    }

    async fn drain(&self, actors: SinkActors) {
        /// Timeout of steps without a server involved. The supervisor's own timeout bounds the
        /// whole drain.
        const STEP_TIMEOUT: Duration = Duration::from_secs(3);

        let SinkActors { fetcher, writer, outbox, client } = actors;
        // A failed call means that the actor has stopped already and has nothing left to drain.
        let _ = fetcher.call(fetcher::Msg::Stop, Some(STEP_TIMEOUT)).await;
        let _ = writer.call(writer::Msg::Finish, Some(self.config.drain_timeout)).await;
        // Events that stay in the outbox are published by another sink, or by the next process.
        let _ = outbox.call(outbox_publisher::Msg::Finish, Some(STEP_TIMEOUT)).await;
        if !matches!(tokio::time::timeout(STEP_TIMEOUT, client.flush()).await, Ok(Ok(()))) {
            warn!("could not flush the last acknowledgements; their results are redelivered");
        }
    }
}
