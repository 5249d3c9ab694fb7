//! Cluster settings: values on which all processes must agree, in the one row of `picket.settings`.
//!
//! A constraint of the table refuses an invalid value, whichever client writes it. Processes read
//! the row at start, and again every second or after a notification.

mod definition;

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use picket_proto::{InstallationId, ValidationError, site::IntervalRange};
use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, query::Query};
use tokio::time::sleep;
use tracing::{debug, info};

pub use self::definition::{
    SETTINGS, SettingDefinition, SettingKind, SettingValue, given_retired_variables, warn_retired_variables,
};
use crate::{Error, RowVersion, Store, error::DriverError, housekeeping::Retention, leases::to_millis};

/// Interval between refreshes. Half of the time within which a process must follow a change.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// The settings as read from the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Retention of results and rollups.
    pub retention: Retention,
    /// Check intervals that a site may have.
    pub intervals: IntervalRange,
    /// Time after which a lease expires unless renewed.
    pub lease_time: Duration,
    /// Time after a tick until its ledger is closed.
    pub ledger_grace: Duration,
    /// Maximum time for which a due job waits to be published together with others.
    pub batch_delay: Duration,
    /// Copies of each stream.
    pub stream_replicas: usize,
    /// Maximum size of the results stream in bytes.
    pub results_max_bytes: i64,
    /// True if sinks reject results without a ticket.
    pub require_tickets: bool,
    /// URL under which people reach this installation.
    pub public_url: Option<String>,
    /// Identity of this installation.
    pub installation_id: InstallationId,
    /// Number of shards.
    pub shards: u16,
}

#[derive(sqlx::FromRow)]
struct SettingsRow {
    retention_days: i32,
    rollup_hours_days: i32,
    rollup_days_days: i32,
    min_interval_ms: i64,
    max_interval_ms: i64,
    lease_time_ms: i64,
    ledger_grace_ms: i64,
    batch_delay_ms: i64,
    stream_replicas: i16,
    results_max_bytes: i64,
    require_tickets: bool,
    public_url: Option<String>,
    installation_id: String,
    shards: i16,
    version: String,
}

fn from_millis(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds.unsigned_abs())
}

impl SettingsRow {
    fn into_settings(self) -> Option<Settings> {
        Some(Settings {
            retention: Retention {
                result_days: self.retention_days.unsigned_abs(),
                rollup_hours_days: self.rollup_hours_days.unsigned_abs(),
                rollup_days_days: self.rollup_days_days.unsigned_abs(),
            },
            intervals: IntervalRange {
                min: from_millis(self.min_interval_ms),
                max: from_millis(self.max_interval_ms),
            },
            lease_time: from_millis(self.lease_time_ms),
            ledger_grace: from_millis(self.ledger_grace_ms),
            batch_delay: from_millis(self.batch_delay_ms),
            stream_replicas: self.stream_replicas.unsigned_abs().into(),
            results_max_bytes: self.results_max_bytes,
            require_tickets: self.require_tickets,
            public_url: self.public_url,
            // A uuid formatted by Postgres always parses.
            installation_id: self.installation_id.parse().ok()?,
            shards: self.shards.unsigned_abs(),
        })
    }
}

/// Reads all settings.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_settings(store: &Store) -> Result<Settings, Error> {
    Ok(read_versioned_settings(store).await?.0)
}

/// Reads all settings and their version.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_versioned_settings(store: &Store) -> Result<(Settings, RowVersion), Error> {
    const READ_OPERATION: &str = "read the settings";
    let query = sqlx::query_as::<_, SettingsRow>(
        "SELECT retention_days, rollup_hours_days, rollup_days_days,
                (extract(epoch FROM min_interval) * 1000)::bigint AS min_interval_ms,
                (extract(epoch FROM max_interval) * 1000)::bigint AS max_interval_ms,
                (extract(epoch FROM lease_time) * 1000)::bigint AS lease_time_ms,
                (extract(epoch FROM ledger_grace) * 1000)::bigint AS ledger_grace_ms,
                (extract(epoch FROM batch_delay) * 1000)::bigint AS batch_delay_ms,
                stream_replicas, results_max_bytes, require_tickets, public_url,
                installation_id::text AS installation_id, shards, xmin::text AS version
         FROM picket.settings",
    );
    let row =
        store.with_timeout(Duration::from_secs(5), READ_OPERATION, query.fetch_one(&store.pool)).await?;
    let version = row.version.clone().into();
    let settings = row.into_settings();
    let settings = settings.ok_or_else(|| Error::with_operation(READ_OPERATION)(sqlx::Error::RowNotFound))?;
    Ok((settings, version))
}

/// Sets the named settings, all or none; returns those whose values changed. A change of the
/// interval range judges all sites again, which takes a second for a hundred thousand sites.
///
/// # Errors
/// If a name or a value is not allowed, or the database cannot be reached in time.
pub async fn update_settings(
    store: &Store,
    changes: &[(&str, SettingValue)],
) -> Result<Vec<&'static SettingDefinition>, Error> {
    update_settings_version(store, None, changes).await
}

/// As [`update_settings`], but with `version` only if the settings still have it.
///
/// # Errors
/// As of [`update_settings`], and if the settings have another version.
pub async fn update_settings_version(
    store: &Store,
    version: Option<&RowVersion>,
    changes: &[(&str, SettingValue)],
) -> Result<Vec<&'static SettingDefinition>, Error> {
    const UPDATE_TIMEOUT: Duration = Duration::from_secs(300);
    let mut columns = Vec::new();
    for (name, value) in changes {
        SettingDefinition::find(name)?.check(value)?;
        let number = columns.len() + 1;
        let value = match value {
            SettingValue::Duration(_) => format!("${number}::bigint * interval '1 millisecond'"),
            _ => format!("${number}"),
        };
        columns.push(format!("{name} = {value}"));
    }
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let before = read_settings(store).await?;
    // Names come from the table of definitions, values are bound.
    let last = columns.len() + 1;
    let sql = format!(
        "UPDATE picket.settings SET {} WHERE ${last}::text IS NULL OR xmin::text = ${last}",
        columns.join(", ")
    );
    let update = async {
        let mut transaction = store.pool.begin().await?;
        // Triggers judge all sites by the new interval range within this statement.
        sqlx::query("SET LOCAL statement_timeout = '5min'").execute(&mut *transaction).await?;
        let query =
            changes.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, (_, value)| bind(query, value));
        let updated = query.bind(version.map(RowVersion::as_str)).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(updated.rows_affected())
    };
    let updated = store
        .with_timeout(UPDATE_TIMEOUT, "change the settings", update)
        .await
        .map_err(|error| map_constraint_error(error, changes))?;
    if updated == 0 {
        return Err(Error::SettingsChanged);
    }
    let after = read_settings(store).await?;
    let is_named = |definition: &&SettingDefinition| changes.iter().any(|(name, _)| *name == definition.name);
    Ok(after.changed_since(&before).filter(is_named).collect())
}

fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    value: &'q SettingValue,
) -> Query<'q, Postgres, PgArguments> {
    match value {
        SettingValue::Number(number) => query.bind(i32::try_from(*number).unwrap_or(i32::MAX)),
        SettingValue::Bytes(bytes) => query.bind(i64::try_from(*bytes).unwrap_or(i64::MAX)),
        SettingValue::Duration(duration) => query.bind(to_millis(*duration)),
        SettingValue::Flag(flag) => query.bind(*flag),
        SettingValue::Text(text) => query.bind(text.as_deref()),
    }
}

/// Converts the violation of a constraint on two settings to a validation error. The constraint's
/// name is a sentence of the form `a_is_at_most_b`.
fn map_constraint_error(error: Error, changes: &[(&str, SettingValue)]) -> Error {
    let Error::Database { source: DriverError(sqlx::Error::Database(database)), .. } = &error else {
        return error;
    };
    let rule = database.constraint().and_then(|name| {
        let (of, limit) = name.split_once("_is_at_")?;
        let (bound, by) = limit.split_once('_')?;
        Some((of, by, format!("values for which {of} is at {bound} {by}")))
    });
    let Some((of, by, rule)) = rule else { return error };
    match changes.iter().find(|(name, _)| *name == of || *name == by) {
        Some((name, value)) => Error::Invalid(ValidationError::new(*name, value, rule)),
        None => error,
    }
}

/// Counts the sites that are not checked because their interval is outside of the settings.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_interval_problems(store: &Store) -> Result<i64, Error> {
    let query = sqlx::query_scalar(
        "SELECT count(*) FROM picket.sites WHERE starts_with(problem, 'interval_seconds: ')",
    );
    store.with_timeout(Duration::from_secs(30), "count sites", query.fetch_one(&store.pool)).await
}

impl Settings {
    /// Definitions of the settings whose values differ from `before`.
    pub fn changed_since(&self, before: &Self) -> impl Iterator<Item = &'static SettingDefinition> {
        SETTINGS.iter().filter(|definition| (definition.read)(self) != (definition.read)(before))
    }
}

/// The settings read last by this process. Cheap to clone; all clones share their state.
#[derive(Clone, Debug)]
pub struct SharedSettings(Arc<RwLock<Arc<Settings>>>);

impl SharedSettings {
    /// Reads the settings for the first time.
    ///
    /// # Errors
    /// If the database cannot be reached in time.
    pub async fn load_from(store: &Store) -> Result<Self, Error> {
        Ok(read_settings(store).await?.into())
    }

    /// Reads the settings again and logs those that changed. Returns true if any did.
    ///
    /// # Errors
    /// If the database cannot be reached in time; the previous settings stay in place.
    pub async fn refresh(&self, store: &Store) -> Result<bool, Error> {
        let read = read_settings(store).await?;
        let before = self.current();
        let mut has_changed = false;
        for definition in read.changed_since(&before) {
            info!(setting = definition.name, value = %(definition.read)(&read), "setting changed");
            has_changed = true;
        }
        if has_changed {
            *self.0.write() = Arc::new(read);
        }
        Ok(has_changed)
    }

    /// Refreshes the settings every [`REFRESH_INTERVAL`]; never returns. After a failure the previous
    /// settings stay in place until the next refresh.
    pub async fn follow_database(self, store: Store) {
        loop {
            if let Err(error) = self.refresh(&store).await {
                // Others report the unavailable database.
                debug!(error = &error as &dyn std::error::Error, "could not refresh the settings, retrying");
            }
            sleep(REFRESH_INTERVAL).await;
        }
    }

    /// The settings read last.
    pub fn current(&self) -> Arc<Settings> {
        Arc::clone(&self.0.read())
    }
}

impl From<Settings> for SharedSettings {
    fn from(settings: Settings) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(settings))))
    }
}
