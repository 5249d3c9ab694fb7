//! One coordinator of the simulation: the real decisions, a planner in ten lines, and a clock of its own.

use std::{collections::VecDeque, time::Duration};

use picket_coordinator::{
    fence::{Fence, Gateway},
    lease::rounds::{Input, Rounds, Stopping},
};
use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::{Boottime, DatabaseClock};
use picket_store::leases::{Lease, Progress};

use crate::table::Name;

/// What is told to the actor, and waits while a round is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mail {
    Round,
    /// Somebody has released leases.
    Released,
    Drain,
    /// The task of this number is done.
    GaveBack(usize),
}

/// See the module.
pub(crate) struct Process {
    pub(crate) name: Name,
    pub(crate) fence: Fence,
    pub(crate) rounds: Rounds,
    pub(crate) mail: VecDeque<Mail>,
    /// The statement that the actor awaits.
    pub(crate) waits_for: Option<u64>,
    /// The tasks that give shards back, and the statements that they await.
    pub(crate) tasks: Vec<(Stopping, Option<u64>)>,
    /// It was asked to end.
    pub(crate) drains: bool,
    /// The actor is gone. Tasks that publish may still be there, and look at the fence.
    pub(crate) gone: bool,
    /// Not even those.
    pub(crate) dead: bool,
    /// Since when nothing is done here, and until when.
    pub(crate) paused: Option<(u64, u64)>,
    /// Whether its machine is, so that its timers stand still as well.
    pub(crate) suspended: bool,
    /// Its clock stands still as well while it is paused, and nobody can tell it: it is excused until the answer to a statement
    /// that it sent since, whose number is greater than this.
    pub(crate) stands_still: bool,
    pub(crate) excused: Option<u64>,
    /// The answer has come, and is what is decided on next.
    pub(crate) will_know: bool,
    /// The database cannot be reached from here before this.
    pub(crate) cut_until: u64,
    /// Nor NATS before this.
    pub(crate) unreached_until: u64,
    rate: Rate,
    clock: Option<DatabaseClock>,
    planned: Vec<Option<Plan>>,
}

/// A machine's clock: what it read at the beginning, and how fast it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) began_at_us: u64,
    /// Of a million microseconds.
    pub(crate) goes_us: u64,
}

#[derive(Clone, Copy)]
struct Plan {
    epoch: Epoch,
    through: Timestamp,
    is: Is,
}

/// What a shard is to the planner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    Held,
    /// On its way back; the last jobs may still go out.
    Stopping,
    Gone,
}

impl Process {
    pub(crate) fn new(name: Name, rate: Rate, lease: Duration, shards: usize, now: u64) -> Self {
        let fence = Fence::default();
        let rounds = Rounds::new(lease, fence.clone(), rate.reading(now));
        Self {
            name,
            fence,
            rounds,
            mail: VecDeque::new(),
            waits_for: None,
            tasks: Vec::new(),
            drains: false,
            gone: false,
            dead: false,
            paused: None,
            suspended: false,
            stands_still: false,
            excused: None,
            will_know: false,
            cut_until: 0,
            unreached_until: 0,
            rate,
            clock: None,
            planned: vec![None; shards],
        }
    }

    pub(crate) fn reading(&self, now: u64) -> Boottime {
        self.rate.reading(now)
    }

    /// Its clock has not counted so long.
    pub(crate) fn stood_still(&mut self, us: u64) {
        self.rate.began_at_us -= us * self.rate.goes_us / 1_000_000;
    }

    /// Another process on the same machine.
    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether a job of `shard` would be published now.
    pub(crate) fn is_open(&self, shard: usize, now: u64) -> bool {
        let Some(plan) = self.planned[shard].as_ref().filter(|_| !self.dead) else { return false };
        let shard = Shard(u16::try_from(shard).unwrap());
        self.fence.look(shard, plan.epoch, self.reading(now)) == Gateway::Open
    }

    /// What the database's clock says, by this process.
    pub(crate) fn database_now(&self, now: u64) -> Option<Timestamp> {
        Some(self.clock?.at(self.reading(now)))
    }

    /// Whether it goes by a time of its own, since the database's clock has jumped.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.clock.is_some_and(|clock| clock.unconfirmed().is_some())
    }

    pub(crate) fn set_clock(&mut self, clock: DatabaseClock) {
        self.clock = Some(clock);
    }

    pub(crate) fn plan(&mut self, taken: &[Lease]) {
        for lease in taken {
            let plan = Plan { epoch: lease.epoch, through: lease.scheduled_through, is: Is::Held };
            self.planned[usize::from(lease.shard.0)] = Some(plan);
        }
    }

    /// The planner plans no more for these.
    pub(crate) fn stop(&mut self, shards: &[(Shard, Epoch)], is: Is) {
        for (shard, epoch) in shards {
            if let Some(plan) = &mut self.planned[usize::from(shard.0)]
                && plan.epoch == *epoch
            {
                plan.is = is;
            }
        }
    }

    /// The planner's word. It has published all ticks up to now, wherever the gate was open.
    pub(crate) fn progress(&mut self, now: u64) -> Vec<Progress> {
        let mut progress = Vec::new();
        for place in 0..self.planned.len() {
            let is_open = self.is_open(place, now);
            let reached = self.database_now(now);
            let Some(plan) = self.planned[place].as_mut().filter(|plan| plan.is == Is::Held) else {
                continue;
            };
            if is_open && let Some(reached) = reached {
                plan.through = plan.through.max(reached);
            }
            let shard = Shard(u16::try_from(place).unwrap());
            progress.push(Progress { shard, epoch: plan.epoch, scheduled_through: plan.through });
        }
        progress
    }

    /// What does not go together in here.
    pub(crate) fn contradiction(&self, now: u64) -> Option<String> {
        let planned = self.planned.iter().flatten().filter(|plan| plan.is == Is::Held).count();
        if self.rounds.count() != planned {
            return Some(format!("{} holds {} shards and plans {planned}", self.name, self.rounds.count()));
        }
        self.planned.iter().enumerate().find_map(|(place, plan)| {
            let plan = plan.as_ref()?;
            let shard = Shard(u16::try_from(place).unwrap());
            let gate = self.fence.look(shard, plan.epoch, self.reading(now));
            match (plan.is, gate) {
                (Is::Held, Gateway::Shut) => {
                    Some(format!("{} is shut out of {place}, which it holds", self.name))
                }
                (Is::Gone, Gateway::Open | Gateway::Late) => {
                    Some(format!("{} has left the gate of {place} standing, which is not its own", self.name))
                }
                _ => None,
            }
        })
    }

    /// What a piece of mail is to the decisions.
    pub(crate) fn input(&self, mail: Mail, now: u64) -> Input {
        let publishes = now >= self.unreached_until;
        match mail {
            Mail::Round | Mail::Released => Input::Begin { publishes },
            Mail::Drain => Input::Drain { publishes },
            Mail::GaveBack(task) => Input::GaveBack(self.tasks[task].0.clone().released()),
        }
    }
}

impl Rate {
    pub(crate) fn reading(self, now: u64) -> Boottime {
        Boottime::at(Duration::from_micros(self.began_at_us + now * self.goes_us / 1_000_000))
    }
}
