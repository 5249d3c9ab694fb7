//! Limits the open connections of a server, so that no peer can lock out others.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The address by which peers are told apart: an IPv4 address, or the network of an IPv6 address, since a
/// host has a whole /64.
pub fn peer_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// Open connections of a server. If the table is full, a new connection evicts one of the peer with the
/// most connections: the oldest that answers no request, or else the oldest. A peer that opens many evicts
/// its own, and others still get in. Cheap to clone.
#[derive(Clone)]
pub struct OpenConnections(Arc<Mutex<Table>>);

struct Table {
    max_open: usize,
    open: usize,
    next_id: u64,
    peers: HashMap<IpAddr, BTreeMap<u64, Entry>>,
}

struct Entry {
    /// Dropped to evict the connection.
    _evict: oneshot::Sender<()>,
    is_busy: Arc<AtomicBool>,
}

/// The place of a connection in the table, free again when dropped.
pub struct ConnectionPlace {
    connections: OpenConnections,
    peer: IpAddr,
    id: u64,
    evicted: oneshot::Receiver<()>,
    is_busy: Arc<AtomicBool>,
}

/// Marks a connection that answers a request. Cheap to clone.
#[derive(Clone)]
pub struct BusyMark(Arc<AtomicBool>);

impl BusyMark {
    /// Marks the connection as busy or as idle.
    pub fn set(&self, is_busy: bool) {
        self.0.store(is_busy, Ordering::Relaxed);
    }
}

impl OpenConnections {
    /// An empty table for at most `max_open` connections.
    pub fn new(max_open: usize) -> Self {
        Self(Arc::new(Mutex::new(Table { max_open, open: 0, next_id: 0, peers: HashMap::new() })))
    }

    /// Admits a connection. Returns true with its place if another connection was evicted for it.
    pub fn admit(&self, peer: IpAddr) -> (ConnectionPlace, bool) {
        let peer = peer_network(peer);
        let (evict, evicted) = oneshot::channel();
        let is_busy = Arc::new(AtomicBool::new(false));
        let mut table = self.0.lock();
        let is_full = table.open >= table.max_open;
        if is_full {
            table.evict_for(peer);
        }
        let id = table.next_id;
        table.next_id += 1;
        table.open += 1;
        let entry = Entry { _evict: evict, is_busy: is_busy.clone() };
        table.peers.entry(peer).or_default().insert(id, entry);
        (ConnectionPlace { connections: self.clone(), peer, id, evicted, is_busy }, is_full)
    }

    /// Number of open connections.
    pub fn count(&self) -> usize {
        self.0.lock().open
    }
}

impl Table {
    /// Evicts a connection in favour of one of `newcomer`.
    fn evict_for(&mut self, newcomer: IpAddr) {
        // The new connection counts too, or `newcomer` could evict a connection of another peer at a tie.
        // At a tie of others, the peer of the oldest connection loses it.
        let rank = |peer: &IpAddr, entries: &BTreeMap<u64, Entry>| {
            let oldest = entries.keys().next().copied().unwrap_or(u64::MAX);
            (entries.len() + usize::from(*peer == newcomer), std::cmp::Reverse(oldest))
        };
        let largest = self.peers.iter().max_by_key(|(peer, entries)| rank(peer, entries));
        let Some((peer, entries)) = largest else { return };
        let idle = entries.iter().find(|(_, entry)| !entry.is_busy.load(Ordering::Relaxed));
        let Some(id) = idle.or_else(|| entries.iter().next()).map(|(id, _)| *id) else { return };
        let peer = *peer;
        self.remove(peer, id);
    }

    fn remove(&mut self, peer: IpAddr, id: u64) {
        let Some(entries) = self.peers.get_mut(&peer) else { return };
        if entries.remove(&id).is_some() {
            self.open -= 1;
        }
        if entries.is_empty() {
            self.peers.remove(&peer);
        }
    }
}

impl ConnectionPlace {
    /// Completes when the connection was evicted.
    pub async fn evicted(&mut self) {
        let _ = (&mut self.evicted).await;
    }

    /// Mark of this connection.
    pub fn busy_mark(&self) -> BusyMark {
        BusyMark(self.is_busy.clone())
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.connections.0.lock().remove(self.peer, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn is_evicted(place: &mut ConnectionPlace) -> bool {
        place.evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn an_address_with_many_connections_displaces_its_own() {
        let table = OpenConnections::new(64);
        let mut first = table.admit(peer(1)).0;

        let many: Vec<_> = (0..1_000).map(|_| table.admit(peer(2)).0).collect();

        assert_eq!(table.count(), 64);
        assert!(!is_evicted(&mut first), "the connection of the other peer is the oldest and stays");
        drop((first, many));
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn an_idle_connection_is_evicted_before_a_busy_one_and_the_oldest_before_others() {
        let table = OpenConnections::new(3);
        let mut places: Vec<_> = (0..3).map(|_| table.admit(peer(1)).0).collect();
        places[0].busy_mark().set(true);

        let (_fourth, was_full) = table.admit(peer(1));

        assert!(was_full);
        assert_eq!(places.iter_mut().map(is_evicted).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn of_peers_with_one_connection_each_the_oldest_goes() {
        let table = OpenConnections::new(3);
        let mut places: Vec<_> = (1..=3).map(|last| table.admit(peer(last)).0).collect();

        let _fourth = table.admit(peer(4));

        assert_eq!(places.iter_mut().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_peer() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();

        assert_eq!(peer_network(address("2001:db8:0:1::1")), peer_network(address("2001:db8:0:1:ffff::2")));
        assert_ne!(peer_network(address("2001:db8:0:1::1")), peer_network(address("2001:db8:0:2::1")));
        assert_eq!(peer_network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
