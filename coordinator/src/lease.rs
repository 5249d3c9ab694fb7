//! Holds this coordinator's shards: takes its share, renews in time, yields what is too much, and gives all back at
//! the end.
//!
//! Bound: one statement at a time, each with a deadline. Loss: a lease that is not renewed expires, and another
//! coordinator takes the shard.

pub mod held;
pub mod share;

use std::time::Duration;

use picket_proto::{Epoch, Shard};
use picket_runtime::clock::Boottime;
use picket_runtime::{Chain, Condition, clock};
use picket_store::{Store, leases};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, call_t};
use tokio::{sync::oneshot, time::timeout};
use tracing::{info, warn};

use self::{held::Held, share::Move};
use crate::{
    catalog,
    clock::{Adjusted, DatabaseClock},
    fence::Fence,
    metrics::Metrics,
    planner,
    publish::Reach,
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
    pub reach: Reach,
    pub metrics: Metrics,
    pub condition: Condition,
}

/// How things stand.
pub struct Holding {
    held: Held,
    clock: Option<DatabaseClock>,
    renewed_at: Boottime,
    /// When the last round was over.
    looked_at: Boottime,
    draining: Option<oneshot::Sender<()>>,
    /// Trouble that has been told of, so that it is not told of each second.
    told: Option<&'static str>,
    skew_told: bool,
}

/// Between rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Shards taken in one round.
const TAKE_AT_ONCE: usize = 64;
/// A coordinator that has not published for so long leaves its shards to one that can.
const UNREACHED: Duration = Duration::from_secs(10);
/// How long the planner may take to answer; it never waits for anything outside.
const ANSWER_MS: u64 = 2_000;
/// How long the last jobs of a shard may take to be acknowledged before it is given back all the same.
const YIELD_MS: u64 = 8_000;

impl Actor for LeaseHolder {
    type Msg = Msg;
    type State = Holding;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Holding, ActorProcessingErr> {
        myself.cast(Msg::Round)?;
        Ok(Holding {
            held: Held::new(self.lease),
            clock: None,
            renewed_at: Boottime::now(),
            looked_at: Boottime::now(),
            draining: None,
            told: None,
            skew_told: false,
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
                state.held.released(&shards);
                info!(shards = shards.len(), "gave {} shards back", shards.len());
            }
            Msg::Drain(done) => {
                state.draining = Some(done);
                self.round(&myself, state).await;
                self.give_back(&myself, state, usize::MAX);
            }
        }
        self.metrics.leases.set(i64::try_from(state.held.count()).unwrap_or(i64::MAX));
        if state.held.is_empty()
            && let Some(done) = state.draining.take()
        {
            let _ = done.send(());
            myself.stop(None);
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut Holding) -> Result<(), ActorProcessingErr> {
        // A pipeline that is built anew begins with nothing; what is held expires by itself.
        state.held.iter().for_each(|(shard, hold)| self.fence.shut(shard, hold.epoch));
        Ok(())
    }
}

impl LeaseHolder {
    async fn round(&self, myself: &ActorRef<Msg>, state: &mut Holding) {
        let lost = state.held.expire(Boottime::now());
        self.lose(state, lost, "its time ran out without a renewal");
        let publishes = self.publishes(state).await;
        // Who cannot publish must not count: the shares of the others would leave its shards to nobody.
        let leaving = state.draining.is_some() || !publishes;
        let sent = Boottime::now();
        let roll = match leases::announce(&self.store, &self.name, leaving, self.lease).await {
            Ok(roll) => roll,
            Err(error) => return self.trouble(state, "the database is away", &error),
        };
        self.set_clock(state, sent, roll.now);
        if let Err(error) = self.renew(state).await {
            return self.trouble(state, "leases could not be renewed", &error);
        }
        if !publishes {
            self.condition.fails("jobs cannot be published");
            if state.told != Some("unreached") {
                warn!("no job could be published for {UNREACHED:?}: leaving the shards to others");
                state.told = Some("unreached");
            }
            return;
        }
        if state.draining.is_none() {
            match share::next_move(roll.shards, roll.live, state.held.count()) {
                Move::Stay => {}
                Move::Yield(count) => self.give_back(myself, state, count),
                Move::Take(most) => {
                    if let Err(error) = self.take(state, most.min(TAKE_AT_ONCE)).await {
                        return self.trouble(state, "leases could not be taken", &error);
                    }
                }
            }
        }
        self.condition.holds();
        if state.told.take().is_some() {
            info!("leases are taken and renewed again");
        }
    }

    /// Whether jobs can be published, as far as is known. With nothing held nothing is published that could tell,
    /// so then the stream is asked for.
    async fn publishes(&self, state: &Holding) -> bool {
        if self.reach.unreached_for(Boottime::now()) < UNREACHED {
            return true;
        }
        let asking = self.jetstream.get_stream(picket_proto::subject::JOBS);
        if state.held.is_empty() && matches!(timeout(ROUND, asking).await, Ok(Ok(_))) {
            self.reach.reached();
            return true;
        }
        false
    }

    fn set_clock(&self, state: &mut Holding, sent: Boottime, now: picket_proto::Timestamp) {
        /// Said once: logs of this machine will not fit those of others.
        const SKEW: Duration = Duration::from_secs(1);
        let received = Boottime::now();
        let wall = clock::wall();
        match &mut state.clock {
            None => state.clock = Some(DatabaseClock::new(sent, received, now)),
            Some(clock) => {
                if let Adjusted::Stepped(us) = clock.observe(sent, received, now) {
                    self.metrics.clock_steps.inc();
                    warn!(
                        step_ms = us / 1_000,
                        "the database's clock jumped by {} ms; after a jump back nothing is due until it has caught up",
                        us / 1_000
                    );
                }
            }
        }
        let skew = wall.since(now).max(now.since(wall));
        if skew > SKEW && !state.skew_told {
            state.skew_told = true;
            warn!(
                skew_ms = skew.as_millis(),
                "this machine's clock is {} ms away from the database's; ticks follow the database's",
                skew.as_millis()
            );
        }
        if let Some(clock) = state.clock {
            let _ = self.planner.cast(planner::Msg::Clock(clock));
        }
    }

    async fn renew(&self, state: &mut Holding) -> Result<(), picket_store::Error> {
        let due = Boottime::now().since(state.renewed_at) >= self.lease / 3;
        if state.held.is_empty() || !due || self.reach.unreached_for(Boottime::now()) >= UNREACHED {
            return Ok(());
        }
        // Without the planner's word nothing is known to be published, and the lease is renewed as it was.
        let progress = call_t!(self.planner, planner::Msg::Progress, ANSWER_MS).unwrap_or_default();
        let asked: Vec<leases::Progress> =
            state.held.iter().map(|(shard, hold)| as_told(&progress, shard, hold.epoch)).collect();
        let sent = Boottime::now();
        let kept = leases::renew(&self.store, &self.name, &asked, self.lease).await?;
        state.renewed_at = sent;
        let asked: Vec<(Shard, Epoch)> =
            asked.iter().map(|progress| (progress.shard, progress.epoch)).collect();
        let lost = state.held.renewed(&asked, &kept, sent);
        self.lose(state, lost, "another has taken it, or it expired");
        // One that is being given back may be another's by now.
        for (shard, hold) in state.held.iter().filter(|(_, hold)| !hold.yielding) {
            self.fence.open(shard, hold.epoch, hold.until);
        }
        Ok(())
    }

    async fn take(&self, state: &mut Holding, most: usize) -> Result<(), picket_store::Error> {
        let sent = Boottime::now();
        let taken = leases::acquire(&self.store, &self.name, most, self.lease).await?;
        if taken.is_empty() {
            return Ok(());
        }
        if state.held.is_empty() {
            state.renewed_at = sent;
        }
        let until = state.held.acquired(taken.iter().map(|lease| (lease.shard, lease.epoch)), sent);
        for lease in &taken {
            self.fence.open(lease.shard, lease.epoch, until);
        }
        self.metrics.takeovers.inc_by(taken.len() as u64);
        info!(
            shards = taken.len(),
            held = state.held.count(),
            "took {} shards, holding {}",
            taken.len(),
            state.held.count()
        );
        let _ = self.catalog.cast(catalog::Msg::Load(taken));
        Ok(())
    }

    /// Begins to give shards back: the planner stops them, and when nothing of them is under way any more they are
    /// released. In a task, since the last acknowledgements may take a while and leases must be renewed meanwhile.
    fn give_back(&self, myself: &ActorRef<Msg>, state: &mut Holding, count: usize) {
        let shards = state.held.begin_yield(count);
        if shards.is_empty() {
            return;
        }
        let epochs: Vec<(Shard, Epoch)> = state
            .held
            .iter()
            .filter(|(shard, _)| shards.contains(shard))
            .map(|(shard, hold)| (shard, hold.epoch))
            .collect();
        let (this, myself) = (self.clone(), myself.clone());
        tokio::spawn(async move {
            let stopping =
                |answer: RpcReplyPort<Vec<leases::Progress>>| planner::Msg::Yield(shards.clone(), answer);
            let progress = call_t!(this.planner, stopping, YIELD_MS).unwrap_or_default();
            epochs.iter().for_each(|(shard, epoch)| this.fence.shut(*shard, *epoch));
            // A shard that the planner did not know was not read yet.
            let progress: Vec<leases::Progress> =
                epochs.iter().map(|(shard, epoch)| as_told(&progress, *shard, *epoch)).collect();
            if let Err(error) = leases::release(&this.store, &this.name, &progress).await {
                warn!(error = %Chain(&error), "could not release {} shards; they will expire", progress.len());
            }
            let _ = myself.cast(Msg::Yielded(epochs));
        });
    }

    fn lose(&self, state: &Holding, lost: Vec<(Shard, Epoch)>, why: &'static str) {
        if lost.is_empty() {
            return;
        }
        lost.iter().for_each(|(shard, epoch)| self.fence.shut(*shard, *epoch));
        self.metrics.leases_lost.inc_by(lost.len() as u64);
        warn!(
            shards = lost.len(),
            held = state.held.count(),
            "lease lost on {} shards, publishing for them has stopped: {why}",
            lost.len()
        );
        let _ = self.planner.cast(planner::Msg::Lost(lost.into_iter().map(|(shard, _)| shard).collect()));
    }

    fn trouble(&self, state: &mut Holding, what: &'static str, error: &picket_store::Error) {
        self.metrics.database_errors.inc();
        self.condition.fails(format!("{what}: {}", Chain(error)));
        if state.told != Some(what) {
            warn!(error = %Chain(error), "{what}, trying again");
            state.told = Some(what);
        }
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

/// How far `shard` is by the planner's word; without it, as far as it was, since the database keeps the later of two.
fn as_told(told: &[leases::Progress], shard: Shard, epoch: Epoch) -> leases::Progress {
    let told = told.iter().find(|told| told.shard == shard && told.epoch == epoch).copied();
    told.unwrap_or(leases::Progress { shard, epoch, scheduled_through: picket_proto::Timestamp::default() })
}
