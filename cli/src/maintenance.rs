//! `picket maintenance`: windows in which checks go on and incidents do not open.

use clap::{ArgGroup, ArgMatches, Args, Subcommand};
use picket_proto::Timestamp;
use picket_runtime::{clock, options::Span};
use picket_store::maintenance::{self, Scope};

use crate::{
    error::Error,
    output::{Listing, OutputOptions, cell, print, word},
    reach::Database,
    site::{find, moment},
};

/// See `picket maintenance --help`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Plan a window: of one site, or of all that carry a tag
    #[command(after_help = "\
Checks go on and are kept; no incident opens in the window. One that is open stays so until the site is back, and a site
that is still down at the end has one then. Reports of uptime can leave the window out.

Examples:
  picket maintenance add https://example.com --to +2h
  picket maintenance add --tag shop --from 2026-12-01T22:00:00Z --to 2026-12-02T02:00:00Z
  picket maintenance add https://example.com                       # until further notice")]
    Add(Add),
    /// Windows that are planned or under way
    List(List),
    /// Remove a window, by its number
    Remove(Remove),
}

#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("scope").required(true).args(["site", "tag"])))]
pub(crate) struct Add {
    /// The site: its id, or its URL
    site: Option<String>,
    /// All sites that carry this tag, also those that get it later
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// When it begins: a time such as 2026-12-01T22:00:00Z, 'now', or '+30m' from now
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = time)]
    from: When,
    /// When it ends: a time such as 2026-12-02T02:00:00Z, or '+2h' from now; without it the window lasts until further notice
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<When>,
    #[command(flatten)]
    database: Database,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct List {
    /// Those that are over too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: Database,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Remove {
    /// Its number, as 'picket maintenance list' shows it
    id: i64,
    #[command(flatten)]
    database: Database,
}

/// A time, as it was typed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum When {
    At(Timestamp),
    FromNow(Span),
}

const UNTIL_FURTHER_NOTICE: &str = "until further notice";

impl When {
    fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::FromNow(span) => now.plus(span.0),
        }
    }
}

fn time(text: &str) -> Result<When, String> {
    const ALLOWED: &str = "a time such as 2026-12-01T22:00:00Z, 'now', or a span from now such as '+2h'";
    if text == "now" {
        return Ok(When::FromNow(Span(std::time::Duration::ZERO)));
    }
    let read = match text.strip_prefix('+') {
        Some(span) => span.parse().ok().map(When::FromNow),
        None => text.parse().ok().map(When::At),
    };
    read.ok_or_else(|| format!("'{text}' is no time; allowed: {ALLOWED}"))
}

pub(crate) async fn run(command: Command, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        Command::Add(options) => add(options, matches).await,
        Command::List(options) => list(options, matches).await,
        Command::Remove(Remove { id, database }) => {
            let store = database.connect(matches).await?;
            match maintenance::remove(&store, id).await? {
                true => print(&format!("removed window {id}\n")),
                false => Err(Error::Usage(format!(
                    "id: there is no window {id}; see: picket maintenance list --all"
                ))),
            }
        }
    }
}

async fn add(options: Add, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let (scope, what) = match (options.site, options.tag) {
        (Some(word), _) => {
            let site = find(&store, &word).await?;
            (Scope::Site(site.id), format!("site {} ({})", site.id, site.url))
        }
        (None, tag) => {
            let tag = tag.unwrap_or_default();
            let what = format!("all sites with the tag '{tag}'");
            (Scope::Tag(tag), what)
        }
    };
    let now = clock::wall();
    let (from, to) = (options.from.resolve(now), options.to.map(|to| to.resolve(now)));
    let id = maintenance::add(&store, &scope, from, to).await?;
    let from = moment(Some(from)).unwrap_or_default();
    let until = match to {
        Some(to) => format!("to {}", moment(Some(to)).unwrap_or_default()),
        None => UNTIL_FURTHER_NOTICE.to_owned(),
    };
    print(&format!("window {id}: no incident opens for {what} from {from} {until}\n"))
}

async fn list(options: List, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let windows = maintenance::list(&store, options.all).await?;
    options.output.print(&windows, |windows| {
        let columns = ["ID", "STATE", "FROM", "TO", "TAG", "SITE ID", "SITE"];
        let mut listing = Listing::new(
            columns,
            "no maintenance is planned; add a window: picket maintenance add SITE --to +2h",
        )
        .numbers([0, 5]);
        for window in windows {
            listing.row([
                cell(window.id),
                word(&window.state),
                cell(moment(Some(window.from))),
                cell(moment(window.to).unwrap_or_else(|| UNTIL_FURTHER_NOTICE.to_owned())),
                cell(window.tag.clone()),
                cell(window.site_id),
                cell(window.site.clone()),
            ]);
        }
        listing
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_of_the_calendar_or_a_span_from_now() {
        let now = Timestamp::from_millis(1_795_176_000_000);

        assert_eq!(time("now").unwrap().resolve(now), now);
        assert_eq!(time("+2h").unwrap().resolve(now).since(now).as_secs(), 7_200);
        assert_eq!(
            time("2026-12-01T22:00:00Z").unwrap().resolve(now).to_string(),
            "2026-12-01T22:00:00.000000Z"
        );
        assert_eq!(time("2026-12-01T23:00:00+01:00").unwrap(), time("2026-12-01T22:00:00Z").unwrap());
        for bad in ["", "2h", "tomorrow", "+", "2026-12-01"] {
            assert!(time(bad).unwrap_err().contains("allowed"), "{bad}");
        }
    }
}
