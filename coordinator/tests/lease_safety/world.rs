//! The world of the simulation: a database, a network, some coordinators, and all that can go wrong between them.
//!
//! Time is true time in microseconds, and the database's clock goes at its rate; every machine's clock has its own.
//! No process sees true time, and none is shown its wall clock: nothing about leases takes one.

mod checks;
mod coordinators;
mod database;
mod faults;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use picket_coordinator::lease::rounds::{Command, Input};
use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::{Boottime, DatabaseClock};
use picket_store::leases::{Free, Lease, Progress, Roll};

use crate::{
    history::{Chance, Fault, History, Weather},
    process::{Is, Mail, Process, Rate},
    table::{Name, Table},
};

const NAMES: [Name; 24] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u",
    "v", "w", "x",
];
/// After which a client gives a statement up (`store/src/leases.rs`).
const LIMIT_US: u64 = 3_000_000;
/// The number of no statement: the actor awaits none, and does nothing.
const HELD_UP: u64 = 0;
/// How long the planner may take to stop a shard (`lease.rs`).
const YIELD_US: u64 = 8_000_000;
/// What the database's clock says at the beginning.
const EPOCH_US: i64 = 1_800_000_000_000_000;

/// What happened in a history, to see that histories are not idle.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) histories: u64,
    pub(crate) grants: u64,
    /// Grants of a shard that was neither released nor free from the start.
    pub(crate) take_overs: u64,
    pub(crate) lost: u64,
    pub(crate) given_back: u64,
    /// Renewals that the database did for a shard that was on its way back.
    pub(crate) renewed_while_yielding: u64,
    /// Answers that came when nobody waited for them any more.
    pub(crate) unheard: u64,
    /// Statements of a holder that was none any more.
    pub(crate) fenced: u64,
}

impl Tally {
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            histories: self.histories + other.histories,
            grants: self.grants + other.grants,
            take_overs: self.take_overs + other.take_overs,
            lost: self.lost + other.lost,
            given_back: self.given_back + other.given_back,
            renewed_while_yielding: self.renewed_while_yielding + other.renewed_while_yielding,
            unheard: self.unheard + other.unheard,
            fenced: self.fenced + other.fenced,
        }
    }
}

enum What {
    Announce { leaving: bool },
    Take(Free),
    Renew(Vec<(Shard, Epoch)>, Vec<Progress>, Timestamp),
    Release(Vec<Progress>),
}

enum Reply {
    Roll(Roll),
    Leases(Vec<Lease>),
    Kept(Vec<Shard>),
    Released,
}

/// A statement that was sent.
struct Call {
    process: usize,
    /// Of the task that gives shards back, or else of the actor.
    task: Option<usize>,
    what: What,
    sent: Boottime,
}

enum Event {
    Fault(usize),
    Start(Name, Rate),
    Tick(usize),
    Released(usize),
    Resume(usize),
    /// A process that was held up between reading its clock and using it goes on.
    Decide {
        process: usize,
        now: Boottime,
        input: Input,
    },
    /// The planner has stopped what a task gives back; it may not have been heard in time.
    Stopped {
        process: usize,
        task: usize,
        told: Vec<Progress>,
    },
    /// A statement begins in the database.
    Arrive(u64),
    /// It has its locks, and is done as of when it began.
    Apply {
        call: u64,
        began_at: i64,
    },
    /// Its answer, or none in time.
    Answer {
        call: u64,
        reply: Option<Reply>,
    },
}

/// See the module.
pub(crate) struct World<'a> {
    history: &'a History,
    /// Whether the database's clock keeps to its share of the margin.
    keeps_time: bool,
    chance: Chance,
    weather: Weather,
    now: u64,
    number: u64,
    events: BTreeMap<(u64, u64), Event>,
    calls: HashMap<u64, Call>,
    table: Table,
    stepped: i64,
    /// How far the database's clock may still jump ahead.
    ahead_left: i64,
    processes: Vec<Process>,
    /// What each process's actor is about.
    about: Vec<Option<Mail>>,
    names: usize,
    /// To which process each epoch was given, by shard.
    given: Vec<Vec<usize>>,
    pub(crate) violation: Option<String>,
    pub(crate) tally: Tally,
}

impl<'a> World<'a> {
    /// Lives through `history`. With `keeps_time` the database's clock never jumps ahead by more than the margin has
    /// room for.
    pub(crate) fn live(history: &'a History, keeps_time: bool) -> Self {
        let (lease, trusted) = (history.lease_ms * 1_000, history.trusted_us());
        let world = Self {
            history,
            keeps_time,
            chance: Chance(history.seed),
            weather: history.weather,
            now: 0,
            number: 0,
            events: BTreeMap::new(),
            calls: HashMap::new(),
            table: Table::new(history.shards),
            stepped: 0,
            ahead_left: ((lease - trusted) * (1_000 - history.rates) / 1_000).cast_signed() * 98 / 100,
            processes: Vec::new(),
            about: Vec::new(),
            names: history.coordinators,
            given: vec![Vec::new(); history.shards],
            violation: None,
            tally: Tally { histories: 1, ..Tally::default() },
        };
        world.run()
    }

    fn run(mut self) -> Self {
        let lease = self.lease_us();
        for name in &NAMES[..self.history.coordinators] {
            let (rate, at) = (self.rate(), self.chance.between(0, lease));
            self.at(at, Event::Start(name, rate));
        }
        let ends = lease * 6;
        for (number, (at, _)) in self.history.faults.iter().enumerate() {
            self.at(ends * at / 1_000, Event::Fault(number));
        }
        self.until(ends);
        self.calm();
        self.until(ends + 1);
        let settled = self.now + self.until_forgotten() + LIMIT_US + YIELD_US + 20 * self.round_us();
        self.until(settled);
        self.all_are_held();
        let held = self.table.rows.iter().map(|row| row.epoch).collect::<Vec<_>>();
        self.until(settled + lease * 2);
        self.all_are_held();
        if self.table.rows.iter().map(|row| row.epoch).ne(held) {
            self.fail("shards change hands though nothing happens");
        }
        self
    }

    fn lease_us(&self) -> u64 {
        self.history.lease_ms * 1_000
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.history.lease_ms)
    }

    fn round_us(&self) -> u64 {
        (self.lease_us() / 5).min(1_000_000)
    }

    fn database_now(&self) -> i64 {
        EPOCH_US + self.now.cast_signed() + self.stepped
    }

    /// A machine's clock: anything at the beginning; the slowest goes so slowly that it uses the margin's share up.
    fn rate(&mut self) -> Rate {
        let (lease, trusted) = (self.lease_us(), self.history.trusted_us());
        let most = (lease - trusted) * self.history.rates / 1_000 * 98 / 100 * 1_000_000 / trusted;
        let (slowest, fastest) = (1_000_000_000_000_u64.div_ceil(1_000_000 + most), 1_000_000 + most);
        let goes_us = match self.chance.between(0, 3) {
            0 => slowest,
            1 => fastest,
            _ => self.chance.between(slowest, fastest),
        };
        Rate { began_at_us: self.chance.between(1_000_000_000_000, 10_000_000_000_000), goes_us }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.insert((at.max(self.now), self.number), event);
    }

    fn after(&mut self, wait: u64, event: Event) {
        self.at(self.now + wait, event);
    }

    fn until(&mut self, end: u64) {
        while self.violation.is_none()
            && let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end)
        {
            self.now = entry.key().0;
            let event = entry.remove();
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        // What is for a process that does nothing comes to it when it goes on, in any order.
        if let Some((process, resumes)) = self.is_for_a_paused(&event) {
            let is_timer = matches!(event, Event::Answer { reply: None, .. });
            let late = if is_timer && self.processes[process].suspended { LIMIT_US } else { 5_000 };
            let wait = self.chance.between(1, late);
            return self.at(resumes + wait, event);
        }
        match event {
            Event::Fault(number) => self.fault(number),
            Event::Start(name, rate) => self.start(name, rate),
            Event::Tick(process) => self.deliver(process, Mail::Round),
            Event::Released(process) => self.deliver(process, Mail::Released),
            Event::Resume(process) => self.resume(process),
            Event::Decide { process, now, input } => {
                if !self.processes[process].gone {
                    self.processes[process].waits_for = None;
                    self.decide(process, now, input);
                    self.work(process);
                }
            }
            Event::Stopped { process, task, told } => self.stopped(process, task, &told),
            Event::Arrive(call) => self.arrive(call),
            Event::Apply { call, began_at } => self.apply(call, began_at),
            Event::Answer { call, reply } => self.answer(call, reply),
        }
    }

    fn is_for_a_paused(&self, event: &Event) -> Option<(usize, u64)> {
        let process = match event {
            Event::Tick(process)
            | Event::Released(process)
            | Event::Decide { process, .. }
            | Event::Stopped { process, .. } => *process,
            Event::Answer { call, .. } => self.calls[call].process,
            _ => return None,
        };
        self.processes[process].paused.map(|(_, resumes)| (process, resumes))
    }
}

impl History {
    /// For how long a lease is believed in: less by three seconds, or by a third where that is less.
    fn trusted_us(&self) -> u64 {
        (self.lease_ms - (self.lease_ms / 3).min(3_000)) * 1_000
    }
}
