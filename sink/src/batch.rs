//! Batches of decoded results, and the permits to hold them in memory.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_nats::Subject;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Span, debug_span};

use crate::decode::DecodedResult;

/// Batches in memory: one being written, one waiting to be written, and one being fetched.
const MAX_BATCHES: usize = 3;

/// Permits for in-memory batches. Acquired before a pull request, released after the commit or when
/// the batch is dropped.
#[derive(Clone)]
pub(crate) struct BatchPermits {
    permits: Arc<Semaphore>,
    batch_capacity: usize,
    /// Number of the next batch, for logs.
    next_batch_id: Arc<AtomicU64>,
}

impl BatchPermits {
    /// `batch_capacity` pre-sizes each batch: moving all results on every growth cost a tenth of the
    /// decode time.
    pub(crate) fn new(batch_capacity: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_BATCHES)), batch_capacity, next_batch_id: Arc::default() }
    }

    /// Waits for a permit and returns an empty batch with this permit.
    pub(crate) async fn acquire_empty_batch(&self) -> ResultBatch {
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await.ok();
        ResultBatch {
            results: Vec::with_capacity(self.batch_capacity),
            reply_subjects: Vec::new(),
            span: debug_span!("batch", batch.id = self.next_batch_id.fetch_add(1, Ordering::Relaxed)),
            _permit: permit,
        }
    }
}

/// The results of one pull request.
#[derive(Debug)]
pub(crate) struct ResultBatch {
    pub(crate) results: Vec<DecodedResult>,
    /// Reply subjects on which the messages of the results are acknowledged.
    pub(crate) reply_subjects: Vec<Subject>,
    /// Span of all log lines about the batch.
    pub(crate) span: Span,
    _permit: Option<OwnedSemaphorePermit>,
}
