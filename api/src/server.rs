//! The HTTP server: accepts connections and serves the router on them.
//!
//! axum's own server has neither a header timeout nor a connection limit (0.8), so connections are served by
//! hyper here. Bound: [`Config::max_connections`](crate::Config::max_connections), fewer if the process may open fewer files. Loss: a
//! connection beyond the bound evicts an idle one of the peer with the most connections.

mod write_timeout;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use picket_runtime::{BusyMark, ConnectionPlace, OpenConnections};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use self::write_timeout::WriteTimeout;
use crate::metrics::{Metrics, Refusal};

/// See the module documentation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    router: Router,
    metrics: Metrics,
    open: OpenConnections,
    connections: TaskTracker,
    /// Cancelled at the start of a drain: connections finish their request and close.
    stopping: CancellationToken,
}

impl Server {
    /// Files that the rest of the process may open.
    const OTHER_FILES: usize = 256;
    /// Maximum time to receive the head of a request, and to wait for the next one.
    const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
    /// Maximum time for which the peer may read nothing of a response.
    const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
    /// Maximum size of the head of a request, and of the buffer of a connection.
    const MAX_BUFFER_BYTES: usize = 64 << 10;

    pub(crate) fn new(
        listener: Arc<TcpListener>,
        router: Router,
        max_connections: usize,
        metrics: Metrics,
        stopping: CancellationToken,
    ) -> Self {
        let open = OpenConnections::new(limit_by_files(max_connections));
        Self { listener, router, metrics, open, connections: TaskTracker::new(), stopping }
    }

    /// Accepts connections until the drain begins, and then never returns.
    pub(crate) async fn serve(self) {
        tokio::select! {
            () = self.accept_connections() => {}
            () = self.stopping.cancelled() => {}
        }
        std::future::pending::<()>().await;
    }

    async fn accept_connections(&self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let (place, has_evicted) = self.open.admit(peer.ip());
                    if has_evicted {
                        self.metrics.count_refusal(Refusal::ConnectionEvicted);
                    }
                    self.connections.spawn(self.clone().hold_connection(stream, peer, place));
                }
                Err(error) => {
                    warn!(%error, "could not accept a connection, retrying");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Serves a connection until it ends or is evicted.
    async fn hold_connection(self, stream: TcpStream, peer: SocketAddr, mut place: ConnectionPlace) {
        let metrics = self.metrics.clone();
        metrics.connections.inc();
        let mark = place.busy_mark();
        tokio::select! {
            () = self.serve_connection(stream, peer, mark) => {}
            () = place.evicted() => debug!(%peer, "evicted a connection in favour of a new one"),
        }
        metrics.connections.dec();
    }

    async fn serve_connection(self, stream: TcpStream, peer: SocketAddr, mark: BusyMark) {
        let router = self.router;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let (router, mark) = (router.clone(), mark.clone());
            mark.set(true);
            async move {
                let response = router.oneshot(request).await;
                // A response that is still being written is no reason to keep an old connection.
                mark.set(false);
                response
            }
        });
        // Small writes, such as events, leave at once.
        let _ = stream.set_nodelay(true);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Self::HEADER_TIMEOUT)
            .max_buf_size(Self::MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(WriteTimeout::new(stream, Self::WRITE_TIMEOUT)), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            if error.is_timeout() || error.is_parse() {
                self.metrics.count_refusal(Refusal::InvalidHead);
            }
            debug!(%peer, error = &error as &dyn std::error::Error, "connection ended with an error");
        }
    }

    /// Accepts no more connections and waits until all have finished their requests.
    pub(crate) async fn drain(self) {
        self.stopping.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Raises the number of files that the process may open to the limit that the system sets. Returns the number
/// of connections that it allows, at most `wanted`.
fn limit_by_files(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let files = current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let allowed = files.saturating_sub(Server::OTHER_FILES).max(1);
    if allowed < wanted {
        warn!(files, connections = allowed, "the limit of open files leaves room for fewer connections");
    }
    allowed.min(wanted)
}
