//! Routes: the list in their order, forms that add and change one, and who would be told about a site.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::{
    ValidationError,
    route::{RouteDefinition, RouteFields, name_routes},
};
use picket_store::routes::{self, ReachFilter, Route, RoutePlace, SiteReach};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    channels::{may_change, refuse, require_change},
    frame::Section,
    input::{PageForm, PagePath, PageQuery},
    list_page::{Cell, FormField, FormView, ListPage, MAX_ROWS, Tab, TableView},
    overview::count_nouns,
    parts::Behind,
    render_page,
    route_form::{apply_form, build_route_form, write_escalation},
};
use crate::{
    problem::{Problem, ProblemKind},
    state::Api,
    v1::require_tag,
};

/// The site or the tag about which the reader asks.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReachQuery {
    site: Option<i64>,
    tag: String,
}

/// Shows the routes, and whom incidents of the chosen sites would reach.
pub(super) async fn show_routes(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<ReachQuery>,
) -> Result<Response, PageError> {
    let limit = visitor.access.tag_limit();
    let reach = routes::count_reach(&api.store, limit).await.map_err(|error| visitor.fail(error))?;
    let told = count_nouns(reach.sites - reach.unreached, "site");
    let subline = match reach.unreached {
        0 => format!(
            "Incidents of {told} reach a channel. All routes that match apply, and a channel is told once."
        ),
        some => {
            format!("Incidents of {} reach nobody, those of {told} a channel.", count_nouns(some, "site"))
        }
    };
    let mut page = ListPage::new(visitor.frame("Routes", Section::Notifications), "Routes", subline);
    page.tabs = Tab::list("/routes");
    page.forms.push(build_reach_form(&query));
    if query.site.is_some() || !query.tag.is_empty() {
        page.tables.push(read_reach(&visitor, &api, &query).await?);
    }
    if limit.is_none() {
        let found = routes::list_routes(&api.store).await.map_err(|error| visitor.fail(error))?;
        page.tables.push(tabulate_routes(&found).with_behind(Behind {
            sql: "SELECT * FROM picket.routes ORDER BY position, route_id;".to_owned(),
            command: "picket route list\npicket route test --unreached".to_owned(),
            curl: format!("curl {0}/api/v1/routes\ncurl {0}/api/v1/reach", api.public_url()),
        }));
    }
    if may_change(&visitor) {
        page.forms.push(build_route_form("New route", "/routes".to_owned(), None, "Add route"));
    }
    Ok(render_page(&page))
}

/// Adds a route behind the others.
pub(super) async fn add_route(
    visitor: Visitor,
    State(api): State<Api>,
    PageForm(form): PageForm<BTreeMap<String, String>>,
) -> Result<Response, PageError> {
    require_change(&visitor)?;
    let fields = apply_form(RouteFields::default(), &form).map_err(|error| refuse(&visitor, &error))?;
    let mut new = [fields.into_definition(0).map_err(|error| refuse(&visitor, &error))?];
    let there = routes::list_routes(&api.store).await.map_err(|error| visitor.fail(error))?;
    name_routes(&mut new, there.into_iter().map(|route| route.name));
    let added = routes::add_route(&api.store, &new[0], RoutePlace::Last).await;
    added.map_err(|error| visitor.fail(error))?;
    Ok(Redirect::to("/routes").into_response())
}

/// Shows a route in a form.
pub(super) async fn show_route(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(name): PagePath<String>,
) -> Result<Response, PageError> {
    let route = find_route(&visitor, &api, &name).await?;
    visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))?;
    let definition = route.definition.map_err(|error| refuse(&visitor, &error))?;
    let mut page = ListPage::new(
        visitor.frame(&name, Section::Notifications),
        format!("Route {name}"),
        format!("Tells {} about {}", definition.channels.join(", "), definition.describe_sites()),
    );
    page.tabs = Tab::list("/routes");
    if may_change(&visitor) {
        page.forms.push(build_route_form("Definition", format!("/routes/{name}"), Some(&definition), "Save"));
        page.forms.push(FormView {
            name: "Remove",
            prefix: "remove",
            action: format!("/routes/{name}/remove"),
            is_post: true,
            button: "Remove",
            ..FormView::default()
        });
    }
    page.tables.push(tabulate_fields(&definition).with_behind(Behind {
        sql: format!("SELECT * FROM picket.routes WHERE name = '{name}';"),
        command: "picket route list --output json".to_owned(),
        curl: format!("curl {}/api/v1/routes/{name}", api.public_url()),
    }));
    Ok(render_page(&page))
}

/// Saves a route. What the form does not have stays.
pub(super) async fn save_route(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(name): PagePath<String>,
    PageForm(form): PageForm<BTreeMap<String, String>>,
) -> Result<Response, PageError> {
    require_change(&visitor)?;
    let stored = find_route(&visitor, &api, &name).await?;
    let stored = stored.definition.map_err(|error| refuse(&visitor, &error))?;
    let changed =
        apply_form(stored.to_fields(), &form).and_then(|fields| fields.into_definition(stored.position));
    let mut route = changed.map_err(|error| refuse(&visitor, &error))?;
    route.position = match form.get("position").map(|position| position.trim()) {
        None | Some("") => stored.position,
        Some(position) => position.parse().map_err(|_| {
            refuse(&visitor, &ValidationError::new("position", position, "a whole number from 0 to 1000000"))
        })?,
    };
    if route.name.is_empty() {
        route.name.clone_from(&name);
    }
    routes::update_route(&api.store, &name, &route, None).await.map_err(|error| visitor.fail(error))?;
    Ok(Redirect::to(&format!("/routes/{}", route.name)).into_response())
}

/// Removes a route.
pub(super) async fn remove_route(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(name): PagePath<String>,
) -> Result<Response, PageError> {
    require_change(&visitor)?;
    routes::remove_route(&api.store, &name, None).await.map_err(|error| visitor.fail(error))?;
    Ok(Redirect::to("/routes").into_response())
}

async fn find_route(visitor: &Visitor, api: &Api, name: &str) -> Result<Route, PageError> {
    let found = routes::find_route(&api.store, name).await.map_err(|error| visitor.fail(error))?;
    found.ok_or_else(|| {
        let name = picket_proto::validation::sanitize_text(name, 64);
        visitor.fail(Problem::new(ProblemKind::NotFound, format!("there is no route '{name}'")))
    })
}

async fn read_reach(visitor: &Visitor, api: &Api, query: &ReachQuery) -> Result<TableView, PageError> {
    let ids = match query.site {
        Some(site) => Some([super::check::find_visible_site(visitor, api, site).await?.site_id]),
        None => None,
    };
    let tags = match query.tag.as_str() {
        "" => None,
        tag => {
            let tag = require_tag(&visitor.access, "?tag", tag.to_owned());
            Some([tag.map_err(|problem| visitor.fail(problem))?])
        }
    };
    let filter = ReachFilter {
        ids: ids.as_ref().map(|ids| &ids[..]),
        tags: tags.as_ref().map(|tags| &tags[..]),
        // One row more shows that there are others.
        limit: i64::try_from(MAX_ROWS + 1).ok(),
    };
    let found = routes::list_reach(&api.store, filter).await.map_err(|error| visitor.fail(error))?;
    let (command, curl) = match (query.site, query.tag.as_str()) {
        (Some(site), _) => (format!("picket route test {site}"), format!("site={site}")),
        (None, tag) => (format!("picket route test --tag '{tag}'"), format!("tag={tag}")),
    };
    Ok(tabulate_reach(&found).with_behind(Behind {
        command,
        curl: format!("curl '{}/api/v1/reach?{curl}'", api.public_url()),
        ..Behind::default()
    }))
}

fn tabulate_reach(found: &[SiteReach]) -> TableView {
    TableView::new(
        "reach",
        "Who would be told",
        &["Site", "Told at once", "Told later, unless acknowledged", "By the routes"],
    )
    .with_empty("No site has this number or this tag.", "")
    .with_rows(found.iter().map(|site| {
        let list = |names: &[String], none: &str| match names.is_empty() {
            true => Cell::text(none),
            false => Cell::text(names.join(", ")),
        };
        vec![
            Cell::site(site.site_id, &site.site),
            list(&site.channels, "nobody"),
            list(&site.escalation_channels, "–"),
            list(&site.routes, "–"),
        ]
    }))
}

fn build_reach_form(query: &ReachQuery) -> FormView {
    FormView {
        name: "Who would be told",
        prefix: "reach",
        action: "/routes".to_owned(),
        fields: vec![
            FormField {
                name: "site",
                label: "Who would be told about site number",
                value: query.site.map_or_else(String::new, |site| site.to_string()),
                ..FormField::default()
            },
            FormField {
                name: "tag",
                label: "or sites with the tag",
                value: query.tag.clone(),
                ..FormField::default()
            },
        ],
        button: "Show",
        ..FormView::default()
    }
}

fn tabulate_routes(found: &[Route]) -> TableView {
    let columns = ["#Position", "Route", "State", "About", "Events", "Channels", "Remind", "Escalate"];
    TableView::new("routes", "Routes in their order", &columns)
        .with_empty(
            "There is no route yet, so no channel is told of anything.",
            "picket route add --channel ops",
        )
        .with_rows(found.iter().map(|route| {
            let link = Cell::Link(route.name.clone(), format!("/routes/{}", route.name));
            let definition = match &route.definition {
                Ok(definition) => definition,
                Err(why) => {
                    let mut row = vec![
                        Cell::text("–"),
                        Cell::text(&route.name),
                        Cell::text("problem"),
                        Cell::text(why),
                    ];
                    row.resize(8, Cell::text("–"));
                    return row;
                }
            };
            let fields = definition.to_fields();
            let escalation = write_escalation(&fields.escalate);
            vec![
                Cell::text(definition.position),
                link,
                Cell::text(if definition.enabled { "on" } else { "off" }),
                Cell::text(definition.describe_sites()),
                Cell::text(definition.events.join(", ")),
                Cell::text(definition.channels.join(", ")),
                Cell::text(fields.remind.as_deref().unwrap_or("1h")),
                Cell::text(if escalation.is_empty() { "–" } else { &escalation }),
            ]
        }))
}

/// Every field that differs from its default.
fn tabulate_fields(route: &RouteDefinition) -> TableView {
    use picket_proto::notification_plan::NamedDefinition;
    let fields: Vec<Vec<Cell>> = route
        .to_json_fields()
        .into_iter()
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            vec![Cell::text(name), Cell::text(text)]
        })
        .collect();
    TableView::new("fields", "Fields that differ from their defaults", &["Field", "Value"])
        .with_rows(fields.into_iter())
}
