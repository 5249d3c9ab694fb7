//! Ticket keys, read at start and refreshed every few seconds. The setting that requires tickets is
//! read with the other settings ([`crate::settings`]).

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use picket_proto::{
    Tickets, Timestamp,
    ticket::{TicketKey, TicketKeyId},
};

use crate::{DbTimestamp, Error, Store, settings::Settings};

/// Interval between refreshes of the keys. A new key is not used for six intervals, so that every
/// sink knows it before the first ticket arrives.
pub const KEY_REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum age of keys that may reject a result. Older keys may lack a key that is already in use.
pub const MAX_KEY_AGE: Duration = Duration::from_secs(20);

/// The tickets read last by this process. Cheap to clone; all clones share their state.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<RwLock<Arc<Tickets>>>);

impl Keyring {
    /// Reads the keys for the first time.
    ///
    /// # Errors
    /// If the database cannot be reached in time.
    pub async fn load_from(store: &Store, settings: &Settings) -> Result<Self, Error> {
        Ok(fetch_tickets(store, settings).await?.into())
    }

    /// Refreshes the keys, adopts the current settings, and returns the result.
    ///
    /// # Errors
    /// If the database cannot be reached in time; the previous keys stay in place.
    pub async fn refresh_keys(&self, store: &Store, settings: &Settings) -> Result<Arc<Tickets>, Error> {
        let tickets = Arc::new(fetch_tickets(store, settings).await?);
        *self.0.write() = Arc::clone(&tickets);
        Ok(tickets)
    }

    /// The tickets read last.
    pub fn tickets(&self) -> Arc<Tickets> {
        Arc::clone(&self.0.read())
    }
}

impl From<Tickets> for Keyring {
    fn from(tickets: Tickets) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(tickets))))
    }
}

#[derive(sqlx::FromRow)]
struct TicketKeyRow {
    key_id: TicketKeyId,
    key: Vec<u8>,
    retired_at: Option<DbTimestamp>,
    is_usable: bool,
}

async fn fetch_tickets(store: &Store, settings: &Settings) -> Result<Tickets, Error> {
    let rows: Vec<TicketKeyRow> = store
        .with_timeout(
            Duration::from_secs(10),
            "read the keys of tickets",
            sqlx::query_as(
                // The first key is used at once, because there is no other. A retired key stays in
                // use for 30 s, in which every process reads its successor, and is valid for
                // another 30 s.
                "WITH in_use AS (
                     SELECT key_id, created_at FROM picket.ticket_keys
                     WHERE coalesce(retired_at, 'infinity') > clock_timestamp() - interval '30 s'
                 )
                 SELECT key.key_id, key.key, key.retired_at + interval '1 minute' AS retired_at,
                        EXISTS (SELECT FROM in_use WHERE in_use.key_id = key.key_id
                                AND (in_use.created_at < clock_timestamp() - interval '30 s'
                                     OR in_use.key_id = (SELECT min(key_id) FROM in_use))) AS is_usable
                 FROM picket.ticket_keys AS key",
            )
            .fetch_all(&store.pool),
        )
        .await?;
    let keys: Vec<TicketKey> = rows
        .into_iter()
        .map(|row| TicketKey {
            id: row.key_id,
            secret: row.key,
            retired_at: row.retired_at.map(Timestamp::from),
            is_usable: row.is_usable,
        })
        .collect();
    Ok(Tickets::new(settings.installation_id, settings.require_tickets, &keys))
}
