//! What things cost: our code beside the least that could do the same, in one run, in turns.
//!
//! What counts is CPU time per unit of work, as a ratio of the two sides; wall times on shared machines say little.

mod prober;
mod report;
mod reports;
mod sides;
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
    /// The prober's check beside a bare reqwest loop; and the memory of checks that wait for an answer
    Prober(prober::Options),
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

fn main() -> ExitCode {
    let done = match Options::parse().what {
        What::Prober(options) => prober::run(&options),
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
