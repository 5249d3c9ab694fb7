//! Publishes a job for each tick of the held shards when it is due.
//!
//! One scheduler and one timer wheel serve all shards of the process. Jobs due at about the same
//! time are published together, and an idle process wakes up once instead of once per shard.
//!
//! Bound: [`MAX_IN_FLIGHT`] jobs wait for acknowledgement; beyond that the wheel stops, visible as
//! lateness. Loss: a scheduler that dies loses no tick, because progress is recorded only after the
//! stream has acknowledged the jobs, and ticks can be computed again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use picket_proto::{
    CheckKind, Epoch, RegionName, ScheduledTick, Shard, SiteId, Tickets, Timestamp,
    job::{self, JobTemplate},
    subject::JobSubject,
    ticket::TicketClaims,
};
use picket_runtime::clock::{Boottime, ClockAdjustment, DbClock};
use picket_store::{
    leases::{self, Lease},
    settings::SharedSettings,
    tickets::Keyring,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{
    batch_window::BatchWindow,
    index::WatchedSite,
    state::{DueTick, JobBatch, MAX_BATCH_JOBS, SchedulerState},
};
use crate::{
    dispatch::backpressure::PublishPause,
    dispatch::publisher::{self, Job, Publisher},
    fence::Admission,
    metrics::{JobsLostLabel, Metrics},
};

/// Maximum number of jobs waiting for acknowledgement by the stream.
pub(crate) const MAX_IN_FLIGHT: usize = 8_192;
/// Lifetime of a confirming check. Later, a regular tick gives the same information, or ticks are
/// late themselves.
const CONFIRMATION_TTL: Duration = Duration::from_secs(10);
/// A job with less remaining lifetime would reach a prober too late.
const MIN_JOB_LIFE_LEFT: Duration = Duration::from_millis(250);
/// Shorter ownership gaps cannot contain a tick, because no interval is shorter.
const MIN_GAP: Duration = Duration::from_secs(1);

pub(crate) enum Msg {
    /// State of the database's clock. Before a large step the shards have been released.
    ClockUpdated(DbClock, ClockAdjustment),
    /// Names of all regions by number.
    RegionsUpdated(Arc<HashMap<i16, RegionName>>),
    /// These shards were acquired; their sites follow.
    ShardsAcquired(Vec<Lease>),
    /// Some sites of acquired shards. Sent in chunks, because a million sites at once would be in
    /// memory twice.
    SitesLoaded(Vec<WatchedSite>),
    /// All sites of these shards have been sent.
    ShardsLoaded(Vec<Lease>),
    /// New or changed sites, and removed sites.
    SitesChanged(Vec<WatchedSite>, Vec<SiteId>),
    /// Drop all other sites.
    RetainSites(HashSet<SiteId>),
    /// Shards lost under these epochs.
    ShardsLost(Vec<(Shard, Epoch)>),
    /// Stop these shards. The reply is their progress, sent once none of their jobs is in flight.
    ReleaseShards(Vec<Shard>, RpcReplyPort<Vec<leases::ShardProgress>>),
    /// Request for the progress of all shards.
    GetProgress(RpcReplyPort<Vec<leases::ShardProgress>>),
    /// Check these sites now in all their regions, because they began to fail.
    ConfirmSites(Vec<SiteId>),
    /// A timer fired; the generation distinguishes the current timer from older ones.
    TimerFired(u64),
    /// All jobs of a batch are acknowledged or dropped.
    BatchDone(JobBatch),
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct Scheduler {
    pub(crate) publisher: Publisher,
    pub(crate) publish_pause: PublishPause,
    pub(crate) settings: SharedSettings,
    pub(crate) keyring: Keyring,
    pub(crate) metrics: Metrics,
}

impl Actor for Scheduler {
    type Msg = Msg;
    type State = SchedulerState;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<SchedulerState, ActorProcessingErr> {
        Ok(SchedulerState::new(BatchWindow::new(self.settings.current().batch_delay)))
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut SchedulerState,
    ) -> Result<(), ActorProcessingErr> {
        // New entries need a wheel that is advanced to the current time; otherwise it would yield
        // ticks before their `valid_from`.
        if matches!(message, Msg::SitesLoaded(..) | Msg::SitesChanged(..)) {
            self.publish_due(&myself, state);
        }
        // The clock is known before the first shard: the lease manager reads it before acquiring
        // any.
        let now_ms = state.clock.map_or(0, |clock| clock.time_at(Boottime::now()).as_millis());
        match message {
            Msg::ClockUpdated(clock, adjusted) => state.set_clock(clock, adjusted),
            Msg::RegionsUpdated(regions) => state.regions = regions,
            Msg::ShardsAcquired(mut leases) => {
                // Drops shards lost before this message arrived; later losses arrive as messages of
                // their own.
                let now = Boottime::now();
                leases.retain(|lease| {
                    self.publisher.fence.check_admission(lease.shard, lease.epoch, now) != Admission::Closed
                });
                state.acquire_shards(&leases);
            }
            Msg::SitesLoaded(sites) => state.apply_changes(sites, &[], now_ms),
            Msg::ShardsLoaded(leases) => {
                for (shard, through) in state.finish_loading(&leases) {
                    // Of the ticks due since then, only the newest has been published. The gap
                    // recorded at acquisition may have ended before the sites were loaded.
                    // Extending it to now as one span covers ticks that were due before its end and
                    // expired after it.
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
                // The requester may have timed out.
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
    /// Publishes all due jobs up to the limit, and arms the timer for the next ones.
    fn publish_due(&self, myself: &ActorRef<Msg>, state: &mut SchedulerState) {
        let Some(clock) = state.clock else { return };
        let now = clock.time_at(Boottime::now());
        while state.in_flight < MAX_IN_FLIGHT {
            let Some(due) = state.next_due_batch(now.as_millis()) else {
                break;
            };
            state.batch_window.set_max(self.settings.current().batch_delay);
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
                    // All its ticks were dropped; the watermark moves past them all the same.
                    true => state.finish_batch(&batch),
                    false => {
                        let scheduler = myself.clone();
                        let batch_id = batch.batch_id;
                        self.publisher.spawn_batch(jobs, clock, batch_id, move || {
                            // A stopped scheduler needs no notification.
                            let _ = scheduler.cast(Msg::BatchDone(batch));
                        });
                    }
                }
            }
        }
        self.metrics.jobs_in_flight.set(i64::try_from(state.in_flight).unwrap_or(i64::MAX));
        self.metrics.schedules.set(i64::try_from(state.index.schedule_count()).unwrap_or(i64::MAX));
        self.metrics.sites.set(i64::try_from(state.index.site_count()).unwrap_or(i64::MAX));
        // At the limit, the next acknowledgement triggers publishing instead of the timer.
        if state.in_flight < MAX_IN_FLIGHT
            && let Some(wake_ms) = state.wake_ms()
            && let Some((wait, generation)) = state.timer.arm_at(wake_ms, now)
        {
            myself.send_after(wait, move || Msg::TimerFired(generation));
        }
    }

    fn build_jobs(&self, ticks: &[DueTick], now: Timestamp, state: &SchedulerState) -> Vec<Job> {
        let mut jobs = Vec::with_capacity(ticks.len());
        let mut encoder = JobEncoder::new(ticks.len(), &self.keyring);
        for tick in ticks {
            // The entry number of a catch-up tick may have been reused by another schedule.
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
                kind: CheckKind::Scheduled,
                scheduled_at,
                expires_at,
            };
            jobs.push(encoder.encode_job(tick, region, held.epoch, due.template));
        }
        jobs
    }
}

impl Scheduler {
    /// Publishes a check of each site in each of its regions. Confirming checks are no ticks, so
    /// the watermark does not wait for them.
    fn publish_confirmations(&self, sites: &[SiteId], state: &SchedulerState) {
        let Some(clock) = state.clock else { return };
        // Whole milliseconds, like ticks.
        let now = Timestamp::from_millis(clock.time_at(Boottime::now()).as_millis());
        let (mut jobs, mut encoder) = (Vec::new(), JobEncoder::new(sites.len(), &self.keyring));
        for due in sites.iter().flat_map(|site| state.index.site_schedules(*site)) {
            let (Some(held), Some(region)) =
                (state.shards.get(&due.shard), state.regions.get(&due.region_id))
            else {
                continue;
            };
            let tick = ScheduledTick {
                site: due.site,
                shard: due.shard,
                kind: CheckKind::Confirm,
                scheduled_at: now,
                expires_at: now.saturating_add(CONFIRMATION_TTL),
            };
            jobs.push(encoder.encode_job(tick, region, held.epoch, due.template));
        }
        self.metrics.confirmation_jobs.inc_by(jobs.len() as u64);
        while !jobs.is_empty() {
            let rest = jobs.split_off(jobs.len().min(MAX_BATCH_JOBS));
            self.publisher.spawn_detached(std::mem::replace(&mut jobs, rest), clock);
        }
    }
}

/// Encodes the jobs of a batch, with all payloads in one buffer.
struct JobEncoder {
    tickets: Arc<Tickets>,
    buffer: String,
    payloads: BytesMut,
}

impl JobEncoder {
    /// Initial capacity per job; most jobs are shorter.
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
