//! The pool of connections, and the schema's version.

use std::{str::FromStr, time::Duration};

use picket_proto::Timestamp;
use sqlx::{
    ConnectOptions, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
    types::time::OffsetDateTime,
};

use crate::{Error, options::DatabaseOptions};

/// All migrations of this build.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) pool: PgPool,
}

impl Store {
    /// No statement may take longer; the server ends it.
    const STATEMENT_LIMIT: &str = "30s";
    /// How long to wait for a connection, including making it.
    const ACQUIRE: Duration = Duration::from_secs(5);

    /// Prepares a pool of at most `connections`; nothing is connected yet. `name` is what the database's
    /// operator sees.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn new(options: &DatabaseOptions, name: &str, connections: u32) -> Result<Self, Error> {
        let connect = PgConnectOptions::from_str(options.url())
            .map_err(|source| Error::Url { url: without_password(options.url()), source })?
            .application_name(name)
            // Loading a million sites is slow and no news.
            .log_slow_statements(log::LevelFilter::Off, Duration::ZERO)
            .log_statements(log::LevelFilter::Off)
            .options([
                ("statement_timeout", Self::STATEMENT_LIMIT),
                ("lock_timeout", "10s"),
                ("idle_in_transaction_session_timeout", "30s"),
                ("timezone", "UTC"),
                // Not "$user": a user called picket would find the schema picket before public.
                ("search_path", "public"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .min_connections(0)
            .acquire_timeout(Self::ACQUIRE)
            .max_lifetime(Duration::from_secs(15 * 60))
            .idle_timeout(Duration::from_secs(5 * 60))
            .test_before_acquire(true)
            .connect_lazy_with(connect);
        Ok(Self { pool })
    }

    /// Brings the schema up to date. `shards` counts when the database is made, and never again.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn migrate(&self, shards: u16) -> Result<(), Error> {
        let mut connection = self.pool.acquire().await.map_err(Error::doing("connect to the database"))?;
        sqlx::query(
            "SELECT set_config('picket.shards', $1, false), set_config('statement_timeout', '0', false)",
        )
        .bind(shards.to_string())
        .execute(&mut *connection)
        .await
        .map_err(Error::doing("prepare the migration"))?;
        let migrated = MIGRATOR.run(&mut *connection).await;
        // The settings of this connection are not for others.
        let _ = connection.close().await;
        migrated.map_err(|error| Error::Migrate(Box::new(error)))
    }

    /// Compares the schema's version with what this build needs. A newer one is well: migrations expand
    /// before they contract.
    ///
    /// # Errors
    /// When the schema is older, or the database cannot be reached.
    pub async fn check_schema(&self) -> Result<(), Error> {
        let needed = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
        let found = self
            .within(Duration::from_secs(10), "read the schema's version", async {
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
            return Err(Error::Schema { found, needed });
        }
        Ok(())
    }

    /// Waits for a database with a schema that this build can use; `tell` hears each time why not yet.
    ///
    /// # Errors
    /// What no waiting mends.
    pub async fn ready(&self, mut tell: impl FnMut(&Error)) -> Result<(), Error> {
        loop {
            match self.check_schema().await {
                Ok(()) => return Ok(()),
                // Somebody may be about to migrate, to start the database, or to let us in.
                Err(error @ (Error::Schema { .. } | Error::Database { .. } | Error::TimedOut { .. })) => {
                    tell(&error)
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What the database's clock says.
    ///
    /// # Errors
    /// When the database cannot be reached in time.
    pub async fn clock(&self) -> Result<Timestamp, Error> {
        let now: OffsetDateTime = self
            .within(
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
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        doing: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(Error::doing(doing)),
            Err(_) => Err(Error::TimedOut { doing, seconds: limit.as_secs() }),
        }
    }
}

/// `url` with its password replaced.
fn without_password(url: &str) -> String {
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
        assert_eq!(without_password("postgres://me:secret@host/db"), "postgres://me:…@host/db");
        assert!(!without_password("postgres://me:sec@ret@host/db").contains("ret"));
        assert_eq!(without_password("nonsense"), "nonsense");
    }
}
