//! Connections to the database and the bus. Addresses come from variables, options, or the file
//! `env` of `picket up`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args, parser::ValueSource};
use picket_proto::{RegionName, Role};
use picket_runtime::{Bus, Health, connect, options::NatsOptions};
use picket_store::{DatabaseOptions, Store};

use crate::error::Error;

/// Default data directory of `picket up`.
pub(crate) const DEFAULT_DATA_DIR: &str = ".picket";
/// Default data directory of `picket demo`. Separate, so that demo sites are not mixed with real
/// ones.
pub(crate) const DEMO_DATA_DIR: &str = ".picket-demo";
/// Default URL of the NATS server of `picket up`.
const DEFAULT_NATS_URL: &str = "nats://127.0.0.1:4222";

/// Data directory of a running `picket up`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Data directory")]
pub(crate) struct DataDirOption {
    /// Data directory of `picket up`, with the addresses in its file `env` [default: .picket, then
    /// .picket-demo]
    #[arg(long, env = "PICKET_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Options for the address of the database.
#[derive(Args, Clone, Debug)]
pub(crate) struct DatabaseArgs {
    #[command(flatten)]
    database: DatabaseOptions,
    #[command(flatten)]
    data_dir: DataDirOption,
}

/// Options for the addresses of the bus.
#[derive(Args, Clone, Debug)]
pub(crate) struct NatsArgs {
    #[command(flatten)]
    nats: NatsOptions,
    #[command(flatten)]
    data_dir: DataDirOption,
}

/// Options for the addresses of database and bus.
#[derive(Args, Clone, Debug)]
pub(crate) struct DatabaseAndNatsArgs {
    #[command(flatten)]
    database: DatabaseOptions,
    #[command(flatten)]
    nats: NatsOptions,
    #[command(flatten)]
    data_dir: DataDirOption,
}

impl DatabaseAndNatsArgs {
    /// Connects to the database, whose schema must be new enough, and to the bus.
    pub(crate) async fn connect(self, matches: &ArgMatches) -> Result<(Store, Bus), Error> {
        let Self { database, nats, data_dir: place } = self;
        let store = DatabaseArgs { database, data_dir: place.clone() }.connect(matches).await?;
        Ok((store, NatsArgs { nats, data_dir: place }.connect(matches).await?))
    }
}

impl DataDirOption {
    /// The data directories of `picket up` and `picket demo`, or the given one.
    fn candidate_dirs(&self) -> Vec<&Path> {
        match &self.data_dir {
            Some(dir) => vec![dir],
            None => vec![Path::new(DEFAULT_DATA_DIR), Path::new(DEMO_DATA_DIR)],
        }
    }

    /// Variables written by the running system of the data directory; empty if there is none.
    fn read_variables(&self) -> BTreeMap<String, String> {
        self.candidate_dirs().into_iter().find_map(read_env_file).unwrap_or_default()
    }

    /// Text for a command that finds neither a data directory nor the address of a database.
    fn describe_absence(&self) -> String {
        let files: Vec<_> =
            self.candidate_dirs().into_iter().map(|dir| dir.join("env").display().to_string()).collect();
        format!(
            "there is no data directory of 'picket up' here (no file {}): run the command where 'picket up' runs, name \
             its directory with --data-dir, or name the database with DATABASE_URL",
            files.join(" or ")
        )
    }
}

/// Variables of the file `env` that `picket up` writes; `None` without the file.
fn read_env_file(dir: &Path) -> Option<BTreeMap<String, String>> {
    Some(dotenvy::from_path_iter(dir.join("env")).ok()?.flatten().collect())
}

/// The value of `option`, unless it is the built-in default or blank.
pub(crate) fn explicit_arg<'a>(matches: &'a ArgMatches, option: &str) -> Option<&'a str> {
    let mut leaf = matches;
    while let Some((_, inner)) = leaf.subcommand() {
        leaf = inner;
    }
    let value = leaf.try_get_one::<String>(option).ok().flatten()?;
    let by_person = leaf.value_source(option) != Some(ValueSource::DefaultValue);
    (by_person && !value.trim().is_empty()).then_some(value)
}

impl DatabaseArgs {
    /// Connects to a database that answers and whose schema is new enough.
    pub(crate) async fn connect(self, matches: &ArgMatches) -> Result<Store, Error> {
        let store = self.connect_unmigrated(matches).await?;
        store.check_schema().await?;
        store.check_session().await?;
        Ok(store)
    }

    /// Same as [`connect`](Self::connect), without the check of the schema.
    pub(crate) async fn connect_unmigrated(self, matches: &ArgMatches) -> Result<Store, Error> {
        let url = explicit_arg(matches, "database_url")
            .map(str::to_owned)
            .or_else(|| self.data_dir.read_variables().remove("DATABASE_URL"))
            .ok_or_else(|| Error::Unreachable(self.data_dir.describe_absence()))?;
        connect_database(&DatabaseOptions { database_url: Some(url) }).await
    }
}

/// Creates the store of a database that accepts TCP connections.
async fn connect_database(options: &DatabaseOptions) -> Result<Store, Error> {
    // The URL is validated before anything connects to it.
    let store = Store::new(options, "picket", 4)?;
    connect::probe_database(options.url()).await?;
    Ok(store)
}

impl NatsArgs {
    /// A bus that is connected.
    pub(crate) async fn connect(mut self, matches: &ArgMatches) -> Result<Bus, Error> {
        if explicit_arg(matches, "nats_url").is_none() {
            if let Some(url) = self.data_dir.read_variables().remove("NATS_URL") {
                self.nats.nats_url = url;
            } else if self.nats.nats_url.trim().is_empty() {
                self.nats.nats_url = DEFAULT_NATS_URL.to_owned();
            }
        }
        Ok(connect::connect_bus(&self.nats, &Role::Operator, "picket", &Health::new()).await?)
    }
}

/// Parses a region name on the command line. The caller handles an empty name where allowed.
pub(crate) fn parse_region(text: &str) -> Result<RegionName, String> {
    text.parse().map_err(|why: picket_proto::ValidationError| format!("allowed: {}", why.expected))
}
