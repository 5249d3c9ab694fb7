//! Detects scheduling delays of this process, so that they are not attributed to a site.
//!
//! Two measurements are combined. A heartbeat every 25 ms records its own delay; it detects a
//! blocked runtime, a stopped process and a sleeping machine. The wake-to-poll latency of each
//! check's task detects a blocked thread while other threads run. Neither measurement detects all
//! delays; the larger value counts.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use picket_runtime::clock::Boottime;
use tokio_metrics::TaskMonitor;
use tracing::warn;

use crate::{aligned_ticker::AlignedTicker, metrics::Metrics};

/// Delays of this process's tasks. Clones share the state.
#[derive(Clone)]
pub(crate) struct StallDetector(Arc<DetectorState>);

struct DetectorState {
    tolerance: Duration,
    heartbeat: Mutex<Heartbeat>,
}

/// Start of a check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallMark {
    started_at: Boottime,
    total_delay: Duration,
}

/// Heartbeat with the sum of its delays. No clock, no I/O.
#[derive(Debug, Default)]
struct Heartbeat {
    last_at: Option<Boottime>,
    last_delay: Duration,
    total_delay: Duration,
}

impl Heartbeat {
    /// Heartbeat interval. A delay that begins between two heartbeats is measured too short by up
    /// to this interval.
    const HEARTBEAT_INTERVAL: Duration = AlignedTicker::WAKEUP_INTERVAL;

    /// Records a heartbeat and returns its delay. Delays below `noise` are not counted against
    /// checks.
    fn record_heartbeat(&mut self, now: Boottime, noise: Duration) -> Duration {
        let late = self.current_delay(now);
        self.last_at = Some(now);
        self.last_delay = late;
        if late >= noise {
            self.total_delay += late;
        }
        late
    }

    /// Current delay of the next heartbeat.
    fn current_delay(&self, now: Boottime) -> Duration {
        self.last_at.map_or(Duration::ZERO, |last| {
            now.saturating_duration_since(last).saturating_sub(Self::HEARTBEAT_INTERVAL)
        })
    }

    /// Delay of a check between `mark` and now. A check may end before the delayed heartbeat
    /// arrives, so the current delay of the next heartbeat is included.
    fn delay_since(&self, mark: &StallMark, now: Boottime, noise: Duration) -> Duration {
        let late = Some(self.current_delay(now)).filter(|late| *late >= noise).unwrap_or_default();
        (self.total_delay + late).saturating_sub(mark.total_delay)
    }
}

impl StallDetector {
    /// A check waits about five times (name, connection, handshake, response, body). A delay below
    /// a fifth of the tolerance cannot distort a check by the tolerance, and is noise.
    const WAITS_PER_CHECK: u32 = 5;
    /// Inverse fraction of a check's duration below which a delay is irrelevant.
    const IRRELEVANT_FRACTION: u32 = 20;

    /// Creates a detector that tolerates delays up to `bound` per check.
    pub(crate) fn new(bound: Duration) -> Self {
        Self(Arc::new(DetectorState { tolerance: bound, heartbeat: Mutex::default() }))
    }

    /// Returns the heartbeat, which runs until it is dropped. While none runs, only the wake-to-poll
    /// latency of checks is known.
    pub(crate) fn run_heartbeat(
        &self,
        metrics: Metrics,
        pulse: AlignedTicker,
    ) -> impl Future<Output = ()> + Send + 'static {
        let running = HeartbeatGuard::new(Arc::clone(&self.0));
        async move {
            let shared = &running.0;
            loop {
                pulse.next_wakeup().await;
                #[cfg(test)]
                picket_harness::injected_panic::panic_if_injected("heartbeat");
                let late =
                    shared.heartbeat.lock().record_heartbeat(Boottime::now(), shared.noise_threshold());
                metrics.scheduling_delay.observe(late.as_secs_f64());
                if late > shared.tolerance {
                    metrics.stalls.inc();
                    warn!(delay_ms = late.as_millis(), "prober tasks were stalled");
                }
            }
        }
    }

    /// Returns true if a check would be delayed too much now: the last heartbeat was late, or the
    /// next heartbeat is overdue.
    pub(crate) fn is_stalled(&self) -> bool {
        let beats = self.0.heartbeat.lock();
        beats.last_delay.max(beats.current_delay(Boottime::now())) > self.0.tolerance
    }

    /// Marks the start of a check.
    pub(crate) fn mark_start(&self) -> StallMark {
        let (beats, at) = (self.0.heartbeat.lock(), Boottime::now());
        StallMark { started_at: at, total_delay: beats.total_delay + beats.current_delay(at) }
    }

    /// Returns the delay of the check that began at `mark`, if the delay invalidates the check:
    /// more than the tolerance, and more than a twentieth of the check's duration. `own` is the
    /// delay measured by [`with_wake_latency`](Self::with_wake_latency).
    pub(crate) fn stalled_for(&self, mark: &StallMark, own: Duration) -> Option<Duration> {
        let now = Boottime::now();
        let held_up = self.0.heartbeat.lock().delay_since(mark, now, self.0.noise_threshold()).max(own);
        self.0
            .is_significant_stall(held_up, now.saturating_duration_since(mark.started_at))
            .then_some(held_up)
    }

    /// Runs `check` and returns its total wake-to-poll latency, without latencies below the noise.
    /// The monotonic clock of the library stands still while the machine is suspended, which the
    /// heartbeat detects.
    pub(crate) async fn with_wake_latency<T>(&self, check: impl Future<Output = T>) -> (T, Duration) {
        let mut monitor = TaskMonitor::builder();
        monitor.with_long_delay_threshold(self.0.noise_threshold());
        let monitor = monitor.build();
        let done = monitor.instrument(check).await;
        (done, monitor.cumulative().total_long_delay_duration)
    }
}

/// Heartbeat that runs. After its end the delay of the next heartbeat is no sign of a stall.
struct HeartbeatGuard(Arc<DetectorState>);

impl HeartbeatGuard {
    fn new(shared: Arc<DetectorState>) -> Self {
        // The first heartbeat can be delayed too: a check may begin before it.
        shared.heartbeat.lock().last_at = Some(Boottime::now());
        Self(shared)
    }
}

impl Drop for HeartbeatGuard {
    fn drop(&mut self) {
        let mut heartbeat = self.0.heartbeat.lock();
        (heartbeat.last_at, heartbeat.last_delay) = (None, Duration::ZERO);
    }
}

impl DetectorState {
    fn noise_threshold(&self) -> Duration {
        self.tolerance / StallDetector::WAITS_PER_CHECK
    }

    fn is_significant_stall(&self, held_up: Duration, took: Duration) -> bool {
        held_up > self.tolerance && held_up > took / StallDetector::IRRELEVANT_FRACTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOISE: Duration = Duration::from_millis(20);

    fn at(ms: u64) -> Boottime {
        Boottime::from_elapsed(Duration::from_millis(1_000 + ms))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn beats(at_ms: &[u64]) -> Heartbeat {
        let mut beats = Heartbeat::default();
        for moment in at_ms {
            beats.record_heartbeat(at(*moment), NOISE);
        }
        beats
    }

    fn mark(beats: &Heartbeat, moment: u64) -> StallMark {
        StallMark { started_at: at(moment), total_delay: beats.total_delay + beats.current_delay(at(moment)) }
    }

    #[test]
    fn a_heartbeat_on_time_or_slightly_late_is_no_stall() {
        let beats = beats(&[0, 26, 50, 90, 110]);

        assert_eq!(beats.total_delay, Duration::ZERO);
    }

    #[test]
    fn a_late_heartbeat_counts_against_checks_that_began_before_it_only() {
        let mut beats = beats(&[0, 25]);
        let before = mark(&beats, 30);
        beats.record_heartbeat(at(350), NOISE);
        let after = mark(&beats, 351);

        assert_eq!(beats.delay_since(&before, at(351), NOISE), ms(300));
        assert_eq!(beats.delay_since(&after, at(360), NOISE), Duration::ZERO);
    }

    #[test]
    fn a_check_that_ends_before_the_late_heartbeat_was_stalled_as_well() {
        let beats = beats(&[0, 25]);
        let mark = mark(&beats, 27);

        assert_eq!(beats.delay_since(&mark, at(550), NOISE), ms(500));
    }

    #[test]
    fn only_the_part_of_a_stall_within_the_check_counts() {
        let mut beats = beats(&[0, 25]);
        let mark = mark(&beats, 220);
        beats.record_heartbeat(at(320), NOISE);

        assert_eq!(beats.delay_since(&mark, at(321), NOISE), ms(100));
    }

    #[test]
    fn a_stall_is_excessive_above_the_bound_and_a_twentieth_of_the_check() {
        let shared = DetectorState { tolerance: ms(100), heartbeat: Mutex::default() };

        assert!(!shared.is_significant_stall(ms(100), ms(150)));
        assert!(shared.is_significant_stall(ms(101), ms(150)));
        assert!(!shared.is_significant_stall(ms(450), ms(10_000)));
        assert!(shared.is_significant_stall(ms(550), ms(10_000)));
    }

    #[test]
    fn a_stopped_heartbeat_counts_against_no_check() {
        let drift = StallDetector::new(ms(100));
        let heartbeat = HeartbeatGuard::new(Arc::clone(&drift.0));
        let mark = drift.mark_start();
        drop(heartbeat);
        std::thread::sleep(ms(250));

        assert!(!drift.is_stalled());
        assert_eq!(drift.stalled_for(&mark, Duration::ZERO), None);
    }

    #[tokio::test]
    async fn a_checks_wake_to_poll_latency_is_measured() {
        let drift = StallDetector::new(ms(100));
        let (wake, woken) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(async move { drift.with_wake_latency(woken).await.1 });
        tokio::task::yield_now().await;

        // The only thread is blocked after the check could continue.
        wake.send(()).unwrap();
        std::thread::sleep(ms(150));

        assert!(waiting.await.unwrap() >= ms(150));
    }
}
