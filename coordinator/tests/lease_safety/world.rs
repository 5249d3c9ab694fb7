//! The world of the simulation: a database, a network, some coordinators, and all that can go wrong between them.
//!
//! Time is true time in microseconds, and the database's clock goes at its rate; every machine's clock has its own.
//! No process sees true time, and none is shown its wall clock: nothing about leases takes one.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use picket_coordinator::lease::rounds::{Command, Input};
use picket_proto::{Epoch, Shard};
use picket_runtime::clock::Boottime;
use picket_store::leases::{Lease, Progress, Roll};

use crate::{
    history::{Chance, Fault, History, Weather},
    process::{Mail, Process, Rate},
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
    Take(usize),
    Renew(Vec<(Shard, Epoch)>, Vec<Progress>),
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
        Rate { began_at_us: self.chance.between(0, 10_000_000_000_000), goes_us }
    }

    fn fail(&mut self, why: impl Into<String>) {
        let now = self.now;
        self.violation.get_or_insert_with(|| format!("at {now} us: {}", why.into()));
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
            Event::Stopped { process, task, told } => {
                let this = &mut self.processes[process];
                if !this.dead {
                    let stopping = this.tasks[task].0.clone();
                    let progress = stopping.stopped(&this.fence, &told);
                    this.stop(&stopping.released());
                    let call = self.send(process, Some(task), What::Release(progress));
                    self.processes[process].tasks[task].1 = Some(call);
                }
            }
            Event::Arrive(call) => {
                let began_at = self.database_now();
                let slow = self.weather.slow / 4;
                match self.chance.in_thousand(slow) {
                    true => {
                        let wait = self.slow();
                        self.after(wait, Event::Apply { call, began_at });
                    }
                    false => self.apply(call, began_at),
                }
            }
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

    fn start(&mut self, name: Name, rate: Rate) {
        let process = self.processes.len();
        self.processes.push(Process::new(name, rate, self.lease(), self.history.shards, self.now));
        self.about.push(None);
        self.deliver(process, Mail::Round);
    }

    fn deliver(&mut self, process: usize, mail: Mail) {
        let this = &mut self.processes[process];
        if !this.gone && !this.mail.contains(&mail) {
            this.mail.push_back(mail);
            self.work(process);
        }
    }

    /// One piece of mail after the other, each until nothing more follows from it.
    fn work(&mut self, process: usize) {
        while self.violation.is_none() {
            let this = &mut self.processes[process];
            if this.gone || this.paused.is_some() || this.waits_for.is_some() {
                return;
            }
            if let Some(mail) = self.about[process].take() {
                if mail == Mail::Round {
                    let goes_us = this.rate().goes_us;
                    let wait = self.round_us() * 1_000_000 / goes_us;
                    self.after(wait, Event::Tick(process));
                }
                let this = &mut self.processes[process];
                if this.drains && this.rounds.is_empty() {
                    this.rounds.shut();
                    (this.gone, this.dead) = (true, true);
                }
                continue;
            }
            let Some(mail) = this.mail.pop_front() else { return };
            this.drains |= mail == Mail::Drain;
            let input = this.input(mail, self.now);
            self.about[process] = Some(mail);
            self.step(process, input);
        }
    }

    fn step(&mut self, process: usize, input: Input) {
        let now = self.processes[process].reading(self.now);
        match self.chance.in_thousand(self.weather.slow / 8) {
            false => self.decide(process, now, input),
            // The clock has been read, and nothing more for a while.
            true => {
                let until = self.now + self.slow();
                self.pause(process, until, false);
                self.processes[process].waits_for = Some(HELD_UP);
                self.at(until, Event::Decide { process, now, input });
            }
        }
    }

    fn decide(&mut self, process: usize, now: Boottime, input: Input) {
        let opens = matches!(input, Input::Renewed { .. } | Input::Taken { .. });
        for command in self.processes[process].rounds.step(now, input) {
            self.perform(process, command);
        }
        if opens {
            for shard in 0..self.history.shards {
                let open: Vec<Name> = self.open(shard).map(|process| self.processes[process].name).collect();
                if open.len() > 1 && self.keeps_time {
                    self.fail(format!("shard {shard} is open to {open:?}"));
                }
            }
        }
    }

    fn open(&self, shard: usize) -> impl Iterator<Item = usize> {
        (0..self.processes.len()).filter(move |process| self.processes[*process].is_open(shard, self.now))
    }

    fn perform(&mut self, process: usize, command: Command) {
        let now = self.now;
        let this = &mut self.processes[process];
        let what = match command {
            Command::Announce { leaving } => What::Announce { leaving },
            Command::Take(most) => What::Take(most),
            Command::Renew(asked) => {
                let told = this.progress(now);
                let progress = picket_coordinator::lease::rounds::how_far(&told, &asked);
                What::Renew(asked, progress)
            }
            Command::Clock(clock, _) => return this.set_clock(clock),
            Command::Took(leases) => return this.plan(&leases),
            Command::Lost(lost, _) => {
                self.tally.lost += lost.len() as u64;
                return this.stop(&lost);
            }
            Command::GiveBack(stopping) => {
                let mut told = this.progress(now);
                this.stop(&stopping.clone().released());
                this.tasks.push((stopping, None));
                let task = this.tasks.len() - 1;
                self.tally.given_back += 1;
                let mut wait = self.chance.between(0, 20_000);
                if self.chance.in_thousand(self.weather.slow) {
                    wait = self.chance.between(0, YIELD_US);
                    if self.chance.in_thousand(300) {
                        told.clear();
                    }
                }
                return self.after(wait, Event::Stopped { process, task, told });
            }
            Command::Done { .. } => return,
        };
        let call = self.send(process, None, what);
        self.processes[process].waits_for = Some(call);
    }

    fn slow(&mut self) -> u64 {
        self.chance.between(1_000, self.weather.slow_for * self.lease_us() / 1_000 + 1_000)
    }

    fn way(&mut self) -> u64 {
        match self.chance.in_thousand(self.weather.slow) {
            true => self.slow(),
            false => self.chance.between(2_000, 2_500),
        }
    }

    fn send(&mut self, process: usize, task: Option<usize>, what: What) -> u64 {
        let this = &self.processes[process];
        let (sent, cut) = (this.reading(self.now), this.cut_until > self.now);
        let limit = LIMIT_US * 1_000_000 / this.rate().goes_us;
        self.number += 1;
        let call = self.number;
        self.calls.insert(call, Call { process, task, what, sent });
        // Without a connection some fail at once, the others are waited for in vain.
        let limit = if cut && self.chance.in_thousand(500) { 1_000 } else { limit };
        self.after(limit, Event::Answer { call, reply: None });
        if !cut && !self.chance.in_thousand(self.weather.lost_on_the_way_there) {
            let way = self.way();
            self.after(way, Event::Arrive(call));
        }
        call
    }

    fn apply(&mut self, call: u64, began_at: i64) {
        let (clock, lease) = (self.database_now(), self.lease());
        let Call { process, what, .. } = &self.calls[&call];
        let (process, id) = (*process, self.processes[*process].name);
        let before = self.table.clone();
        let reply = match what {
            What::Announce { leaving } => {
                Reply::Roll(self.table.announce(began_at, clock, id, *leaving, lease))
            }
            What::Take(most) => {
                let leases = self.table.acquire(clock, id, *most, lease);
                self.granted(process, &leases, &before);
                Reply::Leases(leases)
            }
            What::Renew(asked, progress) => {
                let kept = self.table.renew(clock, id, progress, lease);
                self.tally.fenced += (asked.len() - kept.len()) as u64;
                let tasks = &self.processes[process].tasks;
                let yielding = tasks.iter().filter(|(_, call)| call.is_some());
                let yielding = yielding.flat_map(|(stopping, _)| stopping.shards());
                self.tally.renewed_while_yielding +=
                    yielding.filter(|shard| kept.contains(shard)).count() as u64;
                self.written(process, &before);
                Reply::Kept(kept)
            }
            What::Release(progress) => {
                self.table.release(id, progress);
                self.written(process, &before);
                for other in 0..self.processes.len() {
                    if !self.chance.in_thousand(self.weather.lost_on_the_way_back) {
                        let way = self.way();
                        self.after(way, Event::Released(other));
                    }
                }
                Reply::Released
            }
        };
        if !self.chance.in_thousand(self.weather.lost_on_the_way_back) {
            let way = self.way();
            self.after(way, Event::Answer { call, reply: Some(reply) });
        }
    }

    /// No epoch is given twice, and none while anybody else may publish.
    fn granted(&mut self, process: usize, leases: &[Lease], before: &Table) {
        for lease in leases {
            let shard = usize::from(lease.shard.0);
            self.tally.grants += 1;
            self.tally.take_overs += u64::from(before.rows[shard].expires_at != i64::MIN);
            self.given[shard].push(process);
            if lease.epoch.0 != self.given[shard].len() as i64 {
                self.fail(format!("shard {shard} is given under {:?}, again or too early", lease.epoch));
            }
            let open: Vec<usize> = self.open(shard).filter(|other| *other != process).collect();
            if !open.is_empty() && self.keeps_time {
                let name = |process: usize| self.processes[process].name;
                let open: Vec<Name> = open.into_iter().map(name).collect();
                self.fail(format!(
                    "shard {shard} is given to {} while it is open to {open:?}",
                    name(process)
                ));
            }
        }
    }

    /// Only the last one that a shard was given to writes to its row, and progress does not go back.
    fn written(&mut self, process: usize, before: &Table) {
        for shard in 0..self.history.shards {
            let (old, new) = (&before.rows[shard], &self.table.rows[shard]);
            let changed = old.scheduled_through != new.scheduled_through || old.expires_at != new.expires_at;
            let back = new.scheduled_through < old.scheduled_through || new.epoch != old.epoch;
            if back || (changed && self.given[shard].last() != Some(&process)) {
                self.fail(format!(
                    "{} writes {new:?} over {old:?} of shard {shard}",
                    self.processes[process].name
                ));
            }
        }
    }

    fn answer(&mut self, call: u64, reply: Option<Reply>) {
        let Call { process, task, sent, what } = &self.calls[&call];
        let (process, task, sent) = (*process, *task, *sent);
        let this = &mut self.processes[process];
        if let Some(task) = task {
            if !this.dead && this.tasks[task].1.take_if(|waits_for| *waits_for == call).is_some() {
                self.deliver(process, Mail::GaveBack(task));
            }
            return;
        }
        if this.gone || this.waits_for != Some(call) {
            self.tally.unheard += u64::from(reply.is_some());
            return;
        }
        this.waits_for = None;
        let input = match (reply, what) {
            (Some(Reply::Roll(roll)), _) => Input::Announced { sent, roll },
            (Some(Reply::Leases(leases)), _) => Input::Taken { sent, leases },
            (Some(Reply::Kept(kept)), What::Renew(asked, _)) => {
                Input::Renewed { sent, asked: asked.clone(), kept }
            }
            _ => Input::Failed,
        };
        self.step(process, input);
        self.work(process);
    }

    fn fault(&mut self, number: usize) {
        let (_, fault) = &self.history.faults[number];
        let alive: Vec<usize> =
            (0..self.processes.len()).filter(|place| !self.processes[*place].gone).collect();
        if alive.is_empty() {
            return;
        }
        let (now, lease) = (self.now, self.lease_us());
        let chosen = |who: &usize| alive[who % alive.len()];
        let end = |lasts: &u64| now + lasts * lease / 1_000;
        match fault {
            Fault::Pause { who, lasts, suspended } => {
                self.pause(chosen(who), end(lasts), *suspended);
            }
            Fault::Crash { who, lasts, same_name } => {
                let process = chosen(who);
                (self.processes[process].gone, self.processes[process].dead) = (true, true);
                self.replace(process, end(lasts), *same_name);
            }
            Fault::Twin { who, lasts } => {
                let process = chosen(who);
                self.pause(process, end(lasts), false);
                self.replace(process, end(&(lasts / 2)), true);
            }
            Fault::Rebuild { who } => {
                let process = chosen(who);
                self.processes[process].gone = true;
                let (name, rate) = (self.processes[process].name, self.processes[process].rate());
                self.at(end(&100), Event::Start(name, rate));
            }
            Fault::Drain { who, lasts, same_name } => {
                let process = chosen(who);
                self.deliver(process, Mail::Drain);
                self.replace(process, end(lasts), *same_name);
            }
            Fault::Cut { who, lasts } => self.processes[chosen(who)].cut_until = end(lasts),
            Fault::Away { lasts } => {
                alive.iter().for_each(|process| self.processes[*process].cut_until = end(lasts));
            }
            Fault::Unreached { who, lasts } => self.processes[chosen(who)].unreached_until = end(lasts),
            Fault::Step { by } => {
                let mut by = by * lease.cast_signed() / 1_000;
                if self.keeps_time && by > 0 {
                    by = by.min(self.ahead_left);
                    self.ahead_left -= by;
                }
                self.stepped += by;
            }
        }
    }

    fn pause(&mut self, process: usize, until: u64, suspended: bool) {
        let this = &mut self.processes[process];
        let (since, until) =
            this.paused.map_or((self.now, until), |(since, earlier)| (since, until.max(earlier)));
        this.paused = Some((since, until));
        this.suspended = suspended;
        self.at(until, Event::Resume(process));
    }

    fn resume(&mut self, process: usize) {
        let this = &mut self.processes[process];
        if this.paused.take_if(|(_, until)| *until <= self.now).is_some() {
            self.work(process);
        }
    }

    fn replace(&mut self, process: usize, at: u64, same_name: bool) {
        let mut name = self.processes[process].name;
        if !same_name {
            name = NAMES[self.names % NAMES.len()];
            self.names += 1;
        }
        let rate = self.rate();
        self.at(at, Event::Start(name, rate));
    }

    /// Faults end: who is paused goes on, who was to be started is, and what is on its way arrives.
    fn calm(&mut self) {
        let now = self.now;
        self.weather = Weather { lost_on_the_way_there: 0, lost_on_the_way_back: 0, slow: 0, slow_for: 0 };
        for ((at, number), event) in std::mem::take(&mut self.events) {
            let latest = match event {
                // Timers go on, and none is longer than this.
                Event::Tick(_) | Event::Stopped { .. } | Event::Answer { .. } => now + YIELD_US,
                _ => now,
            };
            self.events.insert((at.min(latest), number), event);
        }
        for process in &mut self.processes {
            (process.cut_until, process.unreached_until) = (0, 0);
            if let Some((_, until)) = &mut process.paused {
                *until = now;
            }
        }
    }

    /// How long the database will take what is dead for alive: a lease time, and longer if its clock was set back.
    fn until_forgotten(&self) -> u64 {
        let now = self.database_now();
        let lease = self.lease_us().cast_signed();
        let leases = self.table.rows.iter().map(|row| row.expires_at);
        let seen = self.table.coordinators.values().map(|(seen_at, _)| seen_at + lease);
        let last = leases.chain(seen).max().unwrap_or(now);
        last.saturating_sub(now).max(lease).unsigned_abs()
    }

    /// Every shard is open to one, no one has more than an even share, and all know what time it is.
    fn all_are_held(&mut self) {
        let alive: Vec<usize> =
            (0..self.processes.len()).filter(|place| !self.processes[*place].gone).collect();
        let mut names: Vec<Name> = alive.iter().map(|process| self.processes[*process].name).collect();
        names.sort_unstable();
        names.dedup();
        let share = self.history.shards.div_ceil(names.len().max(1));
        for shard in 0..self.history.shards {
            let open = self.open(shard).count();
            if open != 1 {
                self.fail(format!("faults have ended, and shard {shard} is open to {open} coordinators"));
            }
        }
        for process in alive {
            let (name, held) = (self.processes[process].name, self.processes[process].rounds.count());
            if held > share {
                self.fail(format!("{name} holds {held} shards, an even share is {share}"));
            }
            let told = self.processes[process].database_now(self.now);
            let wrong = told.map_or(i64::MAX, |told| (told.micros() - self.database_now()).abs());
            if wrong > 1_700_000 {
                self.fail(format!("{name} is {wrong} us away from the database's clock"));
            }
        }
    }
}

impl History {
    /// For how long a lease is believed in: less by three seconds, or by a third where that is less.
    fn trusted_us(&self) -> u64 {
        (self.lease_ms - (self.lease_ms / 3).min(3_000)) * 1_000
    }
}
