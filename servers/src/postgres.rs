//! A Postgres on loopback with one superuser, whose generated password is kept beside the data.

mod create;
mod home;
mod user;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::Instant};

use crate::{
    DataDir, Error, PostgresTools, Tools,
    leftovers::Leftover,
    log::Log,
    port,
    server::{POLL, READY, Server, Signal, Signals},
};
use home::Home;

const NAME: &str = "Postgres";
const OPTION: &str = "--pg-port";

/// The superuser, and the database.
const PICKET: &str = "picket";

/// How a [`Postgres`] is started.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// The port of 127.0.0.1.
    pub port: u16,
    /// How many sessions there may be at once.
    pub max_connections: u16,
    /// Whether a commit outlives a power cut; without it, still every death of a process. Tests do without.
    pub durable: bool,
    /// Variables that the server is started with, of which it has hardly any otherwise.
    pub environment: Vec<(String, String)>,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self { port: 5442, max_connections: 100, durable: true, environment: vec![] }
    }
}

/// A running Postgres, whose data is in `<data>/postgres` and whose log is `<data>/logs/postgres.log`.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    port: u16,
    password: String,
    tools: PostgresTools,
    home: PathBuf,
    _data: DataDir,
}

impl Postgres {
    /// Starts it, or says why not; makes the data and the database `picket` if need be, and stops a Postgres that
    /// was left behind in this data directory first.
    ///
    /// Started by root it runs as the owner of the data, `postgres` or `nobody`, on a copy of the programs and with
    /// its data under `/var/lib/picket` where that user could not reach them.
    pub async fn start(tools: &Tools, data: &DataDir, config: PostgresConfig) -> Result<Self, Error> {
        let tools = tools.postgres()?;
        Self::stop_leftover(data).await?;
        port::check(NAME, config.port, OPTION)?;

        let home = Home::find(tools, data).await?;
        let password = create::data(&home, data, config.durable).await?;
        let server = spawn(&home, data, &config).await?;
        let (port, tools, home) = (config.port, home.tools, home.data);
        let postgres = Self { server, port, password, tools, home, _data: data.clone() };
        postgres.ensure_database().await?;
        Ok(postgres)
    }

    /// Stops the Postgres that a killed process left behind in this data directory, if there is one.
    pub async fn stop_leftover(data: &DataDir) -> Result<(), Error> {
        let Ok(home) = data.path().join("postgres").canonicalize() else {
            return Ok(());
        };
        let Some(status) = Status::read(&home) else {
            return Ok(());
        };
        Leftover { server: NAME, program: "postgres", argument: &home, signal: Signal::INT }
            .stop(status.pid)
            .await?;
        status.disown(&home)
    }

    /// The database `picket` as a URL, with user and password.
    pub fn url(&self) -> String {
        self.url_of(PICKET)
    }

    /// Another database of this server as a URL, with user and password.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{PICKET}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process: the postmaster, whose children the sessions are.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Where the data really is.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.server.log.path
    }

    /// Runs statements in the database `postgres` with psql, and gives the rows as unaligned text.
    ///
    /// For administration only: what holds data speaks through `store`.
    pub async fn administer(&self, sql: &str) -> Result<String, Error> {
        let program = self.tools.psql();
        let mut command = command(&program);
        command
            .env("PGPASSWORD", &self.password)
            .env("PGPASSFILE", "/dev/null")
            .env("PGCONNECT_TIMEOUT", "10");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]);
        command.args(["--host", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--username", PICKET, "--dbname", "postgres", "--command", sql]);
        output(command, program).await
    }

    /// Waits for the server to end by itself, and says how it did; cancel-safe.
    pub async fn exited(&mut self) -> Error {
        self.server.exited().await
    }

    /// Sends the postmaster a signal; no error if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.server.signal(signal)
    }

    /// Stops the server, ending its sessions; [`Error::Killed`] if it took longer than `limit` and had to be killed.
    pub async fn stop(mut self, limit: Duration) -> Result<(), Error> {
        self.server.stop(limit).await
    }

    /// Kills the postmaster (-9) and waits for its end; its sessions end by themselves.
    pub async fn kill(mut self) -> Result<(), Error> {
        self.server.kill().await
    }

    async fn ensure_database(&self) -> Result<(), Error> {
        let found = self.administer(&format!("SELECT 1 FROM pg_database WHERE datname = '{PICKET}'")).await?;
        if found.trim().is_empty() {
            self.administer(&format!("CREATE DATABASE {PICKET}")).await?;
        }
        Ok(())
    }
}

/// Starts the postmaster and waits until it accepts sessions.
async fn spawn(home: &Home, data: &DataDir, config: &PostgresConfig) -> Result<Server, Error> {
    let until = Instant::now() + READY;
    loop {
        let mut command = command(&home.tools.postgres());
        user::run_as(&mut command, home.user);
        command.envs(config.environment.iter().cloned());
        command.arg("-D").arg(&home.data);
        for (setting, value) in config.settings() {
            command.arg("-c").arg(format!("{setting}={value}"));
        }
        let signals = Signals { stop: Signal::INT, abort: Signal::QUIT };
        let mut server = Server::spawn(NAME, command, signals, Log::open(data.log("postgres.log"))?)?;
        let pid = server.pid();
        let is_ready = || Status::read(&home.data).is_some_and(|status| status.is_ready(pid));
        match server.ready(|| std::future::ready(is_ready())).await {
            Ok(()) => return Ok(server),
            // The sessions of a postmaster that was killed end a moment after it.
            Err(Error::EndedAtStart { tail, .. })
                if tail.contains("pre-existing shared memory block") && Instant::now() < until =>
            {
                tokio::time::sleep(10 * POLL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

impl PostgresConfig {
    /// Given on the command line, so that what is in force is this, whatever an earlier start or somebody wrote into
    /// the files.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            // A socket's path has about 100 bytes, which a data directory soon exceeds.
            ("unix_socket_directories", String::new()),
            ("max_connections", self.max_connections.to_string()),
            ("shared_buffers", "128MB".to_owned()),
            ("max_wal_size", "2GB".to_owned()),
            ("wal_compression", "on".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("cluster_name", PICKET.to_owned()),
            ("logging_collector", "off".to_owned()),
            // As long as a transaction is open no dead row is removed, and each renewal of leases gets dearer.
            ("idle_in_transaction_session_timeout", "10min".to_owned()),
            // Statements, parameters and the details of an error hold values: of sites, headers, results.
            ("log_min_error_statement", "panic".to_owned()),
            ("log_parameter_max_length", "0".to_owned()),
            ("log_parameter_max_length_on_error", "0".to_owned()),
            ("log_error_verbosity", "terse".to_owned()),
        ];
        if !self.durable {
            // Both protect from a crash of the operating system only. `synchronous_commit` is left alone: without it
            // a killed Postgres forgets commits.
            settings.push(("fsync", "off".to_owned()));
            settings.push(("full_page_writes", "off".to_owned()));
        }
        settings
    }
}

/// What a postmaster says of itself in `postmaster.pid`.
struct Status {
    pid: u32,
    lines: Vec<String>,
}

impl Status {
    fn read(home: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::file(home)).ok()?;
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        Some(Self { pid: lines.first()?.trim().parse().ok()?, lines })
    }

    fn is_ready(&self, pid: u32) -> bool {
        self.pid == pid && self.lines.get(7).is_some_and(|status| status.trim() == "ready")
    }

    /// Makes the file of a postmaster that is gone one that Postgres knows to be stale.
    ///
    /// It would take any living process of its user that got the old number for a postmaster and refuse to start.
    /// Our own number it knows for its parent's. Without the file it would not look for the shared memory of
    /// sessions that still run.
    fn disown(mut self, home: &Path) -> Result<(), Error> {
        let file = Self::file(home);
        if !file.exists() {
            return Ok(());
        }
        self.lines[0] = process::id().to_string();
        let text = self.lines.join("\n") + "\n";
        fs::write(&file, text).map_err(Error::io(format!("write {}", file.display())))
    }

    fn file(home: &Path) -> PathBuf {
        home.join("postmaster.pid")
    }
}

/// A program of Postgres's, untouched by the `PG…` variables and the locale of whoever runs us.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    for name in ["PATH", "LD_LIBRARY_PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a program to its end and gives what it said; [`Error::ToolFailed`] if it failed.
async fn output(mut command: Command, program: PathBuf) -> Result<String, Error> {
    let output = command.kill_on_drop(true).output().await;
    let output = output.map_err(Error::io(format!("run {}", program.display())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Error::ToolFailed {
        program,
        status: output.status,
        output: String::from_utf8_lossy(&said).into_owned(),
    })
}
