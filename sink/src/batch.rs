//! Letters to be written together, and the leave to hold them.

use std::sync::Arc;

use async_nats::Subject;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::decode::DecodedResult;

/// One batch is being written, one waits for that, one is being taken.
const MAX_BATCHES: usize = 3;

/// Leave to hold so many batches: had before one is asked for, given back when it is written or given up.
#[derive(Clone)]
pub(crate) struct BatchPermits {
    permits: Arc<Semaphore>,
    batch_capacity: usize,
}

impl BatchPermits {
    /// Of about so many letters each: all of them moved whenever they are too many for their place cost a tenth of reading them.
    pub(crate) fn new(batch_capacity: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_BATCHES)), batch_capacity }
    }

    /// Waits for the leave to hold one more batch, and gives that, empty.
    pub(crate) async fn acquire_empty_batch(&self) -> ResultBatch {
        // Nobody closes the semaphore.
        let leave = self.permits.clone().acquire_owned().await.ok();
        ResultBatch {
            results: Vec::with_capacity(self.batch_capacity),
            reply_subjects: Vec::new(),
            _permit: leave,
        }
    }
}

/// What one request for messages brought.
#[derive(Debug)]
pub(crate) struct ResultBatch {
    pub(crate) results: Vec<DecodedResult>,
    /// Where the messages that they came in are acknowledged.
    pub(crate) reply_subjects: Vec<Subject>,
    _permit: Option<OwnedSemaphorePermit>,
}
