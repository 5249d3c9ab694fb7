//! Pure: what a coordinator does about its leases, step by step.
//!
//! Nothing waits in here. What must be asked of the outside is a [`Command`], what came of it is the next [`Input`],
//! and each brings its own time; so the very same code runs in the actor and in the simulation that tries to make
//! two coordinators hold one shard (`tests/lease_safety`).

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::Boottime;
use picket_store::leases::{Lease, Progress, Roll};

use super::{
    held::Held,
    share::{self, Move},
};
use crate::{
    clock::{Adjusted, DatabaseClock},
    fence::Fence,
};

/// Shards taken in one round.
const TAKE_AT_ONCE: usize = 64;

/// How things stand with this coordinator's leases.
pub struct Rounds {
    lease: Duration,
    fence: Fence,
    held: Held,
    clock: Option<DatabaseClock>,
    renewed_at: Boottime,
    draining: bool,
    /// Of the round under way: whether jobs can be published, as far as is known.
    publishes: bool,
    /// Of the round under way: how things stand with all coordinators.
    roll: Option<Roll>,
}

/// What has happened.
#[derive(Debug)]
pub enum Input {
    /// Time for a round; none is under way.
    Begin {
        /// Whether jobs can be published, as far as is known.
        publishes: bool,
    },
    /// This coordinator is to hold nothing any more. Begins a round like [`Input::Begin`].
    Drain {
        /// Whether jobs can be published, as far as is known.
        publishes: bool,
    },
    /// [`Command::Announce`] was answered.
    Announced {
        /// The clock's reading before it was sent.
        sent: Boottime,
        /// The answer.
        roll: Roll,
    },
    /// [`Command::Renew`] was answered.
    Renewed {
        /// The clock's reading before it was sent.
        sent: Boottime,
        /// What it was for.
        asked: Vec<(Shard, Epoch)>,
        /// What was renewed of it.
        kept: Vec<Shard>,
    },
    /// [`Command::Take`] was answered.
    Taken {
        /// The clock's reading before it was sent.
        sent: Boottime,
        /// The answer.
        leases: Vec<Lease>,
    },
    /// There was no answer, which says nothing of what was done.
    Failed,
    /// What [`Command::GiveBack`] was for is given back, or could not be and will expire.
    GaveBack(Vec<(Shard, Epoch)>),
}

/// What is to be done, in the order given. At most one of those that are answered, and that one last.
#[derive(Debug)]
pub enum Command {
    /// Say that we are there; answered by [`Input::Announced`] or [`Input::Failed`].
    Announce {
        /// Whether we do not count in the shares.
        leaving: bool,
    },
    /// Renew these; answered by [`Input::Renewed`] or [`Input::Failed`].
    Renew(Vec<(Shard, Epoch)>),
    /// Take up to so many; answered by [`Input::Taken`] or [`Input::Failed`].
    Take(usize),
    /// This is the database's clock from now on; the number is by how many microseconds it has jumped, if it has.
    Clock(DatabaseClock, Option<i64>),
    /// These were taken, and their gates are open.
    Took(Vec<Lease>),
    /// These are not ours any more, for this reason; their gates are shut.
    Lost(Vec<(Shard, Epoch)>, &'static str),
    /// Stop these and give them back, while rounds go on.
    GiveBack(Stopping),
    /// The round is over, and all that was asked was answered.
    Done {
        /// Whether jobs can be published; if not, nothing was taken or renewed.
        publishes: bool,
    },
}

impl Rounds {
    /// Nothing is held yet. `lease` is the lease time, `now` any reading from before the first round.
    pub fn new(lease: Duration, fence: Fence, now: Boottime) -> Self {
        Self {
            lease,
            fence,
            held: Held::new(lease),
            clock: None,
            renewed_at: now,
            draining: false,
            publishes: true,
            roll: None,
        }
    }

    /// How many shards are held, those being given back left out.
    pub fn count(&self) -> usize {
        self.held.count()
    }

    /// Whether nothing is held, not even to be given back.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Nothing is to be published any more, whatever is held.
    pub fn shut(&self) {
        self.held.iter().for_each(|(shard, hold)| self.fence.shut(shard, hold.epoch));
    }

    /// Takes in what has happened, at `now`, and says what is to be done.
    pub fn step(&mut self, now: Boottime, input: Input) -> Vec<Command> {
        let mut commands = Vec::new();
        match input {
            Input::Begin { publishes } => self.begin(now, publishes, &mut commands),
            Input::Drain { publishes } => {
                self.draining = true;
                self.begin(now, publishes, &mut commands);
            }
            Input::Announced { sent, roll } => {
                self.roll = Some(roll);
                commands.push(self.measure(sent, now, roll.now));
                let due = now.since(self.renewed_at) >= self.lease / 3;
                if due && self.publishes && !self.held.is_empty() {
                    let all = self.held.iter().map(|(shard, hold)| (shard, hold.epoch));
                    commands.push(Command::Renew(all.collect()));
                } else {
                    self.share(&mut commands);
                }
            }
            Input::Renewed { sent, asked, kept } => {
                self.renewed_at = sent;
                let lost = self.held.renewed(&asked, &kept, sent);
                self.lose(lost, "another has taken it, or it expired", &mut commands);
                // One that is being given back may be another's by now.
                for (shard, hold) in self.held.iter().filter(|(_, hold)| !hold.yielding) {
                    self.fence.open(shard, hold.epoch, hold.until);
                }
                self.share(&mut commands);
            }
            Input::Taken { sent, leases } => {
                self.take(sent, leases, &mut commands);
                commands.push(Command::Done { publishes: true });
                self.drain(&mut commands);
            }
            Input::Failed => self.drain(&mut commands),
            Input::GaveBack(shards) => self.held.released(&shards),
        }
        commands
    }

    fn begin(&mut self, now: Boottime, publishes: bool, commands: &mut Vec<Command>) {
        let lost = self.held.expire(now);
        self.lose(lost, "its time ran out without a renewal", commands);
        self.publishes = publishes;
        // Who cannot publish must not count: the shares of the others would leave its shards to nobody.
        commands.push(Command::Announce { leaving: self.draining || !publishes });
    }

    fn measure(&mut self, sent: Boottime, received: Boottime, now: Timestamp) -> Command {
        let mut stepped = None;
        let clock = match self.clock {
            None => DatabaseClock::new(sent, received, now),
            Some(mut clock) => {
                if let Adjusted::Stepped(us) = clock.observe(sent, received, now) {
                    stepped = Some(us);
                }
                clock
            }
        };
        self.clock = Some(clock);
        Command::Clock(clock, stepped)
    }

    fn share(&mut self, commands: &mut Vec<Command>) {
        if let Some(roll) = self.roll.take()
            && self.publishes
            && !self.draining
        {
            match share::next_move(roll.shards, roll.live, self.held.count()) {
                Move::Stay => {}
                Move::Yield(count) => self.give_back(count, commands),
                // The answer ends the round.
                Move::Take(most) => return commands.push(Command::Take(most.min(TAKE_AT_ONCE))),
            }
        }
        commands.push(Command::Done { publishes: self.publishes });
        self.drain(commands);
    }

    fn take(&mut self, sent: Boottime, leases: Vec<Lease>, commands: &mut Vec<Command>) {
        if leases.is_empty() {
            return;
        }
        if self.held.is_empty() {
            self.renewed_at = sent;
        }
        let until = self.held.acquired(leases.iter().map(|lease| (lease.shard, lease.epoch)), sent);
        for lease in &leases {
            self.fence.open(lease.shard, lease.epoch, until);
        }
        commands.push(Command::Took(leases));
    }

    /// The last thing of each round of one that is to hold nothing.
    fn drain(&mut self, commands: &mut Vec<Command>) {
        if self.draining {
            self.give_back(usize::MAX, commands);
        }
    }

    fn give_back(&mut self, count: usize, commands: &mut Vec<Command>) {
        let stopping = self.held.begin_yield(count);
        if !stopping.is_empty() {
            commands.push(Command::GiveBack(Stopping(stopping)));
        }
    }

    fn lose(&self, lost: Vec<(Shard, Epoch)>, why: &'static str, commands: &mut Vec<Command>) {
        if !lost.is_empty() {
            lost.iter().for_each(|(shard, epoch)| self.fence.shut(*shard, *epoch));
            commands.push(Command::Lost(lost, why));
        }
    }
}

/// Shards that are on their way back.
#[derive(Clone, Debug)]
pub struct Stopping(Vec<(Shard, Epoch)>);

impl Stopping {
    /// Which the planner must stop.
    pub fn shards(&self) -> Vec<Shard> {
        self.0.iter().map(|(shard, _)| *shard).collect()
    }

    /// The planner has stopped them, or has not said so in time. Shuts their gates; only what comes from here may be
    /// released. `told` is the planner's word; a shard that it did not know was not read yet.
    pub fn stopped(&self, fence: &Fence, told: &[Progress]) -> Vec<Progress> {
        self.0.iter().for_each(|(shard, epoch)| fence.shut(*shard, *epoch));
        how_far(told, &self.0)
    }

    /// They were released, or will expire.
    pub fn released(self) -> Vec<(Shard, Epoch)> {
        self.0
    }
}

/// How far each of `shards` is by the planner's word; without it, as far as it was, since the database keeps the
/// later of two.
pub fn how_far(told: &[Progress], shards: &[(Shard, Epoch)]) -> Vec<Progress> {
    let of = |&(shard, epoch): &(Shard, Epoch)| {
        let told = told.iter().find(|told| told.shard == shard && told.epoch == epoch).copied();
        told.unwrap_or(Progress { shard, epoch, scheduled_through: Timestamp::default() })
    };
    shards.iter().map(of).collect()
}
