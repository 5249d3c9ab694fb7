//! Lease manager: acquires this coordinator's share of the shards, renews leases in time, releases
//! surplus shards, and releases all shards on drain.
//!
//! Bound: one statement at a time, each with a deadline. Loss: a lease that is not renewed expires,
//! and another coordinator acquires the shard.

pub(crate) mod clock_trust;
mod clock_watch;
pub(crate) mod held;
pub mod machine;
pub(crate) mod share;

use std::{collections::VecDeque, time::Duration};

use picket_proto::{Epoch, Shard};
use picket_runtime::{ErrorChain, ReadinessCheck, clock::Boottime};
use picket_store::{Store, leases, settings::SharedSettings};
use ractor::{Actor, ActorProcessingErr, ActorRef, call_t};
use tokio::{sync::oneshot, time::timeout};
use tracing::{info, instrument, warn};

use self::machine::{LeaseAction, LeaseEvent, LeaseMachine, ReleasingShards};
use crate::{
    dispatch::publisher::{Ownership, PublishHealth},
    fence::Fence,
    metrics::Metrics,
    schedule::catalog,
    schedule::scheduler,
    shared_clock::SharedClock,
};

pub(crate) enum Msg {
    /// Starts a round.
    BeginRound,
    /// Another coordinator has released leases, so there may be free shards.
    LeasesAvailable,
    /// The scheduler has stopped these shards, and their leases have been released.
    ShardsReleased(Vec<(Shard, Epoch)>),
    /// Releases all shards, then replies.
    Drain(oneshot::Sender<()>),
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct LeaseManager {
    pub(crate) name: String,
    pub(crate) settings: SharedSettings,
    pub(crate) store: Store,
    pub(crate) jetstream: async_nats::jetstream::Context,
    pub(crate) scheduler: ActorRef<scheduler::Msg>,
    pub(crate) catalog: ActorRef<catalog::Msg>,
    pub(crate) fence: Fence,
    pub(crate) clock: SharedClock,
    pub(crate) publish_health: PublishHealth,
    pub(crate) ownership: Ownership,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: ReadinessCheck,
}

/// State of the lease manager.
pub(crate) struct LeaseState {
    machine: LeaseMachine,
    /// End of the last round.
    last_round_at: Boottime,
    drain_reply: Option<oneshot::Sender<()>>,
    /// Last failure logged, so that a lasting failure is not logged every second.
    last_warning: Option<&'static str>,
    is_skew_reported: bool,
    /// True while the database's clock is in doubt; the bus clock is then read in each round.
    is_clock_in_doubt: bool,
    bus_clock_read_at: Option<Boottime>,
}

/// Pause between rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// Time without a successful publish after which a coordinator stops renewing its leases, so that
/// others can acquire its shards.
const MAX_PUBLISH_OUTAGE: Duration = Duration::from_secs(10);
/// Timeout for a reply of the scheduler, which never waits for anything external.
const SCHEDULER_TIMEOUT_MS: u64 = 2_000;
/// Maximum time to wait for the last acknowledgements of a shard before its lease is released
/// anyway.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(8);

impl Actor for LeaseManager {
    type Msg = Msg;
    type State = LeaseState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<LeaseState, ActorProcessingErr> {
        myself.cast(Msg::BeginRound)?;
        Ok(LeaseState {
            machine: LeaseMachine::new(
                self.settings.current().lease_time,
                self.fence.clone(),
                Boottime::now(),
            ),
            last_round_at: Boottime::now(),
            drain_reply: None,
            last_warning: None,
            is_skew_reported: false,
            is_clock_in_doubt: true,
            bus_clock_read_at: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut LeaseState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::BeginRound => {
                warn_if_suspended(state.last_round_at);
                self.run_round(&myself, state).await;
                state.last_round_at = Boottime::now();
                // Scheduled last, so that a slow round is followed by a pause instead of the rounds
                // it delayed.
                myself.send_after(ROUND_INTERVAL.min(state.machine.lease_time().duration / 5), || {
                    Msg::BeginRound
                });
            }
            Msg::LeasesAvailable => self.run_round(&myself, state).await,
            Msg::ShardsReleased(shards) => {
                info!(shards = shards.len(), "released shards");
                self.process_event(&myself, state, LeaseEvent::Released(shards)).await;
            }
            Msg::Drain(done) => {
                state.drain_reply = Some(done);
                let can_publish = self.can_publish(state).await;
                self.process_event(&myself, state, LeaseEvent::Drain { can_publish }).await;
            }
        }
        self.metrics.leases_held.set(i64::try_from(state.machine.active_count()).unwrap_or(i64::MAX));
        if state.machine.is_empty()
            && let Some(done) = state.drain_reply.take()
        {
            let _ = done.send(());
            myself.stop(None);
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut LeaseState) -> Result<(), ActorProcessingErr> {
        // A rebuilt pipeline starts without leases; the leases of this pipeline expire.
        state.machine.close_fence();
        Ok(())
    }
}

impl LeaseManager {
    async fn run_round(&self, myself: &ActorRef<Msg>, state: &mut LeaseState) {
        let can_publish = self.can_publish(state).await;
        self.process_event(myself, state, LeaseEvent::BeginRound { can_publish }).await;
    }

    /// Handles `event` and executes the resulting actions until no further event follows.
    #[instrument(name = "leases", level = "debug", skip_all, fields(coordinator = self.name))]
    async fn process_event(&self, myself: &ActorRef<Msg>, state: &mut LeaseState, event: LeaseEvent) {
        let mut actions = VecDeque::from(state.machine.handle_event(Boottime::now(), event));
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.execute_action(myself, state, action).await {
                actions.extend(state.machine.handle_event(Boottime::now(), event));
            }
        }
    }

    /// Returns true if jobs can be published, as far as is known. Without a shard nothing is
    /// published that could show this, so the jobs stream is queried instead.
    async fn can_publish(&self, state: &LeaseState) -> bool {
        if self.publish_health.failing_for(Boottime::now()) < MAX_PUBLISH_OUTAGE {
            return true;
        }
        let query = self.jetstream.get_stream(picket_proto::subject::JOBS_STREAM);
        if state.machine.is_empty()
            && self.ownership.is_ours()
            && matches!(timeout(ROUND_INTERVAL, query).await, Ok(Ok(_)))
        {
            self.publish_health.record_success();
            return true;
        }
        false
    }

    /// Executes one action; returns the resulting event if the machine needs it.
    async fn execute_action(
        &self,
        myself: &ActorRef<Msg>,
        state: &mut LeaseState,
        action: LeaseAction,
    ) -> Option<LeaseEvent> {
        let lease_time = state.machine.lease_time();
        match action {
            LeaseAction::Heartbeat { is_leaving } => {
                let reference_clocks = self.read_reference_clocks(state).await;
                let sent = Boottime::now();
                match leases::record_heartbeat(&self.store, &self.name, is_leaving, lease_time.duration).await
                {
                    Ok(cluster_view) => {
                        state.warn_on_clock_skew(cluster_view.now);
                        return Some(LeaseEvent::HeartbeatDone { sent, cluster_view, reference_clocks });
                    }
                    Err(error) => return Some(self.on_database_error(state, "database unavailable", &error)),
                }
            }
            LeaseAction::Renew(asked, now) => {
                // Without a reply of the scheduler nothing is known to be published, so the lease
                // is renewed with its old progress.
                let reported = call_t!(self.scheduler, scheduler::Msg::GetProgress, SCHEDULER_TIMEOUT_MS)
                    .unwrap_or_default();
                let progress = machine::merge_progress(&reported, &asked);
                let sent = Boottime::now();
                match leases::renew_leases(&self.store, &self.name, &progress, Some(now), lease_time).await {
                    Ok(kept) => return Some(LeaseEvent::Renewed { sent, asked, kept }),
                    Err(error) => {
                        return Some(self.on_database_error(state, "could not renew leases", &error));
                    }
                }
            }
            LeaseAction::Acquire(free) => {
                // Read before sending: the lease counts from here, earlier than in the database.
                let sent = Boottime::now();
                match leases::acquire_leases(&self.store, &self.name, &free, lease_time).await {
                    Ok(leases) => return Some(LeaseEvent::Acquired { sent, leases }),
                    Err(error) => {
                        return Some(self.on_database_error(state, "could not acquire leases", &error));
                    }
                }
            }
            LeaseAction::SetClock(clock, adjusted) => self.follow_clock(state, clock, adjusted),
            LeaseAction::DistrustClock(now) => {
                let why = format!(
                    "the database's clock reads {now}, unconfirmed by any other clock or by scheduled ticks"
                );
                self.metrics.clock_unconfirmed.set(1);
                if state.last_warning != Some("distrust") {
                    warn!(
                        database_time = %now,
                        "database clock unconfirmed; scheduling starts when another clock confirms it, \
                         or it has been steady for two minutes"
                    );
                    state.last_warning = Some("distrust");
                }
                self.readiness.set_unready(why);
            }
            LeaseAction::ShardsAcquired(taken) => {
                let (count, held) = (taken.len(), state.machine.active_count());
                self.metrics.shards_acquired.inc_by(count as u64);
                info!(shards = count, held, "acquired shards");
                let _ = self.catalog.cast(catalog::Msg::LoadShards(taken));
            }
            LeaseAction::ShardsLost(lost, why) => {
                self.metrics.leases_lost.inc_by(lost.len() as u64);
                warn!(
                    shards = lost.len(),
                    held = state.machine.active_count(),
                    reason = why,
                    "lost leases, stopped publishing for their shards"
                );
                let _ = self.scheduler.cast(scheduler::Msg::ShardsLost(lost));
            }
            LeaseAction::ReleaseShards(stopping) => self.release_shards(myself, stopping),
            LeaseAction::FinishRound { can_publish: true } => {
                self.readiness.set_ready();
                if state.last_warning.take().is_some() {
                    info!("resumed acquiring and renewing leases");
                }
            }
            // The clock warning already explains why nothing can be published.
            LeaseAction::FinishRound { can_publish: false } if state.last_warning == Some("distrust") => {}
            LeaseAction::FinishRound { can_publish: false } => {
                self.readiness.set_unready("jobs cannot be published");
                if state.last_warning != Some("unreached") {
                    warn!(
                        outage_s = MAX_PUBLISH_OUTAGE.as_secs(),
                        "jobs cannot be published, leaving shards to other coordinators"
                    );
                    state.last_warning = Some("unreached");
                }
            }
        }
        None
    }

    /// Makes the scheduler stop shards and releases their leases once no job of them is in flight.
    /// Runs in a task: the last acknowledgements may take a while, and the other leases must be
    /// renewed meanwhile.
    fn release_shards(&self, myself: &ActorRef<Msg>, stopping: ReleasingShards) {
        // Sent here and not from the task, so that the message cannot stop a shard that is acquired
        // again meanwhile.
        let (answer, stopped) = ractor::concurrency::oneshot();
        let _ = self.scheduler.cast(scheduler::Msg::ReleaseShards(stopping.shards(), answer.into()));
        let (this, myself) = (self.clone(), myself.clone());
        tokio::spawn(async move {
            let reported = match timeout(RELEASE_TIMEOUT, stopped).await {
                Ok(Ok(reported)) => reported,
                _ => Vec::new(),
            };
            let progress = stopping.finish_stop(&this.fence, &reported);
            let stopped = stopping.into_shards();
            // The catalog, while loading these shards, may have sent them to the scheduler after
            // the release.
            let _ = this.scheduler.cast(scheduler::Msg::ShardsLost(stopped.clone()));
            if let Err(error) = leases::release_leases(&this.store, &this.name, &progress).await {
                warn!(
                    error = %ErrorChain(&error),
                    shards = progress.len(),
                    "could not release shards; their leases will expire"
                );
            }
            let _ = myself.cast(Msg::ShardsReleased(stopped));
        });
    }

    fn on_database_error(
        &self,
        state: &mut LeaseState,
        failure: &'static str,
        error: &picket_store::Error,
    ) -> LeaseEvent {
        self.metrics.database_errors.inc();
        self.readiness.set_unready(format!("{failure}: {}", ErrorChain(error)));
        if state.last_warning != Some(failure) {
            warn!(error = %ErrorChain(error), "{failure}, retrying");
            state.last_warning = Some(failure);
        }
        LeaseEvent::Failed
    }
}

/// Warns if this process or its machine was suspended; explains lost leases that follow in the log.
fn warn_if_suspended(last_round_at: Boottime) {
    const MIN_SUSPENSION: Duration = Duration::from_secs(3);
    let elapsed = Boottime::now().saturating_duration_since(last_round_at);
    if elapsed >= ROUND_INTERVAL + MIN_SUSPENSION {
        warn!(elapsed_ms = elapsed.as_millis(), "process was suspended");
    }
}
