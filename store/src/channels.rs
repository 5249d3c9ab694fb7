//! Notification channels: definitions by users, and what notifiers know of them.

use std::time::Duration;

use picket_proto::{
    Timestamp, ValidationError, channel_definition::ChannelDefinition, notification_plan::StoredDefinition,
};
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::{FromRow, PgConnection, types::Json};

use crate::{
    DbTimestamp, Error, RowVersion, Store,
    write_error::{WriteError, refuse_duplicate_name, write_with_timeout},
};

pub(crate) const CHANNELS_TIMEOUT: Duration = Duration::from_secs(30);

/// A channel as stored in the database.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Name of the channel.
    pub name: String,
    /// What the channel speaks, available even if this build does not know it.
    pub kind: String,
    /// The definition, or the reason why it cannot be read.
    pub definition: Result<ChannelDefinition, ValidationError>,
    /// What notifiers know of the channel.
    pub state: ChannelState,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change of the definition.
    pub updated_at: Timestamp,
    /// Version, which each change of the definition replaces.
    pub version: RowVersion,
}

impl Channel {
    /// The channel as a plan compares it.
    pub fn to_stored(&self) -> StoredDefinition<ChannelDefinition> {
        StoredDefinition { name: self.name.clone(), definition: self.definition.clone() }
    }

    /// State of the channel as one word: `paused`, `problem`, `failing`, `retrying`, `delivers` or
    /// `new`.
    pub fn state_word(&self) -> &'static str {
        match (&self.definition, &self.state) {
            (Err(_), _) => "problem",
            (Ok(definition), _) if !definition.enabled => "paused",
            (_, state) if state.problem.is_some() => "problem",
            (_, state) if state.is_failing => "failing",
            (_, state) if state.failing_since.is_some() => "retrying",
            (_, state) if state.last_delivered_at.is_some() => "delivers",
            _ => "new",
        }
    }

    /// What keeps the channel from delivering: why its definition cannot be used, or else the last
    /// failure in words.
    pub fn problem(&self) -> Option<String> {
        let state = &self.state;
        let failure = || state.failing_since.and(state.last_error.clone());
        let unreadable = self.definition.as_ref().err().map(ToString::to_string);
        unreadable.or_else(|| state.problem.clone()).or_else(failure)
    }
}

/// What notifiers know of a channel: a row of `report.channels`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct ChannelState {
    /// Why the channel cannot be used: notifiers cannot read its settings, or the receiver is gone.
    pub problem: Option<String>,
    /// True if the channel counts as failing, and other channels are told.
    pub is_failing: bool,
    /// First failure since the last delivery.
    pub failing_since: Option<DbTimestamp>,
    /// Failed attempts since the last delivery.
    pub consecutive_failures: i32,
    /// The last failure in words.
    pub last_error: Option<String>,
    /// Time of the last delivery.
    pub last_delivered_at: Option<DbTimestamp>,
    /// Transitions that the channel is still to be told.
    pub waiting: i64,
    /// Time of the oldest of them.
    pub oldest_waiting_at: Option<DbTimestamp>,
}

#[derive(FromRow)]
struct ChannelRow {
    name: String,
    kind: String,
    settings: Json<Map<String, Value>>,
    enabled: bool,
    send_closed: bool,
    pace_ms: Option<i32>,
    created_at: DbTimestamp,
    updated_at: DbTimestamp,
    version: String,
    #[sqlx(flatten)]
    state: ChannelState,
}

impl From<ChannelRow> for Channel {
    fn from(row: ChannelRow) -> Self {
        let definition = row.kind.parse().map(|kind| ChannelDefinition {
            name: row.name.clone(),
            kind,
            settings: row.settings.0,
            enabled: row.enabled,
            send_closed: row.send_closed,
            pace_ms: row.pace_ms.map(i64::from),
        });
        Self {
            name: row.name,
            kind: row.kind,
            definition,
            state: row.state,
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
            version: row.version.into(),
        }
    }
}

const SELECT_CHANNELS_SQL: &str = "SELECT channel.name, channel.kind, channel.settings, channel.enabled, channel.send_closed, channel.pace_ms,
            channel.created_at, channel.updated_at, channel.xmin::text AS version,
            state.problem, state.is_failing, state.failing_since, state.consecutive_failures, state.last_error,
            state.last_delivered_at, state.waiting, state.oldest_waiting_at
     FROM picket.channels AS channel JOIN report.channels AS state ON state.channel = channel.name
     WHERE $1::text IS NULL OR channel.name = $1 ORDER BY channel.name";

/// Lists all channels by name.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_channels(store: &Store) -> Result<Vec<Channel>, Error> {
    let query = sqlx::query_as(SELECT_CHANNELS_SQL).bind(None::<String>);
    let rows: Vec<ChannelRow> =
        store.with_timeout(CHANNELS_TIMEOUT, "list channels", query.fetch_all(&store.pool)).await?;
    Ok(rows.into_iter().map(Channel::from).collect())
}

/// Finds the channel with this name.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_channel(store: &Store, name: &str) -> Result<Option<Channel>, Error> {
    let query = sqlx::query_as(SELECT_CHANNELS_SQL).bind(name);
    let row: Option<ChannelRow> = store
        .with_timeout(CHANNELS_TIMEOUT, "look up the channel", query.fetch_optional(&store.pool))
        .await?;
    Ok(row.map(Channel::from))
}

/// Adds a channel.
///
/// # Errors
/// If a channel has the name, or the database cannot be reached in time.
pub async fn add_channel(store: &Store, channel: &ChannelDefinition) -> Result<(), Error> {
    channel.validate()?;
    let work = async {
        let mut connection = store.pool.acquire().await?;
        insert_channel(&mut connection, channel).await
    };
    write_with_timeout(store, CHANNELS_TIMEOUT, "add the channel", work).await
}

/// Adds a channel, and tells it of what is open now and concerns it, all of it or nothing. Returns the
/// number of notices.
///
/// # Errors
/// As of [`add_channel`].
pub async fn add_channel_with_catch_up(store: &Store, channel: &ChannelDefinition) -> Result<i64, Error> {
    channel.validate()?;
    let work = async {
        let mut transaction = store.pool.begin().await?;
        insert_channel(&mut transaction, channel).await?;
        let notices = write_catch_up(&mut transaction, Some(&channel.name), None).await?;
        transaction.commit().await?;
        Ok(notices)
    };
    write_with_timeout(store, CHANNELS_TIMEOUT, "add the channel", work).await
}

/// Replaces the definition of the channel with its name; with `version`, only if the channel still
/// has it. Returns false if there is no such channel.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn update_channel(
    store: &Store,
    channel: &ChannelDefinition,
    version: Option<&RowVersion>,
) -> Result<bool, Error> {
    channel.validate()?;
    let work = async {
        let mut connection = store.pool.acquire().await?;
        write_channel(&mut connection, channel, version).await
    };
    store.with_timeout(CHANNELS_TIMEOUT, "change the channel", work).await
}

/// Removes a channel; with `version`, only if the channel still has it. What waits for it is
/// suppressed. Returns false if there is no such channel.
///
/// # Errors
/// If a route names the channel, or the database cannot be reached in time.
pub async fn remove_channel(store: &Store, name: &str, version: Option<&RowVersion>) -> Result<bool, Error> {
    let work = async {
        let mut transaction = store.pool.begin().await?;
        let removed = delete_channel(&mut transaction, name, version).await?;
        transaction.commit().await?;
        Ok(removed)
    };
    write_with_timeout(store, CHANNELS_TIMEOUT, "remove the channel", work).await
}

/// Tells a channel, or the channels of a route, of what began before it was there and still lasts.
/// Returns the number of notices.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn catch_up(store: &Store, channel: Option<&str>, route: Option<&str>) -> Result<i64, Error> {
    let work = async {
        let mut connection = store.pool.acquire().await?;
        write_catch_up(&mut connection, channel, route).await
    };
    store.with_timeout(CHANNELS_TIMEOUT, "tell of what is open", work).await
}

pub(crate) async fn write_catch_up(
    connection: &mut PgConnection,
    channel: Option<&str>,
    route: Option<&str>,
) -> Result<i64, sqlx::Error> {
    let query = sqlx::query_scalar("SELECT picket.catch_up($1, $2)").bind(channel).bind(route);
    query.fetch_one(connection).await
}

pub(crate) async fn insert_channel(
    connection: &mut PgConnection,
    channel: &ChannelDefinition,
) -> Result<(), WriteError> {
    sqlx::query(
        "INSERT INTO picket.channels (name, kind, settings, enabled, send_closed, pace_ms) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&channel.name)
    .bind(channel.kind.as_str())
    .bind(Json(&channel.settings))
    .bind(channel.enabled)
    .bind(channel.send_closed)
    .bind(pace_column(channel))
    .execute(connection)
    .await
    .map(drop)
    .map_err(|error| {
        refuse_duplicate_name(error, "channels_pkey", &channel.name, "a name that no other channel has")
    })
}

pub(crate) async fn write_channel(
    connection: &mut PgConnection,
    channel: &ChannelDefinition,
    version: Option<&RowVersion>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE picket.channels SET kind = $2, settings = $3, enabled = $4, send_closed = $5, pace_ms = $6
         WHERE name = $1 AND ($7::text IS NULL OR xmin::text = $7)",
    )
    .bind(&channel.name)
    .bind(channel.kind.as_str())
    .bind(Json(&channel.settings))
    .bind(channel.enabled)
    .bind(channel.send_closed)
    .bind(pace_column(channel))
    .bind(version.map(RowVersion::as_str))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// A validated pace is within the range of the column.
fn pace_column(channel: &ChannelDefinition) -> Option<i32> {
    channel.pace_ms.map(|pace| i32::try_from(pace).unwrap_or(i32::MAX))
}

/// Refuses the removal of a channel that these routes name.
pub(crate) fn refuse_named_channel(name: &str, routes: &[&str]) -> Option<ValidationError> {
    let allowed = format!("a channel that no route names; remove these routes first: {}", routes.join(", "));
    (!routes.is_empty()).then(|| ValidationError::new("channel", name, allowed))
}

/// Removes a channel that no route names, within a transaction.
pub(crate) async fn delete_channel(
    connection: &mut PgConnection,
    name: &str,
    version: Option<&RowVersion>,
) -> Result<bool, WriteError> {
    // A statement of its own, so that the next one sees a route that was added meanwhile.
    sqlx::query("SELECT FROM picket.channels WHERE name = $1 FOR UPDATE")
        .bind(name)
        .execute(&mut *connection)
        .await?;
    let routes: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM picket.routes
         WHERE $1 = ANY (channels) OR jsonb_path_exists(escalate, '$[*].channels[*] ? (@ == $name)', jsonb_build_object('name', $1))
         ORDER BY name",
    )
    .bind(name)
    .fetch_all(&mut *connection)
    .await?;
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    if let Some(refusal) = refuse_named_channel(name, &routes) {
        return Err(refusal.into());
    }
    let done =
        sqlx::query("DELETE FROM picket.channels WHERE name = $1 AND ($2::text IS NULL OR xmin::text = $2)")
            .bind(name)
            .bind(version.map(RowVersion::as_str))
            .execute(connection)
            .await?;
    Ok(done.rows_affected() > 0)
}
