//! Transactional outbox: events committed together with their cause, waiting to be published.

use std::time::Duration;

use sqlx::{Postgres, Transaction};

use crate::{Error, Store};

const OUTBOX_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of events locked at once.
const MAX_EVENTS: i64 = 100;
/// Acquires the publishing lock, so that one sink at a time publishes events in order.
const LOCK_OUTBOX_SQL: &str = "SELECT picket.try_lock_outbox()";

/// An unpublished event.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OutboxEvent {
    id: i64,
    /// Stable across repeated publishing.
    pub event_id: String,
    /// Target subject.
    pub subject: String,
    /// Payload as JSON; absent if larger than [`MAX_EVENT_BYTES`].
    pub payload: Option<String>,
}

/// Maximum size of a payload in bytes; larger than any event of Picket.
pub const MAX_EVENT_BYTES: usize = 256 << 10;

/// The oldest events, locked for their publisher. Dropping the value releases them unchanged.
pub struct LockedEvents {
    transaction: Transaction<'static, Postgres>,
    /// In order of creation.
    pub events: Vec<OutboxEvent>,
}

/// Locks the oldest events; returns `None` if there are none, or another sink is publishing.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn lock_next_events(store: &Store) -> Result<Option<LockedEvents>, Error> {
    store
        .with_timeout(OUTBOX_TIMEOUT, "read the outbox", async {
            // Checked outside a transaction, so that polling an empty outbox costs one statement.
            let any: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM picket.outbox)")
                .fetch_one(&store.pool)
                .await?;
            if !any {
                return Ok(None);
            }
            let mut transaction = store.pool.begin().await?;
            let free: bool = sqlx::query_scalar(LOCK_OUTBOX_SQL).fetch_one(&mut *transaction).await?;
            if !free {
                transaction.rollback().await?;
                return Ok(None);
            }
            let events: Vec<OutboxEvent> = sqlx::query_as(
                // The stored size is checked first: the text may exceed the maximum length of a
                // response.
                "SELECT id, left(event_id, 1000) AS event_id, left(subject, 1000) AS subject,
                        CASE WHEN pg_column_size(payload) <= $2 AND octet_length(payload::text) <= $2
                             THEN payload::text END AS payload
                 FROM picket.outbox ORDER BY id LIMIT $1",
            )
            .bind(MAX_EVENTS)
            .bind(i32::try_from(MAX_EVENT_BYTES).unwrap_or(i32::MAX))
            .fetch_all(&mut *transaction)
            .await?;
            // Another sink may have published the events since the check. Dropping the transaction
            // releases the lock.
            Ok((!events.is_empty()).then_some(LockedEvents { transaction, events }))
        })
        .await
}

/// Results of publishing locked events. Events in neither list are published again.
#[derive(Clone, Debug, Default)]
pub struct SettledEvents {
    /// Indexes of the events acknowledged by the stream.
    pub published: Vec<usize>,
    /// Indexes and reasons of the events that can never be published.
    pub dead_letters: Vec<(usize, String)>,
}

impl LockedEvents {
    /// Deletes published events, and moves unpublishable events to the dead letters.
    ///
    /// # Errors
    /// If the database cannot be reached in time; all events are then published again.
    pub async fn settle_events(mut self, store: &Store, done: &SettledEvents) -> Result<(), Error> {
        let id = |place: &usize| self.events.get(*place).map(|event| event.id);
        let published: Vec<i64> = done.published.iter().filter_map(id).collect();
        let (parked, reasons): (Vec<i64>, Vec<&str>) = done
            .dead_letters
            .iter()
            .filter_map(|(place, reason)| Some((id(place)?, reason.as_str())))
            .unzip();
        store
            .with_timeout(OUTBOX_TIMEOUT, "settle events of the outbox", async {
                sqlx::query("DELETE FROM picket.outbox WHERE id = ANY ($1)")
                    .bind(published)
                    .execute(&mut *self.transaction)
                    .await?;
                if !parked.is_empty() {
                    // A huge payload is not converted to text; only its size is stored.
                    sqlx::query(
                        "WITH parked AS (
                             SELECT id, reason FROM unnest($1::bigint[], $2::text[]) AS parked (id, reason)
                         ), gone AS (
                             DELETE FROM picket.outbox AS event USING parked WHERE event.id = parked.id
                             RETURNING event.subject, parked.reason, event.payload
                         )
                         INSERT INTO picket.dead_letters (subject, reason, payload)
                         SELECT left(subject, 200), reason,
                                CASE WHEN pg_column_size(payload) > 10000000
                                     THEN '(' || pg_column_size(payload) || ' bytes, too many to be kept)'
                                     ELSE left(payload::text, 16384) END
                         FROM gone",
                    )
                    .bind(parked)
                    .bind(reasons)
                    .execute(&mut *self.transaction)
                    .await?;
                }
                self.transaction.commit().await
            })
            .await
    }
}

/// Returns the number of waiting events, and the age of the oldest in seconds.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn measure_depth(store: &Store) -> Result<(i64, f64), Error> {
    store
        .with_timeout(
            OUTBOX_TIMEOUT,
            "measure the outbox",
            sqlx::query_as(
                "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
                 FROM picket.outbox",
            )
            .fetch_one(&store.pool),
        )
        .await
}
