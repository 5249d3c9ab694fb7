//! A TCP proxy on loopback that can do to a connection what a network does: cut it, hold it, slow it.

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

/// What is in force for all connections, old and new.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct NetworkConditions {
    is_cut: bool,
    is_blackholed: bool,
    /// One way.
    delay: Duration,
    bytes_per_second: Option<u32>,
}

/// A proxy in front of one address. Dropped, it closes what goes through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    conditions: watch::Sender<NetworkConditions>,
    /// Told when the listening has changed as the weather demands.
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
    /// Starts one that passes everything on to `target`.
    pub async fn forward_to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (weather, forecast) = watch::channel(NetworkConditions::default());
        let (announce, listening) = watch::channel(true);
        let counts = Arc::<ConnectionCounts>::default();
        let task = tokio::spawn(run_proxy(listener, address, target, forecast, announce, counts.clone()));
        Self { address, conditions: weather, listening, counts, task }
    }

    /// Starts one to a port of 127.0.0.1.
    pub async fn forward_to_port(port: u16) -> Self {
        Self::forward_to((Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// Where it listens, also after a cut.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Resets (RST) every connection, and refuses new ones, until [`heal`](Self::heal). Done when this returns.
    pub async fn cut(&self) {
        self.conditions.send_modify(|weather| weather.is_cut = true);
        self.wait_listening(false).await;
    }

    /// Holds every byte back, silently: connections stay and new ones seem to be made, as in a partition.
    ///
    /// Until [`heal`](Self::heal), which passes on what was held, as retransmission would.
    pub fn blackhole(&self) {
        self.conditions.send_modify(|weather| weather.is_blackholed = true);
    }

    /// Lets each byte arrive so much later, in both directions; the throughput stays.
    pub fn delay(&self, one_way: Duration) {
        self.conditions.send_modify(|weather| weather.delay = one_way);
    }

    /// Lets so many bytes through in a second, for each connection and direction.
    pub fn throttle(&self, bytes_per_second: u32) {
        assert!(bytes_per_second > 0, "that is a blackhole");
        self.conditions.send_modify(|weather| weather.bytes_per_second = Some(bytes_per_second));
    }

    /// Ends every fault. Connections can be made when this returns.
    pub async fn heal(&self) {
        self.conditions.send_replace(NetworkConditions::default());
        self.wait_listening(true).await;
    }

    /// How many connections there have been.
    pub fn accepted_connections(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// How many connections there are.
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

/// Listens, except while the line is cut.
async fn run_proxy(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut weather: watch::Receiver<NetworkConditions>,
    announce: watch::Sender<bool>,
    counts: Arc<ConnectionCounts>,
) {
    let mut listener = listener;
    loop {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = wait_cut(&mut weather) => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            // An error is of one connection that went away before it was accepted.
            if let Ok((client, _)) = accepted {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(proxy_connection(client, target, weather.clone(), counts.clone()));
            }
        }
        drop(listener);
        // Each sees the cut by itself and resets its ends.
        while connections.join_next().await.is_some() {}
        // Bound and not listening: the port refuses, and nobody else gets it.
        let socket = bind_with_retry(address).await;
        announce.send_replace(false);

        if weather.wait_for(|weather| !weather.is_cut).await.is_err() {
            return;
        }
        listener = socket.listen(1024).expect("a bound socket can listen");
        announce.send_replace(true);
    }
}

/// One connection, from its acceptance to the end of both directions, or to a cut.
async fn proxy_connection(
    client: TcpStream,
    target: SocketAddr,
    mut weather: watch::Receiver<NetworkConditions>,
    counts: Arc<ConnectionCounts>,
) {
    let _open = OpenGuard::new(counts);
    let mut forecast = weather.clone();
    let mut ends = (client, None);
    let cause_of_end = tokio::select! {
        // Looked at first, so that what is cut passes nothing more.
        biased;
        () = wait_cut(&mut forecast) => None,
        ended = forward_both_ways(&mut ends, target, &mut weather) => Some(ended),
    };
    // An error on one side, or a cut, is a reset on both, as it would be without a proxy.
    if !matches!(cause_of_end, Some(Ok(()))) {
        let (client, server) = ends;
        for end in [Some(client), server].into_iter().flatten() {
            // It fails on a socket that the other end has reset; then there is nothing to reset.
            let _ = end.set_zero_linger();
        }
    }
}

async fn forward_both_ways(
    (client, server): &mut (TcpStream, Option<TcpStream>),
    target: SocketAddr,
    weather: &mut watch::Receiver<NetworkConditions>,
) -> io::Result<()> {
    pump::wait_blackhole_end(weather).await;
    let server = server.insert(TcpStream::connect(target).await?);
    for end in [&*client, &*server] {
        end.set_nodelay(true)?;
    }
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    tokio::try_join!(
        pump::forward_bytes(client_reads, server_writes, weather.clone()),
        pump::forward_bytes(server_reads, client_writes, weather.clone()),
    )?;
    Ok(())
}

/// Waits for a cut, or for the end of the proxy.
async fn wait_cut(weather: &mut watch::Receiver<NetworkConditions>) {
    // An error: the proxy is gone, which cuts as well.
    let _ = weather.wait_for(|weather| weather.is_cut).await;
}

async fn bind_with_retry(address: SocketAddr) -> TcpSocket {
    // The port is free from the moment that the listener's socket is closed by the kernel.
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let socket = TcpSocket::new_v4().expect("a socket can be made");
        // Otherwise the remains of closed connections would hold it for a minute.
        socket.set_reuseaddr(true).expect("a socket can be configured");
        if socket.bind(address).is_ok() {
            return socket;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{address} is somebody else's now");
}

/// Counts a connection for as long as it is there.
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
