//! TLS in front of a Postgres that has none, as a pooler or a tunnel in front of one would do it.
//!
//! The pinned Postgres is built without TLS; what our processes do as clients is the same either way.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::target::{CertificateAuthority, Identity};

/// What a client of Postgres sends first when it wants TLS: its length, and the number of the request.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Accepts sessions over TLS only, and passes them on. Ends when dropped.
pub struct TlsProxy {
    address: SocketAddr,
    forwarded_count: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl TlsProxy {
    /// Before the Postgres on this port, as `identity`; clients must show a certificate of `clients` where that is given.
    pub async fn start(identity: &Identity, clients: Option<&CertificateAuthority>, backend: u16) -> Self {
        let acceptor = identity.acceptor_for_clients(clients);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let passed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&passed);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
                // How a session ends is its client's matter.
                tokio::spawn(async move { forward_session(stream, acceptor, backend, &counted).await });
            }
        });
        Self { address, forwarded_count: passed, task }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many sessions it has passed on.
    pub fn forwarded_sessions(&self) -> usize {
        self.forwarded_count.load(Ordering::Relaxed)
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward_session(
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
    backend: u16,
    passed: &AtomicUsize,
) -> std::io::Result<()> {
    let mut request = [0; SSL_REQUEST.len()];
    stream.read_exact(&mut request).await?;
    if request != SSL_REQUEST {
        return Ok(());
    }
    stream.write_all(b"S").await?;
    let mut stream = acceptor.accept(stream).await?;
    let mut behind = TcpStream::connect(("127.0.0.1", backend)).await?;
    passed.fetch_add(1, Ordering::Relaxed);
    copy_bidirectional(&mut stream, &mut behind).await.map(drop)
}
