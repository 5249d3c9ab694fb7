//! What messages say beyond their events.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::types::{Json, Uuid};

use super::LANE_TIMEOUT;
use crate::{Error, Store};

/// What the deciding check of an incident measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct OutageDetails {
    /// Number of the incident.
    pub incident_id: i64,
    /// HTTP status.
    pub http_status: Option<i16>,
    /// Phases in microseconds.
    pub dns_us: Option<i32>,
    /// Time to connect.
    pub connect_us: Option<i32>,
    /// Time of the TLS handshake.
    pub tls_us: Option<i32>,
    /// Time to the first byte.
    pub first_byte_us: Option<i32>,
    /// Time of the transfer.
    pub transfer_us: Option<i32>,
    /// Failed checks so far; `None` for an outage of more than six hours, which would take long to count.
    pub failed_checks: Option<i64>,
}

/// Reads these transitions' events as published.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_events(store: &Store, transitions: &[i64]) -> Result<HashMap<i64, Value>, Error> {
    let query = sqlx::query_as(
        "SELECT transition_id, payload FROM picket.transitions WHERE transition_id = ANY ($1)",
    )
    .bind(transitions)
    .fetch_all(&store.pool);
    let found: Vec<(i64, Json<Value>)> =
        store.with_timeout(LANE_TIMEOUT, "read the events of a message", query).await?;
    Ok(found.into_iter().map(|(id, payload)| (id, payload.0)).collect())
}

/// Reads what the deciding checks of these incidents measured.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_outage_details(store: &Store, incidents: &[i64]) -> Result<Vec<OutageDetails>, Error> {
    let query = sqlx::query_as(
        "SELECT incident.incident_id, result.http_status, result.dns_us, result.connect_us, result.tls_us, result.first_byte_us,
                result.transfer_us,
                CASE WHEN span.until - incident.first_failure_at <= interval '6 hours' THEN (
                    SELECT count(*) FROM picket.schedules AS schedule
                    CROSS JOIN picket.ticks(schedule.interval_ms, schedule.phase_ms, schedule.valid_from,
                                            coalesce(schedule.valid_to, 'infinity'),
                                            incident.first_failure_at - interval '1 microsecond', span.until) AS tick
                    JOIN picket.check_results AS failed
                      ON failed.scheduled_at = tick AND failed.site_id = incident.site_id
                     AND failed.region_id = schedule.region_id AND failed.kind = 'scheduled'
                    WHERE schedule.site_id = incident.site_id AND failed.outcome = 'down') END AS failed_checks
         FROM picket.incidents AS incident
         CROSS JOIN LATERAL (SELECT coalesce(incident.closed_at, clock_timestamp()) AS until) AS span
         LEFT JOIN LATERAL (SELECT * FROM picket.check_results AS deciding
                            WHERE deciding.scheduled_at = incident.opened_at AND deciding.site_id = incident.site_id
                              AND deciding.outcome = 'down' ORDER BY deciding.region_id LIMIT 1) AS result ON true
         WHERE incident.incident_id = ANY ($1)",
    );
    let query = query.bind(incidents).fetch_all(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "read the checks of incidents", query).await
}

/// First message to a channel about an incident, and what the receiver gave for it.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_thread(
    store: &Store,
    channel: &str,
    subject: &str,
) -> Result<Option<(Uuid, Option<Value>)>, Error> {
    let query = sqlx::query_as(
        "SELECT message.notification_id, message.receiver_ref
         FROM picket.transitions AS transition
         JOIN picket.notices AS notice ON notice.transition_id = transition.transition_id AND notice.channel = $1
         JOIN picket.notifications AS message ON message.notification_id = notice.notification_id
         WHERE transition.subject = $2 AND notice.state = 'delivered'
         ORDER BY message.created_at LIMIT 1",
    );
    let query = query.bind(channel).bind(subject).fetch_optional(&store.pool);
    let found: Option<(Uuid, Option<Json<Value>>)> =
        store.with_timeout(LANE_TIMEOUT, "find the thread of a message", query).await?;
    Ok(found.map(|(id, left)| (id, left.map(|left| left.0))))
}
