//! Pure: a timer wheel for schedules whose next tick can be computed.
//!
//! A ring of buckets of some milliseconds each; an entry lies in the bucket of its next tick modulo
//! the ring. When a bucket's time is over, the tick of each entry is computed: it is either due
//! now, or some laps later, and then the entry stays. An entry takes four bytes, because the tick
//! itself is never stored (a simple timing wheel with rounds, Varghese and Lauck, 1987).

/// A ring of buckets of entries.
pub(crate) struct Wheel {
    buckets: Vec<Vec<u32>>,
    /// Number of the next bucket to visit, counted since the Unix epoch.
    next_bucket: i64,
    entry_count: usize,
}

impl Wheel {
    /// Width of a bucket in milliseconds. Ticks in one bucket are published together, which shares
    /// wake-ups and system calls and costs a mean lateness of half the width.
    pub(crate) const BUCKET_WIDTH_MS: i64 = 10;
    const BUCKET_COUNT: i64 = 8_192;

    /// Creates an empty wheel starting at `now_ms`.
    pub(crate) fn new(now_ms: i64) -> Self {
        let buckets = (0..Self::BUCKET_COUNT).map(|_| Vec::new()).collect();
        Self { buckets, next_bucket: now_ms.div_euclid(Self::BUCKET_WIDTH_MS), entry_count: 0 }
    }

    /// Time, in milliseconds, before which all ticks have been handed out.
    pub(crate) fn cursor_ms(&self) -> i64 {
        self.next_bucket * Self::BUCKET_WIDTH_MS
    }

    /// Adds an entry whose next tick is at `due_ms`, which must not be before
    /// [`cursor_ms`](Self::cursor_ms).
    pub(crate) fn insert_entry(&mut self, entry: u32, due_ms: i64) {
        debug_assert!(due_ms >= self.cursor_ms());
        self.bucket_mut(due_ms.div_euclid(Self::BUCKET_WIDTH_MS)).push(entry);
        self.entry_count += 1;
    }

    /// Visits the next bucket if its time is over at `now_ms`. Returns true in that case.
    ///
    /// `due(entry, from_ms)` returns the entry's first tick at or after `from_ms`, or `None` for a
    /// dead entry, which is then dropped from the wheel. Each tick in the bucket is passed to
    /// `fire` once.
    pub(crate) fn advance_bucket(
        &mut self,
        now_ms: i64,
        mut due: impl FnMut(u32, i64) -> Option<i64>,
        mut fire: impl FnMut(u32, i64),
    ) -> bool {
        let (from, to) = (self.cursor_ms(), self.cursor_ms() + Self::BUCKET_WIDTH_MS);
        if now_ms < to {
            return false;
        }
        let number = self.next_bucket;
        self.next_bucket += 1;
        let mut entries = std::mem::take(self.bucket_mut(number));
        // Entries that fire are put back afterwards: an interval of a whole lap leads to this same
        // bucket.
        let mut moved: Vec<(u32, i64)> = Vec::new();
        entries.retain(|entry| {
            let Some(tick) = due(*entry, from) else {
                self.entry_count -= 1;
                return false;
            };
            if tick >= to {
                // The tick is laps away, and the entry already lies in its bucket.
                return true;
            }
            fire(*entry, tick);
            match due(*entry, tick + 1) {
                Some(after) => moved.push((*entry, after)),
                None => self.entry_count -= 1,
            }
            false
        });
        *self.bucket_mut(number) = entries;
        for (entry, after) in moved {
            self.bucket_mut(after.div_euclid(Self::BUCKET_WIDTH_MS)).push(entry);
        }
        true
    }

    /// End of the next bucket with an entry, in milliseconds; `None` if the wheel is empty.
    pub(crate) fn wake_ms(&self) -> Option<i64> {
        if self.entry_count == 0 {
            return None;
        }
        (self.next_bucket..self.next_bucket + Self::BUCKET_COUNT)
            .find(|number| !self.buckets[Self::bucket_index(*number)].is_empty())
            .map(|number| (number + 1) * Self::BUCKET_WIDTH_MS)
    }

    fn bucket_mut(&mut self, number: i64) -> &mut Vec<u32> {
        &mut self.buckets[Self::bucket_index(number)]
    }

    fn bucket_index(number: i64) -> usize {
        // The remainder is non-negative and fits.
        usize::try_from(number.rem_euclid(Self::BUCKET_COUNT)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// First tick at or after `from`.
    fn tick(interval: i64, phase: i64, from: i64) -> i64 {
        from + (phase - from).rem_euclid(interval)
    }

    proptest! {
        #[test]
        fn every_tick_is_yielded_once_in_order_and_never_early(
            schedules in prop::collection::vec((1_000_i64..200_000, 0_i64..200_000), 1..20),
            steps in prop::collection::vec(1_i64..30_000, 1..40),
            start in 0_i64..10_000_000,
        ) {
            let mut wheel = Wheel::new(start);
            let floor = wheel.cursor_ms();
            let due = |entry: u32, from: i64| {
                let (interval, phase) = schedules[entry as usize];
                Some(tick(interval, phase % interval, from))
            };
            for entry in 0..schedules.len() as u32 {
                wheel.insert_entry(entry, due(entry, floor).unwrap());
            }
            let mut now = start;
            let mut fired: Vec<Vec<i64>> = vec![Vec::new(); schedules.len()];
            for step in steps {
                now += step;
                let woken = wheel.wake_ms().unwrap();
                let mut first = None;
                while wheel.advance_bucket(now, due, |entry, at| {
                    assert!(at <= now);
                    first.get_or_insert(at);
                    fired[entry as usize].push(at);
                }) {}
                if let Some(first) = first {
                    prop_assert!(first < woken || first >= woken - Wheel::BUCKET_WIDTH_MS);
                }
            }
            for (entry, ticks) in fired.iter().enumerate() {
                let (interval, phase) = schedules[entry];
                let mut expected = Vec::new();
                let mut at = tick(interval, phase % interval, floor);
                while at < wheel.cursor_ms() {
                    expected.push(at);
                    at += interval;
                }
                prop_assert_eq!(ticks, &expected);
            }
        }
    }

    #[test]
    fn a_dead_entry_leaves_the_wheel_when_its_bucket_is_visited() {
        let mut wheel = Wheel::new(0);
        wheel.insert_entry(7, 1_000);

        while wheel.advance_bucket(2_000, |_, _| None, |_, _| panic!("it is dead")) {}

        assert_eq!((wheel.entry_count, wheel.wake_ms()), (0, None));
    }
}
