//! Takes jobs from the stream, for free slots only, and starts a task for each.
//!
//! Bound: a permit for each job asked for, which travels with its task. Loss: what was under way is not
//! acknowledged, so the stream delivers it again; asked for and not come is asked for anew.

mod credit;
mod state;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    StatusCode, Subscriber,
    jetstream::{self, consumer::pull::BatchConfig},
};
use picket_proto::subject;
use picket_runtime::{Bus, ReadinessCheck};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::state::{IntakeState, PullSession, Slot, forward_messages, parse_pending_messages};
use crate::runner::{CheckRunner, nak_job};

/// What the intake is told.
pub(crate) enum Msg {
    /// Begin to pull.
    Subscribe,
    /// What came of it.
    Subscribed(Result<Box<Subscription>, String>),
    /// The stream said something to the pulls of this number.
    Message(u64, async_nats::Message),
    /// The pulls of this number hear nothing more.
    SubscriptionEnded(u64),
    /// A slot is free.
    SlotFreed,
    /// See whether the stream is still heard.
    Watchdog,
    /// Take no more; the answer comes when nothing more can come.
    Drain(RpcReplyPort<()>),
}

/// The subscription that jobs will come to.
pub(crate) struct Subscription {
    subscriber: Subscriber,
    inbox: String,
}

/// The actor.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) runner: Arc<CheckRunner>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) concurrency: usize,
    /// The tasks of jobs, which outlive an intake that is built anew.
    pub(crate) tasks: TaskTracker,
    pub(crate) readiness: ReadinessCheck,
}

impl Actor for Intake {
    type Msg = Msg;
    type State = IntakeState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<IntakeState, ActorProcessingErr> {
        self.readiness.set_unready("looking for the consumer of jobs");
        myself.cast(Msg::Subscribe)?;
        myself.cast(Msg::Watchdog)?;
        Ok(IntakeState::new(self.concurrency))
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        pulling: &mut IntakeState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Subscribe => self.start_subscribe(&myself, pulling),
            Msg::Subscribed(found) => self.on_subscribed(&myself, pulling, found).await,
            Msg::Message(number, message) => self.on_message(&myself, pulling, number, message).await,
            Msg::SubscriptionEnded(number) => self.on_subscription_ended(&myself, pulling, number),
            Msg::SlotFreed => self.pull_jobs(&myself, pulling).await,
            Msg::Watchdog => {
                self.on_watchdog(&myself, pulling).await;
                myself.send_after(Self::WATCHDOG_INTERVAL, || Msg::Watchdog);
            }
            Msg::Drain(done) => {
                pulling.is_draining = true;
                pulling.drain_reply = Some(done);
                self.stop_pulling(pulling, "draining");
                pulling.reply_if_drained();
            }
        }
        Ok(())
    }
}

impl Intake {
    /// A pull ends by itself after this: with the library's default of 30 s a lost one is noticed too late.
    const PULL_EXPIRY: Duration = Duration::from_secs(5);
    const IDLE_HEARTBEAT: Duration = Duration::from_secs(2);
    /// Without a sign of the stream for so long the pulls are lost.
    const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(6);
    const WATCHDOG_INTERVAL: Duration = Duration::from_millis(250);
    const WARNING_INTERVAL: Duration = Duration::from_secs(30);

    fn start_subscribe(&self, myself: &ActorRef<Msg>, pulling: &mut IntakeState) {
        if pulling.is_draining || pulling.is_offline || pulling.is_subscribing || pulling.session.is_some() {
            return;
        }
        pulling.is_subscribing = true;
        let (bus, myself) = (self.bus.clone(), myself.clone());
        tokio::spawn(async move {
            let finding = async {
                let inbox = bus.client.new_inbox();
                let subscriber = bus.client.subscribe(inbox.clone()).await.map_err(|why| why.to_string())?;
                Ok(Box::new(Subscription { subscriber, inbox }))
            };
            let found = timeout(Bus::ACK_TIMEOUT * 2, finding)
                .await
                .unwrap_or_else(|_| Err("NATS does not answer".to_owned()));
            let _ = myself.cast(Msg::Subscribed(found));
        });
    }

    async fn on_subscribed(
        &self,
        myself: &ActorRef<Msg>,
        pulling: &mut IntakeState,
        found: Result<Box<Subscription>, String>,
    ) {
        pulling.is_subscribing = false;
        if pulling.is_draining || pulling.is_offline {
            return;
        }
        let Subscription { subscriber, inbox } = match found {
            Ok(found) => *found,
            Err(why) => return self.on_lost(myself, pulling, &why),
        };
        pulling.session_number += 1;
        pulling.open_listeners += 1;
        let stop = CancellationToken::new();
        tokio::spawn(forward_messages(myself.clone(), pulling.session_number, subscriber, stop.clone()));
        pulling.session = Some(PullSession {
            inbox,
            has_consumer: false,
            last_activity: Instant::now(),
            connect_count: self.connect_count(),
            _listener: stop.drop_guard(),
        });
        self.pull_jobs(myself, pulling).await;
    }

    fn connect_count(&self) -> u64 {
        self.bus.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Asks for jobs for the slots that are free; not while they could not be done well, which `watch` sees the end of.
    async fn pull_jobs(&self, myself: &ActorRef<Msg>, pulling: &mut IntakeState) {
        if self.runner.stall_detector.is_stalled() {
            return;
        }
        let Some(from) = pulling.session.as_mut() else { return };
        let was_asked = pulling.credit.outstanding();
        // The first asks for what is there, and is answered at once by who is there: no right to look at the consumer is needed.
        let knocks = !from.has_consumer;
        if knocks && was_asked > 0 {
            return;
        }
        let free = self.slots.available_permits();
        let number =
            if knocks { pulling.credit.request_jobs(free.min(1)) } else { pulling.credit.request_jobs(free) };
        if number == 0 {
            return;
        }
        let permits = u32::try_from(number).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_many_owned(permits) else {
            // Somebody else's since; the next one that is freed asks again.
            pulling.credit.release_unused(number);
            return;
        };
        match pulling.reserved_slots.as_mut() {
            Some(reserved) => reserved.merge(permit),
            None => pulling.reserved_slots = Some(permit),
        }
        if was_asked == 0 {
            from.last_activity = Instant::now();
        }
        let request = BatchConfig {
            batch: number,
            expires: (!knocks).then_some(Self::PULL_EXPIRY),
            idle_heartbeat: if knocks { Duration::ZERO } else { Self::IDLE_HEARTBEAT },
            no_wait: knocks,
            ..BatchConfig::default()
        };
        // Plain data; nothing in it can fail to be written.
        let request = serde_json::to_vec(&request).unwrap_or_default();
        let place = subject::pull_next_subject(&self.runner.publisher.region);
        let asking = self.bus.client.publish_with_reply(place, from.inbox.clone(), request.into());
        if !matches!(timeout(Duration::from_secs(1), asking).await, Ok(Ok(()))) {
            self.on_lost(myself, pulling, "NATS does not take a pull");
        }
    }

    async fn on_message(
        &self,
        myself: &ActorRef<Msg>,
        pulling: &mut IntakeState,
        number: u64,
        message: async_nats::Message,
    ) {
        let is_current = number == pulling.session_number;
        let status = message.status.unwrap_or(StatusCode::OK);
        if is_current && [StatusCode::OK, StatusCode::TIMEOUT, StatusCode::NOT_FOUND].contains(&status) {
            self.mark_ready(pulling);
        }
        if status == StatusCode::OK {
            // What was asked for before has lost the slot that was kept for it.
            let kept = if is_current { pulling.claim_reserved_slot() } else { None };
            self.start_job(myself, pulling.is_draining, kept, message);
            return self.pull_jobs(myself, pulling).await;
        }
        if !is_current {
            return;
        }
        match status {
            StatusCode::IDLE_HEARTBEAT => pulling.record_activity(),
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => {
                pulling.record_activity();
                pulling.release_unused(parse_pending_messages(&message).unwrap_or(usize::MAX));
                self.pull_jobs(myself, pulling).await;
            }
            StatusCode::NO_RESPONDERS => {
                let region = &self.runner.publisher.region;
                let why = format!(
                    "no jobs consumer for region '{region}' yet: is the region added (picket region add {region}) and a \
                     coordinator running?"
                );
                self.on_lost(myself, pulling, &why);
            }
            status => {
                let why = message.description.unwrap_or_default();
                self.on_lost(myself, pulling, &format!("the stream ended a pull: {status} {why}"));
            }
        }
    }

    /// The consumer is there.
    fn mark_ready(&self, pulling: &mut IntakeState) {
        let Some(from) = pulling.session.as_mut() else { return };
        if !std::mem::replace(&mut from.has_consumer, true) {
            info!(consumer = subject::prober_consumer(&self.runner.publisher.region), "taking jobs");
            self.readiness.set_ready();
            pulling.last_warning = None;
        }
    }

    /// Starts the task of a job that has come, in the slot kept for it, or else in a free one.
    fn start_job(
        &self,
        myself: &ActorRef<Msg>,
        draining: bool,
        kept: Option<OwnedSemaphorePermit>,
        message: async_nats::Message,
    ) {
        let message = jetstream::Message { message, context: self.bus.jetstream.clone() };
        let permit = match draining {
            true => None,
            false => kept.or_else(|| Arc::clone(&self.slots).try_acquire_owned().ok()),
        };
        let Some(permit) = permit else {
            self.tasks.spawn(async move { nak_job(&message).await });
            return;
        };
        self.runner.metrics.jobs_pulled.inc();
        let (work, slot) = (Arc::clone(&self.runner), Slot::from_permit(permit, myself, &self.runner));
        self.tasks.spawn(async move { work.process_job(message, Box::new(slot)).await });
    }

    /// The pulls are lost: looks for the consumer again, after a while.
    fn on_lost(&self, myself: &ActorRef<Msg>, pulling: &mut IntakeState, why: &str) {
        self.runner.metrics.pull_errors.inc();
        self.stop_pulling(pulling, why);
        let now = Instant::now();
        let is_news = pulling
            .last_warning
            .as_ref()
            .is_none_or(|(said, when)| said != why || now.duration_since(*when) >= Self::WARNING_INTERVAL);
        if is_news {
            warn!(region = %self.runner.publisher.region, "{why}");
            pulling.last_warning = Some((why.to_owned(), now));
        }
        if !pulling.is_draining {
            myself.send_after(pulling.backoff.next_delay(), || Msg::Subscribe);
        }
    }

    fn stop_pulling(&self, pulling: &mut IntakeState, why: &str) {
        self.readiness.set_unready(why);
        pulling.session = None;
        pulling.reserved_slots = None;
        let asked = pulling.credit.outstanding();
        pulling.credit.release_unused(asked);
    }

    fn on_subscription_ended(&self, myself: &ActorRef<Msg>, pulling: &mut IntakeState, number: u64) {
        pulling.open_listeners = pulling.open_listeners.saturating_sub(1);
        if number == pulling.session_number && pulling.session.is_some() {
            self.on_lost(myself, pulling, "the subscription of the pulls has ended");
        }
        pulling.reply_if_drained();
    }

    async fn on_watchdog(&self, myself: &ActorRef<Msg>, pulling: &mut IntakeState) {
        let was_offline = std::mem::replace(&mut pulling.is_offline, self.runner.connectivity.is_offline());
        match (was_offline, pulling.is_offline) {
            // What was asked for is forgotten with the subscription; others of the region take it.
            (false, true) if !pulling.is_draining => self.stop_pulling(pulling, "this prober has no network"),
            (true, false) => self.start_subscribe(myself, pulling),
            _ => {}
        }
        let Some(from) = &pulling.session else { return };
        if from.connect_count != self.connect_count() {
            // The server forgot what was asked for with the old connection.
            pulling.backoff.reset();
            return self.on_lost(myself, pulling, "the connection is a new one, pulling anew");
        }
        if pulling.credit.outstanding() > 0 && from.last_activity.elapsed() > Self::HEARTBEAT_TIMEOUT {
            return self.on_lost(myself, pulling, "the stream of jobs is not heard");
        }
        // A slot of a task that an intake before this one started is freed without a word to this one.
        self.pull_jobs(myself, pulling).await;
    }
}
