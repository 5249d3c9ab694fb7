//! One child process that is a server: signals, waiting for its end, stopping it in order.

use std::{process::ExitStatus, time::Duration};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout},
};

use crate::{Error, log_file::LogFile};

/// How long a server has to become ready.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a server that is starting is asked whether it is ready.
pub(crate) const READY_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a server has to end at once.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopSignals {
    /// In order, ending its sessions.
    pub(crate) graceful: Signal,
    /// At once, when there is no more time: it need not be the kill that leaves things lying about.
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
        // An inherited directory might be one that the server's user may not be in, or that somebody wants to unmount.
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
        // The number is the child's for as long as nobody has waited for it.
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

    /// Waits for the server to end; cancel-safe.
    pub(crate) async fn wait_status(&mut self) -> Result<ExitStatus, Error> {
        let waited = self.child.wait().await;
        waited.map_err(Error::io_context(format!("wait for {} (process {})", self.name, self.pid)))
    }

    /// Waits for the server to end when it should not; cancel-safe.
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

    /// Waits until `ready` says so; an error that quotes the log if the server ends first or takes too long.
    ///
    /// No async closure, for whose future the compiler cannot see that it may be sent.
    pub(crate) async fn wait_ready<F>(&mut self, mut ready: impl FnMut() -> F) -> Result<(), Error>
    where
        F: Future<Output = bool>,
    {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            let is_ready = ready().await;
            // Asked last: had it ended, the answer would have been somebody else's.
            let ended =
                self.child.try_wait().map_err(Error::io_context(format!("wait for {}", self.name)))?;
            let (server, log) = (self.name, self.log.path.clone());
            match ended {
                Some(status) => {
                    return Err(Error::ExitedAtStart { server, status, log, tail: self.log.tail_lines() });
                }
                None if is_ready => return Ok(()),
                None if Instant::now() >= until => {
                    // What it says of its end is of no use to anybody.
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

    /// Asks the server to stop and waits; one that has not after `limit` is killed, and that is an error.
    pub(crate) async fn stop(&mut self, limit: Duration) -> Result<(), Error> {
        self.send_signal(self.signals.graceful)?;
        // One that is paused would not hear.
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

    /// Kills the server (-9) and waits for its end.
    pub(crate) async fn kill(&mut self) -> Result<(), Error> {
        self.send_signal(Signal::KILL)?;
        self.wait_status().await.map(drop)
    }
}

/// The last resort, for an owner that forgot to stop it or panics: it does not wait.
impl Drop for ServerProcess {
    fn drop(&mut self) {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        if !ended {
            // Nothing to be done about a failure, and nobody to tell.
            let _ = self.send_signal(self.signals.immediate);
            let _ = self.send_signal(Signal::CONT);
        }
    }
}
