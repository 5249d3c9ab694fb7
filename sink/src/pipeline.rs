//! The actors, built together and drained from the front to the end.

use std::time::Duration;

use picket_runtime::{Bus, Pipeline, ReadinessCheck};
use picket_store::Store;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tracing::warn;

use crate::{
    Config,
    batch::BatchPermits,
    database_clock::SharedDatabaseClock,
    fetcher::{self, Fetcher},
    installation_guard::InstallationGuard,
    metrics::Metrics,
    outbox::{self, OutboxPublisher},
    recovery::Recovery,
    writer::{self, Writer},
};

pub(crate) struct SinkPipeline {
    pub(crate) config: Config,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
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
    outbox: ActorRef<outbox::Msg>,
    client: async_nats::Client,
}

impl Pipeline for SinkPipeline {
    type Actors = SinkActors;

    async fn spawn_actors(&self, supervisor: ActorCell) -> Result<SinkActors, SpawnErr> {
        let client = self.bus.client.clone();
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
        let puller = Fetcher {
            config: self.config,
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            guard: self.guard.clone(),
            writer: writer.clone(),
            metrics: self.metrics.clone(),
            stream: self.stream.clone(),
            // New with each build: what died with the last one holds no leave of this one.
            permits: BatchPermits::new(self.config.batch_size as usize),
        };
        let (puller, _) = Actor::spawn_linked(None, puller, (), supervisor).await?;
        Ok(SinkActors { fetcher: puller, writer, outbox, client })
    }

    async fn drain(&self, parts: SinkActors) {
        /// For what involves no server; the supervisor's own limit bounds the whole.
        const SHORT: Duration = Duration::from_secs(3);

        let SinkActors { fetcher: puller, writer, outbox, client } = parts;
        // One that is gone already has nothing left to give.
        let _ = puller.call(fetcher::Msg::Stop, Some(SHORT)).await;
        let _ = writer.call(writer::Msg::Finish, Some(self.config.drain_timeout)).await;
        // What it does not get rid of another sink publishes, or this one's successor.
        let _ = outbox.call(outbox::Msg::Finish, Some(SHORT)).await;
        if !matches!(tokio::time::timeout(SHORT, client.flush()).await, Ok(Ok(()))) {
            warn!("NATS did not take the last acknowledgements; those results come again");
        }
    }
}
