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
    seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

struct Seen {
    /// Answers that it may give.
    answers: Semaphore,
    now: AtomicUsize,
    most: AtomicUsize,
    connections: AtomicUsize,
}

impl Server {
    /// Answers whoever asks.
    pub(crate) async fn open() -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), Semaphore::MAX_PERMITS)
    }

    /// Answers nobody until [`release`](Self::release).
    pub(crate) async fn shut() -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), 0)
    }

    /// Answers whoever asks at `address`, where one has died.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        Self::serve(TcpListener::bind(address).await.unwrap(), Semaphore::MAX_PERMITS)
    }

    fn serve(listener: TcpListener, answers: usize) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            answers: Semaphore::new(answers),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let serving = tokio::spawn(accept(listener, Arc::clone(&seen)));
        Self { address, seen, serving }
    }

    /// The URL of its only page.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Gives so many answers.
    pub(crate) fn release(&self, answers: usize) {
        self.seen.answers.add_permits(answers);
    }

    /// How many ask and have no answer yet.
    pub(crate) fn now(&self) -> usize {
        self.seen.now.load(Ordering::SeqCst)
    }

    /// The most that asked at once.
    pub(crate) fn most(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }

    /// Connections in all.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Dies: nobody listens there any more when this returns.
    pub(crate) async fn die(mut self) -> SocketAddr {
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

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        seen.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(answer(stream, Arc::clone(&seen)));
    }
}

async fn answer(mut stream: TcpStream, seen: Arc<Seen>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
            continue;
        }
        return;
    }
    let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most.fetch_max(now, Ordering::SeqCst);
    seen.answers.acquire().await.unwrap().forget();
    // Before the answer: who has it may send the next one at once.
    seen.now.fetch_sub(1, Ordering::SeqCst);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwell").await;
    let _ = stream.shutdown().await;
}
