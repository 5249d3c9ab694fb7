//! The connection to NATS. Reconnects by itself, reports its state, and checks the server's
//! version.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_nats::{ConnectOptions, Event, jetstream};
use picket_proto::Role;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{AddMetric, Backoff, Health, ReadinessCheck, options::NatsOptions};

/// NATS connection with its JetStream context.
#[derive(Clone)]
pub struct Bus {
    /// Client for core NATS.
    pub client: async_nats::Client,
    /// Context for streams. A publish waits while too many acknowledgements are outstanding.
    pub jetstream: jetstream::Context,
    readiness: ReadinessCheck,
    connected: watch::Receiver<bool>,
    servers: String,
    options: NatsOptions,
}

/// Metrics of the connection.
struct BusMetrics {
    connects: Counter<u64>,
    connected: Gauge<i64>,
    errors: Counter<u64>,
}

impl BusMetrics {
    fn register(health: &Health) -> Self {
        let mut registry = health.registry();
        Self {
            connects: registry.add_metric("nats_connects", "Connections established to NATS"),
            connected: registry.add_metric("nats_connected", "1 while connected to NATS, else 0"),
            errors: registry.add_metric("nats_errors", "Errors reported by the NATS server or client"),
        }
    }
}

impl Bus {
    /// Registers the metrics of a connection without connecting. Used by the generated reference.
    pub fn describe_metrics(health: &Health) {
        BusMetrics::register(health);
    }
}

/// Reasons why the connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options cannot be used.
    #[error("the NATS options cannot be used: {0}")]
    InvalidOptions(String),
    /// A file named by the options cannot be read.
    #[error("{option}: could not read '{path}'")]
    UnreadableFile {
        /// Option with the file's path.
        option: &'static str,
        /// Path of the file.
        path: String,
        /// Cause of the failure.
        #[source]
        source: std::io::Error,
    },
    /// The server is older than [`Bus::MIN_SERVER_VERSION`].
    #[error("the NATS server is version {found}; Picket needs {needed} or newer", needed = Bus::MIN_SERVER_VERSION)]
    ServerTooOld {
        /// Version of the server.
        found: String,
    },
}

impl Bus {
    /// Oldest server with the features that Picket depends on.
    pub const MIN_SERVER_VERSION: &str = "2.12.0";
    /// Maximum outstanding acknowledgements of one process. Far more than any part of a process has
    /// in flight, because a publish that waits for room here waits without a limit.
    const MAX_ACKS_OUTSTANDING: usize = 65_536;
    /// Maximum time a publish waits for the stream's acknowledgement.
    pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
    /// Timeout of a core publish, which waits only after a long disconnection.
    pub const CORE_PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
    /// Messages that wait for each subscription of an API process, whose viewers may be many.
    const API_SUBSCRIPTION_CAPACITY: usize = 1_024;
    /// Interval of pings. Three unanswered pings end a dead connection. With the library's default
    /// of a minute, a partition of 35 s went unnoticed.
    const PING_INTERVAL: Duration = Duration::from_secs(5);

    /// Connects in the background and retries without a limit. `name` is shown to the operator of
    /// the server. `role` selects the prefix of inboxes, which a server with credentials lets this
    /// role subscribe to.
    ///
    /// # Errors
    /// Fails if the options are invalid. An unreachable server is no error; the client retries.
    pub async fn connect(
        options: &NatsOptions,
        role: &Role,
        name: &str,
        health: &Health,
    ) -> Result<Self, Error> {
        let condition = health.add_readiness_check("nats");
        let BusMetrics { connects, connected, errors } = BusMetrics::register(health);
        let watched = condition.clone();
        let (connection, connection_state) = watch::channel(false);
        let is_error_logged = AtomicBool::new(false);
        let connect = Self::load_credentials(options)
            .await?
            .name(name)
            .custom_inbox_prefix(role.inbox_prefix())
            // Servers may start later than this process, in any order.
            .retry_on_initial_connect()
            .max_reconnects(None)
            .ping_interval(Self::PING_INTERVAL)
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(Duration::from_secs(5)))
            .reconnect_delay_callback(|attempts| {
                // The client passes the number of attempts only, so the backoff is replayed up to
                // that number.
                let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(4));
                (0..attempts.min(10)).fold(Duration::ZERO, |_, _| backoff.next_delay())
            })
            .event_callback(move |event| {
                match &event {
                    Event::Connected => {
                        connects.inc();
                        connected.set(1);
                        connection.send_replace(true);
                        watched.set_ready();
                        is_error_logged.store(false, Ordering::Relaxed);
                        info!("connected to NATS");
                    }
                    Event::Disconnected => {
                        connected.set(0);
                        connection.send_replace(false);
                        watched.set_unready("disconnected");
                        warn!("connection to NATS lost, retrying");
                    }
                    // Each attempt to reconnect raises this event. All are counted, only the first
                    // is logged.
                    Event::ClientError(_) => {
                        errors.inc();
                        if !is_error_logged.swap(true, Ordering::Relaxed) {
                            warn!(event = %event, "NATS client error");
                        }
                    }
                    Event::ServerError(_) | Event::SlowConsumer(_) => {
                        errors.inc();
                        warn!(event = %event, "NATS error");
                    }
                    Event::LameDuckMode | Event::Draining | Event::Closed => {
                        info!(event = %event, "NATS connection changed state");
                    }
                }
                async {}
            });
        let connect = match role {
            Role::Api => connect.subscription_capacity(Self::API_SUBSCRIPTION_CAPACITY),
            _ => connect,
        };
        let client = connect
            .connect(parse_server_urls(options)?)
            .await
            .map_err(|why| Error::InvalidOptions(why.to_string()))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(Self::ACK_TIMEOUT)
            .ack_timeout(Self::ACK_TIMEOUT)
            .max_ack_inflight(Self::MAX_ACKS_OUTSTANDING)
            // Publishes wait for room instead of failing.
            .backpressure_on_inflight(true)
            .build(client.clone());
        let servers = options
            .nats_url
            .split(',')
            .map(|server| strip_credentials(server.trim()))
            .collect::<Vec<_>>()
            .join(", ");
        Ok(Self {
            client,
            jetstream,
            readiness: condition,
            connected: connection_state,
            servers,
            options: options.clone(),
        })
    }

    async fn load_credentials(options: &NatsOptions) -> Result<ConnectOptions, Error> {
        async fn read(option: &'static str, path: &std::path::Path) -> Result<String, Error> {
            tokio::fs::read_to_string(path).await.map_err(|source| Error::UnreadableFile {
                option,
                path: path.display().to_string(),
                source,
            })
        }
        let mut connect = ConnectOptions::new();
        if let Some(path) = &options.nats_creds {
            let creds = read("NATS_CREDS", path).await?;
            connect = connect
                .credentials(&creds)
                .map_err(|why| Error::InvalidOptions(format!("NATS_CREDS: {why}")))?;
        }
        if let Some(path) = &options.nats_nkey {
            let seed = read("NATS_NKEY", path).await?.trim().to_owned();
            // Checked here, because the client would retry with an invalid seed without reporting
            // the cause.
            if nkeys::KeyPair::from_seed(&seed).is_err() {
                return Err(Error::InvalidOptions(format!(
                    "NATS_NKEY: '{}' holds no nkey seed",
                    path.display()
                )));
            }
            connect = connect.nkey(seed);
        }
        if let Some(user) = &options.nats_user {
            connect =
                connect.user_and_password(user.clone(), options.nats_password.clone().unwrap_or_default());
        }
        if let Some(path) = &options.nats_ca {
            // Read here only to name the variable of an unreadable file; the client reads the file
            // itself.
            read("NATS_CA", path).await?;
            connect = connect.add_root_certificates(path.clone()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&options.nats_cert, &options.nats_key) {
            read("NATS_CERT", cert).await?;
            read("NATS_KEY", key).await?;
            connect = connect.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        Ok(connect)
    }

    /// Waits for the first connection, logs the cause of the delay every 5 s, and checks the
    /// server's version.
    ///
    /// # Errors
    /// Fails if the server is too old.
    pub async fn wait_connected(&self) -> Result<(), Error> {
        const LOG_INTERVAL: Duration = Duration::from_secs(5);
        // The first log line follows after one second, because most waits are shorter.
        let mut waited = LOG_INTERVAL - Duration::from_secs(1);
        let info = loop {
            if let Some(info) = self.client.try_server_info()
                && self.client.connection_state() == async_nats::connection::State::Connected
            {
                break info;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            waited += Duration::from_millis(20);
            if waited >= LOG_INTERVAL {
                waited = Duration::ZERO;
                let why = self
                    .diagnose_connection()
                    .await
                    .unwrap_or_else(|| "the server has just answered".to_owned());
                self.readiness.set_unready(why.clone());
                warn!(servers = self.servers, error = why, "waiting for NATS");
            }
        };
        if !self.client.is_server_compatible(2, 12, 0) {
            self.readiness.set_unready(format!("the server is version {}, too old", info.version));
            return Err(Error::ServerTooOld { found: info.version });
        }
        Ok(())
    }

    /// Follows whether the connection to NATS is established.
    pub fn watch_connection(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Returns the reason for a missing connection, or `None` if connecting succeeds. Opens a
    /// second connection for this purpose, because the client does not report the cause.
    pub async fn diagnose_connection(&self) -> Option<String> {
        let trying = async {
            let connect = Self::load_credentials(&self.options).await.map_err(|why| why.to_string())?;
            let servers = parse_server_urls(&self.options).map_err(|why| why.to_string())?;
            let connecting = connect.connection_timeout(Duration::from_secs(2)).connect(servers);
            connecting.await.map(drop).map_err(|why| explain_connect_error(&why.to_string(), &self.options))
        };
        let tried = tokio::time::timeout(Duration::from_secs(4), trying).await;
        tried.unwrap_or_else(|_| Err("no answer".to_owned())).err()
    }

    /// Flushes buffered messages and closes the connection, within `limit`.
    pub async fn flush_and_close(self, limit: Duration) {
        let closing = async {
            // `drain` alone returns before anything is sent.
            let _ = self.client.flush().await;
            let _ = self.client.drain().await;
        };
        if tokio::time::timeout(limit, closing).await.is_err() {
            warn!("could not flush buffered messages to NATS in time");
        }
    }
}

fn parse_server_urls(options: &NatsOptions) -> Result<Vec<async_nats::ServerAddr>, Error> {
    let read = |server: &str| {
        let read = server.trim().parse();
        read.map_err(|why| Error::InvalidOptions(format!("NATS_URL: '{}': {why}", strip_credentials(server))))
    };
    options.nats_url.split(',').map(read).collect()
}

/// Describes a failed connection and names the variable at fault.
fn explain_connect_error(why: &str, options: &NatsOptions) -> String {
    let mentions = |words: &[&str]| words.iter().any(|word| why.contains(word));
    // Matched by text: the texts come from rustls and from the server.
    let blamed = match () {
        () if mentions(&["UnknownIssuer"]) => match &options.nats_ca {
            Some(path) => format!("NATS_CA: '{}' did not sign the server's certificate", path.display()),
            None => {
                "NATS_CA is not set, and no authority trusted by this machine signed the server's certificate"
                    .to_owned()
            }
        },
        () if mentions(&["NotValidForName", "not valid for name"]) => {
            "NATS_URL: the server's certificate is not for this host".to_owned()
        }
        () if mentions(&["CertificateRequired"]) => match &options.nats_cert {
            Some(path) => format!("NATS_CERT: the server rejects '{}'", path.display()),
            None => "NATS_CERT and NATS_KEY are not set, and the server requires a certificate".to_owned(),
        },
        () if mentions(&[
            "BadCertificate",
            "UnknownCA",
            "CertificateUnknown",
            "CertificateExpired",
            "DecryptError",
        ]) =>
        {
            "NATS_CERT: the server rejects this certificate".to_owned()
        }
        () if mentions(&["authorization violation", "signing nonce"]) => {
            "NATS_NKEY (or NATS_CREDS, or NATS_USER with NATS_PASSWORD) is unknown to the server".to_owned()
        }
        () => return why.to_owned(),
    };
    format!("{blamed} ({why})")
}

/// Returns a URL's server without user and password, which must not be logged.
fn strip_credentials(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, server)| server)
}
