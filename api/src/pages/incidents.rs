//! Lists of incidents and of warnings.

use axum::{extract::State, response::Response};
use picket_proto::RegionName;
use picket_runtime::clock;
use picket_store::{
    incident_pages::{self, EpisodeFilter, ListedIncident},
    regions, reports,
};

use super::{
    PageError, Visitor,
    frame::Section,
    input::PageQuery,
    list_page::{Cell, ListPage, MAX_ROWS, TableView},
    parts::{Behind, StatusMark, format_seconds},
    render_page,
    report_filter::ReportQuery,
};
use crate::state::Api;

const DEFAULT_DAYS: u32 = 30;

/// Shows the incidents that were open in a span.
pub(super) async fn show_incidents(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<ReportQuery>,
) -> Result<Response, PageError> {
    let report = query.to_filter(&visitor, DEFAULT_DAYS)?;
    let (store, from) = (api.store.clone(), report.find_start(clock::wall_clock_now()));
    let read = async move {
        let filter = EpisodeFilter {
            tags: report.tag_limit.as_deref(),
            tag: report.tag.as_deref(),
            region: report.region.as_ref().map(RegionName::as_str),
            from: Some(from),
            // One row more shows that there are others.
            limit: i64::try_from(MAX_ROWS + 1).unwrap_or(i64::MAX),
            ..EpisodeFilter::default()
        };
        incident_pages::list_incidents(&store, &filter).await
    };
    let read = api.reports.run(read).await;
    let rows = read.map_err(|problem| visitor.fail(problem))?.map_err(|error| visitor.fail(error))?;
    let open = rows.iter().filter(|row| row.closed_at.is_none()).count();
    let subline = match rows.len() {
        count @ ..=MAX_ROWS => format!("{count} in this span, {open} open"),
        _ => format!("More than {MAX_ROWS} in this span; the newest are shown"),
    };
    let mut page = ListPage::new(visitor.frame("Incidents", Section::Incidents), "Incidents", subline);
    page.forms.push(query.to_form("/incidents", DEFAULT_DAYS, &list_region_names(&visitor, &api).await?));
    page.tables.push(tabulate_incidents(&rows).with_behind(Behind {
        sql: "SELECT * FROM report.incidents ORDER BY opened_at DESC LIMIT 100;".to_owned(),
        command: format!("picket report incidents {}", query.to_options(DEFAULT_DAYS)),
        curl: format!("curl {}/api/v1/incidents", api.public_url()),
    }));
    Ok(render_page(&page))
}

/// Shows the warnings that were open in a span.
pub(super) async fn show_warnings(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<ReportQuery>,
) -> Result<Response, PageError> {
    let filter = query.to_filter(&visitor, DEFAULT_DAYS)?;
    let store = api.store.clone();
    let read = api.reports.read(async move { reports::report_warnings(&store, &filter).await }).await;
    let rows = read.map_err(|problem| visitor.fail(problem))?;
    let subline = "Sites that are up and need attention. A warning changes neither status nor uptime.";
    let mut page = ListPage::new(visitor.frame("Warnings", Section::Warnings), "Warnings", subline);
    page.forms.push(query.to_form("/warnings", DEFAULT_DAYS, &list_region_names(&visitor, &api).await?));
    page.tables.push(tabulate_warnings(&rows).with_behind(Behind {
        sql: "SELECT * FROM report.warnings WHERE closed_at IS NULL ORDER BY opened_at DESC;".to_owned(),
        command: format!("picket report warnings {}", query.to_options(DEFAULT_DAYS)),
        curl: format!("curl {}/api/v1/warnings", api.public_url()),
    }));
    Ok(render_page(&page))
}

pub(super) async fn list_region_names(visitor: &Visitor, api: &Api) -> Result<Vec<String>, PageError> {
    let names = regions::list_active_regions(&api.store).await.map_err(|error| visitor.fail(error))?;
    Ok(names.iter().map(ToString::to_string).collect())
}

fn tabulate_incidents(rows: &[ListedIncident]) -> TableView {
    let columns = ["State", "Site", "Opened (UTC)", "Closed (UTC)", "Duration", "Cause", "Message"];
    TableView::new("incidents", "Incidents, the newest first", &columns)
        .with_empty("No incident was open in this span.", "")
        .with_rows(rows.iter().map(|row| {
            let closed = row.closed_at.map(|at| at.0);
            vec![
                Cell::Status(if closed.is_none() { StatusMark::Down } else { StatusMark::Up }),
                Cell::site(row.site_id, &row.site),
                Cell::time(Some(row.opened_at.0)),
                Cell::time(closed),
                Cell::Link(format_seconds(row.seconds), format!("/incidents/{}", row.incident_id)),
                Cell::text(row.cause.as_deref().unwrap_or("–")),
                Cell::text(row.message.as_deref().unwrap_or("–")),
            ]
        }))
}

fn tabulate_warnings(rows: &[reports::WarningRow]) -> TableView {
    let columns = ["Kind", "Site", "Opened (UTC)", "Closed (UTC)", "Duration", "Expires (UTC)", "#Days left"];
    TableView::new("warnings", "Warnings, the open ones first", &columns)
        .with_empty("No warning was open in this span.", "")
        .with_rows(rows.iter().map(|row| {
            vec![
                Cell::text(&row.kind),
                Cell::site(row.site_id, &row.site),
                Cell::time(Some(row.opened_at.0)),
                Cell::time(row.closed_at.map(|at| at.0)),
                Cell::text(format_seconds(row.seconds)),
                Cell::time(row.expires_at.map(|at| at.0)),
                Cell::text(row.days_left.map_or_else(|| "–".to_owned(), |days| days.to_string())),
            ]
        }))
}
