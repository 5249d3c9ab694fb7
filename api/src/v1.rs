//! Routes of `/api/v1`, a module for each resource.

mod me;
mod regions;
mod tokens;

use utoipa_axum::router::OpenApiRouter;

use crate::state::Api;

/// Routes of all resources.
pub(crate) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(me::build_routes())
        .merge(regions::build_routes())
        .merge(tokens::build_routes())
}
