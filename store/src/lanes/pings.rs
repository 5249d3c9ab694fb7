//! What notifiers do regularly: requests of watchdogs and Alertmanagers, and events that time causes.

use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;

use super::{LANE_TIMEOUT, to_millis};
use crate::{DbTimestamp, Error, Store};

/// A channel requested regularly.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct PingedChannel {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// Settings.
    pub settings: Json<Value>,
}

/// Takes the turns of the channels due for their regular request: watchdogs, and
/// Alertmanagers, which forget what is not repeated.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn take_pings(store: &Store, interval: Duration) -> Result<Vec<PingedChannel>, Error> {
    let query = sqlx::query_as(
        "SELECT channel.name, channel.kind, channel.settings || state.overrides AS settings
         FROM picket.channels AS channel JOIN picket.channel_states AS state ON state.channel = channel.name
         WHERE channel.enabled AND channel.kind IN ('watchdog', 'alertmanager') AND NOT state.is_gone
           AND state.next_ping_at <= clock_timestamp() AND picket.take_ping(channel.name, $1)",
    );
    let query = query.bind(to_millis(interval)).fetch_all(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "take the turns of watchdogs", query).await
}

/// What keeps the whole chain from working; `None` if it works.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_chain_problem(store: &Store) -> Result<Option<String>, Error> {
    let query = sqlx::query_scalar("SELECT picket.chain_problem()").fetch_one(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "look at the whole chain", query).await
}

/// An event of which a channel has been told and that lasts, or ended lately.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FiringEvent {
    /// Name of the event.
    pub event: String,
    /// What the event is about.
    pub subject: String,
    /// True for an end.
    pub is_end: bool,
    /// Number of the incident.
    pub incident_id: Option<i64>,
    /// Number of the site.
    pub site_id: Option<i64>,
    /// The event as published.
    pub payload: Json<Value>,
    /// Time when it was recorded.
    pub recorded_at: DbTimestamp,
}

/// Lists what a channel has been told of and lasts, and the ends of the last five minutes, the newest
/// first. Warnings, regions and channels for 30 days; incidents as long as they are open.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_firing_events(store: &Store, channel: &str) -> Result<Vec<FiringEvent>, Error> {
    let query = sqlx::query_as(
        "WITH candidate AS (
             SELECT transition.* FROM picket.incidents AS incident
             JOIN picket.transitions AS transition ON transition.incident_id = incident.incident_id AND NOT transition.is_end
             WHERE incident.closed_at IS NULL
             UNION ALL
             SELECT begun.* FROM picket.transitions AS begun
             WHERE begun.recorded_at > clock_timestamp() - interval '30 days' AND begun.incident_id IS NULL AND NOT begun.is_end
               AND begun.event IN ('warning.opened', 'region.silent', 'channel.failing')
               AND NOT EXISTS (SELECT FROM picket.transitions AS ended WHERE ended.subject = begun.subject AND ended.is_end)
             UNION ALL
             SELECT ended.* FROM picket.transitions AS ended
             WHERE ended.recorded_at > clock_timestamp() - interval '5 minutes' AND ended.is_end
         )
         SELECT event, subject, is_end, incident_id, site_id, payload, recorded_at FROM candidate
         WHERE EXISTS (SELECT FROM picket.notices AS notice
                       WHERE notice.transition_id = candidate.transition_id AND notice.channel = $1
                         AND notice.step IN ('event', 'escalation') AND notice.state = 'delivered')
         ORDER BY transition_id DESC LIMIT 5000",
    );
    let query = query.bind(channel).fetch_all(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "list what is firing", query).await
}

/// Records events of certificates that end soon, and of checks unaccounted for; returns
/// their number.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn record_due_events(store: &Store) -> Result<i32, Error> {
    const RECORD_TIMEOUT: Duration = Duration::from_secs(25);
    let query = sqlx::query_scalar(
        "SELECT picket.record_certificate_events() + picket.record_ledger_event()::integer",
    );
    store.with_timeout(RECORD_TIMEOUT, "record due events", query.fetch_one(&store.pool)).await
}
