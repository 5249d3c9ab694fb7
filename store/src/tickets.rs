//! Ticket keys and the setting that requires tickets. Read at start and refreshed every few
//! seconds.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use picket_proto::{
    Tickets, Timestamp,
    ticket::{TicketKey, TicketKeyId},
};

use crate::{DbTimestamp, Error, Store};

/// Interval between refreshes of the keys. A new key is not used for six intervals, so that every
/// sink knows it before the first ticket arrives.
pub const KEY_REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum age of keys that may reject a result. Older keys may lack a key that is already in use.
pub const MAX_KEY_AGE: Duration = Duration::from_secs(20);

/// The tickets read last by this process. Cheap to clone; all clones share their state.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<RwLock<Arc<Tickets>>>);

impl Keyring {
    /// Reads keys and settings for the first time.
    ///
    /// # Errors
    /// If the database cannot be reached in time.
    pub async fn load_from(store: &Store) -> Result<Self, Error> {
        Ok(fetch_tickets(store).await?.into())
    }

    /// Refreshes keys and settings, and returns them.
    ///
    /// # Errors
    /// If the database cannot be reached in time; the previous keys stay in place.
    pub async fn refresh_keys(&self, store: &Store) -> Result<Arc<Tickets>, Error> {
        let tickets = Arc::new(fetch_tickets(store).await?);
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
    installation_id: String,
    require_tickets: bool,
    key_id: Option<TicketKeyId>,
    key: Option<Vec<u8>>,
    retired_at: Option<DbTimestamp>,
    is_usable: Option<bool>,
}

async fn fetch_tickets(store: &Store) -> Result<Tickets, Error> {
    const READ_OPERATION: &str = "read the keys of tickets";
    let rows: Vec<TicketKeyRow> = store
        .with_timeout(
            Duration::from_secs(10),
            READ_OPERATION,
            sqlx::query_as(
                // The first key is used at once, because there is no other. A retired key stays in
                // use for 30 s, in which every process reads its successor, and is valid for
                // another 30 s.
                "WITH in_use AS (
                     SELECT key_id, created_at FROM picket.ticket_keys
                     WHERE coalesce(retired_at, 'infinity') > clock_timestamp() - interval '30 s'
                 )
                 SELECT settings.installation_id::text, settings.require_tickets, key.key_id, key.key,
                        key.retired_at + interval '1 minute' AS retired_at,
                        EXISTS (SELECT FROM in_use WHERE in_use.key_id = key.key_id
                                AND (in_use.created_at < clock_timestamp() - interval '30 s'
                                     OR in_use.key_id = (SELECT min(key_id) FROM in_use))) AS is_usable
                 FROM picket.settings AS settings LEFT JOIN picket.ticket_keys AS key ON true",
            )
            .fetch_all(&store.pool),
        )
        .await?;
    let missing = || Error::with_operation(READ_OPERATION)(sqlx::Error::RowNotFound);
    let settings = rows.first().ok_or_else(missing)?;
    // A uuid formatted by Postgres always parses.
    let installation = settings.installation_id.parse().map_err(|_| missing())?;
    let required = settings.require_tickets;
    let keys: Vec<TicketKey> = rows
        .into_iter()
        .filter_map(|row| {
            Some(TicketKey {
                id: row.key_id?,
                secret: row.key?,
                retired_at: row.retired_at.map(Timestamp::from),
                is_usable: row.is_usable?,
            })
        })
        .collect();
    Ok(Tickets::new(installation, required, &keys))
}
