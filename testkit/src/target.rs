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

mod certificates;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

pub use self::certificates::{Authority, Identity, Validity};

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
    requests: Mutex<Vec<String>>,
}

#[derive(Clone)]
enum Layer {
    Plain,
    Tls(TlsAcceptor),
    Http2(TlsAcceptor),
    /// The TCP connection stands and nothing follows.
    Mute,
}

impl Target {
    /// Serves HTTP.
    pub async fn http() -> Self {
        Self::serve("http", Layer::Plain).await
    }

    /// Serves HTTPS.
    pub async fn https(identity: &Identity) -> Self {
        let acceptor = identity.acceptor(&[b"http/1.1"]);
        Self::serve("https", Layer::Tls(acceptor)).await
    }

    /// Serves HTTPS with HTTP/2; each path is `/ok`.
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

    /// The heads of the requests that it got.
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
        connections.spawn(connection(stream, layer.clone(), Arc::clone(&seen)));
    }
}

async fn connection(mut stream: TcpStream, layer: Layer, seen: Arc<Seen>) {
    match layer {
        Layer::Plain => {
            if matches!(answer(&mut stream, &seen).await, Ok(End::Reset)) {
                let _ = stream.set_zero_linger();
            }
        }
        Layer::Tls(acceptor) => {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = answer(&mut stream, &seen).await;
                let _ = stream.shutdown().await;
            }
        }
        Layer::Http2(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = answer_http2(stream, &seen).await;
            }
        }
        Layer::Mute => std::future::pending().await,
    }
}

enum End {
    Close,
    Reset,
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, seen: &Seen) -> std::io::Result<End> {
    let Some(head) = read_head(stream).await? else {
        return Ok(End::Close);
    };
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let is_head = head.starts_with("HEAD ");
    seen.requests.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
    let (what, rest) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let number = rest.parse::<u64>().unwrap_or(0);
    match what {
        "ok" => well(stream, "all is well").await?,
        "echo" => well(stream, &head).await?,
        "status" => say(stream, rest, "", "a status").await?,
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            well(stream, "slow and well").await?;
        }
        "slow-body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await?;
            stream.flush().await?;
            tokio::time::sleep(Duration::from_millis(number)).await;
            stream.write_all(b"well").await?;
        }
        "redirect" => {
            let next = if number > 1 { format!("/redirect/{}", number - 1) } else { "/ok".to_owned() };
            say(stream, "302", &format!("location: {next}\r\n"), "").await?;
        }
        "to" => say(stream, "302", &format!("location: {rest}\r\n"), "").await?,
        "see" => {
            let (status, url) = rest.split_once('/').unwrap_or((rest, ""));
            say(stream, status, &format!("location: {url}\r\n"), "").await?;
        }
        "loop" => say(stream, "302", "location: /loop\r\n", "").await?,
        "large" => {
            let length = number + 3;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let length = usize::try_from(number).unwrap_or(0);
            stream.write_all(&vec![b'x'; length]).await?;
            stream.write_all(b"end").await?;
        }
        "endless" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 8 << 10]).await?;
            }
        }
        "headers" => {
            let headers: String = (0..number).map(|i| format!("x-{i}: {i}\r\n")).collect();
            say(stream, "200", &headers, "well").await?;
        }
        "gzip" => {
            let length = GZIP.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            if !is_head {
                stream.write_all(GZIP).await?;
            }
        }
        "never" => std::future::pending().await,
        "drip" => drip(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?,
        "drip-body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
            drip(stream, &[b'x'; 1_000]).await?;
        }
        "close" => return Ok(End::Close),
        "reset" => return Ok(End::Reset),
        "broken-body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await?;
        }
        "garbage" => stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await?,
        _ => say(stream, "404", "", "there is no such path").await?,
    }
    stream.flush().await?;
    Ok(End::Close)
}

/// "compressed and well", by gzip.
const GZIP: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x4b, 0xce, 0xcf, 0x2d, 0x28, 0x4a, 0x2d,
    0x2e, 0x4e, 0x4d, 0x51, 0x48, 0xcc, 0x4b, 0x51, 0x28, 0x4f, 0xcd, 0xc9, 0x01, 0x00, 0xc0, 0x46, 0xbf,
    0x94, 0x13, 0x00, 0x00, 0x00,
];

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Option<String>> {
    const LONGEST: usize = 64 << 10;
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() > LONGEST || stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
        if head.first().is_some_and(|byte| !byte.is_ascii_alphabetic()) {
            // Somebody greets in TLS.
            return Ok(Some("GET /status/400 HTTP/1.1".to_owned()));
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

async fn well<S: AsyncWrite + Unpin>(stream: &mut S, body: &str) -> std::io::Result<()> {
    say(stream, "200", "", body).await
}

async fn say<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status} Because\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await
}

async fn drip<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn answer_http2<S: AsyncRead + AsyncWrite + Unpin>(stream: S, seen: &Seen) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let head = format!("{} {} HTTP/2", request.method(), request.uri());
        seen.requests.lock().unwrap_or_else(PoisonError::into_inner).push(head);
        let mut body = respond.send_response(http::Response::new(()), false)?;
        body.send_data(Bytes::from_static(b"all is well"), true)?;
    }
    Ok(())
}
