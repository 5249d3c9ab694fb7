//! Acknowledgements: incidents that somebody takes care of, so that reminders and escalation stop.

use std::time::Duration;

use picket_proto::ValidationError;
use serde::Serialize;
use sqlx::FromRow;

use crate::{DbTimestamp, Error, Store, silences::check_author};

const ACKNOWLEDGEMENTS_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of characters of a note.
const MAX_NOTE_CHARS: usize = 2_000;

/// An acknowledged incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Acknowledgement {
    /// Id of the incident.
    pub incident_id: i64,
    /// Time of the acknowledgement.
    pub acknowledged_at: DbTimestamp,
    /// Who takes care of the incident.
    pub acknowledged_by: String,
    /// What this person says about it.
    pub note: Option<String>,
}

/// What came of an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// The incident is acknowledged now.
    Now(Acknowledgement),
    /// Somebody had acknowledged the incident already; nothing was changed.
    Before(Acknowledgement),
    /// The incident is closed, so there is nothing to stop.
    Closed,
    /// There is no such incident.
    NotFound,
}

/// Acknowledges an open incident. `by` is the login of the database if absent.
///
/// # Errors
/// If the note is not allowed, or the database cannot be reached in time.
pub async fn acknowledge_incident(
    store: &Store,
    incident: i64,
    by: Option<&str>,
    note: Option<&str>,
) -> Result<Acknowledged, Error> {
    check_author("by", by)?;
    if let Some(note) = note.filter(|note| note.is_empty() || note.chars().count() > MAX_NOTE_CHARS) {
        return Err(ValidationError::new("note", note, format!("1 to {MAX_NOTE_CHARS} characters")).into());
    }
    let work = async {
        let added: Option<Acknowledgement> = sqlx::query_as(
            "INSERT INTO picket.acknowledgements (incident_id, acknowledged_by, note)
             SELECT incident_id, coalesce($2, session_user), $3 FROM picket.incidents WHERE incident_id = $1 AND closed_at IS NULL
             ON CONFLICT DO NOTHING
             RETURNING incident_id, acknowledged_at, acknowledged_by, note",
        )
        .bind(incident)
        .bind(by)
        .bind(note)
        .fetch_optional(&store.pool)
        .await?;
        if let Some(added) = added {
            return Ok(Acknowledged::Now(added));
        }
        let there: Option<bool> =
            sqlx::query_scalar("SELECT closed_at IS NOT NULL FROM picket.incidents WHERE incident_id = $1")
                .bind(incident)
                .fetch_optional(&store.pool)
                .await?;
        let earlier = select_acknowledgements(store, &[incident]).await?.pop();
        Ok(match (there, earlier) {
            (None, _) => Acknowledged::NotFound,
            (Some(false), Some(earlier)) => Acknowledged::Before(earlier),
            (Some(_), _) => Acknowledged::Closed,
        })
    };
    store.with_timeout(ACKNOWLEDGEMENTS_TIMEOUT, "acknowledge the incident", work).await
}

/// Takes an acknowledgement back: reminders and escalation go on. Returns false if there was none.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn withdraw_acknowledgement(store: &Store, incident: i64) -> Result<bool, Error> {
    let query = sqlx::query("DELETE FROM picket.acknowledgements WHERE incident_id = $1").bind(incident);
    let done = store
        .with_timeout(ACKNOWLEDGEMENTS_TIMEOUT, "withdraw the acknowledgement", query.execute(&store.pool))
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Lists the acknowledgements of these incidents, by incident.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_acknowledgements(store: &Store, incidents: &[i64]) -> Result<Vec<Acknowledgement>, Error> {
    store
        .with_timeout(
            ACKNOWLEDGEMENTS_TIMEOUT,
            "list acknowledgements",
            select_acknowledgements(store, incidents),
        )
        .await
}

async fn select_acknowledgements(
    store: &Store,
    incidents: &[i64],
) -> Result<Vec<Acknowledgement>, sqlx::Error> {
    sqlx::query_as(
        "SELECT incident_id, acknowledged_at, acknowledged_by, note FROM picket.acknowledgements
         WHERE incident_id = ANY ($1) ORDER BY incident_id",
    )
    .bind(incidents)
    .fetch_all(&store.pool)
    .await
}
