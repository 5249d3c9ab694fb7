//! Publishes a job for each tick of the held shards when it is due.
//!
//! One planner and one wheel for all shards of the process, not one a shard: what is due at about the same time goes out
//! together, and an idle process wakes up once for it and not once a shard.
//!
//! Bound: [`MAX_IN_FLIGHT`] jobs wait for acknowledgement; beyond that the wheel stands still, and lateness shows it.
//! Loss: a planner that dies loses no tick, since nothing is written down as scheduled before the stream has
//! acknowledged it, and ticks can be computed again.

mod batch_window;
pub mod index;
mod state;
pub mod watermark;
pub mod wheel;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use picket_proto::{
    Epoch, Kind, RegionName, ScheduledTick, Shard, SiteId, Tickets, Timestamp,
    job::{self, JobTemplate},
    subject::JobSubject,
    ticket::TicketClaims,
};
use picket_runtime::clock::{Boottime, ClockAdjustment, DbClock};
use picket_store::{
    leases::{self, Lease},
    tickets::Keyring,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use self::{
    batch_window::BatchWindow,
    index::WatchedSite,
    state::{DueTick, SchedulerState},
};
use crate::{
    backpressure::PublishPause,
    fence::Admission,
    metrics::{JobsLostLabel, Metrics},
    publisher::{self, Job, Publisher},
};

/// Jobs that may wait for the stream's acknowledgement.
pub const MAX_IN_FLIGHT: usize = 8_192;
/// Jobs that are published together, and whose acknowledgements are awaited together.
const MAX_BATCH_JOBS: usize = 256;
/// Over how long the ticks that a predecessor left are spread, so that a take-over is no burst.
const CATCH_UP_SPREAD_MS: i64 = 3_000;
/// A confirming check is worth doing for so long only: a tick tells the same by then, or is late itself.
const CONFIRMATION_TTL: Duration = Duration::from_secs(10);
/// A job that has no more left than this comes to a prober too late.
const MIN_JOB_LIFE_LEFT: Duration = Duration::from_millis(250);
/// A shard without a scheduler for less leaves nothing to explain: no interval is shorter.
const MIN_GAP: Duration = Duration::from_secs(1);

pub enum Msg {
    /// How the database's clock stands. Before it has jumped far the shards have been given back.
    ClockUpdated(DbClock, ClockAdjustment),
    /// The names of all regions, by number.
    RegionsUpdated(Arc<HashMap<i16, RegionName>>),
    /// These shards were taken; their sites follow.
    ShardsAcquired(Vec<Lease>),
    /// Some of the sites of shards that were taken. In pieces: a million at once would be held twice.
    SitesLoaded(Vec<WatchedSite>),
    /// These were all sites of these shards.
    ShardsLoaded(Vec<Lease>),
    /// These sites are new or changed, and these are gone.
    SitesChanged(Vec<WatchedSite>, Vec<SiteId>),
    /// Drop all sites but these.
    RetainSites(HashSet<SiteId>),
    /// These shards are not ours any more under these epochs.
    ShardsLost(Vec<(Shard, Epoch)>),
    /// Stop these shards; answer when nothing of them is under way, with how far they are.
    ReleaseShards(Vec<Shard>, RpcReplyPort<Vec<leases::ShardProgress>>),
    /// How far are all shards?
    GetProgress(RpcReplyPort<Vec<leases::ShardProgress>>),
    /// Check these sites now, in all their regions: they began to fail.
    ConfirmSites(Vec<SiteId>),
    /// Something is due; the number tells the newest timer from older ones.
    TimerFired(u64),
    /// A batch is done.
    BatchDone(JobBatch),
}

/// Jobs under way together.
pub struct JobBatch {
    batch_id: u64,
    job_count: usize,
    /// The shards of those jobs that a predecessor had left.
    catch_up_ticks: Vec<(Shard, u64)>,
}

/// See the module.
#[derive(Clone)]
pub struct Scheduler {
    pub publisher: Publisher,
    pub publish_pause: PublishPause,
    pub batch_delay: Duration,
    pub keyring: Keyring,
    pub metrics: Metrics,
}

impl Actor for Scheduler {
    type Msg = Msg;
    type State = SchedulerState;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<SchedulerState, ActorProcessingErr> {
        let gather_ms = i64::try_from(self.batch_delay.as_millis()).unwrap_or(i64::MAX);
        Ok(SchedulerState::new(BatchWindow::new(gather_ms)))
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut SchedulerState,
    ) -> Result<(), ActorProcessingErr> {
        // What is new must find the wheel turned up to now: it would be handed ticks from before its time.
        if matches!(message, Msg::SitesLoaded(..) | Msg::SitesChanged(..)) {
            self.publish_due(&myself, state);
        }
        // Clocks come before shards: the lease actor has measured one before it takes any.
        let now_ms = state.clock.map_or(0, |clock| clock.time_at(Boottime::now()).as_millis());
        match message {
            Msg::ClockUpdated(clock, adjusted) => state.set_clock(clock, adjusted),
            Msg::RegionsUpdated(regions) => state.regions = regions,
            Msg::ShardsAcquired(mut leases) => {
                // Lost while they were on their way here; what is lost from now on is told of later.
                let now = Boottime::now();
                leases.retain(|lease| {
                    self.publisher.fence.check_admission(lease.shard, lease.epoch, now) != Admission::Closed
                });
                state.acquire_shards(&leases);
            }
            Msg::SitesLoaded(sites) => state.apply_changes(sites, &[], now_ms),
            Msg::ShardsLoaded(leases) => {
                for (shard, through) in state.finish_loading(&leases) {
                    // Of what was due since only the newest has been published: the gap that was written down when the
                    // shard was taken did not end before its sites had been read, as one span with it, so that ticks
                    // from before its end that expired after it lie in it.
                    let now = Timestamp::from_millis(now_ms);
                    if now.saturating_duration_since(through) > MIN_GAP {
                        self.publisher.publish_gaps.record_gap(shard, through, now);
                    }
                }
            }
            Msg::SitesChanged(changed, gone) => state.apply_changes(changed, &gone, now_ms),
            Msg::RetainSites(sites) => state.retain_sites(&sites),
            Msg::ShardsLost(shards) => state.drop_lost(&shards),
            Msg::ReleaseShards(shards, answer) => state.begin_release(&shards, answer),
            Msg::GetProgress(answer) => {
                // Who asked may have stopped waiting.
                let _ = answer.send(state.shard_progress());
            }
            Msg::ConfirmSites(sites) => self.publish_confirmations(&sites, state),
            Msg::TimerFired(number) if number != state.timer.generation => return Ok(()),
            Msg::TimerFired(_) => state.timer.armed_ms = None,
            Msg::BatchDone(batch) => state.finish_batch(&batch),
        }
        self.publish_due(&myself, state);
        Ok(())
    }
}

impl Scheduler {
    /// Publishes all that is due and may be, and sets the timer for what is next.
    fn publish_due(&self, myself: &ActorRef<Msg>, state: &mut SchedulerState) {
        let Some(clock) = state.clock else { return };
        let now = clock.time_at(Boottime::now());
        while state.in_flight < MAX_IN_FLIGHT {
            let Some(due) = state.next_due_batch(now.as_millis()) else {
                break;
            };
            state.batch_window.record_due(due.ticks.len(), now.as_millis());
            for ticks in due.ticks.chunks(MAX_BATCH_JOBS) {
                let jobs = self.build_jobs(ticks, now, state);
                let caught_up = ticks.iter().filter_map(|tick| tick.catch_up).collect();
                let batch = JobBatch {
                    batch_id: state.watermark.begin_batch(due.from_ms),
                    job_count: jobs.len(),
                    catch_up_ticks: caught_up,
                };
                state.in_flight += jobs.len();
                match jobs.is_empty() {
                    true => state.finish_batch(&batch),
                    false => self.publisher.spawn_batch(jobs, clock, batch, myself.clone()),
                }
            }
        }
        self.metrics.jobs_in_flight.set(i64::try_from(state.in_flight).unwrap_or(i64::MAX));
        self.metrics.schedules.set(i64::try_from(state.index.schedule_count()).unwrap_or(i64::MAX));
        self.metrics.sites.set(i64::try_from(state.index.site_count()).unwrap_or(i64::MAX));
        // With too much under way the next acknowledgement is what wakes us.
        if state.in_flight < MAX_IN_FLIGHT
            && let Some(wake_ms) = state.wake_ms()
        {
            state.timer.arm_at(myself, wake_ms, now);
        }
    }

    fn build_jobs(&self, ticks: &[DueTick], now: Timestamp, state: &SchedulerState) -> Vec<Job> {
        let mut jobs = Vec::with_capacity(ticks.len());
        let mut desk = JobEncoder::new(ticks.len(), &self.keyring);
        for tick in ticks {
            // A number may have been given to another schedule since a left-over tick was noted.
            let is_its_own = state.index.next_tick(tick.entry, tick.at_ms) == Some(tick.at_ms);
            let due = state.index.schedule_ref(tick.entry).filter(|due| due.site == tick.site && is_its_own);
            let Some(due) = due else { continue };
            let (Some(held), Some(region)) =
                (state.shards.get(&due.shard), state.regions.get(&due.region_id))
            else {
                continue;
            };
            let scheduled_at = Timestamp::from_millis(tick.at_ms);
            let expires_at =
                scheduled_at.saturating_add(job::job_ttl(Duration::from_millis(due.interval_ms.into())));
            if expires_at <= now.saturating_add(MIN_JOB_LIFE_LEFT) {
                self.metrics.jobs_lost.get_or_create(&JobsLostLabel { cause: "expired" }).inc();
                self.publisher.publish_gaps.record_gap(
                    due.shard,
                    publisher::just_before(scheduled_at),
                    expires_at,
                );
                continue;
            }
            if self.publish_pause.is_paused() {
                self.metrics.jobs_lost.get_or_create(&JobsLostLabel { cause: "backlog" }).inc();
                self.publisher.publish_gaps.record_gap(
                    due.shard,
                    publisher::just_before(scheduled_at),
                    expires_at,
                );
                continue;
            }
            self.metrics.lateness.observe(now.saturating_duration_since(scheduled_at).as_secs_f64());
            let tick = ScheduledTick {
                site: due.site,
                shard: due.shard,
                kind: Kind::Scheduled,
                scheduled_at,
                expires_at,
            };
            jobs.push(desk.encode_job(tick, region, held.epoch, due.template));
        }
        jobs
    }
}

impl Scheduler {
    /// Publishes a check of each site in each of its regions. It is no tick, and nothing waits for it.
    fn publish_confirmations(&self, sites: &[SiteId], state: &SchedulerState) {
        let Some(clock) = state.clock else { return };
        // Whole milliseconds, as ticks have.
        let now = Timestamp::from_millis(clock.time_at(Boottime::now()).as_millis());
        let (mut jobs, mut desk) = (Vec::new(), JobEncoder::new(sites.len(), &self.keyring));
        for due in sites.iter().flat_map(|site| state.index.site_schedules(*site)) {
            let (Some(held), Some(region)) =
                (state.shards.get(&due.shard), state.regions.get(&due.region_id))
            else {
                continue;
            };
            let tick = ScheduledTick {
                site: due.site,
                shard: due.shard,
                kind: Kind::Confirm,
                scheduled_at: now,
                expires_at: now.saturating_add(CONFIRMATION_TTL),
            };
            jobs.push(desk.encode_job(tick, region, held.epoch, due.template));
        }
        self.metrics.confirmation_jobs.inc_by(jobs.len() as u64);
        while !jobs.is_empty() {
            let rest = jobs.split_off(jobs.len().min(MAX_BATCH_JOBS));
            self.publisher.spawn_detached(std::mem::replace(&mut jobs, rest), clock);
        }
    }
}

/// Writes jobs, the payloads of a batch into one piece of memory.
struct JobEncoder {
    tickets: Arc<Tickets>,
    buffer: String,
    payloads: BytesMut,
}

impl JobEncoder {
    /// What most jobs are shorter than.
    const TYPICAL_JOB_BYTES: usize = 432;

    fn new(jobs: usize, keyring: &Keyring) -> Self {
        Self {
            tickets: keyring.tickets(),
            buffer: String::with_capacity(Self::TYPICAL_JOB_BYTES),
            payloads: BytesMut::with_capacity(jobs.min(MAX_BATCH_JOBS) * Self::TYPICAL_JOB_BYTES),
        }
    }

    fn encode_job(
        &mut self,
        tick: ScheduledTick,
        region: &RegionName,
        epoch: Epoch,
        template: &JobTemplate,
    ) -> Job {
        let id = tick.job_id(region);
        let subject = JobSubject::from_tick(&tick, region).to_string();
        self.buffer.clear();
        template.render_job(&TicketClaims { tick, region }, epoch, &id, &self.tickets, &mut self.buffer);
        self.payloads.extend_from_slice(self.buffer.as_bytes());
        let payload = self.payloads.split().freeze();
        Job { id, subject: subject.into(), payload, tick, epoch }
    }
}

/// The one timer that counts.
#[derive(Default)]
struct SchedulerTimer {
    generation: u64,
    armed_ms: Option<i64>,
}

impl SchedulerTimer {
    fn arm_at(&mut self, myself: &ActorRef<Msg>, wake_ms: i64, now: Timestamp) {
        if self.armed_ms.is_some_and(|armed_ms| armed_ms <= wake_ms) {
            return;
        }
        self.armed_ms = Some(wake_ms);
        self.generation += 1;
        let number = self.generation;
        let wait = Timestamp::from_millis(wake_ms).saturating_duration_since(now);
        myself.send_after(wait, move || Msg::TimerFired(number));
    }
}
