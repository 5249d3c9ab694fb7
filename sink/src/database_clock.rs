//! The database clock, used to check the times of results. The clock is read periodically, and
//! extrapolated by a local clock that only moves forward.
//!
//! A result is rejected for its time only if all clocks agree: the database clock as it was before
//! its last jump, the database clock now, and the NATS server's clock when the stream stored the
//! message.

use std::sync::Arc;

use parking_lot::Mutex;
use picket_proto::Timestamp;
use picket_runtime::clock::{Boottime, ClockAdjustment, ClockReading, DbClock, wall_clock_now};
use picket_store::{Error, Store};
use tracing::warn;

/// Clones are cheap and share the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedDatabaseClock(Arc<Mutex<Option<DbClock>>>);

/// Range of the possible current time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeBounds {
    pub(crate) earliest: Timestamp,
    pub(crate) latest: Timestamp,
}

impl SharedDatabaseClock {
    /// Reads the database clock.
    pub(crate) async fn update_from_database(&self, store: &Store) -> Result<(), Error> {
        let sent = Boottime::now();
        let now = store.read_clock().await?;
        self.observe_reading(ClockReading { sent_at: sent, received_at: Boottime::now(), remote_time: now });
        Ok(())
    }

    fn observe_reading(&self, reading: ClockReading) {
        let mut known = self.0.lock();
        let Some(clock) = known.as_mut() else {
            *known = Some(DbClock::new(reading));
            return;
        };
        let was_in_doubt = clock.unconfirmed_jump_us().is_some();
        match clock.observe_reading(reading, None) {
            ClockAdjustment::Unconfirmed(us) if !was_in_doubt => warn!(
                step_ms = us / 1_000,
                "database clock jumped; results are rejected for their time only if the clocks before and after the jump agree"
            ),
            _ => {}
        }
    }

    /// The time by the database clock; by the local clock before the first reading.
    pub(crate) fn now(&self) -> Timestamp {
        let known = *self.0.lock();
        known.map_or_else(wall_clock_now, |clock| clock.time_at(Boottime::now()))
    }

    /// The range of the possible current time. `stored` is the time by the NATS server's clock at
    /// which the stream stored a message.
    pub(crate) fn time_bounds(&self, stored: Option<Timestamp>) -> TimeBounds {
        let known = *self.0.lock();
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
    fn a_sink_uses_the_database_clock_and_both_clocks_after_a_jump() {
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
