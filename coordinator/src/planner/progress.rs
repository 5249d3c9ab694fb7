//! Pure: up to when all ticks have been acknowledged, while batches finish in any order.

use std::collections::VecDeque;

/// The batches under way, oldest first.
#[derive(Debug, Default)]
pub struct Progress {
    batches: VecDeque<Batch>,
    first: u64,
    floor_ms: i64,
}

#[derive(Debug)]
struct Batch {
    /// All ticks before this belong to older batches.
    from_ms: i64,
    done: bool,
}

impl Progress {
    /// A batch leaves; all ticks handed out before `from_ms` were in older ones. Returns its number.
    pub fn begin(&mut self, from_ms: i64) -> u64 {
        self.batches.push_back(Batch { from_ms, done: false });
        self.first + self.batches.len() as u64 - 1
    }

    /// A batch is done: each of its jobs was acknowledged, or given up for good.
    pub fn done(&mut self, number: u64) {
        if let Some(batch) =
            number.checked_sub(self.first).and_then(|place| self.batches.get_mut(place as usize))
        {
            batch.done = true;
        }
        while self.batches.front().is_some_and(|batch| batch.done) {
            self.batches.pop_front();
            self.first += 1;
        }
    }

    /// All ticks before `floor_ms` have been handed out.
    pub fn handed_out(&mut self, floor_ms: i64) {
        self.floor_ms = floor_ms;
    }

    /// Time has jumped: what batches under way say of it is worth nothing, and nothing has been handed out yet.
    pub fn restart(&mut self) {
        self.batches.iter_mut().for_each(|batch| batch.from_ms = i64::MIN + 1);
        self.floor_ms = i64::MIN + 1;
    }

    /// All ticks before this, in milliseconds, are done with.
    pub fn through_ms(&self) -> i64 {
        self.batches.front().map_or(self.floor_ms, |batch| batch.from_ms)
    }

    /// The number that the next batch will have; all before it have left.
    pub fn next(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// Whether every batch before `number` is done.
    pub fn is_through(&self, number: u64) -> bool {
        self.first >= number
    }

    /// How many batches are under way.
    pub fn under_way(&self) -> usize {
        self.batches.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_through_waits_for_the_oldest_batch_under_way() {
        let mut progress = Progress::default();
        progress.handed_out(100);
        let (one, two) = (progress.begin(100), progress.begin(110));
        progress.handed_out(120);

        assert_eq!(progress.through_ms(), 100);
        progress.done(two);
        assert_eq!(progress.through_ms(), 100);
        progress.done(one);
        assert_eq!((progress.through_ms(), progress.under_way()), (120, 0));
        assert!(progress.is_through(progress.next()));
    }

    #[test]
    fn a_batch_from_before_a_jump_of_the_clock_says_nothing_of_the_time_after_it() {
        let mut progress = Progress::default();
        let old = progress.begin(1_000_000);
        progress.handed_out(1_000_010);

        progress.restart();
        assert!(progress.through_ms() < 0);
        let new = progress.begin(100);
        progress.handed_out(110);
        assert!(progress.through_ms() < 0 && !progress.is_through(new));
        progress.done(old);
        assert_eq!(progress.through_ms(), 100);
    }
}
