//! Holds this coordinator's shards: takes its share, renews in time, yields what is too much, and gives all back at
//! the end.
//!
//! Bound: one statement at a time, each with a deadline. Loss: a lease that is not renewed expires, and another
//! coordinator takes the shard.

pub mod held;
pub mod rounds;
pub mod share;
pub mod witness;

use std::{collections::VecDeque, time::Duration};

use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::{
    Chain, Condition,
    clock::{self, Adjusted, Boottime, DatabaseClock},
    streams,
};
use picket_store::{Store, leases};
use ractor::{Actor, ActorProcessingErr, ActorRef, call_t};
use tokio::{sync::oneshot, time::timeout};
use tracing::{info, warn};

use self::{
    rounds::{Command, Input, Rounds, Stopping},
    witness::Witness,
};
use crate::{
    catalog,
    clock::SharedClock,
    fence::Fence,
    metrics::Metrics,
    planner,
    publish::{Ownership, Reach},
};

pub enum Msg {
    /// Time for a round.
    Round,
    /// Somebody has released leases: there may be some to take.
    Released,
    /// The planner has stopped these, and they have been given back.
    Yielded(Vec<(Shard, Epoch)>),
    /// Give all back, and say when that is done.
    Drain(oneshot::Sender<()>),
}

/// See the module.
#[derive(Clone)]
pub struct LeaseHolder {
    pub name: String,
    pub lease: Duration,
    pub store: Store,
    pub jetstream: async_nats::jetstream::Context,
    pub planner: ActorRef<planner::Msg>,
    pub catalog: ActorRef<catalog::Msg>,
    pub fence: Fence,
    pub clock: SharedClock,
    pub reach: Reach,
    pub ownership: Ownership,
    pub metrics: Metrics,
    pub condition: Condition,
}

/// How things stand.
pub struct Holding {
    rounds: Rounds,
    /// When the last round was over.
    looked_at: Boottime,
    draining: Option<oneshot::Sender<()>>,
    /// Trouble that has been told of, so that it is not told of each second.
    told: Option<&'static str>,
    skew_told: bool,
    /// Whether the database's clock is in doubt: then the bus is asked for the time in each round.
    in_doubt: bool,
    bus_asked_at: Option<Boottime>,
}

/// Between rounds.
const ROUND: Duration = Duration::from_secs(1);
/// A coordinator that has not published for so long leaves its shards to one that can.
const UNREACHED: Duration = Duration::from_secs(10);
/// How long the planner may take to answer; it never waits for anything outside.
const ANSWER_MS: u64 = 2_000;
/// How long the last jobs of a shard may take to be acknowledged before it is given back all the same.
const YIELD: Duration = Duration::from_secs(8);
/// How often the bus is asked for the time, and for how long it is waited for.
const BUS_TIME: Duration = Duration::from_secs(10);
const BUS_ANSWER: Duration = Duration::from_millis(500);

impl Actor for LeaseHolder {
    type Msg = Msg;
    type State = Holding;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Holding, ActorProcessingErr> {
        myself.cast(Msg::Round)?;
        Ok(Holding {
            rounds: Rounds::new(self.lease, self.fence.clone(), Boottime::now()),
            looked_at: Boottime::now(),
            draining: None,
            told: None,
            skew_told: false,
            in_doubt: true,
            bus_asked_at: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut Holding,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Round => {
                woken(state.looked_at);
                self.round(&myself, state).await;
                state.looked_at = Boottime::now();
                // Last, so that a slow round is followed by a pause and not by those it held up.
                myself.send_after(ROUND.min(self.lease / 5), || Msg::Round);
            }
            Msg::Released => self.round(&myself, state).await,
            Msg::Yielded(shards) => {
                info!(shards = shards.len(), "gave {} shards back", shards.len());
                self.run(&myself, state, Input::GaveBack(shards)).await;
            }
            Msg::Drain(done) => {
                state.draining = Some(done);
                let publishes = self.publishes(state).await;
                self.run(&myself, state, Input::Drain { publishes }).await;
            }
        }
        self.metrics.leases.set(i64::try_from(state.rounds.count()).unwrap_or(i64::MAX));
        if state.rounds.is_empty()
            && let Some(done) = state.draining.take()
        {
            let _ = done.send(());
            myself.stop(None);
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut Holding) -> Result<(), ActorProcessingErr> {
        // A pipeline that is built anew begins with nothing; what is held expires by itself.
        state.rounds.shut();
        Ok(())
    }
}

impl LeaseHolder {
    async fn round(&self, myself: &ActorRef<Msg>, state: &mut Holding) {
        let publishes = self.publishes(state).await;
        self.run(myself, state, Input::Begin { publishes }).await;
    }

    /// Takes `input` in, and does what follows from it until nothing more does.
    async fn run(&self, myself: &ActorRef<Msg>, state: &mut Holding, input: Input) {
        let mut commands = VecDeque::from(state.rounds.step(Boottime::now(), input));
        while let Some(command) = commands.pop_front() {
            if let Some(input) = self.perform(myself, state, command).await {
                commands.extend(state.rounds.step(Boottime::now(), input));
            }
        }
    }

    /// Whether jobs can be published, as far as is known. With nothing held nothing is published that could tell,
    /// so then the stream is asked for.
    async fn publishes(&self, state: &Holding) -> bool {
        if self.reach.unreached_for(Boottime::now()) < UNREACHED {
            return true;
        }
        let asking = self.jetstream.get_stream(picket_proto::subject::JOBS);
        if state.rounds.is_empty()
            && self.ownership.is_ours()
            && matches!(timeout(ROUND, asking).await, Ok(Ok(_)))
        {
            self.reach.reached();
            return true;
        }
        false
    }

    /// Does one thing; returns what came of it where that matters.
    async fn perform(&self, myself: &ActorRef<Msg>, state: &mut Holding, command: Command) -> Option<Input> {
        match command {
            Command::Announce { leaving } => {
                let witness = self.witness(state).await;
                let sent = Boottime::now();
                match leases::announce(&self.store, &self.name, leaving, self.lease).await {
                    Ok(roll) => {
                        tell_skew(state, roll.now);
                        return Some(Input::Announced { sent, roll, witness });
                    }
                    Err(error) => return Some(self.trouble(state, "the database is away", &error)),
                }
            }
            Command::Renew(asked, now) => {
                // Without the planner's word nothing is known to be published, and the lease is renewed as it was.
                let told = call_t!(self.planner, planner::Msg::Progress, ANSWER_MS).unwrap_or_default();
                let progress = rounds::how_far(&told, &asked);
                let sent = Boottime::now();
                match leases::renew(&self.store, &self.name, &progress, Some(now), self.lease).await {
                    Ok(kept) => return Some(Input::Renewed { sent, asked, kept }),
                    Err(error) => return Some(self.trouble(state, "leases could not be renewed", &error)),
                }
            }
            Command::Take(free) => {
                let sent = Boottime::now();
                match leases::acquire(&self.store, &self.name, &free, self.lease).await {
                    Ok(leases) => return Some(Input::Taken { sent, leases }),
                    Err(error) => return Some(self.trouble(state, "leases could not be taken", &error)),
                }
            }
            Command::Clock(clock, adjusted) => self.follow(state, clock, adjusted),
            Command::Distrust(now) => {
                let why = format!(
                    "the database's clock says {now}, which no other clock and nothing that was scheduled confirms"
                );
                self.metrics.clock_unconfirmed.set(1);
                if state.told != Some("distrust") {
                    warn!(
                        "{why}: nothing is scheduled until they agree, or it has been steady for two minutes"
                    );
                    state.told = Some("distrust");
                }
                self.condition.fails(why);
            }
            Command::Took(taken) => {
                let (count, held) = (taken.len(), state.rounds.count());
                self.metrics.takeovers.inc_by(count as u64);
                info!(shards = count, held, "took {count} shards, holding {held}");
                let _ = self.catalog.cast(catalog::Msg::Load(taken));
            }
            Command::Lost(lost, why) => {
                self.metrics.leases_lost.inc_by(lost.len() as u64);
                warn!(
                    shards = lost.len(),
                    held = state.rounds.count(),
                    "lease lost on {} shards, publishing for them has stopped: {why}",
                    lost.len()
                );
                let _ = self.planner.cast(planner::Msg::Lost(lost));
            }
            Command::GiveBack(stopping) => self.give_back(myself, stopping),
            Command::Done { publishes: true } => {
                self.condition.holds();
                if state.told.take().is_some() {
                    info!("leases are taken and renewed again");
                }
            }
            Command::Done { publishes: false } if state.told == Some("distrust") => {}
            Command::Done { publishes: false } => {
                self.condition.fails("jobs cannot be published");
                if state.told != Some("unreached") {
                    warn!("no job could be published for {UNREACHED:?}: leaving the shards to others");
                    state.told = Some("unreached");
                }
            }
        }
        None
    }

    /// What other clocks say. The bus is asked now and then, and each time while there is doubt.
    async fn witness(&self, state: &mut Holding) -> Witness {
        let is_due = state.bus_asked_at.is_none_or(|at| Boottime::now().since(at) >= BUS_TIME);
        let mut bus = None;
        if is_due || state.in_doubt {
            bus = timeout(BUS_ANSWER, streams::server_time(&self.jetstream)).await.ok().flatten();
            state.bus_asked_at = Some(Boottime::now());
        }
        if let Some(bus) = bus {
            self.clock.set_bus(bus);
        }
        Witness { wall: Some(clock::wall()), bus }
    }

    /// This is the database's clock from now on.
    fn follow(&self, state: &mut Holding, clock: DatabaseClock, adjusted: Adjusted) {
        self.clock.set(clock);
        let was_in_doubt = std::mem::replace(&mut state.in_doubt, clock.unconfirmed().is_some());
        self.metrics.clock_unconfirmed.set(i64::from(state.in_doubt));
        match adjusted {
            Adjusted::Stepped(us) => {
                self.metrics.clock_steps.inc();
                warn!(
                    step_ms = us / 1_000,
                    "the database's clock jumped by {} ms, and is followed",
                    us / 1_000
                );
            }
            Adjusted::Unconfirmed(us) if !was_in_doubt => {
                warn!(
                    step_ms = us / 1_000,
                    "the database's clock jumped by {} ms, which nothing confirms: time goes on as before and nothing is deleted \
                     until another clock confirms it, or it has been steady for {} s",
                    us / 1_000,
                    DatabaseClock::HOLD.as_secs()
                );
            }
            Adjusted::Slewing if was_in_doubt => info!("the database's clock is as it was before it jumped"),
            _ => {}
        }
        let _ = self.planner.cast(planner::Msg::Clock(clock, adjusted));
    }

    /// Has the planner stop shards, and releases them when nothing of them is under way any more. In a task, since the
    /// last acknowledgements may take a while and leases must be renewed meanwhile.
    fn give_back(&self, myself: &ActorRef<Msg>, stopping: Stopping) {
        // Told from here and not from the task, so that it cannot stop what is taken again meanwhile.
        let (answer, stopped) = ractor::concurrency::oneshot();
        let _ = self.planner.cast(planner::Msg::Yield(stopping.shards(), answer.into()));
        let (this, myself) = (self.clone(), myself.clone());
        tokio::spawn(async move {
            let told = match timeout(YIELD, stopped).await {
                Ok(Ok(told)) => told,
                _ => Vec::new(),
            };
            let progress = stopping.stopped(&this.fence, &told);
            let stopped = stopping.released();
            // It may have been told of them only now, by who was reading them.
            let _ = this.planner.cast(planner::Msg::Lost(stopped.clone()));
            if let Err(error) = leases::release(&this.store, &this.name, &progress).await {
                warn!(error = %Chain(&error), "could not release {} shards; they will expire", progress.len());
            }
            let _ = myself.cast(Msg::Yielded(stopped));
        });
    }

    fn trouble(&self, state: &mut Holding, what: &'static str, error: &picket_store::Error) -> Input {
        self.metrics.database_errors.inc();
        self.condition.fails(format!("{what}: {}", Chain(error)));
        if state.told != Some(what) {
            warn!(error = %Chain(error), "{what}, trying again");
            state.told = Some(what);
        }
        Input::Failed
    }
}

/// Says once that the logs of this machine will not fit those of others.
fn tell_skew(state: &mut Holding, now: Timestamp) {
    const SKEW: Duration = Duration::from_secs(1);
    let wall = clock::wall();
    let skew = wall.since(now).max(now.since(wall));
    if skew > SKEW && !state.skew_told {
        state.skew_told = true;
        warn!(
            skew_ms = skew.as_millis(),
            "this machine's clock is {} ms away from the database's; ticks follow the database's",
            skew.as_millis()
        );
    }
}

/// Says so if this process, or its machine, was paused: what others did meanwhile follows in the log.
fn woken(looked_at: Boottime) {
    const LONG: Duration = Duration::from_secs(3);
    let still = Boottime::now().since(looked_at);
    if still >= ROUND + LONG {
        warn!(still_ms = still.as_millis(), "this process stood still for {} s", still.as_secs());
    }
}
