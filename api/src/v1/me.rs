//! The sender of a request, as the API knows it.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{access::Authenticated, state::Api};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(read_own_access))
}

/// The sender of a request.
#[derive(Serialize, ToSchema)]
struct OwnAccess {
    /// Name of the token or of the person.
    name: String,
    /// What the sender may do: `read`, `write`, `check`, `admin`.
    scopes: Vec<&'static str>,
    /// Only sites with at least one of these tags; null for all sites.
    tags: Option<Vec<String>>,
    /// True if the API is open to everybody on its machine, since there is no token.
    open: bool,
}

/// Describes the sender: its name and what it may do.
#[utoipa::path(
    get, path = "/me", tag = "tokens", security(("token" = [])), responses((status = OK, body = OwnAccess)),
)]
async fn read_own_access(Authenticated(access): Authenticated) -> Json<OwnAccess> {
    Json(OwnAccess {
        scopes: access.scopes().iter().map(|scope| scope.as_str()).collect(),
        tags: access.tag_limit().map(<[String]>::to_vec),
        open: access.is_open,
        name: access.name,
    })
}
