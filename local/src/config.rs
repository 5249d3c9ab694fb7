//! Configuration of a local system.

use std::path::PathBuf;

use picket_proto::RegionName;
use picket_runtime::options::{LogOptions, NatsOptions};

/// Servers and services of a local system.
#[derive(Clone, Debug)]
pub struct Config {
    /// Regions to create.
    pub regions: Vec<RegionName>,
    /// Directory for data, logs and the files with addresses.
    pub data_dir: PathBuf,
    /// Directory of nats-server and Postgres.
    pub tools_dir: PathBuf,
    /// Number of shards of a new database.
    pub shards: u16,
    /// Port on 127.0.0.1 for NATS.
    pub nats_port: u16,
    /// Port on 127.0.0.1 for Postgres.
    pub pg_port: u16,
    /// URL of a NATS server to use in place of a managed one.
    pub nats_url: Option<String>,
    /// URL of a database to use in place of a managed one.
    pub database_url: Option<String>,
    /// Credentials of the NATS server; the URL is ignored.
    pub nats: NatsOptions,
    /// The coordinator, unless none is to run.
    pub coordinator: Option<picket_coordinator::Config>,
    /// The probers.
    pub probers: Vec<picket_prober::Config>,
    /// The sink, unless none is to run.
    pub sink: Option<picket_sink::Config>,
    /// The notifier, unless none is to run.
    pub notifier: Option<picket_notifier::Config>,
    /// The API with the web UI, unless none is to run.
    pub api: Option<picket_api::Config>,
    /// Filter and format of the log.
    pub log: LogOptions,
    /// True if the user gave the log filter, which then applies to the screen too; otherwise the
    /// screen shows warnings.
    pub is_log_filter_given: bool,
}
