//! The invariants.

use super::*;

impl LeaseSimulation<'_> {
    pub(super) fn record_violation(&mut self, why: impl Into<String>) {
        let now = self.now;
        self.violation.get_or_insert_with(|| format!("at {now} us: {}", why.into()));
    }

    pub(super) fn open_processes(&self, shard: usize) -> impl Iterator<Item = usize> {
        (0..self.processes.len()).filter(move |process| {
            let this = &self.processes[*process];
            this.excused.is_none() && this.is_open(shard, self.now)
        })
    }

    /// The decisions, the publishes and the fence of a process agree.
    pub(super) fn check_consistency(&mut self, process: usize) {
        let this = &self.processes[process];
        if let Some(why) = this.find_contradiction(self.now).filter(|_| !this.is_actor_gone) {
            self.record_violation(why);
        }
    }

    /// Every shard is open to one, no one has more than an even share, and all know what time it is.
    pub(super) fn check_all_held(&mut self) {
        let alive: Vec<usize> = (0..self.processes.len())
            .filter(|place| {
                !self.processes[*place].is_actor_gone && self.processes[*place].bus_cut_until == 0
            })
            .collect();
        let mut names: Vec<CoordinatorName> =
            alive.iter().map(|process| self.processes[*process].name).collect();
        names.sort_unstable();
        names.dedup();
        let share = self.history.shards.div_ceil(names.len().max(1));
        for shard in 0..self.history.shards {
            // With very different clock rates a holder doubts its own clock now and then, and waits for the renewal.
            if self.open_processes(shard).count() == 0 {
                self.run_until(self.now + 20_000);
            }
            let open = self.open_processes(shard).count();
            if open != 1 {
                self.record_violation(format!(
                    "faults have ended, and shard {shard} is open to {open} coordinators"
                ));
            }
        }
        for process in alive {
            let (name, held) = (self.processes[process].name, self.processes[process].machine.active_count());
            if held > share {
                self.record_violation(format!("{name} holds {held} shards, an even share is {share}"));
            }
            let told = self.processes[process].database_now(self.now);
            let wrong = told.map_or(i64::MAX, |told| (told.as_micros() - self.database_now()).abs());
            if wrong > 1_700_000 && !self.processes[process].is_in_doubt() {
                self.record_violation(format!("{name} is {wrong} us away from the database's clock"));
            }
        }
    }
}
