//! Routes of `/api/v1`, a module for each resource.

mod regions;

use utoipa_axum::router::OpenApiRouter;

use crate::state::Api;

/// Routes of all resources.
pub(crate) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().merge(regions::build_routes())
}
