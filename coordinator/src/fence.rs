//! The fence: the shards, and the epoch of each, for which this coordinator may publish right now.
//!
//! The fence is shared memory and not a message, because a change must be visible at once and not
//! behind messages queued earlier. The lease manager updates it; each publisher checks it right
//! before each message.

use std::sync::Arc;

use parking_lot::RwLock;
use picket_proto::{Epoch, Shard};
use picket_runtime::clock::Boottime;

/// Cheap to clone; all clones share one fence.
#[derive(Clone, Default)]
pub struct Fence(Arc<RwLock<Vec<Option<FenceEntry>>>>);

#[derive(Clone, Copy)]
struct FenceEntry {
    epoch: Epoch,
    valid_until: Boottime,
}

impl Fence {
    /// Opens the fence of `shard` for `epoch` until `until`.
    pub fn open_shard(&self, shard: Shard, epoch: Epoch, until: Boottime) {
        let mut gates = self.0.write();
        let place = usize::from(shard.0);
        if gates.len() <= place {
            gates.resize(place + 1, None);
        }
        gates[place] = Some(FenceEntry { epoch, valid_until: until });
    }

    /// Closes the fence of `shard` if it is at `epoch`, so that an older holder cannot close a
    /// newer one's fence.
    pub fn close_shard(&self, shard: Shard, epoch: Epoch) {
        let mut gates = self.0.write();
        if let Some(gate) = gates.get_mut(usize::from(shard.0))
            && gate.is_some_and(|gate| gate.epoch == epoch)
        {
            *gate = None;
        }
    }

    /// Expires all shards at `now` at the latest, until they are opened again.
    pub fn expire_all(&self, now: Boottime) {
        let mut gates = self.0.write();
        for gate in gates.iter_mut().flatten() {
            gate.valid_until = gate.valid_until.min(now);
        }
    }

    /// Checks at `now` whether a job of `shard` under `epoch` may be published.
    pub fn check_admission(&self, shard: Shard, epoch: Epoch, now: Boottime) -> Admission {
        let gates = self.0.read();
        match gates.get(usize::from(shard.0)).copied().flatten() {
            Some(gate) if gate.epoch != epoch => Admission::Closed,
            Some(gate) if now < gate.valid_until => Admission::Open,
            Some(_) => Admission::Expired,
            None => Admission::Closed,
        }
    }

    /// Returns true if `shard` is held, even if its lease has expired.
    pub fn has_shard(&self, shard: Shard) -> bool {
        let gates = self.0.read();
        gates.get(usize::from(shard.0)).is_some_and(Option::is_some)
    }

    /// Held shards and their epochs, including expired ones.
    pub fn held_epochs(&self) -> Vec<(Shard, Epoch)> {
        let gates = self.0.read();
        let standing = gates.iter().enumerate();
        standing
            .filter_map(|(place, gate)| Some((Shard(u16::try_from(place).ok()?), gate.as_ref()?.epoch)))
            .collect()
    }

    /// Held shards, including expired ones.
    pub fn held_shards(&self) -> Vec<Shard> {
        self.held_epochs().into_iter().map(|(shard, _)| shard).collect()
    }
}

/// Result of a fence check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The job may be published.
    Open,
    /// Not now: the lease has expired by the local clock, and has been neither renewed nor lost
    /// yet.
    Expired,
    /// Never: the shard was lost, or acquired again under another epoch.
    Closed,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_gate_is_open_for_its_epoch_until_its_deadline_and_for_no_other() {
        let at = |s| Boottime::from_elapsed(Duration::from_secs(s));
        let fence = Fence::default();
        fence.open_shard(Shard(3), Epoch(7), at(12));

        assert_eq!(fence.check_admission(Shard(3), Epoch(7), at(11)), Admission::Open);
        assert_eq!(fence.check_admission(Shard(3), Epoch(7), at(12)), Admission::Expired);
        assert_eq!(fence.check_admission(Shard(3), Epoch(6), at(11)), Admission::Closed);
        assert_eq!(fence.check_admission(Shard(4), Epoch(7), at(11)), Admission::Closed);
        fence.expire_all(at(9));
        assert_eq!(fence.check_admission(Shard(3), Epoch(7), at(9)), Admission::Expired);
        fence.open_shard(Shard(3), Epoch(7), at(12));
        assert_eq!(fence.check_admission(Shard(3), Epoch(7), at(11)), Admission::Open);
        fence.close_shard(Shard(3), Epoch(6));
        assert_eq!(fence.held_shards(), [Shard(3)]);
        assert!(fence.has_shard(Shard(3)) && !fence.has_shard(Shard(2)) && !fence.has_shard(Shard(9)));
        fence.close_shard(Shard(3), Epoch(7));
        assert_eq!(fence.check_admission(Shard(3), Epoch(7), at(11)), Admission::Closed);
    }
}
