//! What went wrong with the database, and whether trying again may help.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp, ValidationError};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options cannot be used.
    #[error("DATABASE_URL: '{url}' cannot be used; allowed: such as postgres://user@host:5432/picket")]
    InvalidUrl {
        /// The URL, without its password.
        url: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A statement failed, or the database could not be reached.
    #[error("could not {doing}{}", explain_tls_error(source))]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// The database did not answer in time.
    #[error("could not {doing}: the database did not answer within {seconds} s")]
    TimedOut {
        /// What was being done.
        doing: &'static str,
        /// How long it was given.
        seconds: u64,
    },
    /// The connection is new and may lead to another server than the one that was compared last.
    #[error("the connection is new, and its server has not been compared yet")]
    ServerNotVerified,
    /// The database's clock is not what other clocks say.
    #[error("did not {doing}: the database's clock says {database}, and it is {expected} by this process's")]
    ClockMismatch {
        /// What was to be done.
        doing: &'static str,
        /// What the database says.
        database: Timestamp,
        /// What this process knows.
        expected: Timestamp,
    },
    /// The schema could not be brought up to date.
    #[error("could not migrate the database")]
    MigrationFailed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The schema is not there, or older or newer than this build's.
    #[error("the database's schema is at version {found}, this build needs {needed}; run 'picket migrate'")]
    SchemaOutdated {
        /// The newest migration that was applied; 0 for none.
        found: i64,
        /// The newest that this build knows.
        needed: i64,
    },
    /// There is a pooler that lends out sessions by the transaction.
    #[error(
        "DATABASE_URL leads to a pooler that lends one session of Postgres to several clients, such as PgBouncer with \
         pool_mode=transaction: LISTEN and settings do not last there; connect to Postgres itself, or set \
         pool_mode=session"
    )]
    SharedSession,
    /// What was to be stored makes no sense.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// There is such a site already.
    #[error("there is such a site already: the same url, method, regex and not_regex")]
    DuplicateSite,
    /// There is no such site.
    #[error("there is no site {0}")]
    SiteNotFound(SiteId),
    /// There is no such region.
    #[error("there is no region '{0}'")]
    RegionNotFound(String),
}

impl Error {
    /// Whether the same may work later: the database is away, starting, stopping, or in the way of itself.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::ServerNotVerified => true,
            Self::Database { source, .. } => match source {
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

    /// Refuses what is to be done when the `database` does not say about the same time as is `expected`: a statement may be on its
    /// way for some seconds, and two clocks are not more exact than that.
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

    /// Names what was being done.
    pub(crate) fn with_operation(doing: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}

/// What of DATABASE_URL is to blame when TLS fails; nothing for other trouble.
fn explain_tls_error(source: &sqlx::Error) -> &'static str {
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

/// SQLSTATE classes and codes of trouble that passes.
/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_transient_code(code: &str) -> bool {
    const CLASSES: [&str; 4] = [
        "08", // connection exception
        "40", // serialization failure, deadlock
        "53", // out of disk, memory, connections
        "57", // shut down, starting up, cancelled
    ];
    const CODES: [&str; 4] = [
        "25006", // read only, as after a failover
        "42501", // not allowed, until somebody grants it; no row is to blame
        "55P03", // lock not available
        "58030", // input or output error
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
