//! Stop of a running system, or of servers left running by a killed one.

use std::{path::Path, time::Duration};

use picket_runtime::{
    console::print_line,
    options::{LogFormat, LogOptions},
    telemetry,
};
use picket_servers::{DataDir, Nats, Postgres};
use rustix::process::{Pid, Signal, kill_process};

use crate::{connection_files, error::Error};

/// Hint with the command that stops a running demo, if `dir` is another directory.
fn running_demo_hint(dir: &Path, demo: &Path) -> String {
    match DataDir::holder_pid(demo) {
        Ok(Some(_)) if dir != demo => {
            format!("; a demo is running: picket down --data-dir {}", demo.display())
        }
        _ => String::new(),
    }
}

/// Stops the system of the data directory `dir`, or servers left running by a killed one. `demo_dir`
/// is the data directory of a demo, which the user may mean.
///
/// # Errors
/// If the process of the system cannot be stopped.
pub async fn stop_system(dir: &Path, demo_dir: &Path) -> Result<(), Error> {
    // Covers the drain limits of services and servers.
    const DOWN_TIMEOUT: Duration = Duration::from_secs(90);
    let _ =
        telemetry::init_logging(&LogOptions { log: "warn".to_owned(), log_format: Some(LogFormat::Pretty) });
    if !dir.exists() {
        print_line(format_args!(
            "nothing is running: {} does not exist{}",
            dir.display(),
            running_demo_hint(dir, demo_dir)
        ));
        return Ok(());
    }
    let holder = DataDir::holder_pid(dir)?;
    // Without a holder, only orphans of a killed `up` can be running.
    let Some(pid) = holder else {
        let data = DataDir::lock(dir)?;
        Nats::stop_orphan(&data).await?;
        Postgres::stop_orphan(&data).await?;
        connection_files::remove_all(dir);
        print_line(format_args!(
            "nothing is running in {}{}",
            dir.display(),
            running_demo_hint(dir, demo_dir)
        ));
        return Ok(());
    };
    let signalled = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| {
            Error::Failed(format!("process {pid}, which holds {}, cannot be signalled", dir.display()))
        })
        .and_then(|process| {
            kill_process(process, Signal::TERM).map_err(|why| {
                Error::Unreachable(format!(
                    "could not stop process {pid}, which holds {}: {why}",
                    dir.display()
                ))
            })
        });
    signalled?;
    print_line(format_args!("stopping process {pid} and its servers"));
    let gone = async {
        // The lock is released when the process ends.
        while DataDir::holder_pid(dir)? == Some(pid) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, Error>(())
    };
    match tokio::time::timeout(DOWN_TIMEOUT, gone).await {
        Ok(gone) => gone?,
        Err(_) => {
            return Err(Error::Unreachable(format!(
                "process {pid} did not stop within {} s; kill it (kill -9 {pid}), then run 'picket down' again",
                DOWN_TIMEOUT.as_secs()
            )));
        }
    }
    print_line("stopped");
    Ok(())
}
