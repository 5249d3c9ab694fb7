//! Pure: how large a piece of time one statement works off, by how long the one before took.

use std::time::Duration;

/// A piece of time that is halved while it takes too long, and doubled while it takes a small part of that.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    now: Duration,
    least: Duration,
    most: Duration,
    /// A piece that takes longer is too large.
    slow: Duration,
    /// One that takes less could be larger.
    quick: Duration,
}

impl Piece {
    /// Begins with `first`, and stays within `least` and `most`.
    pub fn new(first: Duration, least: Duration, most: Duration, slow: Duration, quick: Duration) -> Self {
        Self { now: first, least, most, slow, quick }
    }

    /// How large the next one is.
    pub fn size(&self) -> Duration {
        self.now
    }

    /// The piece took so long.
    pub fn took(&mut self, took: Duration) {
        if took > self.slow {
            self.now = (self.now / 2).max(self.least);
        } else if took < self.quick {
            self.now = (self.now * 2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_made_smaller_while_it_is_slow_and_never_larger_than_it_should_be() {
        let seconds = Duration::from_secs;
        let mut piece = Piece::new(seconds(1_200), seconds(60), seconds(1_200), seconds(10), seconds(2));
        let mut after = |took| {
            piece.took(seconds(took));
            piece.size()
        };

        assert_eq!(after(1), seconds(1_200));
        assert_eq!(after(20), seconds(600));
        assert_eq!(after(5), seconds(600));
        assert_eq!(after(1), seconds(1_200));
        assert_eq!((0..10).map(|_| after(20)).last(), Some(seconds(60)));
    }
}
