//! Maintenance windows: the list, and forms that add and remove one.

use std::time::Duration;

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::{SiteId, Timestamp, ValidationError};
use picket_runtime::clock;
use picket_store::maintenance::{self, MaintenanceTarget, MaintenanceWindow, WindowFilter};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    frame::Section,
    input::{PageForm, PagePath, PageQuery},
    list_page::{Cell, FormField, FormView, ListPage, MAX_ROWS, TableView},
    parts::{Behind, StatusMark},
    render_page,
};
use crate::{access::Scope, problem::Problem, state::Api};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct MaintenanceQuery {
    site: String,
}

/// Shows the windows, past ones too.
pub(super) async fn show_maintenance(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<MaintenanceQuery>,
) -> Result<Response, PageError> {
    let tags = visitor.access.tag_limit();
    // One row more shows that there are others.
    let limit = i64::try_from(MAX_ROWS + 1).ok();
    let filter = WindowFilter { all: true, tags, limit, ..WindowFilter::default() };
    let windows = maintenance::list_windows(&api.store, filter).await.map_err(|error| visitor.fail(error))?;
    let may_write = visitor.access.allows(Scope::Write) && visitor.access.tag_limit().is_none();
    let subline = "Checks go on in a window and their results are stored; no incident opens.";
    let mut page = ListPage::new(visitor.frame("Maintenance", Section::Maintenance), "Maintenance", subline);
    if may_write {
        page.forms.push(build_form(&query.site));
    }
    page.tables.push(tabulate_windows(&windows, may_write).with_behind(Behind {
        sql: "SELECT * FROM picket.maintenance_windows;".to_owned(),
        command: "picket maintenance list --all".to_owned(),
        curl: format!("curl {}/api/v1/maintenance", api.public_url()),
    }));
    Ok(render_page(&page))
}

/// Values of the form.
#[derive(Deserialize)]
pub(crate) struct WindowForm {
    #[serde(default)]
    site: String,
    #[serde(default)]
    tag: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    to: String,
}

/// Adds a window.
pub(super) async fn add_window(
    visitor: Visitor,
    State(api): State<Api>,
    PageForm(form): PageForm<WindowForm>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))?;
    let invalid =
        |error: ValidationError| visitor.fail(Problem::invalid_field(format!("/{}", error.field), &error));
    let now = clock::wall_clock_now();
    let target = form.target().map_err(invalid)?;
    let from = parse_moment("from", &form.from, now).map_err(invalid)?.unwrap_or(now);
    let to = parse_moment("to", &form.to, now).map_err(invalid)?;
    maintenance::add_window(&api.store, &target, from, to).await.map_err(|error| visitor.fail(error))?;
    Ok(Redirect::to("/maintenance").into_response())
}

/// Removes a window.
pub(super) async fn remove_window(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<i64>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))?;
    maintenance::remove_window(&api.store, id, None).await.map_err(|error| visitor.fail(error))?;
    Ok(Redirect::to("/maintenance").into_response())
}

impl WindowForm {
    fn target(&self) -> Result<MaintenanceTarget, ValidationError> {
        match (self.site.trim(), self.tag.trim()) {
            ("", "") => Err(ValidationError::new("site", "", "the number of a site, or else a tag")),
            ("", tag) => Ok(MaintenanceTarget::Tag(tag.to_owned())),
            (site, "") => {
                let id =
                    site.parse().map_err(|_| ValidationError::new("site", site, "the number of a site"))?;
                Ok(MaintenanceTarget::Site(SiteId(id)))
            }
            (_, tag) => Err(ValidationError::new("tag", tag, "nothing, because the window is for one site")),
        }
    }
}

/// A time as RFC 3339 without seconds at least, or `+2h` from now; empty for none.
pub(super) fn parse_moment(
    field: &'static str,
    text: &str,
    now: Timestamp,
) -> Result<Option<Timestamp>, ValidationError> {
    const ALLOWED: &str = "a time in UTC such as 2026-12-01 22:00, or a span from now such as +2h or +30m";
    let text = text.trim();
    if text.is_empty() || text == "now" {
        return Ok(None);
    }
    if let Some(span) = text.strip_prefix('+') {
        let seconds = parse_span(span).ok_or_else(|| ValidationError::new(field, text, ALLOWED))?;
        return Ok(Some(now.saturating_add(Duration::from_secs(seconds))));
    }
    let padded = match text.len() {
        16 => format!("{}:00Z", text.replace(' ', "T")),
        _ => text.to_owned(),
    };
    padded.parse().map(Some).map_err(|_| ValidationError::new(field, text, ALLOWED))
}

/// Seconds of a span of one unit.
fn parse_span(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let size = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(size).filter(|seconds| *seconds <= 400 * 86_400)
}

fn build_form(site: &str) -> FormView {
    let field = |name, label, value: &str, placeholder| FormField {
        name,
        label,
        value: value.to_owned(),
        placeholder,
        ..FormField::default()
    };
    FormView {
        name: "New window",
        prefix: "window",
        action: "/maintenance".to_owned(),
        is_post: true,
        is_panel: true,
        fields: vec![
            field("site", "Site number", site, ""),
            field("tag", "or tag", "", ""),
            field("from", "From (UTC)", "now", "2026-12-01 22:00"),
            field("to", "To (UTC, empty: until further notice)", "+2h", "2026-12-02 02:00"),
        ],
        button: "Add window",
        ..FormView::default()
    }
}

fn tabulate_windows(windows: &[MaintenanceWindow], may_write: bool) -> TableView {
    let columns: &[&'static str] = if may_write {
        &["State", "For", "From (UTC)", "To (UTC)", "Remove"]
    } else {
        &["State", "For", "From (UTC)", "To (UTC)"]
    };
    TableView::new("windows", "Windows, the newest first", columns)
        .with_empty("No window is planned.", "picket maintenance add https://example.com --to +2h")
        .with_rows(windows.iter().map(|window| {
            let target = match (window.site_id, &window.tag) {
                (Some(id), _) => Cell::site(id, window.site.clone().unwrap_or_else(|| format!("site {id}"))),
                (None, tag) => Cell::text(format!("tag {}", tag.as_deref().unwrap_or("–"))),
            };
            let state = match window.state.as_str() {
                "now" => Cell::Status(StatusMark::Maintenance),
                state => Cell::text(state),
            };
            let to = window.to.map_or_else(|| Cell::text("until further notice"), |to| Cell::time(Some(to)));
            let mut row = vec![state, target, Cell::time(Some(window.from)), to];
            if may_write {
                row.push(Cell::Button("Remove", format!("/maintenance/{}/remove", window.id)));
            }
            row
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_in_utc_or_spans_from_now() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let parse = |text| parse_moment("to", text, now);
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("+2h"), Ok(Some(now.saturating_add(Duration::from_secs(7_200)))));
        assert_eq!(parse("2026-12-01 22:00").unwrap().unwrap().to_string(), "2026-12-01T22:00:00.000000Z");
        assert_eq!(parse("2026-12-01T22:00:00Z").unwrap(), parse("2026-12-01 22:00").unwrap());
        for text in ["tomorrow", "+", "+é", "+9999999999999999999d", "2026-13-01 22:00", "+3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_has_a_site_or_a_tag() {
        let target = |site: &str, tag: &str| {
            WindowForm { site: site.to_owned(), tag: tag.to_owned(), from: String::new(), to: String::new() }
                .target()
        };
        assert_eq!(target("7", ""), Ok(MaintenanceTarget::Site(SiteId(7))));
        assert_eq!(target("", "shop"), Ok(MaintenanceTarget::Tag("shop".to_owned())));
        assert!(target("", "").is_err() && target("x", "").is_err() && target("7", "shop").is_err());
    }
}
