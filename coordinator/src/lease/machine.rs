//! Pure: what a coordinator does about its leases, step by step.
//!
//! Nothing waits in here. What must be asked of the outside is a [`Command`], what came of it is the next [`Input`],
//! and each brings its own time; so the very same code runs in the actor and in the simulation that tries to make
//! two coordinators hold one shard (`tests/lease_safety`).

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::{Boottime, ClockAdjustment, ClockReading, DbClock};
use picket_store::leases::{AcquireCriteria, ClusterView, Lease, ShardProgress};

use super::{
    clock_trust::{InitialClock, ReferenceClocks, StaleLeases},
    held::HeldLeases,
    share::{self, Rebalance},
};
use crate::fence::Fence;

/// Shards taken in one round.
const MAX_ACQUIRED_PER_ROUND: usize = 64;

/// How things stand with this coordinator's leases.
pub struct LeaseMachine {
    lease_time: Duration,
    fence: Fence,
    held: HeldLeases,
    /// The database's clock, once it is believed.
    clock: Option<DbClock>,
    /// Before that.
    initial_clock: InitialClock,
    stale_leases: StaleLeases,
    renewed_at: Boottime,
    is_draining: bool,
    /// Of the round under way: whether jobs can be published, as far as is known.
    can_publish: bool,
    /// Of the round under way: how things stand with all coordinators.
    cluster_view: Option<ClusterView>,
}

/// What has happened.
#[derive(Debug)]
pub enum LeaseEvent {
    /// Time for a round; none is under way.
    BeginRound {
        /// Whether jobs can be published, as far as is known.
        can_publish: bool,
    },
    /// This coordinator is to hold nothing any more. Begins a round like [`Input::Begin`].
    Drain {
        /// Whether jobs can be published, as far as is known.
        can_publish: bool,
    },
    /// [`Command::Announce`] was answered.
    HeartbeatDone {
        /// The clock's reading before it was sent.
        sent: Boottime,
        /// The answer.
        cluster_view: ClusterView,
        /// What other clocks say.
        reference_clocks: ReferenceClocks,
    },
    /// [`Command::Renew`] was answered.
    Renewed {
        /// The clock's reading before it was sent.
        sent: Boottime,
        /// What it was for.
        asked: Vec<(Shard, Epoch)>,
        /// What was renewed of it.
        kept: Vec<Shard>,
    },
    /// [`Command::Take`] was answered.
    Acquired {
        /// The clock's reading before it was sent.
        sent: Boottime,
        /// The answer.
        leases: Vec<Lease>,
    },
    /// There was no answer, which says nothing of what was done.
    Failed,
    /// What [`Command::GiveBack`] was for is given back, or could not be and will expire.
    Released(Vec<(Shard, Epoch)>),
}

/// What is to be done, in the order given. At most one of those that are answered, and that one last.
#[derive(Debug)]
pub enum LeaseAction {
    /// Say that we are there; answered by [`Input::Announced`] or [`Input::Failed`].
    Heartbeat {
        /// Whether we do not count in the shares.
        is_leaving: bool,
    },
    /// Renew these, at this time by our own clock; answered by [`Input::Renewed`] or [`Input::Failed`].
    Renew(Vec<(Shard, Epoch)>, Timestamp),
    /// Take some of what is free; answered by [`Input::Taken`] or [`Input::Failed`].
    Acquire(AcquireCriteria),
    /// This is the database's clock from now on.
    SetClock(DbClock, ClockAdjustment),
    /// No other clock says what the database's says, and nothing is begun by it.
    DistrustClock(Timestamp),
    /// These were taken, and their gates are open.
    ShardsAcquired(Vec<Lease>),
    /// These are not ours any more, for this reason; their gates are shut.
    ShardsLost(Vec<(Shard, Epoch)>, &'static str),
    /// Stop these and give them back, while rounds go on.
    ReleaseShards(ReleasingShards),
    /// The round is over, and all that was asked was answered.
    FinishRound {
        /// Whether jobs can be published; if not, nothing was taken or renewed.
        can_publish: bool,
    },
}

impl LeaseMachine {
    /// How late after our reading a statement that takes leases may be done, for them to be free all the same.
    const MAX_STATEMENT_DELAY: Duration = Duration::from_secs(1);

    /// Nothing is held yet. `lease` is the lease time, `now` any reading from before the first round.
    pub fn new(lease_time: Duration, fence: Fence, now: Boottime) -> Self {
        Self {
            lease_time,
            fence,
            held: HeldLeases::new(lease_time),
            clock: None,
            initial_clock: InitialClock::default(),
            stale_leases: StaleLeases::new(lease_time),
            renewed_at: now,
            is_draining: false,
            can_publish: true,
            cluster_view: None,
        }
    }

    /// How many shards are held, those being given back left out.
    pub fn active_count(&self) -> usize {
        self.held.active_count()
    }

    /// Whether nothing is held, not even to be given back.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Nothing is to be published any more, whatever is held.
    pub fn close_fence(&self) {
        self.held.iter().for_each(|(shard, hold)| self.fence.close_shard(shard, hold.epoch));
    }

    /// Takes in what has happened, at `now`, and says what is to be done.
    pub fn handle_event(&mut self, now: Boottime, input: LeaseEvent) -> Vec<LeaseAction> {
        let mut commands = Vec::new();
        match input {
            LeaseEvent::BeginRound { can_publish: publishes } => {
                self.begin_round(now, publishes, &mut commands)
            }
            LeaseEvent::Drain { can_publish: publishes } => {
                self.is_draining = true;
                self.begin_round(now, publishes, &mut commands);
            }
            LeaseEvent::HeartbeatDone { sent, cluster_view: roll, reference_clocks: witness } => {
                let reading = ClockReading { sent_at: sent, received_at: now, remote_time: roll.now };
                let is_doubtful = self.observe_clock(reading, &roll, &witness, &mut commands);
                self.stale_leases.observe_leases(now, &roll.doubtful_leases);
                self.cluster_view = Some(roll);
                let due =
                    is_doubtful || now.saturating_duration_since(self.renewed_at) >= self.lease_time / 3;
                match self.clock {
                    Some(clock) if due && self.can_publish && !self.held.is_empty() => {
                        let all = self.held.iter().map(|(shard, hold)| (shard, hold.epoch));
                        commands.push(LeaseAction::Renew(all.collect(), clock.time_at(now)));
                    }
                    _ => self.rebalance_shards(now, &mut commands),
                }
            }
            LeaseEvent::Renewed { sent, asked, kept } => {
                self.renewed_at = sent;
                let lost = self.held.record_renewed(&asked, &kept, sent);
                self.drop_lost(lost, "another has taken it, or it expired", &mut commands);
                // One that is being given back may be another's by now.
                for (shard, hold) in self.held.iter().filter(|(_, hold)| !hold.is_releasing) {
                    self.fence.open_shard(shard, hold.epoch, hold.valid_until);
                }
                self.rebalance_shards(now, &mut commands);
            }
            LeaseEvent::Acquired { sent, leases } => {
                self.apply_acquired(sent, now, leases, &mut commands);
                commands.push(LeaseAction::FinishRound { can_publish: true });
                self.release_if_draining(&mut commands);
            }
            LeaseEvent::Failed => self.release_if_draining(&mut commands),
            LeaseEvent::Released(shards) => self.held.record_released(&shards),
        }
        commands
    }

    fn begin_round(&mut self, now: Boottime, publishes: bool, commands: &mut Vec<LeaseAction>) {
        let lost = self.held.take_expired(now);
        self.drop_lost(lost, "its time ran out without a renewal", commands);
        self.can_publish = publishes;
        // Who cannot publish, or does not know what time it is, must not count: the shares of the others would leave its shards
        // to nobody.
        let leaving = self.is_draining || !publishes || self.initial_clock.is_distrusted();
        commands.push(LeaseAction::Heartbeat { is_leaving: leaving });
    }

    /// Takes a reading of the database's clock in. Says whether our own clock may have stood still, so that what is held must
    /// be renewed before anything more is published.
    fn observe_clock(
        &mut self,
        reading: ClockReading,
        roll: &ClusterView,
        witness: &ReferenceClocks,
        commands: &mut Vec<LeaseAction>,
    ) -> bool {
        let Some(mut clock) = self.clock else {
            match self.initial_clock.accept_reading(reading, roll.newest_scheduled_through, witness) {
                Some(clock) => {
                    self.clock = Some(clock);
                    commands.push(LeaseAction::SetClock(clock, ClockAdjustment::Slewing));
                }
                None => commands.push(LeaseAction::DistrustClock(roll.now)),
            }
            return false;
        };
        let is_behind = clock.is_behind(&reading);
        let adjusted = clock.observe_reading(reading, witness.bus);
        self.clock = Some(clock);
        if is_behind {
            self.held.expire_all(reading.received_at);
            self.fence.expire_all(reading.received_at);
        }
        // What was due in between cannot be done any more, or was done: the shards are taken anew, from where time is now.
        if let ClockAdjustment::Stepped(us) = adjusted
            && u128::from(us.unsigned_abs()) > DbClock::MAX_UNCONFIRMED_STEP.as_micros()
        {
            self.release_shards(usize::MAX, commands);
        }
        commands.push(LeaseAction::SetClock(clock, adjusted));
        is_behind
    }

    fn rebalance_shards(&mut self, now: Boottime, commands: &mut Vec<LeaseAction>) {
        if let Some(roll) = self.cluster_view.take()
            && let Some(clock) = self.clock
            && self.can_publish
            && !self.is_draining
        {
            match share::plan_rebalance(roll.shard_count, roll.live_coordinators, self.held.active_count()) {
                Rebalance::Balanced => {}
                Rebalance::Release(count) => self.release_shards(count, commands),
                // The answer ends the round.
                Rebalance::Acquire(most) => {
                    let free = self.build_acquire_criteria(most.min(MAX_ACQUIRED_PER_ROUND), now, &clock);
                    return commands.push(LeaseAction::Acquire(free));
                }
            }
        }
        commands.push(LeaseAction::FinishRound { can_publish: self.can_publish && self.clock.is_some() });
        self.release_if_draining(commands);
    }

    /// A lease that the database's clock has ended is free at once if that clock has gone like ours for a whole lease time:
    /// whoever held it has stopped by then, or has renewed it since. Otherwise, when nobody has renewed it for a lease time.
    fn build_acquire_criteria(&self, most: usize, now: Boottime, clock: &DbClock) -> AcquireCriteria {
        let is_steady = now.saturating_duration_since(clock.steady_since()) >= self.lease_time;
        let unrenewed = self.stale_leases.expired_leases(now);
        let expired_by = is_steady.then(|| {
            clock.raw_time_at(now).saturating_add((self.lease_time / 12).min(Self::MAX_STATEMENT_DELAY))
        });
        AcquireCriteria { max_leases: most, now: Some(clock.time_at(now)), expired_by, unrenewed }
    }

    fn apply_acquired(
        &mut self,
        sent: Boottime,
        now: Boottime,
        mut leases: Vec<Lease>,
        commands: &mut Vec<LeaseAction>,
    ) {
        if leases.is_empty() {
            return;
        }
        if self.held.is_empty() {
            self.renewed_at = sent;
        }
        let until = self.held.record_acquired(leases.iter().map(|lease| (lease.shard, lease.epoch)), sent);
        for lease in &mut leases {
            self.fence.open_shard(lease.shard, lease.epoch, until);
            // Whoever had it was ahead; without this nothing would be due before time is there again.
            if let Some(clock) = self.clock {
                lease.scheduled_through = lease.scheduled_through.min(clock.time_at(now));
            }
        }
        commands.push(LeaseAction::ShardsAcquired(leases));
    }

    /// The last thing of each round of one that is to hold nothing.
    fn release_if_draining(&mut self, commands: &mut Vec<LeaseAction>) {
        if self.is_draining {
            self.release_shards(usize::MAX, commands);
        }
    }

    fn release_shards(&mut self, count: usize, commands: &mut Vec<LeaseAction>) {
        let stopping = self.held.mark_releasing(count);
        if !stopping.is_empty() {
            commands.push(LeaseAction::ReleaseShards(ReleasingShards(stopping)));
        }
    }

    fn drop_lost(&self, lost: Vec<(Shard, Epoch)>, why: &'static str, commands: &mut Vec<LeaseAction>) {
        if !lost.is_empty() {
            lost.iter().for_each(|(shard, epoch)| self.fence.close_shard(*shard, *epoch));
            commands.push(LeaseAction::ShardsLost(lost, why));
        }
    }
}

/// Shards that are on their way back.
#[derive(Clone, Debug)]
pub struct ReleasingShards(Vec<(Shard, Epoch)>);

impl ReleasingShards {
    /// Which the planner must stop.
    pub fn shards(&self) -> Vec<Shard> {
        self.0.iter().map(|(shard, _)| *shard).collect()
    }

    /// The planner has stopped them, or has not said so in time. Shuts their gates; only what comes from here may be
    /// released. `told` is the planner's word; a shard that it did not know was not read yet.
    pub fn finish_stop(&self, fence: &Fence, told: &[ShardProgress]) -> Vec<ShardProgress> {
        self.0.iter().for_each(|(shard, epoch)| fence.close_shard(*shard, *epoch));
        merge_progress(told, &self.0)
    }

    /// They were released, or will expire.
    pub fn into_shards(self) -> Vec<(Shard, Epoch)> {
        self.0
    }
}

/// How far each of `shards` is by the planner's word; without it, as far as it was, since the database keeps the
/// later of two.
pub fn merge_progress(told: &[ShardProgress], shards: &[(Shard, Epoch)]) -> Vec<ShardProgress> {
    let of = |&(shard, epoch): &(Shard, Epoch)| {
        let told = told.iter().find(|told| told.shard == shard && told.epoch == epoch).copied();
        told.unwrap_or(ShardProgress { shard, epoch, scheduled_through: Timestamp::default() })
    };
    shards.iter().map(of).collect()
}
