//! The state of all sites in a few numbers.

use axum::{Json, extract::State};
use picket_store::site_counts::{SiteCounts, count_sites_by_state};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::api_row::api_row;
use crate::{access::Reader, problem::Problem, state::Api};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(read_summary))
}

api_row! {
    /// Sites by state, and their checks of the last 24 whole hours.
    #[schema(example = json!({
        "sites": 12, "up": 9, "down": 1, "unknown": 1, "problem": 0, "paused": 1, "warned": 2, "uptime_24h_pct": 99.8611,
        "coverage_24h_pct": 99.9306
    }))]
    Summary from SiteCounts {
        /// All sites.
        sites: i64,
        /// Sites that are up.
        up: i64,
        /// Sites that are down.
        down: i64,
        /// Sites without a recent result.
        unknown: i64,
        /// Sites that cannot be checked.
        problem: i64,
        /// Paused sites.
        paused: i64,
        /// Sites with an open warning, whatever their state.
        warned: i64,
        /// Percentage: up of (up + down).
        uptime_24h_pct: Option<f64>,
        /// Percentage: (up + down) of the ticks that were due.
        coverage_24h_pct: Option<f64>,
    }
}

/// Counts the sites by state. A token that is limited to tags counts its sites.
#[utoipa::path(
    get, path = "/summary", tag = "sites", security(("token" = ["read"])), responses((status = OK, body = Summary)),
)]
async fn read_summary(Reader(access): Reader, State(api): State<Api>) -> Result<Json<Summary>, Problem> {
    Ok(Json(count_sites_by_state(&api.store, access.tag_limit()).await?.into()))
}
