//! Keeps what the others stand on: the streams, a consumer for each region, the days' partitions. What the consumers say
//! tells also in which regions nobody works; who holds the first shard writes that down.
//!
//! Every coordinator does this, over and over, from what it finds and not from what it is told, so that what
//! somebody deleted is made again. Bound: one round at a time. Loss: none.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_nats::jetstream::{
    ErrorCode,
    consumer::pull,
    stream::{Config, ConsumerErrorKind, Info},
};
use picket_proto::{RegionName, Shard, subject};
use picket_runtime::{
    Bus, ErrorChain, ReadinessCheck,
    streams::{self, StreamLimits},
};
use picket_store::{Store, housekeeping::Retention, incidents, partitions, regions, tickets::Keyring};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    fence::Fence,
    metrics::{Metrics, RegionLabel},
    publisher::Ownership,
    region_liveness::{ConsumerActivity, RegionLiveness},
    shared_clock::SharedClock,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

pub enum Msg {
    /// Time to look.
    Reconcile,
    /// Regions may have changed, at the latest then.
    Notified(Instant),
}

/// See the module.
#[derive(Clone)]
pub struct StreamReconciler {
    pub bus: Bus,
    pub store: Store,
    pub fence: Fence,
    pub keyring: Keyring,
    pub ownership: Ownership,
    pub clock: SharedClock,
    pub stream_limits: StreamLimits,
    pub retention: Retention,
    pub metrics: Metrics,
    pub readiness: ReadinessCheck,
}

/// What was found or made.
#[derive(Default)]
pub struct ReconcilerState {
    rounds: u64,
    /// In which round partitions were last looked after.
    partitions_round: Option<u64>,
    /// When each was made: tells one that was deleted and made again.
    streams_created_at: HashMap<String, OffsetDateTime>,
    /// Those whose consumers were there.
    known_regions: HashSet<RegionName>,
    last_run_at: Option<Instant>,
    is_failure_reported: bool,
    liveness: RegionLiveness,
    /// Those that were spoken of in `/metrics`.
    exported_regions: Vec<RegionName>,
    is_jobs_full: bool,
}

const RECONCILE_INTERVAL: Duration = Duration::from_secs(5);
/// From here on the stream of jobs counts as nearly full.
const JOBS_FULL_RATIO: f64 = 0.8;
/// Partitions are made a week ahead; looking every quarter of an hour is plenty.
const PARTITION_ROUNDS: u64 = 180;
/// Incidents of sites that are not watched any more are closed with their schedules; this is for what was overlooked then.
const UNWATCHED_ROUNDS: u64 = 12;

const MISSING_KEY_MESSAGE: &str = "there is no key of tickets in use: sinks that require tickets refuse the results; add one: \
                      INSERT INTO picket.ticket_keys DEFAULT VALUES";

impl Actor for StreamReconciler {
    type Msg = Msg;
    type State = ReconcilerState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<ReconcilerState, ActorProcessingErr> {
        myself.cast(Msg::Reconcile)?;
        Ok(ReconcilerState::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        found: &mut ReconcilerState,
    ) -> Result<(), ActorProcessingErr> {
        let round = match message {
            Msg::Reconcile => true,
            // Looked at since; calls pile up while the bus is away.
            Msg::Notified(at) if found.last_run_at.is_some_and(|looked_at| at < looked_at) => return Ok(()),
            Msg::Notified(_) => false,
        };
        found.last_run_at = Some(Instant::now());
        match self.reconcile_all(found, round).await {
            Ok(true) => {
                self.readiness.set_ready();
                found.is_failure_reported = false;
            }
            Ok(false) => {
                self.readiness.set_unready(MISSING_KEY_MESSAGE);
                if !std::mem::replace(&mut found.is_failure_reported, true) {
                    warn!("{MISSING_KEY_MESSAGE}");
                }
            }
            Err(error) => {
                found.liveness.reset();
                self.readiness.set_unready(ErrorChain(&*error).to_string());
                if !std::mem::replace(&mut found.is_failure_reported, true) {
                    warn!(error = %ErrorChain(&*error), "streams, consumers or partitions are not as they should be, trying again");
                }
            }
        }
        if round {
            myself.send_after(RECONCILE_INTERVAL, || Msg::Reconcile);
        }
        Ok(())
    }
}

impl StreamReconciler {
    /// Returns whether there is a key for tickets.
    async fn reconcile_all(&self, found: &mut ReconcilerState, round: bool) -> Result<bool, Error> {
        // First: a stream in trouble must not keep this coordinator on keys that have been retired.
        let has_key = self.keyring.refresh_keys(&self.store).await?.has_signing_key();
        self.ensure_streams(found).await?;
        let regions = regions::list_active_regions(&self.store).await?;
        for region in &regions {
            self.ensure_consumer(region, found).await?;
        }
        found.liveness.retain_regions(&regions);
        let silent = found.liveness.silent_regions(Instant::now());
        self.metrics.set_silent_regions(&regions, &silent, &mut found.exported_regions);
        if round {
            // For these one coordinator is enough: the holder of the first shard.
            if self.fence.has_shard(Shard(0)) {
                self.record_silence(&silent, &found.liveness.active_regions()).await?;
                if found.rounds.is_multiple_of(UNWATCHED_ROUNDS) {
                    incidents::close_unwatched(&self.store).await?;
                }
            }
            // A week of them lies ahead, which is long enough for a clock that is in doubt to heal.
            let is_due = found.partitions_round.is_none_or(|at| found.rounds >= at + PARTITION_ROUNDS);
            if is_due && let Ok(now) = self.clock.database_now() {
                let made = partitions::ensure_partitions(&self.store, now, self.retention)
                    .await
                    .inspect_err(|_| {
                        self.metrics.database_errors.inc();
                    })?;
                found.partitions_round = Some(found.rounds);
                if made > 0 {
                    info!(partitions = made, "made {made} partitions of results");
                }
            }
            found.rounds += 1;
        }
        // Last, so that nothing else waits for it; also when the database has just called.
        if self.fence.has_shard(Shard(0)) {
            let sites = regions::reconcile_pending(&self.store).await?;
            if sites > 0 {
                info!(
                    sites,
                    "compared the schedules of sites that were written beside a region, or into a shard that does not exist"
                );
            }
        }
        Ok(has_key)
    }

    /// Settings are brought up to date where a stream has not been seen before: at the start, and when somebody
    /// deleted it and it was made again, by a sink perhaps, which does not know all settings.
    async fn ensure_streams(&self, found: &mut ReconcilerState) -> Result<(), Error> {
        let installation = self.keyring.tickets().installation();
        let mut trouble = None;
        for config in [
            streams::jobs_config(self.stream_limits),
            streams::results_config(self.stream_limits),
            streams::events_config(self.stream_limits),
        ] {
            let is_jobs = config.name == subject::JOBS_STREAM;
            match self.ensure_stream(streams::with_owner(config, installation), found).await {
                Ok(()) => {}
                Err(error @ streams::Error::ForeignStream { .. }) => {
                    self.ownership.set_ours(false);
                    return Err(error.into());
                }
                // Jobs are published while only another stream is in trouble.
                Err(error) if is_jobs => return Err(error.into()),
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        self.ownership.set_ours(true);
        trouble.map_or(Ok(()), |error| Err(error.into()))
    }

    /// As [`streams`](Self::streams), for one of them.
    async fn ensure_stream(&self, config: Config, found: &mut ReconcilerState) -> Result<(), streams::Error> {
        let name = config.name.clone();
        let created = match self.bus.jetstream.get_stream(&name).await {
            Ok(stream) => {
                let info = stream.cached_info();
                streams::check_owner(&config, &info.config)?;
                if name == subject::JOBS_STREAM {
                    self.record_jobs_stored(info, found);
                }
                // One that an older version made gets an owner.
                Some(info.created).filter(|_| streams::stream_owner(&info.config).is_some())
            }
            Err(error) if streams::is_stream_missing(&error) => None,
            Err(error) => return Err(streams::Error::CreateStream { name, source: error.into() }),
        };
        let known = found.streams_created_at.get(&name).copied();
        if created.is_some() && created == known {
            return Ok(());
        }
        let made = streams::create_or_update(&self.bus.jetstream, config).await?;
        if known.is_some_and(|known| known != made.created) {
            warn!(stream = name, "the stream {name} was gone and has been made again: what it held is lost");
        }
        found.streams_created_at.insert(name, made.created);
        Ok(())
    }

    /// The stream of jobs discards its oldest when it is full, which is the one that is worth least; its tick is missed, and the
    /// ledger sees only that no prober had it.
    fn record_jobs_stored(&self, info: &Info, found: &mut ReconcilerState) {
        let bytes = u64::try_from(info.config.max_bytes).unwrap_or(0);
        let ratio = if bytes == 0 { 0.0 } else { info.state.bytes as f64 / bytes as f64 };
        self.metrics.jobs_stored_ratio.set(ratio);
        let was_full = std::mem::replace(&mut found.is_jobs_full, ratio >= JOBS_FULL_RATIO);
        if found.is_jobs_full && !was_full {
            warn!(
                jobs = info.state.messages,
                bytes = info.state.bytes,
                max_bytes = bytes,
                "the stream of jobs is nearly full; when it is, the oldest jobs are discarded and their ticks are missed"
            );
        }
    }

    async fn record_silence(
        &self,
        silent: &[(RegionName, Duration)],
        heard: &[RegionName],
    ) -> Result<(), picket_store::Error> {
        let (now_silent, back) = regions::record_silence(&self.store, silent, heard).await?;
        if now_silent > 0 {
            let names: Vec<_> = silent.iter().map(|(region, _)| region.as_str()).collect();
            warn!(regions = names.join(", "), "nobody works in: {}", names.join(", "));
        }
        if back > 0 {
            info!(regions = back, "somebody works again in {back} regions that were silent");
        }
        Ok(())
    }

    async fn ensure_consumer(&self, region: &RegionName, found: &mut ReconcilerState) -> Result<(), Error> {
        let name = subject::prober_consumer(region);
        let jetstream = &self.bus.jetstream;
        let there = match jetstream
            .get_consumer_from_stream::<pull::Config, _, _>(&name, subject::JOBS_STREAM)
            .await
        {
            Ok(consumer) => {
                let info = consumer.cached_info();
                let signs = ConsumerActivity {
                    waiting_pulls: info.num_waiting,
                    delivered: info.delivered.consumer_sequence,
                    acknowledged: info.ack_floor.consumer_sequence,
                };
                found.liveness.observe_consumer(region, signs, Instant::now());
                let waiting = i64::try_from(info.num_pending).unwrap_or(i64::MAX);
                self.metrics
                    .jobs_waiting
                    .get_or_create(&RegionLabel { region: region.to_string() })
                    .set(waiting);
                true
            }
            Err(error) => match error.kind() {
                ConsumerErrorKind::JetStream(why) if why.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                    false
                }
                _ => return Err(error.into()),
            },
        };
        let known = found.known_regions.contains(region);
        if there && known {
            return Ok(());
        }
        streams::create_or_update_consumer(
            jetstream,
            subject::JOBS_STREAM,
            streams::prober_consumer_config(region),
        )
        .await?;
        match known {
            true => warn!(region = %region, "the consumer {name} was gone and has been made again"),
            false => info!(region = %region, "jobs of region {region} can be pulled"),
        }
        found.known_regions.insert(region.clone());
        Ok(())
    }
}
