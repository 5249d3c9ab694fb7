//! Watermark of a shard (pure): the time through which all ticks are acknowledged, while batches
//! finish in any order.

use std::collections::VecDeque;

/// Batches in flight, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    batches: VecDeque<TrackedBatch>,
    first_batch: u64,
    floor_ms: i64,
}

#[derive(Debug)]
struct TrackedBatch {
    /// All earlier ticks belong to older batches.
    from_ms: i64,
    is_done: bool,
}

impl Watermark {
    /// Starts a batch and returns its number. All ticks handed out before `from_ms` were in older
    /// batches.
    pub(crate) fn begin_batch(&mut self, from_ms: i64) -> u64 {
        self.batches.push_back(TrackedBatch { from_ms, is_done: false });
        self.first_batch + self.batches.len() as u64 - 1
    }

    /// Finishes a batch: each of its jobs was acknowledged or dropped for good.
    pub(crate) fn finish_batch(&mut self, number: u64) {
        if let Some(batch) =
            number.checked_sub(self.first_batch).and_then(|place| self.batches.get_mut(place as usize))
        {
            batch.is_done = true;
        }
        while self.batches.front().is_some_and(|batch| batch.is_done) {
            self.batches.pop_front();
            self.first_batch += 1;
        }
    }

    /// Records that all ticks before `floor_ms` have been handed out.
    pub(crate) fn advance_floor(&mut self, floor_ms: i64) {
        self.floor_ms = floor_ms;
    }

    /// Resets the watermark after a clock jump. Batches in flight no longer count, and no tick has
    /// been handed out yet.
    pub(crate) fn reset_floor(&mut self) {
        self.batches.iter_mut().for_each(|batch| batch.from_ms = i64::MIN + 1);
        self.floor_ms = i64::MIN + 1;
    }

    /// Time, in milliseconds, before which all ticks are done.
    pub(crate) fn watermark_ms(&self) -> i64 {
        self.batches.front().map_or(self.floor_ms, |batch| batch.from_ms)
    }

    /// Number of the next batch; all lower numbers have been used.
    pub(crate) fn next_batch(&self) -> u64 {
        self.first_batch + self.batches.len() as u64
    }

    /// Returns true if every batch before `number` is finished.
    pub(crate) fn is_past(&self, number: u64) -> bool {
        self.first_batch >= number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_oldest_batch_in_flight() {
        let mut progress = Watermark::default();
        progress.advance_floor(100);
        let (one, two) = (progress.begin_batch(100), progress.begin_batch(110));
        progress.advance_floor(120);

        assert_eq!(progress.watermark_ms(), 100);
        progress.finish_batch(two);
        assert_eq!(progress.watermark_ms(), 100);
        progress.finish_batch(one);
        assert_eq!((progress.watermark_ms(), progress.batches.len()), (120, 0));
        assert!(progress.is_past(progress.next_batch()));
    }

    #[test]
    fn a_batch_from_before_a_clock_jump_does_not_move_the_watermark_after_it() {
        let mut progress = Watermark::default();
        let old = progress.begin_batch(1_000_000);
        progress.advance_floor(1_000_010);

        progress.reset_floor();
        assert!(progress.watermark_ms() < 0);
        let new = progress.begin_batch(100);
        progress.advance_floor(110);
        assert!(progress.watermark_ms() < 0 && !progress.is_past(new));
        progress.finish_batch(old);
        assert_eq!(progress.watermark_ms(), 100);
    }
}
