//! Websites to check, on loopback: good ones and bad ones, a path for each way to behave.
//!
//! | path | answer |
//! | --- | --- |
//! | `/ok` | 200, "all is well" |
//! | `/echo` | 200, the request's head |
//! | `/status/N` | N |
//! | `/slow/MS` | 200 after so long |
//! | `/slow-body/MS` | the head at once, the body after so long |
//! | `/redirect/N` | N redirects, then `/ok` |
//! | `/to/URL` | a redirect to the URL |
//! | `/see/N/URL` | a redirect with status N |
//! | `/loop` | a redirect to itself |
//! | `/large/N` | N bytes, then "end" |
//! | `/endless` | a body without end |
//! | `/headers/N` | N headers |
//! | `/gzip` | "compressed and well", compressed; also in answer to HEAD |
//! | `/never` | nothing |
//! | `/drip` | a byte a second, of the head |
//! | `/drip-body` | a byte a second, of the body |
//! | `/close` | the connection is closed without an answer |
//! | `/reset` | the connection is reset without an answer |
//! | `/broken-body` | the connection is closed in mid-body |
//! | `/garbage` | no HTTP |
//!
//! By HTTP/2 there are `/ok`, `/slow/MS`, `/slow-body/MS`, `/large/N`, `/headers/N`, `/trailers`, `/never`, `/refuse` and
//! `/break` (RST_STREAM before the head and in the body), `/go-away`. Whatever else a server may do is said in
//! the test as a script, step by step.

mod bombs;
mod certificates;
mod full_backlog;
mod http2;
mod paths;
mod script;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use self::script::{ConnectionEnd, Script};
pub use self::{
    bombs::gzip_bomb,
    certificates::{CertificateAuthority, Identity, TlsQuirk, Validity},
    full_backlog::FullBacklog,
    script::Step,
};

/// A website; it ends when it is dropped.
pub struct Target {
    address: SocketAddr,
    scheme: &'static str,
    stats: Arc<TargetStats>,
    accept_task: AbortHandle,
}

#[derive(Default)]
struct TargetStats {
    connections: AtomicUsize,
    /// Connections that have not ended.
    open_connections: AtomicUsize,
    sent_bytes: AtomicU64,
    requests: Mutex<Vec<String>>,
}

impl TargetStats {
    fn record_request(&self, request: String) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }
}

#[derive(Clone)]
enum Layer {
    Plain(Responder),
    Tls(TlsAcceptor, Responder),
    /// The handshake is answered after so long.
    SlowTls(TlsAcceptor, Duration),
    Http2(TlsAcceptor),
    /// Does these steps as soon as the client has said something.
    RawSteps(Arc<[Step]>),
    /// The TCP connection stands and nothing follows.
    Silent,
}

/// Who answers a request.
#[derive(Clone)]
enum Responder {
    Paths,
    Script(Script),
}

impl Target {
    /// Serves HTTP.
    pub async fn serve_http() -> Self {
        Self::bind_and_serve("http", Layer::Plain(Responder::Paths)).await
    }

    /// Serves HTTP at `address`, where that is free.
    pub async fn serve_http_at(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self::serve_listener(listener, "http", Layer::Plain(Responder::Paths)))
    }

    /// Serves what `script` says in answer to a request, which it gets.
    pub async fn serve_script(script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::bind_and_serve("http", Layer::Plain(Responder::Script(Arc::new(script)))).await
    }

    /// The same by HTTPS.
    pub async fn serve_script_https(
        identity: &Identity,
        script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let acceptor = identity.acceptor_with_alpn(&[b"http/1.1"]);
        Self::bind_and_serve("https", Layer::Tls(acceptor, Responder::Script(Arc::new(script)))).await
    }

    /// The same to a client that is told to speak HTTP/2; the request is that protocol's first line.
    pub async fn serve_script_http2(
        identity: &Identity,
        script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let acceptor = identity.acceptor_with_alpn(&[b"h2"]);
        Self::bind_and_serve("https", Layer::Tls(acceptor, Responder::Script(Arc::new(script)))).await
    }

    /// Does `steps` as soon as a client of HTTPS has said something, whatever it was.
    pub async fn serve_raw_steps(steps: &[Step]) -> Self {
        Self::bind_and_serve("https", Layer::RawSteps(steps.into())).await
    }

    /// Serves HTTPS, each handshake answered after `delay`.
    pub async fn serve_slow_https(identity: &Identity, delay: Duration) -> Self {
        Self::bind_and_serve("https", Layer::SlowTls(identity.acceptor_with_alpn(&[b"http/1.1"]), delay))
            .await
    }

    /// Serves HTTPS as few servers do.
    pub async fn serve_odd_https(identity: &Identity, quirk: TlsQuirk) -> Self {
        Self::bind_and_serve("https", Layer::Tls(identity.quirky_acceptor(quirk), Responder::Paths)).await
    }

    /// Serves HTTPS.
    pub async fn serve_https(identity: &Identity) -> Self {
        let acceptor = identity.acceptor_with_alpn(&[b"http/1.1"]);
        Self::bind_and_serve("https", Layer::Tls(acceptor, Responder::Paths)).await
    }

    /// Serves HTTPS with HTTP/2.
    pub async fn serve_http2(identity: &Identity) -> Self {
        let acceptor = identity.acceptor_with_alpn(&[b"h2"]);
        Self::bind_and_serve("https", Layer::Http2(acceptor)).await
    }

    /// Takes connections of HTTPS and never says a word.
    pub async fn serve_silence() -> Self {
        Self::bind_and_serve("https", Layer::Silent).await
    }

    /// An address where nobody listens.
    pub async fn closed_address() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("its address")
    }

    async fn bind_and_serve(scheme: &'static str, layer: Layer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::serve_listener(listener, scheme, layer)
    }

    fn serve_listener(listener: TcpListener, scheme: &'static str, layer: Layer) -> Self {
        let address = listener.local_addr().expect("its address");
        let stats = Arc::new(TargetStats::default());
        let accept_task =
            tokio::spawn(accept_connections(listener, layer, Arc::clone(&stats))).abort_handle();
        Self { address, scheme, stats, accept_task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, with the address as host: no name is resolved.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The URL of a path, with the host's name `localhost`.
    pub fn localhost_url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    /// Connections that it was asked for.
    pub fn accepted_connections(&self) -> usize {
        self.stats.connections.load(Ordering::SeqCst)
    }

    /// Connections that have not ended yet.
    pub fn open_connections(&self) -> usize {
        self.stats.open_connections.load(Ordering::SeqCst)
    }

    /// Bytes that its scripts have sent, over all connections.
    pub fn sent_bytes(&self) -> u64 {
        self.stats.sent_bytes.load(Ordering::Relaxed)
    }

    /// The requests that it got, each with its body.
    pub fn received_requests(&self) -> Vec<String> {
        self.stats.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

async fn accept_connections(listener: TcpListener, layer: Layer, seen: Arc<TargetStats>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        seen.connections.fetch_add(1, Ordering::SeqCst);
        // As web servers do; else a head may wait 40 ms for the client to acknowledge what TLS sent before it.
        let _ = stream.set_nodelay(true);
        seen.open_connections.fetch_add(1, Ordering::SeqCst);
        let (layer, seen) = (layer.clone(), Arc::clone(&seen));
        connections.spawn(async move {
            serve_connection(stream, layer, Arc::clone(&seen)).await;
            seen.open_connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve_connection(mut stream: TcpStream, layer: Layer, seen: Arc<TargetStats>) {
    match layer {
        Layer::Plain(answers) => {
            if matches!(answers.respond_on(&mut stream, &seen).await, Ok(ConnectionEnd::Reset)) {
                let _ = stream.set_zero_linger();
            }
        }
        Layer::Tls(acceptor, answers) => serve_tls(stream, &acceptor, &answers, &seen).await,
        Layer::SlowTls(acceptor, delay) => {
            tokio::time::sleep(delay).await;
            serve_tls(stream, &acceptor, &Responder::Paths, &seen).await;
        }
        Layer::Http2(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = http2::serve_requests(stream, &seen).await;
            }
        }
        Layer::RawSteps(steps) => {
            // What it said is read, or closing would reset the connection.
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4 << 10]).await;
            if matches!(
                script::perform_steps(&mut stream, &steps, &seen.sent_bytes).await,
                Ok(ConnectionEnd::Reset)
            ) {
                let _ = stream.set_zero_linger();
            }
        }
        Layer::Silent => std::future::pending().await,
    }
}

async fn serve_tls(stream: TcpStream, acceptor: &TlsAcceptor, answers: &Responder, seen: &TargetStats) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    match answers.respond_on(&mut stream, seen).await {
        Ok(ConnectionEnd::Reset) => {
            let _ = stream.get_ref().0.set_zero_linger();
        }
        Ok(ConnectionEnd::Abandon) => {
            // What the TLS layer holds back goes out, but no farewell.
            let _ = stream.flush().await;
        }
        Ok(ConnectionEnd::Close) | Err(_) => {
            let _ = stream.shutdown().await;
        }
    }
}

impl Responder {
    async fn respond_on<S>(&self, stream: &mut S, seen: &TargetStats) -> std::io::Result<ConnectionEnd>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        match self {
            Self::Paths => paths::respond_to_request(stream, seen).await,
            Self::Script(script) => {
                let Some(request) = paths::read_request(stream).await? else {
                    return Ok(ConnectionEnd::Close);
                };
                seen.record_request(request.clone());
                script::perform_steps(stream, &script(&request), &seen.sent_bytes).await
            }
        }
    }
}
