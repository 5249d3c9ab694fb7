//! Estimate of the schedulers' clock from received jobs: a prober has no database to query.
//!
//! - Expiry of a job is judged by the job itself and by the NATS server's clock. The server's clock
//!   gives the time of storage and, from later messages, the time since. A job is published no
//!   earlier than its tick, so at least this time has passed since the tick. The wall clock of the
//!   prober is not used: if minutes fast, it would expire all jobs. Ticks of other jobs are not
//!   used: one job from a scheduler with a fast clock would expire all others. If no messages
//!   arrive for a while, the bound lags, and the job's TTL in the stream ends the job. A job
//!   without a TTL does not come from a coordinator; it is no evidence of the time and is judged by
//!   the wall clock.
//! - The start of a check is taken from the wall clock while the wall clock is plausible: not
//!   before the newest recent tick, and not so long after it that every job must have expired.
//!   Otherwise the start is counted from this tick, with a log message.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use picket_proto::{RegionName, Timestamp, job};
use picket_runtime::{
    AddMetric, Health,
    clock::{Boottime, wall_clock_now},
};
use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

/// Clock estimated from jobs. Clones share the state.
#[derive(Clone, Default)]
pub(crate) struct JobClock {
    observed: Arc<Mutex<ObservedClocks>>,
    error_seconds: Gauge,
}

impl JobClock {
    pub(crate) fn new(health: &Health, region: &RegionName) -> Self {
        let mut registry = health.registry();
        let registry = registry
            .sub_registry_with_prefix("prober")
            .sub_registry_with_label(("region".into(), region.to_string().into()));
        let error_seconds = registry.add_metric(
            "clock_error_seconds",
            "Error of this machine's clock relative to the schedulers' clock (above 0: \
                 ahead); 0 while it is plausible",
        );
        Self { error_seconds, ..Self::default() }
    }

    /// Records a job with tick `scheduled_at`, stored in the stream at `stored`. Returns a lower
    /// bound of the schedulers' clock, according to this job.
    pub(crate) fn observe_job(&self, scheduled_at: Timestamp, stored: Timestamp) -> Timestamp {
        let now = Boottime::now();
        let mut observed = self.observed.lock();
        let at_least = observed.observe_job(scheduled_at, stored, now);
        let off = observed.wall_clock_error_us(wall_clock_now(), now);
        let seconds = off / 1_000_000;
        self.error_seconds.set(seconds);
        let is_off = seconds != 0;
        match is_off {
            _ if std::mem::replace(&mut observed.is_reported, is_off) == is_off => {}
            true => warn!(
                seconds,
                "clock of this machine is wrong (above 0: ahead), dating checks by the schedulers' clock"
            ),
            false => info!("clock of this machine agrees with the schedulers' clock again"),
        }
        at_least
    }

    /// Current time by the wall clock, or by the schedulers' clock while the wall clock is
    /// implausible.
    pub(crate) fn now(&self) -> Timestamp {
        let (wall, observed) = (wall_clock_now(), self.observed.lock());
        Timestamp::from_micros(wall.as_micros() - observed.wall_clock_error_us(wall, Boottime::now()))
    }
}

/// Observed clocks; the caller passes the current time.
#[derive(Default)]
struct ObservedClocks {
    scheduler: LowerBound,
    nats: LowerBound,
    is_reported: bool,
}

impl ObservedClocks {
    /// Maximum age of a delivered job's tick. The stream drops each job within seconds of its
    /// expiry.
    const MAX_JOB_AGE_US: i64 = (job::MAX_JOB_TTL.as_micros() as i64) + 5_000_000;

    fn observe_job(&mut self, scheduled_at: Timestamp, stored: Timestamp, now: Boottime) -> Timestamp {
        self.scheduler.observe_moment(scheduled_at, now);
        self.nats.observe_moment(stored, now);
        let age =
            self.nats.lower_bound(now).map_or(Duration::ZERO, |bus| bus.saturating_duration_since(stored));
        scheduled_at.saturating_add(age)
    }

    /// Error of `wall` in microseconds relative to the bound; 0 while `wall` is plausible.
    fn wall_clock_error_us(&self, wall: Timestamp, now: Boottime) -> i64 {
        let Some(bound) = self.scheduler.lower_bound(now) else { return 0 };
        let ahead = wall.as_micros() - bound.as_micros();
        if (0..=Self::MAX_JOB_AGE_US).contains(&ahead) { 0 } else { ahead }
    }
}

/// Lower bound of another clock, from its newest recently observed time.
#[derive(Default)]
struct LowerBound {
    /// Differences of the other clock and the boot-time clock in microseconds: maximum of the
    /// current window, and of the window before.
    current_max_us: Option<i64>,
    previous_max_us: Option<i64>,
    window_start: Option<Boottime>,
}

impl LowerBound {
    /// Observations count for one to two windows: after a clock that was ahead is set back, its
    /// effect ends within a minute.
    const OBSERVATION_WINDOW: Duration = Duration::from_secs(30);

    fn observe_moment(&mut self, moment: Timestamp, now: Boottime) {
        match self.window_start {
            Some(since) if now.saturating_duration_since(since) < Self::OBSERVATION_WINDOW => {}
            since => {
                let is_next = since
                    .is_some_and(|since| now.saturating_duration_since(since) < 2 * Self::OBSERVATION_WINDOW);
                self.previous_max_us = self.current_max_us.take().filter(|_| is_next);
                self.window_start = Some(now);
            }
        }
        let ahead = moment.as_micros() - now.as_micros();
        self.current_max_us = Some(self.current_max_us.map_or(ahead, |newest| newest.max(ahead)));
    }

    fn lower_bound(&self, now: Boottime) -> Option<Timestamp> {
        let ahead = self.current_max_us.max(self.previous_max_us)?;
        Some(Timestamp::from_micros(now.as_micros().saturating_add(ahead)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: i64 = 1_795_176_000;

    fn tick(second: i64) -> Timestamp {
        Timestamp::from_millis((TICK + second) * 1_000)
    }

    fn at(second: u64) -> Boottime {
        Boottime::from_elapsed(Duration::from_secs(second))
    }

    #[test]
    fn a_jobs_time_in_the_stream_is_a_lower_bound_of_its_lateness() {
        let mut observed = ObservedClocks::default();
        assert_eq!(observed.wall_clock_error_us(tick(0), at(5)), 0);
        assert_eq!(observed.observe_job(tick(0), tick(1), at(5)), tick(0));
        // Stored 20 s ago, according to messages stored since.
        assert_eq!(observed.observe_job(tick(20), tick(21), at(25)), tick(20));
        assert_eq!(observed.observe_job(tick(0), tick(1), at(25)), tick(20));
        // Published late and delivered at once.
        assert_eq!(observed.observe_job(tick(-30), tick(22), at(26)), tick(-30));
    }

    /// Regression test. With a single bound for all jobs each job was expired for twenty minutes,
    /// for as long as the schedulers' clock had been ahead.
    #[test]
    fn a_job_of_a_coordinator_with_a_fast_clock_does_not_affect_other_jobs() {
        let mut observed = ObservedClocks::default();
        observed.observe_job(tick(180), tick(0), at(100));

        for second in 1..30 {
            let due = tick(second);
            assert_eq!(observed.observe_job(due, due, at(100 + second.unsigned_abs())), due);
        }
    }

    #[test]
    fn a_job_stored_by_a_bus_with_a_fast_clock_counts_for_a_minute_at_most() {
        let mut observed = ObservedClocks::default();
        observed.observe_job(tick(0), tick(180), at(100));
        assert_eq!(observed.observe_job(tick(1), tick(1), at(101)), tick(181));
        for second in (10..=60).step_by(10) {
            observed.observe_job(tick(second), tick(second), at(100 + second.unsigned_abs()));
        }
        assert_eq!(observed.observe_job(tick(60), tick(60), at(160)), tick(60));
    }

    #[test]
    fn a_wall_clock_is_trusted_while_it_is_plausible() {
        let mut observed = ObservedClocks::default();
        observed.observe_job(tick(0), tick(0), at(5));

        assert_eq!(observed.wall_clock_error_us(tick(0), at(5)), 0);
        assert_eq!(observed.wall_clock_error_us(tick(60), at(5)), 0);
        assert_eq!(observed.wall_clock_error_us(tick(300), at(5)), 300_000_000);
        assert_eq!(observed.wall_clock_error_us(tick(-300), at(5)), -300_000_000);
        assert_eq!(observed.wall_clock_error_us(tick(-300 + 40), at(45)), -300_000_000);
    }

    #[test]
    fn old_readings_expire() {
        let mut newest = LowerBound::default();
        newest.observe_moment(tick(3_600), at(0));
        (1..20).for_each(|n| newest.observe_moment(tick(10 * n), at(10 * n.unsigned_abs())));

        assert_eq!(newest.lower_bound(at(200)), Some(tick(200)));
        newest.observe_moment(tick(9_000), at(9_000));
        assert_eq!(newest.previous_max_us, None);
    }
}
