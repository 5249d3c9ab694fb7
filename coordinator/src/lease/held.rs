//! Pure: the leases that this coordinator holds, and the time until which each is valid.
//!
//! A lease is valid until *the clock reading before the statement was sent + the lease time - a
//! margin*. The database counts the same lease time from the receipt of the statement, which is
//! later. The holder therefore always stops before any other coordinator may acquire the shard.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{Epoch, Shard};
use picket_runtime::clock::Boottime;

/// Leases held by this coordinator.
#[derive(Debug)]
pub(crate) struct HeldLeases {
    lease_time: Duration,
    leases: BTreeMap<Shard, HeldLease>,
}

/// A lease of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldLease {
    /// Epoch of the acquisition.
    pub(crate) epoch: Epoch,
    /// Local time at which the lease stops being valid.
    pub(crate) valid_until: Boottime,
    /// True while the shard is being released: still held, but no new jobs are published.
    pub(crate) is_releasing: bool,
}

impl HeldLeases {
    /// Margin for different clock rates of two machines and for a delay between the fence check and
    /// the publish, within one lease. Both are far smaller.
    const SAFETY_MARGIN: Duration = Duration::from_secs(3);

    /// Creates an empty set of leases with this lease time.
    pub(crate) fn new(lease_time: Duration) -> Self {
        Self { lease_time, leases: BTreeMap::new() }
    }

    /// Uses another lease time for the next acquisitions and renewals.
    pub(crate) fn set_lease_time(&mut self, lease_time: Duration) {
        self.lease_time = lease_time;
    }

    /// Number of leases held, without shards being released.
    pub(crate) fn active_count(&self) -> usize {
        self.leases.values().filter(|hold| !hold.is_releasing).count()
    }

    /// Returns true if no lease is held, not even of a shard being released.
    pub(crate) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// All leases, including shards being released.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Shard, HeldLease)> + '_ {
        self.leases.iter().map(|(shard, hold)| (*shard, *hold))
    }

    /// Records leases acquired by a statement sent at `sent`. Returns the time until which they are
    /// valid.
    pub(crate) fn record_acquired(
        &mut self,
        taken: impl IntoIterator<Item = (Shard, Epoch)>,
        sent: Boottime,
    ) -> Boottime {
        let until = self.valid_until(sent);
        self.leases.extend(
            taken
                .into_iter()
                .map(|(shard, epoch)| (shard, HeldLease { epoch, valid_until: until, is_releasing: false })),
        );
        until
    }

    /// Records a renewal of `asked`, sent at `sent`, that renewed `kept`. Returns the lost leases.
    pub(crate) fn record_renewed(
        &mut self,
        asked: &[(Shard, Epoch)],
        kept: &[Shard],
        sent: Boottime,
    ) -> Vec<(Shard, Epoch)> {
        let until = self.valid_until(sent);
        let mut lost = Vec::new();
        for (shard, epoch) in asked {
            // A shard released or acquired again while the statement ran is not affected by it.
            let Some(hold) = self.leases.get_mut(shard).filter(|hold| hold.epoch == *epoch) else {
                continue;
            };
            if kept.contains(shard) {
                // The answer of an earlier renewal may arrive late and must not shorten a later
                // one.
                hold.valid_until = hold.valid_until.max(until);
            } else {
                self.leases.remove(shard);
                lost.push((*shard, *epoch));
            }
        }
        lost
    }

    /// Expires all leases at `now` at the latest, until the next renewal: the local clock may have
    /// stood still, or the next renewal may shorten them.
    pub(crate) fn expire_all(&mut self, now: Boottime) {
        for hold in self.leases.values_mut() {
            hold.valid_until = hold.valid_until.min(now);
        }
    }

    /// Removes and returns the leases that have expired at `now`.
    pub(crate) fn take_expired(&mut self, now: Boottime) -> Vec<(Shard, Epoch)> {
        let expired = self.leases.iter().filter(|(_, hold)| now >= hold.valid_until);
        let expired: Vec<(Shard, Epoch)> = expired.map(|(shard, hold)| (*shard, hold.epoch)).collect();
        for (shard, _) in &expired {
            self.leases.remove(shard);
        }
        expired
    }

    /// Marks `count` shards as being released, highest numbers first, and returns them.
    pub(crate) fn mark_releasing(&mut self, count: usize) -> Vec<(Shard, Epoch)> {
        // Any choice is right, but a fixed one keeps the same shards in place over several rounds.
        let chosen = self.leases.iter_mut().rev().filter(|(_, hold)| !hold.is_releasing).take(count);
        chosen
            .map(|(shard, hold)| {
                hold.is_releasing = true;
                (*shard, hold.epoch)
            })
            .collect()
    }

    /// Removes released shards.
    pub(crate) fn record_released(&mut self, shards: &[(Shard, Epoch)]) {
        for (shard, epoch) in shards {
            // Another epoch means that the shard was acquired again after its release.
            if self.leases.get(shard).is_some_and(|hold| hold.epoch == *epoch) {
                self.leases.remove(shard);
            }
        }
    }

    /// Time until which a lease is valid that a statement sent at `sent` grants.
    pub(crate) fn valid_until(&self, sent: Boottime) -> Boottime {
        sent.saturating_add(self.lease_time - Self::SAFETY_MARGIN.min(self.lease_time / 3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boottime {
        Boottime::from_elapsed(Duration::from_secs(seconds))
    }

    fn held() -> HeldLeases {
        let mut held = HeldLeases::new(Duration::from_secs(15));
        held.record_acquired([(Shard(1), Epoch(4)), (Shard(2), Epoch(9))], at(100));
        held
    }

    #[test]
    fn a_lease_is_trusted_for_its_time_less_the_margin_counted_from_before_the_request() {
        let mut held = held();

        assert_eq!(held.take_expired(at(111)), []);
        assert_eq!(held.take_expired(at(112)), [(Shard(1), Epoch(4)), (Shard(2), Epoch(9))]);
    }

    #[test]
    fn a_lease_missing_from_a_renewals_answer_is_lost() {
        let mut held = held();

        let lost = held.record_renewed(&[(Shard(1), Epoch(4)), (Shard(2), Epoch(9))], &[Shard(2)], at(105));

        assert_eq!(lost, [(Shard(1), Epoch(4))]);
        assert_eq!(
            held.iter().map(|(shard, hold)| (shard, hold.valid_until)).collect::<Vec<_>>(),
            [(Shard(2), at(117))]
        );
    }

    #[test]
    fn a_renewal_does_not_affect_a_shard_acquired_again_meanwhile() {
        let mut held = held();
        held.record_released(&[(Shard(1), Epoch(4))]);
        held.record_acquired([(Shard(1), Epoch(6))], at(104));

        assert_eq!(held.record_renewed(&[(Shard(1), Epoch(4))], &[], at(103)), []);
        assert_eq!(held.active_count(), 2);
    }

    #[test]
    fn a_shard_being_yielded_is_held_until_its_release_but_no_longer_counted() {
        let mut held = held();

        assert_eq!(held.mark_releasing(1), [(Shard(2), Epoch(9))]);
        assert_eq!((held.active_count(), held.is_empty()), (1, false));
        held.record_released(&[(Shard(2), Epoch(9))]);
        assert_eq!(held.mark_releasing(5), [(Shard(1), Epoch(4))]);
    }
}
