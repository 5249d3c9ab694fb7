//! `picket up` and `picket down`: all of Picket on this machine, in one process beside its NATS and Postgres.

mod banner;
mod log;
mod servers;
mod services;

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use clap::{ArgMatches, Args};
use ipnet::IpNet;
use picket_coordinator::options::RetentionOptions;
use picket_proto::{RegionName, ValidationError};
use picket_runtime::{
    options::{DurationArg, LogFormat, LogOptions, NatsOptions},
    process::{self, EXIT_SOFTWARE},
    telemetry,
};
use picket_servers::{DataDir, Nats, Postgres};
use picket_store::{DatabaseOptions, Store, regions};
use rustix::process::{Pid, Signal, kill_process};

use self::{servers::Servers, services::Services};
use crate::{
    apply::{self, SITES_FILE},
    connect::{self, explicit_arg, parse_host_port},
    demo::Demo,
    env_file,
    error::Error,
    migrate::{self, DEFAULT_SHARDS},
    output::{print_error, print_line},
    service_file,
    site_args::IntervalOptions,
};

/// Where `up` keeps its data unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = ".picket";
/// Where the NATS of `up` listens unless told otherwise.
pub(crate) const DEFAULT_NATS_URL: &str = "nats://127.0.0.1:4222";

/// See `picket up --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpOptions {
    /// The regions to run a prober for
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',', default_value = "local", value_parser = connect::parse_region)]
    pub(crate) regions: Vec<RegionName>,
    /// Where data, logs and the file `env` are kept [default: .picket; of demo: .picket-demo]
    #[arg(long, env = "PICKET_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The port of 127.0.0.1 that NATS listens on
    #[arg(long, value_name = "PORT", default_value_t = 4222, value_parser = clap::value_parser!(u16).range(1..))]
    nats_port: u16,
    /// The port of 127.0.0.1 that Postgres listens on
    #[arg(long, value_name = "PORT", default_value_t = 5442, value_parser = clap::value_parser!(u16).range(1..))]
    pg_port: u16,
    /// Where nats-server and Postgres are; `./justw tools` installs them
    #[arg(long, env = "PICKET_TOOLS_DIR", value_name = "DIR", default_value = ".tools")]
    tools_dir: PathBuf,
    /// Run no coordinator here
    #[arg(long)]
    no_coordinator: bool,
    /// Run no probers here
    #[arg(long)]
    no_probers: bool,
    /// Run no sink here
    #[arg(long)]
    no_sink: bool,
    /// Do not apply sites.yaml
    #[arg(long)]
    no_apply: bool,
    /// The most checks under way at once in each region
    #[arg(long, env = "PICKET_CONCURRENCY", value_name = "N", default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,
    /// Private addresses that checks may connect to, beside loopback, such as 10.0.0.0/8
    #[arg(long, env = "PICKET_ALLOW_ADDRESSES", value_name = "CIDR[,CIDR…]", value_delimiter = ',', value_parser = parse_network)]
    allow_addresses: Vec<IpNet>,
    /// A file of root certificates (PEM) to trust beside the system's
    #[arg(long, env = "PICKET_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) behaviour: picket_prober::BehaviourOptions,
    /// How long a shard stays leased without being renewed
    #[arg(long, env = "PICKET_LEASE_TIME", value_name = "TIME", default_value = "15s", 
        value_parser = picket_coordinator::options::parse_lease_time)]
    lease_time: DurationArg,
    /// How long after a tick its ledger is closed: what has no row by then is written down as missed
    #[arg(long, env = "PICKET_LEDGER_GRACE", value_name = "TIME", default_value = "150s",
        value_parser = picket_coordinator::options::parse_ledger_grace)]
    ledger_grace: DurationArg,
    /// For how long jobs may wait for others, so as to be published together: the most that it makes a check late
    #[arg(long, env = "PICKET_GATHER", value_name = "TIME", default_value = "250ms",
        value_parser = picket_coordinator::options::parse_batch_delay)]
    gather: DurationArg,
    #[command(flatten)]
    retention: RetentionOptions,
    #[command(flatten)]
    pub(crate) intervals: IntervalOptions,
    #[command(flatten)]
    database: DatabaseOptions,
    #[command(flatten)]
    nats: NatsOptions,
    #[command(flatten)]
    log: LogOptions,
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).map_err(|_| {
        "allowed: an address or a network, such as 192.168.1.7 or 10.0.0.0/8 or fd00::/8".to_owned()
    })
}

/// See `picket down --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DownOptions {
    /// Where the data of the `picket up` to stop are
    #[arg(long, env = "PICKET_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

type ShutdownSignal = Pin<Box<dyn Future<Output = &'static str>>>;

/// The next SIGTERM, SIGINT or SIGHUP.
fn next_shutdown_signal() -> ShutdownSignal {
    Box::pin(async {
        let mut hangup = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(_) => return process::shutdown_signal().await.unwrap_or("none"),
        };
        tokio::select! {
            signal = process::shutdown_signal() => signal.unwrap_or("none"),
            // The terminal was closed.
            _ = hangup.recv() => "SIGHUP",
        }
    })
}

/// Runs all until a signal; with `demo`, its target and its sites too.
pub(crate) async fn run_up(
    mut options: UpOptions,
    matches: &ArgMatches,
    demo: Option<Demo>,
) -> Result<u8, Error> {
    options.regions.sort();
    options.regions.dedup();
    let dir = options.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    let data = DataDir::lock(&dir)?;
    log::init_logging(&options.log, explicit_arg(matches, "log").is_some(), data.path())?;
    write_gitignore(data.path());
    let mut servers = resolve_servers(&options, matches, &data).await?;
    let mut system = RunningSystem::default();
    let mut stop = next_shutdown_signal();

    let started = tokio::select! {
        started = start_system(&options, &dir, &mut servers, &mut system, demo.as_ref()) => started.map(Some),
        signal = &mut stop => {
            print_line(format_args!("stopped by {signal} before all was up"));
            Ok(None)
        }
    };
    let ended = match started {
        Ok(Some(())) => watch_system(&mut stop, &mut servers, &mut system).await,
        Ok(None) => Ok(0),
        Err(error) => Err(error),
    };
    remove_connection_files(data.path());
    let mut again = next_shutdown_signal();
    tokio::select! {
        () = stop_system(&mut servers, &mut system) => ended,
        signal = &mut again => {
            servers.kill().await;
            print_error(format_args!("{signal} again: killed what had not stopped"));
            Ok(EXIT_KILLED)
        }
    }
}

/// As a shell says that a second Ctrl-C ended something.
const EXIT_KILLED: u8 = 130;

#[derive(Default)]
struct RunningSystem {
    services: Services,
    store: Option<Store>,
}

/// Removes the files that say how to reach what no longer runs.
fn remove_connection_files(dir: &Path) {
    let _ = std::fs::remove_file(env_file::env_path(dir));
    let _ = std::fs::remove_file(service_file::service_path(dir));
}

/// Keeps what is here out of other people's repositories: there is a password in it.
fn write_gitignore(dir: &Path) {
    let file = dir.join(".gitignore");
    if !file.exists() {
        // As nobody else has created it, nor a link in its place.
        let created = std::fs::File::create_new(file);
        let _ = created.and_then(|mut file| std::io::Write::write_all(&mut file, b"*\n"));
    }
}

/// The servers that are to be run here: those that nobody else runs for us.
async fn resolve_servers(
    options: &UpOptions,
    matches: &ArgMatches,
    data: &DataDir,
) -> Result<Servers, Error> {
    if options.nats_port == options.pg_port {
        return Err(
            ValidationError::new("--pg-port", options.pg_port, "another port than --nats-port").into()
        );
    }
    let nats_url = external_url(explicit_arg(matches, "nats_url"), 4222, options.nats_port).await;
    let database_url = external_url(explicit_arg(matches, "database_url"), 5432, options.pg_port).await;
    Ok(Servers::new(options, data, nats_url, database_url))
}

/// The server that a variable names, unless it is the one of an earlier `up`, left over in this shell's
/// environment: on our own port, where nobody listens now.
async fn external_url(url: Option<&str>, default_port: u16, own_port: u16) -> Option<String> {
    let url = url?;
    let own = parse_host_port(url, default_port).is_some_and(|(host, port)| {
        port == own_port && ["127.0.0.1", "localhost", "::1"].contains(&host.as_str())
    });
    match own && tokio::net::TcpStream::connect(("127.0.0.1", own_port)).await.is_err() {
        true => None,
        false => Some(url.to_owned()),
    }
}

async fn start_system(
    options: &UpOptions,
    dir: &Path,
    servers: &mut Servers,
    system: &mut RunningSystem,
    demo: Option<&Demo>,
) -> Result<(), Error> {
    servers.start().await?;
    let nats = NatsOptions { nats_url: servers.nats_url(), ..options.nats.clone() };
    let database = DatabaseOptions { database_url: Some(servers.database_url()) };
    let store = connect::connect_database(&database).await?;
    system.store = Some(store.clone());
    migrate::migrate_database(&store, DEFAULT_SHARDS).await?;
    for region in &options.regions {
        regions::add_region(&store, region).await?;
    }
    services::start_services(options, &nats, &database, &mut system.services).await?;
    let sites = match demo {
        Some(demo) => Some(demo.apply_sites(&store, options.intervals.to_interval_range()?).await?),
        None => apply_sites(options, &store).await,
    };
    let variables = [("DATABASE_URL", servers.database_url()), ("NATS_URL", servers.nats_url())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    // A URL that libpq does not know is no reason not to start; the command that is shown then says nothing of it.
    if let Err(why) = service_file::write_service(dir, &servers.database_url()) {
        print_error(format_args!("could not write {}: {why}", service_file::service_path(dir).display()));
    }
    env_file::write_env(dir, &variables).map_err(|why| {
        Error::Usage(format!("could not write {}: {why}", env_file::env_path(dir).display()))
    })?;
    banner::print_banner(options, dir, servers, &store, sites.as_deref()).await?;
    if let Some(demo) = demo {
        demo.print_sites();
    }
    Ok(())
}

/// Applies `sites.yaml`; what cannot be applied is said loudly and stops nothing.
async fn apply_sites(options: &UpOptions, store: &Store) -> Option<String> {
    let file = Path::new(SITES_FILE);
    if options.no_apply || !file.exists() {
        return None;
    }
    let applied = match options.intervals.to_interval_range() {
        Ok(intervals) => apply::apply_file(store, file, intervals).await,
        Err(why) => Err(why.into()),
    };
    match applied {
        Ok(plan) => Some(format!("{SITES_FILE}: {}", plan.summary())),
        Err(why) => {
            print_error(format_args!("WARNING: {SITES_FILE} was not applied: {why}"));
            Some(format!("{SITES_FILE} was NOT applied, see above"))
        }
    }
}

/// Until a signal, or until something fails for good; a server that dies is started again.
async fn watch_system(
    stop: &mut ShutdownSignal,
    servers: &mut Servers,
    system: &mut RunningSystem,
) -> Result<u8, Error> {
    loop {
        tokio::select! {
            signal = &mut *stop => {
                print_line(format_args!("\n{signal}: stopping; once more kills at once"));
                return Ok(0);
            }
            name = system.services.wait_for_failure() => {
                print_error(format_args!("{name} failed again and again and gave up; the logs say why"));
                return Ok(EXIT_SOFTWARE);
            }
            died = servers.wait_for_exit() => {
                tokio::select! {
                    revived = servers.restart_server(died) => revived?,
                    signal = &mut *stop => {
                        print_line(format_args!("\n{signal}: stopping; once more kills at once"));
                        return Ok(0);
                    }
                }
            }
        }
    }
}

/// Stops all in order, the servers last, since the others write to them until they end.
async fn stop_system(servers: &mut Servers, system: &mut RunningSystem) {
    std::mem::take(&mut system.services).drain_in_order().await;
    if let Some(store) = system.store.take() {
        store.close().await;
    }
    servers.stop().await;
}

/// What to type to stop a demo that runs beside the directory in question.
fn running_demo_hint(dir: &Path) -> String {
    let demo = Path::new(crate::demo::DEMO_DATA_DIR);
    match DataDir::holder_pid(demo) {
        Ok(Some(_)) if dir != demo => format!("; a demo does: picket down --data-dir {}", demo.display()),
        _ => String::new(),
    }
}

/// Stops a running `up`, or what a killed one left behind.
pub(crate) async fn run_down(options: DownOptions) -> Result<(), Error> {
    // A drain may take as long as its parts' limits.
    const LIMIT: Duration = Duration::from_secs(90);
    let dir = options.data_dir;
    let _ =
        telemetry::init_logging(&LogOptions { log: "warn".to_owned(), log_format: Some(LogFormat::Pretty) });
    if !dir.exists() {
        print_line(format_args!("nothing runs: there is no {}{}", dir.display(), running_demo_hint(&dir)));
        return Ok(());
    }
    let holder = DataDir::holder_pid(&dir)?;
    let Some(pid) = holder else {
        let data = DataDir::lock(&dir)?;
        Nats::stop_orphan(&data).await?;
        Postgres::stop_orphan(&data).await?;
        remove_connection_files(&dir);
        print_line(format_args!("nothing runs in {}{}", dir.display(), running_demo_hint(&dir)));
        return Ok(());
    };
    let signalled = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| {
            Error::Failed(format!("process {pid}, which has {}, cannot be signalled", dir.display()))
        })
        .and_then(|process| {
            kill_process(process, Signal::TERM).map_err(|why| {
                Error::Unreachable(format!(
                    "could not stop process {pid}, which has {}: {why}",
                    dir.display()
                ))
            })
        });
    signalled?;
    print_line(format_args!("stopping process {pid} and its servers"));
    let gone = async {
        while DataDir::holder_pid(&dir)? == Some(pid) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, Error>(())
    };
    match tokio::time::timeout(LIMIT, gone).await {
        Ok(gone) => gone?,
        Err(_) => {
            return Err(Error::Unreachable(format!(
                "process {pid} has not stopped within {} s; kill it (kill -9 {pid}), then run 'picket down' again",
                LIMIT.as_secs()
            )));
        }
    }
    print_line("stopped");
    Ok(())
}
