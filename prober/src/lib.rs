//! One check, well measured: takes jobs it has room for, performs them, publishes the results.
//!
//! Two ways lead in: the stream of jobs (`intake`) and requests (`service`). Behind both, each check is a
//! task with a permit of its own (`work`), which ends when its result is stored. Nothing here reaches a
//! database.
#![warn(missing_docs)]

mod adhoc;
mod aligned_ticker;
pub mod check;
mod connectivity;
mod host_limiter;
mod intake;
mod job;
mod job_clock;
mod lane;
mod metrics;
mod options;
mod publisher;
mod rate;
mod regex_cache;
mod result_batcher;
mod runner;
mod stall;

use std::{sync::Arc, time::Duration};

use picket_runtime::{Bus, Health, Pipeline, PipelineHandle, ReadinessCheck, bus};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr, call_t};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::options::{BehaviourOptions, BodyLimit, Config, Options};
use self::{
    adhoc::AdhocService,
    aligned_ticker::AlignedTicker,
    check::{Checker, ClientOptions},
    connectivity::{CanaryActor, Connectivity},
    host_limiter::HostLimiter,
    intake::Intake,
    job_clock::JobClock,
    lane::Lane,
    metrics::Metrics,
    publisher::Publisher,
    regex_cache::RegexCache,
    result_batcher::ResultBatcher,
    runner::CheckRunner,
    stall::StallDetector,
};

/// Why a prober cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no NATS that could be used.
    #[error("could not use NATS")]
    Bus(#[source] bus::Error),
    /// Checks cannot be done here.
    #[error("could not prepare for checks")]
    Checker(#[source] check::Error),
    /// A canary makes no sense.
    #[error("PICKET_CANARIES")]
    Canary(#[source] picket_proto::ValidationError),
    /// An actor did not start.
    #[error("could not start the prober's actors")]
    Actors(#[source] SpawnErr),
}

/// The most ad-hoc requests under way at once; they do not take the slots of queued jobs.
const MAX_ADHOC_REQUESTS: usize = 100;
/// For each slot, so many checks may wait for their turn at a host. They take no slot, or a few hosts with many sites
/// would stop all others; and what comes for a busy host cannot be left in the stream, which knows no hosts.
const WAITERS_PER_SLOT: usize = 10;
/// Beside the slots of the intake, a lane of checks that gave theirs back runs this fraction of them at once: one lane of
/// ticks that waited for their host, one of confirming checks.
const SLOTS_PER_LANE_PERMIT: usize = 4;
/// The most compiled regexes kept, and the most bytes of them.
const MAX_CACHED_REGEXES: usize = 10_000;
const MAX_REGEX_CACHE_BYTES: usize = 128 << 20;

/// Starts a prober once NATS is there. Any number may run in one process.
///
/// # Errors
/// When NATS is too old, when no certificate could be judged, or when an actor cannot start.
pub async fn start(config: Config, bus: Bus, health: Health) -> Result<PipelineHandle, Error> {
    let metrics = Metrics::new(&health, &config.region);
    let usual =
        ClientOptions { running_lookups: metrics.lookups_running.clone(), ..ClientOptions::default() };
    let asking =
        ClientOptions { user_agent: config.behaviour.user_agent.unwrap_or(usual.user_agent), ..usual };
    let checker = Checker::with_options(&config.limits, asking).map_err(Error::Checker)?;
    bus.wait_connected().await.map_err(Error::Bus)?;
    let drift = StallDetector::new(config.behaviour.max_drift.0);
    let pulse = AlignedTicker::new();
    drift.start(metrics.clone(), pulse);
    let slots = i64::try_from(config.concurrency).unwrap_or(i64::MAX);
    metrics.slots.set(slots);
    metrics.slots_free.set(slots);
    let canaries =
        config.behaviour.canaries.iter().map(CanaryActor::canary_check).collect::<Result<Arc<[_]>, _>>();
    let canaries = canaries.map_err(Error::Canary)?;
    let network = Connectivity::new(!canaries.is_empty());
    let lookout = (!canaries.is_empty()).then(|| CanaryActor {
        connectivity: network.clone(),
        canaries,
        checker: checker.clone(),
        metrics: metrics.clone(),
        readiness: health.add_readiness_check("network"),
    });
    let requests = config.concurrency.min(MAX_ADHOC_REQUESTS);
    let aside = config.concurrency.div_ceil(SLOTS_PER_LANE_PERMIT);
    let work = Arc::new(CheckRunner {
        checker,
        regex_cache: Arc::new(RegexCache::new(MAX_CACHED_REGEXES, MAX_REGEX_CACHE_BYTES)),
        publisher: Publisher {
            bus: bus.clone(),
            region: config.region.clone(),
            prober: config.name.clone(),
            metrics: metrics.clone(),
            batcher: ResultBatcher::new(bus.clone(), config.region.clone(), pulse, config.bundle_from.into()),
        },
        metrics,
        clock: JobClock::new(&health, &config.region),
        stall_detector: drift,
        host_limiter: HostLimiter::new(usize::try_from(config.behaviour.per_host).unwrap_or(usize::MAX)),
        connectivity: network,
        tick_lane: Lane::new(config.concurrency.saturating_mul(WAITERS_PER_SLOT), aside),
        confirmation_lane: Lane::new(aside.saturating_mul(WAITERS_PER_SLOT), aside),
        // A request holds its own permit while it waits: the room is the smaller for it.
        request_lane: Lane::new(requests.div_ceil(2), Semaphore::MAX_PERMITS),
    });
    let prober = ProberPipeline {
        bus,
        runner: work,
        canary_actor: lookout,
        slots: Arc::new(Semaphore::new(config.concurrency)),
        request_permits: Arc::new(Semaphore::new(requests)),
        concurrency: config.concurrency,
        tasks: TaskTracker::new(),
        readiness: health.add_readiness_check("jobs"),
    };
    info!(
        region = %config.region,
        prober = config.name,
        concurrency = config.concurrency,
        "prober of region {} starts",
        config.region
    );
    PipelineHandle::start(&format!("prober-{}", config.region), prober, config.drain_timeout)
        .await
        .map_err(Error::Actors)
}

/// The prober's actors, and what outlives them when they are built anew: tasks and their permits.
struct ProberPipeline {
    bus: Bus,
    runner: Arc<CheckRunner>,
    canary_actor: Option<CanaryActor>,
    slots: Arc<Semaphore>,
    request_permits: Arc<Semaphore>,
    concurrency: usize,
    tasks: TaskTracker,
    readiness: ReadinessCheck,
}

struct ProberActors {
    intake: ActorRef<intake::Msg>,
    service: ActorRef<adhoc::Msg>,
}

impl Pipeline for ProberPipeline {
    type Actors = ProberActors;

    async fn spawn_actors(&self, supervisor: ActorCell) -> Result<ProberActors, SpawnErr> {
        let intake = Intake {
            bus: self.bus.clone(),
            runner: Arc::clone(&self.runner),
            slots: Arc::clone(&self.slots),
            concurrency: self.concurrency,
            tasks: self.tasks.clone(),
            readiness: self.readiness.clone(),
        };
        let desk = AdhocService {
            bus: self.bus.clone(),
            runner: Arc::clone(&self.runner),
            concurrency: self.concurrency,
            request_permits: Arc::clone(&self.request_permits),
            tasks: self.tasks.clone(),
        };
        if let Some(lookout) = self.canary_actor.clone() {
            Actor::spawn_linked(None, lookout, (), supervisor.clone()).await?;
        }
        let (intake, _) = Actor::spawn_linked(None, intake, (), supervisor.clone()).await?;
        let (service, _) = Actor::spawn_linked(None, desk, (), supervisor).await?;
        Ok(ProberActors { intake, service })
    }

    async fn drain(&self, parts: ProberActors) {
        const LAST_JOBS_MS: u64 = 10_000;
        // An actor that is gone takes no more either.
        let _ = parts.service.cast(adhoc::Msg::Drain);
        if let Err(error) = call_t!(parts.intake, intake::Msg::Drain, LAST_JOBS_MS) {
            warn!(%error, "the intake did not say that it has stopped");
        }
        // Checks that wait for their turn are not begun: others do them.
        self.runner.host_limiter.cancel_waiters();
        self.tasks.close();
        let left = self.tasks.len();
        if left > 0 {
            info!(checks = left, "finishing the checks under way");
        }
        self.tasks.wait().await;
        // What the last ones have acknowledged is still in the connection's buffer.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.bus.client.flush()).await;
    }
}
