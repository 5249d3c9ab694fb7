//! Politeness: at most so many checks at once to one host; who comes after waits its turn.
//!
//! A host is a name (or address) and a port, as the URL has them. Not the address behind it: thousands of sites share
//! that of a CDN. Not the name alone: two ports are two servers, and one that hangs must not hold up the other.
//! Only the first hop takes a turn: to wait in mid-check would be in the check's times.
//!
//! Bound: a room has so many seats, of which one host may have half. Loss: who waits when the prober stops is given
//! back to the stream.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use url::Url;

/// The turns at all hosts. Clones share them.
#[derive(Clone)]
pub(crate) struct Hosts(Arc<Shared>);

struct Shared {
    per_host: usize,
    hosts: Mutex<HashMap<Box<str>, Host>>,
    closing: CancellationToken,
}

/// A host that is being checked or waited for.
struct Host {
    turns: Arc<Semaphore>,
    /// Those that have a turn or wait for one; without any the host is forgotten.
    guests: usize,
    waiting: usize,
}

/// Where checks wait. Clones share the seats.
#[derive(Clone)]
pub(crate) struct Room {
    seats: Arc<Semaphore>,
    /// The most that wait for one host.
    share: usize,
}

/// The right to check a host now; given back when dropped.
pub(crate) struct Turn {
    // Before the guest: who waits must find the host still there.
    _permit: OwnedSemaphorePermit,
    _guest: Guest,
}

/// A place in the room, from which a turn is waited for.
pub(crate) struct Seat {
    guest: Guest,
    turns: Arc<Semaphore>,
}

/// Why a check did not get its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many wait already: so many for this host.
    Full(usize),
    /// The time to wait is over.
    Late,
    /// The prober stops.
    Closing,
}

/// Somebody at a host: with a seat, waiting; without, having a turn.
struct Guest {
    shared: Arc<Shared>,
    host: Box<str>,
    seat: Option<OwnedSemaphorePermit>,
}

/// The host that a check of `url` takes its turn at.
pub(crate) fn of(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    format!("{}:{}", name.trim_end_matches('.'), url.port_or_known_default().unwrap_or_default())
}

impl Room {
    /// Of so many seats.
    pub(crate) fn new(seats: usize) -> Self {
        Self { seats: Arc::new(Semaphore::new(seats)), share: seats.div_ceil(2) }
    }
}

impl Hosts {
    /// At most `per_host` checks at once to each.
    pub(crate) fn new(per_host: usize) -> Self {
        Self(Arc::new(Shared { per_host, hosts: Mutex::default(), closing: CancellationToken::new() }))
    }

    /// The most checks at once to one host.
    pub(crate) fn per_host(&self) -> usize {
        self.0.per_host
    }

    /// Sends home all who wait, and who would.
    pub(crate) fn close(&self) {
        self.0.closing.cancel();
    }

    /// A turn at `host` now, unless others have them all.
    pub(crate) fn turn_now(&self, host: &str) -> Option<Turn> {
        let mut hosts = self.0.hosts();
        let permit = match hosts.get(host) {
            Some(known) => Arc::clone(&known.turns).try_acquire_owned().ok()?,
            None => {
                let turns = Arc::new(Semaphore::new(self.0.per_host));
                let permit = Arc::clone(&turns).try_acquire_owned().ok()?;
                hosts.insert(host.into(), Host { turns, guests: 0, waiting: 0 });
                permit
            }
        };
        Some(Turn { _permit: permit, _guest: self.0.guest(&mut hosts, host, None) })
    }

    /// A seat to wait on for a turn at `host`.
    pub(crate) fn sit(&self, host: &str, room: &Room) -> Result<Seat, Refusal> {
        let mut hosts = self.0.hosts();
        let waiting = hosts.get(host).map_or(0, |known| known.waiting);
        let seat = Arc::clone(&room.seats).try_acquire_owned();
        let (Ok(seat), true) = (seat, waiting < room.share) else {
            return Err(Refusal::Full(waiting));
        };
        let guest = self.0.guest(&mut hosts, host, Some(seat));
        let turns = hosts.get(host).map(|known| Arc::clone(&known.turns)).ok_or(Refusal::Closing)?;
        drop(hosts);
        Ok(Seat { guest, turns })
    }
}

impl Seat {
    /// The turn, in the order of coming, by `until` at the latest.
    pub(crate) async fn turn(self, until: Instant) -> Result<Turn, Refusal> {
        let permit = self.wait(until).await?;
        Ok(self.take(permit))
    }

    /// As [`turn`](Self::turn), keeping the seat until [`take`](Self::take).
    pub(crate) async fn wait(&self, until: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        self.wait_for(&self.turns, until).await
    }

    /// Waits in this seat for one of `permits` that are not turns.
    pub(crate) async fn wait_for(
        &self,
        permits: &Arc<Semaphore>,
        until: Instant,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        tokio::select! {
            biased;
            () = self.guest.shared.closing.cancelled() => Err(Refusal::Closing),
            permit = timeout_at(until, Arc::clone(permits).acquire_owned()) => match permit {
                Ok(Ok(permit)) => Ok(permit),
                // Nobody closes the semaphore.
                Ok(Err(_)) => Err(Refusal::Closing),
                Err(_) => Err(Refusal::Late),
            },
        }
    }

    /// What [`wait`](Self::wait) waits for, if it is to be had now.
    pub(crate) fn try_now(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).try_acquire_owned().ok()
    }

    /// Leaves the seat for the turn that `permit` is.
    pub(crate) fn take(self, permit: OwnedSemaphorePermit) -> Turn {
        let Self { mut guest, .. } = self;
        guest.stand_up();
        Turn { _permit: permit, _guest: guest }
    }
}

impl Shared {
    fn hosts(&self) -> MutexGuard<'_, HashMap<Box<str>, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guest(
        self: &Arc<Self>,
        hosts: &mut HashMap<Box<str>, Host>,
        host: &str,
        seat: Option<OwnedSemaphorePermit>,
    ) -> Guest {
        // The last guest may have left between two looks.
        let new = || Host { turns: Arc::new(Semaphore::new(self.per_host)), guests: 0, waiting: 0 };
        let here = hosts.entry(host.into()).or_insert_with(new);
        here.guests += 1;
        here.waiting += usize::from(seat.is_some());
        Guest { shared: Arc::clone(self), host: host.into(), seat }
    }
}

impl Guest {
    fn stand_up(&mut self) {
        if self.seat.take().is_some()
            && let Some(here) = self.shared.hosts().get_mut(&self.host)
        {
            here.waiting -= 1;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stand_up();
        let mut hosts = self.shared.hosts();
        if let Some(here) = hosts.get_mut(&self.host) {
            here.guests -= 1;
            if here.guests == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOST: &str = "a.example:443";

    /// Waits for ten seconds at most.
    async fn turn(hosts: &Hosts, host: &str, room: &Room) -> Result<Turn, Refusal> {
        hosts.sit(host, room)?.turn(Instant::now() + Duration::from_secs(10)).await
    }

    #[test]
    fn a_host_is_a_name_and_a_port_however_they_are_written() {
        for (url, host) in [
            ("https://A.Example./x", "a.example:443"),
            ("http://a.example", "a.example:80"),
            ("http://2130706433:8080/", "127.0.0.1:8080"),
            ("http://[::1]/", "[::1]:80"),
        ] {
            assert_eq!(of(&url.parse().unwrap()), host, "{url}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_have_a_turn_at_a_host_than_allowed_and_others_do_not_wait() {
        let (hosts, room) = (Hosts::new(2), Room::new(10));
        let one = hosts.turn_now(HOST).unwrap();
        let _two = hosts.turn_now(HOST).unwrap();

        assert!(hosts.turn_now(HOST).is_none());
        assert!(hosts.turn_now("b.example:443").is_some());
        assert_eq!(turn(&hosts, HOST, &room).await.err(), Some(Refusal::Late));
        drop(one);
        assert!(turn(&hosts, HOST, &room).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_of_coming() {
        let (hosts, room) = (Hosts::new(1), Room::new(10));
        let first = hosts.turn_now(HOST).unwrap();
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
    async fn one_host_has_half_of_the_seats_at_most_and_leaves_nothing_behind() {
        let (hosts, room) = (Hosts::new(1), Room::new(4));
        let held = hosts.turn_now(HOST).unwrap();
        let other = hosts.turn_now("b.example:443").unwrap();
        let wait = |host| {
            let (hosts, room) = (hosts.clone(), room.clone());
            tokio::spawn(async move { turn(&hosts, host, &room).await.map(drop) })
        };
        let waiting = [wait(HOST), wait(HOST)];
        tokio::task::yield_now().await;

        assert_eq!(wait(HOST).await.unwrap(), Err(Refusal::Full(2)));
        let elsewhere = wait("b.example:443");
        tokio::task::yield_now().await;
        hosts.close();
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Err(Refusal::Closing));
        }
        assert_eq!(elsewhere.await.unwrap(), Err(Refusal::Closing));
        drop((held, other));
        assert!(hosts.0.hosts().is_empty());
        assert_eq!(room.seats.available_permits(), 4);
    }
}
