//! The coordinators: messages, decisions and actions.

use super::*;

impl LeaseSimulation<'_> {
    pub(super) fn start_process(&mut self, name: CoordinatorName, rate: MachineClock) {
        let process = self.processes.len();
        self.processes.push(Process::new(
            name,
            rate,
            self.table.lease_time.duration,
            self.history.shards,
            self.now,
        ));
        self.current_messages.push(None);
        self.deliver_message(process, ActorMessage::BeginRound);
    }

    pub(super) fn deliver_message(&mut self, process: usize, message: ActorMessage) {
        let this = &mut self.processes[process];
        if !this.is_actor_gone && !this.mailbox.contains(&message) {
            this.mailbox.push_back(message);
            self.process_mailbox(process);
        }
    }

    /// One piece of message after the other, each until nothing more follows from it.
    pub(super) fn process_mailbox(&mut self, process: usize) {
        while self.violation.is_none() {
            let this = &mut self.processes[process];
            if this.is_actor_gone || this.paused.is_some() || this.awaited_call.is_some() {
                return;
            }
            if let Some(message) = self.current_messages[process].take() {
                if message == ActorMessage::BeginRound {
                    let goes_us = this.machine_clock().us_per_second;
                    let wait = Self::round_us(this.machine.lease_time()) * 1_000_000 / goes_us;
                    self.schedule_after(wait, SimEvent::Tick(process));
                }
                let this = &mut self.processes[process];
                if this.is_draining && this.machine.is_empty() {
                    this.machine.close_fence();
                    (this.is_actor_gone, this.is_dead) = (true, true);
                }
                continue;
            }
            let Some(message) = this.mailbox.pop_front() else { return };
            this.is_draining |= message == ActorMessage::Drain;
            let input = this.to_event(message, self.now);
            self.current_messages[process] = Some(message);
            self.begin_decision(process, input);
        }
    }

    pub(super) fn begin_decision(&mut self, process: usize, input: LeaseEvent) {
        let now = self.processes[process].clock_reading(self.now);
        match self.rng.in_thousand(self.link.slow_share / 8) {
            false => self.apply_event(process, now, input),
            // The clock has been read, and nothing more for a while.
            true => {
                let until = self.now + self.random_delay();
                self.pause_process(process, until, false);
                self.processes[process].awaited_call = Some(STALLED_CALL);
                self.schedule_at(until, SimEvent::Decide { process, now, input });
            }
        }
    }

    pub(super) fn apply_event(&mut self, process: usize, now: Boottime, input: LeaseEvent) {
        let opens = matches!(input, LeaseEvent::Renewed { .. } | LeaseEvent::Acquired { .. });
        let commands = self.processes[process].machine.handle_event(now, input);
        let this = &mut self.processes[process];
        if std::mem::take(&mut this.will_know) {
            this.excused = None;
        }
        for command in commands {
            self.execute_action(process, command);
        }
        self.check_consistency(process);
        if opens {
            for shard in 0..self.history.shards {
                let open: Vec<CoordinatorName> =
                    self.open_processes(shard).map(|process| self.processes[process].name).collect();
                if open.len() > 1 {
                    self.record_violation(format!("shard {shard} is open to {open:?}"));
                }
            }
        }
    }

    pub(super) fn execute_action(&mut self, process: usize, command: LeaseAction) {
        let now = self.now;
        let this = &mut self.processes[process];
        let lease_time = this.machine.lease_time();
        let what = match command {
            LeaseAction::Heartbeat { is_leaving: leaving } => {
                Statement::Heartbeat { leaving, alive: lease_time.duration }
            }
            LeaseAction::Acquire(free) => Statement::Acquire(free, lease_time),
            LeaseAction::Renew(asked, by) => {
                let told = this.publish_progress(now);
                let progress = picket_coordinator::lease::machine::merge_progress(&told, &asked);
                Statement::Renew(asked, progress, by, lease_time)
            }
            LeaseAction::SetClock(clock, _) => return this.set_clock(clock),
            LeaseAction::ShardsAcquired(leases) => return this.plan_shards(&leases),
            LeaseAction::ShardsLost(lost, _) => {
                self.tally.lost += lost.len() as u64;
                return this.set_plan_state(&lost, PlanState::Released);
            }
            LeaseAction::ReleaseShards(stopping) => {
                let mut told = this.publish_progress(now);
                this.set_plan_state(&stopping.clone().into_shards(), PlanState::Releasing);
                this.tasks.push((stopping, None));
                let task = this.tasks.len() - 1;
                self.tally.released += 1;
                let mut wait = self.rng.in_range(0, 20_000);
                if self.rng.in_thousand(self.link.slow_share) {
                    wait = self.rng.in_range(0, RELEASE_TIMEOUT_US);
                    if self.rng.in_thousand(300) {
                        told.clear();
                    }
                }
                return self.schedule_after(wait, SimEvent::ReleaseStopped { process, task, told });
            }
            LeaseAction::FinishRound { .. } | LeaseAction::DistrustClock(_) => return,
        };
        let call = self.send_statement(process, None, what);
        self.processes[process].awaited_call = Some(call);
    }

    /// The scheduler has stopped the shards of a release, or has timed out.
    pub(super) fn finish_stop(&mut self, process: usize, task: usize, told: &[ShardProgress]) {
        let this = &mut self.processes[process];
        if this.is_dead {
            return;
        }
        let stopping = this.tasks[task].0.clone();
        let progress = stopping.finish_stop(&this.fence, told);
        this.set_plan_state(&stopping.into_shards(), PlanState::Released);
        let call = self.send_statement(process, Some(task), Statement::Release(progress));
        self.processes[process].tasks[task].1 = Some(call);
        self.check_consistency(process);
    }

    pub(super) fn deliver_answer(&mut self, call: u64, reply: Option<Reply>) {
        let Call { process, task, sent, statement: what } = &self.calls[&call];
        let (process, task, sent) = (*process, *task, *sent);
        let this = &mut self.processes[process];
        if let Some(task) = task {
            if !this.is_dead && this.tasks[task].1.take_if(|waits_for| *waits_for == call).is_some() {
                self.deliver_message(process, ActorMessage::ShardsReleased(task));
            }
            return;
        }
        if this.is_actor_gone || this.awaited_call != Some(call) {
            self.tally.late_answers += u64::from(reply.is_some());
            return;
        }
        this.awaited_call = None;
        let sees = matches!(reply, Some(Reply::ClusterView(_)));
        let input = match (reply, what) {
            (Some(Reply::ClusterView(roll)), _) => {
                LeaseEvent::HeartbeatDone { sent, cluster_view: roll, reference_clocks: Default::default() }
            }
            (Some(Reply::Leases(leases)), _) => LeaseEvent::Acquired { sent, leases },
            (Some(Reply::Renewed(kept)), Statement::Renew(asked, ..)) => {
                LeaseEvent::Renewed { sent, asked: asked.clone(), kept }
            }
            _ => LeaseEvent::Failed,
        };
        this.will_know = sees && this.excused.is_some_and(|number| call > number);
        self.begin_decision(process, input);
        self.process_mailbox(process);
    }

    pub(super) fn resume_process(&mut self, process: usize) {
        let this = &mut self.processes[process];
        if let Some((since, _)) = this.paused.take_if(|(_, until)| *until <= self.now) {
            if std::mem::take(&mut this.is_clock_frozen) {
                this.lose_clock_time(self.now - since);
                this.excused = Some(self.number);
            }
            self.process_mailbox(process);
        }
    }
}
