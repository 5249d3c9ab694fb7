//! How many jobs to ask for, and how many have been asked for and not come. No clock, no I/O.

/// Jobs asked for that have neither come nor been given back.
#[derive(Debug)]
pub(super) struct Credit {
    /// From how many free slots on it is worth asking while others are still asked for.
    min_batch: usize,
    outstanding: usize,
}

impl Credit {
    /// The most that one pull asks for.
    const MAX_PULL_BATCH: usize = 256;

    /// For a prober of so many slots.
    pub(super) fn new(slots: usize) -> Self {
        Self { min_batch: (slots / 4).clamp(1, 64), outstanding: 0 }
    }

    /// How many to ask for now, with `free` slots that nothing is asked for yet; 0 for none.
    ///
    /// While some are asked for, small change is left to gather: else a busy prober would send a pull for each
    /// check that ends.
    pub(super) fn request_jobs(&mut self, free: usize) -> usize {
        let low = self.outstanding < Self::MAX_PULL_BATCH / 2;
        let number = match self.outstanding == 0 || (low && free >= self.min_batch) {
            true => free.min(Self::MAX_PULL_BATCH),
            false => 0,
        };
        self.outstanding += number;
        number
    }

    /// One has come.
    pub(super) fn record_delivery(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// A pull has ended with `left` of its jobs not come; says how many slots that frees.
    pub(super) fn release_unused(&mut self, left: usize) -> usize {
        let freed = left.min(self.outstanding);
        self.outstanding -= freed;
        freed
    }

    /// What is still asked for.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_asked_for_than_there_are_slots_and_a_pull_takes() {
        assert_eq!(Credit::new(3).request_jobs(3), 3);
        assert_eq!(Credit::new(1_000).request_jobs(1_000), 256);
        assert_eq!(Credit::new(1_000).request_jobs(0), 0);
    }

    #[test]
    fn more_is_asked_for_before_the_last_has_come_but_not_for_each_slot() {
        let mut credit = Credit::new(1_000);
        credit.request_jobs(1_000);
        assert_eq!(credit.request_jobs(744), 0, "enough is asked for");
        for _ in 0..200 {
            credit.record_delivery();
        }

        assert_eq!(credit.request_jobs(63), 0, "not worth it yet");
        assert_eq!(credit.request_jobs(64), 64);
        assert_eq!(credit.outstanding(), 56 + 64);
    }

    #[test]
    fn what_did_not_come_is_given_back_once() {
        let mut credit = Credit::new(10);
        credit.request_jobs(10);
        credit.record_delivery();

        assert_eq!(credit.release_unused(100), 9);
        assert_eq!(credit.release_unused(1), 0);
        assert_eq!(credit.request_jobs(1), 1, "with nothing asked for, one slot is worth it");
    }
}
