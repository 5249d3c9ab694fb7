//! What time it is by the clock that ticks are made on, as far as jobs tell: a prober has no database to ask.
//!
//! - Whether a job has expired is judged by that job alone and by the NATS server's clock, which says when it was stored and,
//!   by what is stored now, how long ago that was: a job is published when its tick has come and not before, so that it is by
//!   now at least so long after its tick. A prober whose wall clock is minutes fast would call all jobs expired, and one job
//!   from a scheduler whose clock was ahead would have called all others expired. Where the server's clock is not heard for a
//!   while the bound lags, and the job's time to live in the stream ends it. A job without one, which is not a coordinator's,
//!   says nothing of the time and is judged by our own clock.
//! - When a check began is what the wall clock says, while that can be right: it is not before the newest tick that was
//!   heard of lately, and not so long after it that every job must have outlived itself. Otherwise it is counted from that
//!   tick, and the log says so.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use picket_proto::{RegionName, Timestamp, job};
use picket_runtime::{
    Health,
    clock::{Boottime, wall_clock_now},
};
use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

/// Cheap to clone; all clones are one clock.
#[derive(Clone, Default)]
pub(crate) struct JobClock {
    observed: Arc<Mutex<ObservedClocks>>,
    error_seconds: Gauge,
}

impl JobClock {
    pub(crate) fn new(health: &Health, region: &RegionName) -> Self {
        let clock = Self::default();
        let mut registry = health.registry();
        let registry = registry
            .sub_registry_with_prefix("prober")
            .sub_registry_with_label(("region".into(), region.to_string().into()));
        registry.register(
            "clock_off_seconds",
            "How far ahead (behind: below 0) this machine's clock is where it cannot be right; 0 where it can",
            clock.error_seconds.clone(),
        );
        clock
    }

    /// A job has come whose tick was due then, and which the stream has `stored` then. Returns a moment that has come by the
    /// clock of those who schedule, as far as this job tells.
    pub(crate) fn observe_job(&self, scheduled_at: Timestamp, stored: Timestamp) -> Timestamp {
        let now = Boottime::now();
        let mut told = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let at_least = told.observe_job(scheduled_at, stored, now);
        let off = told.wall_clock_error_us(wall_clock_now(), now);
        let seconds = off / 1_000_000;
        self.error_seconds.set(seconds);
        let is_off = seconds != 0;
        match is_off {
            _ if std::mem::replace(&mut told.is_reported, is_off) == is_off => {}
            true => warn!(
                seconds,
                "this machine's clock is {} s {} the clock of those who schedule; checks are dated by theirs",
                seconds.abs(),
                if seconds > 0 { "ahead of" } else { "behind" }
            ),
            false => info!("this machine's clock agrees with those who schedule again"),
        }
        at_least
    }

    /// Now by our clock, or by theirs where ours cannot be right.
    pub(crate) fn now(&self) -> Timestamp {
        let (wall, told) = (wall_clock_now(), self.observed.lock().unwrap_or_else(PoisonError::into_inner));
        Timestamp::from_micros(wall.as_micros() - told.wall_clock_error_us(wall, Boottime::now()))
    }
}

/// What was heard, without a clock of its own.
#[derive(Default)]
struct ObservedClocks {
    scheduler: LowerBound,
    nats: LowerBound,
    is_reported: bool,
}

impl ObservedClocks {
    /// No job that the stream still gives out was due longer ago: it drops each within seconds of its end.
    const MAX_JOB_AGE_US: i64 = (job::MAX_JOB_TTL.as_micros() as i64) + 5_000_000;

    fn observe_job(&mut self, scheduled_at: Timestamp, stored: Timestamp, now: Boottime) -> Timestamp {
        self.scheduler.observe_moment(scheduled_at, now);
        self.nats.observe_moment(stored, now);
        let age =
            self.nats.lower_bound(now).map_or(Duration::ZERO, |bus| bus.saturating_duration_since(stored));
        scheduled_at.saturating_add(age)
    }

    /// By how many microseconds `wall` must be wrong to be the bound; 0 where it can be right.
    fn wall_clock_error_us(&self, wall: Timestamp, now: Boottime) -> i64 {
        let Some(bound) = self.scheduler.lower_bound(now) else { return 0 };
        let ahead = wall.as_micros() - bound.as_micros();
        if (0..=Self::MAX_JOB_AGE_US).contains(&ahead) { 0 } else { ahead }
    }
}

/// How late another's clock is at least, by the newest moment of it that was heard of lately.
#[derive(Default)]
struct LowerBound {
    /// Differences, in microseconds, of its clock and ours: the largest of this span, and of the span before.
    current_max_us: Option<i64>,
    previous_max_us: Option<i64>,
    window_start: Option<Boottime>,
}

impl LowerBound {
    /// What was heard counts for one to two of these: a clock that was ahead may be set back, and within a minute it is as if
    /// it had not been.
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
    fn a_job_tells_how_late_it_is_at_least_by_how_long_it_has_been_stored() {
        let mut told = ObservedClocks::default();
        assert_eq!(told.wall_clock_error_us(tick(0), at(5)), 0);
        assert_eq!(told.observe_job(tick(0), tick(1), at(5)), tick(0));
        // Stored 20 s ago, by what else was stored since.
        assert_eq!(told.observe_job(tick(20), tick(21), at(25)), tick(20));
        assert_eq!(told.observe_job(tick(0), tick(1), at(25)), tick(20));
        // Published late, and given out at once.
        assert_eq!(told.observe_job(tick(-30), tick(22), at(26)), tick(-30));
    }

    /// Red while one bound was kept for all jobs, and for twenty minutes: each was called expired for as long as the
    /// clock of those who schedule had been ahead.
    #[test]
    fn a_job_from_a_scheduler_whose_clock_was_ahead_says_nothing_of_other_jobs() {
        let mut told = ObservedClocks::default();
        told.observe_job(tick(180), tick(0), at(100));

        for second in 1..30 {
            let due = tick(second);
            assert_eq!(told.observe_job(due, due, at(100 + second.unsigned_abs())), due);
        }
    }

    #[test]
    fn a_job_that_a_bus_with_a_clock_ahead_has_stored_counts_for_a_minute_at_most() {
        let mut told = ObservedClocks::default();
        told.observe_job(tick(0), tick(180), at(100));
        assert_eq!(told.observe_job(tick(1), tick(1), at(101)), tick(181));
        for second in (10..=60).step_by(10) {
            told.observe_job(tick(second), tick(second), at(100 + second.unsigned_abs()));
        }
        assert_eq!(told.observe_job(tick(60), tick(60), at(160)), tick(60));
    }

    #[test]
    fn a_wall_clock_is_believed_while_it_can_be_right() {
        let mut told = ObservedClocks::default();
        told.observe_job(tick(0), tick(0), at(5));

        assert_eq!(told.wall_clock_error_us(tick(0), at(5)), 0);
        assert_eq!(told.wall_clock_error_us(tick(60), at(5)), 0);
        assert_eq!(told.wall_clock_error_us(tick(300), at(5)), 300_000_000);
        assert_eq!(told.wall_clock_error_us(tick(-300), at(5)), -300_000_000);
        assert_eq!(told.wall_clock_error_us(tick(-300 + 40), at(45)), -300_000_000);
    }

    #[test]
    fn what_was_heard_long_ago_counts_no_more() {
        let mut newest = LowerBound::default();
        newest.observe_moment(tick(3_600), at(0));
        (1..20).for_each(|n| newest.observe_moment(tick(10 * n), at(10 * n.unsigned_abs())));

        assert_eq!(newest.lower_bound(at(200)), Some(tick(200)));
        newest.observe_moment(tick(9_000), at(9_000));
        assert_eq!(newest.previous_max_us, None);
    }
}
