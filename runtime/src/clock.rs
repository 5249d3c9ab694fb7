//! The two clocks: the wall's, to say when something was, and one that only goes forward, to say how long; and the
//! database's, by which everything is due.

mod db_clock;

use std::time::{Duration, SystemTime};

use picket_proto::Timestamp;
use rustix::time::{ClockId, clock_gettime};

pub use db_clock::{ClockAdjustment, ClockReading, DbClock};

/// Now, by this machine's wall clock. To name a moment, never to measure a duration.
#[expect(clippy::disallowed_methods, reason = "this is where it is read")]
pub fn wall_clock_now() -> Timestamp {
    // By the C library, and not past it as `Boottime` is: tests put another clock in front of that.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// A reading of a clock that never goes back and goes on while the machine is suspended
/// (`CLOCK_BOOTTIME`), so that a lease held through a suspension is not believed in afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(Duration);

impl Boottime {
    /// Now.
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let now = clock_gettime(ClockId::Boottime);
        // Elsewhere the monotonic clock is the nearest there is.
        #[cfg(not(target_os = "linux"))]
        let now = clock_gettime(ClockId::Monotonic);
        Self(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    /// A reading for tests: `since_start` after the clock's own start.
    pub fn from_elapsed(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The reading `duration` later.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// Microseconds since the clock's own start.
    pub fn as_micros(self) -> i64 {
        i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_forward() {
        let (wall_before, before) = (wall_clock_now(), Boottime::now());

        assert!(wall_clock_now() >= wall_before && wall_before.as_micros() > 1_700_000_000_000_000);
        assert!(Boottime::now() >= before);
    }
}
