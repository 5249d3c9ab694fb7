//! Leave to hold messages: taken before they are asked for, given back when they are written or given up.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most bytes of messages in one batch.
pub(crate) const BATCH_BYTES: u32 = 8 << 20;
/// One batch is being written, one waits for that, one is being gathered.
const BATCHES: usize = 3;

/// All the leave there is.
#[derive(Clone)]
pub(crate) struct Credits {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    batch: u32,
}

impl Credits {
    pub(crate) fn new(batch: u32) -> Self {
        let of = |one: u32| Arc::new(Semaphore::new(one as usize * BATCHES));
        Self { messages: of(batch), bytes: of(BATCH_BYTES), batch }
    }

    /// Waits for the leave to hold one more batch.
    pub(crate) async fn batch(&self) -> Credit {
        let take = async |of: &Arc<Semaphore>, count| of.clone().acquire_many_owned(count).await.ok();
        Credit {
            messages: take(&self.messages, self.batch).await,
            bytes: take(&self.bytes, BATCH_BYTES).await,
        }
    }
}

/// Leave to hold so many messages of so many bytes. Given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    messages: Option<OwnedSemaphorePermit>,
    bytes: Option<OwnedSemaphorePermit>,
}

impl Credit {
    pub(crate) fn messages(&self) -> usize {
        self.messages.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Splits off what one message of `bytes` takes, or what is left.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let part = |of: &mut Option<OwnedSemaphorePermit>, count: usize| {
            let permit = of.as_mut()?;
            permit.split(count.min(permit.num_permits()))
        };
        Self { messages: part(&mut self.messages, 1), bytes: part(&mut self.bytes, bytes) }
    }

    /// Takes `other` in, so that all of it is given back at once.
    pub(crate) fn merge(&mut self, other: Self) {
        let join = |mine: &mut Option<OwnedSemaphorePermit>, other: Option<OwnedSemaphorePermit>| match (
            mine, other,
        ) {
            (Some(mine), Some(other)) => mine.merge(other),
            (mine, Some(other)) => *mine = Some(other),
            (_, None) => {}
        };
        join(&mut self.messages, other.messages);
        join(&mut self.bytes, other.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leave_is_bounded_and_comes_back_when_what_was_held_is_dropped() {
        let credits = Credits::new(10);
        let mut held = Credit::default();
        for _ in 0..BATCHES {
            let mut batch = credits.batch().await;
            held.merge(batch.split(500));
            assert_eq!(batch.messages(), 9);
            held.merge(batch);
        }

        assert_eq!(held.messages(), 30);
        assert!(futures_util::FutureExt::now_or_never(credits.batch()).is_none());
        drop(held);
        assert_eq!(credits.batch().await.messages(), 10);
    }
}
