//! Common part of every `main`: logs, signals, graceful shutdown, exit codes.

use std::{future::Future, net::SocketAddr, process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::{
    Bus, ErrorChain, Health, PipelineHandle, health,
    options::{ListenOptions, LogOptions},
    telemetry,
};

/// Exit code for a negative result, for example a process that is not ready.
pub const EXIT_NEGATIVE: u8 = 1;
/// Exit code for wrong usage.
pub const EXIT_USAGE: u8 = 2;
/// Exit code if a required server is unreachable.
pub const EXIT_UNREACHABLE: u8 = 3;
/// Exit code after repeated failures. The service manager should restart the process.
pub const EXIT_SOFTWARE: u8 = 70;

/// Makes aws-lc-rs the only TLS provider of this process. Libraries default to different providers,
/// and with two in the process the first handshake panics.
pub fn install_crypto_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Waits for SIGTERM or SIGINT and returns the signal's name.
///
/// # Errors
/// Fails if the signal handlers cannot be installed.
pub async fn shutdown_signal() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Runs a process from start to exit code. Serves health at once, starts the pipeline with `start`,
/// runs until a signal arrives or the pipeline gives up, and drains the pipeline.
pub async fn run<E, F>(
    name: &'static str,
    log: &LogOptions,
    listen: &ListenOptions,
    start: impl FnOnce(Health) -> F,
) -> ExitCode
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<(PipelineHandle, Bus), E>>,
{
    // Probes another process, and must not start anything in this one.
    if let (true, Some(address)) = (listen.healthcheck, listen.listen) {
        return run_healthcheck(name, address).await;
    }
    if let Err(why) = telemetry::init_logging(log) {
        return report_usage_error(name, &why);
    }
    install_crypto_provider();
    let health = Health::new();
    if let Some(address) = listen.listen
        && let Err(why) = health::serve_health(health.clone(), address).await
    {
        return report_usage_error(name, &format!("PICKET_LISTEN: cannot listen on '{address}': {why}"));
    }
    let stopping = health.add_readiness_check("running");
    // A signal must also end the process while it waits for its servers.
    let mut stop = std::pin::pin!(shutdown_signal());
    let started = tokio::select! {
        started = start(health) => started,
        signal = &mut stop => {
            info!(signal = signal.unwrap_or("none"), "stopped during startup");
            return ExitCode::SUCCESS;
        }
    };
    let (mut running, bus) = match started {
        Ok(started) => started,
        Err(error) => {
            error!(process = name, error = %ErrorChain(&error), "could not start");
            return ExitCode::from(EXIT_UNREACHABLE);
        }
    };
    stopping.set_ready();
    info!(process = name, version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "started");
    let code = tokio::select! {
        signal = &mut stop => {
            info!(process = name, signal = signal.unwrap_or("none"), "stopping");
            // Unready first, so that load balancers and probes notice the shutdown before the drain
            // ends.
            stopping.set_unready("stopping");
            running.drain().await;
            ExitCode::SUCCESS
        }
        () = running.wait_ended() => ExitCode::from(EXIT_SOFTWARE),
    };
    // The drained pipeline may have left messages in the buffer of the client.
    bus.flush_and_close(Duration::from_secs(5)).await;
    info!(process = name, "stopped");
    code
}

/// Probes the process that serves health at `address` and prints the response.
#[expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the answer is for the caller, not for the log"
)]
async fn run_healthcheck(name: &str, address: SocketAddr) -> ExitCode {
    match health::probe_readiness(address).await {
        Ok((true, text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok((false, text)) => {
            print!("{text}");
            ExitCode::from(EXIT_NEGATIVE)
        }
        Err(why) => {
            eprintln!("{name}: no answer from {address}: {why}");
            ExitCode::from(EXIT_UNREACHABLE)
        }
    }
}

#[expect(clippy::print_stderr, reason = "usage errors are for the caller, not for the log")]
fn report_usage_error(name: &str, why: &str) -> ExitCode {
    eprintln!("{name}: {why}");
    ExitCode::from(EXIT_USAGE)
}

/// Unique name of this process: host name, process id and a random part.
pub fn unique_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};

    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '-' })
        .collect();
    let random = RandomState::new().build_hasher().finish() & 0xffff;
    format!("{}-{}-{random:04x}", host.get(..40).unwrap_or(&host), std::process::id())
}
