//! Pure: the state machine of a coordinator's leases.
//!
//! The machine never waits. Each request to the outside is a [`LeaseAction`] and its result the
//! next [`LeaseEvent`], with the current time as a parameter. The same code therefore runs in the
//! actor and in the simulation that tries to make two coordinators hold one shard
//! (`tests/lease_safety`).

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};
use picket_runtime::clock::{Boottime, ClockAdjustment, ClockReading, DbClock};
use picket_store::leases::{AcquireCriteria, ClusterView, Lease, LeaseTime, ShardProgress};

use super::{
    clock_trust::{InitialClock, ReferenceClocks, StaleLeases},
    held::HeldLeases,
    share::{self, Rebalance},
};
use crate::fence::Fence;

/// Maximum number of shards acquired in one round.
const MAX_ACQUIRED_PER_ROUND: usize = 64;

/// Lease state of this coordinator.
pub struct LeaseMachine {
    lease_time: LeaseTime,
    /// True from a change of the lease time to the next renewal.
    is_renewal_due: bool,
    fence: Fence,
    held: HeldLeases,
    /// The database's clock, once trusted.
    clock: Option<DbClock>,
    /// The database's clock until it is trusted.
    initial_clock: InitialClock,
    stale_leases: StaleLeases,
    renewed_at: Boottime,
    is_draining: bool,
    /// True if jobs can be published, as far as is known; set by each round.
    can_publish: bool,
    /// View of all coordinators and shards, read by the current round.
    cluster_view: Option<ClusterView>,
}

/// Input of the machine.
#[derive(Debug)]
pub enum LeaseEvent {
    /// Starts a round. No other round is running.
    BeginRound {
        /// True if jobs can be published, as far as is known.
        can_publish: bool,
    },
    /// Drains: this coordinator is to hold no shards any more. Starts a round like
    /// [`LeaseEvent::BeginRound`].
    Drain {
        /// True if jobs can be published, as far as is known.
        can_publish: bool,
    },
    /// Reply to [`LeaseAction::Heartbeat`].
    HeartbeatDone {
        /// Local clock reading before the statement was sent.
        sent: Boottime,
        /// The database's view of all coordinators and shards.
        cluster_view: ClusterView,
        /// Readings of other clocks.
        reference_clocks: ReferenceClocks,
    },
    /// Reply to [`LeaseAction::Renew`].
    Renewed {
        /// Local clock reading before the statement was sent.
        sent: Boottime,
        /// Shards of the request.
        asked: Vec<(Shard, Epoch)>,
        /// Renewed shards.
        kept: Vec<Shard>,
    },
    /// Reply to [`LeaseAction::Acquire`].
    Acquired {
        /// Local clock reading before the statement was sent.
        sent: Boottime,
        /// Acquired leases.
        leases: Vec<Lease>,
    },
    /// A statement failed, and may or may not have taken effect.
    Failed,
    /// The shards of a [`LeaseAction::ReleaseShards`] are released, or could not be and will
    /// expire.
    Released(Vec<(Shard, Epoch)>),
}

/// Output of the machine, to be executed in order. At most one action of a list has a reply, and
/// that action comes last.
#[derive(Debug)]
pub enum LeaseAction {
    /// Record a heartbeat; the reply is [`LeaseEvent::HeartbeatDone`] or [`LeaseEvent::Failed`].
    Heartbeat {
        /// True if this coordinator does not count in the shares.
        is_leaving: bool,
    },
    /// Renew these shards at this time of the local copy of the clock; the reply is
    /// [`LeaseEvent::Renewed`] or [`LeaseEvent::Failed`].
    Renew(Vec<(Shard, Epoch)>, Timestamp),
    /// Acquire free shards; the reply is [`LeaseEvent::Acquired`] or [`LeaseEvent::Failed`].
    Acquire(AcquireCriteria),
    /// Use this clock as the database's clock from now on.
    SetClock(DbClock, ClockAdjustment),
    /// No other clock confirms the database's clock, so nothing is scheduled by it.
    DistrustClock(Timestamp),
    /// These shards were acquired, and the fence is open for them.
    ShardsAcquired(Vec<Lease>),
    /// These shards were lost for the given reason, and the fence is closed for them.
    ShardsLost(Vec<(Shard, Epoch)>, &'static str),
    /// Stop and release these shards while rounds continue.
    ReleaseShards(ReleasingShards),
    /// The round is complete, and all its statements succeeded.
    FinishRound {
        /// True if jobs can be published; if false, no shards were acquired or renewed.
        can_publish: bool,
    },
}

impl LeaseMachine {
    /// Maximum time from our clock reading to the execution of an acquire statement. An expired
    /// lease must still be free to acquire after that time.
    const MAX_STATEMENT_DELAY: Duration = Duration::from_secs(1);

    /// Creates a machine without leases. `lease_time` applies until the first heartbeat reads the
    /// setting. `now` is any clock reading from before the first round.
    pub fn new(lease_time: Duration, fence: Fence, now: Boottime) -> Self {
        Self {
            lease_time: lease_time.into(),
            is_renewal_due: false,
            fence,
            held: HeldLeases::new(lease_time),
            clock: None,
            initial_clock: InitialClock::default(),
            stale_leases: StaleLeases::default(),
            renewed_at: now,
            is_draining: false,
            can_publish: true,
            cluster_view: None,
        }
    }

    /// Lease time for the next statements.
    pub fn lease_time(&self) -> LeaseTime {
        self.lease_time
    }

    /// Number of shards held, without shards being released.
    pub fn active_count(&self) -> usize {
        self.held.active_count()
    }

    /// Returns true if no shard is held, including shards being released.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Closes the fence for all held shards, so that nothing more is published.
    pub fn close_fence(&self) {
        self.held.iter().for_each(|(shard, hold)| self.fence.close_shard(shard, hold.epoch));
    }

    /// Handles an event at `now` and returns the actions that follow.
    pub fn handle_event(&mut self, now: Boottime, event: LeaseEvent) -> Vec<LeaseAction> {
        let mut actions = Vec::new();
        match event {
            LeaseEvent::BeginRound { can_publish } => self.begin_round(now, can_publish, &mut actions),
            LeaseEvent::Drain { can_publish } => {
                self.is_draining = true;
                self.begin_round(now, can_publish, &mut actions);
            }
            LeaseEvent::HeartbeatDone { sent, cluster_view, reference_clocks } => {
                let reading = ClockReading { sent_at: sent, received_at: now, remote_time: cluster_view.now };
                let is_doubtful = self.observe_clock(reading, &cluster_view, &reference_clocks, &mut actions);
                self.stale_leases.observe_leases(now, &cluster_view.doubtful_leases);
                self.adopt_lease_time(cluster_view.lease_time, now);
                self.cluster_view = Some(cluster_view);
                let due = is_doubtful
                    || self.is_renewal_due
                    || now.saturating_duration_since(self.renewed_at) >= self.lease_time.duration / 3;
                match self.clock {
                    Some(clock) if due && self.can_publish && !self.held.is_empty() => {
                        let all = self.held.iter().map(|(shard, hold)| (shard, hold.epoch));
                        actions.push(LeaseAction::Renew(all.collect(), clock.time_at(now)));
                    }
                    _ => self.rebalance_shards(now, &mut actions),
                }
            }
            LeaseEvent::Renewed { sent, asked, kept } => {
                self.renewed_at = sent;
                self.is_renewal_due = false;
                let lost = self.held.record_renewed(&asked, &kept, sent);
                self.drop_lost(lost, "acquired by another coordinator, or expired", &mut actions);
                // A shard being released may already belong to another coordinator.
                for (shard, hold) in self.held.iter().filter(|(_, hold)| !hold.is_releasing) {
                    self.fence.open_shard(shard, hold.epoch, hold.valid_until);
                }
                self.rebalance_shards(now, &mut actions);
            }
            LeaseEvent::Acquired { sent, leases } => {
                self.apply_acquired(sent, now, leases, &mut actions);
                actions.push(LeaseAction::FinishRound { can_publish: true });
                self.release_if_draining(&mut actions);
            }
            LeaseEvent::Failed => self.release_if_draining(&mut actions),
            LeaseEvent::Released(shards) => self.held.record_released(&shards),
        }
        actions
    }

    fn begin_round(&mut self, now: Boottime, can_publish: bool, actions: &mut Vec<LeaseAction>) {
        let lost = self.held.take_expired(now);
        self.drop_lost(lost, "expired without a renewal", actions);
        self.can_publish = can_publish;
        // A coordinator that cannot publish, or does not trust the clock, must not count: the
        // smaller shares of the others would leave its shards without a holder.
        let is_leaving = self.is_draining || !can_publish || self.initial_clock.is_distrusted();
        actions.push(LeaseAction::Heartbeat { is_leaving });
    }

    /// Grants and renews by the setting as the last heartbeat read it. Other coordinators judge a
    /// lease by the time for which it was granted, so they need not know of a change.
    fn adopt_lease_time(&mut self, lease_time: LeaseTime, now: Boottime) {
        if lease_time == self.lease_time {
            return;
        }
        let is_shorter = lease_time.duration < self.lease_time.duration;
        self.lease_time = lease_time;
        self.held.set_lease_time(lease_time.duration);
        if is_shorter {
            // The next renewal ends the leases earlier than the last one did, even if its reply is
            // lost.
            let until = self.held.valid_until(now);
            self.held.expire_all(until);
            self.fence.expire_all(until);
        }
        // A third of a longer lease time may be more than what is left of the leases.
        self.is_renewal_due = !self.held.is_empty();
    }

    /// Observes a reading of the database's clock. Returns true if the local clock may have stood
    /// still, so that all leases must be renewed before anything more is published.
    fn observe_clock(
        &mut self,
        reading: ClockReading,
        cluster_view: &ClusterView,
        reference_clocks: &ReferenceClocks,
        actions: &mut Vec<LeaseAction>,
    ) -> bool {
        let Some(mut clock) = self.clock else {
            match self.initial_clock.accept_reading(
                reading,
                cluster_view.newest_scheduled_through,
                reference_clocks,
            ) {
                Some(clock) => {
                    self.clock = Some(clock);
                    actions.push(LeaseAction::SetClock(clock, ClockAdjustment::Slewing));
                }
                None => actions.push(LeaseAction::DistrustClock(cluster_view.now)),
            }
            return false;
        };
        let is_behind = clock.is_behind(&reading);
        let adjusted = clock.observe_reading(reading, reference_clocks.bus);
        self.clock = Some(clock);
        // A clock that stood still would let leases count as valid after their expiry.
        if is_behind {
            self.held.expire_all(reading.received_at);
            self.fence.expire_all(reading.received_at);
        }
        // Ticks within a jump cannot be published any more, or were published already. The shards
        // are acquired again and continue at the current time.
        if let ClockAdjustment::Stepped(us) = adjusted
            && u128::from(us.unsigned_abs()) > DbClock::MAX_UNCONFIRMED_STEP.as_micros()
        {
            self.release_shards(usize::MAX, actions);
        }
        actions.push(LeaseAction::SetClock(clock, adjusted));
        is_behind
    }

    fn rebalance_shards(&mut self, now: Boottime, actions: &mut Vec<LeaseAction>) {
        if let Some(cluster_view) = self.cluster_view.take()
            && let Some(clock) = self.clock
            && self.can_publish
            && !self.is_draining
        {
            match share::plan_rebalance(
                cluster_view.shard_count,
                cluster_view.live_coordinators,
                self.held.active_count(),
            ) {
                Rebalance::Balanced => {}
                Rebalance::Release(count) => self.release_shards(count, actions),
                // The reply to the acquire statement ends the round.
                Rebalance::Acquire(most) => {
                    let free = self.build_acquire_criteria(most.min(MAX_ACQUIRED_PER_ROUND), now, &clock);
                    return actions.push(LeaseAction::Acquire(free));
                }
            }
        }
        actions.push(LeaseAction::FinishRound { can_publish: self.can_publish && self.clock.is_some() });
        self.release_if_draining(actions);
    }

    /// Decides which leases are free. A lease that has expired by the database's clock is free at
    /// once if that clock has run like the local clock for the time of that lease, because the
    /// holder has stopped or renewed by then. Otherwise a lease is free when nobody has renewed it
    /// for its lease time.
    fn build_acquire_criteria(&self, most: usize, now: Boottime, clock: &DbClock) -> AcquireCriteria {
        let steady_for = now.saturating_duration_since(clock.steady_since());
        let unrenewed = self.stale_leases.expired_leases(now);
        let delay = (self.lease_time.duration / 12).min(Self::MAX_STATEMENT_DELAY);
        AcquireCriteria {
            max_leases: most,
            now: Some(clock.time_at(now)),
            expired_by: Some(clock.raw_time_at(now).saturating_add(delay)),
            steady_for,
            unrenewed,
        }
    }

    fn apply_acquired(
        &mut self,
        sent: Boottime,
        now: Boottime,
        mut leases: Vec<Lease>,
        actions: &mut Vec<LeaseAction>,
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
            // The previous holder's clock was ahead. Without this limit nothing would be due until
            // the current time reaches the holder's progress.
            if let Some(clock) = self.clock {
                lease.scheduled_through = lease.scheduled_through.min(clock.time_at(now));
            }
        }
        actions.push(LeaseAction::ShardsAcquired(leases));
    }

    /// Releases all shards if draining; the last step of each round.
    fn release_if_draining(&mut self, actions: &mut Vec<LeaseAction>) {
        if self.is_draining {
            self.release_shards(usize::MAX, actions);
        }
    }

    fn release_shards(&mut self, count: usize, actions: &mut Vec<LeaseAction>) {
        let stopping = self.held.mark_releasing(count);
        if !stopping.is_empty() {
            actions.push(LeaseAction::ReleaseShards(ReleasingShards(stopping)));
        }
    }

    fn drop_lost(&self, lost: Vec<(Shard, Epoch)>, why: &'static str, actions: &mut Vec<LeaseAction>) {
        if !lost.is_empty() {
            lost.iter().for_each(|(shard, epoch)| self.fence.close_shard(*shard, *epoch));
            actions.push(LeaseAction::ShardsLost(lost, why));
        }
    }
}

/// Shards being released.
#[derive(Clone, Debug)]
pub struct ReleasingShards(Vec<(Shard, Epoch)>);

impl ReleasingShards {
    /// The shards that the scheduler must stop.
    pub fn shards(&self) -> Vec<Shard> {
        self.0.iter().map(|(shard, _)| *shard).collect()
    }

    /// Closes the fence for the shards and returns the progress to release them with. Called when
    /// the scheduler has stopped them or did not reply in time. `reported` is the scheduler's reply;
    /// a shard missing there was not loaded yet.
    pub fn finish_stop(&self, fence: &Fence, reported: &[ShardProgress]) -> Vec<ShardProgress> {
        self.0.iter().for_each(|(shard, epoch)| fence.close_shard(*shard, *epoch));
        merge_progress(reported, &self.0)
    }

    /// Returns the shards, which are released or will expire.
    pub fn into_shards(self) -> Vec<(Shard, Epoch)> {
        self.0
    }
}

/// Progress of each of `shards` as reported by the scheduler. Without a report the default is
/// used, because the database keeps the later of the old and the new progress.
pub fn merge_progress(reported: &[ShardProgress], shards: &[(Shard, Epoch)]) -> Vec<ShardProgress> {
    let of = |&(shard, epoch): &(Shard, Epoch)| {
        let reported =
            reported.iter().find(|reported| reported.shard == shard && reported.epoch == epoch).copied();
        reported.unwrap_or(ShardProgress { shard, epoch, scheduled_through: Timestamp::default() })
    };
    shards.iter().map(of).collect()
}
