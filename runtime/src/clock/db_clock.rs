//! Estimate of the database's clock in one process: the process's boot-time clock plus an offset.
//! Pure, without I/O.
//!
//! All coordinators and sinks measure the offset periodically, so that processes with wrong wall
//! clocks agree on what is due. A single reading is not trusted: if the database's clock jumps by
//! more than [`DbClock::MAX_UNCONFIRMED_STEP`], the estimate continues as before until a second
//! clock confirms the jump. The second clock is the NATS server's. A jump that lasts for
//! [`DbClock::JUMP_HOLD_PERIOD`] is accepted without confirmation.

use std::time::Duration;

use picket_proto::Timestamp;

use super::Boottime;

/// Offset between the two clocks. Measured periodically and slewed, so that the jitter of a
/// measurement neither moves the schedules' time forward at once nor halts it.
#[derive(Clone, Copy, Debug)]
pub struct DbClock {
    offset_us: i64,
    target_us: i64,
    measured_at: Boottime,
    best_round_trip: Duration,
    pending_jump: Option<ClockJump>,
    /// Lead of the database's clock over the NATS server's, at the last reading of both.
    ahead_of_bus_us: Option<i64>,
    steady_since: Boottime,
}

/// Jump of the database's clock that no second clock confirms.
#[derive(Clone, Copy, Debug)]
struct ClockJump {
    offset_us: i64,
    since: Boottime,
}

/// Reading of a remote clock: `remote_time` was read between the local times `sent_at` and
/// `received_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Local time before the request.
    pub sent_at: Boottime,
    /// Local time after the response.
    pub received_at: Boottime,
    /// Time read from the remote clock.
    pub remote_time: Timestamp,
}

impl ClockReading {
    /// Offset from the local clock to the remote clock, in microseconds.
    fn offset_us(&self) -> i64 {
        self.remote_time.as_micros() - self.sent_at.as_micros() - self.error_us()
    }

    /// Maximum error of the offset, in microseconds.
    fn error_us(&self) -> i64 {
        i64::try_from(self.received_at.saturating_duration_since(self.sent_at).as_micros() / 2).unwrap_or(0)
    }
}

/// Effect of a measurement on the estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockAdjustment {
    /// The clocks agree within the step threshold; the estimate is slewed.
    Slewing,
    /// The round trip took too long for a useful measurement, which was ignored.
    Ignored,
    /// The database's clock is off by this number of microseconds, and no second clock confirms the
    /// jump. The estimate continues as if the clock had not jumped.
    Unconfirmed(i64),
    /// The estimate jumped by this number of microseconds.
    Stepped(i64),
}

impl DbClock {
    /// Slew rate: at most 1/200, or 5 ms per second.
    const SLEW_DIVISOR: i64 = 200;
    /// Smallest difference that counts as a jump of the database's clock.
    const STEP_THRESHOLD_US: i64 = 1_000_000;
    /// Maximum jump that is followed without confirmation. Ticks due in the skipped time can still
    /// be checked, and after a jump back the repeated time is over soon enough.
    pub const MAX_UNCONFIRMED_STEP: Duration = Duration::from_secs(10);
    /// Time after which an unconfirmed jump of the database's clock is followed.
    pub const JUMP_HOLD_PERIOD: Duration = Duration::from_secs(600);
    /// Maximum difference of two clocks that agree.
    const MAX_DISAGREEMENT_US: i64 = 5_000_000;
    /// Maximum age of the last measurement before a slow round trip is accepted as well.
    const MAX_MEASUREMENT_AGE: Duration = Duration::from_secs(60);

    /// Starts from the first measurement.
    pub fn new(first: ClockReading) -> Self {
        let offset_us = first.offset_us();
        Self {
            offset_us,
            target_us: offset_us,
            measured_at: first.received_at,
            best_round_trip: first.received_at.saturating_duration_since(first.sent_at),
            pending_jump: None,
            ahead_of_bus_us: None,
            steady_since: first.received_at,
        }
    }

    /// Applies another reading of the database's clock, and one of the NATS server's if available.
    pub fn observe_reading(&mut self, reading: ClockReading, bus: Option<ClockReading>) -> ClockAdjustment {
        let received = reading.received_at;
        let round_trip = received.saturating_duration_since(reading.sent_at);
        let is_good = round_trip <= self.best_round_trip * 2 + Duration::from_millis(1);
        let (current, target) = (self.offset_at(received), reading.offset_us());
        let apart = target - current;
        let has_jumped = apart.abs() > Self::STEP_THRESHOLD_US + if is_good { 0 } else { reading.error_us() };
        // A slow reading is useful only if it shows a jump beyond its own error, or if the last
        // good one is too old.
        if !has_jumped
            && !is_good
            && received.saturating_duration_since(self.measured_at) < Self::MAX_MEASUREMENT_AGE
        {
            return ClockAdjustment::Ignored;
        }
        let bus_us = bus.map(|bus| bus.offset_us());
        if has_jumped {
            let same = |jump: &ClockJump| {
                (target - jump.offset_us).abs() <= Self::STEP_THRESHOLD_US + reading.error_us()
            };
            // Readings of the same jump keep its start, so that the hold period can pass.
            let jump = match self.pending_jump.filter(same) {
                Some(jump) => jump,
                None => {
                    self.steady_since = received;
                    ClockJump { offset_us: target, since: received }
                }
            };
            self.pending_jump = Some(jump);
            let is_small = apart.unsigned_abs() <= Self::MAX_UNCONFIRMED_STEP.as_micros() as u64;
            let has_lasted = received.saturating_duration_since(jump.since) >= Self::JUMP_HOLD_PERIOD;
            if !is_small && !has_lasted && !bus_us.is_some_and(|bus| self.is_confirmed(target, bus)) {
                return ClockAdjustment::Unconfirmed(apart);
            }
        } else if self.pending_jump.is_some() {
            self.steady_since = received;
        }
        // Raised by 1/64 per reading, in case the route to the database has become longer for good.
        self.best_round_trip = self.best_round_trip.min(round_trip) + self.best_round_trip / 64;
        self.measured_at = received;
        self.target_us = target;
        self.pending_jump = None;
        self.ahead_of_bus_us = bus_us.map_or(self.ahead_of_bus_us, |bus| Some(target - bus));
        if has_jumped {
            self.offset_us = target;
            return ClockAdjustment::Stepped(apart);
        }
        self.offset_us = current;
        ClockAdjustment::Slewing
    }

    /// Returns true if `reading` is ahead of the last raw estimate: the database's clock has
    /// jumped, or the local clock has stood still.
    pub fn is_behind(&self, reading: &ClockReading) -> bool {
        let expected = self.raw_time_at(reading.received_at).as_micros() - reading.received_at.as_micros();
        reading.offset_us() - expected > Self::STEP_THRESHOLD_US + reading.error_us()
    }

    /// Returns true if the NATS server's clock agrees with the database's, or has jumped together
    /// with it. In the second case the local clock stood still, as in a paused virtual machine.
    fn is_confirmed(&self, target: i64, bus: i64) -> bool {
        let ahead = target - bus;
        let moved_together =
            self.ahead_of_bus_us.is_some_and(|before| (ahead - before).abs() < Self::MAX_DISAGREEMENT_US);
        ahead.abs() < Self::MAX_DISAGREEMENT_US || moved_together
    }

    /// Scheduling time at the local time `at`: the database's time without unconfirmed jumps.
    pub fn time_at(&self, at: Boottime) -> Timestamp {
        Timestamp::from_micros(at.as_micros().saturating_add(self.offset_at(at)))
    }

    /// Database's own time at the local time `at`, extrapolated from the last reading, including
    /// unconfirmed jumps.
    pub fn raw_time_at(&self, at: Boottime) -> Timestamp {
        let offset = self.pending_jump.map_or_else(|| self.offset_at(at), |jump| jump.offset_us);
        Timestamp::from_micros(at.as_micros().saturating_add(offset))
    }

    /// Size of the jump of the database's clock in microseconds, while no second clock confirms it.
    pub fn unconfirmed_jump_us(&self) -> Option<i64> {
        self.pending_jump.map(|jump| jump.offset_us - self.target_us)
    }

    /// Start of the time in which the database's clock has run at the rate of the local clock, with
    /// any offset.
    pub fn steady_since(&self) -> Boottime {
        self.steady_since
    }

    fn offset_at(&self, at: Boottime) -> i64 {
        let elapsed =
            i64::try_from(at.saturating_duration_since(self.measured_at).as_micros()).unwrap_or(i64::MAX);
        let max_slew = elapsed / Self::SLEW_DIVISOR;
        self.offset_us + (self.target_us - self.offset_us).clamp(-max_slew, max_slew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: i64 = 60_000_000;
    const DAY_US: i64 = 86_400_000_000;

    fn boot(us: i64) -> Boottime {
        Boottime::from_elapsed(Duration::from_micros(us.unsigned_abs()))
    }

    /// Instant reading, at local time `at_us`, of a clock that is `ahead_us` ahead of the local
    /// one.
    fn read(at_us: i64, ahead_us: i64) -> ClockReading {
        ClockReading {
            sent_at: boot(at_us),
            received_at: boot(at_us),
            remote_time: Timestamp::from_micros(at_us + ahead_us),
        }
    }

    #[test]
    fn a_small_difference_is_slewed_by_at_most_five_milliseconds_a_second() {
        let mut clock = DbClock::new(read(0, 1_000_000));

        assert_eq!(clock.observe_reading(read(10_000_000, 1_100_000), None), ClockAdjustment::Slewing);

        assert_eq!(clock.time_at(boot(10_000_000)).as_micros(), 11_000_000);
        assert_eq!(clock.time_at(boot(11_000_000)).as_micros(), 12_005_000);
        assert_eq!(clock.time_at(boot(100_000_000)).as_micros(), 101_100_000);
    }

    #[test]
    fn a_small_step_is_followed_immediately_and_reported() {
        let mut clock = DbClock::new(read(0, 0));

        assert_eq!(clock.observe_reading(read(1_000, 9_000_000), None), ClockAdjustment::Stepped(9_000_000));
        assert_eq!(clock.time_at(boot(1_000)).as_micros(), 9_001_000);
        assert_eq!((clock.unconfirmed_jump_us(), clock.steady_since()), (None, boot(1_000)));
    }

    #[test]
    fn a_jump_that_reverts_has_no_effect() {
        for jump in [180_000_000, -10 * MINUTE_US, 45 * DAY_US] {
            let mut clock = DbClock::new(read(0, 0));
            for second in 1..240 {
                let bus = Some(read(second * 1_000_000, 500));
                let adjusted = clock.observe_reading(read(second * 1_000_000, jump), bus);
                assert_eq!(adjusted, ClockAdjustment::Unconfirmed(jump));
                assert_eq!(clock.time_at(boot(second * 1_000_000)).as_micros(), second * 1_000_000);
                assert_eq!(
                    clock.raw_time_at(boot(second * 1_000_000)).as_micros(),
                    second * 1_000_000 + jump
                );
                assert_eq!(clock.unconfirmed_jump_us(), Some(jump));
            }
            assert_eq!(clock.steady_since(), boot(1_000_000));

            assert_eq!(clock.observe_reading(read(240_000_000, 0), None), ClockAdjustment::Slewing);
            assert_eq!((clock.unconfirmed_jump_us(), clock.steady_since()), (None, boot(240_000_000)));
        }
    }

    #[test]
    fn a_lasting_jump_is_followed_eventually() {
        let mut clock = DbClock::new(read(0, 0));
        let hold = DbClock::JUMP_HOLD_PERIOD.as_micros() as i64;

        assert_eq!(
            clock.observe_reading(read(MINUTE_US, DAY_US), None),
            ClockAdjustment::Unconfirmed(DAY_US)
        );
        assert_eq!(clock.observe_reading(read(hold, DAY_US), None), ClockAdjustment::Unconfirmed(DAY_US));
        // A different jump starts a new hold period.
        assert_eq!(
            clock.observe_reading(read(hold + 1, MINUTE_US), None),
            ClockAdjustment::Unconfirmed(MINUTE_US)
        );
        assert_eq!(
            clock.observe_reading(read(2 * hold, MINUTE_US), None),
            ClockAdjustment::Unconfirmed(MINUTE_US)
        );
        assert_eq!(
            clock.observe_reading(read(2 * hold + 1, MINUTE_US), None),
            ClockAdjustment::Stepped(MINUTE_US)
        );
        assert_eq!(clock.time_at(boot(2 * hold + 1)).as_micros(), 2 * hold + 1 + MINUTE_US);
    }

    #[test]
    fn a_jump_confirmed_by_the_bus_is_followed_immediately() {
        let mut clock = DbClock::new(read(0, 400_000_000));
        clock.observe_reading(read(1_000_000, 400_000_000), Some(read(1_000_000, 0)));

        let set = clock.observe_reading(read(2_000_000, 1_000), Some(read(2_000_000, 0)));

        assert_eq!(set, ClockAdjustment::Stepped(-399_999_000));
    }

    /// A virtual machine was paused without counting by `CLOCK_BOOTTIME`: both remote clocks are
    /// ahead by the same amount.
    #[test]
    fn a_suspension_missed_by_the_local_clock_is_corrected_immediately() {
        let mut clock = DbClock::new(read(0, 400_000_000));
        clock.observe_reading(read(1_000_000, 400_000_000), Some(read(1_000_000, 0)));

        let woken = clock.observe_reading(read(2_000_000, 490_000_000), Some(read(2_000_000, 90_000_000)));

        assert_eq!(woken, ClockAdjustment::Stepped(90_000_000));
    }

    #[test]
    fn a_stopped_clock_is_noticed_even_if_it_cancels_a_backward_jump() {
        let mut clock = DbClock::new(read(0, 0));
        assert!(!clock.is_behind(&read(1_000_000, 900_000)));
        assert!(clock.is_behind(&read(1_000_000, 1_100_000)));
        assert!(!clock.is_behind(&read(1_000_000, -30_000_000)));

        clock.observe_reading(read(1_000_000, -30_000_000), None);
        assert!(!clock.is_behind(&read(2_000_000, -30_000_000)));
        assert!(clock.is_behind(&read(2_000_000, 0)));
    }

    #[test]
    fn a_slow_round_trips_measurement_is_discarded_unless_it_must_be_a_jump() {
        let first = ClockReading {
            sent_at: boot(0),
            received_at: boot(1_000),
            remote_time: Timestamp::from_micros(500),
        };
        let mut clock = DbClock::new(first);
        let slow = |now_us| ClockReading {
            sent_at: boot(1_000_000),
            received_at: boot(1_900_000),
            remote_time: Timestamp::from_micros(now_us),
        };

        assert_eq!(clock.observe_reading(slow(1_899_000), None), ClockAdjustment::Ignored);
        assert_eq!(clock.time_at(boot(2_000_000)).as_micros(), 2_000_000);
        assert_eq!(clock.observe_reading(slow(61_450_000), None), ClockAdjustment::Unconfirmed(60_000_000));
    }
}
