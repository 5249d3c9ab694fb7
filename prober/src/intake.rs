//! Pulls jobs from the stream, for free slots only, and spawns a task per job.
//!
//! Bound: one permit per requested job, passed on to its task. Loss: unfinished jobs are not
//! acknowledged and therefore redelivered; requested jobs that did not arrive are requested again.

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

/// Messages of the actor.
pub(crate) enum Msg {
    /// Subscribe and begin to pull.
    Subscribe,
    /// Result of subscribing.
    Subscribed(Result<Box<Subscription>, String>),
    /// Message on the subscription with this session number.
    Message(u64, async_nats::Message),
    /// The subscription with this session number has ended.
    SubscriptionEnded(u64),
    /// A slot is free.
    SlotFreed,
    /// Check the liveness of the pulls.
    Watchdog,
    /// Pull no more jobs; reply once no further job can arrive.
    Drain(RpcReplyPort<()>),
}

/// Subscription for job deliveries.
pub(crate) struct Subscription {
    subscriber: Subscriber,
    inbox: String,
}

/// Actor that pulls jobs.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) runner: Arc<CheckRunner>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) concurrency: usize,
    /// Tasks of jobs; they outlive a rebuilt intake.
    pub(crate) tasks: TaskTracker,
    pub(crate) readiness: ReadinessCheck,
}

impl Actor for Intake {
    type Msg = Msg;
    type State = IntakeState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<IntakeState, ActorProcessingErr> {
        self.readiness.set_unready("waiting for the jobs consumer");
        myself.cast(Msg::Subscribe)?;
        myself.cast(Msg::Watchdog)?;
        Ok(IntakeState::new(self.concurrency))
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut IntakeState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Subscribe => self.start_subscribe(&myself, state),
            Msg::Subscribed(outcome) => self.on_subscribed(&myself, state, outcome).await,
            Msg::Message(number, message) => self.on_message(&myself, state, number, message).await,
            Msg::SubscriptionEnded(number) => self.on_subscription_ended(&myself, state, number),
            Msg::SlotFreed => self.pull_jobs(&myself, state).await,
            Msg::Watchdog => {
                self.on_watchdog(&myself, state).await;
                myself.send_after(Self::WATCHDOG_INTERVAL, || Msg::Watchdog);
            }
            Msg::Drain(done) => {
                state.is_draining = true;
                state.drain_reply = Some(done);
                self.stop_pulling(state, "draining");
                state.reply_if_drained();
            }
        }
        Ok(())
    }
}

impl Intake {
    /// Expiry of a pull request. With the library's default of 30 s a lost request is noticed too
    /// late.
    const PULL_EXPIRY: Duration = Duration::from_secs(5);
    const IDLE_HEARTBEAT: Duration = Duration::from_secs(2);
    /// Without any message from the stream for this time the pulls count as lost.
    const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(6);
    const WATCHDOG_INTERVAL: Duration = Duration::from_millis(250);
    const WARNING_INTERVAL: Duration = Duration::from_secs(30);

    fn start_subscribe(&self, myself: &ActorRef<Msg>, state: &mut IntakeState) {
        if state.is_draining || state.is_offline || state.is_subscribing || state.session.is_some() {
            return;
        }
        // Subscribing may block while disconnected, and must not block the actor.
        state.is_subscribing = true;
        let (bus, myself) = (self.bus.clone(), myself.clone());
        tokio::spawn(async move {
            let subscribing = async {
                let inbox = bus.client.new_inbox();
                let subscriber = bus.client.subscribe(inbox.clone()).await.map_err(|why| why.to_string())?;
                Ok(Box::new(Subscription { subscriber, inbox }))
            };
            let outcome = timeout(Bus::ACK_TIMEOUT * 2, subscribing)
                .await
                .unwrap_or_else(|_| Err("no response from NATS".to_owned()));
            let _ = myself.cast(Msg::Subscribed(outcome));
        });
    }

    async fn on_subscribed(
        &self,
        myself: &ActorRef<Msg>,
        state: &mut IntakeState,
        outcome: Result<Box<Subscription>, String>,
    ) {
        state.is_subscribing = false;
        if state.is_draining || state.is_offline {
            return;
        }
        let Subscription { subscriber, inbox } = match outcome {
            Ok(subscription) => *subscription,
            Err(why) => return self.on_lost(myself, state, &why),
        };
        // Later messages of earlier subscriptions are recognised by their session number.
        state.session_number += 1;
        state.open_listeners += 1;
        let stop = CancellationToken::new();
        tokio::spawn(forward_messages(myself.clone(), state.session_number, subscriber, stop.clone()));
        state.session = Some(PullSession {
            inbox,
            has_consumer: false,
            last_activity: Instant::now(),
            connect_count: self.connect_count(),
            _listener: stop.drop_guard(),
        });
        self.pull_jobs(myself, state).await;
    }

    fn connect_count(&self) -> u64 {
        self.bus.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Requests jobs for the free slots. Skipped while the process is stalled; the watchdog resumes
    /// pulling afterwards.
    async fn pull_jobs(&self, myself: &ActorRef<Msg>, state: &mut IntakeState) {
        if self.runner.stall_detector.is_stalled() {
            return;
        }
        let Some(from) = state.session.as_mut() else { return };
        let previously_outstanding = state.credit.outstanding();
        // The first pull uses `no_wait` and proves that the consumer exists. A consumer lookup
        // would need an additional permission.
        let is_first_pull = !from.has_consumer;
        if is_first_pull && previously_outstanding > 0 {
            return;
        }
        let free = self.slots.available_permits();
        let number = if is_first_pull {
            state.credit.request_jobs(free.min(1))
        } else {
            state.credit.request_jobs(free)
        };
        if number == 0 {
            return;
        }
        let permits = u32::try_from(number).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_many_owned(permits) else {
            // Another task acquired the slots meanwhile; the next freed slot triggers another pull.
            state.credit.release_unused(number);
            return;
        };
        match state.reserved_slots.as_mut() {
            Some(reserved) => reserved.merge(permit),
            None => state.reserved_slots = Some(permit),
        }
        // The heartbeat timeout starts with the first outstanding pull.
        if previously_outstanding == 0 {
            from.last_activity = Instant::now();
        }
        let request = BatchConfig {
            batch: number,
            expires: (!is_first_pull).then_some(Self::PULL_EXPIRY),
            idle_heartbeat: if is_first_pull { Duration::ZERO } else { Self::IDLE_HEARTBEAT },
            no_wait: is_first_pull,
            ..BatchConfig::default()
        };
        // Serialisation of plain data cannot fail.
        let request = serde_json::to_vec(&request).unwrap_or_default();
        let place = subject::pull_next_subject(&self.runner.publisher.region);
        let asking = self.bus.client.publish_with_reply(place, from.inbox.clone(), request.into());
        if !matches!(timeout(Duration::from_secs(1), asking).await, Ok(Ok(()))) {
            self.on_lost(myself, state, "NATS does not accept a pull request");
        }
    }

    async fn on_message(
        &self,
        myself: &ActorRef<Msg>,
        state: &mut IntakeState,
        number: u64,
        message: async_nats::Message,
    ) {
        let is_current = number == state.session_number;
        let status = message.status.unwrap_or(StatusCode::OK);
        if is_current && [StatusCode::OK, StatusCode::TIMEOUT, StatusCode::NOT_FOUND].contains(&status) {
            self.mark_ready(state);
        }
        if status == StatusCode::OK {
            // Jobs of an earlier session have lost their reserved slots.
            let kept = if is_current { state.claim_reserved_slot() } else { None };
            self.start_job(myself, state.is_draining, kept, message);
            return self.pull_jobs(myself, state).await;
        }
        if !is_current {
            return;
        }
        match status {
            StatusCode::IDLE_HEARTBEAT => state.record_activity(),
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => {
                state.record_activity();
                state.release_unused(parse_pending_messages(&message).unwrap_or(usize::MAX));
                self.pull_jobs(myself, state).await;
            }
            // No stream or consumer exists: a missing region is the likely mistake.
            StatusCode::NO_RESPONDERS => {
                let region = &self.runner.publisher.region;
                let why = format!(
                    "no jobs consumer for region '{region}' yet: is the region added (picket region add {region}) and a \
                     coordinator running?"
                );
                self.on_lost(myself, state, &why);
            }
            status => {
                let why = message.description.unwrap_or_default();
                self.on_lost(myself, state, &format!("the stream ended a pull request: {status} {why}"));
            }
        }
    }

    /// Records that the consumer exists.
    fn mark_ready(&self, state: &mut IntakeState) {
        let Some(from) = state.session.as_mut() else { return };
        if !std::mem::replace(&mut from.has_consumer, true) {
            info!(consumer = subject::prober_consumer(&self.runner.publisher.region), "pulling jobs");
            self.readiness.set_ready();
            state.last_warning = None;
        }
    }

    /// Spawns the task of a received job, in its reserved slot or else in a free slot.
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
        // No slot is free: return the job to the stream for another prober.
        let Some(permit) = permit else {
            self.tasks.spawn(async move { nak_job(&message).await });
            return;
        };
        self.runner.metrics.jobs_pulled.inc();
        let (work, slot) = (Arc::clone(&self.runner), Slot::from_permit(permit, myself, &self.runner));
        self.tasks.spawn(async move { work.process_job(message, Box::new(slot)).await });
    }

    /// Handles lost pulls: subscribes again after a backoff.
    fn on_lost(&self, myself: &ActorRef<Msg>, state: &mut IntakeState, why: &str) {
        self.runner.metrics.pull_errors.inc();
        self.stop_pulling(state, why);
        let now = Instant::now();
        // Rate limit: the same reason recurs with each retry.
        let is_news = state.last_warning.as_ref().is_none_or(|(reason, when)| {
            reason != why || now.duration_since(*when) >= Self::WARNING_INTERVAL
        });
        if is_news {
            warn!(region = %self.runner.publisher.region, reason = why, "pulling jobs interrupted");
            state.last_warning = Some((why.to_owned(), now));
        }
        if !state.is_draining {
            myself.send_after(state.backoff.next_delay(), || Msg::Subscribe);
        }
    }

    fn stop_pulling(&self, state: &mut IntakeState, why: &str) {
        self.readiness.set_unready(why);
        state.session = None;
        state.reserved_slots = None;
        let asked = state.credit.outstanding();
        state.credit.release_unused(asked);
    }

    fn on_subscription_ended(&self, myself: &ActorRef<Msg>, state: &mut IntakeState, number: u64) {
        state.open_listeners = state.open_listeners.saturating_sub(1);
        if number == state.session_number && state.session.is_some() {
            self.on_lost(myself, state, "the pull subscription has ended");
        }
        state.reply_if_drained();
    }

    async fn on_watchdog(&self, myself: &ActorRef<Msg>, state: &mut IntakeState) {
        let was_offline = std::mem::replace(&mut state.is_offline, self.runner.connectivity.is_offline());
        match (was_offline, state.is_offline) {
            // Requested jobs are dropped with the subscription; other probers of the region receive
            // them.
            (false, true) if !state.is_draining => self.stop_pulling(state, "this prober has no network"),
            (true, false) => self.start_subscribe(myself, state),
            _ => {}
        }
        let Some(from) = &state.session else { return };
        if from.connect_count != self.connect_count() {
            // The server dropped the pull requests of the old connection.
            state.backoff.reset();
            return self.on_lost(myself, state, "reconnected to NATS, restarting pull requests");
        }
        if state.credit.outstanding() > 0 && from.last_activity.elapsed() > Self::HEARTBEAT_TIMEOUT {
            return self.on_lost(myself, state, "no heartbeat from the jobs stream");
        }
        // Tasks started by a previous intake free their slots without notifying this intake.
        self.pull_jobs(myself, state).await;
    }
}
