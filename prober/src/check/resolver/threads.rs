//! Resolver threads, with a part reserved for domains whose name servers hang.
//!
//! A lookup that exceeds [`HANG_THRESHOLD`], or is abandoned by its check, marks its domain as
//! hanging; a quick lookup clears the mark. Lookups of a hanging domain wait for permits of a
//! separate small pool. A lookup started before its domain was marked moves to this pool if a
//! permit is free. Hanging name servers of many domains therefore leave the other threads to
//! healthy domains.
//!
//! Bound: [`MAX_LOOKUP_THREADS`], [`MAX_HANGING_THREADS`] and [`MAX_HANGING_DOMAINS`]. Loss: none.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::host_limiter::HostPermit;

/// Maximum lookups in progress for healthy domains. The system's resolver blocks a thread and
/// cannot be interrupted.
const MAX_LOOKUP_THREADS: usize = 192;
/// Additional lookups for hanging domains.
const MAX_HANGING_THREADS: usize = 64;
/// Duration after which a lookup counts as hanging. The system's resolver retries after five
/// seconds.
pub(super) const HANG_THRESHOLD: Duration = Duration::from_secs(1);
/// Maximum domains marked as hanging.
const MAX_HANGING_DOMAINS: usize = 10_000;

/// Limits for resolver threads. Clones share the limits.
#[derive(Clone)]
pub(super) struct ResolverThreads(Arc<ThreadsState>);

struct ThreadsState {
    healthy_permits: Arc<Semaphore>,
    hanging_permits: Arc<Semaphore>,
    hanging_domains: Mutex<HashSet<Box<str>>>,
    running: Gauge,
}

/// Thread of one lookup. Holds its permit after the check has given up too, since the thread is
/// still blocked.
pub(super) struct ResolverThread {
    _permit: Arc<ThreadPermit>,
    running: Gauge,
    _domain_permit: HostPermit,
}

struct ThreadPermit(Mutex<OwnedSemaphorePermit>);

/// Measures the duration of a lookup. Dropped before the end of the lookup, it counts the lookup as
/// abandoned.
pub(super) struct LookupWatch {
    threads: ResolverThreads,
    domain: Box<str>,
    permit: Arc<ThreadPermit>,
    /// True if the permit belongs to the pool of healthy domains.
    is_healthy: bool,
    /// True once the domain is known to hang or not.
    is_classified: bool,
}

impl ResolverThreads {
    /// Creates the limits; threads are counted in `running`.
    pub(super) fn new(running: Gauge) -> Self {
        Self(Arc::new(ThreadsState {
            healthy_permits: Arc::new(Semaphore::new(MAX_LOOKUP_THREADS)),
            hanging_permits: Arc::new(Semaphore::new(MAX_HANGING_THREADS)),
            hanging_domains: Mutex::default(),
            running,
        }))
    }

    /// Waits for a thread for a name of `domain`; `share` is the permit of the domain.
    pub(super) async fn acquire_thread(
        &self,
        domain: &str,
        share: HostPermit,
    ) -> Option<(ResolverThread, LookupWatch)> {
        let is_free = !self.0.hanging_domains.lock().contains(domain);
        let permits = Arc::clone(if is_free { &self.0.healthy_permits } else { &self.0.hanging_permits });
        // The semaphores are never closed.
        let permit = Arc::new(ThreadPermit(Mutex::new(permits.acquire_owned().await.ok()?)));
        self.0.running.inc();
        let thread = ResolverThread {
            _permit: Arc::clone(&permit),
            running: self.0.running.clone(),
            _domain_permit: share,
        };
        let watching = LookupWatch {
            threads: self.clone(),
            domain: domain.into(),
            permit,
            is_healthy: is_free,
            is_classified: false,
        };
        Some((thread, watching))
    }
}

impl LookupWatch {
    /// Records that the lookup ended in time.
    pub(super) fn mark_quick(mut self) {
        if !std::mem::replace(&mut self.is_classified, true) {
            self.threads.0.hanging_domains.lock().remove(&self.domain);
        }
    }

    /// Records that the lookup hangs. Its thread moves to the pool of hanging domains if a permit
    /// is free.
    pub(super) fn mark_hanging(&mut self) {
        if std::mem::replace(&mut self.is_classified, true) {
            return;
        }
        let shared = &self.threads.0;
        let mut hanging = shared.hanging_domains.lock();
        if hanging.len() >= MAX_HANGING_DOMAINS {
            // Domains that still hang are marked again by their next lookup.
            hanging.clear();
        }
        hanging.insert(self.domain.clone());
        drop(hanging);
        if self.is_healthy
            && let Ok(permit) = Arc::clone(&shared.hanging_permits).try_acquire_owned()
        {
            *self.permit.0.lock() = permit;
        }
    }
}

impl Drop for LookupWatch {
    fn drop(&mut self) {
        self.mark_hanging();
    }
}

impl Drop for ResolverThread {
    fn drop(&mut self) {
        self.running.dec();
    }
}
