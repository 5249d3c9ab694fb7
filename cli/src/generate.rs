//! `picket generate`: dummy sites by the thousand, to try the system under load.

use clap::{ArgMatches, Args};
use picket_proto::{Invalid, site::SiteSpec};
use picket_runtime::options::Span;
use picket_store::sites;

use crate::{
    definition::{IntervalOptions, whole_seconds},
    error::Error,
    output::{Progress, print},
    reach::Database,
};

/// See `picket generate --help`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  picket generate 10000 --base-url http://127.0.0.1:8080/site/ --interval 30s
adds http://127.0.0.1:8080/site/1 to …/10000, tagged 'generated'; those that are there already stay.")]
pub(crate) struct Options {
    /// How many
    #[arg(value_name = "N", value_parser = clap::value_parser!(i64).range(1..=MOST))]
    count: i64,
    /// What their URLs begin with; 1 to N follows
    #[arg(long, value_name = "URL")]
    base_url: String,
    /// How often each is checked
    #[arg(long, value_name = "TIME", default_value = "60s")]
    interval: Span,
    #[command(flatten)]
    intervals: IntervalOptions,
    #[command(flatten)]
    database: Database,
}

const MOST: i64 = 5_000_000;
/// How many are added in one statement: a second's work or so.
const CHUNK: i64 = 5_000;

pub(crate) async fn run(options: Options, matches: &ArgMatches) -> Result<(), Error> {
    let interval_seconds = whole_seconds("interval", options.interval)?;
    let last =
        SiteSpec { interval_seconds, ..SiteSpec::new(format!("{}{}", options.base_url, options.count)) };
    last.validate(options.intervals.range()?).map_err(|why| match why.field.as_str() {
        "url" => Invalid { field: "base-url".into(), ..why },
        _ => why,
    })?;
    let store = options.database.connect(matches).await?;
    let mut progress = Progress::new();
    let (mut done, mut added) = (0, 0);
    while done < options.count {
        let count = CHUNK.min(options.count - done);
        added += sites::generate(&store, &options.base_url, done + 1, count, interval_seconds).await?;
        done += count;
        progress.show(format_args!("{done} of {}", options.count));
    }
    progress.clear();
    let there = options.count.unsigned_abs().saturating_sub(added);
    let kept = match there {
        0 => String::new(),
        _ => format!("; {there} were there already"),
    };
    print(&format!("added {added} sites{kept}\n"))
}
