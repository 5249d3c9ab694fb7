//! The spans in which this coordinator did not publish what was due, until the ledger has written them down.
//!
//! Shared memory, since whoever gives a job up must not wait. Bound: `MOST` spans. Loss: what finds no room is not
//! written down; its ticks are missed all the same, and only their cause is less exact.

use std::sync::{Arc, Mutex, PoisonError};

use picket_proto::{Shard, Timestamp};
use picket_store::ledger::Gap;

const MAX_GAPS: usize = 4_096;
/// Ticks that are given up within this of each other, in microseconds, are one span.
const MERGE_WITHIN_US: i64 = 10_000_000;

/// Cheap to clone; all clones are one list.
#[derive(Clone, Debug, Default)]
pub struct PublishGaps(Arc<Mutex<Vec<Gap>>>);

impl PublishGaps {
    /// Nothing is known to have been published for the ticks of `shard` after `from`, up to `to`.
    pub fn record_gap(&self, shard: Shard, from: Timestamp, to: Timestamp) {
        let mut gaps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let near = gaps.iter().rposition(|gap| {
            gap.shard == shard
                && from.as_micros() <= gap.to.as_micros().saturating_add(MERGE_WITHIN_US)
                && to.as_micros() >= gap.from.as_micros().saturating_sub(MERGE_WITHIN_US)
        });
        match near {
            Some(place) => {
                let gap = &mut gaps[place];
                (gap.from, gap.to) = (gap.from.min(from), gap.to.max(to));
            }
            None if gaps.len() < MAX_GAPS && from < to => gaps.push(Gap { shard, from, to }),
            None => {}
        }
    }

    /// All that were noted since the last time.
    pub fn drain_gaps(&self) -> Vec<Gap> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// They could not be written down: for the next time.
    pub fn restore_gaps(&self, gaps: Vec<Gap>) {
        gaps.into_iter().for_each(|gap| self.record_gap(gap.shard, gap.from, gap.to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn ticks_given_up_one_after_the_other_are_one_span_of_their_shard() {
        let lapses = PublishGaps::default();
        lapses.record_gap(Shard(1), at(100), at(105));
        lapses.record_gap(Shard(2), at(100), at(105));
        lapses.record_gap(Shard(1), at(110), at(115));
        lapses.record_gap(Shard(1), at(200), at(205));

        let gaps = lapses.drain_gaps();

        let one = Gap { shard: Shard(1), from: at(100), to: at(115) };
        assert_eq!((gaps.len(), gaps[0]), (3, one));
        assert_eq!(lapses.drain_gaps(), []);
        lapses.restore_gaps(gaps);
        assert_eq!(lapses.drain_gaps().len(), 3);
    }

    #[test]
    fn there_is_a_bound() {
        let lapses = PublishGaps::default();
        (0..10_000).for_each(|n| lapses.record_gap(Shard(1), at(n * 100), at(n * 100 + 1)));

        assert_eq!(lapses.drain_gaps().len(), MAX_GAPS);
    }
}
