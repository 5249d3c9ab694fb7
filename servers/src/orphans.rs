//! Servers left running by a killed process: found by pid file, recognised by command line,
//! stopped.

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::{Instant, sleep};

use crate::Error;

/// Time for an orphan to stop in order, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a killed process to disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A server possibly left running by an earlier process.
pub(crate) struct OrphanProcess<'a> {
    pub(crate) server: &'static str,
    /// File name of the server's program.
    pub(crate) program: &'a str,
    /// Argument found only on servers of this data directory.
    pub(crate) unique_argument: &'a Path,
    /// Signal for an orderly stop.
    pub(crate) stop_signal: Signal,
}

impl OrphanProcess<'_> {
    /// Stops the process `pid` if it is this server. Another process that has since received the
    /// number is left alone.
    pub(crate) async fn stop_if_running(&self, pid: u32) -> Result<(), Error> {
        let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        if !self.is_own_process(pid) {
            return Ok(());
        }
        tracing::warn!(server = self.server, pid, "stopping orphaned server of an earlier run");
        for (signal, limit) in [(self.stop_signal, STOP_TIMEOUT), (Signal::KILL, KILL_TIMEOUT)] {
            let until = Instant::now() + limit;
            // ESRCH: the process has ended, as wanted. EPERM: the process stays, and the error
            // below names it.
            let _ = kill_process(process, signal);
            while Instant::now() < until {
                // A zombie has an empty command line.
                if test_kill_process(process) == Err(rustix::io::Errno::SRCH) || !self.is_own_process(pid) {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Err(Error::OrphanSurvived { server: self.server, pid })
    }

    /// Returns true if the process `pid` is this server.
    pub(crate) fn is_own_process(&self, pid: u32) -> bool {
        let Some(arguments) = read_command_line(pid) else {
            return false;
        };
        let argument = self.unique_argument.to_string_lossy();
        match &arguments[..] {
            // `ps` prints one line, in which arguments cannot be separated.
            [line] => line.contains(self.program) && line.contains(&*argument),
            [program, rest @ ..] => {
                program.ends_with(self.program) && rest.iter().any(|other| *other == argument)
            }
            [] => false,
        }
    }
}

/// The command line of a process, one item per argument where the system separates them.
fn read_command_line(pid: u32) -> Option<Vec<String>> {
    // Without an entry in a mounted /proc the process does not exist. Systems without /proc use
    // `ps`.
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
