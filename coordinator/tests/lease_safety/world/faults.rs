//! Faults, and their ends.

use super::*;

/// Added to a step that must not pass for a measuring error.
const LARGE_STEP_US: u64 = 2_000_000;

impl LeaseSimulation<'_> {
    pub(super) fn inject_fault(&mut self, number: usize) {
        let (_, fault) = &self.history.faults[number];
        let alive: Vec<usize> =
            (0..self.processes.len()).filter(|place| !self.processes[*place].is_actor_gone).collect();
        if alive.is_empty() {
            return;
        }
        let (now, lease) = (self.now, self.lease_us());
        let chosen = |who: &usize| alive[who % alive.len()];
        let end = |lasts: &u64| now + lasts * lease / 1_000;
        match fault {
            Fault::Pause { who, lasts, suspended } => {
                self.pause_process(chosen(who), end(lasts), *suspended);
            }
            Fault::StandStill { who, lasts } => {
                let process = chosen(who);
                if self.processes[process].paused.is_none() {
                    self.pause_process(process, end(lasts), true);
                    self.processes[process].is_clock_frozen = true;
                    self.processes[process].excused = Some(u64::MAX);
                }
            }
            Fault::Crash { who, lasts, same_name } => {
                let process = chosen(who);
                (self.processes[process].is_actor_gone, self.processes[process].is_dead) = (true, true);
                self.replace_process(process, end(lasts), *same_name);
            }
            Fault::Twin { who, lasts } => {
                let process = chosen(who);
                self.pause_process(process, end(lasts), false);
                self.replace_process(process, end(&(lasts / 2)), true);
            }
            Fault::Rebuild { who } => {
                let process = chosen(who);
                self.processes[process].is_actor_gone = true;
                let (name, rate) = (self.processes[process].name, self.processes[process].machine_clock());
                self.schedule_at(end(&100), SimEvent::Start(name, rate));
            }
            Fault::Drain { who, lasts, same_name } => {
                let process = chosen(who);
                self.deliver_message(process, ActorMessage::Drain);
                self.replace_process(process, end(lasts), *same_name);
            }
            Fault::Cut { who, lasts } => self.processes[chosen(who)].cut_until = end(lasts),
            Fault::Away { lasts } => {
                alive.iter().for_each(|process| self.processes[*process].cut_until = end(lasts));
            }
            Fault::Unreached { who, lasts } => self.processes[chosen(who)].bus_cut_until = end(lasts),
            Fault::Step { by } => {
                let mut by = by * lease.cast_signed() / 1_000;
                match self.is_clock_bounded {
                    true if by > 0 => {
                        by = by.min(self.ahead_left);
                        self.ahead_left -= by;
                    }
                    true => {}
                    // Larger than a measuring error can be.
                    false => by += by.signum() * LARGE_STEP_US.cast_signed(),
                }
                // Two jumps that undo each other while a coordinator takes no reading cannot be seen by
                // it; no pause or cut lasts for four leases.
                let undoes = self
                    .last_step
                    .is_some_and(|(at, earlier)| earlier.signum() != by.signum() && now < at + 4 * lease);
                if undoes && !self.is_clock_bounded {
                    return;
                }
                self.last_step = Some((now, by));
                self.stepped += by;
            }
            Fault::SetLeaseTime { lease_ms } => {
                let duration = Duration::from_millis(*lease_ms);
                let before = self.table.lease_time;
                let version = before.version + i64::from(before.duration != duration);
                self.table.lease_time = LeaseTime { duration, version };
            }
        }
    }

    pub(super) fn pause_process(&mut self, process: usize, until: u64, suspended: bool) {
        let this = &mut self.processes[process];
        let (since, until) =
            this.paused.map_or((self.now, until), |(since, earlier)| (since, until.max(earlier)));
        this.paused = Some((since, until));
        this.suspended = suspended;
        self.schedule_at(until, SimEvent::Resume(process));
    }

    pub(super) fn replace_process(&mut self, process: usize, at: u64, same_name: bool) {
        let mut name = self.processes[process].name;
        if !same_name {
            name = COORDINATOR_NAMES[self.names % COORDINATOR_NAMES.len()];
            self.names += 1;
        }
        let rate = self.random_clock();
        self.schedule_at(at, SimEvent::Start(name, rate));
    }

    /// Faults end: paused processes resume, pending processes start, and messages in flight arrive.
    pub(super) fn end_faults(&mut self) {
        let now = self.now;
        self.link =
            LinkConditions { request_loss: 0, response_loss: 0, slow_share: 0, stuck_share: 0, max_delay: 0 };
        for ((at, number), event) in std::mem::take(&mut self.events) {
            let latest = match event {
                // Timers run, and none is longer than this.
                SimEvent::Tick(_) | SimEvent::ReleaseStopped { .. } | SimEvent::Answer { .. } => {
                    now + RELEASE_TIMEOUT_US
                }
                _ => now,
            };
            self.events.insert((at.min(latest), number), event);
        }
        for process in &mut self.processes {
            (process.cut_until, process.bus_cut_until) = (0, 0);
            if let Some((_, until)) = &mut process.paused {
                *until = now;
            }
        }
        self.cut_one_bus();
    }

    /// In some histories one coordinator never publishes again: the others must have its shards.
    fn cut_one_bus(&mut self) {
        let started = self.events.values().filter_map(|event| match event {
            SimEvent::Start(name, _) => Some(*name),
            _ => None,
        });
        let alive = self.processes.iter().filter(|process| !process.is_actor_gone && !process.is_draining);
        let names: Vec<CoordinatorName> = started.chain(alive.map(|process| process.name)).collect();
        let chosen = self.processes.iter_mut().find(|process| !process.is_actor_gone && !process.is_draining);
        if let Some(chosen) = chosen
            && names.iter().any(|name| *name != chosen.name)
            && names.iter().filter(|name| **name == chosen.name).count() == 1
            && self.history.seed.is_multiple_of(4)
        {
            chosen.bus_cut_until = u64::MAX;
        }
    }

    /// Maximum time for which a dead coordinator counts as alive: until its lease has ended by a clock
    /// that was steady for a lease time, or was not renewed for one; and as long as a coordinator uses
    /// a time of its own.
    pub(super) fn forget_delay_us(&self) -> u64 {
        let lease = self.longest_lease_us();
        let small = DbClock::MAX_UNCONFIRMED_STEP.as_micros() as u64;
        let added = if self.is_clock_bounded { 0 } else { LARGE_STEP_US };
        let is_far = |(_, fault): &(u64, Fault)| match fault {
            Fault::Step { by } => by.unsigned_abs() * lease / 1_000 + added > small,
            // For a machine whose clock stood still, the database's clock has jumped.
            Fault::StandStill { lasts, .. } => lasts * lease / 1_000 > small,
            _ => false,
        };
        let hold = if self.history.faults.iter().any(is_far) {
            DbClock::JUMP_HOLD_PERIOD.as_micros() as u64
        } else {
            0
        };
        4 * lease + 15_000_000 + hold
    }
}
