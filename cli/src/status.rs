//! `picket status`: all sites on one screen, those that need a look first.

use clap::{ArgMatches, Args};
use picket_store::report::{self, SiteStatus};

use crate::{
    error::{EXIT_BAD, Error},
    output::{Format, Listing, OutputOptions, cell, coloured, print_coloured, word},
    reach::Database,
    site::moment,
};

/// See `picket status --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// List all sites, those that are up too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: Database,
}

/// Sites that are up are listed while there are no more than these, so that a small fleet is seen whole.
const FEW: usize = 20;
/// Of those that need a look no more than these are listed unless all are asked for.
const SCREEN: usize = 40;

/// The exit code says whether any site is down.
pub(crate) async fn run(options: Options, matches: &ArgMatches) -> Result<u8, Error> {
    let store = options.database.connect(matches).await?;
    let sites = report::site_status(&store).await?;
    let code = match sites.iter().any(|site| site.status == "down") {
        true => EXIT_BAD,
        false => 0,
    };
    if options.output.output == Format::Json {
        options.output.print(&sites, |_| Listing::new([], ""))?;
        return Ok(code);
    }
    let counts = Counts::of(&sites);
    let worth = sites.iter().filter(|site| options.all || sites.len() <= FEW || site.status != "up");
    let shown: Vec<_> = worth.take(if options.all { usize::MAX } else { SCREEN }).collect();
    let rest = match sites.len() - shown.len() {
        0 => String::new(),
        more => format!("and {more} more: picket status --all\n"),
    };
    let listing = listing(shown.into_iter());
    print_coloured(&format!("{}\n\n{listing}{rest}", counts.line()))?;
    Ok(code)
}

fn listing<'a>(sites: impl Iterator<Item = &'a SiteStatus>) -> Listing {
    let columns = ["ID", "STATUS", "LAST CHECK", "UP", "DOWN", "SILENT", "SITE", "PROBLEM"];
    let mut listing = Listing::new(columns, "no sites to show; add one: picket site add https://example.com")
        .numbers([0, 3, 4, 5]);
    for site in sites {
        listing.row([
            cell(site.site_id),
            word(shown(site)),
            cell(moment(site.last_check())),
            cell(site.regions_up),
            cell(site.regions_down),
            cell(site.regions_silent),
            cell(&site.site),
            cell(site.problem.clone()),
        ]);
    }
    listing
}

/// The status; of a site that cannot be watched, that.
fn shown(site: &SiteStatus) -> &str {
    match (&site.problem, site.status.as_str()) {
        (Some(_), "unknown" | "up" | "down") => "problem",
        (_, status) => status,
    }
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    up: usize,
    down: usize,
    unknown: usize,
    paused: usize,
    problem: usize,
}

impl Counts {
    fn of(sites: &[SiteStatus]) -> Self {
        let mut counts = Self::default();
        for site in sites {
            match shown(site) {
                "up" => counts.up += 1,
                "down" => counts.down += 1,
                "paused" => counts.paused += 1,
                "problem" => counts.problem += 1,
                _ => counts.unknown += 1,
            }
        }
        counts
    }

    fn line(&self) -> String {
        [
            ("up", self.up),
            ("down", self.down),
            ("unknown", self.unknown),
            ("paused", self.paused),
            ("problem", self.problem),
        ]
        .map(|(name, count)| {
            let text = format!("{count} {name}");
            match count {
                0 => text,
                _ => coloured(name, text),
            }
        })
        .join("   ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(status: &str, problem: Option<&str>) -> SiteStatus {
        SiteStatus {
            site_id: 1,
            site: "x".into(),
            url: "http://x/".into(),
            status: status.into(),
            since: None,
            last_check_at: None,
            regions_up: 0,
            regions_down: 0,
            regions_silent: 0,
            incident_id: None,
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn a_site_that_cannot_be_watched_counts_as_a_problem_unless_it_is_paused() {
        let sites = [
            site("up", None),
            site("unknown", Some("regex: …")),
            site("paused", Some("regex: …")),
            site("unknown", None),
        ];

        assert_eq!(Counts::of(&sites).line(), "1 up   0 down   1 unknown   1 paused   1 problem");
    }
}
