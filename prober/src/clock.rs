//! What time it is by the clock that ticks are made on, as far as jobs tell: a prober has no database to ask.
//!
//! A job is published when its tick has come and not before. So by the database's clock it is at least as late as the
//! newest tick that was heard of says, and that bound goes forward with a clock that nobody sets. When a prober's
//! jobs come at once, as they should, the bound is exact to within milliseconds; when all come late it lags.
//!
//! - Whether a job has expired is judged by the bound alone: a prober whose wall clock is minutes fast would call all
//!   of them expired. Where the bound lags, the job's time to live in the stream is what ends it. A job without one,
//!   which is not a coordinator's, says nothing of the time and is judged by our own clock.
//! - When a check began is what the wall clock says, while that can be right: it is not before the bound, and not
//!   so late after it that every job must have outlived itself. Otherwise it is the bound, and the log says so.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use picket_proto::{Region, Timestamp, job};
use picket_runtime::{
    Health,
    clock::{Boottime, wall},
};
use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

/// Cheap to clone; all clones are one clock.
#[derive(Clone, Default)]
pub(crate) struct Clock {
    told: Arc<Mutex<Told>>,
    off: Gauge,
}

impl Clock {
    pub(crate) fn new(health: &Health, region: &Region) -> Self {
        let clock = Self::default();
        let mut registry = health.registry();
        let registry = registry
            .sub_registry_with_prefix("prober")
            .sub_registry_with_label(("region".into(), region.to_string().into()));
        registry.register(
            "clock_off_seconds",
            "How far ahead (behind: below 0) this machine's clock is where it cannot be right; 0 where it can",
            clock.off.clone(),
        );
        clock
    }

    /// A job has come whose tick was due then.
    pub(crate) fn heard(&self, scheduled_at: Timestamp) {
        let now = Boottime::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.heard(scheduled_at, now);
        let off = told.off(wall(), now);
        let seconds = off / 1_000_000;
        self.off.set(seconds);
        let is_off = seconds != 0;
        if std::mem::replace(&mut told.said, is_off) == is_off {
            return;
        }
        match is_off {
            true => warn!(
                seconds,
                "this machine's clock is {} s {} the clock of those who schedule; checks are dated by theirs",
                seconds.abs(),
                if seconds > 0 { "ahead of" } else { "behind" }
            ),
            false => info!("this machine's clock agrees with those who schedule again"),
        }
    }

    /// A moment that has come by the clock of those who schedule; without a word of theirs, now by ours.
    pub(crate) fn at_least(&self) -> Timestamp {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.at_least(Boottime::now()).unwrap_or_else(wall)
    }

    /// Now by our clock, or by theirs where ours cannot be right.
    pub(crate) fn now(&self) -> Timestamp {
        let (wall, told) = (wall(), self.told.lock().unwrap_or_else(PoisonError::into_inner));
        Timestamp::from_micros(wall.micros() - told.off(wall, Boottime::now()))
    }
}

/// What was heard, without a clock of its own.
#[derive(Default)]
struct Told {
    /// Differences, in microseconds, of tick and clock: the largest of this span, and of the span before.
    newest: Option<i64>,
    before: Option<i64>,
    since: Option<Boottime>,
    said: bool,
}

impl Told {
    /// What was heard counts for one to two of these, so that a scheduler's clock may be set back.
    const SPAN: Duration = Duration::from_secs(600);
    /// No job that the stream still gives out was due longer ago: it drops each within seconds of its end.
    const OLDEST_US: i64 = (job::MAX_LIFE.as_micros() as i64) + 5_000_000;

    fn heard(&mut self, scheduled_at: Timestamp, now: Boottime) {
        match self.since {
            Some(since) if now.since(since) < Self::SPAN => {}
            since => {
                let is_next = since.is_some_and(|since| now.since(since) < 2 * Self::SPAN);
                self.before = self.newest.take().filter(|_| is_next);
                self.since = Some(now);
            }
        }
        let ahead = scheduled_at.micros() - now.micros();
        self.newest = Some(self.newest.map_or(ahead, |newest| newest.max(ahead)));
    }

    fn at_least(&self, now: Boottime) -> Option<Timestamp> {
        let ahead = self.newest.max(self.before)?;
        Some(Timestamp::from_micros(now.micros().saturating_add(ahead)))
    }

    /// By how many microseconds `wall` must be wrong to be the bound; 0 where it can be right.
    fn off(&self, wall: Timestamp, now: Boottime) -> i64 {
        let Some(bound) = self.at_least(now) else { return 0 };
        let ahead = wall.micros() - bound.micros();
        if (0..=Self::OLDEST_US).contains(&ahead) { 0 } else { ahead }
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
        Boottime::at(Duration::from_secs(second))
    }

    #[test]
    fn the_newest_tick_heard_of_says_how_late_it_is_at_least() {
        let mut told = Told::default();
        assert_eq!((told.at_least(at(5)), told.off(tick(0), at(5))), (None, 0));
        told.heard(tick(0), at(5));
        // This one waited for ten seconds, and says nothing new.
        told.heard(tick(10), at(25));

        assert_eq!(told.at_least(at(30)), Some(tick(25)));
    }

    #[test]
    fn a_wall_clock_is_believed_while_it_can_be_right() {
        let mut told = Told::default();
        told.heard(tick(0), at(5));

        assert_eq!(told.off(tick(0), at(5)), 0);
        assert_eq!(told.off(tick(60), at(5)), 0);
        assert_eq!(told.off(tick(300), at(5)), 300_000_000);
        assert_eq!(told.off(tick(-300), at(5)), -300_000_000);
        assert_eq!(told.off(tick(-300 + 40), at(45)), -300_000_000);
    }

    #[test]
    fn what_was_heard_long_ago_counts_no_more() {
        let mut told = Told::default();
        // Whoever scheduled was an hour ahead, until somebody set his clock.
        told.heard(tick(3_600), at(0));
        (1..200).for_each(|n| told.heard(tick(10 * n), at(10 * n.unsigned_abs())));

        assert_eq!(told.at_least(at(2_000)), Some(tick(2_000)));
        told.heard(tick(9_000), at(9_000));
        assert_eq!(told.before, None);
    }
}
