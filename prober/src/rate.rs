//! Recent checks per second as a moving average, without a sampling timer. No clock, no I/O.

use std::time::Duration;

use picket_runtime::clock::Boottime;

/// Age at which a check counts about a third (1/e) of a current check.
const TIME_CONSTANT: Duration = Duration::from_secs(15);

/// Exponentially weighted moving average.
#[derive(Debug)]
pub(crate) struct RateEwma {
    started_at: Boottime,
    updated_at: Boottime,
    per_second: f64,
}

impl RateEwma {
    pub(crate) fn new(now: Boottime) -> Self {
        Self { started_at: now, updated_at: now, per_second: 0.0 }
    }

    /// Records a check at `now`.
    pub(crate) fn record_check(&mut self, now: Boottime) {
        self.per_second = self.per_second * decay_factor(now.saturating_duration_since(self.updated_at))
            + 1.0 / TIME_CONSTANT.as_secs_f64();
        self.updated_at = now;
    }

    /// Checks per second at `now`, averaged over the time since the start while that is shorter.
    pub(crate) fn per_second(&self, now: Boottime) -> f64 {
        // Corrects for the short history after the start. Within the first second the rate is not
        // meaningful.
        let full =
            1.0 - decay_factor(now.saturating_duration_since(self.started_at).max(Duration::from_secs(1)));
        self.per_second * decay_factor(now.saturating_duration_since(self.updated_at)) / full
    }
}

/// Remaining weight of an observation after `since`.
fn decay_factor(since: Duration) -> f64 {
    (-since.as_secs_f64() / TIME_CONSTANT.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Boottime {
        Boottime::from_elapsed(Duration::from_secs_f64(1_000.0 + seconds))
    }

    #[test]
    fn a_steady_pace_is_known_after_seconds_and_forgotten_within_a_minute_and_a_half() {
        let mut pace = RateEwma::new(at(0.0));
        assert_eq!(pace.per_second(at(0.0)).to_bits(), 0.0_f64.to_bits());
        for check in 1..=1_000 {
            pace.record_check(at(f64::from(check) / 100.0));
        }

        let now = pace.per_second(at(10.0));
        assert!((99.0..=101.0).contains(&now), "{now}");
        let later = pace.per_second(at(100.0));
        assert!(later < 0.5, "{later}");
    }
}
