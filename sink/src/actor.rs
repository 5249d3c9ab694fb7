//! Background work of an actor. The result, or a panic, arrives as a message.

use ractor::{ActorRef, Message};
use tokio::task::AbortHandle;

/// Runs `work` as a task and sends its output to `actor`, or `None` if the task panicked or was
/// aborted.
pub(crate) fn pipe_to_self<T, M>(
    actor: ActorRef<M>,
    work: impl Future<Output = T> + Send + 'static,
    message: impl FnOnce(Option<T>) -> M + Send + 'static,
) -> AbortHandle
where
    T: Send + 'static,
    M: Message,
{
    let task = tokio::spawn(work);
    let handle = task.abort_handle();
    tokio::spawn(async move {
        // A stopped actor needs no message.
        let _ = actor.cast(message(task.await.ok()));
    });
    handle
}

#[cfg(test)]
pub(crate) mod tests {
    use ractor::{Actor, ActorProcessingErr};
    use tokio::sync::mpsc;

    use super::*;

    struct Inbox<M>(mpsc::Sender<M>);
    impl<M: Message> Actor for Inbox<M> {
        type Msg = M;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<M>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(&self, _: ActorRef<M>, message: M, (): &mut ()) -> Result<(), ActorProcessingErr> {
            Ok(self.0.send(message).await.map_err(|_| "nobody reads")?)
        }
    }

    /// An actor in place of a neighbour, and the messages that it receives.
    pub(crate) async fn inbox<M: Message>() -> (ActorRef<M>, mpsc::Receiver<M>) {
        let (sender, receiver) = mpsc::channel(16);
        let (actor, _) = Actor::spawn(None, Inbox(sender), ()).await.unwrap();
        (actor, receiver)
    }

    #[tokio::test]
    async fn an_actor_is_notified_of_finished_and_of_panicked_tasks() {
        let (actor, mut told) = inbox().await;

        pipe_to_self(actor.clone(), async { 7 }, |ended| ended);
        assert_eq!(told.recv().await, Some(Some(7)));
        pipe_to_self(actor, async { panic!("as it should") }, |ended: Option<i32>| ended);
        assert_eq!(told.recv().await, Some(None));
    }
}
