//! Target server of the benches: answers each request with a page of one KiB, or never. Runs as a
//! separate process, so that its CPU time is not counted.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use picket_harness::certificates::{CertificateAuthority, Validity};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::Error;

/// Listen addresses. Several ports per scheme, because each port allows a limited number of
/// clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TargetAddresses {
    pub(crate) plain: Vec<SocketAddr>,
    pub(crate) tls: Vec<SocketAddr>,
    /// Addresses that read the request and never respond.
    pub(crate) silent: SocketAddr,
    pub(crate) silent_tls: SocketAddr,
    /// Address that sends the number of requests waiting at the silent addresses.
    pub(crate) count: SocketAddr,
    /// Root certificate to trust, in PEM.
    pub(crate) authority: String,
}

/// Running target process. Killed when dropped.
pub(crate) struct BenchTarget {
    pub(crate) addresses: TargetAddresses,
    process: Child,
    _stdin: ChildStdin,
}

impl Drop for BenchTarget {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl BenchTarget {
    /// Starts the target from this program.
    pub(crate) fn start() -> Result<Self, Error> {
        let start = |error| Error::System("could not start the target", error);
        let program = std::env::current_exe().map_err(start)?;
        let mut process = Command::new(program)
            .arg("target")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line).map_err(start)?;
        }
        let addresses = serde_json::from_str(&line)
            .map_err(|why| Error::Failed(format!("the target printed '{line}': {why}")))?;
        let stdin = stdin.ok_or_else(|| Error::Failed("the target has no standard input".to_owned()))?;
        Ok(Self { addresses, process, _stdin: stdin })
    }
}

const PORTS_PER_SCHEME: usize = 8;
const PAGE_BYTES: usize = 1_024;

/// Serves until standard input ends.
pub(crate) fn run() -> Result<(), Error> {
    crate::contenders::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::System("could not start", error))?;
    // Standard input ends with the bench, even if the bench is killed.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
        std::process::exit(0);
    });
    runtime.block_on(async {
        let serve = |error| Error::System("could not serve", error);
        let authority = CertificateAuthority::new();
        let identity = authority.issue_identity(&["127.0.0.1"], Validity::Current);
        let acceptor = identity.acceptor_with_alpn(&[b"http/1.1"]);
        let waiting = Arc::new(AtomicUsize::new(0));
        let response: Arc<str> = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {PAGE_BYTES}\r\n\r\n{}",
            "x".repeat(PAGE_BYTES)
        )
        .into();
        let page = ResponseMode::Page(response);
        let silent = ResponseMode::Silent(Arc::clone(&waiting));
        let (mut plain, mut tls) = (Vec::new(), Vec::new());
        for _ in 0..PORTS_PER_SCHEME {
            plain.push(start_listener(page.clone(), None).map_err(serve)?);
            tls.push(start_listener(page.clone(), Some(acceptor.clone())).map_err(serve)?);
        }
        let addresses = TargetAddresses {
            plain,
            tls,
            silent: start_listener(silent.clone(), None).map_err(serve)?,
            silent_tls: start_listener(silent, Some(acceptor)).map_err(serve)?,
            count: start_listener(ResponseMode::WaitingCount(waiting), None).map_err(serve)?,
            authority: authority.pem().to_owned(),
        };
        let line = serde_json::to_string(&addresses).map_err(|why| Error::Failed(why.to_string()))?;
        io::stdout().write_all(format!("{line}\n").as_bytes()).map_err(serve)?;
        io::stdout().flush().map_err(serve)?;
        std::future::pending().await
    })
}

#[derive(Clone)]
enum ResponseMode {
    Page(Arc<str>),
    Silent(Arc<AtomicUsize>),
    WaitingCount(Arc<AtomicUsize>),
}

fn start_listener(kind: ResponseMode, tls: Option<TlsAcceptor>) -> io::Result<SocketAddr> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(4_096)?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (kind, tls) = (kind.clone(), tls.clone());
            tokio::spawn(async move {
                // Clients that disconnect are no failure.
                let _ = serve_connection(stream, kind, tls).await;
            });
        }
    });
    Ok(address)
}

async fn serve_connection(stream: TcpStream, kind: ResponseMode, tls: Option<TlsAcceptor>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => serve_requests(stream, kind).await,
        Some(acceptor) => serve_requests(acceptor.accept(stream).await?, kind).await,
    }
}

async fn serve_requests(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    kind: ResponseMode,
) -> io::Result<()> {
    if let ResponseMode::WaitingCount(waiting) = &kind {
        stream.write_all(waiting.load(Ordering::Relaxed).to_string().as_bytes()).await?;
        return stream.shutdown().await;
    }
    let mut request = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            match &kind {
                ResponseMode::Page(response) => stream.write_all(response.as_bytes()).await?,
                ResponseMode::Silent(waiting) | ResponseMode::WaitingCount(waiting) => {
                    waiting.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
