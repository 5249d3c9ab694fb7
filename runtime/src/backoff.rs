//! How long to wait before trying again: twice as long each time, up to a limit, with jitter.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The waits between tries at one thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    tries: u32,
}

impl Backoff {
    /// Waits from `first`, doubling up to `limit`.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, tries: 0 }
    }

    /// The next wait: between half and all of the doubled one, so that many who lost the same thing at
    /// once do not all come back at once.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.full();
        self.tries = self.tries.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * random_fraction())
    }

    /// After a success: the next wait is the first again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    fn full(&self) -> Duration {
        self.first.saturating_mul(1 << self.tries.min(20)).min(self.limit)
    }
}

/// A number from 0 to 1, good enough for jitter; the standard library's hasher is seeded at random.
fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

        for full in [100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.next_wait();
            assert!(
                wait >= Duration::from_millis(full / 2) && wait <= Duration::from_millis(full),
                "{wait:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
