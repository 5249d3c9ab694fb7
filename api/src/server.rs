//! The HTTP server: accepts connections and serves the router on them.
//!
//! axum's own server has neither a header timeout nor a connection limit (0.8), so connections are served by
//! hyper here. Bound: [`Server::MAX_CONNECTIONS`] connections. Loss: none; connections beyond the bound wait in the
//! queue of the operating system.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::metrics::Metrics;

/// See the module documentation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    router: Router,
    metrics: Metrics,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    /// Cancelled at the start of a drain: connections finish their request and close.
    stopping: CancellationToken,
}

impl Server {
    /// Maximum number of open connections.
    const MAX_CONNECTIONS: usize = 10_000;
    /// Maximum time to receive the head of a request.
    const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

    pub(crate) fn new(
        listener: Arc<TcpListener>,
        router: Router,
        metrics: Metrics,
        stopping: CancellationToken,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(Self::MAX_CONNECTIONS));
        Self { listener, router, metrics, slots, connections: TaskTracker::new(), stopping }
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
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = self.clone().serve_connection(stream, peer);
                    self.connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    warn!(%error, "could not accept a connection, retrying");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn serve_connection(self, stream: TcpStream, peer: SocketAddr) {
        self.metrics.connections.inc();
        let router = self.router;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Self::HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "connection ended with an error");
        }
        self.metrics.connections.dec();
    }

    /// Accepts no more connections and waits until all have finished their requests.
    pub(crate) async fn drain(self) {
        self.stopping.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}
