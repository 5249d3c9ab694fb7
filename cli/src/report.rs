//! `picket report`: uptime, latency, incidents and failures over days, for people, programs and spreadsheets.

mod bars;

use std::time::Duration;

use clap::{ArgMatches, Args, Subcommand, ValueEnum};
use picket_proto::{Region, Timestamp};
use picket_runtime::options::Span;
use picket_store::reports::{self, Failure, Incident, Latency, Scope, Uptime};
use serde::Serialize;

use crate::{
    error::Error,
    output::{Listing, cell, json, print_coloured, print_data},
    reach::{self, Database},
    site::moment,
};

/// See `picket report --help`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// How much of the time each site was up, the worst first
    Uptime(Options),
    /// How long each site took to answer, the slowest first
    Latency(Options),
    /// Outages, the newest first
    Incidents(Options),
    /// What was not up, by region and cause: of sites (down) and of ours (missed)
    Failures(Options),
}

/// What a report is about, and how it is printed.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// From the day (of UTC) in which so long ago lies
    #[arg(long, value_name = "TIME", default_value = "30d")]
    since: Span,
    /// Only sites with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only what was seen from here
    #[arg(long, value_parser = reach::region)]
    region: Option<Region>,
    /// List all, however many; JSON and CSV always have all
    #[arg(long)]
    all: bool,
    /// How to print: a table for people, JSON for programs, CSV for spreadsheets
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
    /// Leave CSV as it is: by default a text that a spreadsheet would take for a formula begins with an apostrophe
    #[arg(long)]
    csv_raw: bool,
    #[command(flatten)]
    database: Database,
}

/// See [`Options`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

/// What a table lists unless all is asked for.
const SCREEN: usize = 40;

pub(crate) async fn run(command: Command, matches: &ArgMatches) -> Result<(), Error> {
    let (Command::Uptime(options)
    | Command::Latency(options)
    | Command::Incidents(options)
    | Command::Failures(options)) = &command;
    let scope = Scope { since: options.since.0, tag: options.tag.clone(), region: options.region.clone() };
    let store = options.database.clone().connect(matches).await?;
    match &command {
        Command::Uptime(options) => options.print(&reports::uptime(&store, &scope).await?),
        Command::Latency(options) => options.print(&reports::latency(&store, &scope).await?),
        Command::Incidents(options) => options.print(&reports::incidents(&store, &scope).await?),
        Command::Failures(options) => options.print(&reports::failures(&store, &scope).await?),
    }
}

impl Options {
    fn print<T: Line>(&self, rows: &[T]) -> Result<(), Error> {
        match self.output {
            Format::Json => print_data(&json(rows)),
            Format::Csv => print_data(&csv(rows, self.csv_raw)),
            Format::Table => {
                let shown = if self.all { rows.len() } else { rows.len().min(SCREEN) };
                let rest = match rows.len() - shown {
                    0 => String::new(),
                    more => format!("and {more} more: --all\n"),
                };
                print_coloured(&format!("{}{rest}", table(&rows[..shown])))
            }
        }
    }
}

/// A row of a report.
trait Line: Serialize {
    /// Names of the columns, as in JSON; those of the table are the same in capitals.
    const COLUMNS: &'static [&'static str];
    /// Those that are aligned to the right.
    const NUMBERS: &'static [usize];
    /// What stands there instead of a table without rows.
    const EMPTY: &'static str;

    /// What is known, column by column.
    fn cells(&self) -> Vec<Option<String>>;

    /// What is looked at rather than read; its heading, and it.
    fn picture(&self) -> Option<(&'static str, String)> {
        None
    }
}

impl Line for Uptime {
    const COLUMNS: &'static [&'static str] = &[
        "site_id",
        "site",
        "uptime_pct",
        "uptime_pct_excl_maintenance",
        "coverage_pct",
        "checks",
        "up",
        "down",
        "missed",
    ];
    const NUMBERS: &'static [usize] = &[0, 2, 3, 4, 5, 6, 7, 8];
    const EMPTY: &'static str = "no checks in that span";

    fn cells(&self) -> Vec<Option<String>> {
        let number = |value: i64| Some(value.to_string());
        vec![
            number(self.site_id),
            Some(self.site.clone()),
            percent(self.uptime_pct),
            percent(self.uptime_pct_excl_maintenance),
            percent(self.coverage_pct),
            number(self.checks),
            number(self.up),
            number(self.down),
            number(self.missed),
        ]
    }

    fn picture(&self) -> Option<(&'static str, String)> {
        Some(("LAST 30 DAYS", bars::uptime(&self.days)))
    }
}

impl Line for Latency {
    const COLUMNS: &'static [&'static str] = &["site_id", "site", "p50_ms", "p95_ms", "p99_ms", "checks"];
    const NUMBERS: &'static [usize] = &[0, 2, 3, 4, 5];
    const EMPTY: &'static str = "no check was up in that span";

    fn cells(&self) -> Vec<Option<String>> {
        let time = |value: Option<f64>| value.map(|value| format!("{value:.1}"));
        vec![
            Some(self.site_id.to_string()),
            Some(self.site.clone()),
            time(self.p50_ms),
            time(self.p95_ms),
            time(self.p99_ms),
            Some(self.checks.to_string()),
        ]
    }

    fn picture(&self) -> Option<(&'static str, String)> {
        Some(("P95 OF 30 DAYS", bars::heights(&self.days)))
    }
}

impl Line for Incident {
    const COLUMNS: &'static [&'static str] =
        &["incident_id", "site_id", "site", "opened_at", "closed_at", "seconds", "cause", "message"];
    const NUMBERS: &'static [usize] = &[0, 1, 5];
    const EMPTY: &'static str = "no incidents in that span";

    fn cells(&self) -> Vec<Option<String>> {
        vec![
            Some(self.incident_id.to_string()),
            Some(self.site_id.to_string()),
            Some(self.site.clone()),
            moment(Some(self.opened_at.into())),
            moment(self.closed_at.map(Timestamp::from)),
            Some(self.seconds.to_string()),
            self.cause.clone(),
            self.message.clone(),
        ]
    }

    fn picture(&self) -> Option<(&'static str, String)> {
        Some(("LASTED", Span(Duration::from_secs(self.seconds.unsigned_abs())).to_string()))
    }
}

impl Line for Failure {
    const COLUMNS: &'static [&'static str] = &["region", "cause", "checks", "sites"];
    const NUMBERS: &'static [usize] = &[2, 3];
    const EMPTY: &'static str = "nothing failed in that span";

    fn cells(&self) -> Vec<Option<String>> {
        vec![
            Some(self.region.clone()),
            Some(self.cause.clone()),
            Some(self.checks.to_string()),
            Some(self.sites.to_string()),
        ]
    }

    fn picture(&self) -> Option<(&'static str, String)> {
        Some(("LAST 30 DAYS", bars::heights(&self.days)))
    }
}

/// Four digits, since the fourth is half a minute of a year; they are cut off already.
fn percent(value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{value:.4}"))
}

fn table<T: Line>(rows: &[T]) -> Listing {
    let picture = rows.first().and_then(Line::picture).map(|(heading, _)| heading.to_owned());
    let columns = T::COLUMNS.iter().map(|name| heading(name)).chain(picture);
    let mut listing = Listing::of(columns, T::EMPTY).numbers_at(T::NUMBERS);
    for row in rows {
        let cells = row.cells().into_iter().map(cell);
        listing.row_of(cells.chain(row.picture().map(|(_, picture)| cell(picture))));
    }
    listing
}

fn heading(name: &str) -> String {
    match name {
        "uptime_pct" => "UPTIME %".to_owned(),
        "uptime_pct_excl_maintenance" => "W/O MAINT. %".to_owned(),
        "coverage_pct" => "COVERAGE %".to_owned(),
        name => name.to_uppercase().replace('_', " "),
    }
}

/// Comma-separated values as RFC 4180 has them, with names in the first line; what is unknown is empty. Texts are no formulas
/// unless `raw` says so.
fn csv<T: Line>(rows: &[T], raw: bool) -> String {
    let mut text = T::COLUMNS.join(",") + "\r\n";
    for row in rows {
        let cells = row.cells().into_iter().map(Option::unwrap_or_default).enumerate();
        let fields: Vec<_> = cells
            .map(|(column, cell)| match raw || T::NUMBERS.contains(&column) {
                true => quoted(&cell),
                false => quoted(&no_formula(cell)),
            })
            .collect();
        text += &(fields.join(",") + "\r\n");
    }
    text
}

/// A spreadsheet takes a text that begins so for a formula, which can send what else is in the sheet elsewhere.
fn no_formula(text: String) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text,
    }
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uptime(site: &str) -> Uptime {
        Uptime {
            site_id: 7,
            site: site.to_owned(),
            checks: 10,
            up: 8,
            down: 1,
            missed: 1,
            uptime_pct: Some(88.8888),
            uptime_pct_excl_maintenance: None,
            coverage_pct: Some(90.0),
            days: vec![Some(100.0), None, Some(50.0)],
        }
    }

    #[test]
    fn csv_quotes_what_must_be_and_leaves_empty_what_is_unknown() {
        let text = csv(&[uptime("shop, \"new\"")], false);

        let lines: Vec<_> = text.split("\r\n").collect();
        assert!(lines[0].starts_with("site_id,site,uptime_pct,"), "{text}");
        assert_eq!(lines[1], "7,\"shop, \"\"new\"\"\",88.8888,,90.0000,10,8,1,1");
    }

    #[test]
    fn csv_holds_no_formula_of_strangers_unless_asked_for_and_numbers_stay_numbers() {
        let second_field = |site: &str, raw| {
            let row = Uptime { checks: -10, ..uptime(site) };
            let text = csv(&[row], raw);
            let line = text.lines().nth(1).unwrap().to_owned();
            assert!(line.starts_with("7,") && line.ends_with(",-10,8,1,1"), "{line}");
            line[2..].split(",88.8888").next().unwrap().to_owned()
        };

        for site in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"] {
            assert_eq!(second_field(site, false), format!("'{site}"));
            assert_eq!(second_field(site, true), site);
        }
        assert_eq!(second_field("\r=1", false), "\"'\r=1\"");
        assert_eq!(second_field("=A1,\"x\"", false), "\"'=A1,\"\"x\"\"\"");
        assert_eq!(second_field("a=b", false), "a=b");
    }

    #[test]
    fn a_table_ends_with_a_picture_of_the_days() {
        let text = table(&[uptime("shop")]).to_string();

        assert!(text.lines().next().unwrap().ends_with("LAST 30 DAYS"), "{text}");
        assert!(text.trim_end().ends_with("█ ▂"), "{text}");
    }
}
