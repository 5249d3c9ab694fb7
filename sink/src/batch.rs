//! Letters to be written together, and the leave to hold them.

use std::sync::Arc;

use async_nats::Subject;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::letter::Letter;

/// One batch is being written, one waits for that, one is being taken.
const BATCHES: usize = 3;

/// Leave to hold so many batches: had before one is asked for, given back when it is written or given up.
#[derive(Clone)]
pub(crate) struct Leaves {
    leaves: Arc<Semaphore>,
    letters: usize,
}

impl Leaves {
    /// Of about so many letters each: all of them moved whenever they are too many for their place cost a tenth of reading them.
    pub(crate) fn new(letters: usize) -> Self {
        Self { leaves: Arc::new(Semaphore::new(BATCHES)), letters }
    }

    /// Waits for the leave to hold one more batch, and gives that, empty.
    pub(crate) async fn batch(&self) -> Batch {
        // Nobody closes the semaphore.
        let leave = self.leaves.clone().acquire_owned().await.ok();
        Batch { letters: Vec::with_capacity(self.letters), replies: Vec::new(), _leave: leave }
    }
}

/// What one request for messages brought.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) letters: Vec<Letter>,
    /// Where the messages that they came in are acknowledged.
    pub(crate) replies: Vec<Subject>,
    _leave: Option<OwnedSemaphorePermit>,
}
