//! Memory of a check that waits for a site without a response. Measured in a separate process,
//! before the checks start and while all of them wait.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use picket_harness::proc;
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, net::TcpStream, time::sleep};

use crate::{
    Error,
    contenders::{
        Contender, ContenderKind, TargetRequest, bare_once, check_once, hyper_once, raise_file_limit,
    },
};

/// Checks to start.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    pub(crate) side: ContenderKind,
    /// Address that never responds
    #[arg(long)]
    pub(crate) silent: SocketAddr,
    #[arg(long)]
    pub(crate) tls: bool,
    /// Address that reports the number of waiting requests
    #[arg(long)]
    pub(crate) count: SocketAddr,
    #[arg(long)]
    pub(crate) authority: PathBuf,
    #[arg(long)]
    pub(crate) checks: usize,
}

/// Memory of waiting checks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct IdleMemory {
    /// Number of waiting checks.
    pub(crate) checks: usize,
    /// Memory of the process per check in bytes: the difference of `Pss` in
    /// `/proc/self/smaps_rollup`. Excludes socket buffers in the kernel.
    pub(crate) bytes_each: u64,
    /// Memory of the process without checks, in bytes.
    pub(crate) bytes_before: u64,
    /// Size of the future of a check or request.
    pub(crate) future_bytes: usize,
}

/// Checks started together. A larger number would only wait in the listener's queue.
const CHECKS_PER_WAVE: usize = 500;

/// Starts the checks, waits until all are waiting, and prints their memory.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    raise_file_limit();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::System("could not start", error))?;
    let memory = runtime.block_on(measure_idle_memory(options))?;
    let line = serde_json::to_string(&memory).map_err(|why| Error::Failed(why.to_string()))?;
    io::stdout()
        .write_all(format!("{line}\n").as_bytes())
        .map_err(|why| Error::System("standard output", why))?;
    // Skips closing ten thousand connections one by one.
    std::process::exit(0);
}

async fn measure_idle_memory(options: &Options) -> Result<IdleMemory, Error> {
    const FOREVER: Duration = Duration::from_secs(600);
    let side = Contender::new(options.side, &options.authority)?;
    let request = TargetRequest::new(options.silent, options.tls, FOREVER)?;
    let already_waiting = read_count(options.count).await?;
    // Size of the future itself, without its heap memory.
    let future_bytes = match &side {
        Contender::Check(checker) => size_of_val(&check_once(checker, &request)),
        Contender::Bare(client) => size_of_val(&bare_once(client, &request)),
        Contender::Hyper(connector) => size_of_val(&hyper_once(connector, &request)),
    };
    // The first checks also pay for one-time allocations, and are excluded.
    let mut started = start_checks(&side, &request, 64);
    wait_for_count(options.count, already_waiting + started).await?;
    let before = own_memory_bytes()?;
    while started < 64 + options.checks {
        started += start_checks(&side, &request, CHECKS_PER_WAVE.min(64 + options.checks - started));
        wait_for_count(options.count, already_waiting + started).await?;
    }
    let after = own_memory_bytes()?;
    let bytes_each = after.saturating_sub(before) / options.checks.max(1) as u64;
    Ok(IdleMemory { checks: options.checks, bytes_each, bytes_before: before, future_bytes })
}

/// Starts tasks that hold the data of their own contender only.
fn start_checks(side: &Contender, request: &TargetRequest, checks: usize) -> usize {
    for _ in 0..checks {
        let request = request.clone();
        match side.clone() {
            Contender::Check(checker) => drop(tokio::spawn(async move {
                let _ = check_once(&checker, &request).await;
            })),
            Contender::Bare(client) => drop(tokio::spawn(async move {
                let _ = bare_once(&client, &request).await;
            })),
            Contender::Hyper(connector) => drop(tokio::spawn(async move {
                let _ = hyper_once(&connector, &request).await;
            })),
        }
    }
    checks
}

async fn wait_for_count(counts: SocketAddr, waiting: usize) -> Result<(), Error> {
    const MAX_ATTEMPTS: usize = 3_000;
    let mut count = 0;
    for _ in 0..MAX_ATTEMPTS {
        count = read_count(counts).await?;
        if count >= waiting {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(Error::Failed(format!(
        "{count} of {waiting} checks are waiting; are enough open files allowed (ulimit -n)?"
    )))
}

async fn read_count(counts: SocketAddr) -> Result<usize, Error> {
    let reading = async {
        let mut text = String::new();
        TcpStream::connect(counts).await?.read_to_string(&mut text).await?;
        text.parse().map_err(io::Error::other)
    };
    reading.await.map_err(|error| Error::System("could not read the number of waiting requests", error))
}

/// Memory of this process in bytes, with its share of shared pages (PSS).
fn own_memory_bytes() -> Result<u64, Error> {
    let memory = proc::pss_bytes(std::process::id());
    memory.ok_or_else(|| Error::Failed("/proc/self/smaps_rollup has no Pss".to_owned()))
}
