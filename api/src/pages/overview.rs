//! The overview: what is not up comes first, then regions and the latest incidents.

use std::time::Duration;

use askama::Template;
use axum::response::Response;
use picket_proto::{SiteId, Timestamp, duration::describe_duration};
use picket_runtime::clock;
use picket_store::{
    channels::{Channel, list_channels},
    incident_pages::{self, EpisodeFilter, ListedIncident},
    ledger::LedgerRow,
    regions::{self, RegionOverview},
    site_counts::{self, StateCounts},
    site_list::{self, Direction, SiteFilter, SiteSort, SiteState, SiteSummary},
    site_status::{self, RecentCheck},
};

use super::{
    PageError, Visitor,
    channels::describe_absence,
    fleet::describe_ledger,
    frame::{Frame, Section},
    moment::MomentBar,
    parts::{Behind, StatusMark, TimeMark, format_count, format_percent, format_seconds},
    render_page,
};
use crate::{access::Scope, state::Api};

/// Maximum sites in the list of what is not up.
pub(super) const MAX_TROUBLE: u32 = 20;
/// Maximum incidents in the list of the latest.
pub(super) const MAX_INCIDENTS: i64 = 10;
/// Time before the moment of the page in which incidents are the latest.
pub(super) const INCIDENT_SPAN: Duration = Duration::from_secs(7 * 86_400);

/// A number with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FigureItem {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) note: String,
    pub(crate) href: Option<String>,
}

/// Newest outcome of a site in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MatrixCell {
    pub(crate) region: String,
    pub(crate) mark: Option<StatusMark>,
}

/// A site that is not up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TroubleRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) status: StatusMark,
    pub(crate) since: Option<TimeMark>,
    pub(crate) cause: String,
    pub(crate) regions: Vec<MatrixCell>,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegionRow {
    pub(crate) name: String,
    /// Absent for a past moment, of which silences are not kept.
    pub(crate) status: Option<StatusMark>,
    pub(crate) silent_since: Option<TimeMark>,
    pub(crate) schedules: String,
}

/// An incident in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IncidentItem {
    pub(crate) id: i64,
    pub(crate) site: String,
    pub(crate) status: StatusMark,
    pub(crate) opened_at: TimeMark,
    pub(crate) duration: String,
    pub(crate) cause: String,
}

/// See the module documentation.
#[derive(Template)]
#[template(path = "overview.html")]
pub(crate) struct OverviewPage {
    pub(crate) frame: Frame,
    pub(crate) headline: String,
    pub(crate) subline: String,
    pub(crate) public_url: String,
    pub(crate) may_write: bool,
    pub(crate) figures: Vec<FigureItem>,
    pub(crate) trouble: Vec<TroubleRow>,
    pub(crate) more_trouble: Option<String>,
    pub(crate) regions: Vec<RegionRow>,
    pub(crate) incidents: Vec<IncidentItem>,
    pub(crate) moment: MomentBar,
    /// What is wrong with notifications, if anything is.
    pub(crate) notifications: Option<String>,
    pub(crate) behind: Behind,
}

/// What the overview shows, as the store gives it.
struct OverviewData {
    counts: StateCounts,
    trouble: Vec<(SiteSummary, Vec<RecentCheck>)>,
    regions: Vec<RegionOverview>,
    incidents: Vec<ListedIncident>,
    /// Account of the newest closed minutes of all sites; absent for readers of some sites.
    ledger: Option<LedgerRow>,
}

/// Renders the overview of now.
///
/// # Errors
/// If the database cannot be reached in time.
pub(super) async fn render_overview(
    visitor: &Visitor,
    api: &Api,
    moment: MomentBar,
) -> Result<Response, PageError> {
    let data = read_overview(visitor, api).await.map_err(|error| visitor.fail(error))?;
    let frame = visitor.frame("Overview", Section::Overview);
    let may_write = visitor.access.allows(Scope::Write);
    let mut page = OverviewPage::new(frame, &data, moment, may_write, api.public_url());
    // Channels concern all sites.
    if visitor.access.tag_limit().is_none() {
        let channels = list_channels(&api.store).await.map_err(|error| visitor.fail(error))?;
        // Without a channel nobody expects to be told.
        let absence = match channels.is_empty() {
            true => None,
            false => describe_absence(visitor, api).await?,
        };
        page.notifications = describe_notifications(&channels, absence, clock::wall_clock_now());
    }
    Ok(render_page(&page))
}

async fn read_overview(visitor: &Visitor, api: &Api) -> Result<OverviewData, picket_store::Error> {
    let store = &api.store;
    let tag_limit = visitor.access.tag_limit();
    let not_up = [SiteState::Down, SiteState::Unknown, SiteState::Problem];
    let filter = SiteFilter { status: &not_up, tag_limit, ..SiteFilter::default() };
    let listed =
        site_list::list_sites_page(store, &filter, SiteSort::State, Direction::Ascending, None, MAX_TROUBLE);
    let listed = listed.await?.items;
    let sites: Vec<SiteId> = listed.iter().map(|summary| SiteId(summary.site_id)).collect();
    let mut newest = site_status::list_recent_checks_by_site(store, &sites, 1, None).await?;
    let trouble = listed.into_iter().map(|summary| {
        let newest = newest.remove(&SiteId(summary.site_id)).unwrap_or_default();
        (summary, newest)
    });
    let filter = EpisodeFilter {
        tags: tag_limit,
        from: Some(clock::wall_clock_now().saturating_sub(INCIDENT_SPAN)),
        limit: MAX_INCIDENTS,
        ..EpisodeFilter::default()
    };
    Ok(OverviewData {
        counts: site_counts::count_states(store, tag_limit).await?,
        trouble: trouble.collect(),
        regions: regions::list_region_overview(store, tag_limit).await?,
        incidents: incident_pages::list_incidents(store, &filter).await?,
        ledger: match tag_limit {
            None => api.fleet.read_ledger(store).await,
            Some(_) => None,
        },
    })
}

/// What is wrong with notifications, in words: no notifier, channels that fail, and events that wait for long.
fn describe_notifications(channels: &[Channel], absence: Option<String>, now: Timestamp) -> Option<String> {
    /// A message collects events, and a failed attempt is repeated, without a word here.
    const LONG_WAIT: Duration = Duration::from_secs(120);
    let failing: Vec<&str> = channels
        .iter()
        .filter(|channel| matches!(channel.state_word(), "failing" | "problem"))
        .map(|channel| channel.name.as_str())
        .collect();
    let waiting: i64 = channels.iter().map(|channel| channel.state.waiting).sum();
    let oldest = channels.iter().filter_map(|channel| channel.state.oldest_waiting_at).min();
    let since = oldest.map(|oldest| now.saturating_duration_since(oldest.0)).unwrap_or_default();
    let failing = (!failing.is_empty()).then(|| match failing.len() {
        1 => format!("Channel {} does not deliver.", failing[0]),
        _ => format!("Channels {} do not deliver.", failing.join(", ")),
    });
    let waiting = (since > LONG_WAIT).then(|| {
        format!(
            "{} wait to be told, the oldest for {}.",
            count_nouns(waiting, "event"),
            describe_duration(since)
        )
    });
    let parts: Vec<String> = [absence, failing, waiting].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// A number with its noun, in the plural unless it is one.
pub(super) fn count_nouns(count: i64, noun: &str) -> String {
    format!("{} {noun}{}", format_count(count), if count == 1 { "" } else { "s" })
}

impl OverviewPage {
    fn new(
        mut frame: Frame,
        data: &OverviewData,
        moment: MomentBar,
        may_write: bool,
        public_url: String,
    ) -> Self {
        let StateCounts { down, unknown, problem, up, paused } = data.counts;
        let total = down + unknown + problem + up + paused;
        let not_up = down + unknown + problem;
        let headline = match (total, not_up) {
            (0, _) => "Welcome".to_owned(),
            (_, 0) => "All sites are up".to_owned(),
            (_, 1) => "1 site is not up".to_owned(),
            (_, count) => format!("{} sites are not up", format_count(count)),
        };
        frame.title.clone_from(&headline);
        frame.ledger_line = data.ledger.as_ref().map(describe_ledger);
        let region_names: Vec<&str> = data.regions.iter().map(|region| region.name.as_str()).collect();
        let more = not_up - i64::try_from(data.trouble.len()).unwrap_or(0);
        Self {
            headline,
            subline: format!(
                "{} in {}",
                count_nouns(total, "site"),
                count_nouns(i64::try_from(data.regions.len()).unwrap_or(i64::MAX), "region")
            ),
            figures: if total == 0 {
                Vec::new()
            } else {
                list_figures(data.counts, data.ledger.as_ref())
            },
            trouble: data.trouble.iter().map(|(site, newest)| TroubleRow::new(site, newest, &region_names)).collect(),
            more_trouble: (more > 0).then(|| format!("{} more", format_count(more))),
            regions: data.regions.iter().map(RegionRow::new).collect(),
            incidents: data.incidents.iter().map(IncidentItem::new).collect(),
            behind: Behind {
                sql: "SELECT site, status, since, regions_up, regions_down, regions_silent FROM report.site_status\n\
                      WHERE status IN ('down', 'unknown') ORDER BY since;"
                    .to_owned(),
                command: "picket status".to_owned(),
                curl: format!("curl {public_url}/api/v1/summary"),
            },
            frame,
            moment,
            notifications: None,
            may_write,
            public_url,
        }
    }
}

fn list_figures(counts: StateCounts, ledger: Option<&LedgerRow>) -> Vec<FigureItem> {
    let StateCounts { down, unknown, problem, up, paused } = counts;
    let states = SiteState::ALL_STATES
        .into_iter()
        .zip([down, unknown, problem, up, paused])
        .filter(|(state, count)| *count > 0 || matches!(state, SiteState::Down | SiteState::Up));
    let mut figures: Vec<FigureItem> = states
        .map(|(state, count)| FigureItem {
            name: match state {
                SiteState::Down => "Down",
                SiteState::Unknown => "Unknown",
                SiteState::Problem => "Cannot be checked",
                SiteState::Up => "Up",
                SiteState::Paused => "Paused",
            },
            value: format_count(count),
            note: String::new(),
            href: Some(format!("/sites?status={}", state.as_str())),
        })
        .collect();
    figures.extend(ledger.and_then(describe_coverage));
    figures
}

/// Coverage of the minutes before the moment of the page; absent if no check was due.
pub(super) fn describe_coverage(row: &LedgerRow) -> Option<FigureItem> {
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let coverage = (row.expected > 0).then(|| (row.up + row.down) as f64 * 100.0 / row.expected as f64)?;
    Some(FigureItem {
        name: "Coverage lately",
        value: format_percent(Some(coverage)),
        note: format!("of {} checks due, {} missed", format_count(row.expected), format_count(row.missed)),
        href: Some("/ledger".to_owned()),
    })
}

impl TroubleRow {
    fn new(site: &SiteSummary, newest: &[RecentCheck], regions: &[&str]) -> Self {
        let failed = newest.iter().find(|check| check.outcome == "down").or(newest.first());
        let cause = match (&site.problem, failed) {
            (Some(problem), _) => problem.clone(),
            (None, Some(check)) => check.message.clone().or_else(|| check.cause.clone()).unwrap_or_default(),
            (None, None) => "no check yet".to_owned(),
        };
        Self {
            id: site.site_id,
            name: site.site.clone(),
            status: StatusMark::from_word(site.state.as_str()),
            since: Some(TimeMark(site.state_since.0)),
            cause,
            regions: list_cells(newest, regions),
        }
    }
}

/// The newest outcome in each region.
pub(super) fn list_cells(newest: &[RecentCheck], regions: &[&str]) -> Vec<MatrixCell> {
    let find = |region: &str| newest.iter().find(|check| check.region == region);
    let cell = |region: &&str| MatrixCell {
        region: (*region).to_owned(),
        mark: find(region).map(|check| StatusMark::from_word(&check.outcome)),
    };
    regions.iter().map(cell).collect()
}

impl RegionRow {
    fn new(region: &RegionOverview) -> Self {
        let silent_since = region.silent_since.map(|since| TimeMark(since.0));
        let status = Some(if silent_since.is_some() { StatusMark::Silent } else { StatusMark::Up });
        Self { name: region.name.clone(), status, silent_since, schedules: format_count(region.schedules) }
    }
}

impl IncidentItem {
    pub(super) fn new(row: &ListedIncident) -> Self {
        Self {
            id: row.incident_id,
            site: row.site.clone(),
            status: if row.closed_at.is_some() { StatusMark::Up } else { StatusMark::Down },
            opened_at: TimeMark(row.opened_at.0),
            duration: format_seconds(row.seconds),
            cause: row.cause.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_name_down_and_up_and_what_else_there_is() {
        let names = |[down, unknown, problem, up, paused]: [i64; 5]| {
            let counts = StateCounts { down, unknown, problem, up, paused };
            list_figures(counts, None).iter().map(|figure| figure.name).collect::<Vec<_>>()
        };
        assert_eq!(names([0, 0, 0, 5, 0]), ["Down", "Up"]);
        assert_eq!(names([1, 2, 3, 4, 5]), ["Down", "Unknown", "Cannot be checked", "Up", "Paused"]);
    }

    #[test]
    fn coverage_is_watched_of_due() {
        let row = LedgerRow { expected: 1_000, up: 980, down: 10, missed: 10, ..LedgerRow::default() };
        let figure = list_figures(StateCounts::default(), Some(&row)).pop().unwrap();
        assert_eq!((figure.name, figure.value.as_str()), ("Coverage lately", "99.00 %"));
    }
}
