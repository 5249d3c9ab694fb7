//! A local Postgres on loopback with one superuser. The generated password is stored beside the
//! data.

mod initdb;
mod install;
mod run_as;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::Instant};

use crate::{
    DataDir, Error, PostgresTools, Tools,
    log_file::LogFile,
    orphans::OrphanProcess,
    port,
    server::{READY_POLL_INTERVAL, START_TIMEOUT, ServerProcess, Signal, StopSignals},
};
use install::PgInstall;

const SERVER_NAME: &str = "Postgres";
const PORT_OPTION: &str = "--pg-port";

/// Name of the superuser and of the database.
const PICKET: &str = "picket";

/// Start options of a [`Postgres`].
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Maximum number of concurrent sessions.
    pub max_connections: u16,
    /// True if commits survive a power failure. Without it commits still survive the death of any
    /// process. Tests turn it off.
    pub durable: bool,
    /// Extra environment variables for the server, which otherwise inherits hardly any.
    pub environment: Vec<(String, String)>,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self { port: 5442, max_connections: 100, durable: true, environment: vec![] }
    }
}

/// A running Postgres. Its data is in `<data>/postgres`, its log is `<data>/logs/postgres.log`.
#[derive(Debug)]
pub struct Postgres {
    server: ServerProcess,
    port: u16,
    password: String,
    tools: PostgresTools,
    cluster_dir: PathBuf,
    _data: DataDir,
}

impl Postgres {
    /// Starts the server and waits until it is ready. Creates the data and the database `picket` if
    /// they are missing. A Postgres left running in this data directory by a killed process is
    /// stopped first.
    ///
    /// Started by root, Postgres runs as the owner of the data, as `postgres` or as `nobody`. If
    /// programs and data are out of reach of this user, a copy of the programs and the data are
    /// under `/var/lib/picket`.
    pub async fn start(tools: &Tools, data: &DataDir, config: PostgresConfig) -> Result<Self, Error> {
        let tools = tools.find_postgres()?;
        Self::stop_orphan(data).await?;
        port::check_port_free(SERVER_NAME, config.port, PORT_OPTION)?;

        let home = PgInstall::resolve_paths(tools, data).await?;
        let password = initdb::ensure_cluster(&home, data, config.durable).await?;
        let server = spawn_postmaster(&home, data, &config).await?;
        let (port, tools, home) = (config.port, home.tools, home.cluster_dir);
        let postgres = Self { server, port, password, tools, cluster_dir: home, _data: data.clone() };
        postgres.create_missing_database().await?;
        Ok(postgres)
    }

    /// Stops the Postgres left running in this data directory by a killed process, if there is one.
    pub async fn stop_orphan(data: &DataDir) -> Result<(), Error> {
        let Ok(home) = data.path().join("postgres").canonicalize() else {
            return Ok(());
        };
        let Some(status) = PostmasterFile::read_from(&home) else {
            return Ok(());
        };
        OrphanProcess {
            server: SERVER_NAME,
            program: "postgres",
            unique_argument: &home,
            stop_signal: Signal::INT,
        }
        .stop_if_running(status.pid)
        .await?;
        status.mark_stale(&home)
    }

    /// URL of the database `picket`, with user and password.
    pub fn url(&self) -> String {
        self.url_for_database(PICKET)
    }

    /// URL of another database of this server, with user and password.
    pub fn url_for_database(&self, database: &str) -> String {
        format!("postgres://{PICKET}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the postmaster, the parent of all sessions.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Directory of the data, with symbolic links resolved.
    pub fn cluster_dir(&self) -> &Path {
        &self.cluster_dir
    }

    /// Path of the log file.
    pub fn log_path(&self) -> &Path {
        &self.server.log.path
    }

    /// Runs SQL statements in the database `postgres` with psql, and returns the rows as unaligned
    /// text.
    ///
    /// For administration only. Access to Picket's data belongs in `picket-store`.
    pub async fn run_admin_sql(&self, sql: &str) -> Result<String, Error> {
        let program = self.tools.psql_path();
        let mut command = clean_command(&program);
        command
            .env("PGPASSWORD", &self.password)
            .env("PGPASSFILE", "/dev/null")
            .env("PGCONNECT_TIMEOUT", "10");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]);
        command.args(["--host", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--username", PICKET, "--dbname", "postgres", "--command", sql]);
        run_command(command, program).await
    }

    /// Waits until the server ends by itself, and returns a description of the end. Cancel-safe.
    pub async fn wait_exited(&mut self) -> Error {
        self.server.wait_exited().await
    }

    /// Sends the postmaster a signal. Has no effect after the end of the process.
    pub fn send_signal(&self, signal: Signal) -> Result<(), Error> {
        self.server.send_signal(signal)
    }

    /// Stops the server and ends its sessions.
    ///
    /// # Errors
    /// [`Error::StopTimeout`] if the server did not stop within `limit` and was killed.
    pub async fn stop(mut self, limit: Duration) -> Result<(), Error> {
        self.server.stop(limit).await
    }

    /// Kills the postmaster with SIGKILL and waits for its end. Its sessions end by themselves.
    pub async fn kill(mut self) -> Result<(), Error> {
        self.server.kill().await
    }

    async fn create_missing_database(&self) -> Result<(), Error> {
        let existing =
            self.run_admin_sql(&format!("SELECT 1 FROM pg_database WHERE datname = '{PICKET}'")).await?;
        if existing.trim().is_empty() {
            self.run_admin_sql(&format!("CREATE DATABASE {PICKET}")).await?;
        }
        Ok(())
    }
}

/// Starts the postmaster and waits until it accepts sessions.
async fn spawn_postmaster(
    home: &PgInstall,
    data: &DataDir,
    config: &PostgresConfig,
) -> Result<ServerProcess, Error> {
    let until = Instant::now() + START_TIMEOUT;
    loop {
        let mut command = clean_command(&home.tools.postgres_path());
        run_as::apply_user(&mut command, home.run_as);
        command.envs(config.environment.iter().cloned());
        command.arg("-D").arg(&home.cluster_dir);
        for (setting, value) in config.server_settings() {
            command.arg("-c").arg(format!("{setting}={value}"));
        }
        let signals = StopSignals { graceful: Signal::INT, immediate: Signal::QUIT };
        let mut server = ServerProcess::spawn(
            SERVER_NAME,
            command,
            signals,
            LogFile::open(data.log_path("postgres.log"))?,
        )?;
        let pid = server.pid();
        let is_ready =
            || PostmasterFile::read_from(&home.cluster_dir).is_some_and(|status| status.is_ready(pid));
        match server.wait_ready(|| std::future::ready(is_ready())).await {
            Ok(()) => return Ok(server),
            // The sessions of a killed postmaster end a moment after it, so the start is retried.
            Err(Error::ExitedAtStart { tail, .. })
                if tail.contains("pre-existing shared memory block") && Instant::now() < until =>
            {
                tokio::time::sleep(10 * READY_POLL_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

impl PostgresConfig {
    /// Settings for the command line. The command line takes precedence over settings in the files,
    /// which an earlier start or a person may have written.
    fn server_settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            // A socket's path is limited to about 100 bytes, which a data directory soon exceeds.
            ("unix_socket_directories", String::new()),
            ("max_connections", self.max_connections.to_string()),
            ("shared_buffers", "128MB".to_owned()),
            ("max_wal_size", "2GB".to_owned()),
            ("wal_compression", "on".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("cluster_name", PICKET.to_owned()),
            ("logging_collector", "off".to_owned()),
            // An open transaction prevents the removal of dead rows, which makes each lease renewal
            // slower.
            ("idle_in_transaction_session_timeout", "10min".to_owned()),
            // Statements, parameters and error details contain values of sites, headers and
            // results.
            ("log_min_error_statement", "panic".to_owned()),
            ("log_parameter_max_length", "0".to_owned()),
            ("log_parameter_max_length_on_error", "0".to_owned()),
            ("log_error_verbosity", "terse".to_owned()),
        ];
        if !self.durable {
            // Both settings protect only against a crash of the operating system.
            // `synchronous_commit` stays on: without it a killed Postgres loses commits.
            settings.push(("fsync", "off".to_owned()));
            settings.push(("full_page_writes", "off".to_owned()));
        }
        settings
    }
}

/// Contents of `postmaster.pid`, written by the postmaster.
struct PostmasterFile {
    pid: u32,
    lines: Vec<String>,
}

impl PostmasterFile {
    fn read_from(home: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::file_path(home)).ok()?;
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        Some(Self { pid: lines.first()?.trim().parse().ok()?, lines })
    }

    fn is_ready(&self, pid: u32) -> bool {
        self.pid == pid && self.lines.get(7).is_some_and(|status| status.trim() == "ready")
    }

    /// Rewrites the file of a dead postmaster so that Postgres recognises it as stale.
    ///
    /// Postgres refuses to start if any living process of its user has the old process id. The id
    /// of its parent, this process, is recognised as stale. Removing the file instead would skip
    /// the check for shared memory of sessions that still run.
    fn mark_stale(mut self, home: &Path) -> Result<(), Error> {
        let file = Self::file_path(home);
        if !file.exists() {
            return Ok(());
        }
        self.lines[0] = process::id().to_string();
        let text = self.lines.join("\n") + "\n";
        fs::write(&file, text).map_err(Error::io_context(format!("write {}", file.display())))
    }

    fn file_path(home: &Path) -> PathBuf {
        home.join("postmaster.pid")
    }
}

/// A command for a Postgres program, without the caller's `PG…` variables and locale.
fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    for name in ["PATH", "LD_LIBRARY_PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// [`Error::ToolFailed`] with the program's output if it failed.
async fn run_command(mut command: Command, program: PathBuf) -> Result<String, Error> {
    let output = command.kill_on_drop(true).output().await;
    let output = output.map_err(Error::io_context(format!("run {}", program.display())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = [output.stdout, output.stderr].concat();
    Err(Error::ToolFailed {
        program,
        status: output.status,
        output: String::from_utf8_lossy(&printed).into_owned(),
    })
}
