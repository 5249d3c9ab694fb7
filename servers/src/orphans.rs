//! Servers that a killed process left behind: found by their pid file, recognised by their command line, stopped.

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::{Instant, sleep};

use crate::Error;

/// How long a leftover has to stop in order; after that it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that may have been left behind.
pub(crate) struct OrphanProcess<'a> {
    pub(crate) server: &'static str,
    /// Its program's file name.
    pub(crate) program: &'a str,
    /// An argument that only a server of this data directory has.
    pub(crate) unique_argument: &'a Path,
    /// Asks it to stop in order.
    pub(crate) stop_signal: Signal,
}

impl OrphanProcess<'_> {
    /// Stops the process of this number if it is this server; a stranger that got the number since is left alone.
    pub(crate) async fn stop_if_running(&self, pid: u32) -> Result<(), Error> {
        let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        if !self.is_own_process(pid) {
            return Ok(());
        }
        tracing::warn!(server = self.server, pid, "stopping a server that an earlier run left behind");
        for (signal, limit) in [(self.stop_signal, STOP_TIMEOUT), (Signal::KILL, KILL_TIMEOUT)] {
            let until = Instant::now() + limit;
            // ESRCH: it has ended since, which is what is wanted. EPERM: it stays, and is named below.
            let _ = kill_process(process, signal);
            while Instant::now() < until {
                // The command line is empty from the moment that the process is a zombie.
                if test_kill_process(process) == Err(rustix::io::Errno::SRCH) || !self.is_own_process(pid) {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Err(Error::OrphanSurvived { server: self.server, pid })
    }

    /// Whether the process of this number is this server.
    pub(crate) fn is_own_process(&self, pid: u32) -> bool {
        let Some(arguments) = read_command_line(pid) else {
            return false;
        };
        let argument = self.unique_argument.to_string_lossy();
        match &arguments[..] {
            // `ps` gives one line, in which arguments cannot be told apart.
            [line] => line.contains(self.program) && line.contains(&*argument),
            [program, rest @ ..] => {
                program.ends_with(self.program) && rest.iter().any(|other| *other == argument)
            }
            [] => false,
        }
    }
}

/// The command line of a process, by argument where the system says so.
fn read_command_line(pid: u32) -> Option<Vec<String>> {
    if let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) {
        let arguments = bytes.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
        return Some(arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect());
    }
    if Path::new("/proc/self").exists() {
        return None;
    }
    let output = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!line.is_empty()).then(|| vec![line])
}
