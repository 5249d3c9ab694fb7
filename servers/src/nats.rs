//! A local nats-server with JetStream file storage, on loopback, without a password.

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

/// Start options of a [`Nats`].
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// Client port on 127.0.0.1.
    pub port: u16,
    /// HTTP monitoring port on 127.0.0.1; `None` disables monitoring.
    pub monitor_port: Option<u16>,
    /// Maximum disk space of all streams together, in bytes.
    pub max_file_store_bytes: u64,
    /// Configuration file to use instead of the generated file; must listen on `port`.
    pub config_file: Option<PathBuf>,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self { port: 4222, monitor_port: None, max_file_store_bytes: 16 << 30, config_file: None }
    }
}

/// A running nats-server. Its streams are in `<data>/nats`, its log is `<data>/logs/nats.log`.
#[derive(Debug)]
pub struct Nats {
    server: ServerProcess,
    port: u16,
    _data: DataDir,
}

impl Nats {
    /// Starts the server and waits until it is ready. A server left running in this data directory
    /// by a killed process is stopped first.
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
        // With GOMAXPROCS=1 the server wakes fewer threads for each message: a fifth less CPU time
        // at 1,000 checks/s. One core carries more sites than one machine checks.
        if env::var_os("GOMAXPROCS").is_none() {
            command.env("GOMAXPROCS", "1");
        }
        let signals = StopSignals { graceful: Signal::TERM, immediate: Signal::KILL };
        let mut server =
            ServerProcess::spawn(SERVER_NAME, command, signals, LogFile::open(data.log_path("nats.log"))?)?;
        server.wait_ready(|| is_accepting(config.port)).await?;
        Ok(Self { server, port: config.port, _data: data.clone() })
    }

    /// Stops the nats-server left running in this data directory by a killed process, if there is
    /// one.
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

    /// URL for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Client port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Path of the log file.
    pub fn log_path(&self) -> &Path {
        &self.server.log.path
    }

    /// Waits until the server ends by itself, and returns a description of the end. Cancel-safe.
    pub async fn wait_exited(&mut self) -> Error {
        self.server.wait_exited().await
    }

    /// Sends the process a signal. Has no effect after the end of the process.
    pub fn send_signal(&self, signal: Signal) -> Result<(), Error> {
        self.server.send_signal(signal)
    }

    /// Stops the server in order.
    ///
    /// # Errors
    /// [`Error::StopTimeout`] if the server did not stop within `limit` and was killed.
    pub async fn stop(mut self, limit: Duration) -> Result<(), Error> {
        self.server.stop(limit).await
    }

    /// Kills the server with SIGKILL and waits for its end.
    pub async fn kill(mut self) -> Result<(), Error> {
        self.server.kill().await
    }
}

impl NatsConfig {
    fn render_config(&self, data: &DataDir) -> String {
        let quoted = |path: PathBuf| format!("{:?}", path.to_string_lossy());
        let monitor =
            self.monitor_port.map(|port| format!("http: \"127.0.0.1:{port}\"\n")).unwrap_or_default();
        // A power failure may lose the messages of the last second. An fsync for each message would
        // cost nearly all throughput.
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

/// Maximum length of a server's greeting. A nats-server sends a few hundred bytes.
const MAX_GREETING_BYTES: u64 = 64 << 10;

/// Returns true if a nats-server answers on the port. It listens only after JetStream has
/// recovered.
async fn is_accepting(port: u16) -> bool {
    let greeting = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_GREETING_BYTES)).read_line(&mut line).await.ok()?;
        Some(line.starts_with("INFO {"))
    };
    matches!(timeout(Duration::from_secs(1), greeting).await, Ok(Some(true)))
}
