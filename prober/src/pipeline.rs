//! The actors of the prober, built together; a drain stops the intake first and then waits for the
//! running checks.

use std::{sync::Arc, time::Duration};

use picket_runtime::{Bus, Pipeline, ReadinessCheck, Secrets, secrets::ReloadOutcome, spawn_task};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr, call_t};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::{
    adhoc::{self, AdhocService},
    aligned_ticker::AlignedTicker,
    health::connectivity::CanaryActor,
    intake::{self, Intake},
    runner::CheckRunner,
};

/// Actors of the prober, and the tasks and permits that outlive a rebuild of the actors.
pub(crate) struct ProberPipeline {
    pub(crate) bus: Bus,
    pub(crate) runner: Arc<CheckRunner>,
    pub(crate) canary_actor: Option<CanaryActor>,
    pub(crate) secrets: Secrets,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) request_permits: Arc<Semaphore>,
    pub(crate) concurrency: usize,
    pub(crate) tasks: TaskTracker,
    pub(crate) ticker: AlignedTicker,
    pub(crate) readiness: ReadinessCheck,
}

pub(crate) struct ProberActors {
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
        let service = AdhocService {
            bus: self.bus.clone(),
            runner: Arc::clone(&self.runner),
            concurrency: self.concurrency,
            request_permits: Arc::clone(&self.request_permits),
            tasks: self.tasks.clone(),
        };
        let heartbeat = self.runner.stall_detector.run_heartbeat(self.runner.metrics.clone(), self.ticker);
        spawn_task("heartbeat", heartbeat, supervisor.clone()).await?;
        let (secrets, metrics) = (self.secrets.clone(), self.runner.metrics.clone());
        let names = self.secrets.clone();
        let following = secrets.follow_changes(move |outcome| match outcome {
            ReloadOutcome::Refused(_) => {
                metrics.secrets_refused.inc();
            }
            ReloadOutcome::Reloaded | ReloadOutcome::Unchanged => {
                metrics.secrets.set(i64::try_from(names.summaries().len()).unwrap_or(i64::MAX));
            }
        });
        spawn_task("secrets", following, supervisor.clone()).await?;
        if let Some(canary_actor) = self.canary_actor.clone() {
            Actor::spawn_linked(None, canary_actor, (), supervisor.clone()).await?;
        }
        let (intake, _) = Actor::spawn_linked(None, intake, (), supervisor.clone()).await?;
        let (service, _) = Actor::spawn_linked(None, service, (), supervisor).await?;
        Ok(ProberActors { intake, service })
    }

    async fn drain(&self, parts: ProberActors) {
        const INTAKE_DRAIN_TIMEOUT_MS: u64 = 10_000;
        // An actor that is gone accepts no requests either.
        let _ = parts.service.cast(adhoc::Msg::Drain);
        if let Err(error) = call_t!(parts.intake, intake::Msg::Drain, INTAKE_DRAIN_TIMEOUT_MS) {
            warn!(%error, "intake did not stop in time");
        }
        // Waiting checks are returned to the stream for other probers.
        self.runner.host_limiter.cancel_waiters();
        self.tasks.close();
        let left = self.tasks.len();
        if left > 0 {
            info!(checks = left, "finishing running checks");
        }
        self.tasks.wait().await;
        // Acknowledgements of the last jobs may still be in the connection's buffer.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.bus.client.flush()).await;
    }
}
