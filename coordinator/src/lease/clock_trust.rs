//! Pure: what speaks for or against the database's clock, and for whom a lease still lives.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::{Boottime, ClockAdjustment, ClockReading, DbClock};
use picket_store::leases::ObservedLease;

/// What other clocks say, where they could be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceClocks {
    /// This machine's wall clock.
    pub wall: Option<Timestamp>,
    /// The NATS server's.
    pub bus: Option<ClockReading>,
}

/// The database's clock before it is believed: a process that has just started cannot know whether it has jumped.
#[derive(Debug, Default)]
pub struct InitialClock {
    clock: Option<DbClock>,
}

impl InitialClock {
    /// Clocks and marks that differ by no more tell the same time: marks are as old as the last tick.
    const MAX_DIFFERENCE: Duration = Duration::from_secs(60);
    /// A clock that nothing speaks for is believed after so long: one rules, and it is the database's.
    const TRUST_DELAY: Duration = Duration::from_secs(120);

    /// Takes a reading in; gives the clock once it is believed: when another clock or the newest mark says about the same, when
    /// there is none that contradicts, or when it has been steady for a while.
    pub fn accept_reading(
        &mut self,
        reading: ClockReading,
        newest_mark: Option<Timestamp>,
        witness: &ReferenceClocks,
    ) -> Option<DbClock> {
        let near = |other: Timestamp| {
            reading
                .remote_time
                .saturating_duration_since(other)
                .max(other.saturating_duration_since(reading.remote_time))
                <= Self::MAX_DIFFERENCE
        };
        let clocks = [witness.wall, witness.bus.map(|bus| bus.remote_time)];
        let mark = newest_mark.filter(|mark| near(*mark) || *mark > reading.remote_time);
        let others = clocks.into_iter().chain([mark]).flatten();
        let (mut any, mut agrees) = (false, false);
        for other in others {
            any = true;
            agrees |= near(other);
        }
        let mut clock = self.clock.unwrap_or_else(|| DbClock::new(reading));
        // Nobody goes by it yet, so that it may follow.
        if let ClockAdjustment::Unconfirmed(_) = clock.observe_reading(reading, witness.bus) {
            clock = DbClock::new(reading);
        }
        self.clock = Some(clock);
        let is_believed = agrees
            || !any
            || reading.received_at.saturating_duration_since(clock.steady_since()) >= Self::TRUST_DELAY;
        is_believed.then(|| {
            self.clock = None;
            clock
        })
    }

    /// Whether it was read and is not believed yet.
    pub fn is_distrusted(&self) -> bool {
        self.clock.is_some()
    }
}

/// Leases that are over by the database's clock, or reach too far into the future to be true, as they do when that clock was set
/// back. Whoever holds one renews it three times in a lease time, so that one that stays as it is for so long by our own clock is
/// nobody's, whatever the database's says.
#[derive(Debug)]
pub struct StaleLeases {
    lease_time: Duration,
    observed: BTreeMap<Shard, (Epoch, Timestamp, Boottime)>,
}

impl StaleLeases {
    /// None has been seen yet.
    pub fn new(lease_time: Duration) -> Self {
        Self { lease_time, observed: BTreeMap::new() }
    }

    /// These are there at `now`.
    pub fn observe_leases(&mut self, now: Boottime, found: &[ObservedLease]) {
        let before = std::mem::take(&mut self.observed);
        for ObservedLease { shard, epoch, expires_at } in found {
            let since = match before.get(shard) {
                Some((its_epoch, its_end, since)) if (its_epoch, its_end) == (epoch, expires_at) => *since,
                _ => now,
            };
            self.observed.insert(*shard, (*epoch, *expires_at, since));
        }
    }

    /// Those that nobody has renewed for a lease time.
    pub fn expired_leases(&self, now: Boottime) -> Vec<ObservedLease> {
        let old = self
            .observed
            .iter()
            .filter(|(_, (_, _, since))| now.saturating_duration_since(*since) >= self.lease_time);
        old.map(|(shard, (epoch, expires_at, _))| ObservedLease {
            shard: *shard,
            epoch: *epoch,
            expires_at: *expires_at,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::MIN;

    fn boot(seconds: u64) -> Boottime {
        Boottime::from_elapsed(Duration::from_secs(seconds))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000 + seconds * 1_000_000)
    }

    fn read(boot_seconds: u64, now: Timestamp) -> ClockReading {
        ClockReading { sent_at: boot(boot_seconds), received_at: boot(boot_seconds), remote_time: now }
    }

    fn is_believed(database: i64, mark: Option<i64>, wall: Option<i64>, bus: Option<i64>) -> bool {
        let witness = ReferenceClocks { wall: wall.map(at), bus: bus.map(|bus| read(10, at(bus))) };
        InitialClock::default().accept_reading(read(10, at(database)), mark.map(at), &witness).is_some()
    }

    #[test]
    fn a_first_reading_is_believed_if_another_clock_or_the_newest_mark_says_about_the_same() {
        assert!(NOW < at(0));
        assert!(is_believed(0, None, None, None));
        assert!(is_believed(0, Some(-86_400), Some(3), Some(2)));
        // Steadily 400 s ahead of all others, and at work.
        assert!(is_believed(400, Some(398), Some(0), Some(0)));
        // It has jumped.
        assert!(!is_believed(45 * 86_400, Some(-2), Some(0), Some(0)));
        assert!(!is_believed(-600, Some(-2), Some(0), None));
        assert!(!is_believed(-600, Some(-2), None, None));
        // It had, and marks were left in the future.
        assert!(is_believed(0, Some(45 * 86_400), Some(0), None));
    }

    #[test]
    fn a_first_reading_that_nothing_speaks_for_is_believed_once_it_has_been_steady() {
        let mut first = InitialClock::default();
        let witness = ReferenceClocks { wall: Some(at(0)), bus: None };

        assert!(first.accept_reading(read(0, at(900)), None, &witness).is_none());
        assert!(first.is_distrusted());
        assert!(first.accept_reading(read(100, at(1_000)), None, &witness).is_none());
        // It jumps: from the beginning.
        assert!(first.accept_reading(read(110, at(2_000)), None, &witness).is_none());
        assert!(first.accept_reading(read(225, at(2_115)), None, &witness).is_none());
        assert!(first.accept_reading(read(231, at(2_121)), None, &witness).is_some());
        assert!(!first.is_distrusted());
    }

    #[test]
    fn a_doubtful_lease_is_free_when_it_was_not_renewed_for_a_lease_time() {
        let mut unrenewed = StaleLeases::new(Duration::from_secs(15));
        let held = |end| ObservedLease { shard: Shard(3), epoch: Epoch(7), expires_at: at(end) };
        unrenewed.observe_leases(boot(10), &[held(600)]);
        unrenewed.observe_leases(boot(20), &[held(605)]);
        assert_eq!(unrenewed.expired_leases(boot(34)), []);
        unrenewed.observe_leases(boot(34), &[held(605)]);
        assert_eq!(unrenewed.expired_leases(boot(35)), [held(605)]);
        unrenewed.observe_leases(boot(36), &[]);
        assert_eq!(unrenewed.expired_leases(boot(60)), []);
    }
}
