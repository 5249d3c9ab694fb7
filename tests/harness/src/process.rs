//! Processes started by the path of their program, with a log and an HTTP endpoint.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use picket_servers::Signal;
use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};

use crate::{
    eventually,
    http::{self, Response},
    metrics::Metrics,
    network::NetworkNamespace,
    proc, servers,
};

/// Maximum time of a wait for a state.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(90);
/// Maximum time of a request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time of a request that blocks the thread of a test.
const BLOCKING_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time of a graceful stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Path of the program of this build.
pub fn program_path(program: &str) -> PathBuf {
    find_program(&built_dir(), program)
}

/// Directory of this build's programs: the parent of `deps` above this executable.
pub fn built_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("a program has a path");
    let built = executable.ancestors().find(|dir| dir.join("deps").is_dir());
    built.expect("the executable lies in <target>/<profile> or below").to_owned()
}

/// Command that runs a program in the directory `programs`. The reaper kills the process after the
/// end of the caller, because the command line names `scratch_dir`.
pub fn program_command(programs: &Path, program: &str, scratch_dir: &Path) -> Command {
    let mut command = Command::new(find_program(programs, program));
    command.arg0(scratch_dir.join(program)).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn find_program(dir: &Path, program: &str) -> PathBuf {
    let path = dir.join(program);
    assert!(
        path.exists(),
        "{} does not exist: run 'cargo build --workspace --bins' with the profile of this build",
        path.display()
    );
    path
}

/// Runs a command to its end. Returns exit code, standard output and standard error.
pub async fn run_to_end(command: &mut Command) -> (i32, String, String) {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = output.expect("the command ends").expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Returns a free listen address.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], servers::non_ephemeral_port()))
}

/// Running process. Killed when dropped.
pub struct Process {
    child: Child,
    pid: u32,
    network: Option<NetworkNamespace>,
    listen: SocketAddr,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts `command`, which serves HTTP at `listen`, with a log file in `dir`.
    pub fn spawn(program: &str, command: Command, listen: SocketAddr, dir: &Path) -> Self {
        Self::spawn_in(None, program, command, listen, dir)
    }

    /// Starts as [`spawn`](Self::spawn) does, in another network.
    pub fn spawn_in(
        network: Option<NetworkNamespace>,
        program: &str,
        mut command: Command,
        listen: SocketAddr,
        dir: &Path,
    ) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("{program}-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let log = dir.join(format!("{name}.log"));
        let file = fs::File::create(&log).expect("a log file");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        command.kill_on_drop(true);
        let child = match &network {
            Some(network) => network.run_inside(|| command.spawn()),
            None => command.spawn(),
        };
        let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
        let pid = child.id().expect("a child that was not waited for");
        Self { child, pid, network, listen, log, name }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Name of the process: its program and a number.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Listen address of HTTP.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// Log of the process so far.
    pub fn read_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn last_log_lines(&self) -> Vec<String> {
        self.read_log().lines().rev().take(5).map(str::to_owned).collect()
    }

    /// Waits until the process is ready.
    pub async fn wait_ready(&self) {
        self.wait_responding("/readyz").await;
    }

    /// Waits until the response to `path` has status 200.
    pub async fn wait_responding(&self, path: &str) {
        eventually(WAIT_TIMEOUT, &format!("{} to answer {path} with 200", self.name), async || {
            match self.fetch(path).await {
                Ok(Response { status: 200, .. }) => Ok(()),
                other => Err((other, self.last_log_lines())),
            }
        })
        .await;
    }

    /// Waits until the process is unready for a reason that contains `reason`.
    pub async fn wait_unready(&self, reason: &str) {
        eventually(WAIT_TIMEOUT, &format!("{} to be unready for '{reason}'", self.name), async || match self
            .fetch("/readyz")
            .await
        {
            Ok(Response { status: 503, body }) if body.contains(reason) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// Waits until the log contains `text`.
    pub async fn wait_logged(&self, text: &str) {
        eventually(WAIT_TIMEOUT, &format!("{} to log '{text}'", self.name), async || {
            if self.read_log().contains(text) { Ok(()) } else { Err(self.last_log_lines()) }
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
        proc::resident_kib(self.pid).unwrap_or_else(|| panic!("{} has no resident memory", self.name))
    }

    /// Requests `path`.
    ///
    /// # Errors
    /// Fails if the process does not answer in time.
    pub async fn fetch(&self, path: &str) -> Result<Response, String> {
        match &self.network {
            Some(network) => network.run_inside(|| http::get_blocking(self.listen, path, BLOCKING_TIMEOUT)),
            None => http::get(self.listen, path, RESPONSE_TIMEOUT).await,
        }
    }

    /// Requests `path` and blocks the thread. Returns `None` without a response.
    pub fn http_get(&self, path: &str) -> Option<Response> {
        let get = || http::get_blocking(self.listen, path, BLOCKING_TIMEOUT).ok();
        match &self.network {
            Some(network) => network.run_inside(get),
            None => get(),
        }
    }

    /// Requests the metrics. Without a response there are none.
    pub async fn fetch_metrics(&self) -> Metrics {
        Metrics::parse(self.fetch("/metrics").await.map(|response| response.body).unwrap_or_default())
    }

    /// Sum of a metric over the samples that match `selector`, as by [`Metrics::sum`]. 0 without a
    /// sample.
    pub async fn fetch_metric(&self, selector: &str) -> f64 {
        self.fetch_metrics().await.sum(selector).unwrap_or(0.0)
    }

    /// Reads a metric as [`fetch_metric`](Self::fetch_metric) does, and blocks the thread.
    pub fn read_metric(&self, selector: &str) -> f64 {
        let text = self.http_get("/metrics").map(|response| response.body).unwrap_or_default();
        Metrics::parse(text).sum(selector).unwrap_or(0.0)
    }

    /// Reads a metric as [`read_metric`](Self::read_metric) does, over the samples with these
    /// labels, such as `cause="expired"`.
    pub fn read_metric_where(&self, name: &str, labels: &str) -> f64 {
        self.read_metric(&format!("{name}{{{labels}}}"))
    }

    /// Sends a signal.
    pub fn send_signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid.cast_signed()).expect("a process id is positive");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{signal:?} to {}: {error}", self.name));
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
        self.send_signal(Signal::TERM);
        let status = self.wait_exit(STOP_TIMEOUT).await;
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.read_log());
    }

    /// Stops the process and waits for its end, which need not be a success.
    pub async fn terminate(mut self) {
        self.send_signal(Signal::TERM);
        self.wait_exit(WAIT_TIMEOUT).await;
    }

    /// Kills the process (-9) and waits for its end.
    pub async fn kill(mut self) {
        self.send_signal(Signal::KILL);
        self.wait_exit(Duration::from_secs(10)).await;
    }
}
