//! `picket up` and `picket down`: all services of Picket in one process, with a local NATS and
//! Postgres.

mod notified_url;

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args};
use ipnet::IpNet;
use picket_local::AppliedSites;
use picket_proto::RegionName;
use picket_runtime::{
    options::{LogOptions, NatsOptions},
    process,
};
use picket_store::{DatabaseOptions, Store};

use self::notified_url::NotifiedUrl;
use crate::{
    apply::{self, SITES_FILE},
    connect::{self, DEFAULT_DATA_DIR, DEMO_DATA_DIR, explicit_arg},
    error::Error,
    migrate::DEFAULT_SHARDS,
    output::print_error,
    settings::InitialSettings,
};

/// Options of `picket up`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpOptions {
    /// Regions to run a prober for
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',', default_value = "local", value_parser = connect::parse_region)]
    pub(crate) regions: Vec<RegionName>,
    /// Directory for data, logs and the file `env` [default: .picket; of demo: .picket-demo]
    #[arg(long, env = "PICKET_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Port on 127.0.0.1 for NATS
    #[arg(long, value_name = "PORT", default_value_t = 4222, value_parser = clap::value_parser!(u16).range(1..))]
    nats_port: u16,
    /// Port on 127.0.0.1 for Postgres
    #[arg(long, value_name = "PORT", default_value_t = 5442, value_parser = clap::value_parser!(u16).range(1..))]
    pg_port: u16,
    /// Directory of nats-server and Postgres; `./justw tools` installs them
    #[arg(long, env = "PICKET_TOOLS_DIR", value_name = "DIR", default_value = ".tools")]
    tools_dir: PathBuf,
    /// Do not run a coordinator
    #[arg(long)]
    no_coordinator: bool,
    /// Do not run probers
    #[arg(long)]
    no_probers: bool,
    /// Do not run a sink
    #[arg(long)]
    no_sink: bool,
    /// Do not run a notifier
    #[arg(long)]
    no_notifier: bool,
    /// Tell this URL of every incident: adds a channel and a route of all sites to it. A URL of Slack,
    /// Discord, Teams, Telegram or Google Chat gets a channel of that kind, and is kept in secrets.toml
    /// of the data directory
    #[arg(long, value_name = "URL", conflicts_with = "no_notifier")]
    notify_webhook: Option<String>,
    /// Do not run the API and the web UI
    #[arg(long)]
    no_api: bool,
    /// Do not apply sites.yaml
    #[arg(long)]
    no_apply: bool,
    /// Maximum number of concurrent checks per region, 1 to 100000
    #[arg(long, env = "PICKET_CONCURRENCY", value_name = "N", default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,
    /// Private networks that checks may connect to in addition to loopback, such as 10.0.0.0/8
    #[arg(long, env = "PICKET_ALLOW_ADDRESSES", value_name = "CIDR[,CIDR…]", value_delimiter = ',', value_parser = picket_prober::parse_network)]
    allow_addresses: Vec<IpNet>,
    /// File of root certificates (PEM) to trust in addition to the system's
    #[arg(long, env = "PICKET_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) behaviour: picket_prober::BehaviourOptions,
    #[command(flatten)]
    secrets: picket_prober::SecretsOptions,
    #[command(flatten)]
    delivery: picket_notifier::DeliveryOptions,
    #[command(flatten)]
    api: picket_api::AddressOptions,
    #[command(flatten)]
    pub(crate) settings: InitialSettings,
    #[command(flatten)]
    database: DatabaseOptions,
    #[command(flatten)]
    nats: NatsOptions,
    #[command(flatten)]
    log: LogOptions,
}

/// Options of `picket down`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DownOptions {
    /// Data directory of the `picket up` to stop
    #[arg(long, env = "PICKET_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

impl UpOptions {
    /// The system that the options describe.
    pub(crate) fn to_config(&self, matches: &ArgMatches) -> Result<picket_local::Config, Error> {
        let mut regions = self.regions.clone();
        regions.sort();
        regions.dedup();
        let external = |option| explicit_arg(matches, option).map(str::to_owned);
        let coordinator = picket_coordinator::Config::new(process::unique_name());
        let prober = |region: &RegionName| {
            let mut config = picket_prober::Config::new(region.clone());
            config.concurrency = usize::try_from(self.concurrency).unwrap_or(usize::MAX);
            config.limits.allowed_networks.clone_from(&self.allow_addresses);
            config.limits.ca_file.clone_from(&self.ca_file);
            config.behaviour.clone_from(&self.behaviour);
            config.secrets.clone_from(&self.secrets);
            config
        };
        Ok(picket_local::Config {
            data_dir: self.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)),
            tools_dir: self.tools_dir.clone(),
            shards: DEFAULT_SHARDS,
            nats_port: self.nats_port,
            pg_port: self.pg_port,
            nats_url: external("nats_url"),
            database_url: external("database_url"),
            nats: self.nats.clone(),
            coordinator: (!self.no_coordinator).then_some(coordinator),
            probers: regions.iter().filter(|_| !self.no_probers).map(prober).collect(),
            regions,
            notifier: (!self.no_notifier).then(|| picket_notifier::Config {
                delivery: self.delivery.clone(),
                secrets_file: self.secrets.secrets_file.clone(),
                ..picket_notifier::Config::new()
            }),
            sink: (!self.no_sink).then(picket_sink::Config::default),
            api: (!self.no_api).then(|| picket_api::Config::from(self.api.clone())),
            log: self.log.clone(),
            is_log_filter_given: explicit_arg(matches, "log").is_some(),
        })
    }
}

/// Runs all services until a signal arrives. Returns the exit code.
pub(crate) async fn run_up(options: UpOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let config = options.to_config(matches)?;
    let webhook = options.notify_webhook.as_deref().map(NotifiedUrl::parse).transpose()?;
    if let (Some(webhook), Some(file)) = (&webhook, &options.secrets.secrets_file) {
        webhook.refuse_foreign_file(file)?;
    }
    let data_dir = config.data_dir.clone();
    let secret_note = Cell::new(None);
    let apply = async |store: &Store| {
        let summary = apply_sites(&options, store).await;
        let mut notes = Vec::from_iter(secret_note.take());
        if let Some(webhook) = &webhook {
            notes.extend(webhook.add_channel(store).await?);
        }
        Ok(AppliedSites { summary, notes })
    };
    let apply_settings = async |store: &Store| {
        // Before the notifier starts, so that it knows the secret.
        if let Some(webhook) = &webhook {
            secret_note.set(webhook.write_secret(&data_dir)?);
        }
        options.settings.apply(store).await
    };
    picket_local::run_system(config, apply_settings, apply).await
}

/// Applies `sites.yaml`. A refused file is reported as a warning and does not stop the start.
async fn apply_sites(options: &UpOptions, store: &Store) -> Option<String> {
    let file = Path::new(SITES_FILE);
    if options.no_apply || !file.exists() {
        return None;
    }
    match apply::apply_file(store, file).await {
        Ok(plan) => Some(format!("{SITES_FILE}: {}", plan.summary())),
        Err(why) => {
            print_error(format_args!("WARNING: {SITES_FILE} was not applied: {why}"));
            Some(format!("{SITES_FILE} was NOT applied, see above"))
        }
    }
}

/// Stops a running `up`, or servers left running by a killed one.
pub(crate) async fn run_down(options: DownOptions) -> Result<(), Error> {
    Ok(picket_local::stop_system(&options.data_dir, Path::new(DEMO_DATA_DIR)).await?)
}
