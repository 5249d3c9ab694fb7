//! Target websites for checks, on loopback. Each path of a target has its own behaviour.
//!
//! | path | response |
//! | --- | --- |
//! | `/ok` | 200, "all is well" |
//! | `/echo` | 200, the request's head |
//! | `/status/N` | status N |
//! | `/slow/MS` | 200 after MS milliseconds |
//! | `/slow-body/MS` | the head at once, the body after MS milliseconds |
//! | `/redirect/N` | N redirects, then `/ok` |
//! | `/to/URL` | a redirect to the URL |
//! | `/see/N/URL` | a redirect with status N |
//! | `/loop` | a redirect to itself |
//! | `/large/N` | N bytes, then "end" |
//! | `/endless` | a body without end |
//! | `/headers/N` | N headers |
//! | `/gzip` | "compressed and well", compressed; also in response to HEAD |
//! | `/never` | nothing |
//! | `/drip` | a byte per second, of the head |
//! | `/drip-body` | a byte per second, of the body |
//! | `/close` | the connection is closed without a response |
//! | `/reset` | the connection is reset without a response |
//! | `/broken-body` | the connection is closed in the middle of the body |
//! | `/garbage` | no HTTP |
//!
//! Over HTTP/2 the paths are `/ok`, `/slow/MS`, `/slow-body/MS`, `/large/N`, `/headers/N`,
//! `/trailers`, `/never`, `/refuse` (RST_STREAM before the head), `/break` (RST_STREAM in the body)
//! and `/go-away`. Tests script any other behaviour step by step.

mod bombs;
mod connect_proxy;
mod full_backlog;
mod gate;
mod http2;
mod paths;
mod script;
mod token_endpoint;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

pub use self::{
    bombs::gzip_bomb,
    connect_proxy::{ConnectProxy, ProxyBehaviour},
    full_backlog::FullBacklog,
    script::Step,
    token_endpoint::{Issuer, TokenEndpoint},
};
use self::{
    gate::Gate,
    script::{ConnectionEnd, Script},
};
pub use crate::certificates::{CertificateAuthority, Identity, TlsQuirk, Validity};

/// Website for checks. Stops when dropped.
pub struct Target {
    address: SocketAddr,
    scheme: &'static str,
    stats: Arc<TargetStats>,
    accept_task: JoinHandle<()>,
}

#[derive(Default)]
struct TargetStats {
    connections: AtomicUsize,
    /// Connections that have not ended.
    open_connections: AtomicUsize,
    sent_bytes: AtomicU64,
    requests: Mutex<Vec<String>>,
    gate: Gate,
}

impl TargetStats {
    fn record_request(&self, request: String) {
        self.requests.lock().push(request);
    }
}

#[derive(Clone)]
enum Layer {
    Plain(Responder),
    Tls(TlsAcceptor, Responder),
    /// Delays the handshake by this time.
    SlowTls(TlsAcceptor, Duration),
    Http2(TlsAcceptor),
    PlainHttp2,
    /// Performs these steps as soon as the client has sent something.
    RawSteps(Arc<[Step]>),
    /// Accepts the TCP connection and sends nothing.
    Silent,
}

/// Source of responses.
#[derive(Clone)]
enum Responder {
    Paths,
    Script(Script),
    /// Responds to any path once the test releases the response.
    Withheld,
}

impl Target {
    /// Serves HTTP.
    pub async fn serve_http() -> Self {
        Self::bind_and_serve("http", Layer::Plain(Responder::Paths)).await
    }

    /// Serves HTTP at `address`, which must be free.
    pub async fn serve_http_at(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self::serve_listener(listener, "http", Layer::Plain(Responder::Paths)))
    }

    /// Serves the steps that `script` returns for a request.
    pub async fn serve_script(script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::bind_and_serve("http", Layer::Plain(Responder::Script(Arc::new(script)))).await
    }

    /// Serves a script over HTTPS.
    pub async fn serve_script_https(
        identity: &Identity,
        script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let acceptor = identity.acceptor_with_alpn(&[b"http/1.1"]);
        Self::bind_and_serve("https", Layer::Tls(acceptor, Responder::Script(Arc::new(script)))).await
    }

    /// Serves a script over HTTPS to clients that negotiate HTTP/2. The script's request is the
    /// first line of that protocol.
    pub async fn serve_script_http2(
        identity: &Identity,
        script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let acceptor = identity.acceptor_with_alpn(&[b"h2"]);
        Self::bind_and_serve("https", Layer::Tls(acceptor, Responder::Script(Arc::new(script)))).await
    }

    /// Performs `steps` as soon as an HTTPS client has sent anything.
    pub async fn serve_raw_steps(steps: &[Step]) -> Self {
        Self::bind_and_serve("https", Layer::RawSteps(steps.into())).await
    }

    /// Serves HTTPS and delays each handshake by `delay`.
    pub async fn serve_slow_https(identity: &Identity, delay: Duration) -> Self {
        Self::bind_and_serve("https", Layer::SlowTls(identity.acceptor_with_alpn(&[b"http/1.1"]), delay))
            .await
    }

    /// Serves HTTPS with a rare TLS behaviour.
    pub async fn serve_odd_https(identity: &Identity, quirk: TlsQuirk) -> Self {
        Self::bind_and_serve("https", Layer::Tls(identity.quirky_acceptor(quirk), Responder::Paths)).await
    }

    /// Serves HTTPS.
    pub async fn serve_https(identity: &Identity) -> Self {
        let acceptor = identity.acceptor_with_alpn(&[b"http/1.1"]);
        Self::bind_and_serve("https", Layer::Tls(acceptor, Responder::Paths)).await
    }

    /// Serves HTTPS at `address`, which must be free: a server with another certificate.
    pub async fn serve_https_at(address: SocketAddr, identity: &Identity) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let layer = Layer::Tls(identity.acceptor_with_alpn(&[b"http/1.1"]), Responder::Paths);
        Ok(Self::serve_listener(listener, "https", layer))
    }

    /// Serves HTTPS with HTTP/2.
    pub async fn serve_http2(identity: &Identity) -> Self {
        let acceptor = identity.acceptor_with_alpn(&[b"h2"]);
        Self::bind_and_serve("https", Layer::Http2(acceptor)).await
    }

    /// Serves HTTP/2 without TLS, to clients that know so in advance.
    pub async fn serve_plain_http2() -> Self {
        Self::bind_and_serve("http", Layer::PlainHttp2).await
    }

    /// Serves HTTPS to clients that present a certificate of `clients`.
    pub async fn serve_https_for_clients(identity: &Identity, clients: &CertificateAuthority) -> Self {
        let acceptor = identity.acceptor_for_clients(Some(clients));
        Self::bind_and_serve("https", Layer::Tls(acceptor, Responder::Paths)).await
    }

    /// Accepts HTTPS connections and sends nothing.
    pub async fn serve_silence() -> Self {
        Self::bind_and_serve("https", Layer::Silent).await
    }

    /// Serves HTTP and withholds each response until [`release_responses`](Self::release_responses).
    pub async fn serve_withheld() -> Self {
        Self::bind_and_serve("http", Layer::Plain(Responder::Withheld)).await
    }

    /// Returns an address without a listener.
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
        let accept_task = tokio::spawn(accept_connections(listener, layer, Arc::clone(&stats)));
        Self { address, scheme, stats, accept_task }
    }

    /// Listen address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of a path with the IP address as host, so that no name is resolved.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// URL of a path with the host name `localhost`.
    pub fn localhost_url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    /// Number of connections accepted.
    pub fn accepted_connections(&self) -> usize {
        self.stats.connections.load(Ordering::SeqCst)
    }

    /// Number of open connections.
    pub fn open_connections(&self) -> usize {
        self.stats.open_connections.load(Ordering::SeqCst)
    }

    /// Releases this number of withheld responses.
    pub fn release_responses(&self, responses: usize) {
        self.stats.gate.release(responses);
    }

    /// Number of requests whose response is withheld.
    pub fn waiting_requests(&self) -> usize {
        self.stats.gate.waiting()
    }

    /// Largest number of requests whose responses were withheld at the same time.
    pub fn max_waiting_requests(&self) -> usize {
        self.stats.gate.max_waiting()
    }

    /// Stops the target with all its connections. Returns its address, without a listener by then.
    pub async fn shut_down(mut self) -> SocketAddr {
        self.accept_task.abort();
        let _ = (&mut self.accept_task).await;
        self.address
    }

    /// Bytes sent by scripts, over all connections.
    pub fn sent_bytes(&self) -> u64 {
        self.stats.sent_bytes.load(Ordering::Relaxed)
    }

    /// Requests received, each with its body.
    pub fn received_requests(&self) -> Vec<String> {
        self.stats.requests.lock().clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

async fn accept_connections(listener: TcpListener, layer: Layer, stats: Arc<TargetStats>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Reaps ended connections, whose results would accumulate otherwise.
        while connections.try_join_next().is_some() {}
        stats.connections.fetch_add(1, Ordering::SeqCst);
        // As web servers do. Otherwise a head may wait 40 ms for the client to acknowledge earlier
        // TLS data.
        let _ = stream.set_nodelay(true);
        stats.open_connections.fetch_add(1, Ordering::SeqCst);
        let (layer, stats) = (layer.clone(), Arc::clone(&stats));
        connections.spawn(async move {
            serve_connection(stream, layer, Arc::clone(&stats)).await;
            stats.open_connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve_connection(mut stream: TcpStream, layer: Layer, stats: Arc<TargetStats>) {
    match layer {
        Layer::Plain(responder) => {
            if matches!(responder.respond_on(&mut stream, &stats).await, Ok(ConnectionEnd::Reset)) {
                let _ = stream.set_zero_linger();
            }
        }
        Layer::Tls(acceptor, responder) => serve_tls(stream, &acceptor, &responder, &stats).await,
        Layer::SlowTls(acceptor, delay) => {
            tokio::time::sleep(delay).await;
            serve_tls(stream, &acceptor, &Responder::Paths, &stats).await;
        }
        Layer::Http2(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = http2::serve_requests(stream, &stats).await;
            }
        }
        Layer::PlainHttp2 => {
            let _ = http2::serve_requests(stream, &stats).await;
        }
        Layer::RawSteps(steps) => {
            // Reads the client's data, because closing with unread data would reset the connection.
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4 << 10]).await;
            if matches!(
                script::perform_steps(&mut stream, &steps, &stats.sent_bytes).await,
                Ok(ConnectionEnd::Reset)
            ) {
                let _ = stream.set_zero_linger();
            }
        }
        Layer::Silent => std::future::pending().await,
    }
}

async fn serve_tls(stream: TcpStream, acceptor: &TlsAcceptor, responder: &Responder, stats: &TargetStats) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    match responder.respond_on(&mut stream, stats).await {
        Ok(ConnectionEnd::Reset) => {
            let _ = stream.get_ref().0.set_zero_linger();
        }
        Ok(ConnectionEnd::Abandon) => {
            // Flushes buffered TLS data without a close notification.
            let _ = stream.flush().await;
        }
        Ok(ConnectionEnd::Close) | Err(_) => {
            let _ = stream.shutdown().await;
        }
    }
}

impl Responder {
    async fn respond_on<S>(&self, stream: &mut S, stats: &TargetStats) -> std::io::Result<ConnectionEnd>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        match self {
            Self::Paths => paths::respond_to_request(stream, stats).await,
            Self::Withheld => {
                if paths::read_request(stream).await?.is_some() {
                    stats.gate.wait_released().await;
                    paths::respond_ok(stream, "well").await?;
                }
                Ok(ConnectionEnd::Close)
            }
            Self::Script(script) => {
                let Some(request) = paths::read_request(stream).await? else {
                    return Ok(ConnectionEnd::Close);
                };
                stats.record_request(request.clone());
                script::perform_steps(stream, &script(&request), &stats.sent_bytes).await
            }
        }
    }
}
