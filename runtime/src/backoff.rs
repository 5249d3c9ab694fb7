//! Retry delays: doubled with each attempt up to a maximum, with jitter.

use std::time::Duration;

/// Retry delays of one operation.
#[derive(Clone, Debug)]
pub struct Backoff {
    first_delay: Duration,
    max_delay: Duration,
    attempts: u32,
}

impl Backoff {
    /// Starts at `first_delay` and doubles up to `max_delay`.
    pub fn new(first_delay: Duration, max_delay: Duration) -> Self {
        Self { first_delay, max_delay, attempts: 0 }
    }

    /// Returns the next delay: between 50 % and 100 % of the base delay, so that processes which
    /// lost the same server at the same time do not all reconnect at once.
    pub fn next_delay(&mut self) -> Duration {
        let full = self.base_delay();
        self.attempts = self.attempts.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// Restarts from the first delay. For use after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    fn base_delay(&self) -> Duration {
        self.first_delay.saturating_mul(1 << self.attempts.min(20)).min(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

        for full in [100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.next_delay();
            assert!(
                wait >= Duration::from_millis(full / 2) && wait <= Duration::from_millis(full),
                "{wait:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
