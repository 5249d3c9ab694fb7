//! What things cost: our code beside the least that could do the same, in one run, in turns.
//!
//! What counts is CPU time per unit of work, as a ratio of the two sides; wall times on shared machines say little.

mod all;
mod bed;
mod bus;
mod chain;
mod coordinator;
mod cpu;
mod growth;
mod messages;
mod peers;
mod prober;
mod report;
mod reports;
mod sides;
mod sink;
mod span;
mod table;
mod target;
mod waiting;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

/// Measures what Picket's parts cost, beside the least that could do the same.
#[derive(Parser)]
#[command(name = "picket-bench", version)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// All of it but the reports, in ten minutes: one table of goals, in Markdown and JSON
    All(all::Options),
    /// Every part on this machine: CPU time a check by process, lateness, and how soon rows are there
    Chain(chain::Options),
    /// A job of the coordinator's beside a bare publish loop; lateness by load; a million schedules
    Coordinator(coordinator::Options),
    /// A row of the sink's beside COPY by psql
    Sink(sink::Options),
    /// As many checks a second with one, ten and a hundred times the schedules
    Growth(growth::Options),
    /// Others that do the same, on the same targets: blackbox_exporter with Prometheus, and a checker in Python
    Peers(peers::Options),
    /// The prober's check beside a bare reqwest loop; and the memory of checks that wait for an answer
    Prober(prober::Options),
    /// What nats-server takes for a job, by headers, pulls, acknowledgements and storage
    Messages(messages::Options),
    /// The views of `report` on months of rollups: a site's questions and a fleet's; ten minutes and 8 GB of disk
    Reports(reports::Options),
    /// The server that is checked, in a process of its own; prints where it listens and ends with its standard input
    #[command(hide = true)]
    Target,
    /// Checks that wait for an answer, in a process of their own; prints what they take
    #[command(hide = true)]
    Waiting(waiting::Options),
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
fn on_a_runtime<T>(run: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::System("could not start", error))?;
    runtime.block_on(run)
}

/// Says how far it is.
fn say(line: std::fmt::Arguments<'_>) {
    // Nobody who listens is nobody's trouble.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("picket-bench: {line}\n"));
}

fn main() -> ExitCode {
    let done = match Options::parse().what {
        What::Chain(options) => on_a_runtime(chain::run(&options)),
        What::Coordinator(options) => on_a_runtime(coordinator::run(&options)),
        What::Sink(options) => on_a_runtime(sink::run(&options)),
        What::Growth(options) => on_a_runtime(growth::run(&options)),
        What::All(options) => all::run(&options),
        What::Peers(options) => on_a_runtime(peers::run(&options)),
        What::Prober(options) => prober::run(&options),
        What::Messages(options) => on_a_runtime(messages::run(&options)),
        What::Reports(options) => reports::run(&options),
        What::Target => target::run(),
        What::Waiting(options) => waiting::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("picket-bench: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
