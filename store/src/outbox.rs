//! The outbox: events that were written in the transaction that made them so, and are to be published.

use std::time::Duration;

use sqlx::{Postgres, Transaction};

use crate::{Error, Store};

const LIMIT: Duration = Duration::from_secs(10);
/// How many are taken at once.
const MOST: i64 = 100;
/// The lock under which events are published: in order, by one sink at a time.
const LOCK: &str = "SELECT picket.lock_outbox()";

/// An event that is to be published.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Event {
    id: i64,
    /// The same however often it is published.
    pub event_id: String,
    /// Where to.
    pub subject: String,
    /// What, as JSON.
    pub payload: String,
}

/// The oldest events, held for whoever publishes them; given back when dropped.
pub struct Taken {
    transaction: Transaction<'static, Postgres>,
    /// In the order in which they happened.
    pub events: Vec<Event>,
}

/// The oldest events; nothing where there is none, or another publishes just now.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn take(store: &Store) -> Result<Option<Taken>, Error> {
    store
        .within(LIMIT, "read the outbox", async {
            let any: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT FROM picket.outbox)").fetch_one(&store.pool).await?;
            if !any {
                return Ok(None);
            }
            let mut transaction = store.pool.begin().await?;
            let free: bool = sqlx::query_scalar(LOCK).fetch_one(&mut *transaction).await?;
            if !free {
                transaction.rollback().await?;
                return Ok(None);
            }
            let events: Vec<Event> = sqlx::query_as(
                "SELECT id, event_id, subject, payload::text AS payload FROM picket.outbox ORDER BY id LIMIT $1",
            )
            .bind(MOST)
            .fetch_all(&mut *transaction)
            .await?;
            Ok((!events.is_empty()).then_some(Taken { transaction, events }))
        })
        .await
}

impl Taken {
    /// Lets go of the first `published` events for good, and of the others until next time.
    ///
    /// # Errors
    /// When the database cannot be reached in time: then all of them come again.
    pub async fn published(mut self, store: &Store, published: usize) -> Result<(), Error> {
        let ids: Vec<i64> = self.events.iter().take(published).map(|event| event.id).collect();
        store
            .within(LIMIT, "empty the outbox", async {
                sqlx::query("DELETE FROM picket.outbox WHERE id = ANY ($1)")
                    .bind(ids)
                    .execute(&mut *self.transaction)
                    .await?;
                self.transaction.commit().await
            })
            .await
    }
}

/// How many events wait, and for how long the oldest has, in seconds.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn waiting(store: &Store) -> Result<(i64, f64), Error> {
    store
        .within(
            LIMIT,
            "count the outbox",
            sqlx::query_as(
                "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
                 FROM picket.outbox",
            )
            .fetch_one(&store.pool),
        )
        .await
}
