//! Accounting of requested jobs: number to request, number outstanding. No clock, no I/O.

/// Requested jobs that have neither arrived nor been released.
#[derive(Debug)]
pub(super) struct Credit {
    /// Minimum of free slots for a further pull while another pull is outstanding.
    min_batch: usize,
    outstanding: usize,
}

impl Credit {
    /// Maximum jobs per pull.
    const MAX_PULL_BATCH: usize = 256;

    /// Creates the account of a prober with `slots` slots.
    pub(super) fn new(slots: usize) -> Self {
        Self { min_batch: (slots / 4).clamp(1, 64), outstanding: 0 }
    }

    /// Number of jobs to request now, with `free` unreserved slots; 0 for none.
    ///
    /// While jobs are outstanding, small numbers are left to accumulate. Otherwise a busy prober
    /// would send a pull for each finished check.
    pub(super) fn request_jobs(&mut self, free: usize) -> usize {
        let low = self.outstanding < Self::MAX_PULL_BATCH / 2;
        let number = match self.outstanding == 0 || (low && free >= self.min_batch) {
            true => free.min(Self::MAX_PULL_BATCH),
            false => 0,
        };
        self.outstanding += number;
        number
    }

    /// Records an arrived job.
    pub(super) fn record_delivery(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Records the end of a pull with `left` of its jobs missing. Returns the number of slots
    /// freed.
    pub(super) fn release_unused(&mut self, left: usize) -> usize {
        let freed = left.min(self.outstanding);
        self.outstanding -= freed;
        freed
    }

    /// Number of outstanding jobs.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_requests_no_more_than_the_free_slots_and_its_maximum() {
        assert_eq!(Credit::new(3).request_jobs(3), 3);
        assert_eq!(Credit::new(1_000).request_jobs(1_000), 256);
        assert_eq!(Credit::new(1_000).request_jobs(0), 0);
    }

    #[test]
    fn the_next_pull_starts_before_the_last_job_arrives_but_not_for_each_slot() {
        let mut credit = Credit::new(1_000);
        credit.request_jobs(1_000);
        assert_eq!(credit.request_jobs(744), 0, "enough is requested");
        for _ in 0..200 {
            credit.record_delivery();
        }

        assert_eq!(credit.request_jobs(63), 0, "not worth it yet");
        assert_eq!(credit.request_jobs(64), 64);
        assert_eq!(credit.outstanding(), 56 + 64);
    }

    #[test]
    fn undelivered_credit_is_returned_once() {
        let mut credit = Credit::new(10);
        credit.request_jobs(10);
        credit.record_delivery();

        assert_eq!(credit.release_unused(100), 9);
        assert_eq!(credit.release_unused(1), 0);
        assert_eq!(credit.request_jobs(1), 1, "without a pending request, one free slot is enough");
    }
}
