//! Holds this coordinator's shards: takes its share, renews in time, yields what is too much, and gives all back at
//! the end.
//!
//! Bound: one statement at a time, each with a deadline. Loss: a lease that is not renewed expires, and another
//! coordinator takes the shard.

pub mod clock_trust;
pub mod held;
pub mod machine;
pub mod share;

use std::{collections::VecDeque, time::Duration};

use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::{
    ErrorChain, ReadinessCheck,
    clock::{self, Boottime, ClockAdjustment, DbClock},
    streams,
};
use picket_store::{Store, leases};
use ractor::{Actor, ActorProcessingErr, ActorRef, call_t};
use tokio::{sync::oneshot, time::timeout};
use tracing::{info, warn};

use self::{
    clock_trust::ReferenceClocks,
    machine::{LeaseAction, LeaseEvent, LeaseMachine, ReleasingShards},
};
use crate::{
    catalog,
    fence::Fence,
    metrics::Metrics,
    publisher::{Ownership, PublishHealth},
    scheduler,
    shared_clock::SharedClock,
};

pub enum Msg {
    /// Time for a round.
    BeginRound,
    /// Somebody has released leases: there may be some to take.
    LeasesAvailable,
    /// The planner has stopped these, and they have been given back.
    ShardsReleased(Vec<(Shard, Epoch)>),
    /// Give all back, and say when that is done.
    Drain(oneshot::Sender<()>),
}

/// See the module.
#[derive(Clone)]
pub struct LeaseManager {
    pub name: String,
    pub lease_time: Duration,
    pub store: Store,
    pub jetstream: async_nats::jetstream::Context,
    pub scheduler: ActorRef<scheduler::Msg>,
    pub catalog: ActorRef<catalog::Msg>,
    pub fence: Fence,
    pub clock: SharedClock,
    pub publish_health: PublishHealth,
    pub ownership: Ownership,
    pub metrics: Metrics,
    pub readiness: ReadinessCheck,
}

/// How things stand.
pub struct LeaseState {
    machine: LeaseMachine,
    /// When the last round was over.
    last_round_at: Boottime,
    drain_reply: Option<oneshot::Sender<()>>,
    /// Trouble that has been told of, so that it is not told of each second.
    last_warning: Option<&'static str>,
    is_skew_reported: bool,
    /// Whether the database's clock is in doubt: then the bus is asked for the time in each round.
    is_clock_in_doubt: bool,
    bus_clock_read_at: Option<Boottime>,
}

/// Between rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// A coordinator that has not published for so long leaves its shards to one that can.
const MAX_PUBLISH_OUTAGE: Duration = Duration::from_secs(10);
/// How long the planner may take to answer; it never waits for anything outside.
const SCHEDULER_TIMEOUT_MS: u64 = 2_000;
/// How long the last jobs of a shard may take to be acknowledged before it is given back all the same.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(8);
/// How often the bus is asked for the time, and for how long it is waited for.
const BUS_CLOCK_INTERVAL: Duration = Duration::from_secs(10);
const BUS_CLOCK_TIMEOUT: Duration = Duration::from_millis(500);

impl Actor for LeaseManager {
    type Msg = Msg;
    type State = LeaseState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<LeaseState, ActorProcessingErr> {
        myself.cast(Msg::BeginRound)?;
        Ok(LeaseState {
            machine: LeaseMachine::new(self.lease_time, self.fence.clone(), Boottime::now()),
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
                // Last, so that a slow round is followed by a pause and not by those it held up.
                myself.send_after(ROUND_INTERVAL.min(self.lease_time / 5), || Msg::BeginRound);
            }
            Msg::LeasesAvailable => self.run_round(&myself, state).await,
            Msg::ShardsReleased(shards) => {
                info!(shards = shards.len(), "gave {} shards back", shards.len());
                self.process_event(&myself, state, LeaseEvent::Released(shards)).await;
            }
            Msg::Drain(done) => {
                state.drain_reply = Some(done);
                let publishes = self.can_publish(state).await;
                self.process_event(&myself, state, LeaseEvent::Drain { can_publish: publishes }).await;
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
        // A pipeline that is built anew begins with nothing; what is held expires by itself.
        state.machine.close_fence();
        Ok(())
    }
}

impl LeaseManager {
    async fn run_round(&self, myself: &ActorRef<Msg>, state: &mut LeaseState) {
        let publishes = self.can_publish(state).await;
        self.process_event(myself, state, LeaseEvent::BeginRound { can_publish: publishes }).await;
    }

    /// Takes `input` in, and does what follows from it until nothing more does.
    async fn process_event(&self, myself: &ActorRef<Msg>, state: &mut LeaseState, input: LeaseEvent) {
        let mut commands = VecDeque::from(state.machine.handle_event(Boottime::now(), input));
        while let Some(command) = commands.pop_front() {
            if let Some(input) = self.execute_action(myself, state, command).await {
                commands.extend(state.machine.handle_event(Boottime::now(), input));
            }
        }
    }

    /// Whether jobs can be published, as far as is known. With nothing held nothing is published that could tell,
    /// so then the stream is asked for.
    async fn can_publish(&self, state: &LeaseState) -> bool {
        if self.publish_health.failing_for(Boottime::now()) < MAX_PUBLISH_OUTAGE {
            return true;
        }
        let asking = self.jetstream.get_stream(picket_proto::subject::JOBS_STREAM);
        if state.machine.is_empty()
            && self.ownership.is_ours()
            && matches!(timeout(ROUND_INTERVAL, asking).await, Ok(Ok(_)))
        {
            self.publish_health.record_success();
            return true;
        }
        false
    }

    /// Does one thing; returns what came of it where that matters.
    async fn execute_action(
        &self,
        myself: &ActorRef<Msg>,
        state: &mut LeaseState,
        command: LeaseAction,
    ) -> Option<LeaseEvent> {
        match command {
            LeaseAction::Heartbeat { is_leaving: leaving } => {
                let witness = self.read_reference_clocks(state).await;
                let sent = Boottime::now();
                match leases::record_heartbeat(&self.store, &self.name, leaving, self.lease_time).await {
                    Ok(roll) => {
                        warn_on_clock_skew(state, roll.now);
                        return Some(LeaseEvent::HeartbeatDone {
                            sent,
                            cluster_view: roll,
                            reference_clocks: witness,
                        });
                    }
                    Err(error) => return Some(self.on_database_error(state, "the database is away", &error)),
                }
            }
            LeaseAction::Renew(asked, now) => {
                // Without the planner's word nothing is known to be published, and the lease is renewed as it was.
                let told = call_t!(self.scheduler, scheduler::Msg::GetProgress, SCHEDULER_TIMEOUT_MS)
                    .unwrap_or_default();
                let progress = machine::merge_progress(&told, &asked);
                let sent = Boottime::now();
                match leases::renew_leases(&self.store, &self.name, &progress, Some(now), self.lease_time)
                    .await
                {
                    Ok(kept) => return Some(LeaseEvent::Renewed { sent, asked, kept }),
                    Err(error) => {
                        return Some(self.on_database_error(state, "leases could not be renewed", &error));
                    }
                }
            }
            LeaseAction::Acquire(free) => {
                let sent = Boottime::now();
                match leases::acquire_leases(&self.store, &self.name, &free, self.lease_time).await {
                    Ok(leases) => return Some(LeaseEvent::Acquired { sent, leases }),
                    Err(error) => {
                        return Some(self.on_database_error(state, "leases could not be taken", &error));
                    }
                }
            }
            LeaseAction::SetClock(clock, adjusted) => self.follow_clock(state, clock, adjusted),
            LeaseAction::DistrustClock(now) => {
                let why = format!(
                    "the database's clock says {now}, which no other clock and nothing that was scheduled confirms"
                );
                self.metrics.clock_unconfirmed.set(1);
                if state.last_warning != Some("distrust") {
                    warn!(
                        "{why}: nothing is scheduled until they agree, or it has been steady for two minutes"
                    );
                    state.last_warning = Some("distrust");
                }
                self.readiness.set_unready(why);
            }
            LeaseAction::ShardsAcquired(taken) => {
                let (count, held) = (taken.len(), state.machine.active_count());
                self.metrics.shards_acquired.inc_by(count as u64);
                info!(shards = count, held, "took {count} shards, holding {held}");
                let _ = self.catalog.cast(catalog::Msg::LoadShards(taken));
            }
            LeaseAction::ShardsLost(lost, why) => {
                self.metrics.leases_lost.inc_by(lost.len() as u64);
                warn!(
                    shards = lost.len(),
                    held = state.machine.active_count(),
                    "lease lost on {} shards, publishing for them has stopped: {why}",
                    lost.len()
                );
                let _ = self.scheduler.cast(scheduler::Msg::ShardsLost(lost));
            }
            LeaseAction::ReleaseShards(stopping) => self.release_shards(myself, stopping),
            LeaseAction::FinishRound { can_publish: true } => {
                self.readiness.set_ready();
                if state.last_warning.take().is_some() {
                    info!("leases are taken and renewed again");
                }
            }
            LeaseAction::FinishRound { can_publish: false } if state.last_warning == Some("distrust") => {}
            LeaseAction::FinishRound { can_publish: false } => {
                self.readiness.set_unready("jobs cannot be published");
                if state.last_warning != Some("unreached") {
                    warn!(
                        "no job could be published for {MAX_PUBLISH_OUTAGE:?}: leaving the shards to others"
                    );
                    state.last_warning = Some("unreached");
                }
            }
        }
        None
    }

    /// What other clocks say. The bus is asked now and then, and each time while there is doubt.
    async fn read_reference_clocks(&self, state: &mut LeaseState) -> ReferenceClocks {
        let is_due = state
            .bus_clock_read_at
            .is_none_or(|at| Boottime::now().saturating_duration_since(at) >= BUS_CLOCK_INTERVAL);
        let mut bus = None;
        if is_due || state.is_clock_in_doubt {
            bus =
                timeout(BUS_CLOCK_TIMEOUT, streams::read_server_clock(&self.jetstream)).await.ok().flatten();
            state.bus_clock_read_at = Some(Boottime::now());
        }
        if let Some(bus) = bus {
            self.clock.set_bus(bus);
        }
        ReferenceClocks { wall: Some(clock::wall_clock_now()), bus }
    }

    /// This is the database's clock from now on.
    fn follow_clock(&self, state: &mut LeaseState, clock: DbClock, adjusted: ClockAdjustment) {
        self.clock.set_database(clock);
        let was_in_doubt =
            std::mem::replace(&mut state.is_clock_in_doubt, clock.unconfirmed_jump_us().is_some());
        self.metrics.clock_unconfirmed.set(i64::from(state.is_clock_in_doubt));
        match adjusted {
            ClockAdjustment::Stepped(us) => {
                self.metrics.clock_steps.inc();
                warn!(
                    step_ms = us / 1_000,
                    "the database's clock jumped by {} ms, and is followed",
                    us / 1_000
                );
            }
            ClockAdjustment::Unconfirmed(us) if !was_in_doubt => {
                warn!(
                    step_ms = us / 1_000,
                    "the database's clock jumped by {} ms, which nothing confirms: time goes on as before and nothing is deleted \
                     until another clock confirms it, or it has been steady for {} s",
                    us / 1_000,
                    DbClock::JUMP_HOLD_PERIOD.as_secs()
                );
            }
            ClockAdjustment::Slewing if was_in_doubt => {
                info!("the database's clock is as it was before it jumped")
            }
            _ => {}
        }
        let _ = self.scheduler.cast(scheduler::Msg::ClockUpdated(clock, adjusted));
    }

    /// Has the planner stop shards, and releases them when nothing of them is under way any more. In a task, since the
    /// last acknowledgements may take a while and leases must be renewed meanwhile.
    fn release_shards(&self, myself: &ActorRef<Msg>, stopping: ReleasingShards) {
        // Told from here and not from the task, so that it cannot stop what is taken again meanwhile.
        let (answer, stopped) = ractor::concurrency::oneshot();
        let _ = self.scheduler.cast(scheduler::Msg::ReleaseShards(stopping.shards(), answer.into()));
        let (this, myself) = (self.clone(), myself.clone());
        tokio::spawn(async move {
            let told = match timeout(RELEASE_TIMEOUT, stopped).await {
                Ok(Ok(told)) => told,
                _ => Vec::new(),
            };
            let progress = stopping.finish_stop(&this.fence, &told);
            let stopped = stopping.into_shards();
            // It may have been told of them only now, by who was reading them.
            let _ = this.scheduler.cast(scheduler::Msg::ShardsLost(stopped.clone()));
            if let Err(error) = leases::release_leases(&this.store, &this.name, &progress).await {
                warn!(error = %ErrorChain(&error), "could not release {} shards; they will expire", progress.len());
            }
            let _ = myself.cast(Msg::ShardsReleased(stopped));
        });
    }

    fn on_database_error(
        &self,
        state: &mut LeaseState,
        what: &'static str,
        error: &picket_store::Error,
    ) -> LeaseEvent {
        self.metrics.database_errors.inc();
        self.readiness.set_unready(format!("{what}: {}", ErrorChain(error)));
        if state.last_warning != Some(what) {
            warn!(error = %ErrorChain(error), "{what}, trying again");
            state.last_warning = Some(what);
        }
        LeaseEvent::Failed
    }
}

/// Says once that the logs of this machine will not fit those of others.
fn warn_on_clock_skew(state: &mut LeaseState, now: Timestamp) {
    const SKEW: Duration = Duration::from_secs(1);
    let wall = clock::wall_clock_now();
    let skew = wall.saturating_duration_since(now).max(now.saturating_duration_since(wall));
    if skew > SKEW && !state.is_skew_reported {
        state.is_skew_reported = true;
        warn!(
            skew_ms = skew.as_millis(),
            "this machine's clock is {} ms away from the database's; ticks follow the database's",
            skew.as_millis()
        );
    }
}

/// Says so if this process, or its machine, was paused: what others did meanwhile follows in the log.
fn warn_if_suspended(looked_at: Boottime) {
    const LONG: Duration = Duration::from_secs(3);
    let still = Boottime::now().saturating_duration_since(looked_at);
    if still >= ROUND_INTERVAL + LONG {
        warn!(still_ms = still.as_millis(), "this process stood still for {} s", still.as_secs());
    }
}
