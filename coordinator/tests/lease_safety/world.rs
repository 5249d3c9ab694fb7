//! The world of the simulation: a database, a network, some coordinators, and the faults between them.
//!
//! Time is true time in microseconds, and the database's clock goes at its rate; every machine's clock has its own.
//! No process sees true time or a wall clock: leases depend on neither.

mod checks;
mod coordinators;
mod database;
mod faults;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use picket_coordinator::lease::machine::{LeaseAction, LeaseEvent};
use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::{Boottime, DbClock};
use picket_store::leases::{AcquireCriteria, ClusterView, Lease, LeaseTime, ShardProgress};

use crate::{
    history::{Fault, History, LinkConditions, SplitMix64},
    process::{ActorMessage, MachineClock, PlanState, Process},
    table::{CoordinatorName, LeaseTable},
};

const COORDINATOR_NAMES: [CoordinatorName; 24] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u",
    "v", "w", "x",
];
/// After which a client gives a statement up (`store/src/leases.rs`).
const STATEMENT_TIMEOUT_US: u64 = 3_000_000;
/// No statement: the actor awaits none and is idle.
const STALLED_CALL: u64 = 0;
/// How long the planner may take to stop a shard (`lease.rs`).
const RELEASE_TIMEOUT_US: u64 = 8_000_000;
/// Error of a local clock below which it cannot hide a jump of the database's clock.
const SMALLEST_JUMP_US: u64 = 1_000_000;
/// Initial reading of the database's clock.
const START_TIME_US: i64 = 1_800_000_000_000_000;

/// Counts of events in a history, which show that histories are not idle.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunStats {
    pub(crate) histories: u64,
    pub(crate) grants: u64,
    /// Grants of a shard that was neither released nor free from the start.
    pub(crate) take_overs: u64,
    pub(crate) lost: u64,
    pub(crate) released: u64,
    /// Renewals that the database did for a shard that was on its way back.
    pub(crate) renewed_while_releasing: u64,
    /// Answers that arrived after their timeout.
    pub(crate) late_answers: u64,
    /// Statements of a coordinator that had lost its lease.
    pub(crate) fenced: u64,
}

impl RunStats {
    pub(crate) fn merge_stats(self, other: Self) -> Self {
        Self {
            histories: self.histories + other.histories,
            grants: self.grants + other.grants,
            take_overs: self.take_overs + other.take_overs,
            lost: self.lost + other.lost,
            released: self.released + other.released,
            renewed_while_releasing: self.renewed_while_releasing + other.renewed_while_releasing,
            late_answers: self.late_answers + other.late_answers,
            fenced: self.fenced + other.fenced,
        }
    }
}

enum Statement {
    Heartbeat { leaving: bool, alive: Duration },
    Acquire(AcquireCriteria, LeaseTime),
    Renew(Vec<(Shard, Epoch)>, Vec<ShardProgress>, Timestamp, LeaseTime),
    Release(Vec<ShardProgress>),
}

enum Reply {
    ClusterView(ClusterView),
    Leases(Vec<Lease>),
    Renewed(Vec<Shard>),
    Released,
}

/// A statement that was sent.
struct Call {
    process: usize,
    /// Of the task that gives shards back, or else of the actor.
    task: Option<usize>,
    statement: Statement,
    sent: Boottime,
}

enum SimEvent {
    Fault(usize),
    Start(CoordinatorName, MachineClock),
    Tick(usize),
    LeasesAvailable(usize),
    Resume(usize),
    /// A process stalled between reading its clock and using the reading resumes.
    Decide {
        process: usize,
        now: Boottime,
        input: LeaseEvent,
    },
    /// The scheduler has stopped the shards of a release; its answer may have timed out.
    ReleaseStopped {
        process: usize,
        task: usize,
        told: Vec<ShardProgress>,
    },
    /// A statement begins in the database.
    Arrive(u64),
    /// It has its locks, and is done as of when it began.
    Apply {
        call: u64,
        began_at: i64,
    },
    /// The answer, or a timeout.
    Answer {
        call: u64,
        reply: Option<Reply>,
    },
}

/// See the module.
pub(crate) struct LeaseSimulation<'a> {
    history: &'a History,
    /// Whether the database's clock keeps to its share of the margin.
    is_clock_bounded: bool,
    rng: SplitMix64,
    link: LinkConditions,
    now: u64,
    number: u64,
    events: BTreeMap<(u64, u64), SimEvent>,
    calls: HashMap<u64, Call>,
    table: LeaseTable,
    stepped: i64,
    /// Time and size of the last step of the database's clock.
    last_step: Option<(u64, i64)>,
    /// How far the database's clock may still jump ahead.
    ahead_left: i64,
    processes: Vec<Process>,
    /// What each process's actor awaits.
    current_messages: Vec<Option<ActorMessage>>,
    names: usize,
    /// To which process each epoch was given, by shard.
    granted: Vec<Vec<usize>>,
    pub(crate) violation: Option<String>,
    pub(crate) tally: RunStats,
}

impl<'a> LeaseSimulation<'a> {
    /// Lives through `history`. With `keeps_time` the database's clock never jumps ahead by more than the margin has
    /// room for.
    pub(crate) fn run_history(history: &'a History, keeps_time: bool) -> Self {
        // Jumps must fit into the margin of the shortest lease, rates into that of the longest.
        let shortest = history.lease_times().min().unwrap_or(history.lease_ms);
        let margin = shortest * 1_000 - trusted_us(shortest);
        let world = Self {
            history,
            is_clock_bounded: keeps_time,
            rng: SplitMix64(history.seed),
            link: history.link,
            now: 0,
            number: 0,
            events: BTreeMap::new(),
            calls: HashMap::new(),
            table: LeaseTable::new(history.shards, Duration::from_millis(history.lease_ms)),
            stepped: 0,
            last_step: None,
            ahead_left: (margin * (1_000 - history.clock_drift) / 1_000).cast_signed() * 98 / 100,
            processes: Vec::new(),
            current_messages: Vec::new(),
            names: history.coordinators,
            granted: vec![Vec::new(); history.shards],
            violation: None,
            tally: RunStats { histories: 1, ..RunStats::default() },
        };
        world.run_events()
    }

    fn run_events(mut self) -> Self {
        let lease = self.lease_us();
        for name in &COORDINATOR_NAMES[..self.history.coordinators] {
            let (rate, at) = (self.random_clock(), self.rng.in_range(0, lease));
            self.schedule_at(at, SimEvent::Start(name, rate));
        }
        let ends = lease * 6;
        for (number, (at, _)) in self.history.faults.iter().enumerate() {
            self.schedule_at(ends * at / 1_000, SimEvent::Fault(number));
        }
        self.run_until(ends);
        self.end_faults();
        self.run_until(ends + 1);
        let settled = self.now
            + self.forget_delay_us()
            + STATEMENT_TIMEOUT_US
            + RELEASE_TIMEOUT_US
            + 20 * Self::round_us(self.table.lease_time);
        self.run_until(settled);
        self.check_all_held();
        let held = self.table.rows.iter().map(|row| row.epoch).collect::<Vec<_>>();
        self.run_until(settled + self.longest_lease_us() * 2);
        self.check_all_held();
        if self.table.rows.iter().map(|row| row.epoch).ne(held) {
            self.record_violation("shards change hands though nothing happens");
        }
        self
    }

    fn lease_us(&self) -> u64 {
        self.history.lease_ms * 1_000
    }

    fn longest_lease_us(&self) -> u64 {
        self.history.lease_times().max().unwrap_or(self.history.lease_ms) * 1_000
    }

    /// Between rounds of the actor (`lease.rs`).
    fn round_us(lease_time: LeaseTime) -> u64 {
        (lease_time.duration.as_micros() as u64 / 5).min(1_000_000)
    }

    fn database_now(&self) -> i64 {
        START_TIME_US + self.now.cast_signed() + self.stepped
    }

    /// A machine's clock: anything at the beginning.
    fn random_clock(&mut self) -> MachineClock {
        let longest = self.longest_lease_us();
        let (lease, trusted) = (longest, trusted_us(longest / 1_000));
        // The fastest and the slowest clock together use up the margin: an expired lease is measured by
        // another machine's clock than the holder's.
        let share =
            (lease - trusted) as f64 * self.history.clock_drift as f64 / 1_000.0 * 0.98 / trusted as f64;
        let mut most = (((1.0 + share).sqrt() - 1.0) * 1_000_000.0) as u64;
        if !self.is_clock_bounded {
            // A clock that goes wrong by as much as the database's clock jumps, while no reading is
            // taken, hides the jump. No fault lasts for more than five leases.
            most = most.min(1_000_000 * SMALLEST_JUMP_US / (5 * lease));
        }
        let (slowest, fastest) = (1_000_000_000_000_u64.div_ceil(1_000_000 + most), 1_000_000 + most);
        let goes_us = match self.rng.in_range(0, 3) {
            0 => slowest,
            1 => fastest,
            _ => self.rng.in_range(slowest, fastest),
        };
        MachineClock {
            start_us: self.rng.in_range(1_000_000_000_000, 10_000_000_000_000),
            us_per_second: goes_us,
        }
    }

    fn schedule_at(&mut self, at: u64, event: SimEvent) {
        self.number += 1;
        self.events.insert((at.max(self.now), self.number), event);
    }

    fn schedule_after(&mut self, wait: u64, event: SimEvent) {
        self.schedule_at(self.now + wait, event);
    }

    fn run_until(&mut self, end: u64) {
        while self.violation.is_none()
            && let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end)
        {
            self.now = entry.key().0;
            let event = entry.remove();
            self.handle_event(event);
        }
        self.now = end;
    }

    fn handle_event(&mut self, event: SimEvent) {
        // Messages for a paused process arrive in any order when it resumes.
        if let Some((process, resumes)) = self.paused_target(&event) {
            let is_timer = matches!(event, SimEvent::Answer { reply: None, .. });
            let late =
                if is_timer && self.processes[process].suspended { STATEMENT_TIMEOUT_US } else { 5_000 };
            let wait = self.rng.in_range(1, late);
            return self.schedule_at(resumes + wait, event);
        }
        match event {
            SimEvent::Fault(number) => self.inject_fault(number),
            SimEvent::Start(name, rate) => self.start_process(name, rate),
            SimEvent::Tick(process) => self.deliver_message(process, ActorMessage::BeginRound),
            SimEvent::LeasesAvailable(process) => {
                self.deliver_message(process, ActorMessage::LeasesAvailable)
            }
            SimEvent::Resume(process) => self.resume_process(process),
            SimEvent::Decide { process, now, input } => {
                if !self.processes[process].is_actor_gone {
                    self.processes[process].awaited_call = None;
                    self.apply_event(process, now, input);
                    self.process_mailbox(process);
                }
            }
            SimEvent::ReleaseStopped { process, task, told } => self.finish_stop(process, task, &told),
            SimEvent::Arrive(call) => self.begin_statement(call),
            SimEvent::Apply { call, began_at } => self.apply_statement(call, began_at),
            SimEvent::Answer { call, reply } => self.deliver_answer(call, reply),
        }
    }

    fn paused_target(&self, event: &SimEvent) -> Option<(usize, u64)> {
        let process = match event {
            SimEvent::Tick(process)
            | SimEvent::LeasesAvailable(process)
            | SimEvent::Decide { process, .. }
            | SimEvent::ReleaseStopped { process, .. } => *process,
            SimEvent::Answer { call, .. } => self.calls[call].process,
            _ => return None,
        };
        self.processes[process].paused.map(|(_, resumes)| (process, resumes))
    }
}

impl History {
    /// All lease times in milliseconds: the first, and the later settings.
    fn lease_times(&self) -> impl Iterator<Item = u64> {
        let changed = self.faults.iter().filter_map(|(_, fault)| match fault {
            Fault::SetLeaseTime { lease_ms } => Some(*lease_ms),
            _ => None,
        });
        std::iter::once(self.lease_ms).chain(changed)
    }
}

/// For how long a lease is believed in: less by three seconds, or by a third where that is less.
fn trusted_us(lease_ms: u64) -> u64 {
    (lease_ms - (lease_ms / 3).min(3_000)) * 1_000
}
