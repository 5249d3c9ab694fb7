//! Options shared by several processes. Each has an environment variable; the NATS options are
//! named as in the `nats` command.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
pub use picket_proto::{byte_size::ByteSize, duration::DurationArg};

/// Connection to the NATS servers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "NATS")]
pub struct NatsOptions {
    /// NATS servers, separated by commas; tried in turn
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL[,URL…]",
        hide_env_values = true
    )]
    pub nats_url: String,
    /// Credentials file (JWT and seed)
    #[arg(long, env = "NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// File with an nkey seed
    #[arg(long, env = "NATS_NKEY", value_name = "FILE")]
    pub nats_nkey: Option<PathBuf>,
    /// User name, for authentication with a password
    #[arg(long, env = "NATS_USER", value_name = "NAME")]
    pub nats_user: Option<String>,
    /// Password of the user; prefer the variable, since other users can see a command line
    #[arg(long, env = "NATS_PASSWORD", value_name = "TEXT", hide_env_values = true, requires = "nats_user")]
    pub nats_password: Option<String>,
    /// File with the CA certificates that sign the servers' certificates
    #[arg(long, env = "NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Client certificate, if the servers require one
    #[arg(long, env = "NATS_CERT", value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, env = "NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
}

impl NatsOptions {
    /// Servers at `url`, without credentials.
    pub fn with_url(url: impl Into<String>) -> Self {
        Self {
            nats_url: url.into(),
            nats_creds: None,
            nats_nkey: None,
            nats_user: None,
            nats_password: None,
            nats_ca: None,
            nats_cert: None,
            nats_key: None,
        }
    }
}

/// Filter and format of the log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and health")]
pub struct LogOptions {
    /// Log filter in the syntax of RUST_LOG, such as `info,picket_prober=debug`
    #[arg(long, env = "PICKET_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Log format: `pretty` for people, `json` for programs [default: pretty on a terminal, else
    /// json]
    #[arg(long, env = "PICKET_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// A JSON object per line.
    Json,
}

/// Listen address of health and metrics, and the probe of a running process.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and health")]
pub struct ListenOptions {
    /// Address to serve /healthz, /readyz and /metrics on, such as 127.0.0.1:9100 [default: none]
    #[arg(long, env = "PICKET_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Check the readiness of the process that serves at --listen, and exit: 0 ready, 1 not ready,
    /// 3 no answer. Prints the response. A health check for containers, which have no curl
    #[arg(long, requires = "listen")]
    pub healthcheck: bool,
}
