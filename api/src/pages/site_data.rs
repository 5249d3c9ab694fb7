//! What the store knows about a site for its page.

use std::time::Duration;

use picket_proto::{RegionName, SiteId, Timestamp};
use picket_store::{
    incident_pages::{self, EpisodeFilter, ListedIncident, ListedWarning},
    site_history::{self, CheckRow, HistoryColumn},
    site_list::SiteSummary,
    site_status::{self, RecentCheck, RegionSchedule},
};

use super::site_history::ChartSpan;
use crate::state::Api;

/// Ticks of each region in its strip.
const STRIP_TICKS: i64 = 40;
/// Checks in the list of the newest.
const MAX_CHECKS: usize = 50;
/// Incidents and warnings in their lists.
const MAX_EPISODES: i64 = 20;

/// What the page shows, as the store gives it.
pub(super) struct SiteData {
    pub(super) summary: SiteSummary,
    pub(super) schedules: Vec<RegionSchedule>,
    pub(super) recent: Vec<RecentCheck>,
    pub(super) checks: Vec<CheckRow>,
    pub(super) history: Vec<HistoryColumn>,
    pub(super) incidents: Vec<ListedIncident>,
    pub(super) warnings: Vec<ListedWarning>,
    pub(super) chart_span: ChartSpan,
    pub(super) now: Timestamp,
    /// Due time from which the next page of checks goes back; absent if there are no older ones.
    pub(super) older_before: Option<Timestamp>,
}

/// Reads the data of a page.
///
/// # Errors
/// If the database cannot be reached in time.
pub(super) async fn read_site(
    api: &Api,
    summary: SiteSummary,
    region: Option<&RegionName>,
    before: Option<Timestamp>,
    chart_span: ChartSpan,
    now: Timestamp,
) -> Result<SiteData, picket_store::Error> {
    let (store, site) = (&api.store, SiteId(summary.site_id));
    let schedules = site_status::list_schedules(store, site).await?;
    // Some ticks of each region more than a page has, so that a page is full in spite of missing rows.
    let interval = Duration::from_secs(u64::try_from(summary.interval_seconds).unwrap_or(60));
    let to = before.unwrap_or(now);
    let from = to.saturating_sub(interval * u32::try_from(MAX_CHECKS).unwrap_or(50));
    let limit = i64::try_from(MAX_CHECKS).unwrap_or(50) + 1;
    let mut checks = site_history::list_checks(store, site, from, to, limit).await?;
    let older_before = cut_page(&mut checks).or(Some(from).filter(|from| *from > summary.created_at.0));
    let span = chart_span.span;
    let incidents = EpisodeFilter {
        site_id: Some(site.0),
        from: Some(now.saturating_sub(Duration::from_secs(90 * 86_400))),
        limit: MAX_EPISODES,
        ..EpisodeFilter::default()
    };
    let warnings = EpisodeFilter { open: Some(true), from: None, ..incidents.clone() };
    Ok(SiteData {
        recent: site_status::list_recent_checks(store, site, STRIP_TICKS).await?,
        checks,
        history: site_history::list_history(store, site, region, span.from, span.to, chart_span.step).await?,
        incidents: incident_pages::list_incidents(store, &incidents).await?,
        warnings: incident_pages::list_warnings(store, &warnings).await?,
        summary,
        schedules,
        chart_span,
        now,
        older_before,
    })
}

/// Removes the rows that do not fit on a page, and returns their newest due time. Rows of one due time, such as
/// confirmations in several regions, stay together, so that the next page repeats and loses none.
fn cut_page(checks: &mut Vec<CheckRow>) -> Option<Timestamp> {
    let next = checks.get(MAX_CHECKS)?.scheduled_at;
    let kept = checks.iter().take_while(|check| check.scheduled_at > next).count();
    checks.truncate(if kept > 0 { kept } else { MAX_CHECKS });
    Some(next.0)
}
