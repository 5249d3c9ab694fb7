//! HTTP endpoints of a process: liveness (`/healthz`), readiness (`/readyz`) and metrics
//! (`/metrics`).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::{
    encoding::text::encode,
    metrics::{histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tracing::{info, warn};

use crate::open_connections::OpenConnections;
use crate::secrets::WITHHELD_TEXTS;

/// Registration of metrics by their owner. The registry keeps a clone, which shares its value.
pub trait AddMetric {
    /// Creates and registers a counter, gauge or family.
    fn add_metric<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M;
    /// Creates and registers a histogram with these upper bounds.
    fn add_histogram(&mut self, name: &str, help: &str, buckets: impl Iterator<Item = f64>) -> Histogram;
}

impl AddMetric for Registry {
    fn add_metric<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.register(name, help, metric.clone());
        metric
    }

    fn add_histogram(&mut self, name: &str, help: &str, buckets: impl Iterator<Item = f64>) -> Histogram {
        let histogram = Histogram::new(buckets);
        self.register(name, help, histogram.clone());
        histogram
    }
}

/// Readiness checks and metrics of one process, or of one part of `picket up`.
#[derive(Clone)]
pub struct Health(Arc<HealthState>);

struct HealthState {
    readiness: Mutex<BTreeMap<&'static str, Option<String>>>,
    registry: Mutex<Registry>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Creates a state without checks, which is ready.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("picket");
        registry.register(
            "build",
            "The version of this build",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "texts_withheld",
            "Log lines and messages replaced as a whole, because the secrets of this process cannot be searched for",
            WITHHELD_TEXTS.clone(),
        );
        Self(Arc::new(HealthState { readiness: Mutex::default(), registry: Mutex::new(registry) }))
    }

    /// Adds a readiness check. The process is unready until the check is set ready.
    pub fn add_readiness_check(&self, name: &'static str) -> ReadinessCheck {
        self.0.readiness.lock().insert(name, Some("not yet".to_owned()));
        ReadinessCheck { health: self.clone(), name }
    }

    /// Registry for the metrics of this process.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock()
    }

    /// Unready checks with their reasons. Empty if the process is ready.
    pub fn unready_checks(&self) -> Vec<(&'static str, String)> {
        self.0.readiness.lock().iter().filter_map(|(name, why)| Some((*name, why.clone()?))).collect()
    }

    /// All metrics in the OpenMetrics text format, as `/metrics` serves them.
    ///
    /// # Errors
    /// Fails if a metric cannot be encoded.
    pub fn encode_metrics(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry())?;
        Ok(text)
    }

    fn build_response(&self, path: &str) -> (StatusCode, &'static str, String) {
        const TEXT: &str = "text/plain; charset=utf-8";
        match path {
            "/healthz" => (StatusCode::OK, TEXT, "alive\n".to_owned()),
            "/readyz" => match self.unready_checks() {
                missing if missing.is_empty() => (StatusCode::OK, TEXT, "ready\n".to_owned()),
                missing => {
                    let lines = missing.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
                    (StatusCode::SERVICE_UNAVAILABLE, TEXT, lines)
                }
            },
            "/metrics" => match self.encode_metrics() {
                Ok(text) => {
                    (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
                }
                Err(_) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, TEXT, "metrics could not be written\n".to_owned())
                }
            },
            _ => (StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n".to_owned()),
        }
    }
}

/// Condition for the readiness of a process.
#[derive(Clone)]
pub struct ReadinessCheck {
    health: Health,
    name: &'static str,
}

impl ReadinessCheck {
    /// Marks the condition as met.
    pub fn set_ready(&self) {
        self.health.0.readiness.lock().insert(self.name, None);
    }

    /// Marks the condition as not met, with the reason.
    pub fn set_unready(&self, why: impl Into<String>) {
        self.health.0.readiness.lock().insert(self.name, Some(why.into()));
    }
}

/// Maximum number of open connections. Scrapers and probes are few.
const MAX_CONNECTIONS: usize = 64;

/// Serves health and metrics on `listen` until the process ends. Returns the bound address.
///
/// # Errors
/// Fails if the process cannot listen on the address.
pub async fn serve_health(health: Health, listen: SocketAddr) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    info!(listen = %address, "serving /healthz, /readyz and /metrics");
    tokio::spawn(async move {
        let connections = OpenConnections::new(MAX_CONNECTIONS);
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (mut place, _) = connections.admit(peer.ip());
                    let connection = serve_connection(stream, health.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = connection => {}
                            () = place.evicted() => {}
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "could not accept a health connection, retrying");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(address)
}

/// Answers one request.
async fn serve_connection(stream: TcpStream, health: Health) {
    /// Maximum time to receive a request.
    const READ_TIMEOUT: Duration = Duration::from_secs(5);
    /// Maximum time of a connection, including the transfer of the response.
    const TIMEOUT: Duration = Duration::from_secs(10);

    let service = service_fn(move |request: Request<Incoming>| {
        let (status, kind, text) = health.build_response(request.uri().path());
        let response = Response::builder()
            .status(status)
            .header("content-type", kind)
            .body(Full::new(Bytes::from(text)))
            .unwrap_or_default();
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        // Idle connections would count against the maximum.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(TIMEOUT, connection).await;
}

/// Requests readiness from the process that serves health at `listen`. Returns the readiness and
/// the text of the response.
///
/// # Errors
/// Fails without a valid response within five seconds.
pub async fn probe_readiness(listen: SocketAddr) -> std::io::Result<(bool, String)> {
    const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
    const MAX_RESPONSE_BYTES: u64 = 64 << 10;

    // A process that listens on the unspecified address is probed on loopback.
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let request = async {
        let mut stream = TcpStream::connect((ip, listen.port())).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(MAX_RESPONSE_BYTES).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = tokio::time::timeout(PROBE_TIMEOUT, request)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within 5 s")))?;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok((true, text.to_owned())),
        Some("503") => Ok((false, text.to_owned())),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "the response is not from a Picket process",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_all_its_checks_pass() {
        let health = Health::new();
        let (nats, database) = (health.add_readiness_check("nats"), health.add_readiness_check("database"));

        nats.set_ready();
        database.set_unready("refused");
        assert_eq!(
            health.build_response("/readyz"),
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", "database: refused\n".into())
        );
        database.set_ready();
        assert_eq!(health.build_response("/readyz").0, StatusCode::OK);
        assert_eq!(health.build_response("/healthz").0, StatusCode::OK);
        assert_eq!(health.build_response("/nothing").0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_readiness_probe_returns_the_state_and_the_failing_checks() {
        let health = Health::new();
        let nats = health.add_readiness_check("nats");
        let served = serve_health(health, SocketAddr::from(([0, 0, 0, 0], 0))).await.unwrap();

        assert_eq!(probe_readiness(served).await.unwrap(), (false, "nats: not yet\n".to_owned()));
        nats.set_ready();
        assert_eq!(probe_readiness(served).await.unwrap(), (true, "ready\n".to_owned()));
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(probe_readiness(nobody).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_probe_is_answered_beside_hundreds_of_idle_connections() {
        let served = serve_health(Health::new(), SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let mut idle = Vec::new();
        for i in 0..200 {
            let mut stream = TcpStream::connect(served).await.unwrap();
            if i % 2 == 0 {
                stream.write_all(b"GET /readyz HTTP/1.1\r\nhost:").await.unwrap();
            }
            idle.push(stream);
        }

        assert_eq!(probe_readiness(served).await.unwrap(), (true, "ready\n".to_owned()));

        // The oldest connection was evicted.
        let mut rest = Vec::new();
        idle[0].read_to_end(&mut rest).await.ok();
        assert!(rest.is_empty());
    }

    #[test]
    fn metrics_are_in_the_prometheus_text_format() {
        let text = Health::new().build_response("/metrics").2;

        assert!(text.contains("picket_build_info{version=") && text.ends_with("# EOF\n"), "{text}");
    }
}
