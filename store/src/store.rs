//! The pool of connections, and the schema's version.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use picket_proto::Timestamp;
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Row,
    migrate::{Migrate, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    raw_sql,
};

use crate::{DbTimestamp, Error, options::DatabaseOptions};

/// All migrations of this build.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) pool: PgPool,
    /// Number of connections made so far.
    connections_made: Arc<AtomicU64>,
}

/// Detects connections made since the server was last compared with the known one: a failover, a restart and a restore all end the
/// existing connections. Cheap to clone; all clones share their state.
#[derive(Clone, Debug)]
pub struct ServerGuard {
    connections_made: Arc<AtomicU64>,
    connections_verified: Arc<AtomicU64>,
}

impl ServerGuard {
    /// No comparison yet; the number of connections never reaches this.
    const NEVER_VERIFIED: u64 = u64::MAX;

    /// Whether all connections were made before the last comparison.
    pub fn is_verified(&self) -> bool {
        self.connections_verified.load(Ordering::Acquire) == self.connection_count()
    }

    /// Number of connections made so far; read it before a comparison and pass it to [`trust`](Self::trust) after.
    pub fn connection_count(&self) -> u64 {
        self.connections_made.load(Ordering::Acquire)
    }

    /// Records a comparison that began when this many connections had been made.
    pub fn mark_verified(&self, connections: u64) {
        self.connections_verified.store(connections, Ordering::Release);
    }

    /// Requires a comparison before the next use.
    pub fn mark_unverified(&self) {
        self.mark_verified(Self::NEVER_VERIFIED);
    }
}

impl Store {
    /// What every session has, before anything else is asked in it. Statements and not startup parameters, which a pooler
    /// would refuse or drop. Not "$user" in the path: a user called picket would find the schema picket before public.
    const SESSION_SETTINGS_SQL: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s';
        SET idle_in_transaction_session_timeout = '30s'; SET timezone = 'UTC'; SET search_path = public";
    /// How long to wait for a connection, including making it.
    const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

    /// Prepares a pool of at most `connections`; nothing is connected yet. `name` is what the database's
    /// operator sees.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn new(options: &DatabaseOptions, name: &str, connections: u32) -> Result<Self, Error> {
        let connect = PgConnectOptions::from_str(options.url())
            .map_err(|source| Error::InvalidUrl { url: redact_password(options.url()), source })?
            .application_name(name)
            // Loading a million sites is slow and no news.
            .log_slow_statements(log::LevelFilter::Off, Duration::ZERO)
            .log_statements(log::LevelFilter::Off)
            // Its default is exact since Postgres 12, and a pooler refuses startup parameters that it does not know.
            .extra_float_digits(None);
        let made = Arc::new(AtomicU64::new(0));
        let count = made.clone();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .min_connections(0)
            .acquire_timeout(Self::ACQUIRE_TIMEOUT)
            .max_lifetime(Duration::from_secs(15 * 60))
            .idle_timeout(Duration::from_secs(5 * 60))
            .test_before_acquire(true)
            .after_connect(move |connection, _| {
                count.fetch_add(1, Ordering::AcqRel);
                Box::pin(
                    async move { raw_sql(Self::SESSION_SETTINGS_SQL).execute(connection).await.map(drop) },
                )
            })
            .connect_lazy_with(connect);
        Ok(Self { pool, connections_made: made })
    }

    /// A guard for the connections of this pool; holds after the first comparison.
    pub fn new_guard(&self) -> ServerGuard {
        ServerGuard {
            connections_made: self.connections_made.clone(),
            connections_verified: Arc::new(AtomicU64::new(ServerGuard::NEVER_VERIFIED)),
        }
    }

    /// Brings the schema up to date. `shards` counts when the database is made, and never again.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn migrate(&self, shards: u16) -> Result<(), Error> {
        self.check_session().await?;
        let options = self.pool.connect_options();
        let connect = async || {
            let mut connection = PgConnection::connect_with(&options).await?;
            raw_sql(Self::SESSION_SETTINGS_SQL).execute(&mut connection).await?;
            Ok(connection)
        };
        let mut connection = connect().await.map_err(Error::with_operation("connect to the database"))?;
        sqlx::query(
            "SELECT set_config('picket.shards', $1, false), set_config('statement_timeout', '0', false)",
        )
        .bind(shards.to_string())
        .execute(&mut connection)
        .await
        .map_err(Error::with_operation("prepare the migration"))?;
        let mut guard = connect().await.map_err(Error::with_operation("connect to the database"))?;
        lock_migrations(&mut guard).await?;
        let mut migrator = Migrator::with_migrations(MIGRATOR.iter().cloned().collect());
        migrator.set_locking(false);
        let migrated = migrator.run(&mut connection).await;
        // Ends its transaction and the lock.
        let _ = guard.close().await;
        // The settings of this connection are not for others.
        let _ = connection.close().await;
        migrated.map_err(|error| Error::MigrationFailed(Box::new(error)))
    }

    /// Replaces the transaction numbers of rows that were restored from another cluster; returns whether there were any. Takes some
    /// seconds for a million schedules.
    ///
    /// # Errors
    /// When the database cannot be reached in time; trying again is safe.
    pub async fn adopt_cluster(&self) -> Result<bool, Error> {
        const LIMIT: Duration = Duration::from_secs(300);
        self.with_timeout(LIMIT, "replace the transaction numbers of another cluster", async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query("SET LOCAL statement_timeout = '5min'").execute(&mut *transaction).await?;
            let adopted =
                sqlx::query_scalar("SELECT picket.adopt_cluster()").fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(adopted)
        })
        .await
    }

    /// Compares the schema's version with what this build needs. A newer one is well: migrations expand
    /// before they contract.
    ///
    /// # Errors
    /// When the schema is older, or the database cannot be reached.
    pub async fn check_schema(&self) -> Result<(), Error> {
        let needed = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
        let found = self
            .with_timeout(Duration::from_secs(10), "read the schema's version", async {
                let there: bool =
                    sqlx::query_scalar("SELECT to_regclass('public._sqlx_migrations') IS NOT NULL")
                        .fetch_one(&self.pool)
                        .await?;
                if !there {
                    return Ok(0);
                }
                sqlx::query_scalar(
                    "SELECT coalesce(max(version), 0) FROM public._sqlx_migrations WHERE success",
                )
                .fetch_one(&self.pool)
                .await
            })
            .await?;
        if found < needed {
            return Err(Error::SchemaOutdated { found, needed });
        }
        Ok(())
    }

    /// Refuses a pooler that lends out sessions by the transaction: `LISTEN`, prepared statements and settings end there with it,
    /// without an error. Two connections that are open at once are of two sessions, and stay so.
    ///
    /// # Errors
    /// When they are not, or the database cannot be reached.
    pub async fn check_session(&self) -> Result<(), Error> {
        let options = self.pool.connect_options();
        let is_own = self
            .with_timeout(Duration::from_secs(10), "connect to the database", async {
                let mut one = PgConnection::connect_with(&options).await?;
                let first = read_backend_pid(&mut one).await?;
                let mut other = PgConnection::connect_with(&options).await?;
                // Holds its session from here on, wherever it came from.
                raw_sql("BEGIN").execute(&mut other).await?;
                let is_own = read_backend_pid(&mut other).await? != first
                    && read_backend_pid(&mut one).await? == first;
                // Nothing is lost with a connection that cannot be closed well.
                let _ = tokio::join!(one.close(), other.close());
                Ok(is_own)
            })
            .await?;
        if is_own { Ok(()) } else { Err(Error::SharedSession) }
    }

    /// Waits for a database with a schema that this build can use; `tell` hears each time why not yet.
    ///
    /// # Errors
    /// What no waiting mends.
    pub async fn wait_ready(&self, mut tell: impl FnMut(&Error)) -> Result<(), Error> {
        loop {
            let checked = async {
                self.check_session().await?;
                self.check_schema().await
            };
            match checked.await {
                Ok(()) => return Ok(()),
                // Somebody may be about to migrate, to start the database, or to let us in.
                Err(
                    error @ (Error::SchemaOutdated { .. } | Error::Database { .. } | Error::TimedOut { .. }),
                ) => tell(&error),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What the database's clock says.
    ///
    /// # Errors
    /// When the database cannot be reached in time.
    pub async fn read_clock(&self) -> Result<Timestamp, Error> {
        let now: DbTimestamp = self
            .with_timeout(
                Duration::from_secs(5),
                "read the database's clock",
                sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&self.pool),
            )
            .await?;
        Ok(now.into())
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs `work` under a deadline of our own: the driver notices no server that went away.
    pub(crate) async fn with_timeout<T>(
        &self,
        limit: Duration,
        doing: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(Error::with_operation(doing)),
            Err(_) => Err(Error::TimedOut { doing, seconds: limit.as_secs() }),
        }
    }
}

/// The number of the process that serves this session. By the simple protocol, which needs no statement to last.
async fn read_backend_pid(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// Locks the table of migrations until the connection is closed, so that one process migrates at a time. sqlx's own lock is an
/// advisory one, which every login can hold.
async fn lock_migrations(guard: &mut PgConnection) -> Result<(), Error> {
    const TABLE: &str = "public._sqlx_migrations";
    /// Creating the same table twice at once fails for one of the two, although it says IF NOT EXISTS.
    const ATTEMPTS: usize = 3;
    for attempt in 1.. {
        match guard.ensure_migrations_table(TABLE).await {
            Ok(()) => break,
            Err(_) if attempt < ATTEMPTS => {}
            Err(error) => return Err(Error::MigrationFailed(Box::new(error))),
        }
    }
    // It conflicts with itself and with no reading or writing. The other process may take its time.
    sqlx::raw_sql(
        "BEGIN;
         SET LOCAL statement_timeout = 0;
         SET LOCAL lock_timeout = '10min';
         SET LOCAL idle_in_transaction_session_timeout = 0;
         LOCK TABLE public._sqlx_migrations IN SHARE UPDATE EXCLUSIVE MODE",
    )
    .execute(guard)
    .await
    .map_err(Error::with_operation("wait for another migration"))?;
    Ok(())
}

/// `url` with its password replaced.
fn redact_password(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((login, server)) => {
            let scheme_and_user = login
                .rsplit_once(':')
                .filter(|(before, _)| before.contains("//"))
                .map_or(login, |(before, _)| before);
            format!("{scheme_and_user}:…@{server}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_left_out_of_what_is_shown() {
        assert_eq!(redact_password("postgres://me:secret@host/db"), "postgres://me:…@host/db");
        assert!(!redact_password("postgres://me:sec@ret@host/db").contains("ret"));
        assert_eq!(redact_password("nonsense"), "nonsense");
    }
}
