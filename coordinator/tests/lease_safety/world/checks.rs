//! What must hold.

use super::*;

impl World<'_> {
    pub(super) fn fail(&mut self, why: impl Into<String>) {
        let now = self.now;
        self.violation.get_or_insert_with(|| format!("at {now} us: {}", why.into()));
    }

    pub(super) fn open(&self, shard: usize) -> impl Iterator<Item = usize> {
        (0..self.processes.len()).filter(move |process| {
            let this = &self.processes[*process];
            this.excused.is_none() && this.is_open(shard, self.now)
        })
    }

    /// What a process decides, what it publishes, and what it may publish go together.
    pub(super) fn agrees(&mut self, process: usize) {
        let this = &self.processes[process];
        if let Some(why) = this.contradiction(self.now).filter(|_| !this.gone) {
            self.fail(why);
        }
    }

    /// Every shard is open to one, no one has more than an even share, and all know what time it is.
    pub(super) fn all_are_held(&mut self) {
        let alive: Vec<usize> = (0..self.processes.len())
            .filter(|place| !self.processes[*place].gone && self.processes[*place].unreached_until == 0)
            .collect();
        let mut names: Vec<Name> = alive.iter().map(|process| self.processes[*process].name).collect();
        names.sort_unstable();
        names.dedup();
        let share = self.history.shards.div_ceil(names.len().max(1));
        for shard in 0..self.history.shards {
            // Where clocks differ much in rate a holder doubts its own now and then, and waits for the renewal.
            if self.open(shard).count() == 0 {
                self.until(self.now + 20_000);
            }
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
            if wrong > 1_700_000 && !self.processes[process].is_in_doubt() {
                self.fail(format!("{name} is {wrong} us away from the database's clock"));
            }
        }
    }
}
