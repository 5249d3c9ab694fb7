//! TCP proxy on loopback that injects network faults: cuts, blackholes, delays, limited throughput.

mod pump;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Conditions of all connections, old and new.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct NetworkConditions {
    is_cut: bool,
    is_blackholed: bool,
    /// Delay per direction.
    delay: Duration,
    bytes_per_second: Option<u32>,
}

/// Proxy in front of a single address. Closes all connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    conditions: watch::Sender<NetworkConditions>,
    /// Reports whether the proxy listens, after each change of the conditions.
    listening: watch::Receiver<bool>,
    counts: Arc<ConnectionCounts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy that forwards to `target`.
    pub async fn forward_to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (conditions, receiver) = watch::channel(NetworkConditions::default());
        let (announce, listening) = watch::channel(true);
        let counts = Arc::<ConnectionCounts>::default();
        let task = tokio::spawn(run_proxy(listener, address, target, receiver, announce, counts.clone()));
        Self { address, conditions, listening, counts, task }
    }

    /// Starts a proxy that forwards to a port of 127.0.0.1.
    pub async fn forward_to_port(port: u16) -> Self {
        Self::forward_to((Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// Listen address. Stays the same across a cut.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listen port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Resets (RST) all connections and refuses new ones until [`heal`](Self::heal). Complete when
    /// the call returns.
    pub async fn cut(&self) {
        self.conditions.send_modify(|conditions| conditions.is_cut = true);
        self.wait_listening(false).await;
    }

    /// Silently holds back all bytes until [`heal`](Self::heal): connections stay and new ones
    /// appear to succeed, as in a partition.
    ///
    /// [`heal`](Self::heal) forwards the held bytes, as retransmission would.
    pub fn blackhole(&self) {
        self.conditions.send_modify(|conditions| conditions.is_blackholed = true);
    }

    /// Delays each byte by `one_way` in both directions. Throughput is unaffected.
    pub fn delay(&self, one_way: Duration) {
        self.conditions.send_modify(|conditions| conditions.delay = one_way);
    }

    /// Limits throughput to `bytes_per_second` for each connection and direction.
    pub fn throttle(&self, bytes_per_second: u32) {
        assert!(bytes_per_second > 0, "a rate of 0 is a blackhole");
        self.conditions.send_modify(|conditions| conditions.bytes_per_second = Some(bytes_per_second));
    }

    /// Ends all faults. New connections succeed when the call returns.
    pub async fn heal(&self) {
        self.conditions.send_replace(NetworkConditions::default());
        self.wait_listening(true).await;
    }

    /// Number of connections accepted so far.
    pub fn accepted_connections(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Number of open connections.
    pub fn open_connections(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    async fn wait_listening(&self, listening: bool) {
        let mut announced = self.listening.clone();
        announced.wait_for(|is| *is == listening).await.expect("the proxy's task runs");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections, except during a cut.
async fn run_proxy(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut conditions: watch::Receiver<NetworkConditions>,
    announce: watch::Sender<bool>,
    counts: Arc<ConnectionCounts>,
) {
    let mut listener = listener;
    loop {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = wait_cut(&mut conditions) => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            // An error concerns a single connection that ended before it was accepted.
            if let Ok((client, _)) = accepted {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(proxy_connection(client, target, conditions.clone(), counts.clone()));
            }
        }
        drop(listener);
        // Each connection observes the cut itself and resets both ends.
        while connections.join_next().await.is_some() {}
        // A bound socket that does not listen refuses connections and reserves the port.
        let socket = bind_with_retry(address).await;
        announce.send_replace(false);

        if conditions.wait_for(|conditions| !conditions.is_cut).await.is_err() {
            return;
        }
        listener = socket.listen(1024).expect("a bound socket can listen");
        announce.send_replace(true);
    }
}

/// Serves a connection from its acceptance to the end of both directions, or to a cut.
async fn proxy_connection(
    client: TcpStream,
    target: SocketAddr,
    mut conditions: watch::Receiver<NetworkConditions>,
    counts: Arc<ConnectionCounts>,
) {
    let _open = OpenGuard::new(counts);
    let mut cut_watch = conditions.clone();
    let mut ends = (client, None);
    let cause_of_end = tokio::select! {
        // Biased: the cut is polled first, so that a cut connection forwards nothing more.
        biased;
        () = wait_cut(&mut cut_watch) => None,
        ended = forward_both_ways(&mut ends, target, &mut conditions) => Some(ended),
    };
    // An error on one side, or a cut, resets both sides, as without a proxy.
    if !matches!(cause_of_end, Some(Ok(()))) {
        let (client, server) = ends;
        for end in [Some(client), server].into_iter().flatten() {
            // Fails on a socket already reset by the other end, which needs no reset.
            let _ = end.set_zero_linger();
        }
    }
}

async fn forward_both_ways(
    (client, server): &mut (TcpStream, Option<TcpStream>),
    target: SocketAddr,
    conditions: &mut watch::Receiver<NetworkConditions>,
) -> io::Result<()> {
    pump::wait_blackhole_end(conditions).await;
    let server = server.insert(TcpStream::connect(target).await?);
    for end in [&*client, &*server] {
        end.set_nodelay(true)?;
    }
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    tokio::try_join!(
        pump::forward_bytes(client_reads, server_writes, conditions.clone()),
        pump::forward_bytes(server_reads, client_writes, conditions.clone()),
    )?;
    Ok(())
}

/// Waits for a cut or for the end of the proxy.
async fn wait_cut(conditions: &mut watch::Receiver<NetworkConditions>) {
    // An error means that the proxy was dropped, which cuts the connection as well.
    let _ = conditions.wait_for(|conditions| conditions.is_cut).await;
}

async fn bind_with_retry(address: SocketAddr) -> TcpSocket {
    // The port becomes free when the kernel closes the listener's socket.
    const MAX_ATTEMPTS: usize = 100;
    for _ in 0..MAX_ATTEMPTS {
        let socket = TcpSocket::new_v4().expect("a socket can be made");
        // Without this option, remains of closed connections would block the port for a minute.
        socket.set_reuseaddr(true).expect("a socket can be configured");
        if socket.bind(address).is_ok() {
            return socket;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{address} has been taken by another process");
}

/// Counts a connection while it is open.
struct OpenGuard(Arc<ConnectionCounts>);

impl OpenGuard {
    fn new(counts: Arc<ConnectionCounts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
