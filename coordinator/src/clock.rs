//! The database's clock, as this coordinator knows it: its own clock that only goes forward, plus an offset.
//!
//! All coordinators measure the offset at each announcement, so that those with wrong wall clocks agree on what
//! is due.

use std::time::Duration;

use picket_proto::Timestamp;
use picket_runtime::clock::Boottime;

/// The offset between the two clocks. Measured again and again; moved slowly, so that time as the schedules see it
/// neither jumps nor stands still for the jitter of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseClock {
    offset_us: i64,
    target_us: i64,
    measured_at: Boottime,
    best_round_trip: Duration,
}

/// What a measurement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjusted {
    /// The clocks run together, or nearly.
    Slewing,
    /// The measurement took too long to say much, and was left out.
    Ignored,
    /// They were too far apart to slew: by so many microseconds time has jumped.
    Stepped(i64),
}

impl DatabaseClock {
    /// At most 5 ms a second.
    const SLEW_DIVISOR: i64 = 200;
    /// Beyond this the database's clock was set, and we follow at once.
    const STEP_US: i64 = 1_000_000;
    /// A measurement older than this is worth less than a bad one.
    const STALE: Duration = Duration::from_secs(60);

    /// From the first measurement: the database said `now` between our readings `sent` and `received`.
    pub fn new(sent: Boottime, received: Boottime, now: Timestamp) -> Self {
        let offset_us = measured(sent, received, now);
        Self { offset_us, target_us: offset_us, measured_at: received, best_round_trip: received.since(sent) }
    }

    /// Takes in another measurement.
    pub fn observe(&mut self, sent: Boottime, received: Boottime, now: Timestamp) -> Adjusted {
        let round_trip = received.since(sent);
        let good = round_trip <= self.best_round_trip * 2 + Duration::from_millis(1);
        if !good && received.since(self.measured_at) < Self::STALE {
            return Adjusted::Ignored;
        }
        let current = self.offset_at(received);
        let target = measured(sent, received, now);
        // Slowly forgotten, in case the way to the database has become longer for good.
        self.best_round_trip = self.best_round_trip.min(round_trip) + self.best_round_trip / 64;
        self.measured_at = received;
        self.target_us = target;
        let apart = target - current;
        if apart.abs() > Self::STEP_US {
            self.offset_us = target;
            return Adjusted::Stepped(apart);
        }
        self.offset_us = current;
        Adjusted::Slewing
    }

    /// The database's clock at our reading `at`.
    pub fn at(&self, at: Boottime) -> Timestamp {
        Timestamp::from_micros(at.micros().saturating_add(self.offset_at(at)))
    }

    fn offset_at(&self, at: Boottime) -> i64 {
        let elapsed = i64::try_from(at.since(self.measured_at).as_micros()).unwrap_or(i64::MAX);
        let most = elapsed / Self::SLEW_DIVISOR;
        self.offset_us + (self.target_us - self.offset_us).clamp(-most, most)
    }
}

fn measured(sent: Boottime, received: Boottime, now: Timestamp) -> i64 {
    let half = i64::try_from(received.since(sent).as_micros() / 2).unwrap_or(0);
    now.micros() - sent.micros() - half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(us: u64) -> Boottime {
        Boottime::at(Duration::from_micros(us))
    }

    #[test]
    fn a_small_difference_is_slewed_by_at_most_five_milliseconds_a_second() {
        let mut clock = DatabaseClock::new(boot(0), boot(0), Timestamp::from_micros(1_000_000));

        assert_eq!(
            clock.observe(boot(10_000_000), boot(10_000_000), Timestamp::from_micros(11_100_000)),
            Adjusted::Slewing
        );

        assert_eq!(clock.at(boot(10_000_000)).micros(), 11_000_000);
        assert_eq!(clock.at(boot(11_000_000)).micros(), 12_005_000);
        assert_eq!(clock.at(boot(100_000_000)).micros(), 101_100_000);
    }

    #[test]
    fn a_clock_that_was_set_is_followed_at_once_and_told_of() {
        let mut clock = DatabaseClock::new(boot(0), boot(0), Timestamp::from_micros(0));

        let adjusted = clock.observe(boot(1_000), boot(1_000), Timestamp::from_micros(300_001_000));

        assert_eq!(adjusted, Adjusted::Stepped(300_000_000));
        assert_eq!(clock.at(boot(1_000)).micros(), 300_001_000);
    }

    #[test]
    fn a_measurement_over_a_slow_round_trip_is_left_out() {
        let mut clock = DatabaseClock::new(boot(0), boot(1_000), Timestamp::from_micros(500));

        assert_eq!(
            clock.observe(boot(1_000_000), boot(1_900_000), Timestamp::from_micros(1_899_000)),
            Adjusted::Ignored
        );
        assert_eq!(clock.at(boot(2_000_000)).micros(), 2_000_000);
    }
}
