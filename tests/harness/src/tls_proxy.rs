//! TLS proxy in front of a Postgres without TLS, like a pooler or a tunnel.
//!
//! The pinned Postgres is built without TLS. For the clients under test the proxy makes no
//! difference.

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

use crate::certificates::{CertificateAuthority, Identity};

/// First message of a Postgres client that wants TLS: its length and the request code.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Accepts TLS sessions only and forwards them. Stops when dropped.
pub struct TlsProxy {
    address: SocketAddr,
    forwarded_count: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl TlsProxy {
    /// Starts in front of the Postgres on port `backend`, with the certificate of `identity`.
    /// Clients must present a certificate of `clients`, if given.
    pub async fn start(identity: &Identity, clients: Option<&CertificateAuthority>, backend: u16) -> Self {
        let acceptor = identity.acceptor_for_clients(clients);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let forwarded_count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&forwarded_count);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counter) = (acceptor.clone(), Arc::clone(&counter));
                // Errors of a session are for its client to report.
                tokio::spawn(async move { forward_session(stream, acceptor, backend, &counter).await });
            }
        });
        Self { address, forwarded_count, task }
    }

    /// Listen port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Number of sessions forwarded so far.
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
    forwarded_count: &AtomicUsize,
) -> std::io::Result<()> {
    let mut request = [0; SSL_REQUEST.len()];
    stream.read_exact(&mut request).await?;
    if request != SSL_REQUEST {
        return Ok(());
    }
    // `S` accepts TLS; the handshake follows.
    stream.write_all(b"S").await?;
    let mut stream = acceptor.accept(stream).await?;
    let mut upstream = TcpStream::connect(("127.0.0.1", backend)).await?;
    forwarded_count.fetch_add(1, Ordering::Relaxed);
    copy_bidirectional(&mut stream, &mut upstream).await.map(drop)
}
