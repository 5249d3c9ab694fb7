//! `picket`, the operator's command: the tree of its commands.

mod apply;
mod check;
mod connect;
mod demo;
mod discovery;
mod env_file;
mod error;
mod generate_sites;
mod leases;
mod ledger;
mod maintenance;
mod migrate;
mod nats;
mod output;
mod probers;
mod region;
mod report;
mod service_file;
mod site;
mod site_args;
mod status;
mod tail;
mod up;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::Error;

/// A line is a paragraph; clap breaks it where the terminal ends.
const AFTER_HELP: &str = "\
Begin with 'picket up' here, and in another terminal: picket site add https://example.com, picket status

Exit codes:
  0  well
  1  the answer is bad: a site is down, a tick is unaccounted for
  2  wrong usage, or input that is refused
  3  could not reach what it needs

DATABASE_URL and NATS_URL say where the system is; without them a running 'picket up' is found by itself.";

/// Watches websites: runs, defines and shows it all.
#[derive(Parser, Debug)]
#[command(
    name = "picket",
    version,
    max_term_width = 110,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run all of Picket here, with its own NATS and Postgres, until Ctrl-C
    ///
    /// NATS and Postgres are started on 127.0.0.1, unless NATS_URL or DATABASE_URL name others. Checks may connect
    /// to loopback addresses, which elsewhere they may not. If there is a sites.yaml it is applied. A second start
    /// finds the data of the first.
    Up(Box<up::UpOptions>),
    /// Stop a running `picket up` from another terminal, or what a killed one left behind
    Down(up::DownOptions),
    /// The same as `up`, with a target that misbehaves and sites on it, to see every kind of row within a minute
    ///
    /// Its data are kept apart, in .picket-demo; remove that directory and no trace is left.
    Demo(Box<demo::DemoOptions>),
    /// Bring the database's schema up to date
    Migrate(migrate::MigrateOptions),
    /// Sites: add, list, show, set, pause, resume, remove
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// Make the sites what a file says
    Apply(apply::ApplyOptions),
    /// Write all sites as a file that `apply` takes
    Export(apply::ExportOptions),
    /// Regions: add, list, remove
    #[command(subcommand)]
    Region(region::RegionCommand),
    /// A NATS of your own: write its configuration, with a credential for each role and region
    #[command(subcommand)]
    Nats(nats::NatsCommand),
    /// Maintenance: add, list, remove windows in which no incident opens
    #[command(subcommand)]
    Maintenance(maintenance::MaintenanceCommand),
    /// Ask probers to check something now
    Check(Box<check::AdhocCheckOptions>),
    /// How all sites are, on one screen; exit code 1 if any is down
    Status(status::StatusOptions),
    /// Show results and events as they come
    Tail(Box<tail::TailOptions>),
    /// Who checks, where, and how busy they are
    Probers(Box<probers::ProbersOptions>),
    /// Which coordinator schedules what
    Leases(leases::LeasesOptions),
    /// What became of every tick; exit code 1 if one is unaccounted for
    ///
    /// Each tick of each schedule should end as exactly one row (up, down or missed), or lie in a gap that is on
    /// record: a long time without a coordinator. This counts both sides in the database. Ticks of the last minutes
    /// may still be under way and are left out.
    Ledger(ledger::LedgerOptions),
    /// Reports over days: uptime, latency, incidents, failures
    ///
    /// Days are those of UTC, and today is up to now. SQL has more: see docs/reporting.md.
    #[command(subcommand)]
    Report(report::ReportCommand),
    /// Add dummy sites, for load
    Generate(generate_sites::GenerateOptions),
}

#[tokio::main]
async fn main() -> ExitCode {
    picket_runtime::process::install_crypto_provider();
    let matches = Cli::command().get_matches();
    let ended = match Cli::from_arg_matches(&matches) {
        Ok(cli) => run_command(cli.command, &matches).await,
        Err(error) => error.exit(),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if !matches!(error, Error::BrokenPipe) {
                output::print_error(&error);
            }
            error.exit_code()
        }
    }
}

/// Ends with the exit code of a command that did what it was asked.
async fn run_command(command: Command, matches: &ArgMatches) -> Result<u8, Error> {
    let done = match command {
        Command::Up(options) => return up::run_up(*options, matches, None).await,
        Command::Demo(options) => return demo::run(*options, matches).await,
        Command::Check(options) => return check::run(*options, matches).await,
        Command::Status(options) => return status::run(options, matches).await,
        Command::Ledger(options) => return ledger::run(options, matches).await,
        Command::Down(options) => up::run_down(options).await,
        Command::Migrate(options) => migrate::run(options, matches).await,
        Command::Site(command) => site::run(command, matches).await,
        Command::Apply(options) => apply::run_apply(options, matches).await,
        Command::Export(options) => apply::run_export(options, matches).await,
        Command::Region(command) => region::run(command, matches).await,
        Command::Nats(command) => nats::run(command, matches).await,
        Command::Maintenance(command) => maintenance::run(command, matches).await,
        Command::Tail(options) => tail::run(*options, matches).await,
        Command::Probers(options) => probers::run(*options, matches).await,
        Command::Leases(options) => leases::run(options, matches).await,
        Command::Report(command) => report::run(command, matches).await,
        Command::Generate(options) => generate_sites::run(options, matches).await,
    };
    done.map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_commands_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_option_that_makes_no_sense_is_refused_by_name_value_and_what_is_allowed() {
        for (arguments, parts) in [
            (&["up", "--nats-port", "0"][..], &["--nats-port", "0", "1..=65535"][..]),
            (&["up", "--regions", "a,EU"], &["--regions", "EU", "a-z"]),
            (&["up", "--lease-time", "1s"], &["--lease-time", "1s", "3s to 5m"]),
            (&["up", "--allow-addresses", "ten"], &["--allow-addresses", "ten", "10.0.0.0/8"]),
            (&["site", "add", "http://x", "--interval", "5"], &["--interval", "'5'", "15s"]),
            (&["site", "list", "--output", "yaml"], &["--output", "yaml", "table", "json"]),
            (&["region", "add", "any"], &["any", "adhoc"]),
            (&["migrate", "--shards", "0"], &["--shards", "0", "1..=1024"]),
            (&["generate", "-1", "--base-url", "http://x/"], &["-1"]),
            (&["ledger", "--since", "5"], &["--since", "'5'", "15s"]),
            (&["up", "--ledger-grace", "1s"], &["--ledger-grace", "1s", "10s to 1h"]),
            (&["up", "--gather", "1s"], &["--gather", "1s", "10ms to 500ms"]),
            (&["maintenance", "add", "7", "--to", "soon"], &["--to", "soon", "+2h"]),
            (&["maintenance", "add", "--to", "+2h"], &["--tag"]),
            (&["report", "uptime", "--since", "month"], &["--since", "'month'", "15s"]),
            (&["report", "latency", "--output", "yaml"], &["--output", "yaml", "table", "json", "csv"]),
            (&["tail", "--outcome", "sideways"], &["--outcome", "sideways", "up, down, missed"]),
        ] {
            let refusal = Cli::try_parse_from([&["picket"], arguments].concat()).unwrap_err();
            assert_eq!(refusal.exit_code(), 2);
            for part in parts {
                assert!(refusal.to_string().contains(part), "{part}: {refusal}");
            }
        }
    }

    #[test]
    fn every_listing_takes_the_output_option() {
        for listing in [
            &["site", "list"][..],
            &["site", "show", "1"],
            &["region", "list"],
            &["check", "http://x"],
            &["status"],
            &["tail"],
            &["probers"],
            &["leases"],
            &["ledger"],
            &["maintenance", "list"],
            &["report", "uptime"],
            &["report", "latency"],
            &["report", "incidents"],
            &["report", "failures"],
        ] {
            Cli::try_parse_from([&["picket"], listing, &["--output", "json"]].concat()).unwrap();
        }
    }
}
