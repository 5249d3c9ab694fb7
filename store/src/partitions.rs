//! The daily partitions of results: made ahead of need.

use std::time::Duration;

use picket_proto::Timestamp;

use crate::{DbTimestamp, Error, Store, housekeeping::Retention};

/// Makes the partitions that are missing from some days back (never more than are kept) to a week ahead; says how many that
/// were. Safe to call from several coordinators at once. Where the database's clock is not near `now`, which is the caller's,
/// none are made: they would be days that nobody needs.
///
/// # Errors
/// When the database cannot be reached in time, a lock was not to be had, or its clock is not near `now`; trying again is safe.
pub async fn ensure_partitions(store: &Store, now: Timestamp, retention: Retention) -> Result<i32, Error> {
    const DOING: &str = "make partitions";
    let making = async {
        let mut transaction = store.pool.begin().await?;
        let database: DbTimestamp = sqlx::query_scalar("SELECT now()").fetch_one(&mut *transaction).await?;
        if let Err(error) = Error::reject_clock_mismatch(DOING, database.into(), now) {
            return Ok(Err(error));
        }
        let made = sqlx::query_scalar("SELECT picket.ensure_partitions(least(3, $1::bigint)::integer)")
            .bind(i64::from(retention.result_days))
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Ok(made))
    };
    store.with_timeout(Duration::from_secs(30), DOING, making).await?
}

/// Makes the partitions that the results of `moments` need, where these are days that are kept or about to begin; says of
/// how many days there are partitions then. What is farther away is nobody's tick, and gets none.
///
/// # Errors
/// When the database cannot be reached in time, or a lock was not to be had; trying again is safe.
pub(crate) async fn ensure_partitions_for(store: &Store, moments: Vec<DbTimestamp>) -> Result<i64, Error> {
    let making = sqlx::query_scalar(
        "SELECT count(*) FILTER (WHERE picket.ensure_partition(day))
         FROM (SELECT DISTINCT date_trunc('day', moment, 'UTC') AS day FROM unnest($1::timestamptz[]) AS moment) AS days",
    )
    .bind(moments);
    store
        .with_timeout(
            Duration::from_secs(10),
            "make a partition that is missing",
            making.fetch_one(&store.pool),
        )
        .await
}
