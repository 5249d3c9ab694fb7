//! What every `main` does: logs, signals, an orderly end, an exit code.

use std::{future::Future, net::SocketAddr, process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::{
    Bus, ErrorChain, Health, PipelineHandle, health,
    options::{ListenOptions, LogOptions},
    telemetry,
};

/// It did what it was asked, and the answer is bad.
pub const EXIT_NEGATIVE: u8 = 1;
/// It was used wrongly.
pub const EXIT_USAGE: u8 = 2;
/// It could not reach what it needs.
pub const EXIT_UNREACHABLE: u8 = 3;
/// It failed again and again and gave up; who runs it should start it anew.
pub const EXIT_SOFTWARE: u8 = 70;

/// Makes aws-lc-rs the one TLS provider of this process. Libraries default to different ones, and with two
/// in the process the first handshake panics.
pub fn install_crypto_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Waits for SIGTERM or SIGINT and says which.
///
/// # Errors
/// When signals cannot be listened for.
pub async fn shutdown_signal() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Runs one of the processes from start to exit code: serves health at once, starts the pipeline with
/// `start`, runs until a signal or until the pipeline gives up, and drains it.
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
    // A signal must end the process also while it waits for its servers.
    let mut stop = std::pin::pin!(shutdown_signal());
    let started = tokio::select! {
        started = start(health) => started,
        signal = &mut stop => {
            info!(signal = signal.unwrap_or("none"), "stopped before it was started");
            return ExitCode::SUCCESS;
        }
    };
    let (mut running, bus) = match started {
        Ok(started) => started,
        Err(error) => {
            error!(error = %ErrorChain(&error), "{name} cannot start");
            return ExitCode::from(EXIT_UNREACHABLE);
        }
    };
    stopping.set_ready();
    info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "{name} runs");
    let code = tokio::select! {
        signal = &mut stop => {
            info!(signal = signal.unwrap_or("none"), "{name} stops");
            stopping.set_unready("stopping");
            running.drain().await;
            ExitCode::SUCCESS
        }
        () = running.wait_ended() => ExitCode::from(EXIT_SOFTWARE),
    };
    bus.flush_and_close(Duration::from_secs(5)).await;
    info!("{name} stopped");
    code
}

/// Asks whoever serves health at `address`, and says what the answer is.
#[expect(clippy::print_stderr, clippy::print_stdout, reason = "the answer is for who asked, not for the log")]
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
            eprintln!("{name}: nobody answers at {address}: {why}");
            ExitCode::from(EXIT_UNREACHABLE)
        }
    }
}

#[expect(clippy::print_stderr, reason = "wrong usage is told to who typed it, not to the log")]
fn report_usage_error(name: &str, why: &str) -> ExitCode {
    eprintln!("{name}: {why}");
    ExitCode::from(EXIT_USAGE)
}

/// A name for this process that no other has: the host's, the process's number, and a random part.
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
