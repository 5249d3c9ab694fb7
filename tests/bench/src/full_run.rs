//! `all`: every bench except `reports` in a single run, with a table of goals as Markdown and JSON.

use std::{fs, path::PathBuf, process::Command};

use picket_harness::proc;
use serde::Serialize;

use crate::{
    Error,
    bench_report::{self, ProberReport, RunOptions},
    block_on_runtime,
    chain::{self, ChainReport, LoadPoint},
    coordinator::{self, CoordinatorReport},
    log_progress,
    peers::{self, PeersReport},
    prober,
    schedule_scaling::{self, ScalingReport},
    sink::{self, SinkReport},
    table::Table,
};

/// Output directory and inputs.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Directory for bench.md and bench.json
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Python with the packages in tests/bench/python/requirements.txt
    #[arg(long, env = "PICKET_BENCH_PYTHON", value_name = "FILE")]
    python: Option<PathBuf>,
    /// Run for a few seconds to see that everything works; the numbers are meaningless
    #[arg(long)]
    smoke: bool,
}

#[derive(Serialize)]
struct FullRun {
    machine: MachineInfo,
    goals: Vec<Goal>,
    prober: ProberReport,
    coordinator: CoordinatorReport,
    sink: SinkReport,
    chain: ChainReport,
    /// The chain again, after the other benches.
    again: ChainReport,
    growth: ScalingReport,
    peers: PeersReport,
}

/// Machine and versions of the run.
#[derive(Serialize)]
struct MachineInfo {
    cores: usize,
    cpu: String,
    kernel: String,
    commit: String,
    nats: String,
    postgres: String,
    /// True if this is an optimized build, whose numbers are meaningful.
    optimized: bool,
    /// Load average at the start, for 1, 5 and 15 minutes: processes that wanted a core beside this
    /// one.
    load: String,
}

/// Goal and the value found.
#[derive(Serialize)]
struct Goal {
    what: String,
    wanted: String,
    found: String,
    met: bool,
}

/// Runs all benches, prints Markdown, and writes both files.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let machine = MachineInfo::detect();
    let run_options = RunOptions { smoke: options.smoke, json: None };
    let prober = prober::measure_prober(&prober::Options {
        rounds: 3,
        round_ms: 500,
        waiting: 5_000,
        run_options: run_options.clone(),
    })?;
    log_progress(format_args!("prober bench finished"));
    let all = block_on_runtime(async {
        let python = options.python.clone();
        let chain = chain::Options {
            seconds: 12,
            climb_seconds: 6,
            run_options: run_options.clone(),
            ..parse_default_options()
        };
        let peers = peers::Options {
            seconds: 10,
            python,
            run_options: run_options.clone(),
            ..parse_default_options()
        };
        let sink = sink::Options { run_options: run_options.clone(), ..parse_default_options() };
        let coordinator =
            coordinator::Options { run_options: run_options.clone(), ..parse_default_options() };
        let growth = schedule_scaling::Options {
            seconds: 10,
            run_options: run_options.clone(),
            ..parse_default_options()
        };
        let again = chain::Options { most: 0, ..chain.clone() };
        let (chain, peers, again) =
            (chain::measure_chain(&chain), peers::measure_peers(&peers), chain::measure_chain(&again));
        let (sink, coordinator) = (sink::measure_sink(&sink), coordinator::measure_coordinator(&coordinator));
        let growth = schedule_scaling::measure_scaling(&growth);
        let (chain, peers, again, sink, coordinator, growth) = match run_options.smoke {
            // Smoke numbers are meaningless, so the benches may disturb each other.
            true => tokio::try_join!(chain, peers, again, sink, coordinator, growth)?,
            // Machines change within ten minutes. The chain is measured before and after the peers,
            // which it is compared with.
            false => {
                (chain.await?, peers.await?, again.await?, sink.await?, coordinator.await?, growth.await?)
            }
        };
        let goals = evaluate_goals(&prober, &coordinator, &sink, [&chain, &again], &growth, &peers);
        Ok(FullRun { machine, goals, prober, coordinator, sink, chain, again, growth, peers })
    })?;
    fs::create_dir_all(&options.out).map_err(|error| Error::System("could not make the directory", error))?;
    let markdown = all.to_markdown();
    let file = options.out.join("bench.md");
    fs::write(file, &markdown).map_err(|error| Error::System("could not write the Markdown", error))?;
    bench_report::write_results(Some(&options.out.join("bench.json")), &all, &markdown)
}

/// Options of a bench with all values at their default.
fn parse_default_options<T: clap::Args>() -> T {
    let command = T::augment_args(clap::Command::new("bench"));
    let matches = command.get_matches_from(["bench"]);
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

impl MachineInfo {
    fn detect() -> Self {
        let system = rustix::system::uname();
        let version = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.ok().filter(|output| output.status.success()).map_or_else(
                || "unknown".to_owned(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            )
        };
        let tools = std::env::var("PICKET_TOOLS_DIR").unwrap_or_else(|_| ".tools".to_owned());
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: proc::cpu_model(),
            kernel: system.release().to_string_lossy().into_owned(),
            commit: version("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            nats: version(&format!("{tools}/bin/nats-server"), &["--version"]),
            postgres: version(&format!("{tools}/postgres/bin/postgres"), &["--version"]),
            optimized: !cfg!(debug_assertions),
            load: proc::load_average(),
        }
    }
}

/// Number of concurrent checks in the goal for the prober: many, as in production, but too few to
/// measure the kernel's queues instead.
const GOAL_WIDTH: usize = 64;

fn evaluate_goals(
    prober: &ProberReport,
    coordinator: &CoordinatorReport,
    sink: &SinkReport,
    [chain, again]: [&ChainReport; 2],
    growth: &ScalingReport,
    peers: &PeersReport,
) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut goal = |what: String, wanted: &str, found: f64, met: bool| {
        let found = if found < 10.0 { format!("{found:.2}") } else { format!("{found:.0}") };
        goals.push(Goal { what, wanted: wanted.to_owned(), found, met });
    };
    for (name, tls) in [("plain", false), ("TLS", true)] {
        let (ratio, bare) = prober.ratio_at_width(tls, GOAL_WIDTH);
        let what = format!("prober: checks per CPU-second by bare reqwest's, {name} (bare: {bare:.0} µs)");
        goal(what, "≥ 0.9", ratio, ratio >= 0.9);
    }
    let ratio = coordinator.cpu_ratio();
    goal(
        "coordinator: jobs per CPU-second by a bare publish loop's".to_owned(),
        "≥ 0.6",
        ratio,
        ratio >= 0.6,
    );
    let ratio = sink.cpu_ratio(|round| round.copy_text);
    goal("sink: rows per CPU-second, with Postgres, by COPY's".to_owned(), "≥ 0.4", ratio, ratio >= 0.4);
    if let Some(highest) = chain.highest_sustained() {
        let (rate, rest) = (highest.offered, 1.0 - highest.part_us("prober") / highest.total_us());
        goal(format!("chain at {rate}/s: share of all but the prober"), "≤ 0.5", rest, rest <= 0.5);
        let us = highest.total_us();
        goal(format!("chain at {rate}/s: CPU µs a check"), "≤ 220", us, us <= 220.0);
    }
    if let Some(half) = chain.half_sustained() {
        let late = half.lateness_ms.p99;
        let what = format!("chain at {}/s, half of what it sustains: p99 lateness, ms", half.offered);
        goal(what, "< 50", late, late < 50.0);
    }
    for peer in peers.peers.iter().filter(|peer| peer.is_sustained()) {
        let min_ratio = if peer.who.starts_with("Python") { 2.0 } else { 3.0 };
        let rate = peer.offered;
        let before_and_after =
            [chain, again].map(|chain| chain.levels.iter().find(|level| level.offered == rate));
        if let [Some(before), Some(after)] = before_and_after {
            let times = peer.total_us() * 2.0 / (before.total_us() + after.total_us());
            let what = format!("{}: CPU µs a check by the chain's, at {rate}/s", peer.who);
            goal(what, &format!("≥ {min_ratio}"), times, times >= min_ratio);
        }
    }
    let held = &coordinator.held;
    let mb = held.memory as f64 / 1e6;
    goal(format!("{} schedules: MB", held.schedules), "≤ 250", mb, mb <= 250.0);
    let seconds = held.all_scheduled_s;
    goal(format!("{} schedules: all scheduled after, s", held.schedules), "≤ 10", seconds, seconds <= 10.0);
    let ratio = growth.cost_ratio();
    let times = growth.levels.last().zip(growth.levels.first());
    let times =
        times.map_or(0, |(last, first): (&LoadPoint, &LoadPoint)| last.schedules / first.schedules.max(1));
    goal(
        format!("{times} times the schedules: cost of a check by that of once"),
        "≤ 1.1",
        ratio,
        ratio <= 1.1,
    );
    goals
}

impl FullRun {
    fn to_markdown(&self) -> String {
        let MachineInfo { cores, cpu, kernel, commit, nats, postgres, optimized, load } = &self.machine;
        let mut table = Table::new(["goal", "wanted", "found", ""]);
        for Goal { what, wanted, found, met } in &self.goals {
            table.add_row([what.as_str(), wanted, found, if *met { "yes" } else { "**no**" }]);
        }
        let debug = if *optimized { "" } else { " A debug build: these numbers are meaningless." };
        format!(
            "# What Picket costs\n\n{cores} cores ({cpu}), Linux {kernel}, load {load} at the start; commit {commit}; {nats}; {postgres}.{debug}\n\n\
             CPU time is what compares; the targets run on the same cores and are not counted.\n\n{table}\n{}\n{}\nThe chain again, after them:\n\n{}\n{}\n{}\n{}\n{}",
            self.chain.to_markdown(),
            self.peers.to_markdown(),
            chain::build_table(&self.again.levels),
            self.growth.to_markdown(),
            self.prober.to_markdown(),
            self.coordinator.to_markdown(),
            self.sink.to_markdown(),
        )
    }
}
