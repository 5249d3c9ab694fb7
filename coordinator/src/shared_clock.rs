//! The cluster clock as shared memory, set by the lease manager and read by other actors.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use picket_proto::Timestamp;
use picket_runtime::clock::{Boottime, ClockReading, DbClock, wall_clock_now};

/// Cheap to clone; all clones share one clock.
#[derive(Clone, Default)]
pub(crate) struct SharedClock(Arc<Mutex<ClockReadings>>);

#[derive(Clone, Copy, Default)]
struct ClockReadings {
    database: Option<DbClock>,
    bus: Option<ClockReading>,
}

impl SharedClock {
    /// Maximum difference of other clocks from the database's for retention, which counts in days.
    pub(crate) const RETENTION_TOLERANCE: Duration = Duration::from_secs(3_600);
    /// Maximum difference for repairs, which count in minutes.
    pub(crate) const REPAIR_TOLERANCE: Duration = Duration::from_secs(60);

    /// Sets the database's clock, once its first reading is trusted.
    pub(crate) fn set_database(&self, database: DbClock) {
        self.0.lock().database = Some(database);
    }

    /// Sets the NATS server's clock.
    pub(crate) fn set_bus(&self, bus: ClockReading) {
        self.0.lock().bus = Some(bus);
    }

    /// Returns true once there is a trusted reading.
    pub(crate) fn is_known(&self) -> bool {
        self.0.lock().database.is_some()
    }

    /// Current time by the database's clock.
    ///
    /// # Errors
    /// If the clock has not been read yet, or has jumped and no second source confirms the jump.
    pub(crate) fn database_now(&self) -> Result<Timestamp, String> {
        let known = *self.0.lock();
        known.database_now(Boottime::now())
    }

    /// Current time by the database's clock, safe for deletions: this machine's clock and the NATS
    /// server's differ from it by at most `most`.
    ///
    /// # Errors
    /// If the time is unknown, or another clock differs by more.
    pub(crate) fn agreed_now(&self, most: Duration) -> Result<Timestamp, String> {
        let known = *self.0.lock();
        known.agreed_now(Boottime::now(), wall_clock_now(), most)
    }
}

impl ClockReadings {
    fn database_now(self, at: Boottime) -> Result<Timestamp, String> {
        let database = self.database.ok_or("the database's clock has not been read yet")?;
        match database.unconfirmed_jump_us() {
            Some(us) => Err(format!(
                "the database's clock has jumped by {} s, unconfirmed by any other clock",
                us / 1_000_000
            )),
            None => Ok(database.time_at(at)),
        }
    }

    fn agreed_now(self, at: Boottime, wall: Timestamp, most: Duration) -> Result<Timestamp, String> {
        let now = self.database_now(at)?;
        let bus =
            self.bus.map(|bus| bus.remote_time.saturating_add(at.saturating_duration_since(bus.received_at)));
        for (whose, clock) in [("this machine's", Some(wall)), ("the NATS server's", bus)] {
            if let Some(clock) = clock
                && now.saturating_duration_since(clock).max(clock.saturating_duration_since(now)) > most
            {
                return Err(format!("the database's clock reads {now}, and {whose} {clock}"));
            }
        }
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn read(at: u64, now: Timestamp) -> ClockReading {
        let at = Boottime::from_elapsed(Duration::from_secs(at));
        ClockReading { sent_at: at, received_at: at, remote_time: now }
    }

    #[test]
    fn deletion_is_refused_while_any_clock_disagrees() {
        let at = Boottime::from_elapsed(Duration::from_secs(10));
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let before = now.saturating_sub(Duration::from_secs(10));
        let mut known = ClockReadings { database: Some(DbClock::new(read(0, before))), bus: None };

        let agreed =
            |known: ClockReadings, wall| known.agreed_now(at, wall, SharedClock::RETENTION_TOLERANCE);
        let in_minutes = now.saturating_add(Duration::from_secs(400));

        assert_eq!(agreed(known, now), Ok(now));
        assert_eq!(agreed(known, in_minutes), Ok(now));
        assert!(known.agreed_now(at, in_minutes, SharedClock::REPAIR_TOLERANCE).is_err());
        assert!(agreed(known, now.saturating_sub(DAY)).unwrap_err().contains("this machine's"));
        known.bus = Some(read(0, before));
        assert_eq!(agreed(known, now), Ok(now));
        known.bus = Some(read(0, before.saturating_add(DAY)));
        assert!(agreed(known, now).unwrap_err().contains("the NATS server's"));
    }

    #[test]
    fn the_clock_has_no_time_before_its_first_reading_or_during_an_unconfirmed_jump() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let at = Boottime::from_elapsed(Duration::from_secs(1));
        assert!(ClockReadings::default().database_now(at).is_err());
        let mut clock = DbClock::new(read(0, now));
        clock.observe_reading(read(1, now.saturating_add(45 * DAY)), None);

        let why = ClockReadings { database: Some(clock), bus: None }.database_now(at).unwrap_err();

        assert!(why.contains("has jumped by 3887999 s"), "{why}");
    }
}
