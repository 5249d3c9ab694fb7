//! Wait queues of checks that hold no slot of the intake: for their turn at a host, and for a permit to run with.
//!
//! A check holds neither while it waits for the other: one that has its turn and finds no permit lets the next go first,
//! and asks for its turn again when it has the permit.
//!
//! Bound: the seats of the room, of which one host may have half. Loss: as in [`hosts`](crate::hosts).

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::hosts::{Hosts, Refusal, Room, Turn};

/// The wait queue of one kind of check, and the permits that these run with.
pub(crate) struct Lane {
    room: Room,
    permits: Arc<Semaphore>,
    size: usize,
}

/// A turn at a host and a permit of the lane.
pub(crate) type Entry = (Turn, OwnedSemaphorePermit);

impl Lane {
    /// A lane with `seats` to wait on, in which `size` checks run at once.
    pub(crate) fn new(seats: usize, size: usize) -> Self {
        let size = size.min(Semaphore::MAX_PERMITS);
        Self { room: Room::new(seats), permits: Arc::new(Semaphore::new(size)), size }
    }

    /// The most checks of the lane that run at once.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Enters at once, unless the turns at `host` or the permits are all taken.
    pub(crate) fn enter_now(&self, hosts: &Hosts, host: &str) -> Option<Entry> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some((hosts.turn_now(host)?, permit))
    }

    /// Waits until both are to be had, by `until` at the latest.
    pub(crate) async fn enter(&self, hosts: &Hosts, host: &str, until: Instant) -> Result<Entry, Refusal> {
        let seat = hosts.sit(host, &self.room)?;
        loop {
            let turn = seat.wait(until).await?;
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return Ok((seat.take(turn), permit));
            }
            drop(turn);
            let permit = seat.wait_for(&self.permits, until).await?;
            if let Some(turn) = seat.try_now() {
                return Ok((seat.take(turn), permit));
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
        let (hosts, lane) = (Hosts::new(1), Arc::new(Lane::new(10, 1)));
        let (_, taken) = lane.enter_now(&hosts, "a.example:443").unwrap();
        let first = hosts.turn_now("b.example:443").unwrap();
        let waiting = {
            let (hosts, lane) = (hosts.clone(), Arc::clone(&lane));
            tokio::spawn(async move { lane.enter(&hosts, "b.example:443", soon()).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert!(hosts.turn_now("b.example:443").is_none());

        drop(first);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let other = hosts.turn_now("b.example:443");

        assert!(other.is_some(), "the turn is free while the check waits for a permit");
        drop(taken);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(
            lane.enter_now(&hosts, "c.example:443").is_some(),
            "nor is the permit held while it waits for its turn"
        );
        drop(other);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_waits_for_a_permit_is_late_at_its_deadline_and_sent_home_when_the_prober_stops() {
        let (hosts, lane) = (Hosts::new(8), Arc::new(Lane::new(10, 1)));
        let _taken = lane.enter_now(&hosts, "a.example:443").unwrap();

        assert_eq!(lane.enter(&hosts, "b.example:443", soon()).await.err(), Some(Refusal::Late));
        let waiting = {
            let (hosts, lane) = (hosts.clone(), Arc::clone(&lane));
            tokio::spawn(async move { lane.enter(&hosts, "b.example:443", soon()).await.err() })
        };
        tokio::task::yield_now().await;
        hosts.close();
        assert_eq!(waiting.await.unwrap(), Some(Refusal::Closing));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_in_a_lane_than_it_has_seats_for() {
        let (hosts, lane) = (Hosts::new(8), Lane::new(2, 1));
        let _taken = lane.enter_now(&hosts, "a.example:443").unwrap();
        let lane = Arc::new(lane);
        let enter = |host: &'static str| {
            let (hosts, lane) = (hosts.clone(), Arc::clone(&lane));
            tokio::spawn(async move { lane.enter(&hosts, host, soon()).await.err() })
        };
        let _first = enter("b.example:443");
        tokio::task::yield_now().await;

        assert_eq!(enter("b.example:443").await.unwrap(), Some(Refusal::Full(1)));
        let _second = enter("c.example:443");
        tokio::task::yield_now().await;
        assert_eq!(enter("d.example:443").await.unwrap(), Some(Refusal::Full(0)));
    }
}
