//! The fence: for which shards this coordinator may publish right now, and under which epoch.
//!
//! It is shared memory and not a message, since a fence must be seen at once and not after what happens to queue
//! before it. The lease actor moves it; whoever publishes looks at it right before each message.

use std::sync::{Arc, PoisonError, RwLock};

use picket_proto::{Epoch, Shard};
use picket_runtime::clock::Boottime;

/// Cheap to clone; all clones are one fence.
#[derive(Clone, Default)]
pub struct Fence(Arc<RwLock<Vec<Option<Gate>>>>);

#[derive(Clone, Copy)]
struct Gate {
    epoch: Epoch,
    until: Boottime,
}

impl Fence {
    /// Opens the gate of `shard` for `epoch` until `until`.
    pub fn open(&self, shard: Shard, epoch: Epoch, until: Boottime) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let place = usize::from(shard.0);
        if gates.len() <= place {
            gates.resize(place + 1, None);
        }
        gates[place] = Some(Gate { epoch, until });
    }

    /// Shuts the gate of `shard`, if it stands at `epoch`: an older holder must not shut a newer one's.
    pub fn shut(&self, shard: Shard, epoch: Epoch) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get_mut(usize::from(shard.0))
            && gate.is_some_and(|gate| gate.epoch == epoch)
        {
            *gate = None;
        }
    }

    /// Lets nothing through from `now` on, until a gate is opened anew.
    pub fn doubt(&self, now: Boottime) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for gate in gates.iter_mut().flatten() {
            gate.until = gate.until.min(now);
        }
    }

    /// What a job of `shard` under `epoch` finds at `now`.
    pub fn look(&self, shard: Shard, epoch: Epoch, now: Boottime) -> Gateway {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match gates.get(usize::from(shard.0)).copied().flatten() {
            Some(gate) if gate.epoch != epoch => Gateway::Shut,
            Some(gate) if now < gate.until => Gateway::Open,
            Some(_) => Gateway::Late,
            None => Gateway::Shut,
        }
    }

    /// Whether the gate of `shard` stands, open or late.
    pub fn holds(&self, shard: Shard) -> bool {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        gates.get(usize::from(shard.0)).is_some_and(Option::is_some)
    }

    /// The shards whose gates stand, open or late, and their epochs.
    pub fn held(&self) -> Vec<(Shard, Epoch)> {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let standing = gates.iter().enumerate();
        standing
            .filter_map(|(place, gate)| Some((Shard(u16::try_from(place).ok()?), gate.as_ref()?.epoch)))
            .collect()
    }

    /// The shards whose gates stand, open or late.
    pub fn shards(&self) -> Vec<Shard> {
        self.held().into_iter().map(|(shard, _)| shard).collect()
    }
}

/// What a job finds where it wants through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// It may be published.
    Open,
    /// Not now: the lease has run out by our clock, and has been neither renewed nor lost yet.
    Late,
    /// Never: the shard is not ours any more, or was taken anew.
    Shut,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_gate_lets_its_epoch_through_until_its_time_and_no_other() {
        let at = |s| Boottime::at(Duration::from_secs(s));
        let fence = Fence::default();
        fence.open(Shard(3), Epoch(7), at(12));

        assert_eq!(fence.look(Shard(3), Epoch(7), at(11)), Gateway::Open);
        assert_eq!(fence.look(Shard(3), Epoch(7), at(12)), Gateway::Late);
        assert_eq!(fence.look(Shard(3), Epoch(6), at(11)), Gateway::Shut);
        assert_eq!(fence.look(Shard(4), Epoch(7), at(11)), Gateway::Shut);
        fence.doubt(at(9));
        assert_eq!(fence.look(Shard(3), Epoch(7), at(9)), Gateway::Late);
        fence.open(Shard(3), Epoch(7), at(12));
        assert_eq!(fence.look(Shard(3), Epoch(7), at(11)), Gateway::Open);
        fence.shut(Shard(3), Epoch(6));
        assert_eq!(fence.shards(), [Shard(3)]);
        assert!(fence.holds(Shard(3)) && !fence.holds(Shard(2)) && !fence.holds(Shard(9)));
        fence.shut(Shard(3), Epoch(7));
        assert_eq!(fence.look(Shard(3), Epoch(7), at(11)), Gateway::Shut);
    }
}
