//! State of the intake: outstanding pulls, their session and their reserved slots.

use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use picket_runtime::Backoff;
use ractor::{ActorRef, RpcReplyPort};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Msg, credit::Credit};
use crate::{metrics::Metrics, runner::CheckRunner};

/// State of the intake actor.
pub(crate) struct IntakeState {
    pub(super) credit: Credit,
    /// Slots reserved for outstanding jobs.
    pub(super) reserved_slots: Option<OwnedSemaphorePermit>,
    pub(super) session: Option<PullSession>,
    pub(super) session_number: u64,
    /// Subscriptions that may still receive messages.
    pub(super) open_listeners: usize,
    pub(super) is_subscribing: bool,
    pub(super) backoff: Backoff,
    pub(super) last_warning: Option<(String, Instant)>,
    pub(super) is_draining: bool,
    /// True without a network; no jobs are requested.
    pub(super) is_offline: bool,
    /// Requester of the drain, replied to once no further job can arrive.
    pub(super) drain_reply: Option<RpcReplyPort<()>>,
}

/// Subscription for deliveries, and the liveness of its pulls.
pub(super) struct PullSession {
    pub(super) inbox: String,
    /// True once the consumer has responded.
    pub(super) has_consumer: bool,
    pub(super) last_activity: Instant,
    pub(super) connect_count: u64,
    pub(super) _listener: DropGuard,
}

/// Slot of a job. On drop it notifies the intake, however the task ended.
pub(super) struct Slot {
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) intake: ActorRef<Msg>,
    pub(super) metrics: Metrics,
}

impl Slot {
    pub(super) fn from_permit(
        permit: OwnedSemaphorePermit,
        intake: &ActorRef<Msg>,
        work: &CheckRunner,
    ) -> Self {
        work.metrics.checks_running.inc();
        work.metrics.slots_free.dec();
        Self { permit: Some(permit), intake: intake.clone(), metrics: work.metrics.clone() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permit.take();
        self.metrics.checks_running.dec();
        self.metrics.slots_free.inc();
        // A rebuilt intake polls the slots on its own.
        let _ = self.intake.cast(Msg::SlotFreed);
    }
}

impl IntakeState {
    /// Creates the state without outstanding pulls for `slots` slots.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            credit: Credit::new(slots),
            reserved_slots: None,
            session: None,
            session_number: 0,
            open_listeners: 0,
            is_subscribing: false,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(5)),
            last_warning: None,
            is_draining: false,
            is_offline: false,
            drain_reply: None,
        }
    }

    pub(super) fn record_activity(&mut self) {
        self.backoff.reset();
        if let Some(from) = self.session.as_mut() {
            from.last_activity = Instant::now();
        }
    }

    /// Records an arrived job and returns its reserved slot.
    pub(super) fn claim_reserved_slot(&mut self) -> Option<OwnedSemaphorePermit> {
        self.record_activity();
        self.credit.record_delivery();
        self.reserved_slots.as_mut()?.split(1)
    }

    /// Records the end of a pull with `left` jobs missing and releases their slots.
    pub(super) fn release_unused(&mut self, left: usize) {
        let freed = self.credit.release_unused(left);
        if let Some(reserved) = self.reserved_slots.as_mut() {
            drop(reserved.split(freed));
        }
    }

    pub(super) fn reply_if_drained(&mut self) {
        if self.open_listeners == 0
            && let Some(done) = self.drain_reply.take()
        {
            // The requester may have given up.
            let _ = done.send(());
        }
    }
}

/// Number of jobs missing from an ended pull.
pub(super) fn parse_pending_messages(message: &async_nats::Message) -> Option<usize> {
    let header = message.headers.as_ref()?.get("Nats-Pending-Messages")?;
    header.as_str().parse().ok()
}

/// Maximum time for messages still in flight to an ended subscription.
const UNSUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Forwards deliveries to the intake. On `stop` it ends the subscription first and then forwards
/// the remaining messages: a job already in flight would otherwise wait until its acknowledgement
/// times out.
pub(super) async fn forward_messages(
    intake: ActorRef<Msg>,
    number: u64,
    mut subscriber: Subscriber,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            message = subscriber.next() => match message {
                Some(message) => if intake.cast(Msg::Message(number, message)).is_err() { break },
                None => break,
            },
        }
    }
    let forwarding = async {
        if subscriber.drain().await.is_ok() {
            while let Some(message) = subscriber.next().await {
                let _ = intake.cast(Msg::Message(number, message));
            }
        }
    };
    let _ = timeout(UNSUBSCRIBE_TIMEOUT, forwarding).await;
    // Sent last: the drain replies once all subscriptions have ended.
    let _ = intake.cast(Msg::SubscriptionEnded(number));
}
