//! Publishes the events that wait in the outbox, in order, and lets go of them when the stream has acknowledged them.
//!
//! **Bound**: one round at a time, of so many events; calls that came before a round are answered by it. **Loss**: none:
//! what was not acknowledged is published again under the same id, which the stream knows for a day.

use std::time::Duration;

use async_nats::{connection::State, jetstream::message::PublishMessage};
use picket_runtime::{Bus, Chain};
use picket_store::{
    Store,
    outbox::{self, Event},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::{guard::Guard, metrics::Metrics};

pub(crate) enum Msg {
    /// There are events, at the latest then.
    Wake(Instant),
    /// Time to look: for those that others wrote, and those that could not be published.
    Tick,
    /// Answered after one more round.
    Finish(RpcReplyPort<()>),
}

pub(crate) struct Outbox {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) guard: Guard,
    pub(crate) metrics: Metrics,
}

#[derive(Default)]
pub(crate) struct Looked {
    at: Option<Instant>,
    failing: bool,
}

const TICK: Duration = Duration::from_secs(1);

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Actor for Outbox {
    type Msg = Msg;
    type State = Looked;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Looked, ActorProcessingErr> {
        myself.send_after(TICK, || Msg::Tick);
        Ok(Looked::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        looked: &mut Looked,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Wake(at) if looked.at.is_some_and(|looked_at| at < looked_at) => {}
            Msg::Wake(_) => self.look(looked).await,
            Msg::Tick => {
                self.look(looked).await;
                self.count().await;
                myself.send_after(TICK, || Msg::Tick);
            }
            Msg::Finish(reply) => {
                self.look(looked).await;
                // Who no longer waits need not know.
                let _ = reply.send(());
            }
        }
        Ok(())
    }
}

impl Outbox {
    async fn look(&self, looked: &mut Looked) {
        looked.at = Some(Instant::now());
        if self.bus.client.connection_state() != State::Connected || !self.guard.is_ours() {
            return;
        }
        match self.publish().await {
            Ok(()) => looked.failing = false,
            Err(error) => {
                self.metrics.event_errors.inc();
                if !std::mem::replace(&mut looked.failing, true) {
                    warn!(error = %Chain(&*error), "could not publish events, trying again");
                }
            }
        }
    }

    async fn publish(&self) -> Result<(), Failure> {
        while let Some(taken) = outbox::take(&self.store).await? {
            let (published, failure) = self.publish_all(&taken.events).await;
            let all = published == taken.events.len();
            taken.published(&self.store, published).await?;
            self.metrics.events.inc_by(published as u64);
            if let Some(failure) = failure {
                // The stream may be what is missing.
                self.guard.ensure_events().await?;
                return Err(failure);
            }
            if !all {
                break;
            }
        }
        Ok(())
    }

    /// How many, from the first on, the stream has acknowledged, and why not all.
    async fn publish_all(&self, events: &[Event]) -> (usize, Option<Failure>) {
        let until = Instant::now() + Bus::ACK_TIMEOUT;
        let mut waiting = Vec::with_capacity(events.len());
        for event in events {
            let message =
                PublishMessage::build().payload(event.payload.clone().into()).message_id(&event.event_id);
            let sending = self.bus.jetstream.send_publish(event.subject.clone(), message);
            match timeout_at(until, sending).await {
                Ok(Ok(acknowledged)) => waiting.push(acknowledged),
                // What follows would come before it.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        let sent = waiting.len();
        for (published, acknowledged) in waiting.into_iter().enumerate() {
            match timeout_at(until, acknowledged.into_future()).await {
                Ok(Ok(ack)) => {
                    debug!(event = events[published].event_id, duplicate = ack.duplicate, "event published")
                }
                Ok(Err(error)) => return (published, Some(error.into())),
                Err(elapsed) => return (published, Some(elapsed.into())),
            }
        }
        let failure = (sent < events.len()).then(|| "NATS takes no events".into());
        (sent, failure)
    }

    async fn count(&self) {
        if let Ok((waiting, age)) = outbox::waiting(&self.store).await {
            self.metrics.outbox_waiting.set(waiting);
            self.metrics.outbox_age_seconds.set(age);
        }
    }
}
