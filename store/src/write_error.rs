//! Ends of a transaction that finds a refusal on its way.

use std::{future::Future, time::Duration};

use picket_proto::ValidationError;

use crate::{Error, Store};

/// Why a transaction is undone.
pub(crate) enum WriteError {
    /// A statement failed.
    Sql(sqlx::Error),
    /// The database has something against a value.
    Refused(Error),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<ValidationError> for WriteError {
    fn from(why: ValidationError) -> Self {
        Self::Refused(why.into())
    }
}

/// Runs `work` with a deadline. A transaction that it drops is rolled back.
pub(crate) async fn write_with_timeout<T>(
    store: &Store,
    limit: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, WriteError>>,
) -> Result<T, Error> {
    let ended = async {
        match work.await {
            Ok(done) => Ok(Ok(done)),
            Err(WriteError::Refused(error)) => Ok(Err(error)),
            Err(WriteError::Sql(error)) => Err(error),
        }
    };
    store.with_timeout(limit, doing, ended).await?
}

/// A violation of the unique constraint `constraint` as a refusal of the field `name`.
pub(crate) fn refuse_duplicate_name(
    error: sqlx::Error,
    constraint: &str,
    name: &str,
    allowed: &str,
) -> WriteError {
    match &error {
        sqlx::Error::Database(database) if database.constraint() == Some(constraint) => {
            ValidationError::new("name", name, allowed).into()
        }
        _ => error.into(),
    }
}
