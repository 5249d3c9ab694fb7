//! `picket report`: uptime, latency, incidents, warnings and failures over days, as a table, JSON or CSV.

mod sparkline;

use std::time::Duration;

use clap::{ArgMatches, Args, Subcommand, ValueEnum};
use picket_proto::{RegionName, Timestamp, safe_text};
use picket_runtime::{clock::wall_clock_now, options::DurationArg};
use picket_store::reports::{self, FailureRow, IncidentRow, LatencyRow, ReportFilter, UptimeRow, WarningRow};
use serde::Serialize;

use crate::{
    connect::{self, DatabaseArgs},
    error::Error,
    output::{TextTable, print_coloured, print_data, print_error, text_cell, to_pretty_json},
    site::format_timestamp,
};

/// Commands of `picket report`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ReportCommand {
    /// Report uptime per site, lowest first
    Uptime(ReportOptions),
    /// Report response time percentiles per site, slowest first
    Latency(ReportOptions),
    /// Report incidents, newest first
    Incidents(ReportOptions),
    /// Report warnings, open ones first
    Warnings(ReportOptions),
    /// Report failed and missed checks by region and cause
    Failures(ReportOptions),
}

/// Scope and output format of a report.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReportOptions {
    /// Age of the first reported day (UTC), such as 7d; a report is of whole days
    #[arg(long, value_name = "DURATION", default_value = "30d")]
    since: DurationArg,
    /// Report only sites with this tag
    #[arg(long, visible_alias = "tags")]
    tag: Option<String>,
    /// Report only checks from this region
    #[arg(long, value_parser = connect::parse_region)]
    region: Option<RegionName>,
    /// List all rows in a table; JSON and CSV always contain all
    #[arg(long)]
    all: bool,
    /// Output format: a table for people, JSON for programs, CSV for spreadsheets
    #[arg(long, value_enum, default_value_t = ReportFormat::Table, value_name = "FORMAT")]
    output: ReportFormat,
    /// Write CSV text unchanged, without the apostrophe that keeps spreadsheets from evaluating
    /// formulas
    #[arg(long)]
    csv_raw: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Formats of [`ReportOptions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Table,
    Json,
    Csv,
}

/// Maximum rows of a table without `--all`.
const MAX_TABLE_ROWS: usize = 40;

pub(crate) async fn run(command: ReportCommand, matches: &ArgMatches) -> Result<(), Error> {
    let (ReportCommand::Uptime(options)
    | ReportCommand::Latency(options)
    | ReportCommand::Incidents(options)
    | ReportCommand::Warnings(options)
    | ReportCommand::Failures(options)) = &command;
    let scope = ReportFilter {
        since: options.since.0,
        tag: options.tag.clone(),
        region: options.region.clone(),
        tag_limit: None,
        limit: None,
    };
    let store = options.database.clone().connect(matches).await?;
    if let Some(note) = describe_rounding(options.since, wall_clock_now()) {
        print_error(note);
    }
    match &command {
        ReportCommand::Uptime(options) => options.print_rows(&reports::report_uptime(&store, &scope).await?),
        ReportCommand::Latency(options) => {
            options.print_rows(&reports::report_latency(&store, &scope).await?)
        }
        ReportCommand::Incidents(options) => {
            options.print_rows(&reports::report_incidents(&store, &scope).await?)
        }
        ReportCommand::Warnings(options) => {
            options.print_rows(&reports::report_warnings(&store, &scope).await?)
        }
        ReportCommand::Failures(options) => {
            options.print_rows(&reports::report_failures(&store, &scope).await?)
        }
    }
}

/// Note for a span that is not of whole days: the report begins earlier, with its first day.
fn describe_rounding(since: DurationArg, now: Timestamp) -> Option<String> {
    const DAY_SECONDS: u64 = 86_400;
    let is_whole = since.0.as_secs().is_multiple_of(DAY_SECONDS) && since.0.subsec_nanos() == 0;
    let first = now.saturating_sub(since.0).to_string();
    (!is_whole).then(|| {
        format!("--since {since}: reports are of whole days of UTC; this one begins with {}", &first[..10])
    })
}

impl ReportOptions {
    fn print_rows<T: ReportRow>(&self, rows: &[T]) -> Result<(), Error> {
        match self.output {
            ReportFormat::Json => print_data(&to_pretty_json(rows)),
            ReportFormat::Csv => print_data(&render_csv(rows, self.csv_raw)?),
            ReportFormat::Table => {
                let shown = if self.all { rows.len() } else { rows.len().min(MAX_TABLE_ROWS) };
                let rest = match rows.len() - shown {
                    0 => String::new(),
                    hidden => format!("and {hidden} more: --all\n"),
                };
                print_coloured(&format!("{}{rest}", build_table(&rows[..shown])))
            }
        }
    }
}

/// A row of a report.
trait ReportRow: Serialize {
    /// Column names in JSON and CSV. The table has the same names in capitals.
    const COLUMNS: &'static [&'static str];
    /// Indexes of the right-aligned columns.
    const NUMERIC_COLUMNS: &'static [usize];
    /// Text printed instead of a table without rows.
    const EMPTY_TEXT: &'static str;

    /// The values of all columns; `None` for an unknown value.
    fn to_cells(&self) -> Vec<Option<String>>;

    /// An extra table column for the eye, such as a trend: its heading and its text.
    fn trend_column(&self) -> Option<(&'static str, String)> {
        None
    }
}

impl ReportRow for UptimeRow {
    const COLUMNS: &'static [&'static str] = Self::COLUMNS;
    const NUMERIC_COLUMNS: &'static [usize] = &[0, 2, 3, 4, 5, 6, 7, 8];
    const EMPTY_TEXT: &'static str = "no checks in that period";

    fn to_cells(&self) -> Vec<Option<String>> {
        let number = |value: i64| Some(value.to_string());
        vec![
            number(self.site_id),
            Some(self.site.clone()),
            format_percent(self.uptime_pct),
            format_percent(self.uptime_pct_excl_maintenance),
            format_percent(self.coverage_pct),
            number(self.checks),
            number(self.up),
            number(self.down),
            number(self.missed),
        ]
    }

    fn trend_column(&self) -> Option<(&'static str, String)> {
        Some(("LAST 30 DAYS", sparkline::render_uptime(&self.days)))
    }
}

impl ReportRow for LatencyRow {
    const COLUMNS: &'static [&'static str] = Self::COLUMNS;
    const NUMERIC_COLUMNS: &'static [usize] = &[0, 2, 3, 4, 5];
    const EMPTY_TEXT: &'static str = "no check was up in that period";

    fn to_cells(&self) -> Vec<Option<String>> {
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

    fn trend_column(&self) -> Option<(&'static str, String)> {
        Some(("P95 OF 30 DAYS", sparkline::render_relative(&self.days)))
    }
}

impl ReportRow for IncidentRow {
    const COLUMNS: &'static [&'static str] = Self::COLUMNS;
    const NUMERIC_COLUMNS: &'static [usize] = &[0, 1, 5];
    const EMPTY_TEXT: &'static str = "no incidents in that period";

    fn to_cells(&self) -> Vec<Option<String>> {
        vec![
            Some(self.incident_id.to_string()),
            Some(self.site_id.to_string()),
            Some(self.site.clone()),
            format_timestamp(Some(self.opened_at.into())),
            format_timestamp(self.closed_at.map(Timestamp::from)),
            Some(self.seconds.to_string()),
            self.cause.clone(),
            self.message.clone(),
        ]
    }

    fn trend_column(&self) -> Option<(&'static str, String)> {
        Some(("LASTED", DurationArg(Duration::from_secs(self.seconds.unsigned_abs())).to_string()))
    }
}

impl ReportRow for WarningRow {
    const COLUMNS: &'static [&'static str] = &[
        "warning_id",
        "site_id",
        "site",
        "kind",
        "opened_at",
        "closed_at",
        "seconds",
        "days_left",
        "expires_at",
        "message",
    ];
    const NUMERIC_COLUMNS: &'static [usize] = &[0, 1, 6, 7];
    const EMPTY_TEXT: &'static str = "no warnings in that period";

    fn to_cells(&self) -> Vec<Option<String>> {
        vec![
            Some(self.warning_id.to_string()),
            Some(self.site_id.to_string()),
            Some(self.site.clone()),
            Some(self.kind.clone()),
            format_timestamp(Some(self.opened_at.into())),
            format_timestamp(self.closed_at.map(Timestamp::from)),
            Some(self.seconds.to_string()),
            self.days_left.map(|days| days.to_string()),
            format_timestamp(self.expires_at.map(Timestamp::from)),
            self.message.clone(),
        ]
    }
}

impl ReportRow for FailureRow {
    const COLUMNS: &'static [&'static str] = Self::COLUMNS;
    const NUMERIC_COLUMNS: &'static [usize] = &[2, 3];
    const EMPTY_TEXT: &'static str = "nothing failed in that period";

    fn to_cells(&self) -> Vec<Option<String>> {
        vec![
            Some(self.region.clone()),
            Some(self.cause.clone()),
            Some(self.checks.to_string()),
            Some(self.sites.to_string()),
        ]
    }

    fn trend_column(&self) -> Option<(&'static str, String)> {
        Some(("LAST 30 DAYS", sparkline::render_relative(&self.days)))
    }
}

/// Four digits, because the fourth is half a minute of a year. The store has already truncated the
/// value.
fn format_percent(value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{value:.4}"))
}

fn build_table<T: ReportRow>(rows: &[T]) -> TextTable {
    let picture = rows.first().and_then(ReportRow::trend_column).map(|(heading, _)| heading.to_owned());
    let columns = T::COLUMNS.iter().map(|name| column_heading(name)).chain(picture);
    let mut listing = TextTable::with_columns(columns, T::EMPTY_TEXT).align_right_at(T::NUMERIC_COLUMNS);
    for row in rows {
        let cells = row.to_cells().into_iter().map(text_cell);
        listing.add_cells(cells.chain(row.trend_column().map(|(_, picture)| text_cell(picture))));
    }
    listing
}

fn column_heading(name: &str) -> String {
    match name {
        "uptime_pct" => "UPTIME %".to_owned(),
        "uptime_pct_excl_maintenance" => "W/O MAINT. %".to_owned(),
        "coverage_pct" => "COVERAGE %".to_owned(),
        name => name.to_uppercase().replace('_', " "),
    }
}

/// CSV as in RFC 4180, with the column names in the first line and empty fields for unknown values.
/// Formulas are escaped unless `raw` is true.
fn render_csv<T: ReportRow>(rows: &[T], raw: bool) -> Result<String, Error> {
    let mut csv = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    csv.write_record(T::COLUMNS).map_err(std::io::Error::from)?;
    for row in rows {
        let cells = row.to_cells().into_iter().map(Option::unwrap_or_default).enumerate();
        let fields = cells.map(|(column, cell)| match raw || T::NUMERIC_COLUMNS.contains(&column) {
            true => cell,
            false => safe_text::escape_formula(cell),
        });
        csv.write_record(fields).map_err(std::io::Error::from)?;
    }
    let bytes = csv.into_inner().map_err(csv::IntoInnerError::into_error)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uptime(site: &str) -> UptimeRow {
        UptimeRow {
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
    fn a_span_of_less_than_whole_days_is_noted_with_the_first_day() {
        let now: Timestamp = "2026-11-27T19:00:00Z".parse().unwrap();
        let note = |since: &str| describe_rounding(since.parse().unwrap(), now);

        assert_eq!(
            note("5m").unwrap(),
            "--since 5m: reports are of whole days of UTC; this one begins with 2026-11-27"
        );
        assert!(note("36h").unwrap().ends_with("begins with 2026-11-26"));
        assert_eq!(note("7d"), None);
    }

    #[test]
    fn csv_quotes_special_values_and_leaves_unknown_ones_empty() {
        let text = render_csv(&[uptime("shop, \"new\"")], false).unwrap();

        let lines: Vec<_> = text.split("\r\n").collect();
        assert!(lines[0].starts_with("site_id,site,uptime_pct,"), "{text}");
        assert_eq!(lines[1], "7,\"shop, \"\"new\"\"\",88.8888,,90.0000,10,8,1,1");
    }

    #[test]
    fn csv_escapes_formulas_by_default_and_keeps_numbers() {
        let second_field = |site: &str, raw| {
            let row = UptimeRow { checks: -10, ..uptime(site) };
            let text = render_csv(&[row], raw).unwrap();
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
    fn a_table_ends_with_a_sparkline_of_the_days() {
        let text = build_table(&[uptime("shop")]).to_string();

        assert!(text.lines().next().unwrap().ends_with("LAST 30 DAYS"), "{text}");
        assert!(text.trim_end().ends_with("█ ▂"), "{text}");
    }
}
