//! Options of the notifier.

use std::path::PathBuf;

use clap::{Args, Parser};
use ipnet::IpNet;
use picket_runtime::options::{DurationArg, ListenOptions, LogOptions, NatsOptions};
use picket_store::DatabaseOptions;

/// Tells people and programs of incidents; any number of notifiers share the work
#[derive(Parser, Clone, Debug)]
#[command(name = "picket-notifier", version)]
pub struct Options {
    /// Maximum number of messages that are delivered at the same time, 1 to 256
    #[arg(long, env = "PICKET_NOTIFY_CONCURRENCY", default_value_t = 16, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Maximum time for attempts in progress at shutdown
    #[arg(long, env = "PICKET_DRAIN_TIMEOUT", default_value = "20s", value_name = "DURATION")]
    pub drain_timeout: DurationArg,
    /// How messages leave.
    #[command(flatten)]
    pub delivery: DeliveryOptions,
    /// TOML file that maps the names of secrets to values and to hosts, with mode 0600; reloaded
    /// when it changes [default: the systemd credential picket-secrets.toml, if there is one]
    #[arg(long, env = "PICKET_SECRETS_FILE", value_name = "FILE")]
    pub secrets_file: Option<PathBuf>,
    /// NATS connection.
    #[command(flatten)]
    pub nats: NatsOptions,
    /// Database connection.
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// Logging.
    #[command(flatten)]
    pub log: LogOptions,
    /// Listen address of health and metrics.
    #[command(flatten)]
    pub listen: ListenOptions,
}

/// How messages leave a notifier.
#[derive(Args, Clone, Debug, Default)]
pub struct DeliveryOptions {
    /// Private networks that messages may be sent to, such as 10.0.0.0/8; public addresses are always allowed
    #[arg(long, env = "PICKET_NOTIFY_ALLOW_ADDRESSES", value_name = "CIDR[,CIDR…]", value_delimiter = ',')]
    pub notify_allow_addresses: Vec<IpNet>,
    /// File of root certificates (PEM) to trust in addition to the system's
    #[arg(long, env = "PICKET_NOTIFY_CA_FILE", value_name = "FILE")]
    pub notify_ca_file: Option<PathBuf>,
    /// Allow channels of kind exec, which run programs on this machine
    #[arg(long, env = "PICKET_NOTIFY_ALLOW_EXEC")]
    pub allow_exec: bool,
}
