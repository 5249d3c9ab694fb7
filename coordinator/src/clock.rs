//! What time it is, for those parts of a coordinator that are not told: shared memory that the lease actor keeps.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use picket_proto::Timestamp;
use picket_runtime::clock::{Boottime, DatabaseClock, Reading, wall};

/// Cheap to clone; all clones are one clock.
#[derive(Clone, Default)]
pub struct SharedClock(Arc<Mutex<Known>>);

#[derive(Clone, Copy, Default)]
struct Known {
    database: Option<DatabaseClock>,
    bus: Option<Reading>,
}

impl SharedClock {
    /// Other clocks may be this far from the database's, and deleting for age goes on: ages are counted in days.
    pub const FAR: Duration = Duration::from_secs(3_600);
    /// The same where it is about minutes.
    pub const NEAR: Duration = Duration::from_secs(60);

    /// The database's clock, once the first reading of it is believed.
    pub fn set(&self, database: DatabaseClock) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).database = Some(database);
    }

    /// What the NATS server's clock says.
    pub fn set_bus(&self, bus: Reading) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bus = Some(bus);
    }

    /// Whether there is a reading that is believed.
    pub fn is_known(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).database.is_some()
    }

    /// The time by the database's clock.
    ///
    /// # Errors
    /// Why it is not known: the database has not been read yet, or its clock has jumped and no second witness confirms it.
    pub fn now(&self) -> Result<Timestamp, String> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.now(Boottime::now())
    }

    /// The time by the database's clock, where deleting may go by it: this machine's clock and the NATS server's are no further
    /// from it than `most`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn agreed_now(&self, most: Duration) -> Result<Timestamp, String> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.agreed_now(Boottime::now(), wall(), most)
    }
}

impl Known {
    fn now(self, at: Boottime) -> Result<Timestamp, String> {
        let database = self.database.ok_or("the database's clock has not been read yet")?;
        match database.unconfirmed() {
            Some(us) => Err(format!(
                "the database's clock has jumped by {} s, which nothing confirms",
                us / 1_000_000
            )),
            None => Ok(database.at(at)),
        }
    }

    fn agreed_now(self, at: Boottime, wall: Timestamp, most: Duration) -> Result<Timestamp, String> {
        let now = self.now(at)?;
        let bus = self.bus.map(|bus| bus.now.plus(at.since(bus.received)));
        for (whose, clock) in [("this machine's", Some(wall)), ("the NATS server's", bus)] {
            if let Some(clock) = clock
                && now.since(clock).max(clock.since(now)) > most
            {
                return Err(format!("the database's clock says {now}, and {whose} {clock}"));
            }
        }
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn read(at: u64, now: Timestamp) -> Reading {
        let at = Boottime::at(Duration::from_secs(at));
        Reading { sent: at, received: at, now }
    }

    #[test]
    fn nothing_is_deleted_by_a_clock_that_one_of_the_others_contradicts() {
        let at = Boottime::at(Duration::from_secs(10));
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let before = now.minus(Duration::from_secs(10));
        let mut known = Known { database: Some(DatabaseClock::new(read(0, before))), bus: None };

        let agreed = |known: Known, wall| known.agreed_now(at, wall, SharedClock::FAR);
        let in_minutes = now.plus(Duration::from_secs(400));

        assert_eq!(agreed(known, now), Ok(now));
        assert_eq!(agreed(known, in_minutes), Ok(now));
        assert!(known.agreed_now(at, in_minutes, SharedClock::NEAR).is_err());
        assert!(agreed(known, now.minus(DAY)).unwrap_err().contains("this machine's"));
        known.bus = Some(read(0, before));
        assert_eq!(agreed(known, now), Ok(now));
        known.bus = Some(read(0, before.plus(DAY)));
        assert!(agreed(known, now).unwrap_err().contains("the NATS server's"));
    }

    #[test]
    fn there_is_no_time_before_the_first_reading_and_while_a_jump_is_unconfirmed() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let at = Boottime::at(Duration::from_secs(1));
        assert!(Known::default().now(at).is_err());
        let mut clock = DatabaseClock::new(read(0, now));
        clock.observe(read(1, now.plus(45 * DAY)), None);

        let why = Known { database: Some(clock), bus: None }.now(at).unwrap_err();

        assert!(why.contains("has jumped by 3887999 s"), "{why}");
    }
}
