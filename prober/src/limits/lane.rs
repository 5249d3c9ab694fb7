//! Lanes: wait queues of checks without an intake slot, which need a host permit and a lane permit
//! to run.
//!
//! A waiting check holds neither permit while it waits for the other. A check with a host permit
//! but no lane permit releases the host permit to the next check, and requests it again once it
//! holds a lane permit.
//!
//! Bound: the capacity of the wait queue, at most half of it for one host. Loss: as in
//! [`host_limiter`](crate::limits::host_limiter).

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::limits::host_limiter::{AcquireError, HostLimiter, HostPermit, WaitQueue};

/// Wait queue of one kind of check, with the permits to run.
pub(crate) struct Lane {
    wait_queue: WaitQueue,
    permits: Arc<Semaphore>,
    max_running: usize,
}

/// Host permit and lane permit of a running check.
pub(crate) type LanePermits = (HostPermit, OwnedSemaphorePermit);

impl Lane {
    /// Creates a lane with `seats` places in the queue and `size` concurrent checks.
    pub(crate) fn new(seats: usize, size: usize) -> Self {
        let max_running = size.min(Semaphore::MAX_PERMITS);
        Self {
            wait_queue: WaitQueue::new(seats),
            permits: Arc::new(Semaphore::new(max_running)),
            max_running,
        }
    }

    /// Maximum concurrent checks of the lane.
    pub(crate) fn max_running(&self) -> usize {
        self.max_running
    }

    /// Returns both permits if both are free.
    pub(crate) fn try_acquire_permits(&self, hosts: &HostLimiter, host: &str) -> Option<LanePermits> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some((hosts.try_acquire(host)?, permit))
    }

    /// Waits for both permits until `until`.
    pub(crate) async fn acquire_permits(
        &self,
        hosts: &HostLimiter,
        host: &str,
        until: Instant,
    ) -> Result<LanePermits, AcquireError> {
        let seat = hosts.enqueue(host, &self.wait_queue)?;
        loop {
            let turn = seat.wait_host_permit(until).await?;
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return Ok((seat.into_permit(turn), permit));
            }
            drop(turn);
            let permit = seat.wait_for_permit(&self.permits, until).await?;
            if let Some(turn) = seat.try_host_permit() {
                return Ok((seat.into_permit(turn), permit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_without_a_permit_lets_others_at_its_host_go_first() {
        let (hosts, lane) = (HostLimiter::new(1), Arc::new(Lane::new(10, 1)));
        let (_, taken) = lane.try_acquire_permits(&hosts, "a.example:443").unwrap();
        let first = hosts.try_acquire("b.example:443").unwrap();
        let waiting = {
            let (hosts, lane) = (hosts.clone(), Arc::clone(&lane));
            tokio::spawn(async move { lane.acquire_permits(&hosts, "b.example:443", soon()).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert!(hosts.try_acquire("b.example:443").is_none());

        drop(first);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let other = hosts.try_acquire("b.example:443");

        assert!(other.is_some(), "the turn is free while the check waits for a permit");
        drop(taken);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(
            lane.try_acquire_permits(&hosts, "c.example:443").is_some(),
            "nor is the permit held while it waits for its turn"
        );
        drop(other);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_waiting_for_a_permit_expires_at_its_deadline_and_is_returned_on_shutdown() {
        let (hosts, lane) = (HostLimiter::new(8), Arc::new(Lane::new(10, 1)));
        let _taken = lane.try_acquire_permits(&hosts, "a.example:443").unwrap();

        assert_eq!(
            lane.acquire_permits(&hosts, "b.example:443", soon()).await.err(),
            Some(AcquireError::Timeout)
        );
        let waiting = {
            let (hosts, lane) = (hosts.clone(), Arc::clone(&lane));
            tokio::spawn(async move { lane.acquire_permits(&hosts, "b.example:443", soon()).await.err() })
        };
        tokio::task::yield_now().await;
        hosts.cancel_waiters();
        assert_eq!(waiting.await.unwrap(), Some(AcquireError::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lanes_wait_queue_is_bounded() {
        let (hosts, lane) = (HostLimiter::new(8), Lane::new(2, 1));
        let _taken = lane.try_acquire_permits(&hosts, "a.example:443").unwrap();
        let lane = Arc::new(lane);
        let enter = |host: &'static str| {
            let (hosts, lane) = (hosts.clone(), Arc::clone(&lane));
            tokio::spawn(async move { lane.acquire_permits(&hosts, host, soon()).await.err() })
        };
        let _first = enter("b.example:443");
        tokio::task::yield_now().await;

        assert_eq!(enter("b.example:443").await.unwrap(), Some(AcquireError::QueueFull(1)));
        let _second = enter("c.example:443");
        tokio::task::yield_now().await;
        assert_eq!(enter("d.example:443").await.unwrap(), Some(AcquireError::QueueFull(0)));
    }
}
