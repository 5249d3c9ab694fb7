//! The daily partitions of results: made ahead of need.

use std::time::Duration;

use crate::{DbTimestamp, Error, Store, upkeep::Retention};

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

/// Makes the partitions that the results of `moments` need, where these are days that are kept or about to begin; says of
/// how many days there are partitions then. What is farther away is nobody's tick, and gets none.
///
/// # Errors
/// When the database cannot be reached in time, or a lock was not to be had; trying again is safe.
pub(crate) async fn ensure_for(store: &Store, moments: Vec<DbTimestamp>) -> Result<i64, Error> {
    let making = sqlx::query_scalar(
        "SELECT count(*) FILTER (WHERE picket.ensure_partition(day))
         FROM (SELECT DISTINCT date_trunc('day', moment, 'UTC') AS day FROM unnest($1::timestamptz[]) AS moment) AS days",
    )
    .bind(moments);
    store
        .within(Duration::from_secs(10), "make a partition that is missing", making.fetch_one(&store.pool))
        .await
}
