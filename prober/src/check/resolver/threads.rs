//! Threads for lookups, of which a part is kept for domains whose name servers hang.
//!
//! A lookup that takes longer than [`HANGS`], or that its check gave up, says that its domain hangs; one that is quick, that it
//! does not any more. Lookups of a domain that hangs wait for one of a few permits of their own, and one that was begun
//! before that was known moves there if there is room. So hanging name servers of many domains leave the other threads to
//! the domains that are well.
//!
//! Bound: [`THREADS`] and [`HANGING`], and [`MAX_DOMAINS`] names. Loss: none.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::host_limiter::HostPermit;

/// Lookups that may be under way. The system's resolver blocks a thread and cannot be interrupted.
const MAX_LOOKUP_THREADS: usize = 192;
/// Those of domains that hang, beside them.
const MAX_HANGING_THREADS: usize = 64;
/// A lookup that takes longer hangs. The system's resolver asks a second time after five seconds.
pub(super) const HANG_THRESHOLD: Duration = Duration::from_secs(1);
/// Domains that are remembered as hanging.
const MAX_HANGING_DOMAINS: usize = 10_000;

/// Clones share the threads.
#[derive(Clone)]
pub(super) struct ResolverThreads(Arc<ThreadsState>);

struct ThreadsState {
    healthy_permits: Arc<Semaphore>,
    hanging_permits: Arc<Semaphore>,
    hanging_domains: Mutex<HashSet<Box<str>>>,
    running: Gauge,
}

/// A lookup's thread; it keeps its permit also when the check has given up, since it is not free before.
pub(super) struct ResolverThread {
    _permit: Arc<ThreadPermit>,
    running: Gauge,
    _domain_permit: HostPermit,
}

struct ThreadPermit(Mutex<OwnedSemaphorePermit>);

/// Sees how long a lookup takes. Dropped before the lookup has ended, it was given up.
pub(super) struct LookupWatch {
    threads: ResolverThreads,
    domain: Box<str>,
    permit: Arc<ThreadPermit>,
    /// Whether the permit is one for domains that are well.
    is_healthy: bool,
    /// Whether it is known by now whether the domain hangs.
    is_classified: bool,
}

impl ResolverThreads {
    /// Threads that are counted in `running`.
    pub(super) fn new(running: Gauge) -> Self {
        Self(Arc::new(ThreadsState {
            healthy_permits: Arc::new(Semaphore::new(MAX_LOOKUP_THREADS)),
            hanging_permits: Arc::new(Semaphore::new(MAX_HANGING_THREADS)),
            hanging_domains: Mutex::default(),
            running,
        }))
    }

    /// Waits for a thread for a name of `domain`, which has its share of them.
    pub(super) async fn acquire_thread(
        &self,
        domain: &str,
        share: HostPermit,
    ) -> Option<(ResolverThread, LookupWatch)> {
        let is_free = !self.0.lock_hanging().contains(domain);
        let permits = Arc::clone(if is_free { &self.0.healthy_permits } else { &self.0.hanging_permits });
        // Nobody closes them.
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

impl ThreadsState {
    fn lock_hanging(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.hanging_domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookupWatch {
    /// The lookup has ended in time.
    pub(super) fn mark_quick(mut self) {
        if !std::mem::replace(&mut self.is_classified, true) {
            self.threads.0.lock_hanging().remove(&self.domain);
        }
    }

    /// The lookup hangs: its thread is one of those for hanging domains from now on, if one is free.
    pub(super) fn mark_hanging(&mut self) {
        if std::mem::replace(&mut self.is_classified, true) {
            return;
        }
        let shared = &self.threads.0;
        let mut hanging = shared.lock_hanging();
        if hanging.len() >= MAX_HANGING_DOMAINS {
            // Those that hang still say so again.
            hanging.clear();
        }
        hanging.insert(self.domain.clone());
        drop(hanging);
        if self.is_healthy
            && let Ok(permit) = Arc::clone(&shared.hanging_permits).try_acquire_owned()
        {
            *self.permit.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
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
