//! Keeps one pipeline of actors running: when any of them ends, ends the rest and builds all anew.
//!
//! All, and not one: a restarted actor has a new mailbox, so what its neighbours hold is a dead ref. What was
//! under way was never acknowledged and comes again: the crash path is the restart path.

use std::{future::Future, time::Duration};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::{task::JoinHandle, time::Instant};
use tracing::{error, info, warn};

/// Some actors that live and die together.
pub trait Pipeline: Send + Sync + 'static {
    /// The actors, and what else it takes to drain them.
    type Actors: Send + 'static;

    /// Spawns all actors, linked to `supervisor`, downstream first.
    fn spawn_actors(
        &self,
        supervisor: ActorCell,
    ) -> impl Future<Output = Result<Self::Actors, SpawnErr>> + Send;

    /// Takes no more, finishes what is under way, gives back what it holds. May be cut short at any point.
    fn drain(&self, parts: Self::Actors) -> impl Future<Output = ()> + Send;
}

/// What a supervisor is told.
pub enum Msg {
    /// A wait is over: build the pipeline again.
    Rebuild,
    /// Finish and end.
    Drain,
}

struct Supervisor<P> {
    name: String,
    pipeline: P,
    drain_timeout: Duration,
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

/// How long a pipeline's actors may take to end before they are killed.
const CHILD_STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl<P: Pipeline> Actor for Supervisor<P> {
    type Msg = Msg;
    type State = State<P::Actors>;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let parts = self.pipeline.spawn_actors(myself.get_cell()).await?;
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
                info!(pipeline = self.name, "{} runs again", self.name);
            }
            Msg::Rebuild => {}
            Msg::Drain => {
                state.phase = SupervisorPhase::Draining;
                if let Some(parts) = state.actors.take()
                    && tokio::time::timeout(self.drain_timeout, self.pipeline.drain(parts)).await.is_err()
                {
                    warn!(
                        pipeline = self.name,
                        "{} did not finish in time; what is left comes again", self.name
                    );
                }
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
                reason.unwrap_or_else(|| "it ended".to_owned())
            }
            _ => return Ok(()),
        };
        if state.phase != SupervisorPhase::Running {
            return Ok(()); // One that this supervisor is ending already.
        }
        state.phase = SupervisorPhase::Rebuilding;
        state.actors = None;
        stop_children(&myself).await;
        let Some(wait) = state.restarts.next_delay(Instant::now()) else {
            error!(pipeline = self.name, error = why, "{} fails again and again, giving up", self.name);
            return Err(why.into());
        };
        error!(
            pipeline = self.name,
            error = why,
            wait_ms = wait.as_millis(),
            "an actor of {} failed, building it anew",
            self.name
        );
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
    for child in children {
        child.kill();
    }
}

/// The waits between restarts: 1 s, doubled up to 64 s, from 1 s again after a quiet spell.
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

    /// `None` after so many in a row that another is of no use.
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

/// A pipeline that runs under its supervisor.
pub struct PipelineHandle {
    name: String,
    supervisor: ActorRef<Msg>,
    /// The supervisor's task, until it has ended: a task can be awaited once.
    task: Option<JoinHandle<()>>,
    drain_timeout: Duration,
}

impl PipelineHandle {
    /// Builds `pipeline` and keeps it running. `drain_limit` bounds its graceful end.
    ///
    /// # Errors
    /// When an actor cannot start.
    pub async fn start<P: Pipeline>(
        name: &str,
        pipeline: P,
        drain_limit: Duration,
    ) -> Result<Self, SpawnErr> {
        let supervisor = Supervisor { name: name.to_owned(), pipeline, drain_timeout: drain_limit };
        let (supervisor, task) = Actor::spawn(None, supervisor, ()).await?;
        Ok(Self { name: name.to_owned(), supervisor, task: Some(task), drain_timeout: drain_limit })
    }

    /// The pipeline's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the pipeline has ended for good: it failed again and again.
    pub async fn wait_ended(&mut self) {
        if let Some(task) = &mut self.task {
            let _ = task.await;
            self.task = None;
        }
    }

    /// Ends the pipeline in order: it takes no more, and finishes what is under way.
    pub async fn drain(mut self) {
        let _ = self.supervisor.cast(Msg::Drain);
        if tokio::time::timeout(self.drain_timeout + 2 * CHILD_STOP_TIMEOUT, self.wait_ended()).await.is_err()
        {
            warn!(pipeline = self.name, "{} had to be killed", self.name);
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
        newest: Arc<std::sync::Mutex<Option<ActorRef<()>>>>,
    }
    impl Pipeline for Pair {
        type Actors = [ActorRef<()>; 2];

        async fn spawn_actors(&self, supervisor: ActorCell) -> Result<Self::Actors, SpawnErr> {
            self.built.fetch_add(1, Ordering::SeqCst);
            let (one, _) = Actor::spawn_linked(None, Fragile, (), supervisor.clone()).await?;
            let (other, _) = Actor::spawn_linked(None, Fragile, (), supervisor).await?;
            *self.newest.lock().unwrap() = Some(one.clone());
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
    async fn when_one_actor_fails_the_whole_pipeline_is_built_anew_once() {
        let pair = Pair::default();
        let running = PipelineHandle::start("pair", pair.clone(), CHILD_STOP_TIMEOUT).await.unwrap();
        for builds in 2..=4 {
            let first = pair.newest.lock().unwrap().clone().unwrap();
            first.cast(()).unwrap();
            until(|| pair.built.load(Ordering::SeqCst) == builds).await;
        }

        running.drain().await;

        assert_eq!((pair.built.load(Ordering::SeqCst), pair.drained.load(Ordering::SeqCst)), (4, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_fails_again_and_again_ends_for_good_and_can_still_be_awaited_and_drained() {
        let pair = Pair::default();
        let mut running = PipelineHandle::start("pair", pair.clone(), CHILD_STOP_TIMEOUT).await.unwrap();

        let breaking = tokio::spawn({
            let pair = pair.clone();
            async move {
                loop {
                    let first = pair.newest.lock().unwrap().clone().unwrap();
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
