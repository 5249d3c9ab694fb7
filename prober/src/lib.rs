//! One check, well measured: takes jobs it has room for, performs them, publishes the results.
//!
//! Two ways lead in: the stream of jobs (`intake`) and requests (`service`). Behind both, each check is a
//! task with a permit of its own (`work`), which ends when its result is stored. Nothing here reaches a
//! database.
#![warn(missing_docs)]

mod clock;
mod drift;
mod hosts;
pub mod http;
mod intake;
mod job;
mod lane;
mod metrics;
mod network;
mod options;
mod outgoing;
mod pace;
mod publisher;
mod pulse;
mod regexes;
mod service;
mod work;

use std::{sync::Arc, time::Duration};

use picket_runtime::{Bus, Condition, Health, Pipeline, Running, bus};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr, call_t};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::options::{BodyLimit, Config, Manners, Options};
use self::{
    clock::Clock,
    drift::Drift,
    hosts::Hosts,
    http::{Asking, Checker},
    intake::Intake,
    lane::Lane,
    metrics::Metrics,
    network::{Lookout, Network},
    outgoing::Outgoing,
    publisher::Publisher,
    pulse::Pulse,
    regexes::Regexes,
    service::Desk,
    work::Work,
};

/// Why a prober cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no NATS that could be used.
    #[error("could not use NATS")]
    Bus(#[source] bus::Error),
    /// Checks cannot be done here.
    #[error("could not prepare for checks")]
    Http(#[source] http::Error),
    /// A canary makes no sense.
    #[error("PICKET_CANARIES")]
    Canary(#[source] picket_proto::Invalid),
    /// An actor did not start.
    #[error("could not start the prober's actors")]
    Actors(#[source] SpawnErr),
}

/// The most ad-hoc requests under way at once; they do not take the slots of queued jobs.
const REQUESTS: usize = 100;
/// For each slot, so many checks may wait for their turn at a host. They take no slot, or a few hosts with many sites
/// would stop all others; and what comes for a busy host cannot be left in the stream, which knows no hosts.
const WAITING: usize = 10;
/// Beside the slots of the intake, a lane of checks that gave theirs back runs this fraction of them at once: one lane of
/// ticks that waited for their host, one of confirming checks.
const ASIDE: usize = 4;
/// The most compiled regexes kept, and the most bytes of them.
const REGEXES: usize = 10_000;
const REGEXES_BYTES: usize = 128 << 20;

/// Starts a prober once NATS is there. Any number may run in one process.
///
/// # Errors
/// When NATS is too old, when no certificate could be judged, or when an actor cannot start.
pub async fn start(config: Config, bus: Bus, health: Health) -> Result<Running, Error> {
    let metrics = Metrics::new(&health, &config.region);
    let usual = Asking { lookups: metrics.lookups_running.clone(), ..Asking::default() };
    let asking = Asking { user_agent: config.manners.user_agent.unwrap_or(usual.user_agent), ..usual };
    let checker = Checker::with(&config.limits, asking).map_err(Error::Http)?;
    bus.connected().await.map_err(Error::Bus)?;
    let drift = Drift::new(config.manners.max_drift.0);
    let pulse = Pulse::new();
    drift.start(metrics.clone(), pulse);
    let slots = i64::try_from(config.concurrency).unwrap_or(i64::MAX);
    metrics.slots.set(slots);
    metrics.slots_free.set(slots);
    let canaries = config.manners.canaries.iter().map(Lookout::question).collect::<Result<Arc<[_]>, _>>();
    let canaries = canaries.map_err(Error::Canary)?;
    let network = Network::new(!canaries.is_empty());
    let lookout = (!canaries.is_empty()).then(|| Lookout {
        network: network.clone(),
        canaries,
        checker: checker.clone(),
        metrics: metrics.clone(),
        condition: health.condition("network"),
    });
    let requests = config.concurrency.min(REQUESTS);
    let aside = config.concurrency.div_ceil(ASIDE);
    let work = Arc::new(Work {
        checker,
        regexes: Arc::new(Regexes::new(REGEXES, REGEXES_BYTES)),
        publisher: Publisher {
            bus: bus.clone(),
            region: config.region.clone(),
            prober: config.name.clone(),
            metrics: metrics.clone(),
            outgoing: Outgoing::new(bus.clone(), config.region.clone(), pulse, config.bundle_from.into()),
        },
        metrics,
        clock: Clock::new(&health, &config.region),
        drift,
        hosts: Hosts::new(usize::try_from(config.manners.per_host).unwrap_or(usize::MAX)),
        network,
        ticks: Lane::new(config.concurrency.saturating_mul(WAITING), aside),
        confirming: Lane::new(aside.saturating_mul(WAITING), aside),
        // A request holds its own permit while it waits: the room is the smaller for it.
        requests: Lane::new(requests.div_ceil(2), Semaphore::MAX_PERMITS),
    });
    let prober = Prober {
        bus,
        work,
        lookout,
        slots: Arc::new(Semaphore::new(config.concurrency)),
        requests: Arc::new(Semaphore::new(requests)),
        concurrency: config.concurrency,
        tasks: TaskTracker::new(),
        condition: health.condition("jobs"),
    };
    info!(
        region = %config.region,
        prober = config.name,
        concurrency = config.concurrency,
        "prober of region {} starts",
        config.region
    );
    Running::start(&format!("prober-{}", config.region), prober, config.drain_timeout)
        .await
        .map_err(Error::Actors)
}

/// The prober's actors, and what outlives them when they are built anew: tasks and their permits.
struct Prober {
    bus: Bus,
    work: Arc<Work>,
    lookout: Option<Lookout>,
    slots: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    concurrency: usize,
    tasks: TaskTracker,
    condition: Condition,
}

struct Parts {
    intake: ActorRef<intake::Msg>,
    service: ActorRef<service::Msg>,
}

impl Pipeline for Prober {
    type Parts = Parts;

    async fn build(&self, supervisor: ActorCell) -> Result<Parts, SpawnErr> {
        let intake = Intake {
            bus: self.bus.clone(),
            work: Arc::clone(&self.work),
            slots: Arc::clone(&self.slots),
            concurrency: self.concurrency,
            tasks: self.tasks.clone(),
            condition: self.condition.clone(),
        };
        let desk = Desk {
            bus: self.bus.clone(),
            work: Arc::clone(&self.work),
            concurrency: self.concurrency,
            requests: Arc::clone(&self.requests),
            tasks: self.tasks.clone(),
        };
        if let Some(lookout) = self.lookout.clone() {
            Actor::spawn_linked(None, lookout, (), supervisor.clone()).await?;
        }
        let (intake, _) = Actor::spawn_linked(None, intake, (), supervisor.clone()).await?;
        let (service, _) = Actor::spawn_linked(None, desk, (), supervisor).await?;
        Ok(Parts { intake, service })
    }

    async fn drain(&self, parts: Parts) {
        const LAST_JOBS_MS: u64 = 10_000;
        // An actor that is gone takes no more either.
        let _ = parts.service.cast(service::Msg::Drain);
        if let Err(error) = call_t!(parts.intake, intake::Msg::Drain, LAST_JOBS_MS) {
            warn!(%error, "the intake did not say that it has stopped");
        }
        // Checks that wait for their turn are not begun: others do them.
        self.work.hosts.close();
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
