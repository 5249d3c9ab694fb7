//! The table of leases as the database keeps it: each statement of `picket_store::leases` in a few lines of Rust.
//!
//! A test compares them with the SQL (`as_postgres.rs`).

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{Epoch, Shard, Timestamp};
use picket_store::leases::{AcquireCriteria, ClusterView, Lease, LeaseTime, ObservedLease, ShardProgress};

/// Name of a coordinator.
pub(crate) type CoordinatorName = &'static str;

/// One shard's row.
#[derive(Clone, Debug)]
pub(crate) struct TableRow {
    pub(crate) holder: Option<CoordinatorName>,
    pub(crate) epoch: Epoch,
    /// In microseconds of the database's clock; `i64::MIN` is minus infinity.
    pub(crate) expires_at: i64,
    pub(crate) scheduled_through: Timestamp,
    /// Of the last renewal.
    pub(crate) lease_time: LeaseTime,
}

/// Beyond a lease time, from which on a lease lasts too long to be true.
const MAX_LEASE_EXCESS: Duration = Duration::from_secs(5);

/// `picket.leases` and `picket.coordinators`.
#[derive(Clone, Debug)]
pub(crate) struct LeaseTable {
    pub(crate) rows: Vec<TableRow>,
    /// Last heartbeat of each coordinator, and whether it is draining.
    pub(crate) coordinators: BTreeMap<CoordinatorName, (i64, bool)>,
    /// The setting.
    pub(crate) lease_time: LeaseTime,
}

fn to_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}

/// `now` is the database's clock in microseconds, read when the rows are changed and not when the statement began,
/// which may be long before.
impl LeaseTable {
    pub(crate) fn new(shards: usize, lease_time: Duration) -> Self {
        let row = TableRow {
            holder: None,
            epoch: Epoch(0),
            expires_at: i64::MIN,
            scheduled_through: Timestamp::default(),
            lease_time: lease_time.into(),
        };
        Self { rows: vec![row; shards], coordinators: BTreeMap::new(), lease_time: lease_time.into() }
    }

    pub(crate) fn record_heartbeat(
        &mut self,
        now: i64,
        clock: i64,
        id: CoordinatorName,
        draining: bool,
        alive: Duration,
    ) -> ClusterView {
        self.coordinators.insert(id, (now, draining));
        let live = |(name, (seen_at, draining)): (&CoordinatorName, &(i64, bool))| {
            *name != id && !draining && (now - *seen_at).abs() < to_micros(alive)
        };
        let doubtful = self.rows.iter().enumerate().filter(|(_, row)| {
            let ends = row.expires_at;
            let granted = row.lease_time.duration;
            ends > clock + to_micros(granted + MAX_LEASE_EXCESS) || (ends < clock && ends != i64::MIN)
        });
        ClusterView {
            now: Timestamp::from_micros(clock),
            newest_scheduled_through: None,
            doubtful_leases: doubtful.map(|(place, _)| self.held_lease(place)).collect(),
            live_coordinators: self.coordinators.iter().filter(|entry| live(*entry)).count()
                + usize::from(!draining),
            shard_count: self.rows.len(),
            lease_time: self.lease_time,
        }
    }

    pub(crate) fn acquire_leases(
        &mut self,
        now: i64,
        id: CoordinatorName,
        free: &AcquireCriteria,
        lease: LeaseTime,
    ) -> Vec<Lease> {
        let places = self.free_places(now, free).into_iter().take(free.max_leases);
        places.map(|place| self.grant_lease(now, id, place, lease)).collect()
    }

    /// Free leases, in the order of acquisition.
    pub(crate) fn free_places(&self, now: i64, free: &AcquireCriteria) -> Vec<usize> {
        let is_free = |place: &usize| {
            let expires_at = self.rows[*place].expires_at;
            expires_at == i64::MIN
                || free.expired_by.is_some_and(|by| expires_at < now.min(by.as_micros()))
                    && self.rows[*place].lease_time.duration <= free.steady_for
                || free.unrenewed.contains(&self.held_lease(*place))
        };
        let mut free: Vec<usize> = (0..self.rows.len()).filter(is_free).collect();
        free.sort_by_key(|place| (self.rows[*place].expires_at, *place));
        free
    }

    fn held_lease(&self, place: usize) -> ObservedLease {
        let row = &self.rows[place];
        let shard = Shard(u16::try_from(place).unwrap());
        ObservedLease {
            shard,
            epoch: row.epoch,
            expires_at: Timestamp::from_micros(row.expires_at),
            lease_time: row.lease_time.duration,
        }
    }

    pub(crate) fn grant_lease(
        &mut self,
        now: i64,
        id: CoordinatorName,
        place: usize,
        lease: LeaseTime,
    ) -> Lease {
        let row = &mut self.rows[place];
        row.holder = Some(id);
        row.epoch = Epoch(row.epoch.0 + 1);
        row.expires_at = now + to_micros(lease.duration);
        row.lease_time = lease;
        let shard = Shard(u16::try_from(place).unwrap());
        Lease { shard, epoch: row.epoch, scheduled_through: row.scheduled_through }
    }

    pub(crate) fn renew_leases(
        &mut self,
        now: i64,
        id: CoordinatorName,
        held: &[ShardProgress],
        by: Option<Timestamp>,
        lease: LeaseTime,
    ) -> Vec<Shard> {
        let earlier = by.map_or(now, |by| now.min(by.as_micros()));
        let mut kept = Vec::new();
        for held in held {
            let is_renewable =
                |row: &&mut TableRow| row.expires_at > earlier && row.lease_time.version <= lease.version;
            if let Some(row) = self.find_row(id, held).filter(is_renewable) {
                row.expires_at = now + to_micros(lease.duration);
                row.lease_time = lease;
                row.scheduled_through = row.scheduled_through.max(held.scheduled_through);
                kept.push(held.shard);
            }
        }
        kept
    }

    pub(crate) fn release_leases(&mut self, id: CoordinatorName, held: &[ShardProgress]) {
        for held in held {
            if let Some(row) = self.find_row(id, held) {
                row.holder = None;
                row.expires_at = i64::MIN;
                row.scheduled_through = row.scheduled_through.max(held.scheduled_through);
            }
        }
    }

    fn find_row(&mut self, id: CoordinatorName, held: &ShardProgress) -> Option<&mut TableRow> {
        let row = self.rows.get_mut(usize::from(held.shard.0))?;
        (row.epoch == held.epoch && row.holder == Some(id)).then_some(row)
    }
}
