//! Publishes the events that wait in the outbox, in order, and lets go of them when the stream has acknowledged them.
//!
//! **Bound**: one round at a time, of so many events; calls that came before a round are answered by it. **Loss**: none:
//! what was not acknowledged is published again under the same id, which the stream knows for a day.

use std::{error::Error as _, time::Duration};

use async_nats::{
    connection::State,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use picket_proto::{ValidationError, subject, validation::sanitize_text};
use picket_runtime::{Bus, ErrorChain};
use picket_store::{
    Store,
    outbox::{self, OutboxEvent},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::{
    installation_guard::InstallationGuard,
    metrics::{Metrics, ReasonLabel},
};

pub(crate) enum Msg {
    /// There are events, at the latest then.
    Wake(Instant),
    /// Time to look: for those that others wrote, and those that could not be published.
    Tick,
    /// Answered after one more round.
    Finish(RpcReplyPort<()>),
}

pub(crate) struct OutboxPublisher {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) guard: InstallationGuard,
    pub(crate) metrics: Metrics,
}

#[derive(Default)]
pub(crate) struct OutboxState {
    last_publish: Option<Instant>,
    is_failing: bool,
}

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What the subjects of events begin with.
const EVENT_PREFIX: &str = "picket.event.";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Actor for OutboxPublisher {
    type Msg = Msg;
    type State = OutboxState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<OutboxState, ActorProcessingErr> {
        myself.send_after(POLL_INTERVAL, || Msg::Tick);
        Ok(OutboxState::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        looked: &mut OutboxState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Wake(at) if looked.last_publish.is_some_and(|looked_at| at < looked_at) => {}
            Msg::Wake(_) => self.publish_pending(looked).await,
            Msg::Tick => {
                self.publish_pending(looked).await;
                self.record_depth().await;
                myself.send_after(POLL_INTERVAL, || Msg::Tick);
            }
            Msg::Finish(reply) => {
                self.publish_pending(looked).await;
                // Who no longer waits need not know.
                let _ = reply.send(());
            }
        }
        Ok(())
    }
}

impl OutboxPublisher {
    async fn publish_pending(&self, looked: &mut OutboxState) {
        looked.last_publish = Some(Instant::now());
        if self.bus.client.connection_state() != State::Connected || !self.guard.is_ours() {
            return;
        }
        match self.publish_batches().await {
            Ok(()) => looked.is_failing = false,
            Err(error) => {
                self.metrics.event_errors.inc();
                if !std::mem::replace(&mut looked.is_failing, true) {
                    warn!(error = %ErrorChain(&*error), "could not publish events, trying again");
                }
            }
        }
    }

    async fn publish_batches(&self) -> Result<(), BoxError> {
        while let Some(taken) = outbox::lock_next_events(&self.store).await? {
            let PublishedBatch { settlement: done, failure } = self.publish_batch(&taken.events).await;
            for (place, reason) in &done.dead_letters {
                self.metrics.dead_letters.get_or_create(&ReasonLabel { reason: "event" }).inc();
                let event = &taken.events[*place].event_id;
                warn!(
                    event = sanitize_text(event, 200),
                    reason, "an event cannot be published and is in picket.dead_letters"
                );
            }
            let all = done.published.len() + done.dead_letters.len() == taken.events.len();
            taken.settle_events(&self.store, &done).await?;
            self.metrics.events_published.inc_by(done.published.len() as u64);
            if let Some(failure) = failure {
                // The stream may be what is missing.
                self.guard.ensure_events_stream().await?;
                return Err(failure);
            }
            if !all {
                break;
            }
        }
        Ok(())
    }

    /// Publishes in order, up to the first event that could be published later; one that never can is passed over.
    async fn publish_batch(&self, events: &[OutboxEvent]) -> PublishedBatch {
        let until = Instant::now() + Bus::ACK_TIMEOUT;
        let max_payload = self.bus.client.server_info().max_payload;
        let mut round = PublishedBatch::default();
        let mut waiting = Vec::with_capacity(events.len());
        for (place, event) in events.iter().enumerate() {
            let payload = match validate_event(event, max_payload) {
                Ok(payload) => payload.to_owned(),
                Err(reason) => {
                    round.settlement.dead_letters.push((place, reason));
                    continue;
                }
            };
            let message = PublishMessage::build().payload(payload.into()).message_id(&event.event_id);
            let sending = self.bus.jetstream.send_publish(event.subject.clone(), message);
            match timeout_at(until, sending).await {
                Ok(Ok(acknowledged)) => waiting.push((place, acknowledged)),
                Ok(Err(error)) if is_too_large(&error) => {
                    round.settlement.dead_letters.push((place, ErrorChain(&error).to_string()));
                }
                // What follows would come before it.
                Ok(Err(_)) | Err(_) => {
                    round.failure = Some("NATS takes no events".into());
                    break;
                }
            }
        }
        for (place, acknowledged) in waiting {
            match timeout_at(until, acknowledged.into_future()).await {
                Ok(Ok(ack)) => {
                    debug!(event = events[place].event_id, duplicate = ack.duplicate, "event published");
                    round.settlement.published.push(place);
                }
                Ok(Err(error)) if is_too_large(&error) => {
                    round.settlement.dead_letters.push((place, ErrorChain(&error).to_string()));
                }
                Ok(Err(error)) => {
                    round.failure = Some(error.into());
                    break;
                }
                Err(elapsed) => {
                    round.failure = Some(elapsed.into());
                    break;
                }
            }
        }
        round
    }

    async fn record_depth(&self) {
        if let Ok((waiting, age)) = outbox::measure_depth(&self.store).await {
            self.metrics.outbox_depth.set(waiting);
            self.metrics.outbox_age_seconds.set(age);
        }
    }
}

/// What became of a round of events.
#[derive(Default)]
struct PublishedBatch {
    settlement: outbox::SettledEvents,
    /// Why not all of them were dealt with.
    failure: Option<BoxError>,
}

/// The payload of an event that can be published; otherwise why it never can be.
fn validate_event(event: &OutboxEvent, max_payload: usize) -> Result<&str, String> {
    /// For the headers of a message.
    const HEADERS: usize = 1 << 10;
    const MAX_ID: usize = 256;

    let OutboxEvent { event_id, subject, payload, .. } = event;
    if event_id.is_empty() || event_id.len() > MAX_ID || event_id.chars().any(char::is_control) {
        return Err(ValidationError::new("event_id", event_id, "1 to 256 bytes without control characters")
            .to_string());
    }
    let is_token =
        |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !b"*>".contains(&b));
    if !subject.starts_with(EVENT_PREFIX) || subject.len() > MAX_ID || !subject.split('.').all(is_token) {
        return Err(ValidationError::new("subject", subject, subject::EVENT_SUBJECTS).to_string());
    }
    let most = outbox::MAX_EVENT_BYTES.min(max_payload.saturating_sub(HEADERS));
    match payload.as_deref() {
        Some(payload) if payload.len() <= most => Ok(payload),
        Some(payload) => Err(format!("payload: {} bytes; allowed: at most {most}", payload.len())),
        None => {
            Err(format!("payload: longer than {} bytes; allowed: at most {most}", outbox::MAX_EVENT_BYTES))
        }
    }
}

fn is_too_large(error: &PublishError) -> bool {
    let by_stream = || {
        let why = error.source()?.downcast_ref::<jetstream::Error>()?;
        Some(why.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
    };
    error.kind() == PublishErrorKind::MaxPayloadExceeded || by_stream().unwrap_or(false)
}
