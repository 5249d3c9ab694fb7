//! Routes of `/api/v1`, a module for each resource.

mod api_row;
mod certificates;
mod incidents;
mod ledger;
mod maintenance;
mod me;
mod paging;
mod preconditions;
mod probers;
mod regions;
mod reports;
mod settings;
mod site_body;
mod sites;
mod span;
mod summary;
mod tokens;
mod warnings;

use utoipa_axum::router::OpenApiRouter;

use crate::state::Api;

/// Routes of all resources.
pub(crate) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(certificates::build_routes())
        .merge(incidents::build_routes())
        .merge(ledger::build_routes())
        .merge(maintenance::build_routes())
        .merge(me::build_routes())
        .merge(probers::build_routes())
        .merge(regions::build_routes())
        .merge(reports::build_routes())
        .merge(settings::build_routes())
        .merge(sites::build_routes())
        .merge(summary::build_routes())
        .merge(tokens::build_routes())
        .merge(warnings::build_routes())
}
