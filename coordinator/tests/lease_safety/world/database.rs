//! The network and the database: statements on their way, done, and judged.

use super::*;

impl World<'_> {
    pub(super) fn slow(&mut self) -> u64 {
        self.chance.between(1_000, self.weather.slow_for * self.lease_us() / 1_000 + 1_000)
    }

    pub(super) fn way(&mut self) -> u64 {
        match self.chance.in_thousand(self.weather.slow) {
            true => self.slow(),
            false => self.chance.between(2_000, 2_500),
        }
    }

    pub(super) fn send(&mut self, process: usize, task: Option<usize>, what: What) -> u64 {
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

    /// A statement begins; it may have to wait for its locks.
    pub(super) fn arrive(&mut self, call: u64) {
        let began_at = self.database_now();
        match self.chance.in_thousand(self.weather.stuck) {
            true => {
                let wait = self.slow();
                self.after(wait, Event::Apply { call, began_at });
            }
            false => self.apply(call, began_at),
        }
    }

    pub(super) fn apply(&mut self, call: u64, began_at: i64) {
        let (clock, lease) = (self.database_now(), self.lease());
        let Call { process, what, .. } = &self.calls[&call];
        let (process, id) = (*process, self.processes[*process].name);
        let before = self.table.clone();
        let reply = match what {
            What::Announce { leaving } => {
                Reply::Roll(self.table.announce(began_at, clock, id, *leaving, lease))
            }
            What::Take(free) => {
                let leases = self.table.acquire(clock, id, free, lease);
                self.granted(process, &leases, &before);
                Reply::Leases(leases)
            }
            What::Renew(asked, progress, by) => {
                let kept = self.table.renew(clock, id, progress, Some(*by), lease);
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
    pub(super) fn granted(&mut self, process: usize, leases: &[Lease], before: &Table) {
        for lease in leases {
            let shard = usize::from(lease.shard.0);
            self.tally.grants += 1;
            self.tally.take_overs += u64::from(before.rows[shard].expires_at != i64::MIN);
            self.given[shard].push(process);
            if lease.epoch.0 != self.given[shard].len() as i64 {
                self.fail(format!("shard {shard} is given under {:?}, again or too early", lease.epoch));
            }
            let open: Vec<usize> = self.open(shard).filter(|other| *other != process).collect();
            if !open.is_empty() {
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
    pub(super) fn written(&mut self, process: usize, before: &Table) {
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
}
