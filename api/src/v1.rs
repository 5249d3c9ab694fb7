//! Routes of `/api/v1`, a module for each resource.

mod checks;
mod live;
mod me;
mod regions;
mod tokens;

use utoipa_axum::router::OpenApiRouter;

use crate::{prometheus, state::Api};

/// Routes of all resources.
pub(crate) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(checks::build_routes())
        .merge(live::build_routes())
        .merge(me::build_routes())
        .merge(prometheus::build_target_routes())
        .merge(regions::build_routes())
        .merge(tokens::build_routes())
}
