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

    /// Shuts the gate of `shard`.
    pub fn shut(&self, shard: Shard) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get_mut(usize::from(shard.0)) {
            *gate = None;
        }
    }

    /// Whether a job of `shard` under `epoch` may be published at `now`.
    pub fn lets(&self, shard: Shard, epoch: Epoch, now: Boottime) -> bool {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        matches!(gates.get(usize::from(shard.0)), Some(Some(gate)) if gate.epoch == epoch && now < gate.until)
    }
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

        assert!(fence.lets(Shard(3), Epoch(7), at(11)));
        assert!(!fence.lets(Shard(3), Epoch(7), at(12)));
        assert!(!fence.lets(Shard(3), Epoch(6), at(11)));
        assert!(!fence.lets(Shard(4), Epoch(7), at(11)));
        fence.shut(Shard(3));
        assert!(!fence.lets(Shard(3), Epoch(7), at(11)));
    }
}
