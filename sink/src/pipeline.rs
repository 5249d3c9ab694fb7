//! The actors, built together and drained from the front to the end.

use std::time::Duration;

use picket_runtime::{Bus, Condition, Pipeline};
use picket_store::Store;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tracing::warn;

use crate::{
    Config,
    batch::Leaves,
    clock::Clock,
    guard::Guard,
    metrics::Metrics,
    outbox::{self, Outbox},
    puller::{self, Puller},
    recovery::Recovery,
    writer::{self, Writer},
};

pub(crate) struct Sink {
    pub(crate) config: Config,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) recovery: Recovery,
    pub(crate) guard: Guard,
    pub(crate) metrics: Metrics,
    pub(crate) database: Condition,
    pub(crate) stream: Condition,
}

pub(crate) struct Parts {
    puller: ActorRef<puller::Msg>,
    writer: ActorRef<writer::Msg>,
    outbox: ActorRef<outbox::Msg>,
    client: async_nats::Client,
}

impl Pipeline for Sink {
    type Parts = Parts;

    async fn build(&self, supervisor: ActorCell) -> Result<Parts, SpawnErr> {
        let client = self.bus.client.clone();
        let outbox = Outbox {
            bus: self.bus.clone(),
            store: self.store.clone(),
            guard: self.guard.clone(),
            metrics: self.metrics.clone(),
        };
        let (outbox, _) = Actor::spawn_linked(None, outbox, (), supervisor.clone()).await?;
        let writer = Writer {
            store: self.store.clone(),
            clock: self.clock.clone(),
            results: self.recovery.guarded(),
            recovery: self.recovery.clone(),
            client: client.clone(),
            metrics: self.metrics.clone(),
            database: self.database.clone(),
            outbox: outbox.clone(),
        };
        let (writer, _) = Actor::spawn_linked(None, writer, (), supervisor.clone()).await?;
        let puller = Puller {
            config: self.config,
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            guard: self.guard.clone(),
            writer: writer.clone(),
            metrics: self.metrics.clone(),
            stream: self.stream.clone(),
            // New with each build: what died with the last one holds no leave of this one.
            leaves: Leaves::new(self.config.batch_size as usize),
        };
        let (puller, _) = Actor::spawn_linked(None, puller, (), supervisor).await?;
        Ok(Parts { puller, writer, outbox, client })
    }

    async fn drain(&self, parts: Parts) {
        /// For what involves no server; the supervisor's own limit bounds the whole.
        const SHORT: Duration = Duration::from_secs(3);

        let Parts { puller, writer, outbox, client } = parts;
        // One that is gone already has nothing left to give.
        let _ = puller.call(puller::Msg::Stop, Some(SHORT)).await;
        let _ = writer.call(writer::Msg::Finish, Some(self.config.drain_timeout)).await;
        // What it does not get rid of another sink publishes, or this one's successor.
        let _ = outbox.call(outbox::Msg::Finish, Some(SHORT)).await;
        if !matches!(tokio::time::timeout(SHORT, client.flush()).await, Ok(Ok(()))) {
            warn!("NATS did not take the last acknowledgements; those results come again");
        }
    }
}
