//! Limit of concurrent checks per host, with a wait queue.
//!
//! A host is a name (or address) and a port, as in the URL or in `connect_to`. The address behind the name is no key,
//! since thousands of sites share the address of a CDN. The name alone is no key, since two ports
//! are two servers, and a hanging server must not delay the other. Only the first hop needs a
//! permit: waiting in mid-check would distort the timings.
//!
//! Bound: a wait queue has a fixed capacity, at most half of it for one host. Loss: jobs waiting at
//! shutdown are returned to the stream.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use picket_proto::Check;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Permits of all hosts. Clones share the permits.
#[derive(Clone)]
pub(crate) struct HostLimiter(Arc<LimiterState>);

struct LimiterState {
    max_per_host: usize,
    hosts: Mutex<HashMap<Box<str>, HostState>>,
    shutdown: CancellationToken,
}

/// Host with running or waiting checks.
struct HostState {
    permits: Arc<Semaphore>,
    /// Running and waiting checks; at zero the host is removed.
    entries: usize,
    waiting: usize,
}

/// Capacity for waiting checks. Clones share the capacity.
#[derive(Clone)]
pub(crate) struct WaitQueue {
    queue_permits: Arc<Semaphore>,
    /// Maximum checks waiting for one host.
    max_per_host: usize,
}

/// Permit to check a host, released on drop.
pub(crate) struct HostPermit {
    // Dropped before the entry: waiters must still find the host.
    _permit: OwnedSemaphorePermit,
    _entry: HostEntry,
}

/// Place in the wait queue, from which a host permit can be acquired.
pub(crate) struct Waiter {
    entry: HostEntry,
    permits: Arc<Semaphore>,
}

/// Reasons why a check got no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcquireError {
    /// The queue is full, with this number of checks waiting for the host.
    QueueFull(usize),
    /// The wait timed out.
    Timeout,
    /// The prober is stopping.
    Closed,
}

/// RAII entry of one check at a host: waiting while it holds a queue permit, otherwise running.
struct HostEntry {
    limiter: Arc<LimiterState>,
    host: Box<str>,
    queue_permit: Option<OwnedSemaphorePermit>,
}

/// Key of the host that receives the first request of `check`.
pub(crate) fn host_key(check: &Check) -> String {
    let port = check.url.port_or_known_default().unwrap_or_default();
    let key = |name: &str, port| format!("{}:{port}", name.trim_end_matches('.'));
    match check.options.connect_target() {
        Ok(Some(target)) => key(&target.host.to_string(), target.port.unwrap_or(port)),
        _ => key(check.url.host_str().unwrap_or_default(), port),
    }
}

impl WaitQueue {
    /// Creates a queue with `seats` places.
    pub(crate) fn new(seats: usize) -> Self {
        Self { queue_permits: Arc::new(Semaphore::new(seats)), max_per_host: seats.div_ceil(2) }
    }
}

impl HostLimiter {
    /// Creates a limiter for `per_host` concurrent checks per host.
    pub(crate) fn new(per_host: usize) -> Self {
        Self(Arc::new(LimiterState {
            max_per_host: per_host,
            hosts: Mutex::default(),
            shutdown: CancellationToken::new(),
        }))
    }

    /// Maximum concurrent checks per host.
    pub(crate) fn max_per_host(&self) -> usize {
        self.0.max_per_host
    }

    /// Cancels all present and future waiters.
    pub(crate) fn cancel_waiters(&self) {
        self.0.shutdown.cancel();
    }

    /// Returns a permit for `host` if one is free.
    pub(crate) fn try_acquire(&self, host: &str) -> Option<HostPermit> {
        let mut hosts = self.0.hosts.lock();
        let permit = match hosts.get(host) {
            Some(known) => Arc::clone(&known.permits).try_acquire_owned().ok()?,
            None => {
                let turns = Arc::new(Semaphore::new(self.0.max_per_host));
                let permit = Arc::clone(&turns).try_acquire_owned().ok()?;
                hosts.insert(host.into(), HostState { permits: turns, entries: 0, waiting: 0 });
                permit
            }
        };
        Some(HostPermit { _permit: permit, _entry: self.0.add_entry(&mut hosts, host, None) })
    }

    /// Enters the wait queue for `host`.
    pub(crate) fn enqueue(&self, host: &str, room: &WaitQueue) -> Result<Waiter, AcquireError> {
        let mut hosts = self.0.hosts.lock();
        let waiting = hosts.get(host).map_or(0, |known| known.waiting);
        let seat = Arc::clone(&room.queue_permits).try_acquire_owned();
        let (Ok(seat), true) = (seat, waiting < room.max_per_host) else {
            return Err(AcquireError::QueueFull(waiting));
        };
        let guest = self.0.add_entry(&mut hosts, host, Some(seat));
        let turns = hosts.get(host).map(|known| Arc::clone(&known.permits)).ok_or(AcquireError::Closed)?;
        drop(hosts);
        Ok(Waiter { entry: guest, permits: turns })
    }
}

impl Waiter {
    /// Waits for a permit until `until`, in first-in-first-out order.
    pub(crate) async fn acquire_permit(self, until: Instant) -> Result<HostPermit, AcquireError> {
        let permit = self.wait_host_permit(until).await?;
        Ok(self.into_permit(permit))
    }

    /// As [`acquire_permit`](Self::acquire_permit), but keeps the place in the queue until
    /// [`into_permit`](Self::into_permit).
    pub(crate) async fn wait_host_permit(
        &self,
        until: Instant,
    ) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.wait_for_permit(&self.permits, until).await
    }

    /// Waits in this place for one of `permits`, which are not host permits.
    pub(crate) async fn wait_for_permit(
        &self,
        permits: &Arc<Semaphore>,
        until: Instant,
    ) -> Result<OwnedSemaphorePermit, AcquireError> {
        tokio::select! {
            biased;
            () = self.entry.limiter.shutdown.cancelled() => Err(AcquireError::Closed),
            permit = timeout_at(until, Arc::clone(permits).acquire_owned()) => match permit {
                Ok(Ok(permit)) => Ok(permit),
                // The semaphore is never closed.
                Ok(Err(_)) => Err(AcquireError::Closed),
                Err(_) => Err(AcquireError::Timeout),
            },
        }
    }

    /// Host permit, if free now; see [`wait_host_permit`](Self::wait_host_permit).
    pub(crate) fn try_host_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Leaves the wait queue with the host permit `permit`.
    pub(crate) fn into_permit(self, permit: OwnedSemaphorePermit) -> HostPermit {
        let Self { entry: mut guest, .. } = self;
        guest.release_queue_permit();
        HostPermit { _permit: permit, _entry: guest }
    }
}

impl LimiterState {
    fn add_entry(
        self: &Arc<Self>,
        hosts: &mut HashMap<Box<str>, HostState>,
        host: &str,
        seat: Option<OwnedSemaphorePermit>,
    ) -> HostEntry {
        // The last entry may have gone since the caller's look-up.
        let new =
            || HostState { permits: Arc::new(Semaphore::new(self.max_per_host)), entries: 0, waiting: 0 };
        let here = hosts.entry(host.into()).or_insert_with(new);
        here.entries += 1;
        here.waiting += usize::from(seat.is_some());
        HostEntry { limiter: Arc::clone(self), host: host.into(), queue_permit: seat }
    }
}

impl HostEntry {
    fn release_queue_permit(&mut self) {
        if self.queue_permit.take().is_some()
            && let Some(here) = self.limiter.hosts.lock().get_mut(&self.host)
        {
            here.waiting -= 1;
        }
    }
}

impl Drop for HostEntry {
    fn drop(&mut self) {
        self.release_queue_permit();
        let mut hosts = self.limiter.hosts.lock();
        if let Some(here) = hosts.get_mut(&self.host) {
            here.entries -= 1;
            if here.entries == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use picket_proto::{CheckRequest, HttpOptions};

    use super::*;

    const HOST: &str = "a.example:443";

    /// Waits for at most ten seconds.
    async fn turn(hosts: &HostLimiter, host: &str, room: &WaitQueue) -> Result<HostPermit, AcquireError> {
        hosts.enqueue(host, room)?.acquire_permit(Instant::now() + Duration::from_secs(10)).await
    }

    #[test]
    fn a_host_key_is_the_normalized_name_and_port() {
        for (url, host) in [
            ("https://A.Example./x", "a.example:443"),
            ("http://a.example", "a.example:80"),
            ("http://2130706433:8080/", "127.0.0.1:8080"),
            ("http://[::1]/", "[::1]:80"),
        ] {
            assert_eq!(host_key(&CheckRequest::new(url).validate().unwrap()), host, "{url}");
        }
    }

    #[test]
    fn the_host_of_a_check_is_the_place_that_it_connects_to() {
        for (connect_to, host) in
            [("B.example.", "b.example:443"), ("[::1]:8443", "[::1]:8443"), ("192.0.2.7", "192.0.2.7:443")]
        {
            let options = HttpOptions { connect_to: Some(connect_to.into()), ..HttpOptions::default() };
            let request = CheckRequest { options, ..CheckRequest::new("https://a.example/") };
            assert_eq!(host_key(&request.validate().unwrap()), host, "{connect_to}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hosts_limit_bounds_its_checks_and_delays_no_other_host() {
        let (hosts, room) = (HostLimiter::new(2), WaitQueue::new(10));
        let one = hosts.try_acquire(HOST).unwrap();
        let _two = hosts.try_acquire(HOST).unwrap();

        assert!(hosts.try_acquire(HOST).is_none());
        assert!(hosts.try_acquire("b.example:443").is_some());
        assert_eq!(turn(&hosts, HOST, &room).await.err(), Some(AcquireError::Timeout));
        drop(one);
        assert!(turn(&hosts, HOST, &room).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_granted_in_order_of_arrival() {
        let (hosts, room) = (HostLimiter::new(1), WaitQueue::new(10));
        let first = hosts.try_acquire(HOST).unwrap();
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let (hosts, room) = (hosts.clone(), room.clone());
            waiting.push(tokio::spawn(async move { turn(&hosts, HOST, &room).await }));
            tokio::task::yield_now().await;
        }

        drop(first);
        for waiting in waiting {
            assert!(waiting.await.unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_fills_at_most_half_of_the_wait_queue_and_leaves_no_entry_behind() {
        let (hosts, room) = (HostLimiter::new(1), WaitQueue::new(4));
        let held = hosts.try_acquire(HOST).unwrap();
        let other = hosts.try_acquire("b.example:443").unwrap();
        let wait = |host| {
            let (hosts, room) = (hosts.clone(), room.clone());
            tokio::spawn(async move { turn(&hosts, host, &room).await.map(drop) })
        };
        let waiting = [wait(HOST), wait(HOST)];
        tokio::task::yield_now().await;

        assert_eq!(wait(HOST).await.unwrap(), Err(AcquireError::QueueFull(2)));
        let elsewhere = wait("b.example:443");
        tokio::task::yield_now().await;
        hosts.cancel_waiters();
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Err(AcquireError::Closed));
        }
        assert_eq!(elsewhere.await.unwrap(), Err(AcquireError::Closed));
        drop((held, other));
        assert!(hosts.0.hosts.lock().is_empty());
        assert_eq!(room.queue_permits.available_permits(), 4);
    }
}
