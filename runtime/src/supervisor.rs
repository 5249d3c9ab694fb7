//! Supervisor of a pipeline of actors. If any actor ends, the supervisor stops the others and
//! rebuilds the whole pipeline.
//!
//! A single actor is never restarted alone, because a restarted actor has a new mailbox and its
//! neighbours would hold dead refs. Unfinished work was never acknowledged and is redelivered, so
//! the crash path is the restart path.

use std::{future::Future, time::Duration};

use prometheus_client::metrics::counter::Counter;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::{task::JoinHandle, time::Instant};
use tracing::{error, info, warn};

use crate::{AddMetric, Health, ReadinessCheck};

/// Actors that start and end together.
pub trait Pipeline: Send + Sync + 'static {
    /// Actors of the pipeline, with everything needed to drain them.
    type Actors: Send + 'static;

    /// Spawns all actors, linked to `supervisor`, downstream first.
    fn spawn_actors(
        &self,
        supervisor: ActorCell,
    ) -> impl Future<Output = Result<Self::Actors, SpawnErr>> + Send;

    /// Accepts no new work, finishes work in progress, and releases leases and messages. May be
    /// cancelled at any await.
    fn drain(&self, parts: Self::Actors) -> impl Future<Output = ()> + Send;
}

/// Messages of the supervisor.
pub enum Msg {
    /// The restart delay is over: rebuild the pipeline.
    Rebuild,
    /// Drain the pipeline and stop.
    Drain,
}

struct Supervisor<P> {
    name: String,
    pipeline: P,
    drain_timeout: Duration,
    readiness: ReadinessCheck,
    restart_count: Counter<u64>,
}

struct State<Parts> {
    actors: Option<Parts>,
    phase: SupervisorPhase,
    restarts: RestartPolicy,
}

#[derive(PartialEq)]
enum SupervisorPhase {
    Running,
    Rebuilding,
    Draining,
}

/// Maximum time for the actors of a pipeline to stop before they are killed.
const CHILD_STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl<P: Pipeline> Actor for Supervisor<P> {
    type Msg = Msg;
    type State = State<P::Actors>;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let parts = self.pipeline.spawn_actors(myself.get_cell()).await?;
        self.readiness.set_ready();
        Ok(State {
            actors: Some(parts),
            phase: SupervisorPhase::Running,
            restarts: RestartPolicy::new(Instant::now()),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Rebuild if state.phase == SupervisorPhase::Rebuilding => {
                state.actors = Some(self.pipeline.spawn_actors(myself.get_cell()).await?);
                state.phase = SupervisorPhase::Running;
                self.restart_count.inc();
                self.readiness.set_ready();
                info!(pipeline = self.name, "pipeline rebuilt");
            }
            // A drain began during the delay of the restart.
            Msg::Rebuild => {}
            Msg::Drain => {
                state.phase = SupervisorPhase::Draining;
                if let Some(parts) = state.actors.take()
                    && tokio::time::timeout(self.drain_timeout, self.pipeline.drain(parts)).await.is_err()
                {
                    warn!(
                        pipeline = self.name,
                        "pipeline did not drain in time; unfinished work will be redelivered"
                    );
                }
                // Actors that the drain did not stop must not outlive the supervisor.
                stop_children(&myself).await;
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let why = match event {
            SupervisionEvent::ActorFailed(_, error) => error.to_string(),
            SupervisionEvent::ActorTerminated(_, _, reason) => {
                reason.unwrap_or_else(|| "actor ended".to_owned())
            }
            _ => return Ok(()),
        };
        if state.phase != SupervisorPhase::Running {
            return Ok(()); // This supervisor is stopping the actor already.
        }
        state.phase = SupervisorPhase::Rebuilding;
        self.readiness.set_unready(format!("rebuilding after a failure: {why}"));
        // Dead refs must not be drained later.
        state.actors = None;
        stop_children(&myself).await;
        // `None` after too many failures in a row: the process ends, and the service manager takes
        // over.
        let Some(wait) = state.restarts.next_delay(Instant::now()) else {
            error!(pipeline = self.name, error = why, "too many pipeline failures in a row, giving up");
            return Err(why.into());
        };
        error!(pipeline = self.name, error = why, wait_ms = wait.as_millis(), "pipeline failed, rebuilding");
        myself.send_after(wait, || Msg::Rebuild);
        Ok(())
    }
}

async fn stop_children(myself: &ActorRef<Msg>) {
    let children = myself.get_children();
    if tokio::time::timeout(CHILD_STOP_TIMEOUT, myself.stop_children_and_wait(None, Some(CHILD_STOP_TIMEOUT)))
        .await
        .is_err()
    {
        warn!("actors did not stop in time");
    }
    // An actor still in its handler ignores the stop. Killing it takes effect at its next await.
    for child in children {
        child.kill();
    }
}

/// Restart delays: 1 s, doubled up to 64 s. Starts at 1 s again after
/// [`RestartPolicy::RESET_AFTER`] without a failure.
struct RestartPolicy {
    consecutive: u32,
    last_restart_at: Instant,
}

impl RestartPolicy {
    const RESET_AFTER: Duration = Duration::from_secs(120);
    const MAX_RESTARTS: u32 = 8;

    fn new(now: Instant) -> Self {
        Self { consecutive: 0, last_restart_at: now }
    }

    /// Returns the delay before the next restart, or `None` after [`RestartPolicy::MAX_RESTARTS`]
    /// restarts in a row.
    fn next_delay(&mut self, now: Instant) -> Option<Duration> {
        if now.duration_since(self.last_restart_at) > Self::RESET_AFTER {
            self.consecutive = 0;
        }
        self.last_restart_at = now;
        self.consecutive += 1;
        (self.consecutive <= Self::MAX_RESTARTS)
            .then(|| Duration::from_secs(1 << (self.consecutive - 1).min(6)))
    }
}

/// Handle of a pipeline under its supervisor.
pub struct PipelineHandle {
    name: String,
    supervisor: ActorRef<Msg>,
    /// Task of the supervisor, until its end: a task can be awaited once.
    task: Option<JoinHandle<()>>,
    drain_timeout: Duration,
}

impl PipelineHandle {
    /// Builds `pipeline` and restarts it after failures. `drain_timeout` bounds its graceful
    /// shutdown. Registers a metric and a readiness check, so each pipeline of a process has a
    /// `health` of its own.
    ///
    /// # Errors
    /// Fails if an actor cannot start.
    pub async fn start<P: Pipeline>(
        name: &str,
        pipeline: P,
        drain_timeout: Duration,
        health: &Health,
    ) -> Result<Self, SpawnErr> {
        let supervisor = Supervisor {
            name: name.to_owned(),
            pipeline,
            drain_timeout,
            readiness: health.add_readiness_check("pipeline"),
            restart_count: Self::register_metrics(health),
        };
        let (supervisor, task) = Actor::spawn(None, supervisor, ()).await?;
        Ok(Self { name: name.to_owned(), supervisor, task: Some(task), drain_timeout })
    }

    /// Registers the metrics of a pipeline without a pipeline. Used by the generated reference.
    pub fn describe_metrics(health: &Health) {
        Self::register_metrics(health);
    }

    fn register_metrics(health: &Health) -> Counter<u64> {
        health.registry().add_metric(
            "pipeline_restarts",
            "Rebuilds of the actors of this process after one of them failed",
        )
    }

    /// Name of the pipeline.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the pipeline has given up after repeated failures.
    pub async fn wait_ended(&mut self) {
        if let Some(task) = &mut self.task {
            let _ = task.await;
            self.task = None;
        }
    }

    /// Drains the pipeline: it accepts no new work and finishes work in progress.
    pub async fn drain(mut self) {
        let _ = self.supervisor.cast(Msg::Drain);
        // The supervisor itself takes up to the drain timeout and then stops the actors that
        // remain.
        if tokio::time::timeout(self.drain_timeout + 2 * CHILD_STOP_TIMEOUT, self.wait_ended()).await.is_err()
        {
            warn!(pipeline = self.name, "pipeline did not stop in time, killed");
            self.supervisor.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    struct Fragile;
    impl Actor for Fragile {
        type Msg = ();
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(&self, _: ActorRef<()>, (): (), (): &mut ()) -> Result<(), ActorProcessingErr> {
            Err("broken".into())
        }
    }

    #[derive(Clone, Default)]
    struct Pair {
        built: Arc<AtomicU32>,
        drained: Arc<AtomicU32>,
        newest: Arc<parking_lot::Mutex<Option<ActorRef<()>>>>,
    }
    impl Pipeline for Pair {
        type Actors = [ActorRef<()>; 2];

        async fn spawn_actors(&self, supervisor: ActorCell) -> Result<Self::Actors, SpawnErr> {
            self.built.fetch_add(1, Ordering::SeqCst);
            let (one, _) = Actor::spawn_linked(None, Fragile, (), supervisor.clone()).await?;
            let (other, _) = Actor::spawn_linked(None, Fragile, (), supervisor).await?;
            *self.newest.lock() = Some(one.clone());
            Ok([one, other])
        }

        async fn drain(&self, _: Self::Actors) {
            self.drained.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_actor_rebuilds_the_whole_pipeline_once() {
        let pair = Pair::default();
        let running =
            PipelineHandle::start("pair", pair.clone(), CHILD_STOP_TIMEOUT, &Health::new()).await.unwrap();
        for builds in 2..=4 {
            let first = pair.newest.lock().clone().unwrap();
            first.cast(()).unwrap();
            until(|| pair.built.load(Ordering::SeqCst) == builds).await;
        }

        running.drain().await;

        assert_eq!((pair.built.load(Ordering::SeqCst), pair.drained.load(Ordering::SeqCst)), (4, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_keeps_failing_ends_and_can_still_be_awaited_and_drained() {
        let pair = Pair::default();
        let mut running =
            PipelineHandle::start("pair", pair.clone(), CHILD_STOP_TIMEOUT, &Health::new()).await.unwrap();

        let breaking = tokio::spawn({
            let pair = pair.clone();
            async move {
                loop {
                    let first = pair.newest.lock().clone().unwrap();
                    let _ = first.cast(());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        running.wait_ended().await;
        breaking.abort();

        assert_eq!(pair.built.load(Ordering::SeqCst), RestartPolicy::MAX_RESTARTS + 1);
        assert!(tokio::time::timeout(Duration::ZERO, running.wait_ended()).await.is_ok());
        running.drain().await;
        assert_eq!(pair.drained.load(Ordering::SeqCst), 0, "there is nothing left to drain");
    }
}
