//! A task as a member of a pipeline, for loops that have no messages: if the task ends or panics, the
//! supervisor rebuilds the pipeline.
//!
//! Bound: one message, the end of the task. Loss: none; the rebuilt pipeline starts the task again.

use std::{future::Future, pin::Pin};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio_util::task::AbortOnDropHandle;

/// Spawns `task` as a child of `supervisor`. The task is meant to run until the pipeline ends, which
/// aborts it at its next await.
///
/// # Errors
/// Fails if `supervisor` is stopping.
pub async fn spawn_task(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
    supervisor: ActorCell,
) -> Result<(), SpawnErr> {
    Actor::spawn_linked(None, SupervisedTask { name }, Box::pin(task), supervisor).await?;
    Ok(())
}

struct SupervisedTask {
    name: &'static str,
}

/// The task has ended, for this reason.
struct TaskEnded(String);

impl Actor for SupervisedTask {
    type Msg = TaskEnded;
    /// Aborts the task when the actor ends, however it ends.
    type State = AbortOnDropHandle<()>;
    type Arguments = Pin<Box<dyn Future<Output = ()> + Send>>;

    async fn pre_start(
        &self,
        myself: ActorRef<TaskEnded>,
        task: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let task = AbortOnDropHandle::new(tokio::spawn(task));
        let watcher = tokio::spawn(async move {
            let reason = match task.await {
                Ok(()) => "it returned".to_owned(),
                Err(error) => error.to_string(),
            };
            // An actor that is stopping needs no message.
            let _ = myself.cast(TaskEnded(reason));
        });
        Ok(AbortOnDropHandle::new(watcher))
    }

    async fn handle(
        &self,
        _: ActorRef<TaskEnded>,
        TaskEnded(reason): TaskEnded,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Err(format!("the task {} has ended: {reason}", self.name).into())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{Health, Pipeline, PipelineHandle};

    /// Pipeline of one task, which waits for an order to panic or to return.
    #[derive(Clone, Default)]
    struct OneTask {
        built: Arc<AtomicU32>,
        running: Arc<AtomicU32>,
        order: Arc<Mutex<Option<oneshot::Sender<bool>>>>,
    }

    struct RunningGuard(Arc<AtomicU32>);

    impl Drop for RunningGuard {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Pipeline for OneTask {
        type Actors = ();

        async fn spawn_actors(&self, supervisor: ActorCell) -> Result<(), SpawnErr> {
            let (order, ordered) = oneshot::channel();
            *self.order.lock() = Some(order);
            self.running.fetch_add(1, Ordering::SeqCst);
            let running = RunningGuard(self.running.clone());
            let task = async move {
                let _running = running;
                match ordered.await {
                    Ok(true) => panic!("as ordered"),
                    Ok(false) => {}
                    Err(_) => std::future::pending().await,
                }
            };
            spawn_task("one", task, supervisor).await?;
            self.built.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        async fn drain(&self, (): ()) {}
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_or_returns_rebuilds_its_pipeline_and_ends_with_it() {
        let (one, health) = (OneTask::default(), Health::new());
        let handle =
            PipelineHandle::start("one", one.clone(), Duration::from_secs(5), &health).await.unwrap();
        assert_eq!(health.unready_checks(), []);

        for (builds, panics) in [(2, true), (3, false)] {
            let order = one.order.lock().take().unwrap();
            order.send(panics).unwrap();
            until(|| !health.unready_checks().is_empty()).await;
            let (name, reason) = health.unready_checks().remove(0);
            let expected = if panics { "as ordered" } else { "it returned" };
            assert!(name == "pipeline" && reason.contains(expected), "{name}: {reason}");
            until(|| one.built.load(Ordering::SeqCst) == builds).await;
            until(|| health.unready_checks().is_empty()).await;
        }

        let metrics = health.encode_metrics().unwrap();
        assert!(metrics.contains("picket_pipeline_restarts_total 2"), "{metrics}");
        assert_eq!(one.running.load(Ordering::SeqCst), 1);
        handle.drain().await;
        until(|| one.running.load(Ordering::SeqCst) == 0).await;
    }
}
