//! Pure: how large a piece of time one statement works off, by how long the one before took.

use std::time::Duration;

/// A piece of time that is halved while it takes too long, and doubled while it takes a small part of that.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveChunk {
    current: Duration,
    min: Duration,
    max: Duration,
    /// A piece that takes longer is too large.
    slow_above: Duration,
    /// One that takes less could be larger.
    grow_below: Duration,
}

impl AdaptiveChunk {
    /// Begins with `first`, and stays within `least` and `most`.
    pub fn new(
        first: Duration,
        min: Duration,
        max: Duration,
        slow_above: Duration,
        grow_below: Duration,
    ) -> Self {
        Self { current: first, min, max, slow_above, grow_below }
    }

    /// How large the next one is.
    pub fn current_size(&self) -> Duration {
        self.current
    }

    /// The piece took so long.
    pub fn record_duration(&mut self, took: Duration) {
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
    fn a_piece_is_made_smaller_while_it_is_slow_and_never_larger_than_it_should_be() {
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
