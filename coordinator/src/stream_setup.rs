//! Stream reconciler: creates and repairs the streams, a consumer per region, and the daily
//! partitions. The consumers also show which regions are silent, recorded by the holder of the
//! first shard.
//!
//! Every coordinator reconciles periodically from the state it finds, and creates anything deleted
//! again. Bound: one round at a time. Loss: none.

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
use picket_store::{Store, incidents, partitions, regions, settings::SharedSettings, tickets::Keyring};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    dispatch::publisher::Ownership,
    fence::Fence,
    metrics::{Metrics, RegionLabel},
    region_liveness::{ConsumerActivity, RegionLiveness},
    shared_clock::SharedClock,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(crate) enum Msg {
    /// Start a periodic round.
    Reconcile,
    /// Regions may have changed, at the latest at this time.
    Notified(Instant),
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct StreamReconciler {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) fence: Fence,
    pub(crate) keyring: Keyring,
    pub(crate) ownership: Ownership,
    pub(crate) clock: SharedClock,
    pub(crate) max_jobs_bytes: i64,
    pub(crate) settings: SharedSettings,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: ReadinessCheck,
}

/// State found or created so far.
#[derive(Default)]
pub(crate) struct ReconcilerState {
    rounds: u64,
    /// Round in which partitions were last ensured.
    partitions_round: Option<u64>,
    /// Creation time of each stream; detects deleted and recreated streams.
    known_streams: HashMap<String, (OffsetDateTime, StreamLimits)>,
    /// Regions whose consumers existed.
    known_regions: HashSet<RegionName>,
    last_run_at: Option<Instant>,
    is_failure_reported: bool,
    liveness: RegionLiveness,
    /// Regions exported in `/metrics`.
    exported_regions: Vec<RegionName>,
    is_jobs_full: bool,
}

const RECONCILE_INTERVAL: Duration = Duration::from_secs(5);
/// Above this ratio the jobs stream counts as nearly full.
const JOBS_FULL_RATIO: f64 = 0.8;
/// Partitions are created a week ahead, so one check per quarter of an hour is enough.
const PARTITION_ROUNDS: u64 = 180;
/// Incidents of sites that are no longer checked are closed together with their schedules; this
/// interval covers missed cases.
const UNWATCHED_ROUNDS: u64 = 12;

const MISSING_KEY_MESSAGE: &str = "no ticket key in use: sinks that require tickets reject the results; add one: \
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
        state: &mut ReconcilerState,
    ) -> Result<(), ActorProcessingErr> {
        let round = match message {
            Msg::Reconcile => true,
            // A round has run since; notifications queue up while the bus is unavailable.
            Msg::Notified(at) if state.last_run_at.is_some_and(|last_run_at| at < last_run_at) => {
                return Ok(());
            }
            Msg::Notified(_) => false,
        };
        state.last_run_at = Some(Instant::now());
        match self.reconcile_all(state, round).await {
            Ok(true) => {
                self.readiness.set_ready();
                state.is_failure_reported = false;
            }
            Ok(false) => {
                self.readiness.set_unready(MISSING_KEY_MESSAGE);
                if !std::mem::replace(&mut state.is_failure_reported, true) {
                    warn!("{MISSING_KEY_MESSAGE}");
                }
            }
            Err(error) => {
                state.liveness.reset();
                self.readiness.set_unready(ErrorChain(&*error).to_string());
                if !std::mem::replace(&mut state.is_failure_reported, true) {
                    warn!(error = %ErrorChain(&*error), "failed to reconcile streams, consumers or partitions; retrying");
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
    /// Reconciles everything. Returns true if there is a signing key for tickets.
    async fn reconcile_all(&self, state: &mut ReconcilerState, round: bool) -> Result<bool, Error> {
        // First, because a failing stream must not keep this coordinator on retired keys.
        let settings = self.settings.current();
        let has_key = self.keyring.refresh_keys(&self.store, &settings).await?.has_signing_key();
        self.ensure_streams(state).await?;
        let regions = regions::list_active_regions(&self.store).await?;
        for region in &regions {
            self.ensure_consumer(region, state).await?;
        }
        state.liveness.retain_regions(&regions);
        let silent = state.liveness.silent_regions(Instant::now());
        self.metrics.set_silent_regions(&regions, &silent, &mut state.exported_regions);
        if round {
            // One coordinator is enough for these tasks: the holder of the first shard.
            if self.fence.has_shard(Shard(0)) {
                self.record_silence(&silent, &state.liveness.active_regions()).await?;
                if state.rounds.is_multiple_of(UNWATCHED_ROUNDS) {
                    incidents::close_unwatched(&self.store).await?;
                }
            }
            // Partitions exist for a week ahead, enough time for a doubtful clock to recover.
            let is_due = state.partitions_round.is_none_or(|at| state.rounds >= at + PARTITION_ROUNDS);
            if is_due && let Ok(now) = self.clock.database_now() {
                let retention = self.settings.current().retention;
                let made =
                    partitions::ensure_partitions(&self.store, now, retention).await.inspect_err(|_| {
                        self.metrics.database_errors.inc();
                    })?;
                state.partitions_round = Some(state.rounds);
                if made > 0 {
                    info!(partitions = made, "created partitions of results");
                }
            }
            state.rounds += 1;
        }
        // Last, so that nothing else waits for it; also after a notification.
        if self.fence.has_shard(Shard(0)) {
            let sites = regions::reconcile_pending(&self.store).await?;
            if sites > 0 {
                info!(
                    sites,
                    "reconciled schedules of sites written concurrently with a region, or into a nonexistent shard"
                );
            }
        }
        Ok(has_key)
    }

    /// Ensures that all streams exist with current limits. A stream is updated when it is first seen,
    /// was recreated by another process, or when a limit has changed.
    async fn ensure_streams(&self, state: &mut ReconcilerState) -> Result<(), Error> {
        let installation = self.keyring.tickets().installation();
        let settings = self.settings.current();
        let limits = StreamLimits {
            replicas: settings.stream_replicas,
            max_results_bytes: settings.results_max_bytes,
            max_jobs_bytes: self.max_jobs_bytes,
        };
        let mut first_error = None;
        for config in
            [streams::jobs_config(limits), streams::results_config(limits), streams::events_config(limits)]
        {
            let is_jobs = config.name == subject::JOBS_STREAM;
            match self.ensure_stream(streams::with_owner(config, installation), limits, state).await {
                Ok(()) => {}
                Err(error @ streams::Error::ForeignStream { .. }) => {
                    self.ownership.set_ours(false);
                    return Err(error.into());
                }
                // Jobs are still published while only another stream fails.
                Err(error) if is_jobs => return Err(error.into()),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        self.ownership.set_ours(true);
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Ensures a single stream, as in [`ensure_streams`](Self::ensure_streams).
    async fn ensure_stream(
        &self,
        config: Config,
        limits: StreamLimits,
        state: &mut ReconcilerState,
    ) -> Result<(), streams::Error> {
        let name = config.name.clone();
        let created = match self.bus.jetstream.get_stream(&name).await {
            Ok(stream) => {
                let info = stream.cached_info();
                streams::check_owner(&config, &info.config)?;
                if name == subject::JOBS_STREAM {
                    self.record_jobs_stored(info, state);
                }
                // A stream created by an older version has no owner yet, so it is updated.
                Some(info.created).filter(|_| streams::stream_owner(&info.config).is_some())
            }
            Err(error) if streams::is_stream_missing(&error) => None,
            Err(error) => return Err(streams::Error::CreateStream { name, source: error.into() }),
        };
        let known = state.known_streams.get(&name).copied();
        if created.is_some_and(|created| known == Some((created, limits))) {
            return Ok(());
        }
        // Covers a missing stream, an unseen one, one recreated elsewhere, and changed limits.
        let made = streams::create_or_update(&self.bus.jetstream, config).await?;
        match known {
            Some((created, _)) if created != made.created => {
                warn!(stream = name, "recreated a deleted stream, its messages are lost");
            }
            Some(_) => info!(stream = name, "updated the limits of a stream"),
            None => {}
        }
        state.known_streams.insert(name, (made.created, limits));
        Ok(())
    }

    /// Records the fill level of the jobs stream. A full stream discards its oldest job, the least
    /// valuable one; its tick is missed, and to the ledger it looks as if no prober had pulled it.
    fn record_jobs_stored(&self, info: &Info, state: &mut ReconcilerState) {
        let bytes = u64::try_from(info.config.max_bytes).unwrap_or(0);
        let ratio = if bytes == 0 { 0.0 } else { info.state.bytes as f64 / bytes as f64 };
        self.metrics.jobs_stored_ratio.set(ratio);
        let was_full = std::mem::replace(&mut state.is_jobs_full, ratio >= JOBS_FULL_RATIO);
        if state.is_jobs_full && !was_full {
            warn!(
                jobs = info.state.messages,
                bytes = info.state.bytes,
                max_bytes = bytes,
                "jobs stream is nearly full; a full stream discards the oldest jobs, and their ticks are missed"
            );
        }
    }

    async fn record_silence(
        &self,
        silent: &[(RegionName, Duration)],
        active: &[RegionName],
    ) -> Result<(), picket_store::Error> {
        let (now_silent, back) = regions::record_silence(&self.store, silent, active).await?;
        if now_silent > 0 {
            let names: Vec<_> = silent.iter().map(|(region, _)| region.as_str()).collect();
            warn!(regions = names.join(", "), "no active probers");
        }
        if back > 0 {
            info!(regions = back, "silent regions recovered");
        }
        Ok(())
    }

    async fn ensure_consumer(&self, region: &RegionName, state: &mut ReconcilerState) -> Result<(), Error> {
        let name = subject::prober_consumer(region);
        let jetstream = &self.bus.jetstream;
        let exists = match jetstream
            .get_consumer_from_stream::<pull::Config, _, _>(&name, subject::JOBS_STREAM)
            .await
        {
            Ok(consumer) => {
                let info = consumer.cached_info();
                let activity = ConsumerActivity {
                    waiting_pulls: info.num_waiting,
                    delivered: info.delivered.consumer_sequence,
                    acknowledged: info.ack_floor.consumer_sequence,
                };
                state.liveness.observe_consumer(region, activity, Instant::now());
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
        let known = state.known_regions.contains(region);
        if exists && known {
            return Ok(());
        }
        streams::create_or_update_consumer(
            jetstream,
            subject::JOBS_STREAM,
            streams::prober_consumer_config(region),
        )
        .await?;
        match known {
            true => warn!(region = %region, consumer = name, "recreated a deleted consumer"),
            false => info!(region = %region, consumer = name, "created consumer"),
        }
        state.known_regions.insert(region.clone());
        Ok(())
    }
}
