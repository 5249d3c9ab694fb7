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
    leftovers::Leftover,
    log::Log,
    port, private,
    server::{Server, Signal, Signals},
};

const NAME: &str = "nats-server";
const OPTION: &str = "--nats-port";

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
    pub file: Option<PathBuf>,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self { port: 4222, monitor_port: None, max_file_store_bytes: 16 << 30, file: None }
    }
}

/// A running nats-server, whose streams are in `<data>/nats` and whose log is `<data>/logs/nats.log`.
#[derive(Debug)]
pub struct Nats {
    server: Server,
    port: u16,
    _data: DataDir,
}

impl Nats {
    /// Starts it, or says why not; stops one that was left behind in this data directory first.
    pub async fn start(tools: &Tools, data: &DataDir, config: NatsConfig) -> Result<Self, Error> {
        let program = tools.nats_server()?;
        Self::stop_leftover(data).await?;
        port::check(NAME, config.port, OPTION)?;

        let own = config_file(data);
        if config.file.is_none() {
            private::replace(&own, &config.text(data))
                .map_err(Error::io(format!("write {}", own.display())))?;
        }
        let mut command = Command::new(program);
        command.arg("--config").arg(config.file.as_ref().unwrap_or(&own)).arg("--pid").arg(pid_file(data));
        // On one core it carries more than anybody watches from one machine, and wakes up fewer threads for each message: at 1,000
        // checks a second a fifth less CPU time.
        if env::var_os("GOMAXPROCS").is_none() {
            command.env("GOMAXPROCS", "1");
        }
        let signals = Signals { stop: Signal::TERM, abort: Signal::KILL };
        let mut server = Server::spawn(NAME, command, signals, Log::open(data.log("nats.log"))?)?;
        server.ready(|| greets(config.port)).await?;
        Ok(Self { server, port: config.port, _data: data.clone() })
    }

    /// Stops the nats-server that a killed process left behind in this data directory, if there is one.
    pub async fn stop_leftover(data: &DataDir) -> Result<(), Error> {
        let pid_file = pid_file(data);
        let pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid {
            let argument = config_file(data);
            Leftover { server: NAME, program: NAME, argument: &argument, signal: Signal::TERM }
                .stop(pid)
                .await?;
        }
        match fs::remove_file(&pid_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", pid_file.display()))(error))
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
    pub fn log(&self) -> &Path {
        &self.server.log.path
    }

    /// Waits for the server to end by itself, and says how it did; cancel-safe.
    pub async fn exited(&mut self) -> Error {
        self.server.exited().await
    }

    /// Sends the process a signal; no error if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.server.signal(signal)
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
    fn text(&self, data: &DataDir) -> String {
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
            pid_file = quoted(pid_file(data)),
            store = quoted(data.path().join("nats")),
            max_file_store = self.max_file_store_bytes,
        )
    }
}

fn config_file(data: &DataDir) -> PathBuf {
    data.path().join("nats/nats.conf")
}

fn pid_file(data: &DataDir) -> PathBuf {
    data.path().join("nats/nats.pid")
}

/// The longest greeting that is waited for; a nats-server's is some hundred bytes.
const GREETING_BYTES: u64 = 64 << 10;

/// Whether a nats-server answers on the port. It listens only after JetStream has recovered.
async fn greets(port: u16) -> bool {
    let greeting = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(GREETING_BYTES)).read_line(&mut line).await.ok()?;
        Some(line.starts_with("INFO {"))
    };
    matches!(timeout(Duration::from_secs(1), greeting).await, Ok(Some(true)))
}
