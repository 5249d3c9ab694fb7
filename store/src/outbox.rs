//! The outbox: events that were written in the transaction that made them so, and are to be published.

use std::time::Duration;

use sqlx::{Postgres, Transaction};

use crate::{Error, Store};

const OUTBOX_TIMEOUT: Duration = Duration::from_secs(10);
/// How many are taken at once.
const MAX_EVENTS: i64 = 100;
/// The lock under which events are published: in order, by one sink at a time.
const LOCK_OUTBOX_SQL: &str = "SELECT picket.lock_outbox()";

/// An event that is to be published.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OutboxEvent {
    id: i64,
    /// The same however often it is published.
    pub event_id: String,
    /// Where to.
    pub subject: String,
    /// What, as JSON; absent where it is longer than [`MAX_PAYLOAD`].
    pub payload: Option<String>,
}

/// The longest payload that is read, in bytes; no event of ours comes near it.
pub const MAX_EVENT_BYTES: usize = 256 << 10;

/// The oldest events, held for whoever publishes them; given back when dropped.
pub struct LockedEvents {
    transaction: Transaction<'static, Postgres>,
    /// In the order in which they happened.
    pub events: Vec<OutboxEvent>,
}

/// The oldest events; nothing where there is none, or another publishes just now.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn lock_next_events(store: &Store) -> Result<Option<LockedEvents>, Error> {
    store
        .with_timeout(OUTBOX_TIMEOUT, "read the outbox", async {
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
                // The size of the value first: its text may be longer than a statement may answer.
                "SELECT id, left(event_id, 1000) AS event_id, left(subject, 1000) AS subject,
                        CASE WHEN pg_column_size(payload) <= $2 AND octet_length(payload::text) <= $2
                             THEN payload::text END AS payload
                 FROM picket.outbox ORDER BY id LIMIT $1",
            )
            .bind(MAX_EVENTS)
            .bind(i32::try_from(MAX_EVENT_BYTES).unwrap_or(i32::MAX))
            .fetch_all(&mut *transaction)
            .await?;
            Ok((!events.is_empty()).then_some(LockedEvents { transaction, events }))
        })
        .await
}

/// What became of the events that were taken; the others come again.
#[derive(Clone, Debug, Default)]
pub struct SettledEvents {
    /// Those that the stream has acknowledged, by their places.
    pub published: Vec<usize>,
    /// Those that can never be published, by their places, and why.
    pub dead_letters: Vec<(usize, String)>,
}

impl LockedEvents {
    /// Deletes the events that were published, and moves those that can never be to the dead letters.
    ///
    /// # Errors
    /// When the database cannot be reached in time: then all of them come again.
    pub async fn settle_events(mut self, store: &Store, done: &SettledEvents) -> Result<(), Error> {
        let id = |place: &usize| self.events.get(*place).map(|event| event.id);
        let published: Vec<i64> = done.published.iter().filter_map(id).collect();
        let (parked, reasons): (Vec<i64>, Vec<&str>) = done
            .dead_letters
            .iter()
            .filter_map(|(place, reason)| Some((id(place)?, reason.as_str())))
            .unzip();
        store
            .with_timeout(OUTBOX_TIMEOUT, "empty the outbox", async {
                sqlx::query("DELETE FROM picket.outbox WHERE id = ANY ($1)")
                    .bind(published)
                    .execute(&mut *self.transaction)
                    .await?;
                if !parked.is_empty() {
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

/// How many events wait, and for how long the oldest has, in seconds.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn measure_depth(store: &Store) -> Result<(i64, f64), Error> {
    store
        .with_timeout(
            OUTBOX_TIMEOUT,
            "count the outbox",
            sqlx::query_as(
                "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
                 FROM picket.outbox",
            )
            .fetch_one(&store.pool),
        )
        .await
}
