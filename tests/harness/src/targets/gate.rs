//! Gate of a target that withholds its responses until a test releases them.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

pub(super) struct Gate {
    permits: Semaphore,
    waiting: AtomicUsize,
    max_waiting: AtomicUsize,
}

impl Default for Gate {
    fn default() -> Self {
        Self { permits: Semaphore::new(0), waiting: AtomicUsize::new(0), max_waiting: AtomicUsize::new(0) }
    }
}

impl Gate {
    /// Waits until the response of a request is released.
    pub(super) async fn wait_released(&self) {
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        self.max_waiting.fetch_max(waiting, Ordering::SeqCst);
        self.permits.acquire().await.expect("the semaphore is never closed").forget();
        // Before the response, because its client may send the next request at once.
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn release(&self, responses: usize) {
        self.permits.add_permits(responses);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn max_waiting(&self) -> usize {
        self.max_waiting.load(Ordering::SeqCst)
    }
}
