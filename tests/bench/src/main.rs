//! Benches that compare Picket's code with the minimal code for the same task, in turns within a
//! single run.
//!
//! The measure is CPU time per unit of work, as a ratio of both sides. Wall times on shared
//! machines are unreliable.

mod assertions;
mod bench_report;
mod chain;
mod contenders;
mod coordinator;
mod full_run;
mod idle_memory;
mod live;
mod nats_cost;
mod peers;
mod prober;
mod reports;
mod schedule_scaling;
mod sink;
mod table;
mod takeover;
mod target;
mod testbed;
mod viewed_chain;
mod web;
mod window;
mod windowed_publish;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

/// Measures the cost of Picket's parts, compared with the minimal code for the same task
#[derive(Parser)]
#[command(name = "picket-bench", version)]
struct Options {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// The chain and its parts, in ten minutes; prints a table of goals as Markdown and writes JSON
    All(full_run::Options),
    /// All parts on this machine: CPU time per check by process, lateness, and delay until rows are
    /// committed
    Chain(chain::Options),
    /// Cost of a job compared with a bare publish loop; lateness by load; a million schedules
    Coordinator(coordinator::Options),
    /// Cost of acquiring all sites by a new coordinator, with regexes to compile and with recorded
    /// ones
    Takeover(takeover::Options),
    /// Cost of a row compared with COPY by psql
    Sink(sink::Options),
    /// Cost of a check at a constant rate with one, ten and a hundred times the schedules
    Growth(schedule_scaling::Options),
    /// Cost of other monitors on the same targets: blackbox_exporter with Prometheus, and a checker
    /// in Python
    Peers(peers::Options),
    /// Cost of a check compared with a bare reqwest loop; memory of checks that wait for a response
    Prober(prober::Options),
    /// Cost of a live result delivered to a viewer, and memory of a viewer
    Live(live::Options),
    /// Cost of a check with and without viewers of the live page
    ViewedChain(viewed_chain::Options),
    /// Times of pages and lists at two numbers of sites; CPU time of the API's list beside its
    /// statement
    Web(web::Options),
    /// Time to evaluate the most expensive assertions, and the delay of other tasks meanwhile
    Assertions(assertions::Options),
    /// CPU time of nats-server per job, by headers, pulls, acknowledgements and storage
    Messages(nats_cost::Options),
    /// Query times of the `report` views on months of rollups, for sites and fleets; takes ten
    /// minutes and 8 GB of disk
    Reports(reports::Options),
    /// Target server as a separate process; prints its addresses and ends with its standard input
    #[command(hide = true)]
    Target,
    /// Waiting checks as a separate process; prints their memory
    #[command(hide = true)]
    Waiting(idle_memory::Options),
}

/// Reasons for a failed bench.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The operating system reported an error.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// The measured code failed.
    #[error("{0}")]
    Failed(String),
}

/// Runs a future on a runtime with as many threads as cores.
fn block_on_runtime<T>(run: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::System("could not start", error))?;
    runtime.block_on(run)
}

/// Logs progress to standard error.
fn log_progress(line: std::fmt::Arguments<'_>) {
    // A closed standard error must not end the bench.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("picket-bench: {line}\n"));
}

fn main() -> ExitCode {
    let result = match Options::parse().command {
        BenchCommand::Chain(options) => block_on_runtime(chain::run(&options)),
        BenchCommand::Coordinator(options) => block_on_runtime(coordinator::run(&options)),
        BenchCommand::Takeover(options) => block_on_runtime(takeover::run(&options)),
        BenchCommand::Sink(options) => block_on_runtime(sink::run(&options)),
        BenchCommand::Growth(options) => block_on_runtime(schedule_scaling::run(&options)),
        BenchCommand::All(options) => full_run::run(&options),
        BenchCommand::Peers(options) => block_on_runtime(peers::run(&options)),
        BenchCommand::Prober(options) => prober::run(&options),
        BenchCommand::Live(options) => block_on_runtime(live::run(&options)),
        BenchCommand::ViewedChain(options) => block_on_runtime(viewed_chain::run(&options)),
        BenchCommand::Web(options) => block_on_runtime(web::run(&options)),
        BenchCommand::Assertions(options) => assertions::run(&options),
        BenchCommand::Messages(options) => block_on_runtime(nats_cost::run(&options)),
        BenchCommand::Reports(options) => reports::run(&options),
        BenchCommand::Target => target::run(),
        BenchCommand::Waiting(options) => idle_memory::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("picket-bench: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
