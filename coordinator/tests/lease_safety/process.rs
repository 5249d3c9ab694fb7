//! One coordinator of the simulation: the real decisions, a planner in ten lines, and a clock of its own.

use std::{collections::VecDeque, time::Duration};

use picket_coordinator::{
    fence::{Admission, Fence},
    lease::machine::{LeaseEvent, LeaseMachine, ReleasingShards},
};
use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::{Boottime, DbClock};
use picket_store::leases::{Lease, ShardProgress};

use crate::table::CoordinatorName;

/// Messages to the actor, which wait while a round runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActorMessage {
    BeginRound,
    /// Another coordinator has released leases.
    LeasesAvailable,
    Drain,
    /// The task of this number is done.
    ShardsReleased(usize),
}

/// See the module.
pub(crate) struct Process {
    pub(crate) name: CoordinatorName,
    pub(crate) fence: Fence,
    pub(crate) machine: LeaseMachine,
    pub(crate) mailbox: VecDeque<ActorMessage>,
    /// The statement that the actor awaits.
    pub(crate) awaited_call: Option<u64>,
    /// The tasks that give shards back, and the statements that they await.
    pub(crate) tasks: Vec<(ReleasingShards, Option<u64>)>,
    /// A drain was requested.
    pub(crate) is_draining: bool,
    /// The actor has ended. Publishing tasks may remain and check the fence.
    pub(crate) is_actor_gone: bool,
    /// No tasks remain.
    pub(crate) is_dead: bool,
    /// Begin and end of the current pause.
    pub(crate) paused: Option<(u64, u64)>,
    /// True if the machine is suspended, so that timers stop as well.
    pub(crate) suspended: bool,
    /// True if its clock stops during a pause, which no process can detect. Violations are excused
    /// until the answer to a statement sent since, with a greater number than `excused`.
    pub(crate) is_clock_frozen: bool,
    pub(crate) excused: Option<u64>,
    /// The answer has arrived and is the next event.
    pub(crate) will_know: bool,
    /// The database cannot be reached from here before this.
    pub(crate) cut_until: u64,
    /// Nor NATS before this.
    pub(crate) bus_cut_until: u64,
    machine_clock: MachineClock,
    clock: Option<DbClock>,
    plans: Vec<Option<ShardPlan>>,
}

/// A machine's clock: its initial reading and its rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineClock {
    pub(crate) start_us: u64,
    /// Of a million microseconds.
    pub(crate) us_per_second: u64,
}

#[derive(Clone, Copy)]
struct ShardPlan {
    epoch: Epoch,
    through: Timestamp,
    state: PlanState,
}

/// State of a shard in the scheduler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlanState {
    Active,
    /// On its way back; the last jobs may still go out.
    Releasing,
    Released,
}

impl Process {
    pub(crate) fn new(
        name: CoordinatorName,
        machine_clock: MachineClock,
        lease_time: Duration,
        shards: usize,
        now: u64,
    ) -> Self {
        let fence = Fence::default();
        let machine = LeaseMachine::new(lease_time, fence.clone(), machine_clock.clock_reading(now));
        Self {
            name,
            fence,
            machine,
            mailbox: VecDeque::new(),
            awaited_call: None,
            tasks: Vec::new(),
            is_draining: false,
            is_actor_gone: false,
            is_dead: false,
            paused: None,
            suspended: false,
            is_clock_frozen: false,
            excused: None,
            will_know: false,
            cut_until: 0,
            bus_cut_until: 0,
            machine_clock,
            clock: None,
            plans: vec![None; shards],
        }
    }

    pub(crate) fn clock_reading(&self, now: u64) -> Boottime {
        self.machine_clock.clock_reading(now)
    }

    /// Its clock has not counted so long.
    pub(crate) fn lose_clock_time(&mut self, us: u64) {
        self.machine_clock.start_us -= us * self.machine_clock.us_per_second / 1_000_000;
    }

    /// Another process on the same machine.
    pub(crate) fn machine_clock(&self) -> MachineClock {
        self.machine_clock
    }

    /// Whether a job of `shard` would be published now.
    pub(crate) fn is_open(&self, shard: usize, now: u64) -> bool {
        let Some(plan) = self.plans[shard].as_ref().filter(|_| !self.is_dead) else { return false };
        let shard = Shard(u16::try_from(shard).unwrap());
        self.fence.check_admission(shard, plan.epoch, self.clock_reading(now)) == Admission::Open
    }

    /// The database's clock as this process estimates it.
    pub(crate) fn database_now(&self, now: u64) -> Option<Timestamp> {
        Some(self.clock?.time_at(self.clock_reading(now)))
    }

    /// Whether it goes by a time of its own, since the database's clock has jumped.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.clock.is_some_and(|clock| clock.unconfirmed_jump_us().is_some())
    }

    pub(crate) fn set_clock(&mut self, clock: DbClock) {
        self.clock = Some(clock);
    }

    pub(crate) fn plan_shards(&mut self, taken: &[Lease]) {
        for lease in taken {
            let plan =
                ShardPlan { epoch: lease.epoch, through: lease.scheduled_through, state: PlanState::Active };
            self.plans[usize::from(lease.shard.0)] = Some(plan);
        }
    }

    /// The planner plans no more for these.
    pub(crate) fn set_plan_state(&mut self, shards: &[(Shard, Epoch)], is: PlanState) {
        for (shard, epoch) in shards {
            if let Some(plan) = &mut self.plans[usize::from(shard.0)]
                && plan.epoch == *epoch
            {
                plan.state = is;
            }
        }
    }

    /// The planner's word. It has published all ticks up to now, wherever the gate was open.
    pub(crate) fn publish_progress(&mut self, now: u64) -> Vec<ShardProgress> {
        let mut progress = Vec::new();
        for place in 0..self.plans.len() {
            let is_open = self.is_open(place, now);
            let reached = self.database_now(now);
            let Some(plan) = self.plans[place].as_mut().filter(|plan| plan.state == PlanState::Active) else {
                continue;
            };
            if is_open && let Some(reached) = reached {
                plan.through = plan.through.max(reached);
            }
            let shard = Shard(u16::try_from(place).unwrap());
            progress.push(ShardProgress { shard, epoch: plan.epoch, scheduled_through: plan.through });
        }
        progress
    }

    /// Contradictions in this state.
    pub(crate) fn find_contradiction(&self, now: u64) -> Option<String> {
        let planned = self.plans.iter().flatten().filter(|plan| plan.state == PlanState::Active).count();
        if self.machine.active_count() != planned {
            return Some(format!(
                "{} holds {} shards and plans {planned}",
                self.name,
                self.machine.active_count()
            ));
        }
        self.plans.iter().enumerate().find_map(|(place, plan)| {
            let plan = plan.as_ref()?;
            let shard = Shard(u16::try_from(place).unwrap());
            let gate = self.fence.check_admission(shard, plan.epoch, self.clock_reading(now));
            match (plan.state, gate) {
                (PlanState::Active, Admission::Closed) => {
                    Some(format!("{} is shut out of {place}, which it holds", self.name))
                }
                (PlanState::Released, Admission::Open | Admission::Expired) => {
                    Some(format!("{} has left the gate of {place} standing, which is not its own", self.name))
                }
                _ => None,
            }
        })
    }

    /// The event that a message is for the lease machine.
    pub(crate) fn to_event(&self, message: ActorMessage, now: u64) -> LeaseEvent {
        let publishes = now >= self.bus_cut_until;
        match message {
            ActorMessage::BeginRound | ActorMessage::LeasesAvailable => {
                LeaseEvent::BeginRound { can_publish: publishes }
            }
            ActorMessage::Drain => LeaseEvent::Drain { can_publish: publishes },
            ActorMessage::ShardsReleased(task) => {
                LeaseEvent::Released(self.tasks[task].0.clone().into_shards())
            }
        }
    }
}

impl MachineClock {
    pub(crate) fn clock_reading(self, now: u64) -> Boottime {
        Boottime::from_elapsed(Duration::from_micros(self.start_us + now * self.us_per_second / 1_000_000))
    }
}
