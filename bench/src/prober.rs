//! `prober`: the check beside a bare reqwest loop, in turns, plain and with TLS, at several widths; then the memory of
//! checks that wait.

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

use rustix::time::{ClockId, clock_gettime};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Error,
    bench_report::{MemoryComparison, ProberReport, ProberRound, RunOptions, WidthResult},
    contenders::{Contender, ContenderKind, TargetRequest, raise_file_limit},
    idle_memory,
    target::BenchTarget,
};

/// How much is measured.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Turns at each setting
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: usize,
    /// How long each round is, in milliseconds; twice that at the greatest width
    #[arg(long, default_value_t = 700)]
    pub(crate) round_ms: u64,
    /// Checks that wait at once for a site that never answers
    #[arg(long, default_value_t = 10_000)]
    pub(crate) waiting: usize,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

const CHECK_WIDTHS: [usize; 3] = [1, 64, 1_000];
const SMOKE_WIDTHS: [usize; 3] = [1, 8, 16];

/// Measures, and prints Markdown.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let report = measure_prober(options)?;
    crate::bench_report::write_results(options.run_options.json.as_deref(), &report, &report.to_markdown())
}

/// Measures.
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
            .map(|which| Contender::new(which, self.authority));
        let [ours, bare, hyper] = sides;
        let sides = [ours?, bare?, hyper?];
        let mut settings = Vec::new();
        for tls in [false, true] {
            let asked = Arc::new(self.target_requests(tls)?);
            for width in widths {
                // What the first ones bring about once and for all is nobody's.
                for side in &sides {
                    run_round(side, &asked, width, length / 4).await?;
                }
                // Many at once take a while to get under way, which is not what is measured.
                let length = if width == CHECK_WIDTHS[2] { length * 2 } else { length };
                let mut turns = Vec::new();
                for number in 0..rounds {
                    let mut turn = [ProberRound::default(); 3];
                    // Who comes next finds the machine as the one before has left it: turn about.
                    for place in 0..sides.len() {
                        let which = (number + place) % sides.len();
                        turn[which] = run_round(&sides[which], &asked, width, length).await?;
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
        let listening = &self.target.addresses;
        let addresses = if tls { &listening.tls } else { &listening.plain };
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
        let listening = &self.target.addresses;
        let silent = if tls { listening.silent_tls } else { listening.silent };
        let mut command = Command::new(std::env::current_exe().map_err(start)?);
        command
            .args(["waiting", "--side", if side == ContenderKind::Check { "check" } else { "bare" }])
            .args(["--silent", &silent.to_string(), "--count", &listening.count.to_string()])
            .args(["--checks", &checks.to_string(), "--authority"])
            .arg(self.authority)
            .stderr(Stdio::inherit());
        if tls {
            command.arg("--tls");
        }
        let said = command.output().map_err(start)?;
        serde_json::from_slice(&said.stdout)
            .map_err(|why| Error::Failed(format!("the checks that wait ended with {}: {why}", said.status)))
    }
}

/// `width` at once, one after the other, for `length`; those under way at the end are waited for and counted.
async fn run_round(
    side: &Contender,
    asked: &Arc<Vec<TargetRequest>>,
    width: usize,
    length: Duration,
) -> Result<ProberRound, Error> {
    let over = Arc::new(AtomicBool::new(false));
    let (began, cpu) = (Instant::now(), clock_gettime(ClockId::ProcessCPUTime));
    let mut tasks = JoinSet::new();
    for number in 0..width {
        let (side, asked, over) = (side.clone(), Arc::clone(asked), Arc::clone(&over));
        tasks.spawn(async move {
            let mut done = 0_u64;
            while !over.load(Ordering::Relaxed) {
                side.run_once(&asked[(number + done as usize) % asked.len()]).await?;
                done += 1;
            }
            Ok::<_, Error>(done)
        });
    }
    tokio::time::sleep(length).await;
    over.store(true, Ordering::Relaxed);
    let mut checks = 0;
    while let Some(done) = tasks.join_next().await {
        checks += done.map_err(|why| Error::Failed(why.to_string()))??;
    }
    let (cpu_after, wall) = (clock_gettime(ClockId::ProcessCPUTime), began.elapsed());
    let nanos = (cpu_after.tv_sec - cpu.tv_sec) * 1_000_000_000 + (cpu_after.tv_nsec - cpu.tv_nsec);
    let cpu = Duration::from_nanos(nanos.unsigned_abs());
    Ok(ProberRound { checks, cpu_s: cpu.as_secs_f64(), wall_s: wall.as_secs_f64() })
}
