//! The network and the database: statements on their way, done, and judged.

use super::*;

impl LeaseSimulation<'_> {
    pub(super) fn random_delay(&mut self) -> u64 {
        self.rng.in_range(1_000, self.link.max_delay * self.lease_us() / 1_000 + 1_000)
    }

    pub(super) fn network_delay(&mut self) -> u64 {
        match self.rng.in_thousand(self.link.slow_share) {
            true => self.random_delay(),
            false => self.rng.in_range(2_000, 2_500),
        }
    }

    pub(super) fn send_statement(&mut self, process: usize, task: Option<usize>, what: Statement) -> u64 {
        let this = &self.processes[process];
        let (sent, cut) = (this.clock_reading(self.now), this.cut_until > self.now);
        let limit = STATEMENT_TIMEOUT_US * 1_000_000 / this.machine_clock().us_per_second;
        self.number += 1;
        let call = self.number;
        self.calls.insert(call, Call { process, task, statement: what, sent });
        // Without a connection some fail at once, the others are waited for in vain.
        let limit = if cut && self.rng.in_thousand(500) { 1_000 } else { limit };
        self.schedule_after(limit, SimEvent::Answer { call, reply: None });
        if !cut && !self.rng.in_thousand(self.link.request_loss) {
            let way = self.network_delay();
            self.schedule_after(way, SimEvent::Arrive(call));
        }
        call
    }

    /// A statement begins; it may have to wait for its locks.
    pub(super) fn begin_statement(&mut self, call: u64) {
        let began_at = self.database_now();
        match self.rng.in_thousand(self.link.stuck_share) {
            true => {
                let wait = self.random_delay();
                self.schedule_after(wait, SimEvent::Apply { call, began_at });
            }
            false => self.apply_statement(call, began_at),
        }
    }

    pub(super) fn apply_statement(&mut self, call: u64, began_at: i64) {
        let clock = self.database_now();
        let Call { process, statement: what, .. } = &self.calls[&call];
        let (process, id) = (*process, self.processes[*process].name);
        let before = self.table.clone();
        let reply = match what {
            Statement::Heartbeat { leaving, alive } => {
                Reply::ClusterView(self.table.record_heartbeat(began_at, clock, id, *leaving, *alive))
            }
            Statement::Acquire(free, lease) => {
                let leases = self.table.acquire_leases(clock, id, free, *lease);
                self.check_grants(process, &leases, &before);
                Reply::Leases(leases)
            }
            Statement::Renew(asked, progress, by, lease) => {
                let kept = self.table.renew_leases(clock, id, progress, Some(*by), *lease);
                self.tally.fenced += (asked.len() - kept.len()) as u64;
                let tasks = &self.processes[process].tasks;
                let yielding = tasks.iter().filter(|(_, call)| call.is_some());
                let yielding = yielding.flat_map(|(stopping, _)| stopping.shards());
                self.tally.renewed_while_releasing +=
                    yielding.filter(|shard| kept.contains(shard)).count() as u64;
                self.check_writes(process, &before);
                Reply::Renewed(kept)
            }
            Statement::Release(progress) => {
                self.table.release_leases(id, progress);
                self.check_writes(process, &before);
                for other in 0..self.processes.len() {
                    if !self.rng.in_thousand(self.link.response_loss) {
                        let way = self.network_delay();
                        self.schedule_after(way, SimEvent::LeasesAvailable(other));
                    }
                }
                Reply::Released
            }
        };
        if !self.rng.in_thousand(self.link.response_loss) {
            let way = self.network_delay();
            self.schedule_after(way, SimEvent::Answer { call, reply: Some(reply) });
        }
    }

    /// No epoch is granted twice, and none while another coordinator may publish.
    pub(super) fn check_grants(&mut self, process: usize, leases: &[Lease], before: &LeaseTable) {
        for lease in leases {
            let shard = usize::from(lease.shard.0);
            self.tally.grants += 1;
            self.tally.take_overs += u64::from(before.rows[shard].expires_at != i64::MIN);
            self.granted[shard].push(process);
            if lease.epoch.0 != self.granted[shard].len() as i64 {
                self.record_violation(format!(
                    "shard {shard} is given under {:?}, again or too early",
                    lease.epoch
                ));
            }
            let open: Vec<usize> = self.open_processes(shard).filter(|other| *other != process).collect();
            if !open.is_empty() {
                let name = |process: usize| self.processes[process].name;
                let open: Vec<CoordinatorName> = open.into_iter().map(name).collect();
                self.record_violation(format!(
                    "shard {shard} is given to {} while it is open to {open:?}",
                    name(process)
                ));
            }
        }
    }

    /// Only the last one that a shard was given to writes to its row, and progress does not go back.
    pub(super) fn check_writes(&mut self, process: usize, before: &LeaseTable) {
        for shard in 0..self.history.shards {
            let (old, new) = (&before.rows[shard], &self.table.rows[shard]);
            let changed = old.scheduled_through != new.scheduled_through || old.expires_at != new.expires_at;
            let back = new.scheduled_through < old.scheduled_through || new.epoch != old.epoch;
            if back || (changed && self.granted[shard].last() != Some(&process)) {
                self.record_violation(format!(
                    "{} writes {new:?} over {old:?} of shard {shard}",
                    self.processes[process].name
                ));
            }
        }
    }
}
