//! What a check takes while it waits for a site that never answers: a process of its own, measured before and with all
//! of them waiting.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, net::TcpStream, time::sleep};

use crate::{
    Error,
    contenders::{
        Contender, ContenderKind, TargetRequest, bare_once, check_once, hyper_once, raise_file_limit,
    },
};

/// What to wait for.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    pub(crate) side: ContenderKind,
    /// Where nobody answers
    #[arg(long)]
    pub(crate) silent: SocketAddr,
    #[arg(long)]
    pub(crate) tls: bool,
    /// Who says how many wait there
    #[arg(long)]
    pub(crate) count: SocketAddr,
    #[arg(long)]
    pub(crate) authority: PathBuf,
    #[arg(long)]
    pub(crate) checks: usize,
}

/// What they take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct IdleMemory {
    /// How many waited.
    pub(crate) checks: usize,
    /// Of the process, per check, in bytes (the difference of `Pss` in `/proc/self/smaps_rollup`). What the kernel
    /// keeps for the sockets is not in it.
    pub(crate) bytes_each: u64,
    /// The process without any.
    pub(crate) bytes_before: u64,
    /// One check's future, or one request's.
    pub(crate) future_bytes: usize,
}

/// Started together; more at once only wait for each other in the listener's queue.
const CHECKS_PER_WAVE: usize = 500;

/// Starts them, waits until all wait, and prints what they take.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    raise_file_limit();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::System("could not start", error))?;
    let found = runtime.block_on(measure_idle_memory(options))?;
    let line = serde_json::to_string(&found).map_err(|why| Error::Failed(why.to_string()))?;
    io::stdout()
        .write_all(format!("{line}\n").as_bytes())
        .map_err(|why| Error::System("standard output", why))?;
    // Ten thousand connections need not be closed one by one.
    std::process::exit(0);
}

async fn measure_idle_memory(options: &Options) -> Result<IdleMemory, Error> {
    const FOREVER: Duration = Duration::from_secs(600);
    let side = Contender::new(options.side, &options.authority)?;
    let asked = TargetRequest::new(options.silent, options.tls, FOREVER)?;
    let there = read_count(options.count).await?;
    let future_bytes = match &side {
        Contender::Check(checker) => size_of_val(&check_once(checker, &asked)),
        Contender::Bare(client) => size_of_val(&bare_once(client, &asked)),
        Contender::Hyper(connector) => size_of_val(&hyper_once(connector, &asked)),
    };
    // What the first ones bring about once and for all is not theirs.
    let mut started = start_checks(&side, &asked, 64);
    wait_for_count(options.count, there + started).await?;
    let before = own_memory_bytes()?;
    while started < 64 + options.checks {
        started += start_checks(&side, &asked, CHECKS_PER_WAVE.min(64 + options.checks - started));
        wait_for_count(options.count, there + started).await?;
    }
    let after = own_memory_bytes()?;
    let bytes_each = after.saturating_sub(before) / options.checks.max(1) as u64;
    Ok(IdleMemory { checks: options.checks, bytes_each, bytes_before: before, future_bytes })
}

/// One side's tasks hold nothing of the other's.
fn start_checks(side: &Contender, asked: &TargetRequest, checks: usize) -> usize {
    for _ in 0..checks {
        let asked = asked.clone();
        match side.clone() {
            Contender::Check(checker) => drop(tokio::spawn(async move {
                let _ = check_once(&checker, &asked).await;
            })),
            Contender::Bare(client) => drop(tokio::spawn(async move {
                let _ = bare_once(&client, &asked).await;
            })),
            Contender::Hyper(connector) => drop(tokio::spawn(async move {
                let _ = hyper_once(&connector, &asked).await;
            })),
        }
    }
    checks
}

async fn wait_for_count(counts: SocketAddr, waiting: usize) -> Result<(), Error> {
    const TRIES: usize = 3_000;
    let mut seen = 0;
    for _ in 0..TRIES {
        seen = read_count(counts).await?;
        if seen >= waiting {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(Error::Failed(format!("{seen} of {waiting} checks wait; are enough open files allowed (ulimit -n)?")))
}

async fn read_count(counts: SocketAddr) -> Result<usize, Error> {
    let asking = async {
        let mut text = String::new();
        TcpStream::connect(counts).await?.read_to_string(&mut text).await?;
        text.parse().map_err(io::Error::other)
    };
    asking.await.map_err(|error| Error::System("could not ask the target how many wait", error))
}

/// This process's memory in bytes, with its share of what it has in common with others.
fn own_memory_bytes() -> Result<u64, Error> {
    let read = |error| Error::System("could not read /proc/self/smaps_rollup", error);
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").map_err(read)?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = pss.and_then(|pss| pss.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| Error::Failed("/proc/self/smaps_rollup has no Pss".to_owned()))
}
