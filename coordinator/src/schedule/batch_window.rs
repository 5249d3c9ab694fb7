//! Pure: the batch window, computed from the rate of due jobs.
//!
//! Each wake-up involves this process, the server and a prober. Under light load a wake-up every 10
//! ms carries a single job. The window therefore grows as the rate falls, until batching would no
//! longer combine any jobs. The cost is a mean lateness of half the window
//! (docs/adr/0002-batch-wake-ups.md).

use std::time::Duration;

use super::wheel::Wheel;

/// Number of jobs that makes a wake-up worthwhile.
const TARGET_BATCH_JOBS: i64 = 64;
/// If a full window would collect fewer jobs, jobs are not batched at all.
const MIN_BATCH_JOBS: i64 = 2;
/// Period over which due jobs are counted, in milliseconds.
const RATE_PERIOD_MS: i64 = 1_000;

/// Counts due jobs and derives the window from them.
#[derive(Debug)]
pub(super) struct BatchWindow {
    period_start_ms: i64,
    due_count: i64,
    window_ms: i64,
    /// Upper limit of the window.
    max_window_ms: i64,
}

impl Default for BatchWindow {
    fn default() -> Self {
        Self {
            period_start_ms: 0,
            due_count: 0,
            window_ms: Wheel::BUCKET_WIDTH_MS,
            max_window_ms: Wheel::BUCKET_WIDTH_MS,
        }
    }
}

impl BatchWindow {
    /// Creates a window of at most `longest`.
    pub(super) fn new(longest: Duration) -> Self {
        let mut window = Self::default();
        window.set_max(longest);
        window
    }

    /// Limits the window to `longest`, from the next period on.
    pub(super) fn set_max(&mut self, longest: Duration) {
        self.max_window_ms =
            i64::try_from(longest.as_millis()).unwrap_or(i64::MAX).max(Wheel::BUCKET_WIDTH_MS);
    }

    /// Records that `count` jobs were due at `now_ms`.
    pub(super) fn record_due(&mut self, count: usize, now_ms: i64) {
        self.due_count += i64::try_from(count).unwrap_or(i64::MAX);
        let span_ms = now_ms - self.period_start_ms;
        if span_ms >= RATE_PERIOD_MS {
            let gather_ms = match self.due_count * self.max_window_ms < MIN_BATCH_JOBS * span_ms {
                true => Wheel::BUCKET_WIDTH_MS,
                false => (TARGET_BATCH_JOBS * span_ms / self.due_count)
                    .clamp(Wheel::BUCKET_WIDTH_MS, self.max_window_ms),
            };
            self.window_ms = gather_ms - gather_ms % Wheel::BUCKET_WIDTH_MS;
            (self.period_start_ms, self.due_count) = (now_ms, 0);
        }
    }

    /// Returns the time to wake up for a job due at `due_ms`.
    pub(super) fn next_wake_ms(&self, due_ms: i64) -> i64 {
        due_ms + (-due_ms).rem_euclid(self.window_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Window at `rate` jobs per second.
    fn gathering_at(rate: i64, longest_ms: u64) -> i64 {
        let mut pace = BatchWindow::new(Duration::from_millis(longest_ms));
        for second in 0..3 {
            for part in 0..10 {
                pace.record_due(usize::try_from(rate / 10).unwrap(), second * 1_000 + part * 100);
            }
        }
        pace.window_ms
    }

    #[test]
    fn the_window_grows_as_load_falls_unless_no_jobs_would_share_it() {
        let gathering =
            |longest_ms| [5, 10, 50, 100, 1_000, 2_000, 10_000].map(|rate| gathering_at(rate, longest_ms));
        assert_eq!(gathering(250), [10, 250, 250, 250, 60, 30, 10]);
        assert_eq!(gathering(100), [10, 10, 100, 100, 60, 30, 10]);
        assert_eq!(gathering(10), [10; 7]);
    }

    #[test]
    fn a_poll_is_aligned_to_the_window_and_never_before_the_next_tick() {
        let mut pace = BatchWindow::new(Duration::from_millis(100));
        pace.record_due(100, 1_000);
        for due_ms in [-70, 0, 1, 99, 100, 101, 1_763_000_000_010] {
            let wait = pace.next_wake_ms(due_ms) - due_ms;
            assert!((0..100).contains(&wait), "{due_ms}: {wait}");
            assert_eq!(pace.next_wake_ms(due_ms) % 100, 0);
        }
    }
}
