//! Routes of `/api/v1`, a module for each resource.

mod api_row;
mod certificates;
mod checks;
mod incidents;
mod ledger;
mod live;
mod maintenance;
mod me;
mod paging;
mod preconditions;
mod probers;
mod regions;
mod reports;
mod settings;
mod site_body;
mod site_secrets;
mod sites;
mod span;
mod summary;
mod tag_limit;
mod tokens;
mod warnings;

use utoipa_axum::router::OpenApiRouter;

pub(crate) use self::{
    ledger::fetch_ledger,
    reports::ReportFormat,
    tag_limit::{check_removal, check_tags},
};
use crate::{prometheus, state::Api};

/// Routes of all resources.
pub(crate) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(certificates::build_routes())
        .merge(incidents::build_routes())
        .merge(ledger::build_routes())
        .merge(maintenance::build_routes())
        .merge(probers::build_routes())
        .merge(checks::build_routes())
        .merge(live::build_routes())
        .merge(me::build_routes())
        .merge(prometheus::build_target_routes())
        .merge(regions::build_routes())
        .merge(reports::build_routes())
        .merge(settings::build_routes())
        .merge(sites::build_routes())
        .merge(summary::build_routes())
        .merge(tokens::build_routes())
        .merge(warnings::build_routes())
}
