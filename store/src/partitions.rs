//! Daily partitions of results, created ahead of need.

use std::time::Duration;

use picket_proto::Timestamp;

use crate::{DbTimestamp, Error, Store, housekeeping::Retention};

/// Creates missing partitions from at most 3 days back (limited by the retention) to a week ahead;
/// returns the number created. Safe to call from several coordinators at once.
///
/// `now` is the caller's clock. If the database's clock differs from it, no partition is created,
/// since its days would be wrong.
///
/// # Errors
/// If the database cannot be reached in time, a lock is not available, or the database's clock is
/// not near `now`; safe to retry.
pub async fn ensure_partitions(store: &Store, now: Timestamp, retention: Retention) -> Result<i32, Error> {
    const DOING: &str = "create partitions";
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

/// Creates the partitions for results at `moments`, if their days are within the retention or about
/// to begin; returns the number of days with a partition. Days outside of that range contain no
/// ticks and get none.
///
/// # Errors
/// If the database cannot be reached in time, or a lock is not available; safe to retry.
pub(crate) async fn ensure_partitions_for(store: &Store, moments: Vec<DbTimestamp>) -> Result<i64, Error> {
    let making = sqlx::query_scalar(
        "SELECT count(*) FILTER (WHERE picket.ensure_partition(day))
         FROM (SELECT DISTINCT date_trunc('day', moment, 'UTC') AS day FROM unnest($1::timestamptz[]) AS moment) AS days",
    )
    .bind(moments);
    store
        .with_timeout(Duration::from_secs(10), "create a missing partition", making.fetch_one(&store.pool))
        .await
}
