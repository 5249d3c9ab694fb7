//! The prober: pulls jobs as capacity allows, performs their checks and publishes the results.
//!
//! Checks arrive by the stream of jobs (`intake`) and by ad-hoc requests (`adhoc`). In both cases
//! each check is a task with a permit of its own (`runner`), which ends once its result is stored.
//! The prober has no access to the database.
#![warn(missing_docs)]

mod adhoc;
mod aligned_ticker;
pub mod check;
mod config;
mod health;
mod intake;
mod job;
mod limits;
mod metrics;
mod options;
mod pipeline;
mod results;
mod runner;
mod secrets_command;
#[cfg(test)]
mod supervision_tests;

use std::sync::Arc;

use picket_runtime::{Bus, Health, PipelineHandle, Secrets, bus, secrets::SecretsError};
use ractor::SpawnErr;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::info;

use self::{
    aligned_ticker::AlignedTicker,
    check::{Checker, ClientOptions},
    health::connectivity::{CanaryActor, Connectivity},
    health::job_clock::JobClock,
    health::stall::StallDetector,
    limits::host_limiter::HostLimiter,
    limits::lane::Lane,
    limits::regex_cache::RegexCache,
    metrics::Metrics,
    pipeline::ProberPipeline,
    results::batcher::ResultBatcher,
    results::publisher::Publisher,
    runner::CheckRunner,
};
pub use self::{
    config::Config,
    metrics::describe_metrics,
    options::{BehaviourOptions, BodyLimit, Options, SecretsOptions, parse_network},
    secrets_command::SecretsArgs,
};

/// Reasons why a prober cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// NATS is unusable.
    #[error("could not use NATS")]
    Bus(#[source] bus::Error),
    /// Checks cannot be performed on this machine.
    #[error("could not prepare for checks")]
    Checker(#[source] check::Error),
    /// The secrets file is unusable.
    #[error("PICKET_SECRETS_FILE")]
    Secrets(#[source] SecretsError),
    /// A canary is no valid check.
    #[error("PICKET_CANARIES")]
    Canary(#[source] picket_proto::ValidationError),
    /// An actor failed to start.
    #[error("could not start the prober's actors")]
    Actors(#[source] SpawnErr),
}

/// Maximum concurrent ad-hoc requests; ad-hoc requests occupy no slots of queued jobs.
const MAX_ADHOC_REQUESTS: usize = 100;
/// Checks per slot that may wait for a busy host. Waiting checks occupy no slot; otherwise a few
/// hosts with many sites would block all others. Jobs for a busy host cannot stay in the stream
/// either, since the stream knows no hosts.
const WAITERS_PER_SLOT: usize = 10;
/// Ratio of slots to the permits of a lane. Lanes run checks in addition to the intake slots: one
/// lane serves ticks that waited for their host, another confirmations.
const SLOTS_PER_LANE_PERMIT: usize = 4;
/// Maximum total size of cached regexes.
const MAX_REGEX_CACHE_BYTES: usize = 128 << 20;

/// Starts a prober once NATS is connected. Several probers may run in one process.
///
/// # Errors
/// Fails if NATS is too old, if no root certificate is available, or if an actor cannot start.
pub async fn start(config: Config, bus: Bus, health: Health) -> Result<PipelineHandle, Error> {
    let metrics = Metrics::new(&health, &config.region);
    let secrets = Secrets::load_or_none(config.secrets.secrets_file.as_deref()).map_err(Error::Secrets)?;
    metrics.secrets.set(i64::try_from(secrets.summaries().len()).unwrap_or(i64::MAX));
    let client_options = ClientOptions {
        running_lookups: metrics.lookups_running.clone(),
        cached_tls_configs: metrics.tls_configs_cached.clone(),
        secrets: secrets.clone(),
        ..ClientOptions::default()
    };
    let client_options = ClientOptions {
        user_agent: config.behaviour.user_agent.unwrap_or(client_options.user_agent),
        ..client_options
    };
    let checker = Checker::with_options(&config.limits, client_options).map_err(Error::Checker)?;
    // A checker that cannot be built is reported before the wait for NATS.
    bus.wait_connected().await.map_err(Error::Bus)?;
    let stall_detector = StallDetector::new(config.behaviour.max_drift.0);
    let ticker = AlignedTicker::new();
    let slots = i64::try_from(config.concurrency).unwrap_or(i64::MAX);
    metrics.slots.set(slots);
    metrics.slots_free.set(slots);
    let canaries =
        config.behaviour.canaries.iter().map(CanaryActor::canary_check).collect::<Result<Arc<[_]>, _>>();
    let canaries = canaries.map_err(Error::Canary)?;
    if canaries.is_empty() {
        info!(
            region = %config.region,
            "no canaries: an outage of this prober's network beyond its first router looks like sites that are \
             down; set PICKET_CANARIES to two URLs of different owners"
        );
    }
    let connectivity = Connectivity::new(!canaries.is_empty());
    let canary_actor = (!canaries.is_empty()).then(|| CanaryActor {
        connectivity: connectivity.clone(),
        canaries,
        checker: checker.clone(),
        metrics: metrics.clone(),
        readiness: health.add_readiness_check("network"),
    });
    // Small probers serve no more ad-hoc requests than queued jobs.
    let requests = config.concurrency.min(MAX_ADHOC_REQUESTS);
    let lane_permits = config.concurrency.div_ceil(SLOTS_PER_LANE_PERMIT);
    let runner = Arc::new(CheckRunner {
        checker,
        regex_cache: Arc::new(RegexCache::new(MAX_REGEX_CACHE_BYTES)),
        publisher: Publisher {
            bus: bus.clone(),
            region: config.region.clone(),
            prober: config.name.clone(),
            metrics: metrics.clone(),
            batcher: ResultBatcher::new(bus.clone(), config.region.clone(), ticker),
        },
        metrics,
        clock: JobClock::new(&health, &config.region),
        stall_detector,
        host_limiter: HostLimiter::new(usize::try_from(config.behaviour.per_host).unwrap_or(usize::MAX)),
        connectivity,
        tick_lane: Lane::new(config.concurrency.saturating_mul(WAITERS_PER_SLOT), lane_permits),
        confirmation_lane: Lane::new(lane_permits.saturating_mul(WAITERS_PER_SLOT), lane_permits),
        // A request holds its service permit while it waits, so a smaller queue suffices.
        request_lane: Lane::new(requests.div_ceil(2), Semaphore::MAX_PERMITS),
        allows_adhoc_secrets: config.secrets.adhoc_secrets,
    });
    let prober = ProberPipeline {
        bus,
        runner,
        canary_actor,
        secrets,
        slots: Arc::new(Semaphore::new(config.concurrency)),
        request_permits: Arc::new(Semaphore::new(requests)),
        concurrency: config.concurrency,
        tasks: TaskTracker::new(),
        ticker,
        readiness: health.add_readiness_check("jobs"),
    };
    info!(
        region = %config.region,
        prober = config.name,
        concurrency = config.concurrency,
        "starting prober"
    );
    PipelineHandle::start(&format!("prober-{}", config.region), prober, config.drain_timeout, &health)
        .await
        .map_err(Error::Actors)
}
