//! The database's clock, by which results are judged: measured now and then, over a clock of our own that only goes forward.
//!
//! Results are refused for their time only where every clock agrees that they must be: the database's as it was before it
//! last jumped, as it is, and the NATS server's when it stored the message.

use std::sync::{Arc, Mutex, PoisonError};

use picket_proto::Timestamp;
use picket_runtime::clock::{Adjusted, Boottime, DatabaseClock, Reading, wall};
use picket_store::{Error, Store};
use tracing::warn;

/// Cheap to clone; all clones are one clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Arc<Mutex<Option<DatabaseClock>>>);

/// What time it may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) earliest: Timestamp,
    pub(crate) latest: Timestamp,
}

impl Clock {
    /// Reads the database's clock.
    pub(crate) async fn measure(&self, store: &Store) -> Result<(), Error> {
        let sent = Boottime::now();
        let now = store.clock().await?;
        self.observe(Reading { sent, received: Boottime::now(), now });
        Ok(())
    }

    fn observe(&self, reading: Reading) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(clock) = known.as_mut() else {
            *known = Some(DatabaseClock::new(reading));
            return;
        };
        let was_in_doubt = clock.unconfirmed().is_some();
        match clock.observe(reading, None) {
            Adjusted::Unconfirmed(us) if !was_in_doubt => warn!(
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
        known.map_or_else(wall, |clock| clock.at(Boottime::now()))
    }

    /// What time it may be, where a message was `stored` then by the NATS server's clock.
    pub(crate) fn bounds(&self, stored: Option<Timestamp>) -> Now {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Boottime::now();
        let clocks = match known {
            Some(clock) => [Some(clock.at(at)), Some(clock.as_read(at)), stored],
            None => [Some(wall()), None, stored],
        };
        let clocks = clocks.into_iter().flatten();
        let (earliest, latest) = clocks
            .fold((Timestamp::MAX, Timestamp::MIN), |(from, to), clock| (from.min(clock), to.max(clock)));
        Now { earliest, latest }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sink_goes_by_the_databases_clock_and_while_that_has_jumped_by_both() {
        const MINUTES: Duration = Duration::from_secs(400);
        let clock = Clock::default();
        let read = |now| {
            let at = Boottime::now();
            clock.observe(Reading { sent: at, received: at, now });
        };
        let close = |one: Timestamp, other: Timestamp| one.since(other).max(other.since(one)).as_secs() < 60;

        read(wall().plus(MINUTES));
        assert!(close(clock.now(), wall().plus(MINUTES)));
        let now = clock.bounds(Some(wall()));
        assert!(close(now.earliest, wall()) && close(now.latest, wall().plus(MINUTES)), "{now:?}");

        read(wall().minus(MINUTES));
        assert!(close(clock.now(), wall().plus(MINUTES)));
        let now = clock.bounds(None);
        assert!(
            close(now.earliest, wall().minus(MINUTES)) && close(now.latest, wall().plus(MINUTES)),
            "{now:?}"
        );
    }
}
