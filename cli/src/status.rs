//! `picket status`: the status of all sites, problems first.

use clap::{ArgMatches, Args};
use picket_store::{
    incidents::{self, DoubtfulWindow},
    notifications::{self, NotificationStatus},
    site_status::{self, SiteStatus},
};

use crate::{
    connect::DatabaseArgs,
    error::{EXIT_NEGATIVE, Error},
    maintenance::UNTIL_FURTHER_NOTICE,
    output::{
        OutputFormat, OutputOptions, TextTable, colour_by_status, print_coloured, status_cell, text_cell,
    },
    site::format_timestamp,
};

/// Options of `picket status`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StatusOptions {
    /// List all sites, including sites that are up
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Number of sites up to which all are listed, so that a small installation is shown completely.
const MAX_INLINE_SITES: usize = 20;
/// Maximum listed sites without `--all`.
const MAX_LISTED_SITES: usize = 40;

/// Prints the status. The exit code is 1 if any site is down.
pub(crate) async fn run(options: StatusOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let store = options.database.connect(matches).await?;
    let sites = site_status::list_site_status(&store).await?;
    let code = match sites.iter().any(|site| site.status == "down") {
        true => EXIT_NEGATIVE,
        false => 0,
    };
    if options.output.output == OutputFormat::Json {
        options.output.print_rows(&sites, |_| TextTable::new([], ""))?;
        return Ok(code);
    }
    let doubts: String = incidents::list_open_windows(&store).await?.iter().map(doubt_line).collect();
    let notifications = notifications::read_notification_status(&store).await?;
    let notifications = notifications.as_ref().map(notification_line).unwrap_or_default();
    let counts = StatusCounts::from_sites(&sites);
    let needs_attention = |site: &SiteStatus| site.status != "up" || !site.warnings.is_empty();
    let listed =
        sites.iter().filter(|site| options.all || sites.len() <= MAX_INLINE_SITES || needs_attention(site));
    let shown: Vec<_> = listed.take(if options.all { usize::MAX } else { MAX_LISTED_SITES }).collect();
    let rest = match sites.len() - shown.len() {
        0 => String::new(),
        hidden => format!("and {hidden} more: picket status --all\n"),
    };
    let listing = build_table(shown.into_iter());
    print_coloured(&format!("{}\n{doubts}{notifications}\n{listing}{rest}", counts.summary_line()))?;
    Ok(code)
}

/// Line about a prober whose failures are in doubt.
fn doubt_line(doubt: &DoubtfulWindow) -> String {
    format!(
        "doubtful: prober {} in {} reaches nothing since {}, and other regions reach {} of its hosts; \
         its failures open no incident until {}\n",
        doubt.prober,
        doubt.region,
        format_timestamp(Some(doubt.from)).unwrap_or_default(),
        doubt.hosts,
        format_timestamp(Some(doubt.to)).unwrap_or_default(),
    )
}

/// Line about channels that fail, what waits, and what is unaccounted for.
fn notification_line(status: &NotificationStatus) -> String {
    let mut parts = vec![match status.channels {
        1 => "1 channel".to_owned(),
        some => format!("{some} channels"),
    }];
    if !status.failing.is_empty() {
        let names = format!("{} failing ({})", status.failing.len(), status.failing.join(", "));
        parts.push(colour_by_status("down", names));
    }
    let since = format_timestamp(status.oldest_waiting_at.map(Into::into));
    parts.push(match since {
        Some(since) => format!("{} waiting, the oldest since {since}", status.waiting),
        None => "nothing waiting".to_owned(),
    });
    if status.notifiers.running > 0 && status.notifiers.undecided > 0 {
        parts.push(format!("{} not yet decided who is told", status.notifiers.undecided));
    }
    if status.unaccounted > 0 {
        let text = format!(
            "{} UNACCOUNTED FOR in 24 h: picket ledger --notifications --since 24h",
            status.unaccounted
        );
        parts.push(colour_by_status("down", text));
    }
    let absence = status.notifiers.describe_absence();
    let absence = absence.map(|absence| colour_by_status("down", absence) + "\n").unwrap_or_default();
    format!("notifications: {}\n{absence}", parts.join("; "))
}

fn build_table<'a>(sites: impl Iterator<Item = &'a SiteStatus>) -> TextTable {
    let columns =
        ["ID", "STATUS", "LAST CHECK", "UP", "DOWN", "SILENT", "WARNINGS", "MAINTENANCE", "SITE", "REASON"];
    let mut listing =
        TextTable::new(columns, "no sites to show; add one: picket site add https://example.com")
            .align_right([0, 3, 4, 5]);
    for site in sites {
        listing.add_row([
            text_cell(site.site_id),
            status_cell(display_status(site)),
            text_cell(format_timestamp(site.last_check())),
            text_cell(site.regions_up),
            text_cell(site.regions_down),
            text_cell(site.regions_silent),
            text_cell(warnings_text(site)),
            text_cell(maintenance_text(site)),
            text_cell(&site.site),
            text_cell(site.problem.as_deref().or(site.unknown_reason.as_deref())),
        ]);
    }
    listing
}

/// The displayed status: `problem` for a site that cannot be checked, its status otherwise.
fn display_status(site: &SiteStatus) -> &str {
    match (&site.problem, site.status.as_str()) {
        (Some(_), "unknown" | "up" | "down") => "problem",
        (_, status) => status,
    }
}

fn warnings_text(site: &SiteStatus) -> Option<String> {
    (!site.warnings.is_empty()).then(|| site.warnings.join(","))
}

fn maintenance_text(site: &SiteStatus) -> Option<String> {
    site.in_maintenance.then(|| match format_timestamp(site.maintenance_until.map(Into::into)) {
        Some(until) => format!("until {until}"),
        None => UNTIL_FURTHER_NOTICE.to_owned(),
    })
}

#[derive(Debug, Default, PartialEq)]
struct StatusCounts {
    up: usize,
    down: usize,
    unknown: usize,
    paused: usize,
    problem: usize,
    /// Sites with an open warning, whatever their status.
    warning: usize,
    /// Sites in a maintenance window, whatever their status.
    in_maintenance: usize,
}

impl StatusCounts {
    fn from_sites(sites: &[SiteStatus]) -> Self {
        let mut counts = Self::default();
        for site in sites {
            counts.warning += usize::from(!site.warnings.is_empty());
            counts.in_maintenance += usize::from(site.in_maintenance);
            match display_status(site) {
                "up" => counts.up += 1,
                "down" => counts.down += 1,
                "paused" => counts.paused += 1,
                "problem" => counts.problem += 1,
                _ => counts.unknown += 1,
            }
        }
        counts
    }

    fn summary_line(&self) -> String {
        [
            ("up", self.up),
            ("down", self.down),
            ("unknown", self.unknown),
            ("paused", self.paused),
            ("problem", self.problem),
            ("warning", self.warning),
            ("in maintenance", self.in_maintenance),
        ]
        .map(|(name, count)| {
            let text = format!("{count} {name}");
            match count {
                0 => text,
                _ => colour_by_status(name, text),
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
            warnings: Vec::new(),
            in_maintenance: false,
            maintenance_until: None,
            unknown_reason: None,
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn an_invalid_site_counts_as_a_problem_unless_it_is_paused() {
        let warned = SiteStatus { warnings: vec!["slow".into()], in_maintenance: true, ..site("up", None) };
        let sites = [
            warned,
            site("unknown", Some("regex: …")),
            site("paused", Some("regex: …")),
            site("unknown", None),
        ];

        assert_eq!(
            StatusCounts::from_sites(&sites).summary_line(),
            "1 up   0 down   1 unknown   1 paused   1 problem   1 warning   1 in maintenance"
        );
    }
}
