//! Routes of `/api/v1`, a module for each resource.

mod acknowledgements;
mod api_row;
mod catch_up;
mod certificates;
mod channels;
mod checks;
mod incidents;
mod ledger;
mod live;
mod location;
mod maintenance;
mod me;
mod notifications;
mod paging;
mod preconditions;
mod probers;
mod regions;
mod reports;
mod routes;
mod settings;
mod silences;
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
    acknowledgements::{acknowledge, withdraw},
    ledger::fetch_ledger,
    notifications::{NOTIFICATION_STATES, find_notification, read_parts, retry},
    reports::ReportFormat,
    tag_limit::{check_removal, check_tags, require_tag},
};
use crate::{prometheus, state::Api};

/// Routes of all resources.
pub(crate) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(acknowledgements::build_routes())
        .merge(catch_up::build_routes())
        .merge(certificates::build_routes())
        .merge(channels::build_routes())
        .merge(incidents::build_routes())
        .merge(ledger::build_routes())
        .merge(maintenance::build_routes())
        .merge(notifications::build_routes())
        .merge(probers::build_routes())
        .merge(checks::build_routes())
        .merge(live::build_routes())
        .merge(me::build_routes())
        .merge(prometheus::build_target_routes())
        .merge(regions::build_routes())
        .merge(reports::build_routes())
        .merge(routes::build_routes())
        .merge(settings::build_routes())
        .merge(silences::build_routes())
        .merge(sites::build_routes())
        .merge(summary::build_routes())
        .merge(tokens::build_routes())
        .merge(warnings::build_routes())
}
