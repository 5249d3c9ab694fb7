//! A nats-server with JetStream on file, on loopback, without a password.

use std::{
    env, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use crate::{
    DataDir, Error, Tools,
    log_file::LogFile,
    orphans::OrphanProcess,
    port, private_file,
    server::{ServerProcess, Signal, StopSignals},
};

const SERVER_NAME: &str = "nats-server";
const PORT_OPTION: &str = "--nats-port";

/// How a [`Nats`] is started.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// The port of 127.0.0.1 for clients.
    pub port: u16,
    /// The port of 127.0.0.1 for nats-server's own monitoring over HTTP; none: none.
    pub monitor_port: Option<u16>,
    /// The most that streams may hold on disk, all together.
    pub max_file_store_bytes: u64,
    /// A configuration of the caller's to use instead of all this; it must listen on `port`.
    pub config_file: Option<PathBuf>,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self { port: 4222, monitor_port: None, max_file_store_bytes: 16 << 30, config_file: None }
    }
}

/// A running nats-server, whose streams are in `<data>/nats` and whose log is `<data>/logs/nats.log`.
#[derive(Debug)]
pub struct Nats {
    server: ServerProcess,
    port: u16,
    _data: DataDir,
}

impl Nats {
    /// Starts it, or says why not; stops one that was left behind in this data directory first.
    pub async fn start(tools: &Tools, data: &DataDir, config: NatsConfig) -> Result<Self, Error> {
        let program = tools.find_nats_server()?;
        Self::stop_orphan(data).await?;
        port::check_port_free(SERVER_NAME, config.port, PORT_OPTION)?;

        let own = config_path(data);
        if config.config_file.is_none() {
            private_file::replace_atomically(&own, &config.render_config(data))
                .map_err(Error::io_context(format!("write {}", own.display())))?;
        }
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(config.config_file.as_ref().unwrap_or(&own))
            .arg("--pid")
            .arg(pid_path(data));
        // On one core it carries more than anybody watches from one machine, and wakes up fewer threads for each message: at 1,000
        // checks a second a fifth less CPU time.
        if env::var_os("GOMAXPROCS").is_none() {
            command.env("GOMAXPROCS", "1");
        }
        let signals = StopSignals { graceful: Signal::TERM, immediate: Signal::KILL };
        let mut server =
            ServerProcess::spawn(SERVER_NAME, command, signals, LogFile::open(data.log_path("nats.log"))?)?;
        server.wait_ready(|| is_accepting(config.port)).await?;
        Ok(Self { server, port: config.port, _data: data.clone() })
    }

    /// Stops the nats-server that a killed process left behind in this data directory, if there is one.
    pub async fn stop_orphan(data: &DataDir) -> Result<(), Error> {
        let pid_file = pid_path(data);
        let pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid {
            let argument = config_path(data);
            OrphanProcess {
                server: SERVER_NAME,
                program: SERVER_NAME,
                unique_argument: &argument,
                stop_signal: Signal::TERM,
            }
            .stop_if_running(pid)
            .await?;
        }
        match fs::remove_file(&pid_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io_context(format!("remove {}", pid_file.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The log file.
    pub fn log_path(&self) -> &Path {
        &self.server.log.path
    }

    /// Waits for the server to end by itself, and says how it did; cancel-safe.
    pub async fn wait_exited(&mut self) -> Error {
        self.server.wait_exited().await
    }

    /// Sends the process a signal; no error if it has ended.
    pub fn send_signal(&self, signal: Signal) -> Result<(), Error> {
        self.server.send_signal(signal)
    }

    /// Stops the server in order; [`Error::Killed`] if it took longer than `limit` and had to be killed.
    pub async fn stop(mut self, limit: Duration) -> Result<(), Error> {
        self.server.stop(limit).await
    }

    /// Kills the server (-9) and waits for its end.
    pub async fn kill(mut self) -> Result<(), Error> {
        self.server.kill().await
    }
}

impl NatsConfig {
    fn render_config(&self, data: &DataDir) -> String {
        let quoted = |path: PathBuf| format!("{:?}", path.to_string_lossy());
        let monitor =
            self.monitor_port.map(|port| format!("http: \"127.0.0.1:{port}\"\n")).unwrap_or_default();
        // A power cut may cost what was stored in the last second: an fsync for each message costs all throughput.
        format!(
            "# Written anew at each start.\n\
             server_name: picket-local\n\
             listen: \"127.0.0.1:{port}\"\n\
             {monitor}pid_file: {pid_file}\n\
             max_payload: 1MB\n\
             write_deadline: \"5s\"\n\
             ping_interval: \"20s\"\n\
             jetstream {{\n\
             \x20   store_dir: {store}\n\
             \x20   max_file_store: {max_file_store}\n\
             \x20   sync_interval: \"1s\"\n\
             }}\n",
            port = self.port,
            pid_file = quoted(pid_path(data)),
            store = quoted(data.path().join("nats")),
            max_file_store = self.max_file_store_bytes,
        )
    }
}

fn config_path(data: &DataDir) -> PathBuf {
    data.path().join("nats/nats.conf")
}

fn pid_path(data: &DataDir) -> PathBuf {
    data.path().join("nats/nats.pid")
}

/// The longest greeting that is waited for; a nats-server's is some hundred bytes.
const MAX_GREETING_BYTES: u64 = 64 << 10;

/// Whether a nats-server answers on the port. It listens only after JetStream has recovered.
async fn is_accepting(port: u16) -> bool {
    let greeting = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_GREETING_BYTES)).read_line(&mut line).await.ok()?;
        Some(line.starts_with("INFO {"))
    };
    matches!(timeout(Duration::from_secs(1), greeting).await, Ok(Some(true)))
}
