//! The database's clock, by which results are judged: measured now and then, over a clock of our own that only goes forward.
//!
//! Results are refused for their time only where every clock agrees that they must be: the database's as it was before it
//! last jumped, as it is, and the NATS server's when it stored the message.

use std::sync::{Arc, Mutex, PoisonError};

use picket_proto::Timestamp;
use picket_runtime::clock::{Boottime, ClockAdjustment, ClockReading, DbClock, wall_clock_now};
use picket_store::{Error, Store};
use tracing::warn;

/// Cheap to clone; all clones are one clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedDatabaseClock(Arc<Mutex<Option<DbClock>>>);

/// What time it may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeBounds {
    pub(crate) earliest: Timestamp,
    pub(crate) latest: Timestamp,
}

impl SharedDatabaseClock {
    /// Reads the database's clock.
    pub(crate) async fn update_from_database(&self, store: &Store) -> Result<(), Error> {
        let sent = Boottime::now();
        let now = store.read_clock().await?;
        self.observe_reading(ClockReading { sent_at: sent, received_at: Boottime::now(), remote_time: now });
        Ok(())
    }

    fn observe_reading(&self, reading: ClockReading) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(clock) = known.as_mut() else {
            *known = Some(DbClock::new(reading));
            return;
        };
        let was_in_doubt = clock.unconfirmed_jump_us().is_some();
        match clock.observe_reading(reading, None) {
            ClockAdjustment::Unconfirmed(us) if !was_in_doubt => warn!(
                step_ms = us / 1_000,
                "the database's clock jumped by {} ms: results are refused for their time only if they must be by both",
                us / 1_000
            ),
            _ => {}
        }
    }

    /// The time by the database's clock; before it was read, by this machine's.
    pub(crate) fn now(&self) -> Timestamp {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.map_or_else(wall_clock_now, |clock| clock.time_at(Boottime::now()))
    }

    /// What time it may be, where a message was `stored` then by the NATS server's clock.
    pub(crate) fn time_bounds(&self, stored: Option<Timestamp>) -> TimeBounds {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Boottime::now();
        let clocks = match known {
            Some(clock) => [Some(clock.time_at(at)), Some(clock.raw_time_at(at)), stored],
            None => [Some(wall_clock_now()), None, stored],
        };
        let clocks = clocks.into_iter().flatten();
        let (earliest, latest) = clocks
            .fold((Timestamp::MAX, Timestamp::MIN), |(from, to), clock| (from.min(clock), to.max(clock)));
        TimeBounds { earliest, latest }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sink_goes_by_the_databases_clock_and_while_that_has_jumped_by_both() {
        const MINUTES: Duration = Duration::from_secs(400);
        let clock = SharedDatabaseClock::default();
        let read = |now| {
            let at = Boottime::now();
            clock.observe_reading(ClockReading { sent_at: at, received_at: at, remote_time: now });
        };
        let close = |one: Timestamp, other: Timestamp| {
            one.saturating_duration_since(other).max(other.saturating_duration_since(one)).as_secs() < 60
        };

        read(wall_clock_now().saturating_add(MINUTES));
        assert!(close(clock.now(), wall_clock_now().saturating_add(MINUTES)));
        let now = clock.time_bounds(Some(wall_clock_now()));
        assert!(
            close(now.earliest, wall_clock_now())
                && close(now.latest, wall_clock_now().saturating_add(MINUTES)),
            "{now:?}"
        );

        read(wall_clock_now().saturating_sub(MINUTES));
        assert!(close(clock.now(), wall_clock_now().saturating_add(MINUTES)));
        let now = clock.time_bounds(None);
        assert!(
            close(now.earliest, wall_clock_now().saturating_sub(MINUTES))
                && close(now.latest, wall_clock_now().saturating_add(MINUTES)),
            "{now:?}"
        );
    }
}
