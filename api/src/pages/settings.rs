//! Settings of the cluster, and the regions.

use axum::{extract::State, response::Response};
use picket_store::{
    regions,
    settings::{SETTINGS, read_settings},
};

use super::{
    PageError, Visitor,
    frame::Section,
    list_page::{Cell, ListPage, TableView},
    parts::{Behind, StatusMark, format_count},
    render_page,
};
use crate::state::Api;

/// Shows the settings on which all processes agree.
pub(super) async fn show_settings(visitor: Visitor, State(api): State<Api>) -> Result<Response, PageError> {
    visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))?;
    let settings = read_settings(&api.store).await.map_err(|error| visitor.fail(error))?;
    let subline = "Values on which all processes agree. 'picket settings set NAME VALUE' changes one while everything runs.";
    let mut page = ListPage::new(visitor.frame("Settings", Section::Settings), "Settings", subline);
    let rows = SETTINGS.iter().map(|setting| {
        vec![
            Cell::text(setting.name),
            Cell::text((setting.read)(&settings)),
            Cell::text(setting.kind.allowed()),
            Cell::text(setting.meaning),
        ]
    });
    let table =
        TableView::new("settings", "Settings", &["Name", "Value", "Allowed", "Meaning"]).with_rows(rows);
    page.tables.push(table.with_behind(Behind {
        sql: "SELECT * FROM picket.settings;".to_owned(),
        command: "picket settings list".to_owned(),
        curl: format!("curl {}/api/v1/settings", api.public_url()),
    }));
    Ok(render_page(&page))
}

/// Shows the regions.
pub(super) async fn show_regions(visitor: Visitor, State(api): State<Api>) -> Result<Response, PageError> {
    let rows = regions::list_region_overview(&api.store, visitor.access.tag_limit())
        .await
        .map_err(|error| visitor.fail(error))?;
    let subline = "A prober serves the region in its variable PICKET_REGION.";
    let mut page = ListPage::new(visitor.frame("Regions", Section::Regions), "Regions", subline);
    let table = TableView::new(
        "regions",
        "Regions",
        &["Region", "State", "Silent since (UTC)", "#Schedules in force"],
    )
    .with_empty("There is no region yet.", "picket region add eu-1")
    .with_rows(rows.iter().map(|row| {
        let since = row.silent_since.map(|since| since.0);
        let state = if since.is_some() { StatusMark::Silent } else { StatusMark::Up };
        vec![
            Cell::text(&row.name),
            Cell::Status(state),
            Cell::time(since),
            Cell::text(format_count(row.schedules)),
        ]
    }));
    page.tables.push(table.with_behind(Behind {
        sql: "SELECT region, count(*), max(scheduled_at) FROM report.checks\nWHERE scheduled_at > now() - interval '1 hour' GROUP BY region;"
            .to_owned(),
        command: "picket region list\npicket probers".to_owned(),
        curl: format!("curl {}/api/v1/regions", api.public_url()),
    }));
    Ok(render_page(&page))
}
