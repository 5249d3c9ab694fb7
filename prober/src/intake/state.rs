//! What the intake holds: what is asked for and of whom, and the slots of what has come.

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

/// What is asked for, and of whom.
pub(crate) struct IntakeState {
    pub(super) credit: Credit,
    /// The slots of what is asked for.
    pub(super) reserved_slots: Option<OwnedSemaphorePermit>,
    pub(super) session: Option<PullSession>,
    pub(super) session_number: u64,
    /// Subscriptions that may still hear something.
    pub(super) open_listeners: usize,
    pub(super) is_subscribing: bool,
    pub(super) backoff: Backoff,
    pub(super) last_warning: Option<(String, Instant)>,
    pub(super) is_draining: bool,
    /// There is no network; nothing is asked for.
    pub(super) is_offline: bool,
    /// Who waits for nothing more to come.
    pub(super) drain_reply: Option<RpcReplyPort<()>>,
}

/// Where jobs come to, and how to hear of them.
pub(super) struct PullSession {
    pub(super) inbox: String,
    /// Whether the consumer has given a sign.
    pub(super) has_consumer: bool,
    pub(super) last_activity: Instant,
    pub(super) connect_count: u64,
    pub(super) _listener: DropGuard,
}

/// A job's slot; the intake learns when it is free again, however its task ended.
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
        // An intake that is gone has a successor, which looks at the slots now and then.
        let _ = self.intake.cast(Msg::SlotFreed);
    }
}

impl IntakeState {
    /// Nothing is asked for yet, on behalf of so many slots.
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

    /// A job that was asked for has come; gives the slot that was kept for it.
    pub(super) fn claim_reserved_slot(&mut self) -> Option<OwnedSemaphorePermit> {
        self.record_activity();
        self.credit.record_delivery();
        self.reserved_slots.as_mut()?.split(1)
    }

    /// A pull has ended with `left` of its jobs not come; frees the slots kept for them.
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
            // Who asked may have given up.
            let _ = done.send(());
        }
    }
}

/// How many of its jobs a pull has ended without.
pub(super) fn parse_pending_messages(message: &async_nats::Message) -> Option<usize> {
    let header = message.headers.as_ref()?.get("Nats-Pending-Messages")?;
    header.as_str().parse().ok()
}

/// What is on its way to a subscription that has ended comes within this, or not at all.
const UNSUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells the intake what its pulls hear. When stopped, ends the subscription first and then listens to its end:
/// a job already on its way would otherwise wait for the stream to notice.
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
    let last_words = async {
        if subscriber.drain().await.is_ok() {
            while let Some(message) = subscriber.next().await {
                let _ = intake.cast(Msg::Message(number, message));
            }
        }
    };
    let _ = timeout(UNSUBSCRIBE_TIMEOUT, last_words).await;
    let _ = intake.cast(Msg::SubscriptionEnded(number));
}
