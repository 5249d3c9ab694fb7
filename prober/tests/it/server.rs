//! A website that a test holds in its hand: it answers when it is let, says how many asked at once, dies and comes
//! back on its port.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

/// The website. Dropped, it dies with all its connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stats: Arc<ServerStats>,
    serving: JoinHandle<()>,
}

struct ServerStats {
    /// Answers that it may give.
    answer_permits: Semaphore,
    running: AtomicUsize,
    max_running: AtomicUsize,
    connections: AtomicUsize,
}

impl Server {
    /// Answers whoever asks.
    pub(crate) async fn start_open() -> Self {
        Self::start_serving(TcpListener::bind("127.0.0.1:0").await.unwrap(), Semaphore::MAX_PERMITS)
    }

    /// Answers nobody until [`release`](Self::release).
    pub(crate) async fn start_withholding() -> Self {
        Self::start_serving(TcpListener::bind("127.0.0.1:0").await.unwrap(), 0)
    }

    /// Answers whoever asks at `address`, where one has died.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self::start_serving(TcpListener::bind(address).await.unwrap(), Semaphore::MAX_PERMITS)
    }

    fn start_serving(listener: TcpListener, answers: usize) -> Self {
        let address = listener.local_addr().unwrap();
        let stats = Arc::new(ServerStats {
            answer_permits: Semaphore::new(answers),
            running: AtomicUsize::new(0),
            max_running: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let serving = tokio::spawn(accept_connections(listener, Arc::clone(&stats)));
        Self { address, stats, serving }
    }

    /// The URL of its only page.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Gives so many answers.
    pub(crate) fn release_answers(&self, answers: usize) {
        self.stats.answer_permits.add_permits(answers);
    }

    /// How many ask and have no answer yet.
    pub(crate) fn running_count(&self) -> usize {
        self.stats.running.load(Ordering::SeqCst)
    }

    /// The most that asked at once.
    pub(crate) fn max_running(&self) -> usize {
        self.stats.max_running.load(Ordering::SeqCst)
    }

    /// Connections in all.
    pub(crate) fn connection_count(&self) -> usize {
        self.stats.connections.load(Ordering::SeqCst)
    }

    /// Dies: nobody listens there any more when this returns.
    pub(crate) async fn shut_down(mut self) -> SocketAddr {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept_connections(listener: TcpListener, seen: Arc<ServerStats>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        seen.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve_connection(stream, Arc::clone(&seen)));
    }
}

async fn serve_connection(mut stream: TcpStream, seen: Arc<ServerStats>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
            continue;
        }
        return;
    }
    let now = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
    seen.max_running.fetch_max(now, Ordering::SeqCst);
    seen.answer_permits.acquire().await.unwrap().forget();
    // Before the answer: who has it may send the next one at once.
    seen.running.fetch_sub(1, Ordering::SeqCst);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwell").await;
    let _ = stream.shutdown().await;
}
