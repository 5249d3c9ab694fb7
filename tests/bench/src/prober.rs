//! `prober`: the check compared with a bare reqwest loop, in turns, plain and with TLS, with
//! different numbers of concurrent checks; then the memory of waiting checks.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use picket_harness::proc;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Error,
    bench_report::{MemoryComparison, ProberReport, ProberRound, RunOptions, WidthResult},
    contenders::{Contender, ContenderKind, TargetRequest, raise_file_limit},
    idle_memory,
    target::BenchTarget,
};

/// Rounds and sizes.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Turns at each number of concurrent checks
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: usize,
    /// Length of each round, in milliseconds; doubled at the largest number of concurrent checks
    #[arg(long, default_value_t = 700)]
    pub(crate) round_ms: u64,
    /// Concurrent checks that wait for a site without a response
    #[arg(long, default_value_t = 10_000)]
    pub(crate) waiting: usize,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

const CHECK_WIDTHS: [usize; 3] = [1, 64, 1_000];
const SMOKE_WIDTHS: [usize; 3] = [1, 8, 16];

/// Measures and prints Markdown.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let report = measure_prober(options)?;
    crate::bench_report::write_results(options.run_options.json.as_deref(), &report, &report.to_markdown())
}

/// Measures the prober.
pub(crate) fn measure_prober(options: &Options) -> Result<ProberReport, Error> {
    raise_file_limit();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::System("could not start", error))?;
    let target = BenchTarget::start()?;
    let file = tempfile::NamedTempFile::new().map_err(|error| Error::System("temporary file", error))?;
    fs::write(file.path(), &target.addresses.authority)
        .map_err(|error| Error::System("temporary file", error))?;
    let measuring = ProberBench { target: &target, authority: file.path(), options };
    let settings = runtime.block_on(measuring.measure_widths())?;
    Ok(ProberReport::new(settings, measuring.measure_memory()?))
}

struct ProberBench<'a> {
    target: &'a BenchTarget,
    authority: &'a Path,
    options: &'a Options,
}

impl ProberBench<'_> {
    async fn measure_widths(&self) -> Result<Vec<WidthResult>, Error> {
        let (rounds, length, widths) = match self.options.run_options.smoke {
            true => (1, Duration::from_millis(50), SMOKE_WIDTHS),
            false => (self.options.rounds, Duration::from_millis(self.options.round_ms), CHECK_WIDTHS),
        };
        let sides = [ContenderKind::Check, ContenderKind::Bare, ContenderKind::Hyper]
            .map(|kind| Contender::new(kind, self.authority));
        let [ours, bare, hyper] = sides;
        let sides = [ours?, bare?, hyper?];
        let mut settings = Vec::new();
        for tls in [false, true] {
            let requests = Arc::new(self.target_requests(tls)?);
            for width in widths {
                // Warm-up: one-time costs are excluded.
                for side in &sides {
                    run_round(side, &requests, width, length / 4).await?;
                }
                // Many concurrent checks take longer to reach a steady state.
                let length = if width == CHECK_WIDTHS[2] { length * 2 } else { length };
                let mut turns = Vec::new();
                for number in 0..rounds {
                    let mut turn = [ProberRound::default(); 3];
                    // The order rotates, because each contender finds the machine as the previous
                    // one left it.
                    for place in 0..sides.len() {
                        let contender = (number + place) % sides.len();
                        turn[contender] = run_round(&sides[contender], &requests, width, length).await?;
                    }
                    turns.push(turn);
                }
                settings.push(WidthResult { tls, width, turns });
            }
        }
        Ok(settings)
    }

    fn target_requests(&self, tls: bool) -> Result<Vec<TargetRequest>, Error> {
        const TIMEOUT: Duration = Duration::from_secs(30);
        let target_addresses = &self.target.addresses;
        let addresses = if tls { &target_addresses.tls } else { &target_addresses.plain };
        addresses.iter().map(|address| TargetRequest::new(*address, tls, TIMEOUT)).collect()
    }

    fn measure_memory(&self) -> Result<Vec<MemoryComparison>, Error> {
        let checks = if self.options.run_options.smoke { 100 } else { self.options.waiting };
        let mut memory = Vec::new();
        for tls in [false, true] {
            let check = self.measure_idle_checks(ContenderKind::Check, tls, checks)?;
            let bare = self.measure_idle_checks(ContenderKind::Bare, tls, checks)?;
            memory.push(MemoryComparison { tls, check, bare });
        }
        Ok(memory)
    }

    fn measure_idle_checks(
        &self,
        side: ContenderKind,
        tls: bool,
        checks: usize,
    ) -> Result<idle_memory::IdleMemory, Error> {
        let start = |error| Error::System("could not start the checks that wait", error);
        let target_addresses = &self.target.addresses;
        let silent = if tls { target_addresses.silent_tls } else { target_addresses.silent };
        let mut command = Command::new(std::env::current_exe().map_err(start)?);
        command
            .args(["waiting", "--side", if side == ContenderKind::Check { "check" } else { "bare" }])
            .args(["--silent", &silent.to_string(), "--count", &target_addresses.count.to_string()])
            .args(["--checks", &checks.to_string(), "--authority"])
            .arg(self.authority)
            .stderr(Stdio::inherit());
        if tls {
            command.arg("--tls");
        }
        let output = command.output().map_err(start)?;
        serde_json::from_slice(&output.stdout).map_err(|why| {
            Error::Failed(format!("the process of waiting checks ended with {}: {why}", output.status))
        })
    }
}

/// Runs `width` concurrent loops of checks for `length`. Checks running at the end are completed
/// and counted.
async fn run_round(
    side: &Contender,
    requests: &Arc<Vec<TargetRequest>>,
    width: usize,
    length: Duration,
) -> Result<ProberRound, Error> {
    let is_over = Arc::new(AtomicBool::new(false));
    let (began, cpu) = (Instant::now(), proc::own_cpu_seconds());
    let mut tasks = JoinSet::new();
    for number in 0..width {
        let (side, requests, is_over) = (side.clone(), Arc::clone(requests), Arc::clone(&is_over));
        tasks.spawn(async move {
            let mut done = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                side.run_once(&requests[(number + done as usize) % requests.len()]).await?;
                done += 1;
            }
            Ok::<_, Error>(done)
        });
    }
    tokio::time::sleep(length).await;
    is_over.store(true, Ordering::Relaxed);
    let mut checks = 0;
    while let Some(done) = tasks.join_next().await {
        checks += done.map_err(|why| Error::Failed(why.to_string()))??;
    }
    let (cpu_s, wall) = (proc::own_cpu_seconds() - cpu, began.elapsed());
    Ok(ProberRound { checks, cpu_s, wall_s: wall.as_secs_f64() })
}
