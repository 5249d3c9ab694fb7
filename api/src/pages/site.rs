//! A site: uptime and coverage, its state by region, response times, incidents and newest checks.

use std::time::Duration;

use askama::Template;
use axum::{extract::State, response::Response};
use picket_proto::{CheckKind, RegionName};
use picket_runtime::clock;
use picket_store::{
    incident_pages::ListedWarning,
    site_history::{CheckRow, HistoryColumn},
    site_list::{SiteState, SiteSummary},
    site_status::{RecentCheck, RegionSchedule},
    sites::SiteVersion,
};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    check::{check_address, check_address_of, find_visible_site, format_micros},
    frame::{Frame, Section},
    input::{PagePath, PageQuery},
    overview::{FigureItem, IncidentItem},
    parts::{
        Behind, Figure, Pager, StatusMark, TagLink, TimeMark, format_count, format_percent, format_seconds,
    },
    render_page,
    site_data::{SiteData, read_site},
    site_history::{ChartSpan, SPANS, draw_history},
    sites::{list_days, mark_status},
};
use crate::{
    access::Scope,
    charts::{CellState, StripCell, draw_strip, format_duration, format_minute},
    problem::Problem,
    state::Api,
};

/// A site is new for as long after its creation, if no check has arrived.
const NEW_FOR: Duration = Duration::from_secs(600);

/// A check in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckItem {
    pub(crate) status: StatusMark,
    pub(crate) due: TimeMark,
    pub(crate) href: String,
    pub(crate) region: String,
    pub(crate) kind: &'static str,
    pub(crate) lateness: String,
    pub(crate) total: String,
    pub(crate) http_status: String,
    pub(crate) message: String,
}

/// A region of the site with its newest check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SiteRegionRow {
    pub(crate) region: String,
    pub(crate) check: Option<CheckItem>,
    /// Words in place of a check.
    pub(crate) empty: String,
    /// Newest ticks as a drawing.
    pub(crate) strip: String,
}

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
    pub(crate) interval: String,
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
    pub(crate) times_behind: Behind,
    pub(crate) incidents: Vec<IncidentItem>,
    pub(crate) warnings: Vec<WarningItem>,
    pub(crate) facts: Vec<(&'static str, String)>,
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
    let chart_span = ChartSpan::parse(&query.span, &query.from, &query.to, now).map_err(invalid)?;
    let region = match query.region.as_str() {
        "" => None,
        name => Some(name.parse::<RegionName>().map_err(invalid)?),
    };
    let before = if query.before.is_empty() { None } else { Some(query.before.parse().map_err(invalid)?) };
    let read = read_site(&api, summary, region.as_ref(), before, chart_span, now);
    let data = read.await.map_err(|error| visitor.fail(error))?;
    let frame = visitor.frame(data.summary.site.clone(), Section::Sites);
    let may_write = visitor.access.allows(Scope::Write);
    Ok(render_page(&SitePage::new(frame, &data, &query, may_write, &api.public_url())))
}

impl CheckItem {
    pub(super) fn new(site: i64, check: &CheckRow) -> Self {
        Self {
            status: StatusMark::from_word(&check.outcome),
            due: TimeMark(check.scheduled_at.0),
            href: check_address_of(site, check),
            region: check.region.clone(),
            kind: if check.kind == CheckKind::Confirm.as_str() { "confirmation" } else { "scheduled" },
            lateness: format_micros(check.lateness_us),
            total: format_micros(check.total_us),
            http_status: check.http_status.map_or_else(|| "–".to_owned(), |status| status.to_string()),
            message: check.message.clone().or_else(|| check.cause.clone()).unwrap_or_default(),
        }
    }

    /// The same of a row with fewer columns.
    fn of_recent(site: i64, check: &RecentCheck, full: Option<&CheckRow>) -> Self {
        if let Some(full) = full {
            return Self::new(site, full);
        }
        Self {
            status: StatusMark::from_word(&check.outcome),
            due: TimeMark(check.scheduled_at),
            href: check_address(site, &check.region, check.scheduled_at, false),
            region: check.region.clone(),
            kind: "scheduled",
            lateness: "–".to_owned(),
            total: check.total_ms.map_or_else(|| "–".to_owned(), |ms| format_duration(ms * 1e3)),
            http_status: check.http_status.map_or_else(|| "–".to_owned(), |status| status.to_string()),
            message: check.message.clone().or_else(|| check.cause.clone()).unwrap_or_default(),
        }
    }
}

/// One row for each schedule in force.
fn list_regions(data: &SiteData) -> Vec<SiteRegionRow> {
    let site = data.summary.site_id;
    let row = |schedule: &RegionSchedule| {
        let ticks: Vec<&RecentCheck> =
            data.recent.iter().filter(|check| check.region == schedule.region).collect();
        let cells: Vec<StripCell> = ticks
            .iter()
            .rev()
            .map(|check| StripCell {
                state: match check.outcome.as_str() {
                    "up" => CellState::Up,
                    "down" => CellState::Down,
                    _ => CellState::Missed,
                },
                label: format_minute(check.scheduled_at),
                detail: check.message.clone().unwrap_or_default(),
            })
            .collect();
        let check = ticks.first().map(|newest| {
            let is_same = |full: &&CheckRow| {
                full.region == newest.region
                    && full.scheduled_at.0 == newest.scheduled_at
                    && full.kind == "scheduled"
            };
            CheckItem::of_recent(site, newest, data.checks.iter().find(is_same))
        });
        SiteRegionRow {
            region: schedule.region.clone(),
            check,
            empty: format!("no check yet; scheduled since {} UTC", format_minute(schedule.valid_from)),
            strip: draw_strip("ticks", &cells, true).svg,
        }
    };
    data.schedules.iter().map(row).collect()
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
            note: format!("watched {}", format_percent(coverage)),
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

/// The account of the charts' span in one sentence.
fn describe_history(rows: &[HistoryColumn], span: crate::charts::Span) -> String {
    let sum = |of: fn(&HistoryColumn) -> i64| rows.iter().map(of).sum::<i64>();
    let (up, down, missed, gap) =
        (sum(|row| row.up), sum(|row| row.down), sum(|row| row.missed), sum(|row| row.gap));
    format!(
        "Ledger from {} to {} UTC: {} checks were due, {} up, {} down, {} missed by us, {} in gaps.",
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
    fn new(frame: Frame, data: &SiteData, query: &SiteQuery, may_write: bool, public_url: &str) -> Self {
        let site = &data.summary;
        let (id, span) = (site.site_id, data.chart_span.span);
        let cells = list_days(&site.days, site.days_through.as_deref(), 90);
        let strip_names =
            [("up", "up"), ("down", "down"), ("missed", "not watched"), ("maintenance", "maintenance")];
        let chosen = if query.from.is_empty() { query.span.as_str() } else { "" };
        let chosen = if chosen.is_empty() && query.from.is_empty() { SPANS[0].0 } else { chosen };
        let age = data.now.saturating_duration_since(site.created_at.0);
        Self {
            frame,
            id,
            version: site.version,
            name: site.site.clone(),
            url: site.url.clone(),
            tags: site.tags.iter().map(|tag| TagLink::new(tag)).collect(),
            status: mark_status(site),
            status_note: describe_status(site),
            may_write,
            is_enabled: site.enabled,
            is_new: data.recent.is_empty() && age < NEW_FOR && site.enabled && site.problem.is_none(),
            interval: format_seconds(site.interval_seconds.into()),
            problem: site.problem.clone(),
            uptimes: list_uptimes(site),
            days: Figure {
                title: "Last 90 days",
                chart: draw_strip("days", &cells, true),
                legend: strip_names.map(|(class, name)| (class.to_owned(), name)).into(),
                zoom: None,
            },
            ledger_line: describe_history(&data.history, span),
            uptime_behind: Behind {
                sql: format!("SELECT * FROM report.uptime_daily WHERE site_id = {id} ORDER BY day DESC;"),
                command: format!("picket site show {id}"),
                curl: format!("curl '{public_url}/api/v1/sites/{id}/uptime'"),
            },
            region_rows: list_regions(data),
            spans: SPANS.map(|(value, _, name)| (value, name, value == chosen)).into(),
            region_options: data.schedules.iter().map(|schedule| schedule.region.clone()).collect(),
            region: query.region.clone(),
            charts: draw_history(data.chart_span, &data.history),
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
            checks: data.checks.iter().map(|check| CheckItem::new(id, check)).collect(),
            pager: Pager {
                shown: format!("{} checks", data.checks.len()),
                first: (!query.before.is_empty()).then(|| format!("/sites/{id}#checks")),
                next: data.older_before.map(|oldest| format!("/sites/{id}?before={oldest}#checks")),
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

fn describe_warning(warning: &ListedWarning) -> String {
    let days = warning.days_left.map(|days| format!("{days} days left")).unwrap_or_default();
    let message = warning.message.clone().unwrap_or_default();
    [warning.kind.clone(), days, message]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}
