//! The moments at which this process wakes up anyway, for what can wait for one of them: a wake-up costs more than what is done in it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Clones have the same moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    began: Instant,
}

impl Pulse {
    /// From one moment to the next.
    pub(crate) const PERIOD: Duration = Duration::from_millis(25);

    pub(crate) fn new() -> Self {
        Self { began: Instant::now() }
    }

    /// Waits for the next moment.
    pub(crate) async fn next(self) {
        sleep(self.wait(Instant::now())).await;
    }

    fn wait(self, now: Instant) -> Duration {
        let into = now.duration_since(self.began).as_micros() % Self::PERIOD.as_micros();
        Self::PERIOD - Duration::from_micros(u64::try_from(into).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_at_whatever_time_wakes_up_at_the_same_moments() {
        let pulse = Pulse::new();
        for us in [0, 1, 24_999, 25_000, 61_234] {
            let now = pulse.began + Duration::from_micros(us);
            let wait = pulse.wait(now);
            assert!(!wait.is_zero() && wait <= Pulse::PERIOD, "{us}: {wait:?}");
            assert_eq!((Duration::from_micros(us) + wait).as_micros() % Pulse::PERIOD.as_micros(), 0);
        }
    }
}
