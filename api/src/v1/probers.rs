//! Probers, as they answer on the bus.

use axum::{Json, extract::State};
use picket_proto::Timestamp;
use picket_runtime::{
    Bus,
    clock::wall_clock_now,
    discovery::{self, ProberRecord, build_prober_records},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::api_row::api_row;
use crate::{
    access::Reader,
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_probers))
}

api_row! {
    /// An active prober, or a region without one, in which case `prober` is null.
    #[schema(example = json!({
        "region": "eu-west", "prober": "host-7f3a", "version": "0.1.0", "started_at": "2026-11-20T12:00:00Z",
        "slots_used": 12, "slots_total": 1000, "checks": 43210, "last_seen": "2026-11-20T12:30:00.000000Z", "waiting": null
    }))]
    Prober from ProberRecord {
        /// Name of the region.
        region: String,
        /// Name of the prober.
        prober: Option<String>,
        /// Version of its build.
        version: Option<String>,
        /// Start time of the prober.
        started_at: Option<String>,
        /// Number of checks that are running.
        slots_used: Option<i64>,
        /// Maximum number of concurrent checks.
        slots_total: Option<i64>,
        /// Number of published results since the start.
        checks: Option<i64>,
        /// Time of the reply. For a region without a prober, the last delivery of a job.
        #[schema(value_type = Option<String>, format = DateTime)]
        last_seen: Option<Timestamp>,
        /// Jobs queued in a region without a prober.
        waiting: Option<u64>,
    }
}

/// Probers by region and name.
#[derive(Serialize, ToSchema)]
struct ProberList {
    items: Vec<Prober>,
}

/// Lists the probers that answer now, and regions without one that have queued jobs or had a delivery in the last
/// week. Takes half a second, since the number of answers is not known in advance.
#[utoipa::path(
    get, path = "/probers", tag = "regions", security(("token" = ["read"])),
    responses(
        (status = OK, body = ProberList),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags."),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json",
            description = "NATS is not available."),
    ),
)]
async fn list_probers(Reader(access): Reader, State(api): State<Api>) -> Result<Json<ProberList>, Problem> {
    access.require_all_sites()?;
    let records = discover_probers(&api.bus).await?;
    Ok(Json(ProberList { items: records.into_iter().map(Prober::from).collect() }))
}

/// # Errors
/// If NATS is not available.
pub(super) async fn discover_probers(bus: &Bus) -> Result<Vec<ProberRecord>, Problem> {
    let unavailable = |why: String| Problem::new(ProblemKind::BusUnavailable, why).with_retry_after(5);
    // A client that is not connected keeps requests until it is, and nobody would answer.
    if bus.client.connection_state() != async_nats::connection::State::Connected {
        return Err(unavailable("this process is not connected to NATS".to_owned()));
    }
    let (probers, places) =
        tokio::join!(discovery::list_probers(&bus.client), discovery::list_region_activity(&bus.jetstream));
    let probers = probers.map_err(|lost| unavailable(lost.to_string()))?;
    Ok(build_prober_records(probers, places, wall_clock_now()))
}
