//! `picket`, the operator's command: the definition of its command tree.

mod apply;
mod assertion_syntax;
mod channel;
mod check;
mod completions;
mod connect;
#[cfg(feature = "local")]
mod demo;
mod error;
mod generate_sites;
mod incident;
mod leases;
mod ledger;
mod maintenance;
#[cfg(feature = "local")]
mod manual;
mod migrate;
mod nats;
mod notification;
mod notifier;
mod output;
mod person;
mod probers;
#[cfg(feature = "local")]
mod reference;
mod region;
mod report;
mod route;
mod settings;
mod silence;
mod site;
mod site_args;
mod status;
mod tail;
mod time_arg;
mod token;
#[cfg(feature = "local")]
mod up;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::Error;

/// Each line is a paragraph, which clap wraps at the width of the terminal.
const AFTER_HELP: &str = "\
Exit codes:
  0  success
  1  negative result: a site is down, a tick is unaccounted for, a site was not exported, a test message was refused
  2  wrong usage or refused input
  3  a required service could not be reached

DATABASE_URL and NATS_URL select the system; without them, commands use a running 'picket up'.";

fn after_help() -> String {
    let first_steps = "Start with 'picket up', then in another terminal: picket site add https://example.com, picket status";
    match cfg!(feature = "local") {
        true => format!("{first_steps}\n\n{AFTER_HELP}"),
        false => AFTER_HELP.to_owned(),
    }
}

/// Website monitoring: run Picket, define sites, show results
#[derive(Parser, Debug)]
#[command(
    name = "picket",
    version,
    max_term_width = 110,
    after_help = after_help()
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    #[cfg(feature = "local")]
    /// Run Picket locally, with its own NATS and Postgres, until Ctrl-C
    ///
    /// NATS and Postgres are started on 127.0.0.1, unless NATS_URL or DATABASE_URL name other servers.
    /// Checks may connect to loopback addresses, which a separate prober refuses. A file sites.yaml in
    /// the current directory is applied. The next start reuses the data. Settings given as options or
    /// variables are set in the database, in an existing one too.
    Up(Box<up::UpOptions>),
    #[cfg(feature = "local")]
    /// Stop a running `picket up`, or servers left running by a killed one
    Down(up::DownOptions),
    #[cfg(feature = "local")]
    /// Run `picket up` with a demo target whose sites show every kind of result within a minute
    ///
    /// The data is kept apart, in .picket-demo. Remove that directory to remove every trace.
    Demo(Box<demo::DemoOptions>),
    /// Migrate the database schema to the version of this program
    ///
    /// Settings given as options or variables are set in the database, in an existing one too.
    Migrate(migrate::MigrateOptions),
    /// Manage the settings that all processes share: list, get, set
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// Manage sites: add, list, show, set, pause, resume, remove
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// Add and change sites as defined in a YAML file
    Apply(apply::ApplyOptions),
    /// Print all sites as a YAML file for `apply`
    Export(apply::ExportOptions),
    /// Manage regions: add, list, remove
    #[command(subcommand)]
    Region(region::RegionCommand),
    /// Configure a NATS server with a credential for each role and region
    #[command(subcommand)]
    Nats(nats::NatsCommand),
    /// Manage tokens of the API and the web UI: create, list, revoke
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Manage maintenance windows, in which no incident opens: add, list, remove
    #[command(subcommand)]
    Maintenance(maintenance::MaintenanceCommand),
    /// Manage channels of notifications: add, list, show, set, test, pause, resume, remove
    #[command(subcommand)]
    Channel(channel::ChannelCommand),
    /// Manage routes to channels: add, list, show, set, pause, resume, remove, test
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Manage silences, in which nobody is told: add, list, remove
    #[command(subcommand)]
    Silence(silence::SilenceCommand),
    /// List, show and acknowledge incidents
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// List and show notifications, and have failed ones tried once more
    #[command(subcommand)]
    Notification(notification::NotificationCommand),
    /// Check a URL now, from every region or from selected ones
    Check(Box<check::AdhocCheckOptions>),
    /// Show the status of all sites; exit code 1 if any is down
    Status(status::StatusOptions),
    /// Print results and events as they arrive
    Tail(Box<tail::TailOptions>),
    /// List active probers with their load, and regions without active probers
    Probers(Box<probers::ProbersOptions>),
    /// List coordinators with the shards that they schedule
    Leases(leases::LeasesOptions),
    /// Account for every tick; exit code 1 if any is unaccounted for
    ///
    /// Each tick of each schedule must end as exactly one row (up, down or missed), or lie in a recorded
    /// gap, a long time without a coordinator. The command counts expected ticks and rows in the
    /// database. Ticks of the last minutes may still be in progress and are left out. With
    /// --notifications, it accounts for what each channel was to be told of each incident.
    Ledger(ledger::LedgerOptions),
    /// Report uptime, latency, incidents, warnings or failures over days
    ///
    /// Days are UTC days; the last day ends now. For reports in SQL see docs/how-to/sql-reports.md.
    #[command(subcommand)]
    Report(report::ReportCommand),
    /// Add generated sites for load tests
    Generate(generate_sites::GenerateOptions),
    /// Print the completion script of a shell
    Completions(completions::CompletionsOptions),
    #[cfg(feature = "local")]
    /// Write the manual pages of all programs
    #[command(hide = true)]
    Man(manual::ManualOptions),
    #[cfg(feature = "local")]
    /// Write the generated parts of the reference documents
    #[command(hide = true)]
    Reference(reference::ReferenceOptions),
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

/// Runs the command and returns its exit code: 0, or 1 for a negative result.
async fn run_command(command: Command, matches: &ArgMatches) -> Result<u8, Error> {
    let done = match command {
        #[cfg(feature = "local")]
        Command::Up(options) => return up::run_up(*options, matches).await,
        #[cfg(feature = "local")]
        Command::Demo(options) => return demo::run(*options, matches).await,
        Command::Check(options) => return check::run(*options, matches).await,
        Command::Status(options) => return status::run(options, matches).await,
        Command::Export(options) => return apply::run_export(options, matches).await,
        Command::Ledger(options) => return ledger::run(options, matches).await,
        Command::Channel(command) => return channel::run(command, matches).await,
        #[cfg(feature = "local")]
        Command::Down(options) => up::run_down(options).await,
        Command::Migrate(options) => migrate::run(options, matches).await,
        Command::Settings(command) => settings::run(command, matches).await,
        Command::Site(command) => site::run(command, matches).await,
        Command::Apply(options) => apply::run_apply(options, matches).await,
        Command::Region(command) => region::run(command, matches).await,
        Command::Nats(command) => nats::run(command, matches).await,
        Command::Token(command) => token::run(command, matches).await,
        Command::Maintenance(command) => maintenance::run(command, matches).await,
        Command::Route(command) => route::run(command, matches).await,
        Command::Silence(command) => silence::run(command, matches).await,
        Command::Incident(command) => incident::run(command, matches).await,
        Command::Notification(command) => notification::run(command, matches).await,
        Command::Tail(options) => tail::run(*options, matches).await,
        Command::Probers(options) => probers::run(*options, matches).await,
        Command::Leases(options) => leases::run(options, matches).await,
        Command::Report(command) => report::run(command, matches).await,
        Command::Generate(options) => generate_sites::run(options, matches).await,
        Command::Completions(options) => completions::run(&options),
        #[cfg(feature = "local")]
        Command::Man(options) => manual::run(&options),
        #[cfg(feature = "local")]
        Command::Reference(options) => reference::run(&options),
    };
    done.map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_invalid_option_is_refused_with_name_value_and_allowed_values() {
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
            (&["up", "--batch-delay", "1s"], &["--batch-delay", "1s", "10ms to 500ms"]),
            (&["migrate", "--results-max-bytes", "much"], &["--results-max-bytes", "much", "1MiB to 64TiB"]),
            (&["settings", "set", "lease_time"], &["VALUE"]),
            (&["maintenance", "add", "7", "--to", "soon"], &["--to", "soon", "+2h"]),
            (&["maintenance", "add", "--to", "+2h"], &["--tag"]),
            (
                &["token", "create", "ci", "--scopes", "root"],
                &["--scopes", "root", "read, write, check, admin"],
            ),
            (&["token", "create", "ci"], &["--scopes"]),
            (&["channel", "add", "ops", "--kind", "slak"], &["--kind", "slak", "did you mean 'slack'"]),
            (&["route", "add", "--tag", "shop"], &["--channel"]),
            (&["route", "add", "--channel", "ops", "--active", "8-18"], &["--time-zone"]),
            (&["silence", "add", "--all", "--to", "+2h"], &["--reason"]),
            (&["silence", "add", "--to", "+2h", "--reason", "x"], &["--tag", "--all"]),
            (&["notification", "list", "--state", "lost"], &["--state", "lost", "delivered"]),
            (&["notification", "retry", "--channel", "ops"], &["--since"]),
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
    fn options_for_tags_have_both_spellings() {
        for command in [
            &["site", "add", "http://x"][..],
            &["site", "set", "1"],
            &["site", "list"],
            &["token", "create", "ci", "--scopes", "read"],
            &["maintenance", "add"],
            &["report", "uptime"],
            &["report", "failures"],
        ] {
            for spelling in ["--tag", "--tags"] {
                Cli::try_parse_from([&["picket"], command, &[spelling, "shop"]].concat()).unwrap();
            }
        }
    }

    #[test]
    fn every_listing_takes_the_output_option() {
        for listing in [
            &["site", "list"][..],
            &["site", "show", "1"],
            &["settings", "list"],
            &["region", "list"],
            &["check", "http://x"],
            &["status"],
            &["tail"],
            &["probers"],
            &["leases"],
            &["ledger"],
            &["maintenance", "list"],
            &["token", "list"],
            &["token", "create", "ci", "--scopes", "read"],
            &["channel", "list"],
            &["channel", "show", "ops"],
            &["channel", "test", "ops"],
            &["route", "list"],
            &["route", "test"],
            &["silence", "list"],
            &["incident", "list"],
            &["incident", "show", "1"],
            &["notification", "list"],
            &["notification", "show", "0199a1b2-0c3d-7e4f-8a5b-6c7d8e9fa0b1"],
            &["ledger", "--notifications"],
            &["report", "uptime"],
            &["report", "latency"],
            &["report", "incidents"],
            &["report", "warnings"],
            &["report", "failures"],
        ] {
            Cli::try_parse_from([&["picket"], listing, &["--output", "json"]].concat()).unwrap();
        }
    }
}
