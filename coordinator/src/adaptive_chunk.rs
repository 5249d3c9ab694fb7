//! Pure: the time span or the number of rows processed by one statement, adapted to the duration of
//! the previous statement.

use std::{
    ops::{Div, Mul},
    time::Duration,
};

/// A time span or a number, halved after a slow statement and doubled after a fast one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdaptiveChunk<T = Duration> {
    current: T,
    min: T,
    max: T,
    /// A statement slower than this halves the chunk.
    slow_above: Duration,
    /// A statement faster than this doubles the chunk.
    grow_below: Duration,
}

impl<T: Copy + Ord + Div<u32, Output = T> + Mul<u32, Output = T>> AdaptiveChunk<T> {
    /// Creates a chunk of `first`, which stays within `min` and `max`.
    pub(crate) fn new(first: T, min: T, max: T, slow_above: Duration, grow_below: Duration) -> Self {
        Self { current: first, min, max, slow_above, grow_below }
    }

    /// Size of the next chunk.
    pub(crate) fn current_size(&self) -> T {
        self.current
    }

    /// Adapts the size to the duration of the last statement.
    pub(crate) fn record_duration(&mut self, took: Duration) {
        if took > self.slow_above {
            self.current = (self.current / 2).max(self.min);
        } else if took < self.grow_below {
            self.current = (self.current * 2).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_shrinks_while_it_is_slow_and_never_exceeds_its_maximum() {
        let seconds = Duration::from_secs;
        let mut piece =
            AdaptiveChunk::new(seconds(1_200), seconds(60), seconds(1_200), seconds(10), seconds(2));
        let mut after = |took| {
            piece.record_duration(seconds(took));
            piece.current_size()
        };

        assert_eq!(after(1), seconds(1_200));
        assert_eq!(after(20), seconds(600));
        assert_eq!(after(5), seconds(600));
        assert_eq!(after(1), seconds(1_200));
        assert_eq!((0..10).map(|_| after(20)).last(), Some(seconds(60)));
    }
}
