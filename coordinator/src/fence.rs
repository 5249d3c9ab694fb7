//! The fence: for which shards this coordinator may publish right now, and under which epoch.
//!
//! It is shared memory and not a message, since a fence must be seen at once and not after what happens to queue
//! before it. The lease actor moves it; whoever publishes looks at it right before each message.

use std::sync::{Arc, PoisonError, RwLock};

use picket_proto::{Epoch, Shard};
use picket_runtime::clock::Boottime;

/// Cheap to clone; all clones are one fence.
#[derive(Clone, Default)]
pub struct Fence(Arc<RwLock<Vec<Option<FenceEntry>>>>);

#[derive(Clone, Copy)]
struct FenceEntry {
    epoch: Epoch,
    valid_until: Boottime,
}

impl Fence {
    /// Opens the gate of `shard` for `epoch` until `until`.
    pub fn open_shard(&self, shard: Shard, epoch: Epoch, until: Boottime) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let place = usize::from(shard.0);
        if gates.len() <= place {
            gates.resize(place + 1, None);
        }
        gates[place] = Some(FenceEntry { epoch, valid_until: until });
    }

    /// Shuts the gate of `shard`, if it stands at `epoch`: an older holder must not shut a newer one's.
    pub fn close_shard(&self, shard: Shard, epoch: Epoch) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get_mut(usize::from(shard.0))
            && gate.is_some_and(|gate| gate.epoch == epoch)
        {
            *gate = None;
        }
    }

    /// Lets nothing through from `now` on, until a gate is opened anew.
    pub fn expire_all(&self, now: Boottime) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for gate in gates.iter_mut().flatten() {
            gate.valid_until = gate.valid_until.min(now);
        }
    }

    /// What a job of `shard` under `epoch` finds at `now`.
    pub fn check_admission(&self, shard: Shard, epoch: Epoch, now: Boottime) -> Admission {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match gates.get(usize::from(shard.0)).copied().flatten() {
            Some(gate) if gate.epoch != epoch => Admission::Closed,
            Some(gate) if now < gate.valid_until => Admission::Open,
            Some(_) => Admission::Expired,
            None => Admission::Closed,
        }
    }

    /// Whether the gate of `shard` stands, open or late.
    pub fn has_shard(&self, shard: Shard) -> bool {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        gates.get(usize::from(shard.0)).is_some_and(Option::is_some)
    }

    /// The shards whose gates stand, open or late, and their epochs.
    pub fn held_epochs(&self) -> Vec<(Shard, Epoch)> {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let standing = gates.iter().enumerate();
        standing
            .filter_map(|(place, gate)| Some((Shard(u16::try_from(place).ok()?), gate.as_ref()?.epoch)))
            .collect()
    }

    /// The shards whose gates stand, open or late.
    pub fn held_shards(&self) -> Vec<Shard> {
        self.held_epochs().into_iter().map(|(shard, _)| shard).collect()
    }
}

/// What a job finds where it wants through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may be published.
    Open,
    /// Not now: the lease has run out by our clock, and has been neither renewed nor lost yet.
    Expired,
    /// Never: the shard is not ours any more, or was taken anew.
    Closed,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_gate_lets_its_epoch_through_until_its_time_and_no_other() {
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
