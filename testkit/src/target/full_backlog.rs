//! A listener whose queue is full, so that it answers no one who would connect until there is room.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use super::{Layer, Responder, Target};

/// The host is there, and SYNs to it go unanswered: what a firewall that drops, or a dead host, looks like.
pub struct FullBacklog {
    listener: TcpListener,
    /// Those in the queue, and one that is trying to get in.
    pending_connects: JoinSet<std::io::Result<TcpStream>>,
    queued_connections: Vec<TcpStream>,
}

impl FullBacklog {
    /// Listens at `address`, where a port of 0 is a free one, and fills the queue.
    ///
    /// # Errors
    /// When this machine has no such address.
    pub async fn listen_at(address: SocketAddr) -> std::io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(address)?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        // The kernel takes one more than it was told.
        let queued = vec![TcpStream::connect(address).await?, TcpStream::connect(address).await?];
        let mut waiting = JoinSet::new();
        waiting.spawn(TcpStream::connect(address));
        Ok(Self { listener, pending_connects: waiting, queued_connections: queued })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("its address")
    }

    /// Lets in whoever tries, and serves HTTP.
    pub fn clear_and_serve(mut self) -> Target {
        self.pending_connects.abort_all();
        self.queued_connections.clear();
        Target::serve_listener(self.listener, "http", Layer::Plain(Responder::Paths))
    }
}
