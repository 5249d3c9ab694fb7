//! The daily partitions of results: made ahead of need.

use std::time::Duration;

use crate::{Error, Store};

/// Makes the partitions that are missing from some days back to a week ahead; says how many that were.
/// Safe to call from several coordinators at once.
///
/// # Errors
/// When the database cannot be reached in time, or a lock was not to be had; trying again is safe.
pub async fn ensure(store: &Store) -> Result<i32, Error> {
    store
        .within(
            Duration::from_secs(30),
            "make partitions",
            sqlx::query_scalar("SELECT picket.ensure_partitions()").fetch_one(&store.pool),
        )
        .await
}
