//! Clocks: the wall clock for timestamps, a monotonic clock for durations, and the database's clock
//! for schedules.

mod db_clock;

use std::time::{Duration, SystemTime};

use picket_proto::Timestamp;
use rustix::time::{ClockId, clock_gettime};

pub use db_clock::{ClockAdjustment, ClockReading, DbClock};

/// Current time of this machine's wall clock. For timestamps only, never for durations.
#[expect(clippy::disallowed_methods, reason = "this is where it is read")]
pub fn wall_clock_now() -> Timestamp {
    // Reads through the C library, unlike `Boottime`: tests preload a library with another clock.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// Reading of a clock that never goes back and continues while the machine is suspended
/// (`CLOCK_BOOTTIME`). A lease held across a suspension is therefore known to have expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(Duration);

impl Boottime {
    /// Reads the clock.
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let now = clock_gettime(ClockId::Boottime);
        // Other systems have no boot-time clock; the monotonic clock is the closest equivalent.
        #[cfg(not(target_os = "linux"))]
        let now = clock_gettime(ClockId::Monotonic);
        Self(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    /// Builds a reading for tests: `since_start` after the clock's start.
    pub fn from_elapsed(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Time from `earlier` to this reading, or zero if `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Reading after another `duration`.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// Microseconds since the clock's start.
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
