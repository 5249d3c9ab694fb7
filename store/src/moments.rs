//! The state of all sites at a past time, from the histories of schedules, incidents and warnings.

use picket_proto::Timestamp;

use crate::{DbTimestamp, Error, Store};

/// Numbers of all sites at a past time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct MomentCounts {
    /// Sites with a schedule in force.
    pub scheduled: i64,
    /// Sites with an open incident.
    pub down: i64,
    /// Sites with an open warning.
    pub warned: i64,
}

/// Counts the sites with one of the `tags` at a past time.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_sites_at(
    store: &Store,
    tags: Option<&[String]>,
    at: Timestamp,
) -> Result<MomentCounts, Error> {
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(
            "SELECT (SELECT count(DISTINCT site_id) FROM picket.schedules
                     WHERE valid_from <= $2 AND (valid_to IS NULL OR valid_to > $2)
                       AND ($1::text[] IS NULL OR site_id IN (SELECT id FROM picket.known_sites WHERE tags && $1))) AS scheduled,
                    (SELECT count(DISTINCT site_id) FROM picket.incidents
                     WHERE opened_at <= $2 AND (closed_at IS NULL OR closed_at > $2)
                       AND ($1::text[] IS NULL OR site_id IN (SELECT id FROM picket.known_sites WHERE tags && $1))) AS down,
                    (SELECT count(DISTINCT site_id) FROM picket.warnings
                     WHERE opened_at <= $2 AND (closed_at IS NULL OR closed_at > $2)
                       AND ($1::text[] IS NULL OR site_id IN (SELECT id FROM picket.known_sites WHERE tags && $1))) AS warned",
        )
        .bind(tags)
        .bind(DbTimestamp(at))
        .fetch_one(&mut *transaction)
        .await
    };
    store.read_for_page("count sites at a past time", read).await
}

/// Lists the regions with schedules in force at a past time and the number of these, by name.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_regions_at(
    store: &Store,
    tags: Option<&[String]>,
    at: Timestamp,
) -> Result<Vec<(String, i64)>, Error> {
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(
            "SELECT region.name, count(*)
             FROM picket.schedules AS schedule JOIN picket.regions AS region ON region.id = schedule.region_id
             WHERE schedule.valid_from <= $2 AND (schedule.valid_to IS NULL OR schedule.valid_to > $2)
               AND ($1::text[] IS NULL OR schedule.site_id IN (SELECT id FROM picket.known_sites WHERE tags && $1))
             GROUP BY region.name ORDER BY region.name",
        )
        .bind(tags)
        .bind(DbTimestamp(at))
        .fetch_all(&mut *transaction)
        .await
    };
    store.read_for_page("list regions at a past time", read).await
}
