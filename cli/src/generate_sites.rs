//! `picket generate`: adds generated sites, for load tests.

use clap::{ArgMatches, Args};
use picket_proto::{
    ValidationError,
    site::{IntervalRange, SiteSpec},
};
use picket_runtime::options::DurationArg;
use picket_store::{settings::read_settings, sites};

use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{ProgressLine, print_text},
    site_args::to_whole_seconds,
};

/// Options of `picket generate`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  picket generate 10000 --base-url http://127.0.0.1:8080/site/ --interval 30s
adds http://127.0.0.1:8080/site/1 to …/10000, tagged 'generated'; existing sites stay.")]
pub(crate) struct GenerateOptions {
    /// Number of sites, 1 to 5000000
    #[arg(value_name = "N", value_parser = clap::value_parser!(i64).range(1..=MAX_GENERATED_SITES))]
    count: i64,
    /// Start of the URLs; the numbers 1 to N are appended
    #[arg(long, value_name = "URL")]
    base_url: String,
    /// Check interval of each site, in whole seconds such as 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    interval: DurationArg,
    #[command(flatten)]
    database: DatabaseArgs,
}

const MAX_GENERATED_SITES: i64 = 5_000_000;
/// Sites added per statement, which takes about a second.
const SITES_PER_STATEMENT: i64 = 5_000;

pub(crate) async fn run(options: GenerateOptions, matches: &ArgMatches) -> Result<(), Error> {
    let interval_seconds = to_whole_seconds("interval", options.interval)?;
    // The last URL is the longest, so validating it covers all.
    let last =
        SiteSpec { interval_seconds, ..SiteSpec::new(format!("{}{}", options.base_url, options.count)) };
    last.validate(IntervalRange::WIDEST).map_err(|why| match why.field.as_str() {
        "url" => ValidationError { field: "base-url".into(), ..why },
        _ => why,
    })?;
    let store = options.database.connect(matches).await?;
    read_settings(&store).await?.intervals.check(interval_seconds)?;
    let mut progress = ProgressLine::new();
    let (mut done, mut added) = (0, 0);
    while done < options.count {
        let count = SITES_PER_STATEMENT.min(options.count - done);
        added += sites::generate_sites(&store, &options.base_url, done + 1, count, interval_seconds).await?;
        done += count;
        progress.show_text(format_args!("{done} of {}", options.count));
    }
    progress.clear_line();
    let existing = options.count.unsigned_abs().saturating_sub(added);
    let kept = match existing {
        0 => String::new(),
        _ => format!("; {existing} existed already"),
    };
    print_text(&format!("added {added} sites{kept}\n"))
}
