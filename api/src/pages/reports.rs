//! Reports over spans of days: uptime with coverage, response times, and failures by cause.

use axum::{extract::State, response::Response};
use picket_store::reports;

use super::{
    PageError, Visitor,
    frame::Section,
    incidents::list_region_names,
    input::PageQuery,
    list_page::{Cell, ListPage, TableView},
    parts::{Behind, format_count, format_percent},
    render_page,
    report_filter::ReportQuery,
};
use crate::{
    charts::{draw_sparkline, format_duration},
    state::Api,
};

const DEFAULT_DAYS: u32 = 30;

/// Shows the reports.
pub(super) async fn show_reports(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<ReportQuery>,
) -> Result<Response, PageError> {
    let filter = query.to_filter(&visitor, DEFAULT_DAYS)?;
    let store = api.store.clone();
    let read = async move {
        let uptime = reports::report_uptime(&store, &filter).await?;
        let latency = reports::report_latency(&store, &filter).await?;
        Ok((uptime, latency, reports::report_failures(&store, &filter).await?))
    };
    let (uptime, latency, failures) =
        api.reports.read(read).await.map_err(|problem| visitor.fail(problem))?;
    let names = list_region_names(&visitor, &api).await?;

    let frame = visitor.frame("Reports", Section::Reports);
    let subline = "Days of UTC, today included. Missed checks count neither for nor against a site.";
    let mut page = ListPage::new(frame, "Reports", subline);
    page.forms.push(query.to_form("/reports", DEFAULT_DAYS, &names));
    let options = query.to_options(DEFAULT_DAYS);
    let behind = |report: &str, sql: &str| Behind {
        sql: sql.to_owned(),
        command: format!("picket report {report} {options}"),
        curl: format!("curl {}/api/v1/reports/{report}", api.public_url()),
    };
    page.tables.push(tabulate_uptime(&uptime).with_behind(behind(
        "uptime",
        "SELECT * FROM report.uptime_daily ORDER BY day DESC, uptime_pct LIMIT 100;",
    )));
    page.tables.push(tabulate_latency(&latency).with_behind(behind(
        "latency",
        "SELECT * FROM report.latency_hourly ORDER BY hour DESC, p95_ms DESC LIMIT 100;",
    )));
    page.tables.push(tabulate_failures(&failures).with_behind(behind(
        "failures",
        "SELECT * FROM report.failures ORDER BY day DESC, checks DESC LIMIT 100;",
    )));
    Ok(render_page(&page))
}

fn tabulate_uptime(rows: &[reports::UptimeRow]) -> TableView {
    let columns = ["Site", "#Uptime", "#Without maintenance", "#Coverage", "#Due", "#Up", "#Down", "#Missed"];
    TableView::new("uptime", "Uptime, the worst first", &columns)
        .with_empty("No check was due in this span.", "")
        .with_rows(rows.iter().map(|row| {
            vec![
                Cell::site(row.site_id, &row.site),
                Cell::text(format_percent(row.uptime_pct)),
                Cell::text(format_percent(row.uptime_pct_excl_maintenance)),
                Cell::text(format_percent(row.coverage_pct)),
                Cell::text(format_count(row.checks)),
                Cell::text(format_count(row.up)),
                Cell::text(format_count(row.down)),
                Cell::text(format_count(row.missed)),
            ]
        }))
}

fn tabulate_latency(rows: &[reports::LatencyRow]) -> TableView {
    let format_ms = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| format_duration(ms * 1e3));
    TableView::new(
        "latency",
        "Response times, the slowest first",
        &["Site", "#p50", "#p95", "#p99", "#Checks", "p95 by day"],
    )
    .with_empty("No check was up in this span.", "")
    .with_rows(rows.iter().map(|row| {
        let days: Vec<Option<f64>> = row.days.iter().map(|ms| ms.map(|ms| ms * 1e3)).collect();
        vec![
            Cell::site(row.site_id, &row.site),
            Cell::text(format_ms(row.p50_ms)),
            Cell::text(format_ms(row.p95_ms)),
            Cell::text(format_ms(row.p99_ms)),
            Cell::text(format_count(row.checks)),
            Cell::Drawing(draw_sparkline("p95 by day", &days)),
        ]
    }))
}

fn tabulate_failures(rows: &[reports::FailureRow]) -> TableView {
    TableView::new(
        "failures",
        "Checks that were not up, by region and cause",
        &["Region", "Cause", "#Checks", "#Sites"],
    )
    .with_empty("Every check of this span was up.", "")
    .with_rows(rows.iter().map(|row| {
        vec![
            Cell::text(&row.region),
            Cell::text(&row.cause),
            Cell::text(format_count(row.checks)),
            Cell::text(format_count(row.sites)),
        ]
    }))
}
