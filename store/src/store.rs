//! Connection pool and schema version.

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
    ConnectOptions, Connection, PgConnection, PgPool, Postgres, Row, Transaction,
    migrate::{Migrate, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    raw_sql,
};

use crate::{DbTimestamp, Error, options::DatabaseOptions};

/// All migrations of this build.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Handle of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) pool: PgPool,
    /// Number of connections made so far.
    connections_made: Arc<AtomicU64>,
}

/// Detects connections that are newer than the last verification of the server's identity. A
/// failover, a restart and a restore all end existing connections. Cheap to clone; all clones share
/// their state.
#[derive(Clone, Debug)]
pub struct ServerGuard {
    connections_made: Arc<AtomicU64>,
    connections_verified: Arc<AtomicU64>,
}

impl ServerGuard {
    /// Marks a guard without any verification; the connection count never reaches this value.
    const NEVER_VERIFIED: u64 = u64::MAX;

    /// Returns true if no connection has been made since the last verification.
    pub fn is_verified(&self) -> bool {
        self.connections_verified.load(Ordering::Acquire) == self.connection_count()
    }

    /// Number of connections made so far. Read this before a verification and pass the value to
    /// [`mark_verified`](Self::mark_verified) afterwards.
    pub fn connection_count(&self) -> u64 {
        self.connections_made.load(Ordering::Acquire)
    }

    /// Records a verification that began when this many connections had been made.
    pub fn mark_verified(&self, connections: u64) {
        self.connections_verified.store(connections, Ordering::Release);
    }

    /// Requires a verification before the next use.
    pub fn mark_unverified(&self) {
        self.mark_verified(Self::NEVER_VERIFIED);
    }
}

impl Store {
    /// Settings of every session, applied before its first query. Set by statements and not by
    /// startup parameters, which a pooler would refuse or drop. The search path omits "$user": a
    /// user named picket would resolve the schema picket before public.
    const SESSION_SETTINGS_SQL: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s';
        SET idle_in_transaction_session_timeout = '30s'; SET timezone = 'UTC'; SET search_path = public";
    /// Deadline of a read for a page or for the API.
    const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
    /// Maximum time to acquire a connection, including the time to open a new connection.
    const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

    /// Prepares a pool of at most `connections` without connecting. `name` is the application name
    /// shown to the database's operator.
    ///
    /// # Errors
    /// If the URL cannot be parsed.
    pub fn new(options: &DatabaseOptions, name: &str, connections: u32) -> Result<Self, Error> {
        let connect = PgConnectOptions::from_str(options.url())
            .map_err(|source| Error::InvalidUrl { url: redact_password(options.url()), source })?
            .application_name(name)
            // Loading a million sites is slow by design; logging the statement would be noise.
            .log_slow_statements(log::LevelFilter::Off, Duration::ZERO)
            .log_statements(log::LevelFilter::Off)
            // The server's default is exact since Postgres 12, and a pooler refuses startup
            // parameters unknown to it.
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

    /// Returns a guard for the connections of this pool; unverified at first.
    pub fn new_guard(&self) -> ServerGuard {
        ServerGuard {
            connections_made: self.connections_made.clone(),
            connections_verified: Arc::new(AtomicU64::new(ServerGuard::NEVER_VERIFIED)),
        }
    }

    /// Applies all pending migrations. `shards` takes effect only when the schema is first created.
    ///
    /// # Errors
    /// If the database cannot be reached, has migrations that differ from those of this build, or a
    /// migration fails.
    pub async fn migrate(&self, shards: u16) -> Result<(), Error> {
        self.check_session().await?;
        self.read_schema_version().await?;
        let options = self.pool.connect_options();
        // Dedicated connections instead of pooled ones, because their session settings must not
        // leak.
        let connect = async || {
            let mut connection = PgConnection::connect_with(&options).await?;
            raw_sql(Self::SESSION_SETTINGS_SQL).execute(&mut connection).await?;
            Ok(connection)
        };
        let mut connection = connect().await.map_err(Error::with_operation("connect to the database"))?;
        // The first migration reads `picket.shards`. A migration may run longer than any other
        // statement.
        sqlx::query(
            "SELECT set_config('picket.shards', $1, false), set_config('statement_timeout', '0', false)",
        )
        .bind(shards.to_string())
        .execute(&mut connection)
        .await
        .map_err(Error::with_operation("prepare the migration"))?;
        // The lock needs a second connection: each migration commits a transaction of its own.
        let mut guard = connect().await.map_err(Error::with_operation("connect to the database"))?;
        lock_migrations(&mut guard).await?;
        let mut migrator = Migrator::with_migrations(MIGRATOR.iter().cloned().collect());
        migrator.set_locking(false);
        let migrated = migrator.run(&mut connection).await;
        // Ends the transaction and with it the lock.
        let _ = guard.close().await;
        // The pool must not receive a connection with these settings.
        let _ = connection.close().await;
        Ok(migrated?)
    }

    /// Migrates unless the schema is new enough, which is the faster check. Returns true if the
    /// database had been restored from another cluster.
    ///
    /// # Errors
    /// As [`migrate`](Self::migrate) and [`adopt_cluster`](Self::adopt_cluster).
    pub async fn migrate_if_outdated(&self, shards: u16) -> Result<bool, Error> {
        match self.check_schema().await {
            Err(Error::SchemaOutdated { .. }) => self.migrate(shards).await?,
            checked => checked?,
        }
        self.adopt_cluster().await
    }

    /// Replaces the transaction ids of rows restored from another cluster; returns true if there
    /// were any. Takes a few seconds for a million schedules.
    ///
    /// # Errors
    /// If the database cannot be reached in time; safe to retry.
    pub async fn adopt_cluster(&self) -> Result<bool, Error> {
        const ADOPT_TIMEOUT: Duration = Duration::from_secs(300);
        self.with_timeout(ADOPT_TIMEOUT, "replace the transaction numbers of another cluster", async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query("SET LOCAL statement_timeout = '5min'").execute(&mut *transaction).await?;
            let adopted =
                sqlx::query_scalar("SELECT picket.adopt_cluster()").fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(adopted)
        })
        .await
    }

    /// Compares the schema's version with the version required by this build. A newer schema is
    /// accepted, because migrations expand before they contract.
    ///
    /// # Errors
    /// If the schema is older or was created by other migrations, or the database cannot be
    /// reached.
    pub async fn check_schema(&self) -> Result<(), Error> {
        let needed = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
        let found = self.read_schema_version().await?;
        if found < needed {
            return Err(Error::SchemaOutdated { found, needed });
        }
        Ok(())
    }

    /// Reads the version of the newest applied migration; 0 for none. Rejects a database with a
    /// migration that differs from this build's of the same version, because its schema would pass
    /// for a newer one.
    async fn read_schema_version(&self) -> Result<i64, Error> {
        let applied: Vec<(i64, String, Vec<u8>)> = self
            .with_timeout(Duration::from_secs(10), "read the schema's version", async {
                let there: bool =
                    sqlx::query_scalar("SELECT to_regclass('public._sqlx_migrations') IS NOT NULL")
                        .fetch_one(&self.pool)
                        .await?;
                // A database without the table has no schema yet.
                if !there {
                    return Ok(Vec::new());
                }
                sqlx::query_as(
                    "SELECT version, description, checksum FROM public._sqlx_migrations
                     WHERE success ORDER BY version",
                )
                .fetch_all(&self.pool)
                .await
            })
            .await?;
        for (version, found, checksum) in &applied {
            let own = MIGRATOR.iter().find(|migration| migration.version == *version);
            if let Some(own) = own.filter(|own| own.checksum.as_ref() != checksum.as_slice()) {
                let (found, expected) = (found.clone(), own.description.to_string());
                return Err(Error::SchemaIncompatible { version: *version, found, expected });
            }
        }
        Ok(applied.last().map_or(0, |(version, ..)| *version))
    }

    /// Rejects a pooler in transaction mode: `LISTEN`, prepared statements and settings would end
    /// with each transaction, without an error. Two connections open at the same time must belong
    /// to two sessions, and each must stay in its own.
    ///
    /// # Errors
    /// [`Error::SharedSession`] for such a pooler; other errors if the database cannot be reached.
    pub async fn check_session(&self) -> Result<(), Error> {
        let options = self.pool.connect_options();
        let is_own = self
            .with_timeout(Duration::from_secs(10), "connect to the database", async {
                let mut connection = PgConnection::connect_with(&options).await?;
                let pid = read_backend_pid(&mut connection).await?;
                let mut other = PgConnection::connect_with(&options).await?;
                // Pins the session behind the second connection, whichever session the pooler
                // chose.
                raw_sql("BEGIN").execute(&mut other).await?;
                let is_own = read_backend_pid(&mut other).await? != pid
                    && read_backend_pid(&mut connection).await? == pid;
                // A failure to close loses nothing.
                let _ = tokio::join!(connection.close(), other.close());
                Ok(is_own)
            })
            .await?;
        if is_own { Ok(()) } else { Err(Error::SharedSession) }
    }

    /// Checks that this build can use the database: its sessions and its schema.
    ///
    /// # Errors
    /// See [`Error::may_recover`] for those that a service waits for.
    pub async fn check_usable(&self) -> Result<(), Error> {
        self.check_session().await?;
        self.check_schema().await
    }

    /// Reads the database's clock.
    ///
    /// # Errors
    /// If the database cannot be reached in time.
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

    /// Runs a read for a page or for the API: with a deadline shorter than that of reports.
    pub(crate) async fn read_for_page<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        self.with_timeout(Self::PAGE_TIMEOUT, doing, work).await
    }

    /// Begins the transaction of such a read, with one snapshot for its statements. Each plan is made
    /// for its values: the same statement selects few sites or all. Without parallel workers, which
    /// would run the parts of a page in any order.
    pub(crate) async fn begin_page_read(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let mut transaction =
            self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        raw_sql(
            "SET LOCAL statement_timeout = '5s'; SET LOCAL plan_cache_mode = force_custom_plan;
             SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off",
        )
        .execute(&mut *transaction)
        .await?;
        Ok(transaction)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs `work` with a client-side deadline, because the driver does not detect a server that
    /// has disappeared.
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

/// Process id of the backend of this session. Uses the simple protocol, which needs no prepared
/// statement.
async fn read_backend_pid(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// Locks the migrations table until the connection closes, so that only one process migrates at a
/// time. Replaces sqlx's lock, an advisory lock that any login can hold.
async fn lock_migrations(guard: &mut PgConnection) -> Result<(), Error> {
    const TABLE: &str = "public._sqlx_migrations";
    /// Concurrent creation of one table fails for one of two sessions, despite IF NOT EXISTS.
    const ATTEMPTS: usize = 3;
    for attempt in 1.. {
        match guard.ensure_migrations_table(TABLE).await {
            Ok(()) => break,
            Err(_) if attempt < ATTEMPTS => {}
            Err(error) => return Err(error.into()),
        }
    }
    // This mode conflicts with itself but with no read or write. The timeout allows for long
    // migrations.
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

/// Returns `url` with the password replaced.
fn redact_password(url: &str) -> String {
    // A password may contain '@', so the last one precedes the host.
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
    fn a_password_is_omitted_from_the_displayed_url() {
        assert_eq!(redact_password("postgres://me:secret@host/db"), "postgres://me:…@host/db");
        assert!(!redact_password("postgres://me:sec@ret@host/db").contains("ret"));
        assert_eq!(redact_password("nonsense"), "nonsense");
    }
}
