//! `picket ledger`: accounts for every tick, and for every notification.

mod notifications;

use std::time::Duration;

use clap::{ArgMatches, Args};
use picket_proto::{Timestamp, safe_text};
use picket_runtime::options::DurationArg;
use picket_store::ledger::{self, LedgerFilter, LedgerRow};

use crate::{
    connect::DatabaseArgs,
    error::{EXIT_NEGATIVE, Error},
    output::{OutputFormat, OutputOptions, TextTable, print_coloured, text_cell},
    site::format_timestamp,
};

/// Options of `picket ledger`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The exit code is 1 if a tick, or with --notifications what a channel was to be told, is unaccounted for.

Examples:
  picket ledger --since 24h
  picket ledger --notifications --since 24h
  picket notification notices --since 24h --channel ops --reason brief      # the rows behind a number")]
pub(crate) struct LedgerOptions {
    /// Age of the oldest tick to count, such as 1h or 7d
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    since: DurationArg,
    /// Account for what channels were to be told, instead of ticks
    #[arg(long, conflicts_with = "sites")]
    notifications: bool,
    /// List each site and region, unaccounted ticks first, instead of one row per region
    #[arg(long)]
    sites: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Maximum listed schedules with unaccounted ticks, unless `--sites` is given.
const MAX_LISTED_SCHEDULES: usize = 20;

/// Prints the ledger. The exit code is 1 if a tick or a notice is unaccounted for.
pub(crate) async fn run(options: LedgerOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let store = options.database.connect(matches).await?;
    if options.notifications {
        return notifications::print_ledger(&store, options.since, options.output).await;
    }
    let (now, through) = ledger::read_accounted_through(&store).await?;
    let from = time_before(now, options.since.0);
    let to = ledger::find_closed_end(now, through);
    let rows = match options.sites {
        true => ledger::list_by_site(&store, from, to).await?,
        false => ledger::list_by_region(&store, from, to, LedgerFilter::default()).await?,
    };
    let unaccounted = ledger::sum_rows(&rows).unaccounted;
    let code = if unaccounted == 0 { 0 } else { EXIT_NEGATIVE };
    if options.output.output == OutputFormat::Json {
        options.output.print_rows(&rows, |_| TextTable::new([], ""))?;
        return Ok(code);
    }
    let mut text = build_table(&rows, options.sites).to_string();
    for (region, cause, ticks) in
        ledger::count_missed_by_cause(&store, from, to, LedgerFilter::default()).await?
    {
        text += &safe_text::sanitize_lines(&format!("{region}: {ticks} missed, {cause}\n"));
    }
    if unaccounted != 0 && !options.sites {
        let lacking = ledger::list_by_site(&store, from, to).await?;
        let lacking: Vec<_> = lacking.into_iter().filter(|row| row.unaccounted != 0).collect();
        text += &format!("\nSchedules with ticks that are unaccounted for: {}\n", lacking.len());
        text += &build_table(&lacking[..lacking.len().min(MAX_LISTED_SCHEDULES)], true).to_string();
    }
    print_coloured(&format!("{text}\n{}\n", summarize_ledger(unaccounted, from, to, now, through)))?;
    Ok(code)
}

fn summarize_ledger(
    unaccounted: i64,
    from: Timestamp,
    to: Timestamp,
    now: Timestamp,
    through: Option<Timestamp>,
) -> String {
    let Some(through) = through else {
        return "There are no active schedules.".to_owned();
    };
    let closed = format!(
        "closed up to {}, {} s ago",
        format_time(through),
        now.saturating_duration_since(through).as_secs()
    );
    let span = format!("from {} to {}", format_time(from), format_time(to));
    if to <= from {
        return format!("No tick of that period is closed yet: the ledger is {closed}.");
    }
    match unaccounted {
        0 => format!("Every tick {span} is accounted for. The ledger is {closed}."),
        some => format!("{some} ticks {span} are UNACCOUNTED FOR. The ledger is {closed}."),
    }
}

fn format_time(at: Timestamp) -> String {
    format_timestamp(Some(at)).unwrap_or_default()
}

fn build_table(rows: &[LedgerRow], sites: bool) -> TextTable {
    const EMPTY: &str = "no ticks in that period";
    let counts = |row: &LedgerRow| {
        [row.expected, row.up, row.down, row.missed, row.gap, row.unaccounted].map(text_cell)
    };
    if sites {
        let columns = ["SITE", "REGION", "EXPECTED", "UP", "DOWN", "MISSED", "GAP", "UNACCOUNTED"];
        let mut listing = TextTable::new(columns, EMPTY).align_right([0, 2, 3, 4, 5, 6, 7]);
        for row in rows {
            let [expected, up, down, missed, gap, unaccounted] = counts(row);
            listing.add_row([
                text_cell(row.site_id),
                text_cell(&row.region),
                expected,
                up,
                down,
                missed,
                gap,
                unaccounted,
            ]);
        }
        return listing;
    }
    let columns = ["REGION", "EXPECTED", "UP", "DOWN", "MISSED", "GAP", "UNACCOUNTED"];
    let mut listing = TextTable::new(columns, EMPTY).align_right([1, 2, 3, 4, 5, 6]);
    for row in rows {
        let [expected, up, down, missed, gap, unaccounted] = counts(row);
        listing.add_row([text_cell(&row.region), expected, up, down, missed, gap, unaccounted]);
    }
    listing
}

fn time_before(now: Timestamp, span: Duration) -> Timestamp {
    Timestamp::from_micros(now.as_micros() - i64::try_from(span.as_micros()).unwrap_or(i64::MAX / 2))
}
