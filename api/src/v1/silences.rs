//! Silences: incidents open and are recorded, and nobody is told; what is still down at the end is told then.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use picket_proto::{SiteId, Timestamp, ValidationError};
use picket_runtime::clock::wall_clock_now;
use picket_store::silences::{
    NewSilence as StoredNewSilence, SilenceFilter, SilenceTarget, SilenceWindow as StoredSilence,
    add_silence as insert_silence, change_silence as write_silence, list_silences as read_silences,
    remove_silence,
};
use serde::Deserialize;
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
        .routes(routes!(list_silences, add_silence))
        .routes(routes!(read_silence, change_silence, delete_silence))
        .routes(routes!(end_silence))
}

api_row! {
    /// A silence.
    #[schema(example = json!({
        "id": 4, "site_id": null, "site": null, "tag": "shop", "all": false, "from": "2026-12-01T22:00:00.000000Z",
        "to": "2026-12-02T02:00:00.000000Z", "reason": "the provider works on it", "created_by": "ada", "state": "now",
        "warnings": [], "version": "1042"
    }))]
    Silence from StoredSilence {
        /// Id of the silence.
        id: i64,
        /// The site, for a silence of one site.
        site_id: Option<i64>,
        /// Name or URL of the site; null if the site is unknown.
        site: Option<String>,
        /// The tag, for a silence of all sites with a tag.
        tag: Option<String>,
        /// True for a silence of all sites.
        all: bool,
        /// Start of the silence.
        #[schema(value_type = String, format = DateTime)]
        from: Timestamp,
        /// Exclusive end.
        #[schema(value_type = String, format = DateTime)]
        to: Timestamp,
        /// Reason, shown in the list.
        reason: String,
        /// Name of the author, a token or a person.
        created_by: String,
        /// `planned`, `now` or `over`.
        state: String,
        /// What may be a mistake and is allowed: a tag that no site has.
        warnings: Vec<String>,
        /// Version, which each change replaces; also the `ETag`.
        version: String,
    }
}

/// A silence to add: of a site, of all sites with a tag, or of all sites.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"tag": "shop", "to": "2026-12-02T02:00:00Z", "reason": "the provider works on it"}))]
struct NewSilence {
    /// Id of the site. Exactly one of `site_id`, `tag` and `all` is needed.
    site_id: Option<i64>,
    /// Tag of the sites.
    tag: Option<String>,
    /// True for all sites.
    #[serde(default)]
    all: bool,
    /// Start of the silence; now by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Exclusive end, always needed.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// Reason, shown in the list.
    reason: String,
}

/// Changes of a silence. An absent field stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "2026-12-02T04:00:00Z"}))]
struct SilenceChange {
    /// Exclusive end.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Reason, shown in the list.
    reason: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SilenceQuery {
    /// Includes silences over.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists silences not over, the latest start first. A token with a tag limit sees those of its sites and
/// of its tags.
#[utoipa::path(
    get, path = "/silences", tag = "silences", security(("token" = ["read"])), params(SilenceQuery),
    responses((status = OK, body = Page<Silence>, headers(("Link" = String, description = "The next page, if any")))),
)]
async fn list_silences(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiQuery(query): ApiQuery<SilenceQuery>,
) -> Result<Response, Problem> {
    let request = PageRequest::new(query.limit, query.cursor.as_deref())?;
    let filter = SilenceFilter {
        over: query.all,
        id: None,
        tags: access.tag_limit(),
        after: request.after,
        limit: Some(request.row_limit()),
    };
    let rows = read_silences(&api.store, filter).await?;
    let page = request.build_page(rows, |row| (row.from, row.id), Silence::from);
    Ok(page.into_response(&uri))
}

/// Adds a silence. For planned work use a maintenance window: then no incident opens at all.
#[utoipa::path(
    post, path = "/silences", tag = "silences", security(("token" = ["write"])), request_body = NewSilence,
    responses(
        (status = CREATED, body = Silence,
            headers(("Location" = String, description = "Address of the silence"), ("ETag" = String, description = "Version"))),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to other tags."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn add_silence(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiJson(fields): ApiJson<NewSilence>,
) -> Result<Response, Problem> {
    let new = StoredNewSilence {
        target: resolve_target(&api, &access, &fields).await?,
        from: fields.from.unwrap_or_else(wall_clock_now),
        to: fields.to,
        reason: fields.reason,
        created_by: Some(access.name.clone()),
    };
    let id = insert_silence(&api.store, &new).await?;
    let location = format!("/api/v1/silences/{id}");
    Ok(respond_with_location(
        StatusCode::CREATED,
        &location,
        respond_with_silence(find_silence(&api, &access, id).await?),
    ))
}

/// Reads a silence.
#[utoipa::path(
    get, path = "/silences/{id}", tag = "silences", security(("token" = ["read"])),
    params(("id" = i64, Path, description = "Id of the silence")),
    responses(
        (status = OK, body = Silence, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such silence, or the token is limited to other tags."),
    ),
)]
async fn read_silence(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
) -> Result<Response, Problem> {
    find_silence(&api, &access, id).await.map(respond_with_silence)
}

/// Moves the end of a silence, or changes its reason.
#[utoipa::path(
    patch, path = "/silences/{id}", tag = "silences", security(("token" = ["write"])), request_body = SilenceChange,
    params(
        ("id" = i64, Path, description = "Id of the silence"),
        ("If-Match" = Option<String>, Header, description = "Changes the silence only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Silence, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such silence, or the token is limited to other tags."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The silence has another version than `If-Match`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn change_silence(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
    ApiJson(change): ApiJson<SilenceChange>,
) -> Result<Response, Problem> {
    for _ in 0..WRITE_ATTEMPTS {
        let silence = find_silence(&api, &access, id).await?;
        check_if_match(&headers, &build_etag(&silence.version))?;
        let to = change.to.unwrap_or(silence.to);
        let reason = change.reason.as_ref().unwrap_or(&silence.reason);
        if write_silence(&api.store, &silence, to, reason).await? {
            return find_silence(&api, &access, id).await.map(respond_with_silence);
        }
    }
    Err(describe_changed_silence(id))
}

/// Ends a silence now. Sites still down are told at once.
#[utoipa::path(
    post, path = "/silences/{id}/end", tag = "silences", security(("token" = ["write"])),
    params(
        ("id" = i64, Path, description = "Id of the silence"),
        ("If-Match" = Option<String>, Header, description = "Ends the silence only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Silence, description = "The silence is over.", headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such silence, or the token is limited to other tags."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The silence has another version than `If-Match`."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "The silence has not begun; it can be removed."),
    ),
)]
async fn end_silence(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    for _ in 0..WRITE_ATTEMPTS {
        let silence = find_silence(&api, &access, id).await?;
        check_if_match(&headers, &build_etag(&silence.version))?;
        match silence.state.as_str() {
            "over" => return Ok(respond_with_silence(silence)),
            "planned" => {
                let detail =
                    format!("silence {id} begins at {}; remove it with DELETE instead", silence.from);
                return Err(Problem::new(ProblemKind::Conflict, detail));
            }
            _ => {}
        }
        let now = api.store.read_clock().await?;
        if write_silence(&api.store, &silence, now, &silence.reason).await? {
            return find_silence(&api, &access, id).await.map(respond_with_silence);
        }
    }
    Err(describe_changed_silence(id))
}

/// Removes a silence. Sites still down are told at once.
#[utoipa::path(
    delete, path = "/silences/{id}", tag = "silences", security(("token" = ["write"])),
    params(
        ("id" = i64, Path, description = "Id of the silence"),
        ("If-Match" = Option<String>, Header, description = "Removes the silence only if it still has this `ETag`"),
    ),
    responses(
        (status = NO_CONTENT, description = "The silence was removed."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such silence, or the token is limited to other tags."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The silence has another version than `If-Match`."),
    ),
)]
async fn delete_silence(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    for _ in 0..WRITE_ATTEMPTS {
        let silence = find_silence(&api, &access, id).await?;
        check_if_match(&headers, &build_etag(&silence.version))?;
        if remove_silence(&api.store, id, Some(&silence.version)).await? {
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    Err(describe_changed_silence(id))
}

/// The target of a silence, if it concerns only sites within the tag limit.
async fn resolve_target(api: &Api, access: &Access, fields: &NewSilence) -> Result<SilenceTarget, Problem> {
    match (fields.site_id, &fields.tag, fields.all) {
        (Some(site), None, false) => {
            Ok(SilenceTarget::Site(find_site(api, access, SiteId(site)).await?.site.id))
        }
        (None, Some(tag), false) => require_tag(access, "/tag", tag.clone()).map(SilenceTarget::Tag),
        (None, None, true) => access.require_all_sites().map(|()| SilenceTarget::All),
        (None, None, false) => {
            let allowed = "the id of a site, or a tag in the field 'tag', or true in the field 'all'";
            Err(Problem::invalid_field("/site_id", &ValidationError::new("site_id", "(absent)", allowed)))
        }
        (_, Some(tag), _) => {
            let error = ValidationError::new("tag", tag, "one of site_id, tag and all, not several");
            Err(Problem::invalid_field("/tag", &error))
        }
        (Some(_), None, true) => {
            let error = ValidationError::new("all", true, "one of site_id, tag and all, not several");
            Err(Problem::invalid_field("/all", &error))
        }
    }
}

async fn find_silence(api: &Api, access: &Access, id: i64) -> Result<StoredSilence, Problem> {
    let filter =
        SilenceFilter { over: true, id: Some(id), tags: access.tag_limit(), ..SilenceFilter::default() };
    let found = read_silences(&api.store, filter).await?;
    let missing = || Problem::new(ProblemKind::NotFound, format!("there is no silence {id}"));
    found.into_iter().next().ok_or_else(missing)
}

fn respond_with_silence(silence: StoredSilence) -> Response {
    ([(header::ETAG, build_etag(&silence.version))], Json(Silence::from(silence))).into_response()
}

fn describe_changed_silence(id: i64) -> Problem {
    Problem::new(ProblemKind::Conflict, format!("other clients keep changing silence {id}; try again"))
}
