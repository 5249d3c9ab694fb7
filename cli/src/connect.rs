//! Connections to the database and the bus. Addresses come from variables, options, or the file
//! `env` of `picket up`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgMatches, Args, parser::ValueSource};
use picket_proto::{RegionName, Role};
use picket_runtime::{Bus, Health, options::NatsOptions};
use picket_store::{DatabaseOptions, Store};
use tokio::{net::TcpStream, time::timeout};

use crate::{env_file, error::Error};

/// Time for a server to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a first attempt, enough for a server to admit the client. The reason for a refusal is
/// queried afterwards.
const FIRST_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

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
            None => vec![Path::new(crate::up::DEFAULT_DATA_DIR), Path::new(crate::demo::DEMO_DATA_DIR)],
        }
    }

    /// Variables written by the running system of the data directory; empty if there is none.
    fn read_variables(&self) -> BTreeMap<String, String> {
        self.candidate_dirs().into_iter().find_map(|dir| env_file::read_env(dir).ok()).unwrap_or_default()
    }
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
            .or_else(|| self.data_dir.read_variables().remove("DATABASE_URL"));
        let options = DatabaseOptions { database_url: url };
        connect_database(&options).await
    }
}

/// Creates the store of a database that accepts TCP connections.
pub(crate) async fn connect_database(options: &DatabaseOptions) -> Result<Store, Error> {
    // The URL is validated before anything connects to it.
    let store = Store::new(options, "picket", 4)?;
    if let Some((host, port)) = parse_host_port(options.url(), 5432) {
        probe_tcp(&host, port).await.map_err(|why| {
            Error::Unreachable(format!(
                "could not reach Postgres at {host}:{port}: {why}; is 'picket up' running? set DATABASE_URL, or run: \
                 set -a; . .picket/env"
            ))
        })?;
    }
    Ok(store)
}

impl NatsArgs {
    /// A bus that is connected.
    pub(crate) async fn connect(mut self, matches: &ArgMatches) -> Result<Bus, Error> {
        if explicit_arg(matches, "nats_url").is_none() {
            if let Some(url) = self.data_dir.read_variables().remove("NATS_URL") {
                self.nats.nats_url = url;
            } else if self.nats.nats_url.trim().is_empty() {
                self.nats.nats_url = crate::up::DEFAULT_NATS_URL.to_owned();
            }
        }
        connect_bus(&self.nats, &Role::Operator, "picket", &Health::new()).await
    }
}

/// Connects to the bus, or fails soon. A process would wait for the bus, but an operator does not
/// want to.
pub(crate) async fn connect_bus(
    options: &NatsOptions,
    role: &Role,
    name: &str,
    health: &Health,
) -> Result<Bus, Error> {
    let hint = "is 'picket up' running? set NATS_URL, or run: set -a; . .picket/env";
    let mut refusals = Vec::new();
    // A plain TCP connection gives a clear error at once, where the NATS client would retry.
    let servers: Vec<_> = options.nats_url.split(',').map(str::trim).collect();
    for server in &servers {
        let Some((host, port)) = parse_host_port(server, 4222) else {
            continue;
        };
        if let Err(why) = probe_tcp(&host, port).await {
            refusals.push(format!("{host}:{port}: {why}"));
        }
    }
    if refusals.len() == servers.len() {
        let at = refusals.join(", ");
        return Err(Error::Unreachable(format!("could not reach NATS at {at}; {hint}")));
    }
    let bus = Bus::connect(options, role, name, health).await?;
    for limit in [FIRST_ATTEMPT_TIMEOUT, CONNECT_TIMEOUT] {
        if let Ok(connected) = timeout(limit, bus.wait_connected()).await {
            connected?;
            return Ok(bus);
        }
        if let Some(why) = bus.diagnose_connection().await {
            return Err(Error::Unreachable(format!("NATS refused the connection: {why}")));
        }
    }
    Err(Error::Unreachable("the connection to NATS is unstable; try again".to_owned()))
}

/// Host and port of a server's URL, if the server is reached over TCP. A bare `host:port` is
/// accepted.
pub(crate) fn parse_host_port(url: &str, default_port: u16) -> Option<(String, u16)> {
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => format!("nats://{url}"),
    };
    let url = url::Url::parse(&url).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty() && !host.contains('%'))?;
    // These parameters override the host of the URL, often with a socket directory.
    let by_parameter = url.query_pairs().any(|(name, _)| name == "host" || name == "hostaddr");
    (!by_parameter).then(|| {
        let host = host.trim_matches(['[', ']']).to_owned();
        (host, url.port().unwrap_or(default_port))
    })
}

async fn probe_tcp(host: &str, port: u16) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(why)) => Err(match why.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => why.to_string(),
        }),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

/// Parses a region name on the command line. The caller handles an empty name where allowed.
pub(crate) fn parse_region(text: &str) -> Result<RegionName, String> {
    text.parse().map_err(|why: picket_proto::ValidationError| format!("allowed: {}", why.expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_a_url_is_found_however_it_is_written() {
        let found = |url| parse_host_port(url, 5432).map(|(host, port)| format!("{host} {port}"));

        assert_eq!(found("postgres://me:p%40ss@db.example/picket").unwrap(), "db.example 5432");
        assert_eq!(found("postgres://me@[::1]:7777/picket").unwrap(), "::1 7777");
        assert_eq!(found("127.0.0.1:4222").unwrap(), "127.0.0.1 4222");
        assert_eq!(found("postgres:///picket?host=/run/postgresql"), None);
        assert_eq!(found("postgres://%2Frun%2Fpostgresql/picket"), None);
    }
}
