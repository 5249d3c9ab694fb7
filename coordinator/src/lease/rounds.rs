//! Pure: what a coordinator does about its leases, step by step.
//!
//! Nothing waits in here. What must be asked of the outside is a [`Command`], what came of it is the next [`Input`],
//! and each brings its own time; so the very same code runs in the actor and in the simulation that tries to make
//! two coordinators hold one shard (`tests/lease_safety`).

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::{Adjusted, Boottime, DatabaseClock, Reading};
use picket_store::leases::{Free, Lease, Progress, Roll};

use super::{
    held::Held,
    share::{self, Move},
    witness::{FirstReading, Unrenewed, Witness},
};
use crate::fence::Fence;

/// Shards taken in one round.
const TAKE_AT_ONCE: usize = 64;

/// How things stand with this coordinator's leases.
pub struct Rounds {
    lease: Duration,
    fence: Fence,
    held: Held,
    /// The database's clock, once it is believed.
    clock: Option<DatabaseClock>,
    /// Before that.
    first: FirstReading,
    unrenewed: Unrenewed,
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
        /// What other clocks say.
        witness: Witness,
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
    /// Renew these, at this time by our own clock; answered by [`Input::Renewed`] or [`Input::Failed`].
    Renew(Vec<(Shard, Epoch)>, Timestamp),
    /// Take some of what is free; answered by [`Input::Taken`] or [`Input::Failed`].
    Take(Free),
    /// This is the database's clock from now on.
    Clock(DatabaseClock, Adjusted),
    /// No other clock says what the database's says, and nothing is begun by it.
    Distrust(Timestamp),
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
    /// How late after our reading a statement that takes leases may be done, for them to be free all the same.
    const LATE: Duration = Duration::from_secs(1);

    /// Nothing is held yet. `lease` is the lease time, `now` any reading from before the first round.
    pub fn new(lease: Duration, fence: Fence, now: Boottime) -> Self {
        Self {
            lease,
            fence,
            held: Held::new(lease),
            clock: None,
            first: FirstReading::default(),
            unrenewed: Unrenewed::new(lease),
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
            Input::Announced { sent, roll, witness } => {
                let reading = Reading { sent, received: now, now: roll.now };
                let is_doubtful = self.measure(reading, &roll, &witness, &mut commands);
                self.unrenewed.look(now, &roll.doubtful);
                self.roll = Some(roll);
                let due = is_doubtful || now.since(self.renewed_at) >= self.lease / 3;
                match self.clock {
                    Some(clock) if due && self.publishes && !self.held.is_empty() => {
                        let all = self.held.iter().map(|(shard, hold)| (shard, hold.epoch));
                        commands.push(Command::Renew(all.collect(), clock.at(now)));
                    }
                    _ => self.share(now, &mut commands),
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
                self.share(now, &mut commands);
            }
            Input::Taken { sent, leases } => {
                self.take(sent, now, leases, &mut commands);
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
        // Who cannot publish, or does not know what time it is, must not count: the shares of the others would leave its shards
        // to nobody.
        let leaving = self.draining || !publishes || self.first.is_distrusted();
        commands.push(Command::Announce { leaving });
    }

    /// Takes a reading of the database's clock in. Says whether our own clock may have stood still, so that what is held must
    /// be renewed before anything more is published.
    fn measure(
        &mut self,
        reading: Reading,
        roll: &Roll,
        witness: &Witness,
        commands: &mut Vec<Command>,
    ) -> bool {
        let Some(mut clock) = self.clock else {
            match self.first.read(reading, roll.newest_mark, witness) {
                Some(clock) => {
                    self.clock = Some(clock);
                    commands.push(Command::Clock(clock, Adjusted::Slewing));
                }
                None => commands.push(Command::Distrust(roll.now)),
            }
            return false;
        };
        let is_behind = clock.is_behind(&reading);
        let adjusted = clock.observe(reading, witness.bus);
        self.clock = Some(clock);
        if is_behind {
            self.held.doubt(reading.received);
            self.fence.doubt(reading.received);
        }
        // What was due in between cannot be done any more, or was done: the shards are taken anew, from where time is now.
        if let Adjusted::Stepped(us) = adjusted
            && u128::from(us.unsigned_abs()) > DatabaseClock::SMALL_STEP.as_micros()
        {
            self.give_back(usize::MAX, commands);
        }
        commands.push(Command::Clock(clock, adjusted));
        is_behind
    }

    fn share(&mut self, now: Boottime, commands: &mut Vec<Command>) {
        if let Some(roll) = self.roll.take()
            && let Some(clock) = self.clock
            && self.publishes
            && !self.draining
        {
            match share::next_move(roll.shards, roll.live, self.held.count()) {
                Move::Stay => {}
                Move::Yield(count) => self.give_back(count, commands),
                // The answer ends the round.
                Move::Take(most) => {
                    let free = self.free(most.min(TAKE_AT_ONCE), now, &clock);
                    return commands.push(Command::Take(free));
                }
            }
        }
        commands.push(Command::Done { publishes: self.publishes && self.clock.is_some() });
        self.drain(commands);
    }

    /// A lease that the database's clock has ended is free at once if that clock has gone like ours for a whole lease time:
    /// whoever held it has stopped by then, or has renewed it since. Otherwise, when nobody has renewed it for a lease time.
    fn free(&self, most: usize, now: Boottime, clock: &DatabaseClock) -> Free {
        let is_steady = now.since(clock.steady_since()) >= self.lease;
        let unrenewed = self.unrenewed.free(now);
        let expired_by = is_steady.then(|| clock.as_read(now).plus((self.lease / 12).min(Self::LATE)));
        Free { most, now: Some(clock.at(now)), expired_by, unrenewed }
    }

    fn take(&mut self, sent: Boottime, now: Boottime, mut leases: Vec<Lease>, commands: &mut Vec<Command>) {
        if leases.is_empty() {
            return;
        }
        if self.held.is_empty() {
            self.renewed_at = sent;
        }
        let until = self.held.acquired(leases.iter().map(|lease| (lease.shard, lease.epoch)), sent);
        for lease in &mut leases {
            self.fence.open(lease.shard, lease.epoch, until);
            // Whoever had it was ahead; without this nothing would be due before time is there again.
            if let Some(clock) = self.clock {
                lease.scheduled_through = lease.scheduled_through.min(clock.at(now));
            }
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
