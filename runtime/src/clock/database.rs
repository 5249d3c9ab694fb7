//! Pure: the database's clock as one process knows it, which is the process's own clock that only goes forward, plus an offset.
//!
//! All coordinators and sinks measure the offset again and again, so that those with wrong wall clocks agree on what is due.
//! One reading is no proof: a database whose clock jumps by more than some seconds is not followed before a second witness
//! confirms the jump, and time goes on as before until then. The witnesses are the NATS server's clock, and in the end time
//! itself: a jump that has lasted for [`DatabaseClock::HOLD`] is the truth.

use std::time::Duration;

use picket_proto::Timestamp;

use super::Boottime;

/// The offset between the two clocks. Measured again and again; moved slowly, so that time as the schedules see it
/// neither jumps nor stands still for the jitter of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseClock {
    offset_us: i64,
    target_us: i64,
    measured_at: Boottime,
    best_round_trip: Duration,
    jump: Option<Jump>,
    /// By how much the database is ahead of the NATS server, as of the last time that both were read.
    ahead_of_bus_us: Option<i64>,
    steady_since: Boottime,
}

/// A jump of the database's clock that nothing else confirms.
#[derive(Clone, Copy, Debug)]
struct Jump {
    offset_us: i64,
    since: Boottime,
}

/// One reading of another machine's clock: it said `now` between our own readings `sent` and `received`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Before it was asked.
    pub sent: Boottime,
    /// After it answered.
    pub received: Boottime,
    /// What it said.
    pub now: Timestamp,
}

impl Reading {
    /// Our offset to that clock, in microseconds.
    fn offset_us(&self) -> i64 {
        self.now.micros() - self.sent.micros() - self.error_us()
    }

    /// How wrong the offset may be.
    fn error_us(&self) -> i64 {
        i64::try_from(self.received.since(self.sent).as_micros() / 2).unwrap_or(0)
    }
}

/// What a measurement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjusted {
    /// The clocks run together, or nearly.
    Slewing,
    /// The measurement took too long to say much, and was left out.
    Ignored,
    /// The database's clock is so many microseconds away from where it should be, and no second witness says so: time goes
    /// on as if it had not jumped.
    Unconfirmed(i64),
    /// By so many microseconds time has jumped, and we with it.
    Stepped(i64),
}

impl DatabaseClock {
    /// At most 5 ms a second.
    const SLEW_DIVISOR: i64 = 200;
    /// Beyond this the database's clock has jumped.
    const STEP_US: i64 = 1_000_000;
    /// A jump of up to this is followed at once: what was due in between can still be done, or is done within that time.
    pub const SMALL_STEP: Duration = Duration::from_secs(10);
    /// After so long the database's clock rules, though it jumped and no witness confirms it.
    pub const HOLD: Duration = Duration::from_secs(600);
    /// Two clocks that differ by no more tell the same time, as witnesses.
    const AGREE_US: i64 = 5_000_000;
    /// A measurement older than this is worth less than a bad one.
    const STALE: Duration = Duration::from_secs(60);

    /// From the first measurement.
    pub fn new(first: Reading) -> Self {
        let offset_us = first.offset_us();
        Self {
            offset_us,
            target_us: offset_us,
            measured_at: first.received,
            best_round_trip: first.received.since(first.sent),
            jump: None,
            ahead_of_bus_us: None,
            steady_since: first.received,
        }
    }

    /// Takes in another reading of the database's clock, and one of the NATS server's where there is one.
    pub fn observe(&mut self, reading: Reading, bus: Option<Reading>) -> Adjusted {
        let received = reading.received;
        let round_trip = received.since(reading.sent);
        let is_good = round_trip <= self.best_round_trip * 2 + Duration::from_millis(1);
        let (current, target) = (self.offset_at(received), reading.offset_us());
        let apart = target - current;
        let has_jumped = apart.abs() > Self::STEP_US + if is_good { 0 } else { reading.error_us() };
        if !has_jumped && !is_good && received.since(self.measured_at) < Self::STALE {
            return Adjusted::Ignored;
        }
        let bus_us = bus.map(|bus| bus.offset_us());
        if has_jumped {
            let same = |jump: &Jump| (target - jump.offset_us).abs() <= Self::STEP_US + reading.error_us();
            let jump = match self.jump.filter(same) {
                Some(jump) => jump,
                None => {
                    self.steady_since = received;
                    Jump { offset_us: target, since: received }
                }
            };
            self.jump = Some(jump);
            let is_small = apart.unsigned_abs() <= Self::SMALL_STEP.as_micros() as u64;
            let has_lasted = received.since(jump.since) >= Self::HOLD;
            if !is_small && !has_lasted && !bus_us.is_some_and(|bus| self.is_confirmed(target, bus)) {
                return Adjusted::Unconfirmed(apart);
            }
        } else if self.jump.is_some() {
            self.steady_since = received;
        }
        // Slowly forgotten, in case the way to the database has become longer for good.
        self.best_round_trip = self.best_round_trip.min(round_trip) + self.best_round_trip / 64;
        self.measured_at = received;
        self.target_us = target;
        self.jump = None;
        self.ahead_of_bus_us = bus_us.map_or(self.ahead_of_bus_us, |bus| Some(target - bus));
        if has_jumped {
            self.offset_us = target;
            return Adjusted::Stepped(apart);
        }
        self.offset_us = current;
        Adjusted::Slewing
    }

    /// Whether `reading` is ahead of what the database would say if both clocks had gone on as they did: it has jumped, or our
    /// own clock has stood still.
    pub fn is_behind(&self, reading: &Reading) -> bool {
        let expected = self.as_read(reading.received).micros() - reading.received.micros();
        reading.offset_us() - expected > Self::STEP_US + reading.error_us()
    }

    /// Whether the NATS server's clock says the same as the database's, or has jumped together with it: then it is our
    /// own that stood still, as it does in a virtual machine that is paused.
    fn is_confirmed(&self, target: i64, bus: i64) -> bool {
        let ahead = target - bus;
        let moved_together =
            self.ahead_of_bus_us.is_some_and(|before| (ahead - before).abs() < Self::AGREE_US);
        ahead.abs() < Self::AGREE_US || moved_together
    }

    /// The time at our reading `at`, by which everything goes: the database's, without a jump that is not confirmed.
    pub fn at(&self, at: Boottime) -> Timestamp {
        Timestamp::from_micros(at.micros().saturating_add(self.offset_at(at)))
    }

    /// What the database itself says at our reading `at`, as of the last reading, jumps and all.
    pub fn as_read(&self, at: Boottime) -> Timestamp {
        let offset = self.jump.map_or_else(|| self.offset_at(at), |jump| jump.offset_us);
        Timestamp::from_micros(at.micros().saturating_add(offset))
    }

    /// By how many microseconds the database's clock has jumped, while no second witness confirms it.
    pub fn unconfirmed(&self) -> Option<i64> {
        self.jump.map(|jump| jump.offset_us - self.target_us)
    }

    /// Since when the database's clock has gone as fast as ours, whatever it says.
    pub fn steady_since(&self) -> Boottime {
        self.steady_since
    }

    fn offset_at(&self, at: Boottime) -> i64 {
        let elapsed = i64::try_from(at.since(self.measured_at).as_micros()).unwrap_or(i64::MAX);
        let most = elapsed / Self::SLEW_DIVISOR;
        self.offset_us + (self.target_us - self.offset_us).clamp(-most, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: i64 = 60_000_000;
    const DAY_US: i64 = 86_400_000_000;

    fn boot(us: i64) -> Boottime {
        Boottime::at(Duration::from_micros(us.unsigned_abs()))
    }

    /// What a clock that is `ahead_us` of ours says at `at_us`, at once.
    fn read(at_us: i64, ahead_us: i64) -> Reading {
        Reading { sent: boot(at_us), received: boot(at_us), now: Timestamp::from_micros(at_us + ahead_us) }
    }

    #[test]
    fn a_small_difference_is_slewed_by_at_most_five_milliseconds_a_second() {
        let mut clock = DatabaseClock::new(read(0, 1_000_000));

        assert_eq!(clock.observe(read(10_000_000, 1_100_000), None), Adjusted::Slewing);

        assert_eq!(clock.at(boot(10_000_000)).micros(), 11_000_000);
        assert_eq!(clock.at(boot(11_000_000)).micros(), 12_005_000);
        assert_eq!(clock.at(boot(100_000_000)).micros(), 101_100_000);
    }

    #[test]
    fn a_small_step_is_followed_at_once_and_told_of() {
        let mut clock = DatabaseClock::new(read(0, 0));

        assert_eq!(clock.observe(read(1_000, 9_000_000), None), Adjusted::Stepped(9_000_000));
        assert_eq!(clock.at(boot(1_000)).micros(), 9_001_000);
        assert_eq!((clock.unconfirmed(), clock.steady_since()), (None, boot(1_000)));
    }

    #[test]
    fn a_jump_that_comes_back_has_never_been() {
        for jump in [180_000_000, -10 * MINUTE_US, 45 * DAY_US] {
            let mut clock = DatabaseClock::new(read(0, 0));
            for second in 1..240 {
                let bus = Some(read(second * 1_000_000, 500));
                let adjusted = clock.observe(read(second * 1_000_000, jump), bus);
                assert_eq!(adjusted, Adjusted::Unconfirmed(jump));
                assert_eq!(clock.at(boot(second * 1_000_000)).micros(), second * 1_000_000);
                assert_eq!(clock.as_read(boot(second * 1_000_000)).micros(), second * 1_000_000 + jump);
                assert_eq!(clock.unconfirmed(), Some(jump));
            }
            assert_eq!(clock.steady_since(), boot(1_000_000));

            assert_eq!(clock.observe(read(240_000_000, 0), None), Adjusted::Slewing);
            assert_eq!((clock.unconfirmed(), clock.steady_since()), (None, boot(240_000_000)));
        }
    }

    #[test]
    fn a_jump_that_lasts_is_followed_in_the_end() {
        let mut clock = DatabaseClock::new(read(0, 0));
        let hold = DatabaseClock::HOLD.as_micros() as i64;

        assert_eq!(clock.observe(read(MINUTE_US, DAY_US), None), Adjusted::Unconfirmed(DAY_US));
        assert_eq!(clock.observe(read(hold, DAY_US), None), Adjusted::Unconfirmed(DAY_US));
        // Another jump begins anew.
        assert_eq!(clock.observe(read(hold + 1, MINUTE_US), None), Adjusted::Unconfirmed(MINUTE_US));
        assert_eq!(clock.observe(read(2 * hold, MINUTE_US), None), Adjusted::Unconfirmed(MINUTE_US));
        assert_eq!(clock.observe(read(2 * hold + 1, MINUTE_US), None), Adjusted::Stepped(MINUTE_US));
        assert_eq!(clock.at(boot(2 * hold + 1)).micros(), 2 * hold + 1 + MINUTE_US);
    }

    #[test]
    fn a_database_that_is_set_to_what_the_bus_says_is_followed_at_once() {
        let mut clock = DatabaseClock::new(read(0, 400_000_000));
        clock.observe(read(1_000_000, 400_000_000), Some(read(1_000_000, 0)));

        let set = clock.observe(read(2_000_000, 1_000), Some(read(2_000_000, 0)));

        assert_eq!(set, Adjusted::Stepped(-399_999_000));
    }

    /// A virtual machine was paused, and `CLOCK_BOOTTIME` has not counted it: both others are ahead by the same.
    #[test]
    fn a_pause_that_our_own_clock_did_not_count_is_made_up_for_at_once() {
        let mut clock = DatabaseClock::new(read(0, 400_000_000));
        clock.observe(read(1_000_000, 400_000_000), Some(read(1_000_000, 0)));

        let woken = clock.observe(read(2_000_000, 490_000_000), Some(read(2_000_000, 90_000_000)));

        assert_eq!(woken, Adjusted::Stepped(90_000_000));
    }

    #[test]
    fn a_clock_that_stood_still_is_noticed_also_when_that_makes_up_for_a_jump_back() {
        let mut clock = DatabaseClock::new(read(0, 0));
        assert!(!clock.is_behind(&read(1_000_000, 900_000)));
        assert!(clock.is_behind(&read(1_000_000, 1_100_000)));
        assert!(!clock.is_behind(&read(1_000_000, -30_000_000)));

        clock.observe(read(1_000_000, -30_000_000), None);
        assert!(!clock.is_behind(&read(2_000_000, -30_000_000)));
        assert!(clock.is_behind(&read(2_000_000, 0)));
    }

    #[test]
    fn a_measurement_over_a_slow_round_trip_is_left_out_unless_it_can_only_be_a_jump() {
        let first = Reading { sent: boot(0), received: boot(1_000), now: Timestamp::from_micros(500) };
        let mut clock = DatabaseClock::new(first);
        let slow = |now_us| Reading {
            sent: boot(1_000_000),
            received: boot(1_900_000),
            now: Timestamp::from_micros(now_us),
        };

        assert_eq!(clock.observe(slow(1_899_000), None), Adjusted::Ignored);
        assert_eq!(clock.at(boot(2_000_000)).micros(), 2_000_000);
        assert_eq!(clock.observe(slow(61_450_000), None), Adjusted::Unconfirmed(60_000_000));
    }
}
