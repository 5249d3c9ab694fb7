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
use picket_store::{
    Error,
    routes::{self, Route, RoutePlace},
    tags::{TagIndex, read_tag_index_of_routes},
};

use super::{
    PageError, Visitor,
    channels::{describe_absence, may_change, refuse, render_form_page, require_change},
    frame::Section,
    input::{PageForm, PagePath, PageQuery},
    list_page::{Cell, FormView, ListPage, Tab, TableView},
    overview::count_nouns,
    parts::Behind,
    reach::{ReachQuery, build_reach_form, read_reach},
    route_form::{apply_form, build_route_form, write_escalation},
};
use crate::{channels::require_route, state::Api};

/// Shows the routes, and whom incidents of the chosen sites would reach.
pub(super) async fn show_routes(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<ReachQuery>,
) -> Result<Response, PageError> {
    render_routes(&visitor, &api, &query, None).await
}

/// Renders the routes, with a new one that was refused.
async fn render_routes(
    visitor: &Visitor,
    api: &Api,
    query: &ReachQuery,
    refused: Option<(&BTreeMap<String, String>, &ValidationError)>,
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
    page.warning = describe_absence(visitor, api).await?;
    let form = build_reach_form(query);
    match query.parse_site() {
        Err(error) => page.forms.push(form.with_refusal(&query.typed(), &error)),
        Ok(site) => {
            page.forms.push(form);
            if site.is_some() || !query.tag.is_empty() {
                page.tables.push(read_reach(visitor, api, site, &query.tag).await?);
            }
        }
    }
    if limit.is_none() {
        let found = routes::list_routes(&api.store).await.map_err(|error| visitor.fail(error))?;
        let readable = found.iter().filter_map(|route| route.definition.as_ref().ok());
        let tags =
            read_tag_index_of_routes(&api.store, readable).await.map_err(|error| visitor.fail(error))?;
        page.tables.push(tabulate_routes(&found, &tags).with_behind(Behind {
            sql: "SELECT * FROM picket.routes ORDER BY position, route_id;".to_owned(),
            command: "picket route list\npicket route test --unreached".to_owned(),
            curl: format!("curl {0}/api/v1/routes\ncurl {0}/api/v1/reach", api.public_url()),
        }));
    }
    if may_change(visitor) {
        let form = build_route_form("New route", "/routes".to_owned(), None, "Add route");
        page.forms.push(match refused {
            None => form,
            Some((typed, error)) => form.with_refusal(typed, error),
        });
    }
    Ok(render_form_page(&page))
}

/// Adds a route behind the others, or shows the form again with the reason why not.
pub(super) async fn add_route(
    visitor: Visitor,
    State(api): State<Api>,
    PageForm(form): PageForm<BTreeMap<String, String>>,
) -> Result<Response, PageError> {
    require_change(&visitor)?;
    match insert_route(&visitor, &api, &form).await? {
        Ok(()) => Ok(Redirect::to("/routes").into_response()),
        Err(error) => render_routes(&visitor, &api, &ReachQuery::default(), Some((&form, &error))).await,
    }
}

/// Adds the route of a form; returns the refusal of a field.
async fn insert_route(
    visitor: &Visitor,
    api: &Api,
    form: &BTreeMap<String, String>,
) -> Result<Result<(), ValidationError>, PageError> {
    let parsed = apply_form(RouteFields::default(), form).and_then(|fields| fields.into_definition(0));
    let mut new = match parsed {
        Ok(route) => [route],
        Err(error) => return Ok(Err(error)),
    };
    let there = routes::list_routes(&api.store).await.map_err(|error| visitor.fail(error))?;
    name_routes(&mut new, there.into_iter().map(|route| route.name));
    let added = match form.get("catch_up").map(String::as_str) {
        Some("yes") => routes::add_route_with_catch_up(&api.store, &new[0], RoutePlace::Last).await.map(drop),
        _ => routes::add_route(&api.store, &new[0], RoutePlace::Last).await.map(drop),
    };
    split_refusal(visitor, added)
}

/// The refusal of a field, apart from other errors.
fn split_refusal<T>(
    visitor: &Visitor,
    done: Result<T, Error>,
) -> Result<Result<T, ValidationError>, PageError> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Error::Invalid(error)) => Ok(Err(error)),
        Err(error) => Err(visitor.fail(error)),
    }
}

/// Shows a route in a form.
pub(super) async fn show_route(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(name): PagePath<String>,
) -> Result<Response, PageError> {
    render_route(&visitor, &api, &name, None).await
}

/// Renders a route, with a refused change.
async fn render_route(
    visitor: &Visitor,
    api: &Api,
    name: &str,
    refused: Option<(&BTreeMap<String, String>, &ValidationError)>,
) -> Result<Response, PageError> {
    let route = find_route(visitor, api, name).await?;
    visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))?;
    let definition = route.definition.map_err(|error| refuse(visitor, &error))?;
    let mut page = ListPage::new(
        visitor.frame(name, Section::Notifications),
        format!("Route {name}"),
        format!("Tells {} about {}", definition.channels.join(", "), definition.describe_sites()),
    );
    page.tabs = Tab::list("/routes");
    page.warning = describe_absence(visitor, api).await?;
    if may_change(visitor) {
        let form = build_route_form("Definition", format!("/routes/{name}"), Some(&definition), "Save");
        page.forms.push(match refused {
            None => form,
            Some((typed, error)) => form.with_refusal(typed, error),
        });
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
        command: format!("picket route show {name}"),
        curl: format!("curl {}/api/v1/routes/{name}", api.public_url()),
    }));
    Ok(render_form_page(&page))
}

/// Saves a route, or shows it again with the reason why not. What the form does not have stays.
pub(super) async fn save_route(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(name): PagePath<String>,
    PageForm(form): PageForm<BTreeMap<String, String>>,
) -> Result<Response, PageError> {
    require_change(&visitor)?;
    let stored = find_route(&visitor, &api, &name).await?;
    let stored = stored.definition.map_err(|error| refuse(&visitor, &error))?;
    match update_route(&visitor, &api, &stored, &form).await? {
        Ok(new_name) => Ok(Redirect::to(&format!("/routes/{new_name}")).into_response()),
        Err(error) => render_route(&visitor, &api, &name, Some((&form, &error))).await,
    }
}

/// Changes the stored route by a form; returns its name, or the refusal of a field.
async fn update_route(
    visitor: &Visitor,
    api: &Api,
    stored: &RouteDefinition,
    form: &BTreeMap<String, String>,
) -> Result<Result<String, ValidationError>, PageError> {
    let position = match form.get("position").map(|position| position.trim()) {
        None | Some("") => Ok(stored.position),
        Some(text) => text
            .parse()
            .map_err(|_| ValidationError::new("position", text, "a whole number from 0 to 1000000")),
    };
    let changed = position.and_then(|position| {
        apply_form(stored.to_fields(), form).and_then(|fields| fields.into_definition(position))
    });
    let mut route = match changed {
        Ok(route) => route,
        Err(error) => return Ok(Err(error)),
    };
    if route.name.is_empty() {
        route.name.clone_from(&stored.name);
    }
    let saved = routes::update_route(&api.store, &stored.name, &route, None).await;
    split_refusal(visitor, saved.map(|_| route.name))
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
    require_route(api, name).await.map_err(|problem| visitor.fail(problem))
}

fn tabulate_routes(found: &[Route], tags: &TagIndex) -> TableView {
    let columns = ["#Position", "Route", "State", "About", "Events", "Channels", "Remind", "Escalate"];
    TableView::new("routes", "Routes in their order", &columns)
        .with_empty(
            "There is no route yet, so no channel is told of anything. The form above adds one, and so does:",
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
                Cell::text(describe_sites(definition, tags)),
                Cell::text(definition.events.join(", ")),
                Cell::text(definition.channels.join(", ")),
                Cell::text(fields.remind.as_deref().unwrap_or("1h")),
                Cell::text(if escalation.is_empty() { "–" } else { &escalation }),
            ]
        }))
}

/// What a route is about, with warnings.
fn describe_sites(route: &RouteDefinition, tags: &TagIndex) -> String {
    let warnings = tags.list_warnings(route).into_iter().map(|warning| format!(" ({warning})"));
    std::iter::once(route.describe_sites()).chain(warnings).collect()
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
