//! Listener with a full accept queue, which leaves connection attempts unanswered.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use super::{Layer, Responder, Target};

/// Host that exists but leaves SYNs unanswered, like a firewall that drops packets or a dead host.
pub struct FullBacklog {
    listener: TcpListener,
    /// Connection attempts beyond the full queue.
    pending_connects: JoinSet<std::io::Result<TcpStream>>,
    queued_connections: Vec<TcpStream>,
}

impl FullBacklog {
    /// Listens at `address`, with a free port for port 0, and fills the queue.
    ///
    /// # Errors
    /// Fails if this machine does not have the address.
    pub async fn listen_at(address: SocketAddr) -> std::io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(address)?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        // The kernel accepts one connection more than the requested backlog of 1.
        let queued_connections = vec![TcpStream::connect(address).await?, TcpStream::connect(address).await?];
        let mut pending_connects = JoinSet::new();
        pending_connects.spawn(TcpStream::connect(address));
        Ok(Self { listener, pending_connects, queued_connections })
    }

    /// Listen address.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("its address")
    }

    /// Clears the queue and serves HTTP to every client.
    pub fn clear_and_serve(mut self) -> Target {
        self.pending_connects.abort_all();
        self.queued_connections.clear();
        Target::serve_listener(self.listener, "http", Layer::Plain(Responder::Paths))
    }
}
