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
    report::{How, Memory, Report, Round, Setting},
    sides::{Asked, Side, Which, allow_files},
    target::Target,
    waiting,
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
    pub(crate) how: How,
}

const WIDTHS: [usize; 3] = [1, 64, 1_000];
const SMOKE_WIDTHS: [usize; 3] = [1, 8, 16];

/// Measures, and prints Markdown.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let report = measure(options)?;
    crate::report::write(options.how.json.as_deref(), &report, &report.markdown())
}

/// Measures.
pub(crate) fn measure(options: &Options) -> Result<Report, Error> {
    allow_files();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::System("could not start", error))?;
    let target = Target::start()?;
    let file = tempfile::NamedTempFile::new().map_err(|error| Error::System("temporary file", error))?;
    fs::write(file.path(), &target.listening.authority)
        .map_err(|error| Error::System("temporary file", error))?;
    let measuring = Measuring { target: &target, authority: file.path(), options };
    let settings = runtime.block_on(measuring.settings())?;
    Ok(Report::new(settings, measuring.memory()?))
}

struct Measuring<'a> {
    target: &'a Target,
    authority: &'a Path,
    options: &'a Options,
}

impl Measuring<'_> {
    async fn settings(&self) -> Result<Vec<Setting>, Error> {
        let (rounds, length, widths) = match self.options.how.smoke {
            true => (1, Duration::from_millis(50), SMOKE_WIDTHS),
            false => (self.options.rounds, Duration::from_millis(self.options.round_ms), WIDTHS),
        };
        let sides = [Which::Check, Which::Bare, Which::Hyper].map(|which| Side::new(which, self.authority));
        let [ours, bare, hyper] = sides;
        let sides = [ours?, bare?, hyper?];
        let mut settings = Vec::new();
        for tls in [false, true] {
            let asked = Arc::new(self.asked(tls)?);
            for width in widths {
                // What the first ones bring about once and for all is nobody's.
                for side in &sides {
                    round(side, &asked, width, length / 4).await?;
                }
                // Many at once take a while to get under way, which is not what is measured.
                let length = if width == WIDTHS[2] { length * 2 } else { length };
                let mut turns = Vec::new();
                for number in 0..rounds {
                    let mut turn = [Round::default(); 3];
                    // Who comes next finds the machine as the one before has left it: turn about.
                    for place in 0..sides.len() {
                        let which = (number + place) % sides.len();
                        turn[which] = round(&sides[which], &asked, width, length).await?;
                    }
                    turns.push(turn);
                }
                settings.push(Setting { tls, width, turns });
            }
        }
        Ok(settings)
    }

    fn asked(&self, tls: bool) -> Result<Vec<Asked>, Error> {
        const TIMEOUT: Duration = Duration::from_secs(30);
        let listening = &self.target.listening;
        let addresses = if tls { &listening.tls } else { &listening.plain };
        addresses.iter().map(|address| Asked::new(*address, tls, TIMEOUT)).collect()
    }

    fn memory(&self) -> Result<Vec<Memory>, Error> {
        let checks = if self.options.how.smoke { 100 } else { self.options.waiting };
        let mut memory = Vec::new();
        for tls in [false, true] {
            let check = self.waiting(Which::Check, tls, checks)?;
            let bare = self.waiting(Which::Bare, tls, checks)?;
            memory.push(Memory { tls, check, bare });
        }
        Ok(memory)
    }

    fn waiting(&self, side: Which, tls: bool, checks: usize) -> Result<waiting::Found, Error> {
        let start = |error| Error::System("could not start the checks that wait", error);
        let listening = &self.target.listening;
        let silent = if tls { listening.silent_tls } else { listening.silent };
        let mut command = Command::new(std::env::current_exe().map_err(start)?);
        command
            .args(["waiting", "--side", if side == Which::Check { "check" } else { "bare" }])
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
async fn round(side: &Side, asked: &Arc<Vec<Asked>>, width: usize, length: Duration) -> Result<Round, Error> {
    let over = Arc::new(AtomicBool::new(false));
    let (began, cpu) = (Instant::now(), clock_gettime(ClockId::ProcessCPUTime));
    let mut tasks = JoinSet::new();
    for number in 0..width {
        let (side, asked, over) = (side.clone(), Arc::clone(asked), Arc::clone(&over));
        tasks.spawn(async move {
            let mut done = 0_u64;
            while !over.load(Ordering::Relaxed) {
                side.once(&asked[(number + done as usize) % asked.len()]).await?;
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
    Ok(Round { checks, cpu_s: cpu.as_secs_f64(), wall_s: wall.as_secs_f64() })
}
