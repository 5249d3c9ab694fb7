//! The daily partitions of results: made ahead of need.

use std::time::Duration;

use crate::{Error, Store, upkeep::Retention};

/// Makes the partitions that are missing from some days back (never more than are kept) to a week ahead; says how many that
/// were. Safe to call from several coordinators at once.
///
/// # Errors
/// When the database cannot be reached in time, or a lock was not to be had; trying again is safe.
pub async fn ensure(store: &Store, retention: Retention) -> Result<i32, Error> {
    store
        .within(
            Duration::from_secs(30),
            "make partitions",
            sqlx::query_scalar("SELECT picket.ensure_partitions(least(3, $1::bigint)::integer)")
                .bind(i64::from(retention.results))
                .fetch_one(&store.pool),
        )
        .await
}
