//! Publish gaps of this coordinator: spans of ticks that were not published, kept until the ledger
//! has recorded them.
//!
//! Shared memory, because a publisher that drops a job must not wait. Bound: `MAX_GAPS` spans.
//! Loss: spans beyond the bound are not recorded; their ticks are missed either way, only with a
//! less exact cause.

use std::sync::Arc;

use parking_lot::Mutex;
use picket_proto::{Shard, Timestamp};
use picket_store::ledger::Gap;

const MAX_GAPS: usize = 4_096;
/// Gaps within this time of each other, in microseconds, are merged.
const MERGE_WITHIN_US: i64 = 10_000_000;

/// Cheap to clone; all clones share one list.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublishGaps(Arc<Mutex<Vec<Gap>>>);

impl PublishGaps {
    /// Records that no publish is known for the ticks of `shard` after `from`, up to `to`.
    pub(crate) fn record_gap(&self, shard: Shard, from: Timestamp, to: Timestamp) {
        let mut gaps = self.0.lock();
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

    /// Removes and returns all gaps recorded since the last call.
    pub(crate) fn drain_gaps(&self) -> Vec<Gap> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Puts back gaps that could not be stored in the database, for the next round.
    pub(crate) fn restore_gaps(&self, gaps: Vec<Gap>) {
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
    fn consecutive_abandoned_ticks_are_one_gap_of_their_shard() {
        let publish_gaps = PublishGaps::default();
        publish_gaps.record_gap(Shard(1), at(100), at(105));
        publish_gaps.record_gap(Shard(2), at(100), at(105));
        publish_gaps.record_gap(Shard(1), at(110), at(115));
        publish_gaps.record_gap(Shard(1), at(200), at(205));

        let gaps = publish_gaps.drain_gaps();

        let one = Gap { shard: Shard(1), from: at(100), to: at(115) };
        assert_eq!((gaps.len(), gaps[0]), (3, one));
        assert_eq!(publish_gaps.drain_gaps(), []);
        publish_gaps.restore_gaps(gaps);
        assert_eq!(publish_gaps.drain_gaps().len(), 3);
    }

    #[test]
    fn the_number_of_recorded_gaps_is_bounded() {
        let publish_gaps = PublishGaps::default();
        (0..10_000).for_each(|n| publish_gaps.record_gap(Shard(1), at(n * 100), at(n * 100 + 1)));

        assert_eq!(publish_gaps.drain_gaps().len(), MAX_GAPS);
    }
}
