//! Processes of Picket, started by the path of their program.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use picket_testkit::{eventually, servers};
use tokio::process::Child;

use crate::{LabHost, Stack, deadlines::WAIT_TIMEOUT};

/// Path of the program of this build.
pub fn program_path(program: &str) -> PathBuf {
    find_program(&built_dir(), program)
}

/// Path of the program in `dir`.
pub(crate) fn find_program(dir: &Path, program: &str) -> PathBuf {
    let path = dir.join(program);
    assert!(path.exists(), "{} does not exist: run 'cargo build --workspace --bins'", path.display());
    path
}

/// Directory of this build's programs: the parent of `deps` above this executable.
pub(crate) fn built_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("a program has a path");
    let built = executable.ancestors().find(|dir| dir.join("deps").is_dir());
    built.expect("the executable lies in <target>/<profile> or below").to_owned()
}

/// Running process with its log and its health endpoint.
pub struct Process {
    child: Child,
    pid: u32,
    host: Option<LabHost>,
    listen: SocketAddr,
    log: PathBuf,
    name: String,
}

/// Name of a signal, as for `kill -s`.
pub(crate) type SignalName = &'static str;

impl Process {
    pub(crate) async fn start(
        stack: &Stack,
        host: Option<&LabHost>,
        program: &str,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("{program}-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let listen = SocketAddr::from(([127, 0, 0, 1], servers::non_ephemeral_port()));
        let log = stack.log_path(&name);
        let file = fs::File::create(&log).expect("a log file");
        let mut command = stack.program_command(program, options);
        command
            .env("PICKET_LISTEN", listen.to_string())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file);
        for (name, value) in variables {
            // An empty value removes a variable set for all processes.
            match value.is_empty() {
                true => command.env_remove(name),
                false => command.env(name, value),
            };
        }
        let child = match host {
            Some(host) => host.run_inside(|| command.spawn()),
            None => command.spawn(),
        };
        let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
        let pid = child.id().expect("a child that was not waited for");
        Self { child, pid, host: host.cloned(), listen, log, name }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Listen address of health and metrics.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// Log of the process so far.
    pub fn read_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the process is ready.
    pub async fn wait_ready(&self) {
        eventually(Duration::from_secs(30), &format!("{} to be ready", self.name), async || {
            match self.http_get("/readyz") {
                Some((200, _)) => Ok(()),
                other => Err((other, self.read_log().lines().last().map(str::to_owned))),
            }
        })
        .await;
    }

    /// Waits until the process is unready for a reason that contains `reason`.
    pub async fn wait_unready(&self, reason: &str) {
        eventually(WAIT_TIMEOUT, &format!("{} to be unready for '{reason}'", self.name), async || match self
            .http_get("/readyz")
        {
            Some((503, text)) if text.contains(reason) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// Waits until the log contains `text`.
    pub async fn wait_logged(&self, text: &str) {
        eventually(WAIT_TIMEOUT, &format!("{} to log '{text}'", self.name), async || match self.read_log() {
            log if log.contains(text) => Ok(()),
            log => Err(log.lines().rev().take(3).map(str::to_owned).collect::<Vec<_>>()),
        })
        .await;
    }

    /// Waits until no published job waits for an acknowledgement. Returns the number of published
    /// jobs.
    pub async fn wait_jobs_published(&self) -> f64 {
        eventually(WAIT_TIMEOUT, &format!("{} to have nothing in flight", self.name), async || {
            match self.read_metric("picket_coordinator_jobs_in_flight") {
                0.0 => Ok(()),
                jobs => Err(jobs),
            }
        })
        .await;
        self.read_metric("picket_coordinator_jobs_published_total")
    }

    /// Resident memory, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
            .unwrap_or_else(|| panic!("{} has no VmRSS", self.name))
    }

    /// Name of the process in this test.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests `path` from the health server. Returns status and body, or `None` without a
    /// response.
    pub fn http_get(&self, path: &str) -> Option<(u16, String)> {
        match &self.host {
            Some(host) => host.run_inside(|| self.http_get_local(path)),
            None => self.http_get_local(path),
        }
    }

    fn http_get_local(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.listen, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Value of a metric, summed over all labels.
    pub fn read_metric(&self, name: &str) -> f64 {
        self.read_metric_where(name, "")
    }

    /// Value of a metric, summed over the labels that contain `label`, such as `cause="expired"`.
    pub fn read_metric_where(&self, name: &str, label: &str) -> f64 {
        let text = self.http_get("/metrics").map(|(_, text)| text).unwrap_or_default();
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Sends a signal, such as `STOP`.
    pub fn send_signal(&self, signal: SignalName) {
        let sent = std::process::Command::new("kill").args(["-s", signal, &self.pid.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {signal} {}", self.pid);
    }

    /// Waits for the end of the process.
    pub async fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => status.expect("the child can be waited for"),
            Err(_) => panic!("{} did not end within {limit:?}:\n{}", self.name, self.read_log()),
        }
    }

    /// Stops the process gracefully. Panics if the process fails or does not end in time.
    pub async fn stop(mut self) {
        self.send_signal("TERM");
        let status = self.wait_exit(Duration::from_secs(30)).await;
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.read_log());
    }

    /// Kills the process (-9) and waits for its end.
    pub async fn kill(mut self) {
        self.send_signal("KILL");
        self.wait_exit(Duration::from_secs(10)).await;
    }
}
