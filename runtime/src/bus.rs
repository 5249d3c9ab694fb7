//! The connection to NATS: kept up by itself, watched, and judged old enough at the door.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_nats::{ConnectOptions, Event, jetstream};
use picket_proto::Role;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tracing::{info, warn};

use crate::{Backoff, Health, ReadinessCheck, options::NatsOptions};

/// A connection to NATS, with its JetStream.
#[derive(Clone)]
pub struct Bus {
    /// For core NATS.
    pub client: async_nats::Client,
    /// For streams. A publish waits while too many acknowledgements are outstanding.
    pub jetstream: jetstream::Context,
    readiness: ReadinessCheck,
    servers: String,
    options: NatsOptions,
}

/// Why there is no bus.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options cannot be used.
    #[error("the NATS options cannot be used: {0}")]
    InvalidOptions(String),
    /// A file that the options name.
    #[error("{option}: could not read '{path}'")]
    UnreadableFile {
        /// The option that names it.
        option: &'static str,
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server is older than what Picket is built on.
    #[error("the NATS server is version {found}; Picket needs {needed} or newer", needed = Bus::MIN_SERVER_VERSION)]
    ServerTooOld {
        /// The server's version.
        found: String,
    },
}

impl Bus {
    /// The oldest server that has what Picket stands on.
    pub const MIN_SERVER_VERSION: &str = "2.12.0";
    /// Acknowledgements that one process may have outstanding; far more than any part of it lets be under way,
    /// since a publish that waits for room here waits for ever.
    const MAX_ACKS_OUTSTANDING: usize = 65_536;
    /// How long a publish may wait for the stream's acknowledgement.
    pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
    /// Three of these without an answer end a dead connection. The library's default of a minute left a
    /// partition of 35 s unnoticed.
    const PING_INTERVAL: Duration = Duration::from_secs(5);

    /// Connects in the background, for ever; `name` is what the server's operator sees, and by `role` go the inboxes,
    /// which are what a server with credentials lets this role hear.
    ///
    /// # Errors
    /// When the options make no sense. A server that is away is no error: it is waited for.
    pub async fn connect(
        options: &NatsOptions,
        role: &Role,
        name: &str,
        health: &Health,
    ) -> Result<Self, Error> {
        let condition = health.add_readiness_check("nats");
        let reconnects = Counter::<u64>::default();
        let connected = Gauge::<i64>::default();
        let errors = Counter::<u64>::default();
        {
            let mut registry = health.registry();
            registry.register(
                "nats_connects",
                "Times that a connection to NATS was made",
                reconnects.clone(),
            );
            registry.register("nats_connected", "Whether there is a connection to NATS", connected.clone());
            registry.register("nats_errors", "Errors that the NATS server or client told of", errors.clone());
        }
        let watched = condition.clone();
        let told = AtomicBool::new(false);
        let connect = Self::load_credentials(options)
            .await?
            .name(name)
            .custom_inbox_prefix(role.inbox_prefix())
            .retry_on_initial_connect()
            .max_reconnects(None)
            .ping_interval(Self::PING_INTERVAL)
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(Duration::from_secs(5)))
            .reconnect_delay_callback(|tries| {
                let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(4));
                (0..tries.min(10)).fold(Duration::ZERO, |_, _| backoff.next_delay())
            })
            .event_callback(move |event| {
                match &event {
                    Event::Connected => {
                        reconnects.inc();
                        connected.set(1);
                        watched.set_ready();
                        told.store(false, Ordering::Relaxed);
                        info!("connected to NATS");
                    }
                    Event::Disconnected => {
                        connected.set(0);
                        watched.set_unready("disconnected");
                        warn!("lost the connection to NATS, trying again");
                    }
                    // One for each try to reconnect: all are counted, the first is told.
                    Event::ClientError(_) => {
                        errors.inc();
                        if !told.swap(true, Ordering::Relaxed) {
                            warn!(event = %event, "NATS: {event}");
                        }
                    }
                    Event::ServerError(_) | Event::SlowConsumer(_) => {
                        errors.inc();
                        warn!(event = %event, "NATS: {event}");
                    }
                    Event::LameDuckMode | Event::Draining | Event::Closed => {
                        info!(event = %event, "NATS: {event}");
                    }
                }
                async {}
            });
        let client = connect
            .connect(parse_server_urls(options)?)
            .await
            .map_err(|why| Error::InvalidOptions(why.to_string()))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(Self::ACK_TIMEOUT)
            .ack_timeout(Self::ACK_TIMEOUT)
            .max_ack_inflight(Self::MAX_ACKS_OUTSTANDING)
            .backpressure_on_inflight(true)
            .build(client.clone());
        let servers = options
            .nats_url
            .split(',')
            .map(|server| strip_credentials(server.trim()))
            .collect::<Vec<_>>()
            .join(", ");
        Ok(Self { client, jetstream, readiness: condition, servers, options: options.clone() })
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
            // Judged here: the client would try a wrong one again and again, and not say why.
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

    /// Waits for the first connection, saying so now and then, and judges the server's version.
    ///
    /// # Errors
    /// When the server is too old.
    pub async fn wait_connected(&self) -> Result<(), Error> {
        const SAY_SO: Duration = Duration::from_secs(5);
        // Said for the first time after a second: most waits are shorter.
        let mut waited = SAY_SO - Duration::from_secs(1);
        let info = loop {
            if let Some(info) = self.client.try_server_info()
                && self.client.connection_state() == async_nats::connection::State::Connected
            {
                break info;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            waited += Duration::from_millis(20);
            if waited >= SAY_SO {
                waited = Duration::ZERO;
                let why =
                    self.diagnose_connection().await.unwrap_or_else(|| "it has just answered".to_owned());
                self.readiness.set_unready(why.clone());
                warn!(servers = self.servers, "waiting for NATS at {}: {why}", self.servers);
            }
        };
        if !self.client.is_server_compatible(2, 12, 0) {
            self.readiness.set_unready(format!("the server is version {}, too old", info.version));
            return Err(Error::ServerTooOld { found: info.version });
        }
        Ok(())
    }

    /// Why there is no connection, by trying once more beside the client, which keeps that to itself; `None` if there is one.
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

    /// Writes out what is buffered and closes the connection, within `limit`.
    pub async fn flush_and_close(self, limit: Duration) {
        let closing = async {
            // `drain` alone returns before anything is sent.
            let _ = self.client.flush().await;
            let _ = self.client.drain().await;
        };
        if tokio::time::timeout(limit, closing).await.is_err() {
            warn!("NATS did not take what was left in time");
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

/// Why a server was not to be had, with the variable that is to blame.
fn explain_connect_error(why: &str, options: &NatsOptions) -> String {
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    let blamed = match () {
        () if says(&["UnknownIssuer"]) => match &options.nats_ca {
            Some(path) => format!("NATS_CA: '{}' did not sign the server's certificate", path.display()),
            None => "NATS_CA is not set, and nobody whom this machine trusts signed the server's certificate"
                .to_owned(),
        },
        () if says(&["NotValidForName", "not valid for name"]) => {
            "NATS_URL: the server's certificate is not for this host".to_owned()
        }
        () if says(&["CertificateRequired"]) => match &options.nats_cert {
            Some(path) => format!("NATS_CERT: the server does not take '{}'", path.display()),
            None => "NATS_CERT and NATS_KEY are not set, and the server asks for a certificate".to_owned(),
        },
        () if says(&[
            "BadCertificate",
            "UnknownCA",
            "CertificateUnknown",
            "CertificateExpired",
            "DecryptError",
        ]) =>
        {
            "NATS_CERT: the server does not take this certificate".to_owned()
        }
        () if says(&["authorization violation", "signing nonce"]) => {
            "NATS_NKEY (or NATS_CREDS, or NATS_USER with NATS_PASSWORD) is none that the server knows"
                .to_owned()
        }
        () => return why.to_owned(),
    };
    format!("{blamed} ({why})")
}

/// The server of a URL without its user and password, which belong in no log.
fn strip_credentials(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, server)| server)
}
