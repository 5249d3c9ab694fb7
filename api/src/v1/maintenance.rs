//! Maintenance windows: checks continue, and no incident opens.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use picket_proto::{SiteId, Timestamp, ValidationError};
use picket_runtime::clock::wall_clock_now;
use picket_store::maintenance::{self, MaintenanceTarget, MaintenanceWindow, WindowFilter};
use serde::{Deserialize, Deserializer};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    api_row::api_row,
    location::respond_with_location,
    paging::{Page, PageRequest},
    preconditions::{WRITE_ATTEMPTS, build_etag, check_if_match},
    sites::find_site,
    tag_limit::require_tag,
};
use crate::{
    access::{Access, Reader, Writer},
    extract::{ApiJson, ApiPath, ApiQuery, PageLimit},
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_windows, add_window))
        .routes(routes!(read_window, move_window, delete_window))
        .routes(routes!(end_window))
}

api_row! {
    /// A maintenance window.
    #[schema(example = json!({
        "id": 4, "site_id": null, "site": null, "tag": "shop", "from": "2026-12-01T22:00:00.000000Z",
        "to": "2026-12-02T02:00:00.000000Z", "state": "planned", "version": "1042"
    }))]
    Window from MaintenanceWindow {
        /// Id of the window.
        id: i64,
        /// The site, for a window of one site.
        site_id: Option<i64>,
        /// Name or URL of the site; null if the site is unknown.
        site: Option<String>,
        /// The tag, for a window of all sites with a tag.
        tag: Option<String>,
        /// Start of the window.
        #[schema(value_type = String, format = DateTime)]
        from: Timestamp,
        /// Exclusive end; null for a window until further notice.
        #[schema(value_type = Option<String>, format = DateTime)]
        to: Option<Timestamp>,
        /// `planned`, `now` or `over`.
        state: String,
        /// Version, which each change replaces; also the `ETag`.
        version: String,
    }
}

/// A window to add: of a site, or of all sites with a tag, including sites tagged later.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"tag": "shop", "from": "2026-12-01T22:00:00Z", "to": "2026-12-02T02:00:00Z"}))]
struct WindowFields {
    /// Id of the site. Either `site_id` or `tag` is needed.
    site_id: Option<i64>,
    /// Tag of the sites.
    tag: Option<String>,
    /// Start of the window; now by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Exclusive end; by default until further notice.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

/// Changes of a window. An absent field stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "2026-12-02T04:00:00Z"}))]
struct WindowChange {
    /// Start of the window.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Exclusive end; null: until further notice.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Option<Timestamp>>,
}

/// Tells a null from an absent field.
fn deserialize_present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<Timestamp>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WindowQuery {
    /// Includes windows that are over.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists windows that are not over, the latest start first. A token that is limited to tags sees the windows of its
/// sites and of its tags.
#[utoipa::path(
    get, path = "/maintenance", tag = "maintenance", security(("token" = ["read"])), params(WindowQuery),
    responses((status = OK, body = Page<Window>, headers(("Link" = String, description = "The next page, if any")))),
)]
async fn list_windows(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiQuery(query): ApiQuery<WindowQuery>,
) -> Result<Response, Problem> {
    let request = PageRequest::new(query.limit, query.cursor.as_deref())?;
    let filter = WindowFilter {
        all: query.all,
        id: None,
        tags: access.tag_limit(),
        after: request.after,
        limit: Some(request.row_limit()),
    };
    let rows = maintenance::list_windows(&api.store, filter).await?;
    let page = request.build_page(rows, |row| (row.from, row.id), Window::from);
    Ok(page.into_response(&uri))
}

/// Adds a window.
#[utoipa::path(
    post, path = "/maintenance", tag = "maintenance", security(("token" = ["write"])), request_body = WindowFields,
    responses(
        (status = CREATED, body = Window,
            headers(("Location" = String, description = "Address of the window"), ("ETag" = String, description = "Version"))),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to other tags."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn add_window(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiJson(fields): ApiJson<WindowFields>,
) -> Result<Response, Problem> {
    let target = resolve_target(&api, &access, fields.site_id, fields.tag).await?;
    let from = fields.from.unwrap_or_else(wall_clock_now);
    let id = maintenance::add_window(&api.store, &target, from, fields.to).await?;
    let window = find_window(&api, &access, id).await?;
    let location = format!("/api/v1/maintenance/{id}");
    Ok(respond_with_location(StatusCode::CREATED, &location, respond_with_window(window)))
}

/// Reads a window.
#[utoipa::path(
    get, path = "/maintenance/{id}", tag = "maintenance", security(("token" = ["read"])),
    params(("id" = i64, Path, description = "Id of the window")),
    responses(
        (status = OK, body = Window, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such window, or the token is limited to other tags."),
    ),
)]
async fn read_window(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
) -> Result<Response, Problem> {
    find_window(&api, &access, id).await.map(respond_with_window)
}

/// Moves the start or the end of a window.
#[utoipa::path(
    patch, path = "/maintenance/{id}", tag = "maintenance", security(("token" = ["write"])), request_body = WindowChange,
    params(
        ("id" = i64, Path, description = "Id of the window"),
        ("If-Match" = Option<String>, Header, description = "Changes the window only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Window, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such window, or the token is limited to other tags."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The window has another version than `If-Match`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn move_window(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
    ApiJson(change): ApiJson<WindowChange>,
) -> Result<Response, Problem> {
    for _ in 0..WRITE_ATTEMPTS {
        let window = find_window(&api, &access, id).await?;
        check_if_match(&headers, &build_etag(&window.version))?;
        let (from, to) = (change.from.unwrap_or(window.from), change.to.unwrap_or(window.to));
        if maintenance::move_window(&api.store, id, &window.version, from, to).await? {
            return find_window(&api, &access, id).await.map(respond_with_window);
        }
    }
    Err(describe_changed_window(id))
}

/// Ends a window now.
#[utoipa::path(
    post, path = "/maintenance/{id}/end", tag = "maintenance", security(("token" = ["write"])),
    params(
        ("id" = i64, Path, description = "Id of the window"),
        ("If-Match" = Option<String>, Header, description = "Ends the window only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Window, description = "The window is over.", headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such window, or the token is limited to other tags."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The window has another version than `If-Match`."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "The window has not begun; it can be removed."),
    ),
)]
async fn end_window(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    for _ in 0..WRITE_ATTEMPTS {
        let window = find_window(&api, &access, id).await?;
        check_if_match(&headers, &build_etag(&window.version))?;
        match window.state.as_str() {
            "over" => return Ok(respond_with_window(window)),
            "planned" => {
                let detail = format!("window {id} begins at {}; remove it with DELETE instead", window.from);
                return Err(Problem::new(ProblemKind::Conflict, detail));
            }
            _ => {}
        }
        let now = api.store.read_clock().await?;
        if maintenance::move_window(&api.store, id, &window.version, window.from, Some(now)).await? {
            return find_window(&api, &access, id).await.map(respond_with_window);
        }
    }
    Err(describe_changed_window(id))
}

/// Removes a window. Uptime reports then count its checks again.
#[utoipa::path(
    delete, path = "/maintenance/{id}", tag = "maintenance", security(("token" = ["write"])),
    params(
        ("id" = i64, Path, description = "Id of the window"),
        ("If-Match" = Option<String>, Header, description = "Removes the window only if it still has this `ETag`"),
    ),
    responses(
        (status = NO_CONTENT, description = "The window was removed."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such window, or the token is limited to other tags."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The window has another version than `If-Match`."),
    ),
)]
async fn delete_window(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    for _ in 0..WRITE_ATTEMPTS {
        let window = find_window(&api, &access, id).await?;
        check_if_match(&headers, &build_etag(&window.version))?;
        if maintenance::remove_window(&api.store, id, Some(&window.version)).await? {
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    Err(describe_changed_window(id))
}

/// The target of a window, if it concerns only sites that the sender may see.
async fn resolve_target(
    api: &Api,
    access: &Access,
    site: Option<i64>,
    tag: Option<String>,
) -> Result<MaintenanceTarget, Problem> {
    match (site, tag) {
        (Some(site), None) => {
            Ok(MaintenanceTarget::Site(find_site(api, access, SiteId(site)).await?.site.id))
        }
        (None, Some(tag)) => require_tag(access, "/tag", tag).map(MaintenanceTarget::Tag),
        (Some(_), Some(tag)) => {
            let error = ValidationError::new("tag", tag, "either site_id or tag, not both");
            Err(Problem::invalid_field("/tag", &error))
        }
        (None, None) => {
            let error =
                ValidationError::new("site_id", "(absent)", "the id of a site, or a tag in the field 'tag'");
            Err(Problem::invalid_field("/site_id", &error))
        }
    }
}

async fn find_window(api: &Api, access: &Access, id: i64) -> Result<MaintenanceWindow, Problem> {
    let filter =
        WindowFilter { all: true, id: Some(id), tags: access.tag_limit(), ..WindowFilter::default() };
    let found = maintenance::list_windows(&api.store, filter).await?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("there is no maintenance window {id}")))
}

fn respond_with_window(window: MaintenanceWindow) -> Response {
    ([(header::ETAG, build_etag(&window.version))], Json(Window::from(window))).into_response()
}

fn describe_changed_window(id: i64) -> Problem {
    Problem::new(ProblemKind::Conflict, format!("other clients keep changing window {id}; try again"))
}
