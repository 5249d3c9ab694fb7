//! Common wake-up times for deferrable work: a wake-up costs more than the work done in it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Ticker with fixed wake-up times, shared by all clones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AlignedTicker {
    started_at: Instant,
}

impl AlignedTicker {
    /// Time between two wake-ups.
    pub(crate) const WAKEUP_INTERVAL: Duration = Duration::from_millis(25);

    pub(crate) fn new() -> Self {
        Self { started_at: Instant::now() }
    }

    /// Waits for the next wake-up.
    pub(crate) async fn next_wakeup(self) {
        sleep(self.time_to_wakeup(Instant::now())).await;
    }

    fn time_to_wakeup(self, now: Instant) -> Duration {
        let into = now.duration_since(self.started_at).as_micros() % Self::WAKEUP_INTERVAL.as_micros();
        Self::WAKEUP_INTERVAL - Duration::from_micros(u64::try_from(into).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_waiters_wake_up_at_the_same_aligned_moments() {
        let pulse = AlignedTicker::new();
        for us in [0, 1, 24_999, 25_000, 61_234] {
            let now = pulse.started_at + Duration::from_micros(us);
            let wait = pulse.time_to_wakeup(now);
            assert!(!wait.is_zero() && wait <= AlignedTicker::WAKEUP_INTERVAL, "{us}: {wait:?}");
            assert_eq!(
                (Duration::from_micros(us) + wait).as_micros() % AlignedTicker::WAKEUP_INTERVAL.as_micros(),
                0
            );
        }
    }
}
