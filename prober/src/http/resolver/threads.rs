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

use crate::hosts::Turn;

/// Lookups that may be under way. The system's resolver blocks a thread and cannot be interrupted.
const THREADS: usize = 192;
/// Those of domains that hang, beside them.
const HANGING: usize = 64;
/// A lookup that takes longer hangs. The system's resolver asks a second time after five seconds.
pub(super) const HANGS: Duration = Duration::from_secs(1);
/// Domains that are remembered as hanging.
const MAX_DOMAINS: usize = 10_000;

/// Clones share the threads.
#[derive(Clone)]
pub(super) struct Threads(Arc<Shared>);

struct Shared {
    free: Arc<Semaphore>,
    for_hanging: Arc<Semaphore>,
    hanging: Mutex<HashSet<Box<str>>>,
    running: Gauge,
}

/// A lookup's thread; it keeps its permit also when the check has given up, since it is not free before.
pub(super) struct Thread {
    _permit: Arc<Permit>,
    running: Gauge,
    _share: Turn,
}

struct Permit(Mutex<OwnedSemaphorePermit>);

/// Sees how long a lookup takes. Dropped before the lookup has ended, it was given up.
pub(super) struct Watching {
    threads: Threads,
    domain: Box<str>,
    permit: Arc<Permit>,
    /// Whether the permit is one for domains that are well.
    is_free: bool,
    /// Whether it is known by now whether the domain hangs.
    is_known: bool,
}

impl Threads {
    /// Threads that are counted in `running`.
    pub(super) fn new(running: Gauge) -> Self {
        Self(Arc::new(Shared {
            free: Arc::new(Semaphore::new(THREADS)),
            for_hanging: Arc::new(Semaphore::new(HANGING)),
            hanging: Mutex::default(),
            running,
        }))
    }

    /// Waits for a thread for a name of `domain`, which has its share of them.
    pub(super) async fn take(&self, domain: &str, share: Turn) -> Option<(Thread, Watching)> {
        let is_free = !self.0.hanging().contains(domain);
        let permits = Arc::clone(if is_free { &self.0.free } else { &self.0.for_hanging });
        // Nobody closes them.
        let permit = Arc::new(Permit(Mutex::new(permits.acquire_owned().await.ok()?)));
        self.0.running.inc();
        let thread = Thread { _permit: Arc::clone(&permit), running: self.0.running.clone(), _share: share };
        let watching =
            Watching { threads: self.clone(), domain: domain.into(), permit, is_free, is_known: false };
        Some((thread, watching))
    }
}

impl Shared {
    fn hanging(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.hanging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watching {
    /// The lookup has ended in time.
    pub(super) fn mark_quick(mut self) {
        if !std::mem::replace(&mut self.is_known, true) {
            self.threads.0.hanging().remove(&self.domain);
        }
    }

    /// The lookup hangs: its thread is one of those for hanging domains from now on, if one is free.
    pub(super) fn hangs(&mut self) {
        if std::mem::replace(&mut self.is_known, true) {
            return;
        }
        let shared = &self.threads.0;
        let mut hanging = shared.hanging();
        if hanging.len() >= MAX_DOMAINS {
            // Those that hang still say so again.
            hanging.clear();
        }
        hanging.insert(self.domain.clone());
        drop(hanging);
        if self.is_free
            && let Ok(permit) = Arc::clone(&shared.for_hanging).try_acquire_owned()
        {
            *self.permit.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.hangs();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.running.dec();
    }
}
