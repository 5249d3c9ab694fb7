//! Schedules, due ticks, and the progress of each shard.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use picket_proto::{Epoch, RegionName, Shard, SiteId, Timestamp, job};
use picket_runtime::clock::{ClockAdjustment, DbClock};
use picket_store::leases::{self, Lease};
use ractor::RpcReplyPort;

use super::{
    batch_window::BatchWindow,
    index::{NewEntry, ScheduleIndex, WatchedSite},
    watermark::Watermark,
    wheel::Wheel,
};

/// Maximum number of jobs that are published, and whose acknowledgements are awaited, together.
pub(super) const MAX_BATCH_JOBS: usize = 256;
/// Time over which catch-up ticks are spread, so that a takeover causes no burst.
const CATCH_UP_SPREAD_MS: i64 = 3_000;

/// State of the scheduler.
#[derive(Default)]
pub(crate) struct SchedulerState {
    pub(super) clock: Option<DbClock>,
    pub(super) regions: Arc<HashMap<i16, RegionName>>,
    pub(super) shards: HashMap<Shard, ShardState>,
    pub(super) index: ScheduleIndex,
    wheel: Option<Wheel>,
    pub(super) watermark: Watermark,
    pub(super) in_flight: usize,
    /// Catch-up ticks, ordered by the time to publish them.
    catch_up_ticks: BinaryHeap<Reverse<(i64, CatchUpTick)>>,
    pending_releases: Vec<PendingRelease>,
    pub(super) batch_window: BatchWindow,
    pub(super) timer: SchedulerTimer,
    /// Acquisition counter; distinguishes catch-up ticks of different acquisitions of one shard.
    acquisitions: u64,
}

pub(super) struct ShardState {
    pub(super) epoch: Epoch,
    /// Progress of the previous holder.
    acquired_through: Timestamp,
    /// Number of the acquisition.
    acquisition: u64,
    /// Catch-up ticks that have not been published yet.
    catch_up_left: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CatchUpTick {
    at_ms: i64,
    entry: u32,
    site: SiteId,
    shard: Shard,
    acquisition: u64,
}

pub(super) struct PendingRelease {
    /// Earlier batches may contain jobs of the shards.
    before_batch: u64,
    progress: Vec<leases::ShardProgress>,
    reply: RpcReplyPort<Vec<leases::ShardProgress>>,
}

/// Jobs published together.
pub(crate) struct JobBatch {
    pub(super) batch_id: u64,
    pub(super) job_count: usize,
    /// Shard and acquisition of each catch-up tick in the batch.
    pub(super) catch_up_ticks: Vec<(Shard, u64)>,
}

/// The current wake-up timer; older ones are ignored by their generation.
#[derive(Default)]
pub(super) struct SchedulerTimer {
    pub(super) generation: u64,
    pub(super) armed_ms: Option<i64>,
}

impl SchedulerTimer {
    /// Arms the timer for `wake_ms`, unless it fires earlier. Returns the wait and the new generation.
    pub(super) fn arm_at(&mut self, wake_ms: i64, now: Timestamp) -> Option<(Duration, u64)> {
        if self.armed_ms.is_some_and(|armed_ms| armed_ms <= wake_ms) {
            return None;
        }
        self.armed_ms = Some(wake_ms);
        self.generation += 1;
        Some((Timestamp::from_millis(wake_ms).saturating_duration_since(now), self.generation))
    }
}

pub(super) struct DueTick {
    pub(super) entry: u32,
    pub(super) site: SiteId,
    pub(super) at_ms: i64,
    /// Shard and acquisition, if the tick is a catch-up tick.
    pub(super) catch_up: Option<(Shard, u64)>,
}

pub(super) struct DueBatch {
    pub(super) from_ms: i64,
    pub(super) ticks: Vec<DueTick>,
}

impl SchedulerState {
    pub(super) fn new(batch_window: BatchWindow) -> Self {
        Self { batch_window, ..Self::default() }
    }

    /// Sets the clock. After a large step the wheel starts again at the new time: advancing it
    /// through the jump would yield expired ticks, or none until the old time is reached again.
    pub(super) fn set_clock(&mut self, clock: DbClock, adjusted: ClockAdjustment) {
        self.clock = Some(clock);
        if let ClockAdjustment::Stepped(us) = adjusted
            && u128::from(us.unsigned_abs()) > DbClock::MAX_UNCONFIRMED_STEP.as_micros()
        {
            // The shards have already been released by the lease manager.
            let left: Vec<Shard> = self.shards.keys().copied().collect();
            self.drop_shards(&left);
            self.wheel = None;
            self.catch_up_ticks.clear();
            self.watermark.reset_floor();
        }
    }

    pub(super) fn acquire_shards(&mut self, leases: &[Lease]) {
        let shards: Vec<Shard> = leases.iter().map(|lease| lease.shard).collect();
        self.drop_shards(&shards);
        self.acquisitions += 1;
        for lease in leases {
            // Starts at 1 until all sites are loaded, so that progress does not pass the previous
            // holder's.
            let held = ShardState {
                epoch: lease.epoch,
                acquired_through: lease.scheduled_through,
                acquisition: self.acquisitions,
                catch_up_left: 1,
            };
            self.shards.insert(lease.shard, held);
        }
    }

    /// Marks shards as completely loaded. Returns the previous holders' progress of the shards
    /// still held.
    pub(super) fn finish_loading(&mut self, leases: &[Lease]) -> Vec<(Shard, Timestamp)> {
        let mut taken = Vec::new();
        for lease in leases {
            if let Some(held) = self.shards.get(&lease.shard).filter(|held| held.epoch == lease.epoch) {
                taken.push((lease.shard, held.acquired_through));
                self.record_caught_up(lease.shard, held.acquisition);
            }
        }
        taken
    }

    fn record_caught_up(&mut self, shard: Shard, acquisition: u64) {
        if let Some(held) = self.shards.get_mut(&shard).filter(|held| held.acquisition == acquisition) {
            held.catch_up_left = held.catch_up_left.saturating_sub(1);
        }
    }

    pub(super) fn apply_changes(&mut self, changed: Vec<WatchedSite>, gone: &[SiteId], now_ms: i64) {
        gone.iter().for_each(|id| self.index.remove_site(*id));
        for site in changed {
            if self.shards.contains_key(&site.shard) {
                self.upsert_site(site, now_ms);
            }
        }
    }

    pub(super) fn retain_sites(&mut self, sites: &HashSet<SiteId>) {
        self.index.retain_sites(sites);
    }

    pub(super) fn upsert_site(&mut self, planned: WatchedSite, now_ms: i64) {
        let (site, shard) = (planned.id, planned.shard);
        let Some(held) = self.shards.get_mut(&shard) else {
            return;
        };
        let wheel = self.wheel.get_or_insert_with(|| Wheel::new(now_ms));
        let floor = wheel.cursor_ms();
        for NewEntry { entry, valid_from } in self.index.upsert_site(planned) {
            // Skips ticks before the schedule's start and ticks that the previous holder has
            // published.
            let since = held.acquired_through.max(valid_from);
            let Some(first) = self.index.next_tick(entry, floor.max(since.as_millis() + 1)) else {
                continue;
            };
            wheel.insert_entry(entry, first);
            // The newest of the skipped-over ticks may still be unexpired and unpublished, so it is
            // caught up.
            let interval_ms = self.index.schedule_ref(entry).map_or(0, |due| due.interval_ms);
            let life = job::job_ttl(Duration::from_millis(interval_ms.into()));
            let newest = self.index.last_tick(entry, floor - 1).map(Timestamp::from_millis);
            let Some(at) = newest.filter(|at| *at > since) else { continue };
            let left = at.saturating_add(life).saturating_duration_since(Timestamp::from_millis(now_ms));
            if left.is_zero() {
                continue;
            }
            let publish_ms = now_ms + catch_up_delay_ms(at.as_millis(), left);
            let at_ms = at.as_millis();
            held.catch_up_left += 1;
            let left = CatchUpTick { at_ms, entry, site, shard, acquisition: held.acquisition };
            self.catch_up_ticks.push(Reverse((publish_ms, left)));
        }
    }

    /// Drops lost shards, except shards that have been acquired again since.
    pub(super) fn drop_lost(&mut self, lost: &[(Shard, Epoch)]) {
        let lost: Vec<Shard> = lost
            .iter()
            .filter(|(shard, epoch)| self.shards.get(shard).is_some_and(|held| held.epoch == *epoch))
            .map(|(shard, _)| *shard)
            .collect();
        if !lost.is_empty() {
            self.drop_shards(&lost);
        }
    }

    fn drop_shards(&mut self, shards: &[Shard]) {
        for shard in shards {
            self.shards.remove(shard);
        }
        self.index.remove_shards(|shard| shards.contains(&shard));
        self.catch_up_ticks.retain(|Reverse((_, left))| !shards.contains(&left.shard));
    }

    pub(super) fn begin_release(
        &mut self,
        shards: &[Shard],
        answer: RpcReplyPort<Vec<leases::ShardProgress>>,
    ) {
        let floor_ms = self.wheel.as_ref().map(Wheel::cursor_ms);
        let progress = shards.iter().filter_map(|shard| {
            let held = self.shards.get(shard)?;
            // All ticks taken off the wheel will be done when the reply is sent.
            let through = match floor_ms {
                Some(floor_ms) if held.catch_up_left == 0 => {
                    held.acquired_through.max(Timestamp::from_millis(floor_ms - 1))
                }
                _ => held.acquired_through,
            };
            Some(leases::ShardProgress { shard: *shard, epoch: held.epoch, scheduled_through: through })
        });
        let this = PendingRelease {
            before_batch: self.watermark.next_batch(),
            progress: progress.collect(),
            reply: answer,
        };
        self.pending_releases.push(this);
        self.drop_shards(shards);
        self.answer_releases();
    }

    pub(super) fn answer_releases(&mut self) {
        let (done, waiting) = std::mem::take(&mut self.pending_releases)
            .into_iter()
            .partition(|this| self.watermark.is_past(this.before_batch));
        self.pending_releases = waiting;
        let done: Vec<PendingRelease> = done;
        for PendingRelease { progress, reply: answer, .. } in done {
            let _ = answer.send(progress);
        }
    }

    pub(super) fn finish_batch(&mut self, batch: &JobBatch) {
        self.in_flight -= batch.job_count;
        self.watermark.finish_batch(batch.batch_id);
        for (shard, acquisition) in &batch.catch_up_ticks {
            self.record_caught_up(*shard, *acquisition);
        }
        self.answer_releases();
    }

    pub(super) fn shard_progress(&self) -> Vec<leases::ShardProgress> {
        let through = Timestamp::from_millis(self.watermark.watermark_ms() - 1);
        self.shards
            .iter()
            .map(|(shard, held)| leases::ShardProgress {
                shard: *shard,
                epoch: held.epoch,
                scheduled_through: match held.catch_up_left {
                    0 => held.acquired_through.max(through),
                    _ => held.acquired_through,
                },
            })
            .collect()
    }

    /// Returns the next batch: catch-up ticks whose time has come, and ticks of finished buckets
    /// until the batch is full. The last bucket is always taken completely.
    pub(super) fn next_due_batch(&mut self, now_ms: i64) -> Option<DueBatch> {
        let mut ticks = Vec::new();
        while let Some(Reverse((publish_ms, left))) = self.catch_up_ticks.peek().copied()
            && publish_ms <= now_ms
            && ticks.len() < MAX_BATCH_JOBS
        {
            self.catch_up_ticks.pop();
            let CatchUpTick { at_ms, entry, site, shard, acquisition } = left;
            ticks.push(DueTick { entry, site, at_ms, catch_up: Some((shard, acquisition)) });
        }
        if self.catch_up_ticks.is_empty() {
            // A takeover after a long time fills the heap once with many of the schedules, so free
            // its memory.
            self.catch_up_ticks.shrink_to(MAX_BATCH_JOBS);
        }
        let wheel = self.wheel.as_mut()?;
        let from_ms = wheel.cursor_ms();
        let (index, mut dead, mut turned) = (&self.index, Vec::new(), false);
        while ticks.len() < MAX_BATCH_JOBS
            && wheel.advance_bucket(
                now_ms,
                |entry, from| {
                    let tick = index.next_tick(entry, from);
                    if tick.is_none() {
                        dead.push(entry);
                    }
                    tick
                },
                |entry, at_ms| {
                    if let Some(due) = index.schedule_ref(entry) {
                        ticks.push(DueTick { entry, site: due.site, at_ms, catch_up: None });
                    }
                },
            )
        {
            turned = true;
        }
        dead.into_iter().for_each(|entry| self.index.free_entry(entry));
        self.watermark.advance_floor(wheel.cursor_ms());
        (turned || !ticks.is_empty()).then_some(DueBatch { from_ms, ticks })
    }

    /// Time of the next wake-up.
    pub(super) fn wake_ms(&self) -> Option<i64> {
        let left_over = self.catch_up_ticks.peek().map(|Reverse((publish_ms, _))| *publish_ms);
        let wheel = self.wheel.as_ref().and_then(Wheel::wake_ms);
        left_over.into_iter().chain(wheel).min().map(|due_ms| self.batch_window.next_wake_ms(due_ms))
    }
}

/// Delay of a catch-up tick with remaining lifetime `left`: at most half of it, so that a prober
/// still has time for the check. Ticks are spread by their phase, which is as good as random.
fn catch_up_delay_ms(at_ms: i64, left: Duration) -> i64 {
    let most = i64::try_from(left.as_millis() / 2).unwrap_or(CATCH_UP_SPREAD_MS);
    at_ms.rem_euclid(CATCH_UP_SPREAD_MS.min(most).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reacquired_shard_survives_the_loss_of_its_older_lease() {
        let mut state = SchedulerState::default();
        let lease = |epoch| Lease { shard: Shard(3), epoch, scheduled_through: Timestamp::default() };
        state.acquire_shards(&[lease(Epoch(1))]);
        state.acquire_shards(&[lease(Epoch(2))]);

        state.drop_lost(&[(Shard(3), Epoch(1))]);
        assert_eq!(state.shard_progress().len(), 1);
        state.drop_lost(&[(Shard(3), Epoch(2))]);
        assert_eq!(state.shard_progress(), []);
    }

    #[test]
    fn a_catch_up_delay_is_spread_and_below_half_of_the_remaining_ttl() {
        for at_ms in 0..10_000 {
            assert!(catch_up_delay_ms(at_ms, Duration::from_secs(50)) < CATCH_UP_SPREAD_MS);
            assert!(catch_up_delay_ms(at_ms, Duration::from_millis(800)) < 400);
            assert_eq!(catch_up_delay_ms(at_ms, Duration::from_millis(1)), 0);
        }
        assert!(
            (0..10_000)
                .any(|at_ms| catch_up_delay_ms(at_ms, Duration::from_secs(50)) > CATCH_UP_SPREAD_MS - 10)
        );
    }
}
