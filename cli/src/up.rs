//! `picket up` and `picket down`: all services of Picket in one process, with a local NATS and
//! Postgres.

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
use picket_proto::{RegionName, ValidationError};
use picket_runtime::{
    options::{LogFormat, LogOptions, NatsOptions},
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
    settings::InitialSettings,
};

/// Default data directory of `up`.
pub(crate) const DEFAULT_DATA_DIR: &str = ".picket";
/// Default URL of the NATS server of `up`.
pub(crate) const DEFAULT_NATS_URL: &str = "nats://127.0.0.1:4222";

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
    /// Do not apply sites.yaml
    #[arg(long)]
    no_apply: bool,
    /// Maximum number of concurrent checks per region, 1 to 100000
    #[arg(long, env = "PICKET_CONCURRENCY", value_name = "N", default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,
    /// Private networks that checks may connect to in addition to loopback, such as 10.0.0.0/8
    #[arg(long, env = "PICKET_ALLOW_ADDRESSES", value_name = "CIDR[,CIDR…]", value_delimiter = ',', value_parser = parse_network)]
    allow_addresses: Vec<IpNet>,
    /// File of root certificates (PEM) to trust in addition to the system's
    #[arg(long, env = "PICKET_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) behaviour: picket_prober::BehaviourOptions,
    #[command(flatten)]
    settings: InitialSettings,
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

/// Options of `picket down`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DownOptions {
    /// Data directory of the `picket up` to stop
    #[arg(long, env = "PICKET_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

type ShutdownSignal = Pin<Box<dyn Future<Output = &'static str>>>;

/// Completes at the next SIGTERM, SIGINT or SIGHUP, with the name of the signal.
fn next_shutdown_signal() -> ShutdownSignal {
    Box::pin(async {
        let mut hangup = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(_) => return process::shutdown_signal().await.unwrap_or("none"),
        };
        tokio::select! {
            signal = process::shutdown_signal() => signal.unwrap_or("none"),
            // SIGHUP: the terminal was closed.
            _ = hangup.recv() => "SIGHUP",
        }
    })
}

/// Runs all services until a signal arrives. With `demo`, also applies its sites.
pub(crate) async fn run_up(
    mut options: UpOptions,
    matches: &ArgMatches,
    demo: Option<Demo>,
) -> Result<u8, Error> {
    options.regions.sort();
    options.regions.dedup();
    let dir = options.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    let data = DataDir::lock(&dir)?;
    // The log file is in the data directory, so logging starts after the lock.
    log::init_logging(&options.log, explicit_arg(matches, "log").is_some(), data.path())?;
    write_gitignore(data.path());
    let mut servers = resolve_servers(&options, matches, &data).await?;
    let mut system = RunningSystem::default();
    let mut stop = next_shutdown_signal();

    let started = tokio::select! {
        started = start_system(&options, &dir, &mut servers, &mut system, demo.as_ref()) => started.map(Some),
        signal = &mut stop => {
            print_line(format_args!("stopped by {signal} during startup"));
            Ok(None)
        }
    };
    let ended = match started {
        Ok(Some(())) => watch_system(&mut stop, &mut servers, &mut system).await,
        Ok(None) => Ok(0),
        Err(error) => Err(error),
    };
    // Removed before the servers stop, so that no command connects to a stopping system.
    remove_connection_files(data.path());
    let mut again = next_shutdown_signal();
    tokio::select! {
        () = stop_system(&mut servers, &mut system) => ended,
        signal = &mut again => {
            servers.kill().await;
            print_error(format_args!("second {signal}: killed the remaining servers"));
            Ok(EXIT_KILLED)
        }
    }
}

/// Exit code after a second signal, the same as a shell reports for a process ended by Ctrl-C.
const EXIT_KILLED: u8 = 130;

#[derive(Default)]
struct RunningSystem {
    services: Services,
    store: Option<Store>,
}

/// Removes the files with the addresses of stopped servers.
fn remove_connection_files(dir: &Path) {
    let _ = std::fs::remove_file(env_file::env_path(dir));
    let _ = std::fs::remove_file(service_file::service_path(dir));
}

/// Excludes the directory from version control, because it contains a password.
fn write_gitignore(dir: &Path) {
    let file = dir.join(".gitignore");
    if !file.exists() {
        // `create_new` never follows a link and never overwrites a file of another process.
        let created = std::fs::File::create_new(file);
        let _ = created.and_then(|mut file| std::io::Write::write_all(&mut file, b"*\n"));
    }
}

/// The servers to run here. A server named by a variable is not started.
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

/// The server named by a variable. A local URL with our own port on which no server listens is a
/// leftover of an earlier `up` in the shell's environment, and is ignored.
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
    // Kept for the drain even if a later step fails.
    system.store = Some(store.clone());
    migrate::migrate_database(&store, DEFAULT_SHARDS).await?;
    for change in options.settings.apply(&store).await? {
        print_line(format_args!("setting {change}"));
    }
    for region in &options.regions {
        regions::add_region(&store, region).await?;
    }
    services::start_services(options, &nats, &database, &mut system.services).await?;
    let sites = match demo {
        Some(demo) => Some(demo.apply_sites(&store).await?),
        None => apply_sites(options, &store).await,
    };
    let variables = [("DATABASE_URL", servers.database_url()), ("NATS_URL", servers.nats_url())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    // Some valid URLs cannot be expressed for libpq. Without the file, only the psql command is
    // omitted from the banner.
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

/// Waits for a signal or a permanent failure. Restarts a server that ends by itself.
async fn watch_system(
    stop: &mut ShutdownSignal,
    servers: &mut Servers,
    system: &mut RunningSystem,
) -> Result<u8, Error> {
    loop {
        tokio::select! {
            signal = &mut *stop => {
                print_line(format_args!("\n{signal}: stopping; a second signal kills at once"));
                return Ok(0);
            }
            name = system.services.wait_for_failure() => {
                print_error(format_args!("{name} failed repeatedly and gave up; see the logs"));
                return Ok(EXIT_SOFTWARE);
            }
            died = servers.wait_for_exit() => {
                tokio::select! {
                    restarted = servers.restart_server(died) => restarted?,
                    signal = &mut *stop => {
                        print_line(format_args!("\n{signal}: stopping; a second signal kills at once"));
                        return Ok(0);
                    }
                }
            }
        }
    }
}

/// Stops all services in order, and then the servers, because services write to them until they
/// end.
async fn stop_system(servers: &mut Servers, system: &mut RunningSystem) {
    std::mem::take(&mut system.services).drain_in_order().await;
    if let Some(store) = system.store.take() {
        store.close().await;
    }
    servers.stop().await;
}

/// Hint with the command that stops a running demo, if `dir` is another directory.
fn running_demo_hint(dir: &Path) -> String {
    let demo = Path::new(crate::demo::DEMO_DATA_DIR);
    match DataDir::holder_pid(demo) {
        Ok(Some(_)) if dir != demo => {
            format!("; a demo is running: picket down --data-dir {}", demo.display())
        }
        _ => String::new(),
    }
}

/// Stops a running `up`, or servers left running by a killed one.
pub(crate) async fn run_down(options: DownOptions) -> Result<(), Error> {
    // Covers the drain limits of services and servers.
    const DOWN_TIMEOUT: Duration = Duration::from_secs(90);
    let dir = options.data_dir;
    let _ =
        telemetry::init_logging(&LogOptions { log: "warn".to_owned(), log_format: Some(LogFormat::Pretty) });
    if !dir.exists() {
        print_line(format_args!(
            "nothing is running: {} does not exist{}",
            dir.display(),
            running_demo_hint(&dir)
        ));
        return Ok(());
    }
    let holder = DataDir::holder_pid(&dir)?;
    // Without a holder, only orphans of a killed `up` can be running.
    let Some(pid) = holder else {
        let data = DataDir::lock(&dir)?;
        Nats::stop_orphan(&data).await?;
        Postgres::stop_orphan(&data).await?;
        remove_connection_files(&dir);
        print_line(format_args!("nothing is running in {}{}", dir.display(), running_demo_hint(&dir)));
        return Ok(());
    };
    let signalled = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| {
            Error::Failed(format!("process {pid}, which holds {}, cannot be signalled", dir.display()))
        })
        .and_then(|process| {
            kill_process(process, Signal::TERM).map_err(|why| {
                Error::Unreachable(format!(
                    "could not stop process {pid}, which holds {}: {why}",
                    dir.display()
                ))
            })
        });
    signalled?;
    print_line(format_args!("stopping process {pid} and its servers"));
    let gone = async {
        // The lock is released when the process ends.
        while DataDir::holder_pid(&dir)? == Some(pid) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, Error>(())
    };
    match tokio::time::timeout(DOWN_TIMEOUT, gone).await {
        Ok(gone) => gone?,
        Err(_) => {
            return Err(Error::Unreachable(format!(
                "process {pid} did not stop within {} s; kill it (kill -9 {pid}), then run 'picket down' again",
                DOWN_TIMEOUT.as_secs()
            )));
        }
    }
    print_line("stopped");
    Ok(())
}
