//! What things cost: our code beside the least that could do the same, in one run, in turns.
//!
//! What counts is CPU time per unit of work, as a ratio of the two sides; wall times on shared machines say little.

mod bench_report;
mod chain;
mod contenders;
mod coordinator;
mod full_run;
mod idle_memory;
mod nats_cost;
mod peers;
mod prober;
mod proc_usage;
mod reports;
mod schedule_scaling;
mod sink;
mod table;
mod takeover;
mod target;
mod testbed;
mod window;
mod windowed_publish;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

/// Measures what Picket's parts cost, beside the least that could do the same.
#[derive(Parser)]
#[command(name = "picket-bench", version)]
struct Options {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// All of it but the reports, in ten minutes: one table of goals, in Markdown and JSON
    All(full_run::Options),
    /// Every part on this machine: CPU time a check by process, lateness, and how soon rows are there
    Chain(chain::Options),
    /// A job of the coordinator's beside a bare publish loop; lateness by load; a million schedules
    Coordinator(coordinator::Options),
    /// Take-overs of all sites by a new coordinator, where regexes must be compiled and where they need not be
    Takeover(takeover::Options),
    /// A row of the sink's beside COPY by psql
    Sink(sink::Options),
    /// As many checks a second with one, ten and a hundred times the schedules
    Growth(schedule_scaling::Options),
    /// Others that do the same, on the same targets: blackbox_exporter with Prometheus, and a checker in Python
    Peers(peers::Options),
    /// The prober's check beside a bare reqwest loop; and the memory of checks that wait for an answer
    Prober(prober::Options),
    /// What nats-server takes for a job, by headers, pulls, acknowledgements and storage
    Messages(nats_cost::Options),
    /// The views of `report` on months of rollups: a site's questions and a fleet's; ten minutes and 8 GB of disk
    Reports(reports::Options),
    /// The server that is checked, in a process of its own; prints where it listens and ends with its standard input
    #[command(hide = true)]
    Target,
    /// Checks that wait for an answer, in a process of their own; prints what they take
    #[command(hide = true)]
    Waiting(idle_memory::Options),
}

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Something of the system's.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// What was to be measured did not work.
    #[error("{0}")]
    Failed(String),
}

/// Runs it on as many threads as there are cores.
fn block_on_runtime<T>(run: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::System("could not start", error))?;
    runtime.block_on(run)
}

/// Says how far it is.
fn log_progress(line: std::fmt::Arguments<'_>) {
    // Nobody who listens is nobody's trouble.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("picket-bench: {line}\n"));
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        BenchCommand::Chain(options) => block_on_runtime(chain::run(&options)),
        BenchCommand::Coordinator(options) => block_on_runtime(coordinator::run(&options)),
        BenchCommand::Takeover(options) => block_on_runtime(takeover::run(&options)),
        BenchCommand::Sink(options) => block_on_runtime(sink::run(&options)),
        BenchCommand::Growth(options) => block_on_runtime(schedule_scaling::run(&options)),
        BenchCommand::All(options) => full_run::run(&options),
        BenchCommand::Peers(options) => block_on_runtime(peers::run(&options)),
        BenchCommand::Prober(options) => prober::run(&options),
        BenchCommand::Messages(options) => block_on_runtime(nats_cost::run(&options)),
        BenchCommand::Reports(options) => reports::run(&options),
        BenchCommand::Target => target::run(),
        BenchCommand::Waiting(options) => idle_memory::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("picket-bench: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
