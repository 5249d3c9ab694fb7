//! Sites: one at a time, and their whole definition.

mod definition;
mod history;
mod list;

use axum::{
    Json,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use picket_proto::{SiteId, site::SiteSpec};
use picket_store::{
    Error,
    sites::{self, VersionedSite},
};
use serde_json::Value;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt},
    routes,
};

use super::{
    location::respond_with_location,
    preconditions::{WRITE_ATTEMPTS, build_etag, check_if_match, is_not_modified},
    site_body::{Site, SiteFields, invalid_definition, merge_patch},
    site_secrets::{adopt_stored_names, keep_hidden_values},
    tag_limit::{check_removal, check_tags, read_stored_tags},
};
use crate::{
    access::{Access, Reader, Writer},
    extract::{ApiJson, ApiPath},
    first_checks::request_first_checks,
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    /// Maximum size of a whole definition.
    const MAX_DEFINITION_BYTES: usize = 16 << 20;
    OpenApiRouter::new()
        .merge(history::build_routes())
        .routes(routes!(definition::apply_definition).layer(DefaultBodyLimit::max(MAX_DEFINITION_BYTES)))
        .routes(routes!(list::list_sites, create_site))
        .routes(routes!(list::read_status))
        .routes(routes!(read_site, replace_site, change_site, delete_site))
}

/// Adds a site.
///
/// Each of its regions checks it at once, beside the schedule, unless NATS is away or the first checks of 20 other sites
/// are running; `GET /sites/{site}/checks` lists the checks from its first tick on.
#[utoipa::path(
    post, path = "/sites", tag = "sites", security(("token" = ["write"])), request_body = SiteFields,
    responses(
        (status = CREATED, body = Site, description = "The site was added.",
            headers(("Location" = String, description = "Address of the site"), ("ETag" = String, description = "Version"))),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags of which the site has none, or the site has others."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "A site with the same url, method, regex, not_regex, options and assertions exists: `existing`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn create_site(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiJson(body): ApiJson<Value>,
) -> Result<Response, Problem> {
    let mut spec = SiteSpec::decode(&body).map_err(|error| invalid_definition(&error))?;
    check_tags(&access, &spec.tags, &[], "")?;
    keep_hidden_values(&mut spec, None).map_err(|error| invalid_definition(&error))?;
    let spec = validate_site(&api, &access, spec).await?;
    let id = match sites::insert_site(&api.store, &spec).await {
        Ok(id) => id,
        Err(Error::DuplicateSite) => return Err(describe_duplicate(&api, &access, &spec).await),
        Err(error) => return Err(error.into()),
    };
    request_first_checks(&api, &access, [(id, &spec)]);
    let created = find_site(&api, &access, id).await?;
    let location = format!("/api/v1/sites/{id}");
    Ok(respond_with_location(StatusCode::CREATED, &location, respond_with_site(&created, &access)))
}

/// Reads the definition of a site.
#[utoipa::path(
    get, path = "/sites/{site}", tag = "sites", security(("token" = ["read"])),
    params(
        ("site" = i64, Path, description = "Id of the site"),
        ("If-None-Match" = Option<String>, Header, description = "Answers 304 if the site still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Site, headers(("ETag" = String, description = "Version"))),
        (status = NOT_MODIFIED, description = "The site has the version of `If-None-Match`."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
    ),
)]
async fn read_site(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = find_site(&api, &access, SiteId(id)).await?;
    let etag = build_etag(found.version);
    if is_not_modified(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    Ok(respond_with_site(&found, &access))
}

/// Replaces the definition of a site. An absent field gets its default. The value `(hidden)` of a header or the body
/// keeps the stored one, so that a site that was read can be written back.
#[utoipa::path(
    put, path = "/sites/{site}", tag = "sites", security(("token" = ["write"])), request_body = SiteFields,
    params(
        ("site" = i64, Path, description = "Id of the site"),
        ("If-Match" = Option<String>, Header, description = "Changes the site only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Site, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags, and the change adds or removes others, or leaves the site none of them."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "Another site has the same url, method, regex, not_regex, options and assertions: `existing`. Or the \
                site cannot be read, and the token is limited to tags."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The site has another version than `If-Match`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn replace_site(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Value>,
) -> Result<Response, Problem> {
    write_site(&api, &access, SiteId(id), &headers, |_| Ok(body.clone())).await
}

/// Changes fields of a site by a merge patch (RFC 7396). A field that is null gets its default, and the value
/// `(hidden)` of a header or the body keeps the stored one. The name of a header may be in another case than the stored
/// one, which it keeps.
#[utoipa::path(
    patch, path = "/sites/{site}", tag = "sites", security(("token" = ["write"])),
    request_body(content = Value, content_type = "application/merge-patch+json",
        description = "The fields to change, as in the body of PUT; `application/json` is accepted as well",
        example = json!({"interval": "30s", "name": null})),
    params(
        ("site" = i64, Path, description = "Id of the site"),
        ("If-Match" = Option<String>, Header, description = "Changes the site only if it still has this `ETag`"),
    ),
    responses(
        (status = OK, body = Site, headers(("ETag" = String, description = "Version"))),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags, and the change adds or removes others, or leaves the site none of them."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "Another site has the same url, method, regex, not_regex, options and assertions: `existing`."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The site has another version than `If-Match`."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A field is not allowed."),
    ),
)]
async fn change_site(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
    ApiJson(patch): ApiJson<Value>,
) -> Result<Response, Problem> {
    write_site(&api, &access, SiteId(id), &headers, |found| {
        let stored = found.site.spec.as_ref().map_err(|why| {
            let detail = format!("the site cannot be read, so it can only be replaced with PUT: {why}");
            Problem::new(ProblemKind::Conflict, detail)
        })?;
        let mut fields = stored.to_json_fields();
        // The patch may have the other form of a field.
        for (other, name) in [("interval", "interval_seconds"), ("timeout", "timeout_ms")] {
            if patch.get(other).is_some_and(|value| !value.is_null()) && patch.get(name).is_none() {
                fields.remove(name);
            }
        }
        let (mut fields, mut patch) = (Value::Object(fields), patch.clone());
        adopt_stored_names(&mut patch, stored);
        merge_patch(&mut fields, &patch);
        Ok(fields)
    })
    .await
}

/// Removes a site. Its results remain readable.
#[utoipa::path(
    delete, path = "/sites/{site}", tag = "sites", security(("token" = ["write"])),
    params(
        ("site" = i64, Path, description = "Id of the site"),
        ("If-Match" = Option<String>, Header, description = "Removes the site only if it still has this `ETag`"),
    ),
    responses(
        (status = NO_CONTENT, description = "The site was removed."),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags, and the site has another as well."),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags, and those of the site cannot be read."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The site has another version than `If-Match`."),
    ),
)]
async fn delete_site(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    for _ in 0..WRITE_ATTEMPTS {
        let found = find_site(&api, &access, SiteId(id)).await?;
        check_if_match(&headers, &build_etag(found.version))?;
        check_removal(&access, SiteId(id), found.site.spec.as_ref())?;
        // The version is compared again, since the site may have left the limit of the token.
        match sites::delete_site_version(&api.store, SiteId(id), found.version).await {
            Err(Error::SiteChanged(_)) => {}
            deleted => return Ok(deleted.map(|()| StatusCode::NO_CONTENT)?),
        }
    }
    Err(Error::SiteChanged(SiteId(id)).into())
}

/// Replaces the definition of a site by that which `define` makes of the present one.
async fn write_site(
    api: &Api,
    access: &Access,
    id: SiteId,
    headers: &HeaderMap,
    define: impl Fn(&VersionedSite) -> Result<Value, Problem>,
) -> Result<Response, Problem> {
    for _ in 0..WRITE_ATTEMPTS {
        let found = find_site(api, access, id).await?;
        check_if_match(headers, &build_etag(found.version))?;
        let mut spec = SiteSpec::decode(&define(&found)?).map_err(|error| invalid_definition(&error))?;
        let stored = found.site.spec.as_ref();
        check_tags(access, &spec.tags, read_stored_tags(access, id, stored)?, "")?;
        keep_hidden_values(&mut spec, stored.ok()).map_err(|error| invalid_definition(&error))?;
        let spec = validate_site(api, access, spec).await?;
        if found.site.spec.as_ref().is_ok_and(|stored| *stored == spec) {
            return Ok(respond_with_site(&found, access));
        }
        // The version is compared again, since the site may have left the limit of the token.
        match sites::update_site_version(&api.store, id, found.version, &spec).await {
            Ok(()) => return Ok(respond_with_site(&find_site(api, access, id).await?, access)),
            Err(Error::SiteChanged(_)) => {}
            Err(Error::DuplicateSite) => return Err(describe_duplicate(api, access, &spec).await),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::SiteChanged(id).into())
}

/// Validates a site on a thread of its own, since a hostile regex takes long to compile.
async fn validate_site(api: &Api, access: &Access, spec: SiteSpec) -> Result<SiteSpec, Problem> {
    let intervals = api.settings.current().intervals;
    let validate = move || spec.validate(intervals).map(|()| spec);
    let validation = api.validations.run_blocking_for(access, validate);
    validation.await?.map_err(|error| invalid_definition(&error))
}

/// Finds a site that the sender may see.
pub(super) async fn find_site(api: &Api, access: &Access, id: SiteId) -> Result<VersionedSite, Problem> {
    let found = sites::read_versioned_site(&api.store, id, access.tag_limit()).await?;
    Ok(found.ok_or(Error::SiteNotFound(id))?)
}

fn respond_with_site(found: &VersionedSite, access: &Access) -> Response {
    ([(header::ETAG, build_etag(found.version))], Json(Site::new(found, access))).into_response()
}

/// The conflict with a site of the same identity, whose id is named to a sender who may see it.
async fn describe_duplicate(api: &Api, access: &Access, spec: &SiteSpec) -> Problem {
    let problem = Problem::from(Error::DuplicateSite);
    match sites::find_same_site(&api.store, spec, access.tag_limit()).await {
        Ok(Some(id)) => problem.with_existing(id),
        Ok(None) | Err(_) => problem,
    }
}
