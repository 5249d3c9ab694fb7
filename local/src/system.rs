//! A system on this machine: servers, services and the user's signals.

use std::{path::Path, pin::Pin};

use picket_proto::ValidationError;
use picket_runtime::{
    connect::{self, parse_host_port},
    console::{print_error, print_line},
    options::NatsOptions,
    process::{self, EXIT_SOFTWARE},
};
use picket_servers::DataDir;
use picket_store::{DatabaseOptions, Store, regions};

use crate::{
    banner,
    config::Config,
    connection_files, env_file,
    error::Error,
    log, secrets_file,
    servers::Servers,
    service_file,
    services::{self, Services},
};

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

/// Sites that were applied at the start of a system.
#[derive(Clone, Debug, Default)]
pub struct AppliedSites {
    /// One line for the user; `None` if there was nothing to apply.
    pub summary: Option<String>,
    /// Lines to print after the addresses of the system.
    pub notes: Vec<String>,
}

/// A system that is being started, runs, or is being stopped.
struct System {
    config: Config,
    data: DataDir,
    servers: Servers,
    services: Services,
    store: Option<Store>,
}

/// Runs a system until a signal arrives or a part of it fails permanently, and stops it. Applies
/// cluster settings by `apply_settings` before the services start; it returns a line for each
/// change. Applies sites by `apply_sites` once the services run. Returns the exit code.
///
/// # Errors
/// If the system cannot be started, or `apply_settings` or `apply_sites` fails.
pub async fn run_system<E: From<Error>>(
    config: Config,
    apply_settings: impl AsyncFnOnce(&Store) -> Result<Vec<String>, E>,
    apply_sites: impl AsyncFnOnce(&Store) -> Result<AppliedSites, E>,
) -> Result<u8, E> {
    let mut system = System::prepare(config).await?;
    let mut stop = next_shutdown_signal();
    let started = tokio::select! {
        started = system.start(apply_settings, apply_sites) => started.map(Some),
        signal = &mut stop => {
            print_line(format_args!("stopped by {signal} during startup"));
            Ok(None)
        }
    };
    let ended = match started {
        Ok(Some(())) => system.watch(&mut stop).await.map_err(E::from),
        Ok(None) => Ok(0),
        Err(error) => Err(error),
    };
    // Removed before the servers stop, so that no command connects to a stopping system.
    connection_files::remove_all(system.data.path());
    let mut again = next_shutdown_signal();
    tokio::select! {
        () = system.stop() => ended,
        signal = &mut again => {
            system.servers.kill().await;
            print_error(format_args!("second {signal}: killed the remaining servers"));
            Ok(EXIT_KILLED)
        }
    }
}

/// Exit code after a second signal, the same as a shell reports for a process ended by Ctrl-C.
const EXIT_KILLED: u8 = 130;

/// Excludes the directory from version control, because it contains a password.
fn write_gitignore(dir: &Path) {
    let file = dir.join(".gitignore");
    if !file.exists() {
        // `create_new` never follows a link and never overwrites a file of another process.
        let created = std::fs::File::create_new(file);
        let _ = created.and_then(|mut file| std::io::Write::write_all(&mut file, b"*\n"));
    }
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

impl System {
    /// Locks the data directory, starts the log, and finds out which servers to start.
    async fn prepare(mut config: Config) -> Result<Self, Error> {
        let data = DataDir::lock(&config.data_dir)?;
        // The log file is in the data directory, so logging starts after the lock.
        log::init_logging(&config.log, config.is_log_filter_given, data.path())?;
        write_gitignore(data.path());
        secrets_file::adopt_secrets_file(&mut config, data.path()).map_err(|why| {
            let path = secrets_file::secrets_path(data.path());
            Error::Usage(format!("could not write {}: {why}", path.display()))
        })?;
        if config.nats_port == config.pg_port {
            return Err(
                ValidationError::new("--pg-port", config.pg_port, "another port than --nats-port").into()
            );
        }
        let nats_url = external_url(config.nats_url.as_deref(), 4222, config.nats_port).await;
        let database_url = external_url(config.database_url.as_deref(), 5432, config.pg_port).await;
        let servers = Servers::new(&config, &data, nats_url, database_url);
        Ok(Self { config, data, servers, services: Services::default(), store: None })
    }

    async fn start<E: From<Error>>(
        &mut self,
        apply_settings: impl AsyncFnOnce(&Store) -> Result<Vec<String>, E>,
        apply_sites: impl AsyncFnOnce(&Store) -> Result<AppliedSites, E>,
    ) -> Result<(), E> {
        let store = self.start_servers().await?;
        for change in apply_settings(&store).await? {
            print_line(format_args!("setting {change}"));
        }
        self.start_services(&store).await?;
        let sites = apply_sites(&store).await?;
        self.write_connection_files()?;
        let web = self.services.web.as_ref();
        banner::print_banner(&self.config, &self.servers, &store, sites.summary.as_deref(), web).await?;
        sites.notes.iter().for_each(print_line);
        Ok(())
    }

    fn database_options(&self) -> DatabaseOptions {
        DatabaseOptions { database_url: Some(self.servers.database_url()) }
    }

    /// Starts the servers and migrates the schema.
    async fn start_servers(&mut self) -> Result<Store, Error> {
        self.servers.start().await?;
        let database = self.database_options();
        // The URL is validated before anything connects to it.
        let store = Store::new(&database, "picket", 4)?;
        connect::probe_database(database.url()).await?;
        // Kept for the drain even if a later step fails.
        self.store = Some(store.clone());
        store.migrate_if_outdated(self.config.shards).await?;
        Ok(store)
    }

    /// Adds the regions and starts the services.
    async fn start_services(&mut self, store: &Store) -> Result<(), Error> {
        for region in &self.config.regions {
            regions::add_region(store, region).await?;
        }
        let nats = NatsOptions { nats_url: self.servers.nats_url(), ..self.config.nats.clone() };
        let database = self.database_options();
        services::start_services(&self.config, &nats, &database, &mut self.services).await
    }

    fn write_connection_files(&self) -> Result<(), Error> {
        let dir = &self.config.data_dir;
        let database_url = self.servers.database_url();
        // Some valid URLs cannot be expressed for libpq. Without the file, only the psql command is
        // omitted from the banner.
        if let Err(why) = service_file::write_service(dir, &database_url) {
            print_error(format_args!("could not write {}: {why}", service_file::service_path(dir).display()));
        }
        let variables = [("DATABASE_URL", database_url.as_str()), ("NATS_URL", &self.servers.nats_url())];
        env_file::write_env(dir, &variables).map_err(|why| {
            Error::Usage(format!("could not write {}: {why}", env_file::env_path(dir).display()))
        })
    }

    /// Waits for a signal or a permanent failure. Restarts a server that ends by itself.
    async fn watch(&mut self, stop: &mut ShutdownSignal) -> Result<u8, Error> {
        let Self { services, servers, .. } = self;
        loop {
            tokio::select! {
                signal = &mut *stop => {
                    print_line(format_args!("\n{signal}: stopping; a second signal kills at once"));
                    return Ok(0);
                }
                name = services.wait_for_failure() => {
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
    async fn stop(&mut self) {
        std::mem::take(&mut self.services).drain_in_order().await;
        if let Some(store) = self.store.take() {
            store.close().await;
        }
        self.servers.stop().await;
    }
}
