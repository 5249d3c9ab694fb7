//! `picket ledger`: whether every tick is accounted for.

use std::time::Duration;

use clap::{ArgMatches, Args};
use picket_proto::{Timestamp, plain};
use picket_runtime::options::Span;
use picket_store::ledger::{self, Row};

use crate::{
    error::{EXIT_BAD, Error},
    output::{Format, Listing, OutputOptions, cell, print_coloured},
    reach::Database,
    site::moment,
};

/// See `picket ledger --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Count the ticks since so long ago
    #[arg(long, value_name = "TIME", default_value = "1h")]
    since: Span,
    /// A line for each site and region, those with ticks that are unaccounted for first, instead of one for each region
    #[arg(long)]
    sites: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: Database,
}

/// The ledger of an older tick should be closed, whatever has happened.
const AT_LAST: Duration = Duration::from_secs(300);
/// Of the sites that lack ticks no more than these are named where they were not asked for.
const NAMED: usize = 20;

/// The exit code says whether any tick is unaccounted for.
pub(crate) async fn run(options: Options, matches: &ArgMatches) -> Result<u8, Error> {
    let store = options.database.connect(matches).await?;
    let (now, through) = ledger::accounted_through(&store).await?;
    let from = ago(now, options.since.0);
    // What is not closed by now nobody closes, and it shows.
    let to = through.map_or(now, |through| through.max(ago(now, AT_LAST)).min(now));
    let rows = match options.sites {
        true => ledger::by_site(&store, from, to).await?,
        false => ledger::by_region(&store, from, to).await?,
    };
    let unaccounted: i64 = rows.iter().map(|row| row.unaccounted).sum();
    let code = if unaccounted == 0 { 0 } else { EXIT_BAD };
    if options.output.output == Format::Json {
        options.output.print(&rows, |_| Listing::new([], ""))?;
        return Ok(code);
    }
    let mut text = listing(&rows, options.sites).to_string();
    for (region, cause, ticks) in ledger::causes(&store, from, to).await? {
        text += &plain::lines(&format!("{region}: {ticks} missed, {cause}\n"));
    }
    if unaccounted != 0 && !options.sites {
        let lacking = ledger::by_site(&store, from, to).await?;
        let lacking: Vec<_> = lacking.into_iter().filter(|row| row.unaccounted != 0).collect();
        text += &format!("\nSchedules with ticks that are unaccounted for: {}\n", lacking.len());
        text += &listing(&lacking[..lacking.len().min(NAMED)], true).to_string();
    }
    print_coloured(&format!("{text}\n{}\n", verdict(unaccounted, from, to, now, through)))?;
    Ok(code)
}

fn verdict(
    unaccounted: i64,
    from: Timestamp,
    to: Timestamp,
    now: Timestamp,
    through: Option<Timestamp>,
) -> String {
    let Some(through) = through else {
        return "There are no schedules in force.".to_owned();
    };
    let closed = format!("closed up to {}, {} s ago", shown(through), now.since(through).as_secs());
    let span = format!("from {} to {}", shown(from), shown(to));
    if to <= from {
        return format!("No tick of that span is closed yet: the ledger is {closed}.");
    }
    match unaccounted {
        0 => format!("Every tick {span} is accounted for. The ledger is {closed}."),
        some => format!("{some} ticks {span} are UNACCOUNTED FOR. The ledger is {closed}."),
    }
}

fn shown(at: Timestamp) -> String {
    moment(Some(at)).unwrap_or_default()
}

fn listing(rows: &[Row], sites: bool) -> Listing {
    const EMPTY: &str = "no ticks in that span";
    let counts = |row: &Row| [row.expected, row.up, row.down, row.missed, row.gap, row.unaccounted].map(cell);
    if sites {
        let columns = ["SITE", "REGION", "EXPECTED", "UP", "DOWN", "MISSED", "GAP", "UNACCOUNTED"];
        let mut listing = Listing::new(columns, EMPTY).numbers([0, 2, 3, 4, 5, 6, 7]);
        for row in rows {
            let [expected, up, down, missed, gap, unaccounted] = counts(row);
            listing.row([cell(row.site_id), cell(&row.region), expected, up, down, missed, gap, unaccounted]);
        }
        return listing;
    }
    let columns = ["REGION", "EXPECTED", "UP", "DOWN", "MISSED", "GAP", "UNACCOUNTED"];
    let mut listing = Listing::new(columns, EMPTY).numbers([1, 2, 3, 4, 5, 6]);
    for row in rows {
        let [expected, up, down, missed, gap, unaccounted] = counts(row);
        listing.row([cell(&row.region), expected, up, down, missed, gap, unaccounted]);
    }
    listing
}

fn ago(now: Timestamp, span: Duration) -> Timestamp {
    Timestamp::from_micros(now.micros() - i64::try_from(span.as_micros()).unwrap_or(i64::MAX / 2))
}
