//! Publishes a job for each tick of the held shards when it is due.
//!
//! One planner and one wheel for all shards of the process, not one a shard: what is due at about the same time goes out
//! together, and an idle process wakes up once for it and not once a shard.
//!
//! Bound: [`MAX_IN_FLIGHT`] jobs wait for acknowledgement; beyond that the wheel stands still, and lateness shows it.
//! Loss: a planner that dies loses no tick, since nothing is written down as scheduled before the stream has
//! acknowledged it, and ticks can be computed again.

mod pace;
mod planning;
pub mod progress;
pub mod roster;
pub mod wheel;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use picket_proto::{
    Epoch, Kind, Region, Shard, SiteId, Tickets, Timestamp,
    job::{self, Template},
    subject,
};
use picket_runtime::clock::{Adjusted, Boottime, DatabaseClock};
use picket_store::{
    leases::{self, Lease},
    tickets::Keyring,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use self::{
    pace::Pace,
    planning::{Planning, Tick},
    roster::Planned,
};
use crate::{
    backlog::Brake,
    fence::Gateway,
    metrics::{Lost, Metrics},
    publish::{self, Job, Publisher},
};

/// Jobs that may wait for the stream's acknowledgement.
pub const MAX_IN_FLIGHT: usize = 8_192;
/// Jobs that are published together, and whose acknowledgements are awaited together.
const MAX_BATCH: usize = 256;
/// Over how long the ticks that a predecessor left are spread, so that a take-over is no burst.
const SPREAD_MS: i64 = 3_000;
/// A confirming check is worth doing for so long only: a tick tells the same by then, or is late itself.
const CONFIRM_LIFE: Duration = Duration::from_secs(10);
/// A job that has no more left than this comes to a prober too late.
const TO_A_PROBER: Duration = Duration::from_millis(250);
/// A shard without a scheduler for less leaves nothing to explain: no interval is shorter.
const SHORT: Duration = Duration::from_secs(1);

pub enum Msg {
    /// How the database's clock stands. Before it has jumped far the shards have been given back.
    Clock(DatabaseClock, Adjusted),
    /// The names of all regions, by number.
    Regions(Arc<HashMap<i16, Region>>),
    /// These shards were taken; their sites follow.
    Take(Vec<Lease>),
    /// Some of the sites of shards that were taken. In pieces: a million at once would be held twice.
    Sites(Vec<Planned>),
    /// These were all sites of these shards.
    Taken(Vec<Lease>),
    /// These sites are new or changed, and these are gone.
    Change(Vec<Planned>, Vec<SiteId>),
    /// Drop all sites but these.
    Retain(HashSet<SiteId>),
    /// These shards are not ours any more under these epochs.
    Lost(Vec<(Shard, Epoch)>),
    /// Stop these shards; answer when nothing of them is under way, with how far they are.
    Yield(Vec<Shard>, RpcReplyPort<Vec<leases::Progress>>),
    /// How far are all shards?
    Progress(RpcReplyPort<Vec<leases::Progress>>),
    /// Check these sites now, in all their regions: they began to fail.
    Confirm(Vec<SiteId>),
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
    caught_up: Vec<(Shard, u64)>,
}

/// See the module.
#[derive(Clone)]
pub struct Planner {
    pub publisher: Publisher,
    pub brake: Brake,
    pub gather: Duration,
    pub keyring: Keyring,
    pub metrics: Metrics,
}

impl Actor for Planner {
    type Msg = Msg;
    type State = Planning;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<Planning, ActorProcessingErr> {
        let gather_ms = i64::try_from(self.gather.as_millis()).unwrap_or(i64::MAX);
        Ok(Planning::new(Pace::new(gather_ms)))
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut Planning,
    ) -> Result<(), ActorProcessingErr> {
        // What is new must find the wheel turned up to now: it would be handed ticks from before its time.
        if matches!(message, Msg::Sites(..) | Msg::Change(..)) {
            self.run(&myself, state);
        }
        // Clocks come before shards: the lease actor has measured one before it takes any.
        let now_ms = state.clock.map_or(0, |clock| clock.at(Boottime::now()).millis());
        match message {
            Msg::Clock(clock, adjusted) => state.set_clock(clock, adjusted),
            Msg::Regions(regions) => state.regions = regions,
            Msg::Take(mut leases) => {
                // Lost while they were on their way here; what is lost from now on is told of later.
                let now = Boottime::now();
                leases.retain(|lease| {
                    self.publisher.fence.look(lease.shard, lease.epoch, now) != Gateway::Shut
                });
                state.take(&leases);
            }
            Msg::Sites(sites) => state.change(sites, &[], now_ms),
            Msg::Taken(leases) => {
                for (shard, through) in state.taken(&leases) {
                    // Of what was due since only the newest has been published: the gap that was written down when the
                    // shard was taken did not end before its sites had been read, as one span with it, so that ticks
                    // from before its end that expired after it lie in it.
                    let now = Timestamp::from_millis(now_ms);
                    if now.since(through) > SHORT {
                        self.publisher.lapses.note(shard, through, now);
                    }
                }
            }
            Msg::Change(changed, gone) => state.change(changed, &gone, now_ms),
            Msg::Retain(sites) => state.retain(&sites),
            Msg::Lost(shards) => state.lose(&shards),
            Msg::Yield(shards, answer) => state.begin_yield(&shards, answer),
            Msg::Progress(answer) => {
                // Who asked may have stopped waiting.
                let _ = answer.send(state.progress());
            }
            Msg::Confirm(sites) => self.confirm(&sites, state),
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
            state.pace.due(due.ticks.len(), now.millis());
            for ticks in due.ticks.chunks(MAX_BATCH) {
                let jobs = self.jobs(ticks, now, state);
                let caught_up = ticks.iter().filter_map(|tick| tick.caught_up).collect();
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
        let mut desk = Desk::new(ticks.len(), &self.keyring);
        for tick in ticks {
            // A number may have been given to another schedule since a left-over tick was noted.
            let is_its_own = state.roster.tick(tick.entry, tick.at_ms) == Some(tick.at_ms);
            let due = state.roster.due(tick.entry).filter(|due| due.site == tick.site && is_its_own);
            let Some(due) = due else { continue };
            let (Some(held), Some(region)) =
                (state.shards.get(&due.shard), state.regions.get(&due.region_id))
            else {
                continue;
            };
            let scheduled_at = Timestamp::from_millis(tick.at_ms);
            let expires_at = scheduled_at.plus(job::life(Duration::from_millis(due.interval_ms.into())));
            if expires_at <= now.plus(TO_A_PROBER) {
                self.metrics.lost.get_or_create(&Lost { cause: "expired" }).inc();
                self.publisher.lapses.note(due.shard, publish::before(scheduled_at), expires_at);
                continue;
            }
            if self.brake.is_on() {
                self.metrics.lost.get_or_create(&Lost { cause: "backlog" }).inc();
                self.publisher.lapses.note(due.shard, publish::before(scheduled_at), expires_at);
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
            jobs.push(desk.write(&tick, due.template));
        }
        jobs
    }
}

impl Planner {
    /// Publishes a check of each site in each of its regions. It is no tick, and nothing waits for it.
    fn confirm(&self, sites: &[SiteId], state: &Planning) {
        let Some(clock) = state.clock else { return };
        // Whole milliseconds, as ticks have.
        let now = Timestamp::from_millis(clock.at(Boottime::now()).millis());
        let (mut jobs, mut desk) = (Vec::new(), Desk::new(sites.len(), &self.keyring));
        for due in sites.iter().flat_map(|site| state.roster.all_due(*site)) {
            let (Some(held), Some(region)) =
                (state.shards.get(&due.shard), state.regions.get(&due.region_id))
            else {
                continue;
            };
            let tick = job::Tick {
                site: due.site,
                region,
                kind: Kind::Confirm,
                scheduled_at: now,
                expires_at: now.plus(CONFIRM_LIFE),
                shard: due.shard,
                epoch: held.epoch,
            };
            jobs.push(desk.write(&tick, due.template));
        }
        self.metrics.confirming.inc_by(jobs.len() as u64);
        while !jobs.is_empty() {
            let rest = jobs.split_off(jobs.len().min(MAX_BATCH));
            self.publisher.spawn_aside(std::mem::replace(&mut jobs, rest), clock);
        }
    }
}

/// Writes jobs, the payloads of a batch into one piece of memory.
struct Desk {
    tickets: Arc<Tickets>,
    text: String,
    room: BytesMut,
}

impl Desk {
    /// What most jobs are shorter than.
    const JOB_BYTES: usize = 432;

    fn new(jobs: usize, keyring: &Keyring) -> Self {
        Self {
            tickets: keyring.tickets(),
            text: String::with_capacity(Self::JOB_BYTES),
            room: BytesMut::with_capacity(jobs.min(MAX_BATCH) * Self::JOB_BYTES),
        }
    }

    fn write(&mut self, tick: &job::Tick<'_>, template: &Template) -> Job {
        let job::Tick { site, region, kind, scheduled_at, expires_at, shard, epoch } = *tick;
        let id = tick.id();
        let subject = match kind {
            Kind::Confirm => subject::confirming_job(region, site),
            _ => subject::job(region, site),
        };
        self.text.clear();
        template.render(tick, &id, &self.tickets, &mut self.text);
        self.room.extend_from_slice(self.text.as_bytes());
        let payload = self.room.split().freeze();
        Job { id, subject: subject.into(), payload, scheduled_at, expires_at, shard, epoch, kind }
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
