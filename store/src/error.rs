//! Errors of the database, and whether a retry may succeed.

use std::{fmt, time::Duration};

use picket_proto::{SiteId, Timestamp, ValidationError};
use sqlx::migrate::MigrateError;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options are invalid.
    #[error("DATABASE_URL: '{url}' cannot be used; allowed: such as postgres://user@host:5432/picket")]
    InvalidUrl {
        /// The URL without its password.
        url: String,
        /// Parse error of the driver.
        #[source]
        source: sqlx::Error,
    },
    /// A statement failed, or the database could not be reached.
    #[error("could not {doing}{}", explain_tls_error(&source.0))]
    Database {
        /// The failed operation.
        doing: &'static str,
        /// Error of the driver.
        #[source]
        source: DriverError,
    },
    /// The database did not respond in time.
    #[error("could not {doing}: the database did not answer within {seconds} s")]
    TimedOut {
        /// The failed operation.
        doing: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// The connection is newer than the last verification of the server and may lead to another
    /// server.
    #[error("the connection is new, and its server has not been verified yet")]
    ServerNotVerified,
    /// The database's clock differs from the other clocks.
    #[error(
        "did not {doing}: the database's clock shows {database}, but this process's clock shows {expected}"
    )]
    ClockMismatch {
        /// The rejected operation.
        doing: &'static str,
        /// Time by the database's clock.
        database: Timestamp,
        /// Time by this process's clock.
        expected: Timestamp,
    },
    /// A migration failed.
    #[error("could not migrate the database: {0}")]
    MigrationFailed(String),
    /// The schema is missing, or older than this build requires.
    #[error("the database's schema is at version {found}, this build needs {needed}; run 'picket migrate'")]
    SchemaOutdated {
        /// Version of the newest applied migration; 0 for none.
        found: i64,
        /// Version of the newest migration of this build.
        needed: i64,
    },
    /// The schema was created by other migrations than those of this build.
    #[error(
        "the database was created by a development build whose migrations are not this build's: its migration {version} \
         is '{found}', not '{expected}'; there is no upgrade from it: save the sites with 'picket export' of that build; \
         then, of 'picket up', stop it and delete its data directory (by default .picket); of other installations, \
         create the database anew, run 'picket migrate', and run 'picket nats adopt', since the bus still belongs to \
         the old database"
    )]
    SchemaIncompatible {
        /// The first migration that differs.
        version: i64,
        /// Its description in the database.
        found: String,
        /// Its description in this build.
        expected: String,
    },
    /// A pooler shares sessions between clients (transaction mode).
    #[error(
        "DATABASE_URL leads to a pooler that shares one session of Postgres between several clients, such as PgBouncer with \
         pool_mode=transaction: LISTEN and settings do not last there; connect to Postgres itself, or set \
         pool_mode=session"
    )]
    SharedSession,
    /// A value failed validation.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// A site with the same key exists already.
    #[error("there is such a site already: the same url, method, regex, not_regex, options and assertions")]
    DuplicateSite,
    /// No site has this id.
    #[error("there is no site {0}")]
    SiteNotFound(SiteId),
    /// The site has another version than expected.
    #[error("site {0} was changed or removed by someone else meanwhile")]
    SiteChanged(SiteId),
    /// The settings have another version than expected.
    #[error("the settings were changed by someone else meanwhile")]
    SettingsChanged,
    /// No region has this name.
    #[error("there is no region '{0}'")]
    RegionNotFound(String),
    /// A valid token has the same name.
    #[error("there is a valid token '{0}' already; revoke it, or choose another name")]
    DuplicateToken(String),
    /// No valid token has this id or name.
    #[error("there is no valid token '{0}'")]
    TokenNotFound(String),
}

impl Error {
    /// Returns true if a service should wait for the database: the operator may still start it,
    /// migrate the schema or grant access.
    pub fn may_recover(&self) -> bool {
        matches!(self, Self::SchemaOutdated { .. } | Self::Database { .. } | Self::TimedOut { .. })
    }

    /// Returns true if a retry may succeed: the database is unreachable, starting, stopping or out
    /// of resources, or the statement lost a conflict with another.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::ServerNotVerified => true,
            Self::Database { source: DriverError(source), .. } => match source {
                // Errors of the connection or of the pool, not of the statement.
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => true,
                sqlx::Error::Database(error) => error.code().is_some_and(|code| is_transient_code(&code)),
                _ => false,
            },
            _ => false,
        }
    }

    /// Rejects an operation if the `database` clock differs from the `expected` time by more than
    /// 30 s. The tolerance covers a statement's latency of some seconds and the error of two
    /// clocks.
    pub(crate) fn reject_clock_mismatch(
        doing: &'static str,
        database: Timestamp,
        expected: Timestamp,
    ) -> Result<(), Self> {
        const NEAR: Duration = Duration::from_secs(30);
        match database.saturating_duration_since(expected).max(expected.saturating_duration_since(database))
            > NEAR
        {
            true => Err(Self::ClockMismatch { doing, database, expected }),
            false => Ok(()),
        }
    }

    /// Returns a function that adds the name of the failed operation to a driver error.
    pub(crate) fn with_operation(doing: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source: DriverError(source) }
    }
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Self {
        Self::MigrationFailed(match error {
            MigrateError::Execute(error) => DriverError(error).to_string(),
            MigrateError::ExecuteMigration(error, version) => {
                format!("migration {version}: {}", DriverError(error))
            }
            other => other.to_string(),
        })
    }
}

/// An error of the driver, in words without the line of Postgres's own source that the driver adds.
#[derive(Debug)]
pub struct DriverError(pub sqlx::Error);

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            sqlx::Error::Database(error) => f.write_str(error.message()),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for DriverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            sqlx::Error::Database(_) => None,
            other => other.source(),
        }
    }
}

/// Names the part of DATABASE_URL that causes a TLS failure; empty for other errors.
fn explain_tls_error(source: &sqlx::Error) -> &'static str {
    // rustls names the reason only in the text of its error.
    let why = match source {
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => error.to_string(),
        _ => return "",
    };
    match () {
        () if why.contains("UnknownIssuer") => {
            " (DATABASE_URL: sslrootcert is not the authority that signed the server's certificate)"
        }
        () if why.contains("NotValidForName") || why.contains("not valid for name") => {
            " (DATABASE_URL: the server's certificate is not for this host)"
        }
        () if why.contains("CertificateRequired") => {
            " (DATABASE_URL: the server asks for a certificate; sslcert and sslkey)"
        }
        () => "",
    }
}

/// Returns true for the SQLSTATE classes and codes of transient errors. Source:
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_transient_code(code: &str) -> bool {
    const CLASSES: [&str; 4] = [
        "08", // connection exception
        "40", // serialization failure, deadlock
        "53", // out of disk, memory, connections
        "57", // shut down, starting up, cancelled
    ];
    const CODES: [&str; 4] = [
        "25006", // read-only transaction, as after a failover
        "42501", // insufficient privilege, until granted; independent of the rows
        "55P03", // lock not available
        "58030", // I/O error
    ];
    CLASSES.iter().any(|class| code.starts_with(class)) || CODES.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_shuts_down_is_transient_and_a_bad_value_is_not() {
        assert!(
            ["57P01", "57P03", "08006", "25006", "40001", "42501", "53300"]
                .into_iter()
                .all(is_transient_code)
        );
        assert!(["22021", "23514", "42P01"].into_iter().all(|code| !is_transient_code(code)));
        assert!(Error::TimedOut { doing: "wait", seconds: 5 }.is_transient());
    }
}
