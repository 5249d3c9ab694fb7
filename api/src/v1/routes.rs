//! Routes: which events are told to which channels, and whom an incident of a site would reach.

mod body;
mod reach;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use picket_proto::route::name_routes;
use picket_store::{
    Error,
    routes::{
        Route as StoredRoute, RoutePlace, add_route as insert_route, add_route_with_catch_up,
        list_routes as read_routes, remove_route, update_route,
    },
    tags::{TagIndex, read_tag_index_of_routes},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::body::{Route, RouteFields, RouteList, decode_route, describe_fields};
use super::{
    catch_up::CatchUpQuery,
    location::respond_with_location,
    preconditions::{WRITE_ATTEMPTS, build_etag, check_if_match},
    site_body::{invalid_definition, merge_patch},
};
use crate::{
    access::{Access, Administrator, Reader},
    channels::require_route,
    extract::{ApiJson, ApiPath, ApiQuery},
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_routes, add_route))
        .routes(routes!(read_route, replace_route, change_route, delete_route))
        .merge(reach::build_routes())
}

/// Lists all routes in their order. All that match an event apply, and a channel is told once.
#[utoipa::path(
    get, path = "/routes", tag = "routes", security(("token" = ["read"])),
    responses(
        (status = OK, body = RouteList),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags, and routes concern all sites; `GET /reach` tells of its sites."),
    ),
)]
async fn list_routes(Reader(access): Reader, State(api): State<Api>) -> Result<Json<RouteList>, Problem> {
    access.require_all_sites()?;
    let found = read_routes(&api.store).await?;
    let tags = index_tags(&api, &found).await?;
    Ok(Json(RouteList { items: found.iter().map(|route| Route::new(route, &tags)).collect() }))
}

/// A new route.
#[derive(Serialize, ToSchema)]
struct AddedRoute {
    #[serde(flatten)]
    route: Route,
    /// Number of notices of what was open already; null without `catch_up`.
    caught_up: Option<i64>,
}

/// Adds a route, behind the others unless it has a position. Events before that are not told.
#[utoipa::path(
    post, path = "/routes", tag = "routes", security(("token" = ["admin"])), params(CatchUpQuery), request_body = RouteFields,
    responses(
        (status = CREATED, body = AddedRoute,
            headers(("Location" = String, description = "Address of the route"), ("ETag" = String, description = "Version"))),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "A route has the name: `existing`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed, or names a channel, site, region or time zone that there is not."),
    ),
)]
async fn add_route(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<CatchUpQuery>,
    ApiJson(body): ApiJson<Value>,
) -> Result<Response, Problem> {
    access.require_all_sites()?;
    let place = match body.get("position").is_some_and(|position| !position.is_null()) {
        true => RoutePlace::Defined,
        false => RoutePlace::Last,
    };
    let mut new = [decode_route(&body)?];
    name_routes(&mut new, read_routes(&api.store).await?.into_iter().map(|route| route.name));
    let [route] = new;
    let added = match query.catch_up {
        true => add_route_with_catch_up(&api.store, &route, place).await.map(Some),
        false => insert_route(&api.store, &route, place).await.map(|_| None),
    };
    let caught_up = added.map_err(|error| refuse_route(error, &route.name))?;
    let location = format!("/api/v1/routes/{}", route.name);
    let found = require_route(&api, &route.name).await?;
    let etag = [(header::ETAG, build_etag(&found.version))];
    let added = AddedRoute { route: describe_route(&api, &found).await?, caught_up };
    Ok(respond_with_location(StatusCode::CREATED, &location, (etag, Json(added))))
}

/// Reads a route.
#[utoipa::path(
    get, path = "/routes/{name}", tag = "routes", security(("token" = ["read"])),
    params(("name" = String, Path, description = "Name of the route")),
    responses(
        (status = OK, body = Route, headers(("ETag" = String, description = "Version"))),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags, and routes concern all sites."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such route."),
    ),
)]
async fn read_route(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
) -> Result<Response, Problem> {
    access.require_all_sites()?;
    respond_with_route(&api, &require_route(&api, &name).await?).await
}

/// Replaces a route, its name too if the body has another. An absent field gets its default; without a position the
/// route keeps its place.
#[utoipa::path(
    put, path = "/routes/{name}", tag = "routes", security(("token" = ["admin"])), request_body = RouteFields,
    params(
        ("name" = String, Path, description = "Name of the route"),
        ("If-Match" = Option<String>, Header, description = "Changes the route only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Route, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such route."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json", description = "Another route has the name."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The route has another version than `If-Match`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed, or names a channel, site, region or time zone that there is not."),
    ),
)]
async fn replace_route(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Value>,
) -> Result<Response, Problem> {
    write_route(&api, &access, &name, &headers, |_| Ok(body.clone())).await
}

/// Changes fields of a route by a merge patch (RFC 7396). A null field gets its default.
#[utoipa::path(
    patch, path = "/routes/{name}", tag = "routes", security(("token" = ["admin"])),
    request_body(content = Value, content_type = "application/merge-patch+json",
        description = "The fields to change, as in the body of PUT; `application/json` is accepted as well",
        example = json!({"remind": "4h", "tags": null})),
    params(
        ("name" = String, Path, description = "Name of the route"),
        ("If-Match" = Option<String>, Header, description = "Changes the route only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Route, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such route."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "Another route has the name, or this one cannot be read."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The route has another version than `If-Match`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed, or names a channel, site, region or time zone that there is not."),
    ),
)]
async fn change_route(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
    headers: HeaderMap,
    ApiJson(patch): ApiJson<Value>,
) -> Result<Response, Problem> {
    write_route(&api, &access, &name, &headers, |found| {
        let stored = found.definition.as_ref().map_err(|why| {
            let detail = format!("the route cannot be read, so it can only be replaced with PUT: {why}");
            Problem::new(ProblemKind::Conflict, detail)
        })?;
        let mut fields = describe_fields(stored);
        merge_patch(&mut fields, &patch);
        Ok(fields)
    })
    .await
}

/// Removes a route. Open incidents are still closed on its channels.
#[utoipa::path(
    delete, path = "/routes/{name}", tag = "routes", security(("token" = ["admin"])),
    params(
        ("name" = String, Path, description = "Name of the route"),
        ("If-Match" = Option<String>, Header, description = "Removes the route only if it still has this `ETag`"),
    ),
    responses(
        (status = NO_CONTENT, description = "The route was removed."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json", description = "There is no such route."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The route has another version than `If-Match`."),
    ),
)]
async fn delete_route(
    Administrator(access): Administrator,
    State(api): State<Api>,
    ApiPath(name): ApiPath<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    access.require_all_sites()?;
    for _ in 0..WRITE_ATTEMPTS {
        let found = require_route(&api, &name).await?;
        check_if_match(&headers, &build_etag(&found.version))?;
        if remove_route(&api.store, &name, Some(&found.version)).await? {
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    Err(describe_changed_route(&name))
}

async fn write_route(
    api: &Api,
    access: &Access,
    name: &str,
    headers: &HeaderMap,
    define: impl Fn(&StoredRoute) -> Result<Value, Problem>,
) -> Result<Response, Problem> {
    access.require_all_sites()?;
    for _ in 0..WRITE_ATTEMPTS {
        let found = require_route(api, name).await?;
        check_if_match(headers, &build_etag(&found.version))?;
        let fields = define(&found)?;
        let mut route = decode_route(&fields)?;
        if route.name.is_empty() {
            name.clone_into(&mut route.name);
        }
        if fields.get("position").is_none_or(Value::is_null)
            && let Ok(stored) = &found.definition
        {
            route.position = stored.position;
        }
        match update_route(&api.store, name, &route, Some(&found.version)).await {
            Ok(true) => return respond_with_route(api, &require_route(api, &route.name).await?).await,
            Ok(false) => {}
            Err(error) => return Err(refuse_route(error, &route.name)),
        }
    }
    Err(describe_changed_route(name))
}

/// The problem of a route that the store refuses: a name that is taken, or a field.
fn refuse_route(error: Error, name: &str) -> Problem {
    match error {
        Error::Invalid(why) if why.field == "name" => {
            Problem::new(ProblemKind::Conflict, why.to_string()).with_existing(name)
        }
        Error::Invalid(why) => invalid_definition(&why),
        error => error.into(),
    }
}

/// Which of the tags that routes name a site has.
async fn index_tags(api: &Api, routes: &[StoredRoute]) -> Result<TagIndex, Problem> {
    let readable = routes.iter().filter_map(|route| route.definition.as_ref().ok());
    Ok(read_tag_index_of_routes(&api.store, readable).await?)
}

async fn describe_route(api: &Api, found: &StoredRoute) -> Result<Route, Problem> {
    Ok(Route::new(found, &index_tags(api, std::slice::from_ref(found)).await?))
}

async fn respond_with_route(api: &Api, found: &StoredRoute) -> Result<Response, Problem> {
    let body = Json(describe_route(api, found).await?);
    Ok(([(header::ETAG, build_etag(&found.version))], body).into_response())
}

fn describe_changed_route(name: &str) -> Problem {
    Problem::new(ProblemKind::Conflict, format!("other clients keep changing route '{name}'; try again"))
}
