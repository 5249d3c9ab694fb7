//! The coordinators' side: mail, decisions, and what follows from them.

use super::*;

impl World<'_> {
    pub(super) fn start(&mut self, name: Name, rate: Rate) {
        let process = self.processes.len();
        self.processes.push(Process::new(name, rate, self.lease(), self.history.shards, self.now));
        self.about.push(None);
        self.deliver(process, Mail::Round);
    }

    pub(super) fn deliver(&mut self, process: usize, mail: Mail) {
        let this = &mut self.processes[process];
        if !this.gone && !this.mail.contains(&mail) {
            this.mail.push_back(mail);
            self.work(process);
        }
    }

    /// One piece of mail after the other, each until nothing more follows from it.
    pub(super) fn work(&mut self, process: usize) {
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

    pub(super) fn step(&mut self, process: usize, input: Input) {
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

    pub(super) fn decide(&mut self, process: usize, now: Boottime, input: Input) {
        let opens = matches!(input, Input::Renewed { .. } | Input::Taken { .. });
        let commands = self.processes[process].rounds.step(now, input);
        let this = &mut self.processes[process];
        if std::mem::take(&mut this.will_know) {
            this.excused = None;
        }
        for command in commands {
            self.perform(process, command);
        }
        self.agrees(process);
        if opens {
            for shard in 0..self.history.shards {
                let open: Vec<Name> = self.open(shard).map(|process| self.processes[process].name).collect();
                if open.len() > 1 {
                    self.fail(format!("shard {shard} is open to {open:?}"));
                }
            }
        }
    }

    pub(super) fn perform(&mut self, process: usize, command: Command) {
        let now = self.now;
        let this = &mut self.processes[process];
        let what = match command {
            Command::Announce { leaving } => What::Announce { leaving },
            Command::Take(free) => What::Take(free),
            Command::Renew(asked, by) => {
                let told = this.progress(now);
                let progress = picket_coordinator::lease::rounds::how_far(&told, &asked);
                What::Renew(asked, progress, by)
            }
            Command::Clock(clock, _) => return this.set_clock(clock),
            Command::Took(leases) => return this.plan(&leases),
            Command::Lost(lost, _) => {
                self.tally.lost += lost.len() as u64;
                return this.stop(&lost, Is::Gone);
            }
            Command::GiveBack(stopping) => {
                let mut told = this.progress(now);
                this.stop(&stopping.clone().released(), Is::Stopping);
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
            Command::Done { .. } | Command::Distrust(_) => return,
        };
        let call = self.send(process, None, what);
        self.processes[process].waits_for = Some(call);
    }

    /// The planner has stopped what a task gives back, or has taken too long.
    pub(super) fn stopped(&mut self, process: usize, task: usize, told: &[Progress]) {
        let this = &mut self.processes[process];
        if this.dead {
            return;
        }
        let stopping = this.tasks[task].0.clone();
        let progress = stopping.stopped(&this.fence, told);
        this.stop(&stopping.released(), Is::Gone);
        let call = self.send(process, Some(task), What::Release(progress));
        self.processes[process].tasks[task].1 = Some(call);
        self.agrees(process);
    }

    pub(super) fn answer(&mut self, call: u64, reply: Option<Reply>) {
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
        let sees = matches!(reply, Some(Reply::Roll(_)));
        let input = match (reply, what) {
            (Some(Reply::Roll(roll)), _) => Input::Announced { sent, roll, witness: Default::default() },
            (Some(Reply::Leases(leases)), _) => Input::Taken { sent, leases },
            (Some(Reply::Kept(kept)), What::Renew(asked, ..)) => {
                Input::Renewed { sent, asked: asked.clone(), kept }
            }
            _ => Input::Failed,
        };
        this.will_know = sees && this.excused.is_some_and(|number| call > number);
        self.step(process, input);
        self.work(process);
    }

    pub(super) fn resume(&mut self, process: usize) {
        let this = &mut self.processes[process];
        if let Some((since, _)) = this.paused.take_if(|(_, until)| *until <= self.now) {
            if std::mem::take(&mut this.stands_still) {
                this.stood_still(self.now - since);
                this.excused = Some(self.number);
            }
            self.work(process);
        }
    }
}
