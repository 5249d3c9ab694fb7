//! Pure: evidence for or against the database's clock, and leases without a live holder.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{Shard, Timestamp};
use picket_runtime::clock::{Boottime, ClockAdjustment, ClockReading, DbClock};
use picket_store::leases::ObservedLease;

/// Readings of other clocks, if available.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceClocks {
    /// This machine's wall clock.
    pub wall: Option<Timestamp>,
    /// The NATS server's clock.
    pub bus: Option<ClockReading>,
}

/// The database's clock before it is trusted. A process that has just started cannot know whether
/// the clock has jumped.
#[derive(Debug, Default)]
pub(crate) struct InitialClock {
    clock: Option<DbClock>,
}

impl InitialClock {
    /// Maximum difference at which clocks and marks count as equal; a mark is as old as the last
    /// tick.
    const MAX_DIFFERENCE: Duration = Duration::from_secs(60);
    /// Time after which a steady clock is trusted without confirmation: the cluster needs one time,
    /// the database's.
    const TRUST_DELAY: Duration = Duration::from_secs(120);

    /// Observes a reading and returns the clock once it is trusted. A clock is trusted if another
    /// clock or the newest mark agrees, if neither is available to contradict, or if the clock has
    /// been steady for `TRUST_DELAY`.
    pub(crate) fn accept_reading(
        &mut self,
        reading: ClockReading,
        newest_mark: Option<Timestamp>,
        reference_clocks: &ReferenceClocks,
    ) -> Option<DbClock> {
        let near = |other: Timestamp| {
            reading
                .remote_time
                .saturating_duration_since(other)
                .max(other.saturating_duration_since(reading.remote_time))
                <= Self::MAX_DIFFERENCE
        };
        let clocks = [reference_clocks.wall, reference_clocks.bus.map(|bus| bus.remote_time)];
        // An old mark contradicts nothing: perhaps no coordinator ran since.
        let mark = newest_mark.filter(|mark| near(*mark) || *mark > reading.remote_time);
        let others = clocks.into_iter().chain([mark]).flatten();
        let (mut any, mut agrees) = (false, false);
        for other in others {
            any = true;
            agrees |= near(other);
        }
        let mut clock = self.clock.unwrap_or_else(|| DbClock::new(reading));
        // Nothing uses this clock yet, so an unconfirmed jump may simply be followed.
        if let ClockAdjustment::Unconfirmed(_) = clock.observe_reading(reading, reference_clocks.bus) {
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

    /// Returns true if the clock has been read but is not trusted yet.
    pub(crate) fn is_distrusted(&self) -> bool {
        self.clock.is_some()
    }
}

/// Leases that have expired by the database's clock, or reach implausibly far into the future
/// because the clock was set back. A holder renews three times per lease time. A lease that stays
/// unchanged for a lease time by the local clock has no live holder, whatever the database's clock
/// shows.
#[derive(Debug, Default)]
pub(crate) struct StaleLeases {
    /// Each lease as found, and since when it has been so.
    observed: BTreeMap<Shard, (ObservedLease, Boottime)>,
}

impl StaleLeases {
    /// Records the doubtful leases found at `now`.
    pub(crate) fn observe_leases(&mut self, now: Boottime, found: &[ObservedLease]) {
        let before = std::mem::take(&mut self.observed);
        for lease in found {
            let since = match before.get(&lease.shard) {
                Some((held, since)) if held == lease => *since,
                _ => now,
            };
            self.observed.insert(lease.shard, (*lease, since));
        }
    }

    /// Returns the leases that have not been renewed for their lease time.
    pub(crate) fn expired_leases(&self, now: Boottime) -> Vec<ObservedLease> {
        let is_old = |(lease, since): &&(ObservedLease, Boottime)| {
            now.saturating_duration_since(*since) >= lease.lease_time
        };
        self.observed.values().filter(is_old).map(|(lease, _)| *lease).collect()
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::Epoch;

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
        let reference_clocks = ReferenceClocks { wall: wall.map(at), bus: bus.map(|bus| read(10, at(bus))) };
        InitialClock::default()
            .accept_reading(read(10, at(database)), mark.map(at), &reference_clocks)
            .is_some()
    }

    #[test]
    fn a_first_reading_is_trusted_if_a_second_clock_or_the_newest_timestamp_agrees() {
        assert!(NOW < at(0));
        assert!(is_believed(0, None, None, None));
        assert!(is_believed(0, Some(-86_400), Some(3), Some(2)));
        // 400 s ahead of all other clocks, but steady and in use.
        assert!(is_believed(400, Some(398), Some(0), Some(0)));
        // The clock has jumped.
        assert!(!is_believed(45 * 86_400, Some(-2), Some(0), Some(0)));
        assert!(!is_believed(-600, Some(-2), Some(0), None));
        assert!(!is_believed(-600, Some(-2), None, None));
        // The clock had jumped and left marks in the future.
        assert!(is_believed(0, Some(45 * 86_400), Some(0), None));
    }

    #[test]
    fn an_unconfirmed_first_reading_is_trusted_once_it_has_been_steady() {
        let mut first = InitialClock::default();
        let reference_clocks = ReferenceClocks { wall: Some(at(0)), bus: None };

        assert!(first.accept_reading(read(0, at(900)), None, &reference_clocks).is_none());
        assert!(first.is_distrusted());
        assert!(first.accept_reading(read(100, at(1_000)), None, &reference_clocks).is_none());
        // The clock jumps, so the delay starts again.
        assert!(first.accept_reading(read(110, at(2_000)), None, &reference_clocks).is_none());
        assert!(first.accept_reading(read(225, at(2_115)), None, &reference_clocks).is_none());
        assert!(first.accept_reading(read(231, at(2_121)), None, &reference_clocks).is_some());
        assert!(!first.is_distrusted());
    }

    #[test]
    fn a_doubtful_lease_is_free_after_a_lease_time_without_renewal() {
        let mut unrenewed = StaleLeases::default();
        let held = |end| ObservedLease {
            shard: Shard(3),
            epoch: Epoch(7),
            expires_at: at(end),
            lease_time: Duration::from_secs(15),
        };
        unrenewed.observe_leases(boot(10), &[held(600)]);
        unrenewed.observe_leases(boot(20), &[held(605)]);
        assert_eq!(unrenewed.expired_leases(boot(34)), []);
        unrenewed.observe_leases(boot(34), &[held(605)]);
        assert_eq!(unrenewed.expired_leases(boot(35)), [held(605)]);
        unrenewed.observe_leases(boot(36), &[]);
        assert_eq!(unrenewed.expired_leases(boot(60)), []);
    }
}
