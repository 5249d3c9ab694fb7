//! Publishes the events of the outbox in order, and deletes them after the stream has acknowledged
//! them.
//!
//! **Bound**: a single publish run at a time, with a bounded number of events per batch. A run
//! covers all wake-ups from before its start. **Loss**: none; an unacknowledged event is published
//! again under the same id, which the stream deduplicates for a day.

use std::{error::Error as _, time::Duration};

use async_nats::{
    connection::State,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use picket_proto::{
    ValidationError,
    subject::{self, EventSubject},
    validation::sanitize_text,
};
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
    /// Events were committed, at the latest at this time.
    Wake(Instant),
    /// Poll the outbox for events of other sinks, and for events of failed publishes.
    Tick,
    /// Answered after another publish run.
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
        state: &mut OutboxState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Wake(at) if state.last_publish.is_some_and(|last| at < last) => {}
            Msg::Wake(_) => self.publish_pending(state).await,
            Msg::Tick => {
                self.publish_pending(state).await;
                self.record_depth().await;
                myself.send_after(POLL_INTERVAL, || Msg::Tick);
            }
            Msg::Finish(reply) => {
                self.publish_pending(state).await;
                // The caller may have stopped waiting.
                let _ = reply.send(());
            }
        }
        Ok(())
    }
}

impl OutboxPublisher {
    async fn publish_pending(&self, state: &mut OutboxState) {
        state.last_publish = Some(Instant::now());
        // Events stay in the outbox while the bus is unavailable or may belong to another
        // installation.
        if self.bus.client.connection_state() != State::Connected || !self.guard.is_ours() {
            return;
        }
        match self.publish_batches().await {
            Ok(()) => state.is_failing = false,
            Err(error) => {
                self.metrics.event_publish_errors.inc();
                if !std::mem::replace(&mut state.is_failing, true) {
                    warn!(error = %ErrorChain(&*error), "could not publish events, retrying");
                }
            }
        }
    }

    async fn publish_batches(&self) -> Result<(), BoxError> {
        while let Some(locked) = outbox::lock_next_events(&self.store).await? {
            let PublishedBatch { settlement: done, failure } = self.publish_batch(&locked.events).await;
            for (index, reason) in &done.dead_letters {
                self.metrics.dead_letters.get_or_create(&ReasonLabel { reason: "event" }).inc();
                let event = &locked.events[*index].event_id;
                warn!(
                    event = sanitize_text(event, 200),
                    reason, "event rejected; stored in picket.dead_letters"
                );
            }
            let all = done.published.len() + done.dead_letters.len() == locked.events.len();
            locked.settle_events(&self.store, &done).await?;
            self.metrics.events_published.inc_by(done.published.len() as u64);
            if let Some(failure) = failure {
                // A missing stream is a likely reason, so it is created before the retry.
                self.guard.ensure_events_stream().await?;
                return Err(failure);
            }
            // The rest of the batch must not be overtaken by later events.
            if !all {
                break;
            }
        }
        Ok(())
    }

    /// Publishes in order, up to the first event to retry. Unpublishable events become dead
    /// letters.
    async fn publish_batch(&self, events: &[OutboxEvent]) -> PublishedBatch {
        let deadline = Instant::now() + Bus::ACK_TIMEOUT;
        let max_payload = self.bus.client.server_info().max_payload;
        let mut batch = PublishedBatch::default();
        let mut waiting = Vec::with_capacity(events.len());
        for (index, event) in events.iter().enumerate() {
            let payload = match validate_event(event, max_payload) {
                Ok(payload) => payload.to_owned(),
                Err(reason) => {
                    batch.settlement.dead_letters.push((index, reason));
                    continue;
                }
            };
            let message = PublishMessage::build().payload(payload.into()).message_id(&event.event_id);
            let sending = self.bus.jetstream.send_publish(event.subject.clone(), message);
            match timeout_at(deadline, sending).await {
                Ok(Ok(acknowledged)) => waiting.push((index, acknowledged)),
                Ok(Err(error)) if is_too_large(&error) => {
                    batch.settlement.dead_letters.push((index, ErrorChain(&error).to_string()));
                }
                // Later events would overtake this one.
                Ok(Err(_)) | Err(_) => {
                    batch.failure = Some("could not send an event to NATS".into());
                    break;
                }
            }
        }
        for (index, acknowledged) in waiting {
            match timeout_at(deadline, acknowledged.into_future()).await {
                Ok(Ok(ack)) => {
                    debug!(event = events[index].event_id, duplicate = ack.duplicate, "event published");
                    batch.settlement.published.push(index);
                }
                Ok(Err(error)) if is_too_large(&error) => {
                    batch.settlement.dead_letters.push((index, ErrorChain(&error).to_string()));
                }
                Ok(Err(error)) => {
                    batch.failure = Some(error.into());
                    break;
                }
                Err(elapsed) => {
                    batch.failure = Some(elapsed.into());
                    break;
                }
            }
        }
        batch
    }

    async fn record_depth(&self) {
        if let Ok((waiting, age)) = outbox::measure_depth(&self.store).await {
            self.metrics.outbox_depth.set(waiting);
            self.metrics.outbox_age_seconds.set(age);
        }
    }
}

/// Result of a batch of events.
#[derive(Default)]
struct PublishedBatch {
    settlement: outbox::SettledEvents,
    /// Reason why some of the events must be retried.
    failure: Option<BoxError>,
}

/// Returns the payload of a publishable event, or the reason why it can never be published.
fn validate_event(event: &OutboxEvent, max_payload: usize) -> Result<&str, String> {
    /// Bytes reserved for the headers of a message.
    const HEADER_BYTES: usize = 1 << 10;
    const MAX_ID: usize = 256;

    let OutboxEvent { event_id, subject, payload, .. } = event;
    if event_id.is_empty() || event_id.len() > MAX_ID || event_id.chars().any(char::is_control) {
        return Err(ValidationError::new("event_id", event_id, "1 to 256 bytes without control characters")
            .to_string());
    }
    let is_token =
        |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !b"*>".contains(&b));
    if !subject.starts_with(EventSubject::PREFIX)
        || subject.len() > MAX_ID
        || !subject.split('.').all(is_token)
    {
        return Err(ValidationError::new("subject", subject, subject::EVENT_SUBJECTS).to_string());
    }
    let most = outbox::MAX_EVENT_BYTES.min(max_payload.saturating_sub(HEADER_BYTES));
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
