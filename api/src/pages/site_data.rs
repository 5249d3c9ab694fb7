//! What the store knows about a site for its page.

use std::time::Duration;

use picket_proto::{CheckResult, RegionName, SiteId, Timestamp};
use picket_store::{
    adhoc_results,
    certificates::{self, SiteCertificate},
    incident_pages::{self, EpisodeFilter, ListedIncident, ListedWarning},
    ledger::{self, LedgerFilter, LedgerRow},
    site_history::{self, CheckRow, HistoryColumn, ScheduleChange},
    site_list::SiteSummary,
    site_status::{self, RecentCheck, RegionSchedule},
    sites,
};

use super::{
    moment::{view_incident_at, view_warning_at},
    site_history::{ChartSpan, MAX_SPAN},
    site_sums::{PastSums, sum_until},
};
use crate::{charts::Span, first_checks::build_first_check_id, state::Api};

/// Ticks of each region in its strip.
const STRIP_TICKS: i64 = 40;
/// Checks in the list of the newest.
const MAX_CHECKS: usize = 50;
/// Incidents and warnings in their lists.
const MAX_EPISODES: i64 = 20;
/// Time after its creation and first interval in which a site shows the answers to its first check.
const NEW_FOR: Duration = Duration::from_secs(600);

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
    /// The moment of the page: now, or in the past.
    pub(super) now: Timestamp,
    /// Sums up to a past moment; absent for the present, of which the summary has them.
    pub(super) past: Option<PastSums>,
    pub(super) ledger: LedgerRow,
    pub(super) ledger_span: Span,
    pub(super) edits: Vec<ScheduleChange>,
    /// Time of the last change of the definition.
    pub(super) updated_at: Option<Timestamp>,
    /// Certificates of the present.
    pub(super) certificates: Vec<SiteCertificate>,
    /// Answers to the first check of a new site.
    pub(super) first_answers: Vec<CheckResult>,
    /// Whether a region of a new site has not finished a tick.
    pub(super) is_new: bool,
    /// Due time from which the next page of checks goes back; absent if there are no older ones.
    pub(super) older_before: Option<Timestamp>,
}

/// What a page shows of a site, as in its address.
pub(super) struct SiteView<'a> {
    pub(super) region: Option<&'a RegionName>,
    /// Due time from which the listed checks go back.
    pub(super) before: Option<Timestamp>,
    pub(super) chart_span: ChartSpan,
    /// The present.
    pub(super) now: Timestamp,
    /// The past moment; absent for the present.
    pub(super) at: Option<Timestamp>,
}

/// Reads the data of a page.
///
/// # Errors
/// If the database cannot be reached in time.
pub(super) async fn read_site(
    api: &Api,
    summary: SiteSummary,
    view: SiteView<'_>,
) -> Result<SiteData, picket_store::Error> {
    let (store, site) = (&api.store, SiteId(summary.site_id));
    let SiteView { region, before, chart_span, at, .. } = view;
    let now = at.unwrap_or(view.now);
    let schedules = site_status::list_schedules(store, site, at).await?;
    // Some ticks of each region more than a page has, so that a page is full in spite of missing rows.
    let interval = Duration::from_secs(u64::try_from(summary.interval_seconds).unwrap_or(60));
    let to = before.map_or(now, |before| before.min(now));
    let from = to.saturating_sub(interval * u32::try_from(MAX_CHECKS).unwrap_or(50));
    let limit = i64::try_from(MAX_CHECKS).unwrap_or(50) + 1;
    let mut checks = site_history::list_checks(store, site, from, to, limit).await?;
    let older_before = cut_page(&mut checks).or(Some(from).filter(|from| *from > summary.created_at.0));
    let span = chart_span.span;
    // Whole columns may be longer than the longest span by one of them.
    let edits = site_history::Span::new(span.from.max(span.to.saturating_sub(MAX_SPAN)), span.to)?;
    let recent = site_status::list_recent_checks(store, site, STRIP_TICKS, at).await?;
    let is_young = now.saturating_duration_since(summary.created_at.0) < NEW_FOR + interval;
    let is_new = at.is_none()
        && is_young
        && summary.enabled
        && summary.problem.is_none()
        && schedules.iter().any(|schedule| recent.iter().all(|check| check.region != schedule.region));
    let (clock, accounted) = ledger::read_accounted_through(store).await?;
    let closed = ledger::find_closed_end(clock, accounted);
    let ledger_to = at.map_or(closed, |at| at.min(closed));
    let ledger_span = Span { from: ledger_to.saturating_sub(ledger::DEFAULT_SPAN), to: ledger_to };
    let filter = LedgerFilter { tags: None, site: Some(site) };
    let rows = ledger::list_by_region(store, ledger_span.from, ledger_span.to, filter).await?;
    Ok(SiteData {
        recent,
        checks,
        history: site_history::list_history(store, site, region, span.from, span.to, chart_span.step).await?,
        incidents: list_incidents(api, site, now, at).await?,
        warnings: list_warnings(api, site, at).await?,
        past: match at {
            Some(at) => Some(sum_until(store, site, at).await?),
            None => None,
        },
        ledger: ledger::sum_rows(&rows),
        ledger_span,
        edits: site_history::list_schedule_changes(store, site, edits).await?,
        updated_at: sites::read_versioned_site(store, site, None).await?.map(|found| found.site.updated_at),
        certificates: match at {
            None => certificates::list_site_certificates(store, site).await?,
            Some(_) => Vec::new(),
        },
        first_answers: match is_new {
            true => adhoc_results::list_adhoc_results(store, &build_first_check_id(site)).await?,
            false => Vec::new(),
        },
        is_new,
        summary,
        schedules,
        chart_span,
        now,
        older_before,
    })
}

/// Incidents of the 90 days before the page's moment.
async fn list_incidents(
    api: &Api,
    site: SiteId,
    now: Timestamp,
    at: Option<Timestamp>,
) -> Result<Vec<ListedIncident>, picket_store::Error> {
    let filter = EpisodeFilter {
        site_id: Some(site.0),
        from: Some(now.saturating_sub(Duration::from_secs(90 * 86_400))),
        to: at,
        limit: MAX_EPISODES,
        ..EpisodeFilter::default()
    };
    let found = incident_pages::list_incidents(&api.store, &filter).await?;
    Ok(match at {
        Some(at) => found.into_iter().map(|incident| view_incident_at(incident, at)).collect(),
        None => found,
    })
}

/// Warnings that are or were open at the page's moment.
async fn list_warnings(
    api: &Api,
    site: SiteId,
    at: Option<Timestamp>,
) -> Result<Vec<ListedWarning>, picket_store::Error> {
    let filter = EpisodeFilter {
        site_id: Some(site.0),
        open: at.is_none().then_some(true),
        from: at,
        to: at,
        limit: MAX_EPISODES,
        ..EpisodeFilter::default()
    };
    let found = incident_pages::list_warnings(&api.store, &filter).await?;
    Ok(match at {
        Some(at) => found.into_iter().filter_map(|warning| view_warning_at(warning, at)).collect(),
        None => found,
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
