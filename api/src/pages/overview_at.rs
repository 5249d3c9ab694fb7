//! The overview of now, or as of a past moment: the incidents that were open then, and what their regions had found.

use std::time::Duration;

use axum::{extract::State, response::Response};
use picket_proto::{SiteId, Timestamp};
use picket_runtime::clock;
use picket_store::{
    Store,
    incident_pages::{self, EpisodeFilter, ListedIncident},
    ledger::{self, LedgerFilter, LedgerRow},
    moments::{self, MomentCounts},
    site_status::{self, RecentCheck},
};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    fleet::describe_ledger,
    frame::{Frame, Section},
    input::PageQuery,
    moment::{MomentBar, parse_moment, view_incident_at},
    overview::{
        FigureItem, INCIDENT_SPAN, IncidentItem, MAX_INCIDENTS, MAX_TROUBLE, OverviewPage, RegionRow,
        TroubleRow, count_nouns, describe_coverage, list_cells, render_overview,
    },
    parts::{Behind, StatusMark, TimeMark, format_count},
    render_page,
};
use crate::{problem::Problem, state::Api};

/// Span of the ledger before the moment, or before the end of what is closed; its cost rises with the number of checks.
const LEDGER_SPAN: Duration = Duration::from_secs(300);

/// Moment of the page, as in the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OverviewQuery {
    at: String,
}

/// What was known at a moment, as the store gives it.
struct PastOverview {
    counts: MomentCounts,
    /// Sites with an open incident, and the newest check of each region.
    trouble: Vec<(ListedIncident, Vec<RecentCheck>)>,
    regions: Vec<(String, i64)>,
    incidents: Vec<ListedIncident>,
    /// Account of the minutes before; absent for readers of some sites.
    ledger: Option<LedgerRow>,
}

/// Shows the overview.
pub(super) async fn show_overview(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<OverviewQuery>,
) -> Result<Response, PageError> {
    let now = clock::wall_clock_now();
    let at = parse_moment(&query.at, now)
        .map_err(|error| visitor.fail(Problem::from(picket_store::Error::from(error))))?;
    let moment = MomentBar { path: "/".to_owned(), at, now };
    let Some(at) = at else { return render_overview(&visitor, &api, moment).await };
    let (store, tags) = (api.store.clone(), visitor.access.tag_limit().map(<[_]>::to_vec));
    let read = api.reports.read(async move { read_past(&store, tags.as_deref(), at).await }).await;
    let past = read.map_err(|problem| visitor.fail(problem))?;
    let frame = visitor.frame("Overview", Section::Overview);
    Ok(render_page(&past.into_page(frame, moment, at, api.public_url())))
}

async fn read_past(
    store: &Store,
    tags: Option<&[String]>,
    at: Timestamp,
) -> Result<PastOverview, picket_store::Error> {
    let open = EpisodeFilter {
        tags,
        from: Some(at),
        to: Some(at),
        limit: MAX_TROUBLE.into(),
        ..EpisodeFilter::default()
    };
    let latest =
        EpisodeFilter { from: Some(at.saturating_sub(INCIDENT_SPAN)), limit: MAX_INCIDENTS, ..open.clone() };
    let view = |incident| view_incident_at(incident, at);
    let listed = incident_pages::list_incidents(store, &open).await?.into_iter().map(view);
    let listed: Vec<_> = listed.filter(|incident| incident.closed_at.is_none()).collect();
    let sites: Vec<SiteId> = listed.iter().map(|incident| SiteId(incident.site_id)).collect();
    let mut newest = site_status::list_recent_checks_by_site(store, &sites, 1, Some(at)).await?;
    let trouble = listed.into_iter().map(|incident| {
        let newest = newest.remove(&SiteId(incident.site_id)).unwrap_or_default();
        (incident, newest)
    });
    Ok(PastOverview {
        counts: moments::count_sites_at(store, tags, at).await?,
        trouble: trouble.collect(),
        regions: moments::list_regions_at(store, tags, at).await?,
        incidents: incident_pages::list_incidents(store, &latest).await?.into_iter().map(view).collect(),
        ledger: match tags {
            None => {
                let (now, accounted) = ledger::read_accounted_through(store).await?;
                let to = at.min(ledger::find_closed_end(now, accounted));
                let from = to.saturating_sub(LEDGER_SPAN);
                let rows = ledger::list_by_region(store, from, to, LedgerFilter::default()).await?;
                Some(ledger::sum_rows(&rows))
            }
            Some(_) => None,
        },
    })
}

impl PastOverview {
    fn into_page(
        self,
        mut frame: Frame,
        moment: MomentBar,
        at: Timestamp,
        public_url: String,
    ) -> OverviewPage {
        let MomentCounts { scheduled, down, .. } = self.counts;
        let headline = match down {
            0 => "No site was down".to_owned(),
            1 => "1 site was down".to_owned(),
            count => format!("{} sites were down", format_count(count)),
        };
        frame.title.clone_from(&headline);
        frame.ledger_line = self.ledger.as_ref().map(describe_ledger);
        let names: Vec<&str> = self.regions.iter().map(|(name, _)| name.as_str()).collect();
        let more = down - i64::try_from(self.trouble.len()).unwrap_or(0);
        OverviewPage {
            headline,
            subline: format!(
                "{} had a schedule, in {}",
                count_nouns(scheduled, "site"),
                count_nouns(i64::try_from(self.regions.len()).unwrap_or(i64::MAX), "region")
            ),
            public_url,
            may_write: false,
            figures: list_past_figures(self.counts, self.ledger.as_ref()),
            trouble: self
                .trouble
                .iter()
                .map(|(incident, newest)| describe_trouble(incident, newest, &names))
                .collect(),
            more_trouble: (more > 0).then(|| format!("{} more", format_count(more))),
            regions: self
                .regions
                .iter()
                .map(|(name, schedules)| RegionRow {
                    name: name.clone(),
                    status: None,
                    silent_since: None,
                    schedules: format_count(*schedules),
                })
                .collect(),
            incidents: self.incidents.iter().map(IncidentItem::new).collect(),
            moment,
            notifications: None,
            behind: Behind {
                sql: format!(
                    "SELECT site, opened_at, closed_at, cause, regions FROM report.incidents\n\
                     WHERE opened_at <= '{at}' AND (closed_at IS NULL OR closed_at > '{at}') ORDER BY opened_at;"
                ),
                ..Behind::default()
            },
            frame,
        }
    }
}

fn list_past_figures(counts: MomentCounts, ledger: Option<&LedgerRow>) -> Vec<FigureItem> {
    let figure = |name: &'static str, count: i64| FigureItem {
        name,
        value: format_count(count),
        note: String::new(),
        href: None,
    };
    let mut figures = vec![figure("Down", counts.down), figure("With a schedule", counts.scheduled)];
    figures.extend((counts.warned > 0).then(|| figure("With a warning", counts.warned)));
    figures.extend(ledger.and_then(describe_coverage));
    figures
}

fn describe_trouble(incident: &ListedIncident, newest: &[RecentCheck], regions: &[&str]) -> TroubleRow {
    let cause = incident.message.clone().or_else(|| incident.cause.clone()).unwrap_or_default();
    TroubleRow {
        id: incident.site_id,
        name: incident.site.clone(),
        status: StatusMark::Down,
        since: Some(TimeMark(incident.opened_at.0)),
        cause,
        regions: list_cells(newest, regions),
    }
}
