//! Publishes a job for each tick of the held shards when it is due.
//!
//! One planner and one wheel for all shards of the process, not one a shard: what is due in the same hundredth of a
//! second goes out together, and an idle process wakes up once for it and not once a shard.
//!
//! Bound: [`MAX_IN_FLIGHT`] jobs wait for acknowledgement; beyond that the wheel stands still, and lateness shows it.
//! Loss: a planner that dies loses no tick, since nothing is written down as scheduled before the stream has
//! acknowledged it, and ticks can be computed again.

pub mod progress;
pub mod roster;
pub mod wheel;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use picket_proto::{Epoch, Kind, Region, Shard, SiteId, Timestamp, job, subject};
use picket_runtime::clock::Boottime;
use picket_store::leases::{self, Lease};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use self::{
    progress::Progress,
    roster::{Added, Planned, Roster},
    wheel::Wheel,
};
use crate::{
    clock::DatabaseClock,
    metrics::{Lost, Metrics},
    publish::{Job, Publisher},
};

/// Jobs that may wait for the stream's acknowledgement.
pub const MAX_IN_FLIGHT: usize = 8_192;
/// Jobs that are published together, and whose acknowledgements are awaited together.
const MAX_BATCH: usize = 256;
/// Over how long the ticks that a predecessor left are spread, so that a take-over is no burst.
const SPREAD_MS: i64 = 3_000;

pub enum Msg {
    /// How the database's clock stands.
    Clock(DatabaseClock),
    /// The names of all regions, by number.
    Regions(Arc<HashMap<i16, Region>>),
    /// These shards were taken; these are their sites.
    Take(Vec<Lease>, Vec<Planned>),
    /// These sites are new or changed, and these are gone.
    Change(Vec<Planned>, Vec<SiteId>),
    /// These shards are another's now.
    Lost(Vec<Shard>),
    /// Stop these shards; answer when nothing of them is under way, with how far they are.
    Yield(Vec<Shard>, RpcReplyPort<Vec<leases::Progress>>),
    /// How far are all shards?
    Progress(RpcReplyPort<Vec<leases::Progress>>),
    /// Something is due; the number tells the newest timer from older ones.
    Due(u64),
    /// A batch is done.
    Done(Batch),
}

/// Jobs under way together.
pub struct Batch {
    number: u64,
    jobs: usize,
    /// The shards of those jobs that a predecessor had left.
    caught_up: Vec<(Shard, Epoch)>,
}

/// See the module.
#[derive(Clone)]
pub struct Planner {
    pub publisher: Publisher,
    pub metrics: Metrics,
}

impl Actor for Planner {
    type Msg = Msg;
    type State = Planning;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<Planning, ActorProcessingErr> {
        Ok(Planning::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut Planning,
    ) -> Result<(), ActorProcessingErr> {
        // What is new must find the wheel turned up to now: it would be handed ticks from before its time.
        if matches!(message, Msg::Take(..) | Msg::Change(..)) {
            self.run(&myself, state);
        }
        match message {
            Msg::Clock(clock) => state.clock = Some(clock),
            Msg::Regions(regions) => state.regions = regions,
            Msg::Take(leases, sites) => state.take(&leases, sites),
            Msg::Change(changed, gone) => state.change(changed, &gone),
            Msg::Lost(shards) => state.forget(&shards),
            Msg::Yield(shards, answer) => state.begin_yield(&shards, answer),
            Msg::Progress(answer) => {
                // Who asked may have stopped waiting.
                let _ = answer.send(state.progress());
            }
            Msg::Due(number) if number != state.timer.number => return Ok(()),
            Msg::Due(_) => state.timer.armed_ms = None,
            Msg::Done(batch) => state.done(&batch),
        }
        self.run(&myself, state);
        Ok(())
    }
}

impl Planner {
    /// Publishes all that is due and may be, and sets the timer for what is next.
    fn run(&self, myself: &ActorRef<Msg>, state: &mut Planning) {
        let Some(clock) = state.clock else { return };
        let now = clock.at(Boottime::now());
        while state.in_flight < MAX_IN_FLIGHT {
            let Some(due) = state.next_due(now.millis()) else {
                break;
            };
            for ticks in due.ticks.chunks(MAX_BATCH) {
                let jobs = self.jobs(ticks, now, state);
                let caught_up = ticks.iter().filter(|tick| tick.caught_up).map(|tick| tick.shard).collect();
                let batch = Batch { number: state.batches.begin(due.from_ms), jobs: jobs.len(), caught_up };
                state.in_flight += jobs.len();
                match jobs.is_empty() {
                    true => state.done(&batch),
                    false => self.publisher.spawn(jobs, clock, batch, myself.clone()),
                }
            }
        }
        self.metrics.in_flight.set(i64::try_from(state.in_flight).unwrap_or(i64::MAX));
        self.metrics.schedules.set(i64::try_from(state.roster.schedules()).unwrap_or(i64::MAX));
        self.metrics.sites.set(i64::try_from(state.roster.sites()).unwrap_or(i64::MAX));
        // With too much under way the next acknowledgement is what wakes us.
        if state.in_flight < MAX_IN_FLIGHT
            && let Some(wake_ms) = state.wake_ms()
        {
            state.timer.arm(myself, wake_ms, now);
        }
    }

    fn jobs(&self, ticks: &[Tick], now: Timestamp, state: &Planning) -> Vec<Job> {
        let mut jobs = Vec::with_capacity(ticks.len());
        let mut text = String::with_capacity(512);
        for tick in ticks {
            let Some(due) = state.roster.due(tick.entry).filter(|due| due.site == tick.site) else {
                continue;
            };
            let (Some(held), Some(region)) =
                (state.shards.get(&due.shard), state.regions.get(&due.region_id))
            else {
                continue;
            };
            let scheduled_at = Timestamp::from_millis(tick.at_ms);
            let expires_at = scheduled_at.plus(job::life(Duration::from_millis(due.interval_ms.into())));
            if expires_at <= now {
                self.metrics.lost.get_or_create(&Lost { cause: "expired" }).inc();
                continue;
            }
            self.metrics.lateness.observe(now.since(scheduled_at).as_secs_f64());
            let tick = job::Tick {
                site: due.site,
                region,
                kind: Kind::Scheduled,
                scheduled_at,
                expires_at,
                shard: due.shard,
                epoch: held.epoch,
            };
            text.clear();
            due.template.render(&tick, &mut text);
            jobs.push(Job {
                id: tick.id(),
                subject: subject::job(region, due.site),
                payload: Bytes::copy_from_slice(text.as_bytes()),
                expires_at,
                shard: due.shard,
                epoch: held.epoch,
            });
        }
        jobs
    }
}

/// What is planned.
#[derive(Default)]
pub struct Planning {
    clock: Option<DatabaseClock>,
    regions: Arc<HashMap<i16, Region>>,
    shards: HashMap<Shard, Held>,
    roster: Roster,
    wheel: Option<Wheel>,
    batches: Progress,
    in_flight: usize,
    /// Ticks that a predecessor left: when to publish, and what.
    left_over: BinaryHeap<Reverse<(i64, LeftOver)>>,
    yields: Vec<Yield>,
    timer: Timer,
}

struct Held {
    epoch: Epoch,
    /// As far as the predecessor was.
    taken_through: Timestamp,
    /// How many ticks that it left have not been published yet.
    catching_up: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LeftOver {
    at_ms: i64,
    entry: u32,
    site: SiteId,
    shard: Shard,
    epoch: Epoch,
}

struct Yield {
    /// Batches before this may hold jobs of the shards.
    before: u64,
    progress: Vec<leases::Progress>,
    answer: RpcReplyPort<Vec<leases::Progress>>,
}

struct Tick {
    entry: u32,
    site: SiteId,
    shard: Shard,
    at_ms: i64,
    /// Left by a predecessor, and found when the shard was taken under this epoch.
    caught_up: Option<(Shard, Epoch)>,
}

struct DueNow {
    from_ms: i64,
    ticks: Vec<Tick>,
}

impl Planning {
    fn take(&mut self, leases: &[Lease], sites: Vec<Planned>) {
        let Some(clock) = self.clock else { return };
        let now_ms = clock.at(Boottime::now()).millis();
        for lease in leases {
            let held = Held { epoch: lease.epoch, taken_through: lease.scheduled_through, catching_up: 0 };
            self.shards.insert(lease.shard, held);
        }
        self.roster.remove_shards(|shard| leases.iter().any(|lease| lease.shard == shard));
        for site in sites {
            self.put(site, now_ms);
        }
    }

    fn change(&mut self, changed: Vec<Planned>, gone: &[SiteId]) {
        let Some(clock) = self.clock else { return };
        let now_ms = clock.at(Boottime::now()).millis();
        gone.iter().for_each(|id| self.roster.remove(*id));
        for site in changed {
            if self.shards.contains_key(&site.shard) {
                self.put(site, now_ms);
            }
        }
    }

    fn put(&mut self, planned: Planned, now_ms: i64) {
        let (site, shard) = (planned.id, planned.shard);
        let Some(held) = self.shards.get_mut(&shard) else {
            return;
        };
        let wheel = self.wheel.get_or_insert_with(|| Wheel::new(now_ms));
        let floor = wheel.floor_ms();
        for Added { entry, valid_from } in self.roster.put(planned) {
            let Some(first) = self.roster.tick(entry, floor.max(valid_from.millis() + 1)) else {
                continue;
            };
            wheel.insert(entry, first);
            // Of the ticks that came before, the newest is still worth doing, if nobody has.
            let since = held.taken_through.max(valid_from);
            let Some(at_ms) =
                self.roster.last_tick(entry, floor - 1).filter(|at| Timestamp::from_millis(*at) > since)
            else {
                continue;
            };
            // Spread by the phase, which is as good as chance.
            let publish_ms = now_ms + at_ms.rem_euclid(SPREAD_MS);
            held.catching_up += 1;
            let left = LeftOver { at_ms, entry, site, shard, epoch: held.epoch };
            self.left_over.push(Reverse((publish_ms, left)));
        }
    }

    fn forget(&mut self, shards: &[Shard]) {
        for shard in shards {
            self.shards.remove(shard);
        }
        self.roster.remove_shards(|shard| shards.contains(&shard));
    }

    fn begin_yield(&mut self, shards: &[Shard], answer: RpcReplyPort<Vec<leases::Progress>>) {
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

    fn answer_yields(&mut self) {
        let (done, waiting) = std::mem::take(&mut self.yields)
            .into_iter()
            .partition(|this| self.batches.is_through(this.before));
        self.yields = waiting;
        let done: Vec<Yield> = done;
        for Yield { progress, answer, .. } in done {
            let _ = answer.send(progress);
        }
    }

    fn done(&mut self, batch: &Batch) {
        self.in_flight -= batch.jobs;
        self.batches.done(batch.number);
        for (shard, epoch) in &batch.caught_up {
            if let Some(held) = self.shards.get_mut(shard).filter(|held| held.epoch == *epoch) {
                held.catching_up = held.catching_up.saturating_sub(1);
            }
        }
        self.answer_yields();
    }

    fn progress(&self) -> Vec<leases::Progress> {
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

    /// The ticks of the next bucket that is over, and the left-over ones whose time has come.
    fn next_due(&mut self, now_ms: i64) -> Option<DueNow> {
        let mut ticks = Vec::new();
        while let Some(Reverse((publish_ms, left))) = self.left_over.peek().copied()
            && publish_ms <= now_ms
            && ticks.len() < MAX_BATCH
        {
            self.left_over.pop();
            let LeftOver { at_ms, entry, site, shard, epoch } = left;
            ticks.push(Tick { entry, site, shard, at_ms, caught_up: Some((shard, epoch)) });
        }
        let wheel = self.wheel.as_mut()?;
        let from_ms = wheel.floor_ms();
        let (roster, mut dead) = (&self.roster, Vec::new());
        let turned = wheel.turn(
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
                    ticks.push(Tick { entry, site: due.site, shard: due.shard, at_ms, caught_up: None });
                }
            },
        );
        dead.into_iter().for_each(|entry| self.roster.reclaim(entry));
        self.batches.handed_out(wheel.floor_ms());
        (turned || !ticks.is_empty()).then_some(DueNow { from_ms, ticks })
    }

    fn wake_ms(&self) -> Option<i64> {
        let left_over = self.left_over.peek().map(|Reverse((publish_ms, _))| *publish_ms);
        let wheel = self.wheel.as_ref().and_then(Wheel::wake_ms);
        left_over.into_iter().chain(wheel).min()
    }
}

/// The one timer that counts.
#[derive(Default)]
struct Timer {
    number: u64,
    armed_ms: Option<i64>,
}

impl Timer {
    fn arm(&mut self, myself: &ActorRef<Msg>, wake_ms: i64, now: Timestamp) {
        if self.armed_ms.is_some_and(|armed_ms| armed_ms <= wake_ms) {
            return;
        }
        self.armed_ms = Some(wake_ms);
        self.number += 1;
        let number = self.number;
        let wait = Timestamp::from_millis(wake_ms).since(now);
        myself.send_after(wait, move || Msg::Due(number));
    }
}
