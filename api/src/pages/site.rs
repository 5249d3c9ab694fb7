//! A site: uptime and coverage, its state by region, response times, incidents and newest checks.

use std::time::Duration;

use askama::Template;
use axum::{extract::State, response::Response};
use picket_proto::{RegionName, Timestamp, Warning};
use picket_runtime::clock;
use picket_store::{
    incident_pages::ListedWarning,
    routes::{ReachFilter, list_reach},
    site_history::HistoryColumn,
    site_list::{SiteState, SiteSummary},
    sites::SiteVersion,
};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    check::find_visible_site,
    first_answers::FirstAnswer,
    fleet::describe_ledger,
    frame::{Frame, Section},
    input::{PagePath, PageQuery},
    moment::{MomentBar, parse_moment},
    overview::{FigureItem, IncidentItem},
    parts::{
        Behind, Figure, Pager, StatusMark, TagLink, TimeMark, format_count, format_percent, format_seconds,
    },
    recipients::RecipientsView,
    render_page,
    site_at::{cut_days, describe_past_state, list_past_uptimes},
    site_certificate::CertificateView,
    site_data::{SiteData, SiteView, read_site},
    site_edits::{EditItem, list_edits},
    site_history::{ChartSpan, SPANS, draw_history},
    site_regions::{CheckItem, SiteRegionRow, list_regions},
    sites::{list_days, mark_status},
};
use crate::{
    access::Scope,
    charts::{EditMark, draw_strip, format_minute},
    problem::Problem,
    state::Api,
};

/// Time after its creation in which the answers to the first check of a site arrive.
const ANSWERS_DUE: Duration = Duration::from_secs(60);

/// An open warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WarningItem {
    pub(crate) status: StatusMark,
    pub(crate) text: String,
    pub(crate) since: TimeMark,
}

/// See the module documentation.
#[derive(Template)]
#[template(path = "site.html")]
pub(crate) struct SitePage {
    pub(crate) frame: Frame,
    pub(crate) id: i64,
    /// Version that the page shows, of which an action is.
    pub(crate) version: SiteVersion,
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) tags: Vec<TagLink>,
    pub(crate) status: StatusMark,
    pub(crate) status_note: String,
    pub(crate) may_write: bool,
    pub(crate) is_enabled: bool,
    pub(crate) is_new: bool,
    /// Answers to the first check of a new site.
    pub(crate) first_answers: Vec<FirstAnswer>,
    /// Seconds after which a script fetches these answers again.
    pub(crate) first_refresh: u32,
    pub(crate) interval: String,
    pub(crate) moment: MomentBar,
    pub(crate) problem: Option<String>,
    pub(crate) uptimes: Vec<FigureItem>,
    pub(crate) days: Figure,
    pub(crate) ledger_line: String,
    pub(crate) uptime_behind: Behind,
    pub(crate) region_rows: Vec<SiteRegionRow>,
    /// Value, name and whether it is chosen.
    pub(crate) spans: Vec<(&'static str, &'static str, bool)>,
    pub(crate) region_options: Vec<String>,
    pub(crate) region: String,
    pub(crate) charts: Vec<Figure>,
    /// Account of the charts' span in words.
    pub(crate) charts_note: String,
    pub(crate) edits: Vec<EditItem>,
    pub(crate) certificate: Option<CertificateView>,
    pub(crate) times_behind: Behind,
    pub(crate) incidents: Vec<IncidentItem>,
    pub(crate) warnings: Vec<WarningItem>,
    pub(crate) facts: Vec<(&'static str, String)>,
    /// Absent for a past moment.
    pub(crate) told: Option<RecipientsView>,
    pub(crate) checks: Vec<CheckItem>,
    pub(crate) pager: Pager,
    pub(crate) checks_behind: Behind,
}

/// Span and region of the charts, as in the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SiteQuery {
    span: String,
    from: String,
    to: String,
    region: String,
    /// Time before which the listed checks were due.
    before: String,
    /// Past moment of the page.
    at: String,
}

/// Shows a site.
pub(super) async fn show_site(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<i64>,
    PageQuery(query): PageQuery<SiteQuery>,
) -> Result<Response, PageError> {
    let summary = find_visible_site(&visitor, &api, id).await?;
    let now = clock::wall_clock_now();
    let invalid =
        |error: picket_proto::ValidationError| visitor.fail(Problem::from(picket_store::Error::from(error)));
    let at = parse_moment(&query.at, now).map_err(invalid)?;
    let chart_span =
        ChartSpan::parse(&query.span, &query.from, &query.to, at.unwrap_or(now)).map_err(invalid)?;
    let region = match query.region.as_str() {
        "" => None,
        name => Some(name.parse::<RegionName>().map_err(invalid)?),
    };
    let before = if query.before.is_empty() { None } else { Some(query.before.parse().map_err(invalid)?) };
    let view = SiteView { region: region.as_ref(), before, chart_span, now, at };
    let data = read_site(&api, summary, view).await.map_err(|error| visitor.fail(error))?;
    let moment = MomentBar { path: format!("/sites/{id}"), at, now };
    let frame = visitor.frame(data.summary.site.clone(), Section::Sites);
    let may_write = visitor.access.allows(Scope::Write);
    let mut page = SitePage::new(frame, &data, &query, moment, may_write, &api.public_url());
    if at.is_none() {
        let filter = ReachFilter { ids: Some(&[id]), ..ReachFilter::default() };
        let reach = list_reach(&api.store, filter).await.map_err(|error| visitor.fail(error))?;
        page.told = reach.first().map(|reach| RecipientsView::new(reach, may_write, &api.public_url()));
    }
    Ok(render_page(&page))
}

fn list_uptimes(site: &SiteSummary) -> Vec<FigureItem> {
    let spans = [
        ("24 hours", site.uptime_24h_pct, site.coverage_24h_pct),
        ("7 days", site.uptime_7d_pct, site.coverage_7d_pct),
        ("30 days", site.uptime_30d_pct, site.coverage_30d_pct),
        ("90 days", site.uptime_90d_pct, site.coverage_90d_pct),
    ];
    spans
        .map(|(name, uptime, coverage)| FigureItem {
            name,
            value: format_percent(uptime),
            note: format!("coverage {}", format_percent(coverage)),
            href: None,
        })
        .into()
}

fn describe_status(site: &SiteSummary) -> String {
    let since = format!("since {} UTC", format_minute(site.state_since.0));
    match site.state {
        SiteState::Up if !site.warnings.is_empty() => {
            format!("up {since}, with a warning: {}", site.warnings.join(", "))
        }
        _ => since,
    }
}

/// The sums of the charts' columns in one sentence.
fn describe_history(rows: &[HistoryColumn], span: crate::charts::Span) -> String {
    let sum = |of: fn(&HistoryColumn) -> i64| rows.iter().map(of).sum::<i64>();
    let (up, down, missed, gap) =
        (sum(|row| row.up), sum(|row| row.down), sum(|row| row.missed), sum(|row| row.gap));
    format!(
        "From {} to {} UTC, by hour: {} checks, of which {} up, {} down, {} missed by us, {} in gaps.",
        format_minute(span.from),
        format_minute(span.to),
        format_count(up + down + missed + gap),
        format_count(up),
        format_count(down),
        format_count(missed),
        format_count(gap),
    )
}

fn list_facts(site: &SiteSummary) -> Vec<(&'static str, String)> {
    let regions = if site.regions.is_empty() { "all".to_owned() } else { site.regions.join(", ") };
    vec![
        ("Number", site.site_id.to_string()),
        ("URL", site.url.clone()),
        ("Type", site.check_type.clone()),
        ("Interval", format_seconds(site.interval_seconds.into())),
        ("Regions", regions),
        ("Created", format!("{} UTC", format_minute(site.created_at.0))),
    ]
}

impl SitePage {
    fn new(
        frame: Frame,
        data: &SiteData,
        query: &SiteQuery,
        moment: MomentBar,
        may_write: bool,
        public_url: &str,
    ) -> Self {
        let site = &data.summary;
        let (id, span) = (site.site_id, data.chart_span.span);
        let (letters, through) = match moment.at {
            Some(at) => cut_days(&site.days, site.days_through.as_deref(), at),
            None => (site.days.as_str(), site.days_through.clone()),
        };
        let cells = list_days(letters, through.as_deref(), 90);
        let strip_names =
            [("up", "up"), ("down", "down"), ("missed", "not watched"), ("maintenance", "maintenance")];
        let chosen = if query.from.is_empty() { query.span.as_str() } else { "" };
        let chosen = if chosen.is_empty() && query.from.is_empty() { SPANS[0].0 } else { chosen };
        let (ledger_from, ledger_to) = (data.ledger_span.from, data.ledger_span.to);
        let (status, status_note) = match moment.at {
            Some(_) => describe_past_state(data),
            None => (mark_status(site), describe_status(site)),
        };
        let edits = list_edits(&data.edits, span, site.created_at.0, data.updated_at);
        let marks: Vec<EditMark> = edits.iter().map(EditItem::mark).collect();
        let certificate = match moment.at {
            Some(_) => None,
            None => {
                CertificateView::new(id, &site.url, &data.certificates, &data.checks, data.now, public_url)
                    .map(|view| CertificateView { warning: find_certificate_warning(&data.warnings), ..view })
            }
        };
        let first_answers = FirstAnswer::list(&data.first_answers, &site.url);
        let is_waiting = data.is_new
            && first_answers.len() < data.schedules.len()
            && data.now.saturating_duration_since(site.created_at.0) < ANSWERS_DUE;
        // Links to other pages of the list stay at the moment.
        let at = moment.at.map(|at| at.to_string());
        let link_checks = |before: Option<Timestamp>| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            let pairs = [("at", at.clone()), ("before", before.map(|before| before.to_string()))];
            query.extend_pairs(pairs.into_iter().filter_map(|(name, value)| Some((name, value?))));
            format!("/sites/{id}?{}#checks", query.finish())
        };
        Self {
            frame,
            id,
            version: site.version,
            name: site.site.clone(),
            url: site.url.clone(),
            tags: site.tags.iter().map(|tag| TagLink::new(tag)).collect(),
            status,
            status_note,
            may_write,
            is_enabled: site.enabled,
            is_new: data.is_new,
            first_refresh: if is_waiting { 2 } else { 30 },
            first_answers,
            interval: format_seconds(site.interval_seconds.into()),
            problem: site.problem.clone(),
            uptimes: match &data.past {
                Some(sums) => list_past_uptimes(sums),
                None => list_uptimes(site),
            },
            days: Figure {
                title: "Last 90 days",
                chart: draw_strip("days", &cells, true),
                legend: strip_names.map(|(class, name)| (class.to_owned(), name)).into(),
                zoom: None,
            },
            ledger_line: format!(
                "Ledger from {} to {} UTC: {}.",
                format_minute(ledger_from),
                format_minute(ledger_to),
                describe_ledger(&data.ledger)
            ),
            uptime_behind: Behind {
                sql: format!(
                    "SELECT * FROM report.uptime_daily WHERE site_id = {id} ORDER BY day DESC;\n\
                     SELECT * FROM report.ledger('{ledger_from}', '{ledger_to}') WHERE site_id = {id};"
                ),
                command: format!("picket site show {id}"),
                curl: format!(
                    "curl '{public_url}/api/v1/sites/{id}/uptime'\n\
                     curl '{public_url}/api/v1/sites/{id}/ledger?from={ledger_from}&to={ledger_to}'"
                ),
            },
            region_rows: list_regions(data),
            spans: SPANS.map(|(value, _, name)| (value, name, value == chosen)).into(),
            region_options: data.schedules.iter().map(|schedule| schedule.region.clone()).collect(),
            region: query.region.clone(),
            charts: draw_history(data.chart_span, &data.history, &marks),
            charts_note: describe_history(&data.history, span),
            edits,
            certificate,
            moment,
            times_behind: Behind {
                sql: format!(
                    "SELECT hour, region, p50_ms, p95_ms, p99_ms, dns_ms, connect_ms, tls_ms, first_byte_ms\nFROM report.latency_hourly \
                     WHERE site_id = {id} AND hour BETWEEN '{}' AND '{}' ORDER BY hour;",
                    span.from, span.to
                ),
                command: "picket report latency --since 7d".to_owned(),
                curl: format!(
                    "curl '{public_url}/api/v1/sites/{id}/latency?from={}&to={}'",
                    span.from, span.to
                ),
            },
            incidents: data.incidents.iter().map(IncidentItem::new).collect(),
            warnings: data
                .warnings
                .iter()
                .map(|warning| WarningItem {
                    status: StatusMark::Warning,
                    text: describe_warning(warning),
                    since: TimeMark(warning.opened_at.0),
                })
                .collect(),
            facts: list_facts(site),
            told: None,
            checks: data.checks.iter().map(|check| CheckItem::new(id, check)).collect(),
            pager: Pager {
                shown: format!("{} checks", data.checks.len()),
                first: (!query.before.is_empty()).then(|| link_checks(None)),
                next: data.older_before.map(|oldest| link_checks(Some(oldest))),
            },
            checks_behind: Behind {
                sql: format!(
                    "SELECT * FROM report.checks WHERE site_id = {id} ORDER BY scheduled_at DESC LIMIT 50;"
                ),
                command: format!("picket site show {id}"),
                curl: format!("curl '{public_url}/api/v1/sites/{id}/checks'"),
            },
        }
    }
}

/// The open warning about the certificate, in words.
fn find_certificate_warning(warnings: &[ListedWarning]) -> Option<String> {
    let is_certificate = |warning: &&ListedWarning| warning.kind == Warning::Certificate.as_str();
    warnings.iter().find(is_certificate).map(describe_warning)
}

fn describe_warning(warning: &ListedWarning) -> String {
    let days = warning.days_left.map(|days| format!("{days} days left")).unwrap_or_default();
    let message = warning.message.clone().unwrap_or_default();
    [warning.kind.clone(), days, message]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}
