//! What is planned, what is due, and how far each shard is.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use picket_proto::{Epoch, Region, Shard, SiteId, Timestamp, job};
use picket_runtime::clock::{Adjusted, DatabaseClock};
use picket_store::leases::{self, Lease};
use ractor::RpcReplyPort;

use super::{
    Batch, MAX_BATCH, SPREAD_MS, Timer,
    pace::Pace,
    progress::Progress,
    roster::{Added, Planned, Roster},
    wheel::Wheel,
};

/// What is planned.
#[derive(Default)]
pub struct Planning {
    pub(super) clock: Option<DatabaseClock>,
    pub(super) regions: Arc<HashMap<i16, Region>>,
    pub(super) shards: HashMap<Shard, Held>,
    pub(super) roster: Roster,
    wheel: Option<Wheel>,
    pub(super) batches: Progress,
    pub(super) in_flight: usize,
    /// Ticks that a predecessor left: when to publish, and what.
    left_over: BinaryHeap<Reverse<(i64, LeftOver)>>,
    yields: Vec<Yield>,
    pub(super) pace: Pace,
    pub(super) timer: Timer,
    /// How often shards were taken: tells what one taking left behind from what another did.
    takings: u64,
}

pub(super) struct Held {
    pub(super) epoch: Epoch,
    /// As far as the predecessor was.
    taken_through: Timestamp,
    /// Which taking of shards this was.
    taking: u64,
    /// How many ticks that it left have not been published yet.
    catching_up: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeftOver {
    at_ms: i64,
    entry: u32,
    site: SiteId,
    shard: Shard,
    taking: u64,
}

pub(super) struct Yield {
    /// Batches before this may hold jobs of the shards.
    before: u64,
    progress: Vec<leases::Progress>,
    answer: RpcReplyPort<Vec<leases::Progress>>,
}

pub(super) struct Tick {
    pub(super) entry: u32,
    pub(super) site: SiteId,
    pub(super) at_ms: i64,
    /// Left by a predecessor, and found at this taking of the shard.
    pub(super) caught_up: Option<(Shard, u64)>,
}

pub(super) struct DueNow {
    pub(super) from_ms: i64,
    pub(super) ticks: Vec<Tick>,
}

impl Planning {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Where time has jumped far, the wheel begins anew from where it is: turned through what lies in between it would hand out
    /// what nobody can do any more, or nothing until time is there again.
    pub(super) fn set_clock(&mut self, clock: DatabaseClock, adjusted: Adjusted) {
        self.clock = Some(clock);
        if let Adjusted::Stepped(us) = adjusted
            && u128::from(us.unsigned_abs()) > DatabaseClock::SMALL_STEP.as_micros()
        {
            // Given back already.
            let left: Vec<Shard> = self.shards.keys().copied().collect();
            self.forget(&left);
            self.wheel = None;
            self.left_over.clear();
            self.batches.restart();
        }
    }

    pub(super) fn take(&mut self, leases: &[Lease]) {
        let shards: Vec<Shard> = leases.iter().map(|lease| lease.shard).collect();
        self.forget(&shards);
        self.takings += 1;
        for lease in leases {
            // One more than there are, until all its sites have come: it is no further than its predecessor was.
            let held = Held {
                epoch: lease.epoch,
                taken_through: lease.scheduled_through,
                taking: self.takings,
                catching_up: 1,
            };
            self.shards.insert(lease.shard, held);
        }
    }

    /// All sites of these shards have come. Returns how far the predecessors of those that are still held were.
    pub(super) fn taken(&mut self, leases: &[Lease]) -> Vec<(Shard, Timestamp)> {
        let mut taken = Vec::new();
        for lease in leases {
            if let Some(held) = self.shards.get(&lease.shard).filter(|held| held.epoch == lease.epoch) {
                taken.push((lease.shard, held.taken_through));
                self.caught_up(lease.shard, held.taking);
            }
        }
        taken
    }

    fn caught_up(&mut self, shard: Shard, taking: u64) {
        if let Some(held) = self.shards.get_mut(&shard).filter(|held| held.taking == taking) {
            held.catching_up = held.catching_up.saturating_sub(1);
        }
    }

    pub(super) fn change(&mut self, changed: Vec<Planned>, gone: &[SiteId], now_ms: i64) {
        gone.iter().for_each(|id| self.roster.remove(*id));
        for site in changed {
            if self.shards.contains_key(&site.shard) {
                self.put(site, now_ms);
            }
        }
    }

    pub(super) fn retain(&mut self, sites: &HashSet<SiteId>) {
        self.roster.retain(sites);
    }

    pub(super) fn put(&mut self, planned: Planned, now_ms: i64) {
        let (site, shard) = (planned.id, planned.shard);
        let Some(held) = self.shards.get_mut(&shard) else {
            return;
        };
        let wheel = self.wheel.get_or_insert_with(|| Wheel::new(now_ms));
        let floor = wheel.floor_ms();
        for Added { entry, valid_from } in self.roster.put(planned) {
            // Neither before its time nor what a predecessor has published.
            let since = held.taken_through.max(valid_from);
            let Some(first) = self.roster.tick(entry, floor.max(since.millis() + 1)) else {
                continue;
            };
            wheel.insert(entry, first);
            // Of the ticks that came before, the newest may still be worth doing, if nobody has.
            let interval_ms = self.roster.due(entry).map_or(0, |due| due.interval_ms);
            let life = job::life(Duration::from_millis(interval_ms.into()));
            let newest = self.roster.last_tick(entry, floor - 1).map(Timestamp::from_millis);
            let Some(at) = newest.filter(|at| *at > since) else { continue };
            let left = at.plus(life).since(Timestamp::from_millis(now_ms));
            if left.is_zero() {
                continue;
            }
            let publish_ms = now_ms + wait_ms(at.millis(), left);
            let at_ms = at.millis();
            held.catching_up += 1;
            let left = LeftOver { at_ms, entry, site, shard, taking: held.taking };
            self.left_over.push(Reverse((publish_ms, left)));
        }
    }

    /// A shard that was taken again since then stays.
    pub(super) fn lose(&mut self, lost: &[(Shard, Epoch)]) {
        let lost: Vec<Shard> = lost
            .iter()
            .filter(|(shard, epoch)| self.shards.get(shard).is_some_and(|held| held.epoch == *epoch))
            .map(|(shard, _)| *shard)
            .collect();
        if !lost.is_empty() {
            self.forget(&lost);
        }
    }

    fn forget(&mut self, shards: &[Shard]) {
        for shard in shards {
            self.shards.remove(shard);
        }
        self.roster.remove_shards(|shard| shards.contains(&shard));
        self.left_over.retain(|Reverse((_, left))| !shards.contains(&left.shard));
    }

    pub(super) fn begin_yield(&mut self, shards: &[Shard], answer: RpcReplyPort<Vec<leases::Progress>>) {
        let floor_ms = self.wheel.as_ref().map(Wheel::floor_ms);
        let progress = shards.iter().filter_map(|shard| {
            let held = self.shards.get(shard)?;
            // All that was handed out will be done when the answer is given.
            let through = match floor_ms {
                Some(floor_ms) if held.catching_up == 0 => {
                    held.taken_through.max(Timestamp::from_millis(floor_ms - 1))
                }
                _ => held.taken_through,
            };
            Some(leases::Progress { shard: *shard, epoch: held.epoch, scheduled_through: through })
        });
        let this = Yield { before: self.batches.next(), progress: progress.collect(), answer };
        self.yields.push(this);
        self.forget(shards);
        self.answer_yields();
    }

    pub(super) fn answer_yields(&mut self) {
        let (done, waiting) = std::mem::take(&mut self.yields)
            .into_iter()
            .partition(|this| self.batches.is_through(this.before));
        self.yields = waiting;
        let done: Vec<Yield> = done;
        for Yield { progress, answer, .. } in done {
            let _ = answer.send(progress);
        }
    }

    pub(super) fn done(&mut self, batch: &Batch) {
        self.in_flight -= batch.jobs;
        self.batches.done(batch.number);
        for (shard, taking) in &batch.caught_up {
            self.caught_up(*shard, *taking);
        }
        self.answer_yields();
    }

    pub(super) fn progress(&self) -> Vec<leases::Progress> {
        let through = Timestamp::from_millis(self.batches.through_ms() - 1);
        self.shards
            .iter()
            .map(|(shard, held)| leases::Progress {
                shard: *shard,
                epoch: held.epoch,
                scheduled_through: match held.catching_up {
                    0 => held.taken_through.max(through),
                    _ => held.taken_through,
                },
            })
            .collect()
    }

    /// The ticks of the next buckets that are over, and the left-over ones whose time has come: a batch, and what is in the bucket
    /// that fills it.
    pub(super) fn next_due(&mut self, now_ms: i64) -> Option<DueNow> {
        let mut ticks = Vec::new();
        while let Some(Reverse((publish_ms, left))) = self.left_over.peek().copied()
            && publish_ms <= now_ms
            && ticks.len() < MAX_BATCH
        {
            self.left_over.pop();
            let LeftOver { at_ms, entry, site, shard, taking } = left;
            ticks.push(Tick { entry, site, at_ms, caught_up: Some((shard, taking)) });
        }
        if self.left_over.is_empty() {
            // A take-over after a long while fills it with a good part of all schedules, once.
            self.left_over.shrink_to(MAX_BATCH);
        }
        let wheel = self.wheel.as_mut()?;
        let from_ms = wheel.floor_ms();
        let (roster, mut dead, mut turned) = (&self.roster, Vec::new(), false);
        while ticks.len() < MAX_BATCH
            && wheel.turn(
                now_ms,
                |entry, from| {
                    let tick = roster.tick(entry, from);
                    if tick.is_none() {
                        dead.push(entry);
                    }
                    tick
                },
                |entry, at_ms| {
                    if let Some(due) = roster.due(entry) {
                        ticks.push(Tick { entry, site: due.site, at_ms, caught_up: None });
                    }
                },
            )
        {
            turned = true;
        }
        dead.into_iter().for_each(|entry| self.roster.reclaim(entry));
        self.batches.handed_out(wheel.floor_ms());
        (turned || !ticks.is_empty()).then_some(DueNow { from_ms, ticks })
    }

    /// When to look next.
    pub(super) fn wake_ms(&self) -> Option<i64> {
        let left_over = self.left_over.peek().map(|Reverse((publish_ms, _))| *publish_ms);
        let wheel = self.wheel.as_ref().and_then(Wheel::wake_ms);
        left_over.into_iter().chain(wheel).min().map(|due_ms| self.pace.look_ms(due_ms))
    }
}

/// For how long a tick that a predecessor left waits for others, when so much of its life is left: a prober must still
/// be able to do it. Spread by the phase, which is as good as chance.
fn wait_ms(at_ms: i64, left: Duration) -> i64 {
    let most = i64::try_from(left.as_millis() / 2).unwrap_or(SPREAD_MS);
    at_ms.rem_euclid(SPREAD_MS.min(most).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_was_taken_again_is_not_forgotten_for_the_loss_of_its_older_lease() {
        let mut planning = Planning::default();
        let lease = |epoch| Lease { shard: Shard(3), epoch, scheduled_through: Timestamp::default() };
        planning.take(&[lease(Epoch(1))]);
        planning.take(&[lease(Epoch(2))]);

        planning.lose(&[(Shard(3), Epoch(1))]);
        assert_eq!(planning.progress().len(), 1);
        planning.lose(&[(Shard(3), Epoch(2))]);
        assert_eq!(planning.progress(), []);
    }

    #[test]
    fn a_tick_that_was_left_over_keeps_half_of_what_is_left_of_its_life_for_the_prober() {
        for at_ms in 0..10_000 {
            assert!(wait_ms(at_ms, Duration::from_secs(50)) < SPREAD_MS);
            assert!(wait_ms(at_ms, Duration::from_millis(800)) < 400);
            assert_eq!(wait_ms(at_ms, Duration::from_millis(1)), 0);
        }
        assert!((0..10_000).any(|at_ms| wait_ms(at_ms, Duration::from_secs(50)) > SPREAD_MS - 10));
    }
}
