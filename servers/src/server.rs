//! A server as a child process: start, signals, wait, stop.

use std::{process::ExitStatus, time::Duration};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout},
};

use crate::{Error, log_file::LogFile};

/// Time for a server to become ready.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval between readiness checks of a starting server.
pub(crate) const READY_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Time for a server to end after the immediate stop signal.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Stop signals of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopSignals {
    /// Stops in order and ends the sessions.
    pub(crate) graceful: Signal,
    /// Stops at once after the time limit. Need not be SIGKILL, after which resources of the server
    /// may remain.
    pub(crate) immediate: Signal,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    pub(crate) name: &'static str,
    pub(crate) log: LogFile,
    signals: StopSignals,
    child: Child,
    pid: u32,
}

impl ServerProcess {
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        signals: StopSignals,
        mut log: LogFile,
    ) -> Result<Self, Error> {
        // An inherited working directory might be closed to the server's user, or block an unmount.
        command.current_dir("/").process_group(0);
        command.stdin(std::process::Stdio::null()).stdout(log.clone_stdio()?).stderr(log.clone_stdio()?);
        let doing = format!("start {}", command.as_std().get_program().display());
        let child = command.spawn().map_err(Error::io_context(doing))?;
        let pid = child.id().expect("a child that was not waited for has a number");
        log.start_rotation()?;
        Ok(Self { name, log, signals, child, pid })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the signal, unless the server has ended.
    pub(crate) fn send_signal(&self, signal: Signal) -> Result<(), Error> {
        // The process id stays reserved for the child until its exit status has been collected.
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
        else {
            return Ok(());
        };
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(Error::io_context(format!("signal {} (process {pid})", self.name))(error.into()))
            }
        }
    }

    /// Waits until the server ends. Cancel-safe.
    pub(crate) async fn wait_status(&mut self) -> Result<ExitStatus, Error> {
        let waited = self.child.wait().await;
        waited.map_err(Error::io_context(format!("wait for {} (process {})", self.name, self.pid)))
    }

    /// Waits until the server ends unexpectedly, and returns a description of the end. Cancel-safe.
    pub(crate) async fn wait_exited(&mut self) -> Error {
        match self.wait_status().await {
            Ok(status) => Error::Exited {
                server: self.name,
                status,
                log: self.log.path.clone(),
                tail: self.log.tail_lines(),
            },
            Err(error) => error,
        }
    }

    /// Waits until `ready` returns true.
    ///
    /// Not an async closure: the compiler cannot prove that its future is `Send`.
    ///
    /// # Errors
    /// [`Error::ExitedAtStart`] or [`Error::NotReady`], each with the last lines of the log, if the
    /// server ends first or is not ready within [`START_TIMEOUT`].
    pub(crate) async fn wait_ready<F>(&mut self, mut ready: impl FnMut() -> F) -> Result<(), Error>
    where
        F: Future<Output = bool>,
    {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            let is_ready = ready().await;
            // Checked after `ready`: if the server has ended, another process may have answered.
            let ended =
                self.child.try_wait().map_err(Error::io_context(format!("wait for {}", self.name)))?;
            let (server, log) = (self.name, self.log.path.clone());
            match ended {
                Some(status) => {
                    return Err(Error::ExitedAtStart { server, status, log, tail: self.log.tail_lines() });
                }
                None if is_ready => return Ok(()),
                None if Instant::now() >= until => {
                    // The error below matters more than a failure to stop.
                    let _ = self.stop(ABORT_TIMEOUT).await;
                    return Err(Error::NotReady {
                        server,
                        limit: START_TIMEOUT,
                        log,
                        tail: self.log.tail_lines(),
                    });
                }
                None => tokio::time::sleep(READY_POLL_INTERVAL).await,
            }
        }
    }

    /// Stops the server in order and waits for its end.
    ///
    /// # Errors
    /// [`Error::StopTimeout`] if the server did not stop within `limit` and was killed.
    pub(crate) async fn stop(&mut self, limit: Duration) -> Result<(), Error> {
        self.send_signal(self.signals.graceful)?;
        // A paused process does not handle signals until SIGCONT.
        self.send_signal(Signal::CONT)?;
        if let Ok(waited) = timeout(limit, self.child.wait()).await {
            waited.map_err(Error::io_context(format!("wait for {}", self.name)))?;
            return Ok(());
        }
        self.send_signal(self.signals.immediate)?;
        if timeout(ABORT_TIMEOUT, self.child.wait()).await.is_err() {
            self.kill().await?;
        }
        Err(Error::StopTimeout { server: self.name, limit })
    }

    /// Kills the server with SIGKILL and waits for its end.
    pub(crate) async fn kill(&mut self) -> Result<(), Error> {
        self.send_signal(Signal::KILL)?;
        self.wait_status().await.map(drop)
    }
}

/// Last resort if the owner panics or forgets to stop the server. Does not wait for the end.
impl Drop for ServerProcess {
    fn drop(&mut self) {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        if !ended {
            // A failure cannot be handled or reported in `drop`.
            let _ = self.send_signal(self.signals.immediate);
            let _ = self.send_signal(Signal::CONT);
        }
    }
}
