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
mod crowded;
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

use self::script::{End, Script};
pub use self::{
    bombs::gzip_bomb,
    certificates::{Authority, Identity, Quirk, Validity},
    crowded::Crowded,
    script::Step,
};

/// A website; it ends when it is dropped.
pub struct Target {
    address: SocketAddr,
    scheme: &'static str,
    seen: Arc<Seen>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Connections that have not ended.
    open: AtomicUsize,
    sent: AtomicU64,
    requests: Mutex<Vec<String>>,
}

impl Seen {
    fn note(&self, request: String) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }
}

#[derive(Clone)]
enum Layer {
    Plain(Answers),
    Tls(TlsAcceptor, Answers),
    /// The handshake is answered after so long.
    SlowTls(TlsAcceptor, Duration),
    Http2(TlsAcceptor),
    /// Does these steps as soon as the client has said something.
    Blunt(Arc<[Step]>),
    /// The TCP connection stands and nothing follows.
    Mute,
}

/// Who answers a request.
#[derive(Clone)]
enum Answers {
    Paths,
    Script(Script),
}

impl Target {
    /// Serves HTTP.
    pub async fn http() -> Self {
        Self::serve("http", Layer::Plain(Answers::Paths)).await
    }

    /// Serves HTTP at `address`, where that is free.
    pub async fn http_at(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self::listen(listener, "http", Layer::Plain(Answers::Paths)))
    }

    /// Serves what `script` says in answer to a request, which it gets.
    pub async fn scripted(script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::serve("http", Layer::Plain(Answers::Script(Arc::new(script)))).await
    }

    /// The same by HTTPS.
    pub async fn scripted_https(
        identity: &Identity,
        script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let acceptor = identity.acceptor(&[b"http/1.1"]);
        Self::serve("https", Layer::Tls(acceptor, Answers::Script(Arc::new(script)))).await
    }

    /// The same to a client that is told to speak HTTP/2; the request is that protocol's first line.
    pub async fn scripted_http2(
        identity: &Identity,
        script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let acceptor = identity.acceptor(&[b"h2"]);
        Self::serve("https", Layer::Tls(acceptor, Answers::Script(Arc::new(script)))).await
    }

    /// Does `steps` as soon as a client of HTTPS has said something, whatever it was.
    pub async fn blunt(steps: &[Step]) -> Self {
        Self::serve("https", Layer::Blunt(steps.into())).await
    }

    /// Serves HTTPS, each handshake answered after `delay`.
    pub async fn slow_https(identity: &Identity, delay: Duration) -> Self {
        Self::serve("https", Layer::SlowTls(identity.acceptor(&[b"http/1.1"]), delay)).await
    }

    /// Serves HTTPS as few servers do.
    pub async fn odd_https(identity: &Identity, quirk: Quirk) -> Self {
        Self::serve("https", Layer::Tls(identity.odd_acceptor(quirk), Answers::Paths)).await
    }

    /// Serves HTTPS.
    pub async fn https(identity: &Identity) -> Self {
        let acceptor = identity.acceptor(&[b"http/1.1"]);
        Self::serve("https", Layer::Tls(acceptor, Answers::Paths)).await
    }

    /// Serves HTTPS with HTTP/2.
    pub async fn http2(identity: &Identity) -> Self {
        let acceptor = identity.acceptor(&[b"h2"]);
        Self::serve("https", Layer::Http2(acceptor)).await
    }

    /// Takes connections of HTTPS and never says a word.
    pub async fn mute() -> Self {
        Self::serve("https", Layer::Mute).await
    }

    /// An address where nobody listens.
    pub async fn closed() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("its address")
    }

    async fn serve(scheme: &'static str, layer: Layer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::listen(listener, scheme, layer)
    }

    fn listen(listener: TcpListener, scheme: &'static str, layer: Layer) -> Self {
        let address = listener.local_addr().expect("its address");
        let seen = Arc::new(Seen::default());
        let serving = tokio::spawn(accept(listener, layer, Arc::clone(&seen))).abort_handle();
        Self { address, scheme, seen, serving }
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
    pub fn named_url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    /// Connections that it was asked for.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Connections that have not ended yet.
    pub fn open_connections(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// Bytes that its scripts have sent, over all connections.
    pub fn sent(&self) -> u64 {
        self.seen.sent.load(Ordering::Relaxed)
    }

    /// The requests that it got, each with its body.
    pub fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, layer: Layer, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        seen.connections.fetch_add(1, Ordering::SeqCst);
        // As web servers do; else a head may wait 40 ms for the client to acknowledge what TLS sent before it.
        let _ = stream.set_nodelay(true);
        seen.open.fetch_add(1, Ordering::SeqCst);
        let (layer, seen) = (layer.clone(), Arc::clone(&seen));
        connections.spawn(async move {
            connection(stream, layer, Arc::clone(&seen)).await;
            seen.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn connection(mut stream: TcpStream, layer: Layer, seen: Arc<Seen>) {
    match layer {
        Layer::Plain(answers) => {
            if matches!(answers.to(&mut stream, &seen).await, Ok(End::Reset)) {
                let _ = stream.set_zero_linger();
            }
        }
        Layer::Tls(acceptor, answers) => tls(stream, &acceptor, &answers, &seen).await,
        Layer::SlowTls(acceptor, delay) => {
            tokio::time::sleep(delay).await;
            tls(stream, &acceptor, &Answers::Paths, &seen).await;
        }
        Layer::Http2(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = http2::answer(stream, &seen).await;
            }
        }
        Layer::Blunt(steps) => {
            // What it said is read, or closing would reset the connection.
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4 << 10]).await;
            if matches!(script::perform(&mut stream, &steps, &seen.sent).await, Ok(End::Reset)) {
                let _ = stream.set_zero_linger();
            }
        }
        Layer::Mute => std::future::pending().await,
    }
}

async fn tls(stream: TcpStream, acceptor: &TlsAcceptor, answers: &Answers, seen: &Seen) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    match answers.to(&mut stream, seen).await {
        Ok(End::Reset) => {
            let _ = stream.get_ref().0.set_zero_linger();
        }
        Ok(End::Abandon) => {
            // What the TLS layer holds back goes out, but no farewell.
            let _ = stream.flush().await;
        }
        Ok(End::Close) | Err(_) => {
            let _ = stream.shutdown().await;
        }
    }
}

impl Answers {
    async fn to<S>(&self, stream: &mut S, seen: &Seen) -> std::io::Result<End>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        match self {
            Self::Paths => paths::answer(stream, seen).await,
            Self::Script(script) => {
                let Some(request) = paths::read_request(stream).await? else { return Ok(End::Close) };
                seen.note(request.clone());
                script::perform(stream, &script(&request), &seen.sent).await
            }
        }
    }
}
