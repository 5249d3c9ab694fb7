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
    sides::{Asked, Side, Which, allow_files, bare_once, check_once, hyper_once},
};

/// What to wait for.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    pub(crate) side: Which,
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
pub(crate) struct Found {
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
const WAVE: usize = 500;

/// Starts them, waits until all wait, and prints what they take.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    allow_files();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::System("could not start", error))?;
    let found = runtime.block_on(wait(options))?;
    let line = serde_json::to_string(&found).map_err(|why| Error::Failed(why.to_string()))?;
    io::stdout()
        .write_all(format!("{line}\n").as_bytes())
        .map_err(|why| Error::System("standard output", why))?;
    // Ten thousand connections need not be closed one by one.
    std::process::exit(0);
}

async fn wait(options: &Options) -> Result<Found, Error> {
    const FOREVER: Duration = Duration::from_secs(600);
    let side = Side::new(options.side, &options.authority)?;
    let asked = Asked::new(options.silent, options.tls, FOREVER)?;
    let there = count(options.count).await?;
    let future_bytes = match &side {
        Side::Check(checker) => size_of_val(&check_once(checker, &asked)),
        Side::Bare(client) => size_of_val(&bare_once(client, &asked)),
        Side::Hyper(connector) => size_of_val(&hyper_once(connector, &asked)),
    };
    // What the first ones bring about once and for all is not theirs.
    let mut started = start(&side, &asked, 64);
    until(options.count, there + started).await?;
    let before = memory()?;
    while started < 64 + options.checks {
        started += start(&side, &asked, WAVE.min(64 + options.checks - started));
        until(options.count, there + started).await?;
    }
    let after = memory()?;
    let bytes_each = after.saturating_sub(before) / options.checks.max(1) as u64;
    Ok(Found { checks: options.checks, bytes_each, bytes_before: before, future_bytes })
}

/// One side's tasks hold nothing of the other's.
fn start(side: &Side, asked: &Asked, checks: usize) -> usize {
    for _ in 0..checks {
        let asked = asked.clone();
        match side.clone() {
            Side::Check(checker) => drop(tokio::spawn(async move {
                let _ = check_once(&checker, &asked).await;
            })),
            Side::Bare(client) => drop(tokio::spawn(async move {
                let _ = bare_once(&client, &asked).await;
            })),
            Side::Hyper(connector) => drop(tokio::spawn(async move {
                let _ = hyper_once(&connector, &asked).await;
            })),
        }
    }
    checks
}

async fn until(counts: SocketAddr, waiting: usize) -> Result<(), Error> {
    const TRIES: usize = 3_000;
    let mut seen = 0;
    for _ in 0..TRIES {
        seen = count(counts).await?;
        if seen >= waiting {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(Error::Failed(format!("{seen} of {waiting} checks wait; are enough open files allowed (ulimit -n)?")))
}

async fn count(counts: SocketAddr) -> Result<usize, Error> {
    let asking = async {
        let mut text = String::new();
        TcpStream::connect(counts).await?.read_to_string(&mut text).await?;
        text.parse().map_err(io::Error::other)
    };
    asking.await.map_err(|error| Error::System("could not ask the target how many wait", error))
}

/// This process's memory in bytes, with its share of what it has in common with others.
fn memory() -> Result<u64, Error> {
    let read = |error| Error::System("could not read /proc/self/smaps_rollup", error);
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").map_err(read)?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = pss.and_then(|pss| pss.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| Error::Failed("/proc/self/smaps_rollup has no Pss".to_owned()))
}
