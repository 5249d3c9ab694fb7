//! Regions, the locations of probers.

use std::time::Duration;

use picket_proto::RegionName;

use crate::{DbTimestamp, Error, Store};

const REGIONS_TIMEOUT: Duration = Duration::from_secs(30);

/// A row of the region list.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RegionRow {
    /// Id of the region, as stored in other tables.
    pub id: i16,
    /// Name of the region.
    pub name: String,
    /// Number of schedules in force.
    pub schedules: i64,
}

/// Lists the active regions by name.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_regions(store: &Store) -> Result<Vec<RegionRow>, Error> {
    store
        .with_timeout(
            REGIONS_TIMEOUT,
            "list regions",
            sqlx::query_as(
                "SELECT id, name, coalesce((SELECT sum(schedules) FROM picket.schedule_counts
                                            WHERE region_id = region.id), 0)::bigint AS schedules
                 FROM picket.regions AS region WHERE removed_at IS NULL ORDER BY name",
            )
            .fetch_all(&store.pool),
        )
        .await
}

/// An active region with its silence.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RegionOverview {
    /// Name of the region.
    pub name: String,
    /// Number of schedules in force.
    pub schedules: i64,
    /// Start of the silence of its probers; absent while a prober is active.
    pub silent_since: Option<DbTimestamp>,
}

/// Lists the active regions by name. The schedules of sites without any of the `tags` are not
/// counted.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_region_overview(
    store: &Store,
    tags: Option<&[String]>,
) -> Result<Vec<RegionOverview>, Error> {
    let counted = match tags {
        None => {
            "SELECT region_id, sum(schedules)::bigint AS schedules FROM picket.schedule_counts
             WHERE $1::text[] IS NULL GROUP BY region_id"
        }
        Some(_) => {
            "SELECT region_id, count(*) AS schedules FROM picket.sites AS site
             JOIN picket.schedules AS schedule ON schedule.site_id = site.id AND schedule.valid_to IS NULL
             WHERE site.tags && $1 GROUP BY region_id"
        }
    };
    let sql = format!(
        "SELECT region.name, coalesce(counted.schedules, 0) AS schedules, silent.since AS silent_since
         FROM picket.regions AS region
         LEFT JOIN picket.silent_regions AS silent ON silent.region_id = region.id
         LEFT JOIN ({counted}) AS counted ON counted.region_id = region.id
         WHERE region.removed_at IS NULL ORDER BY region.name"
    );
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(tags).fetch_all(&mut *transaction).await
    };
    store.read_for_page("list regions", read).await
}

/// Lists ids and names of all regions. Includes removed regions, because old rows refer to them.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_region_ids(store: &Store) -> Result<Vec<(i16, RegionName)>, Error> {
    let rows: Vec<(i16, String)> = store
        .with_timeout(
            REGIONS_TIMEOUT,
            "read regions",
            sqlx::query_as("SELECT id, name FROM picket.regions").fetch_all(&store.pool),
        )
        .await?;
    // The schema admits only valid names.
    Ok(rows.into_iter().filter_map(|(id, name)| Some((id, name.parse().ok()?))).collect())
}

/// Lists the names of the active regions.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_active_regions(store: &Store) -> Result<Vec<RegionName>, Error> {
    let names: Vec<String> = store
        .with_timeout(
            REGIONS_TIMEOUT,
            "read regions",
            sqlx::query_scalar("SELECT name FROM picket.regions WHERE removed_at IS NULL")
                .fetch_all(&store.pool),
        )
        .await?;
    // The schema admits only valid names.
    Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
}

/// Adds a region, or reactivates a removed one.
pub(crate) const ADD_REGION_SQL: &str = "INSERT INTO picket.regions AS region (name) VALUES ($1)
     ON CONFLICT (name) DO UPDATE SET removed_at = NULL WHERE region.removed_at IS NOT NULL";

/// Adds a region, or reactivates a removed one. Returns false if the region is already active.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn add_region(store: &Store, region: &RegionName) -> Result<bool, Error> {
    let changed = store
        .with_timeout(
            REGIONS_TIMEOUT,
            "add the region",
            sqlx::query(ADD_REGION_SQL).bind(region.as_str()).execute(&store.pool),
        )
        .await?;
    Ok(changed.rows_affected() > 0)
}

/// Removes a region. Its schedules end immediately; its rows remain.
///
/// # Errors
/// If there is no such region, or the database cannot be reached in time.
pub async fn remove_region(store: &Store, region: &RegionName) -> Result<(), Error> {
    let changed = store
        .with_timeout(
            REGIONS_TIMEOUT,
            "remove the region",
            sqlx::query(
                "UPDATE picket.regions SET removed_at = now() WHERE name = $1 AND removed_at IS NULL",
            )
            .bind(region.as_str())
            .execute(&store.pool),
        )
        .await?;
    // The row stays, because results and schedules refer to its number.
    match changed.rows_affected() {
        0 => Err(Error::RegionNotFound(region.to_string())),
        _ => Ok(()),
    }
}

/// Reconciles the schedules of sites and regions written by concurrent transactions that did not
/// see each other; returns the number of sites.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn reconcile_pending(store: &Store) -> Result<i64, Error> {
    let reconciling = sqlx::query_scalar("SELECT picket.reconcile_pending()").fetch_one(&store.pool);
    store.with_timeout(REGIONS_TIMEOUT, "reconcile schedules", reconciling).await
}

/// Records which regions have no active probers: `silent` lists inactive regions with the time
/// since their last activity, `active` lists active ones. Each change creates an event. Returns the
/// numbers of regions that became silent and active.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn record_silence(
    store: &Store,
    silent: &[(RegionName, Duration)],
    active: &[RegionName],
) -> Result<(u64, u64), Error> {
    let (names, since): (Vec<&str>, Vec<f64>) =
        silent.iter().map(|(region, since)| (region.as_str(), since.as_secs_f64())).unzip();
    let active: Vec<&str> = active.iter().map(RegionName::as_str).collect();
    store
        .with_timeout(REGIONS_TIMEOUT, "record silent regions", async {
            let mut transaction = store.pool.begin().await?;
            // A region already recorded keeps its `since` and creates no second event.
            let now_silent = sqlx::query(
                "INSERT INTO picket.silent_regions (region_id, since)
                 SELECT region.id, clock_timestamp() - silent.seconds * interval '1 second'
                 FROM unnest($1::text[], $2::float8[]) AS silent (name, seconds)
                 JOIN picket.regions AS region ON region.name = silent.name AND region.removed_at IS NULL
                 WHERE NOT EXISTS (SELECT FROM picket.silent_regions AS known WHERE known.region_id = region.id)
                 ORDER BY region.id
                 ON CONFLICT DO NOTHING",
            )
            .bind(names)
            .bind(since)
            .execute(&mut *transaction)
            .await?;
            // A trigger creates the events of both changes, in this same transaction.
            let back = sqlx::query(
                "DELETE FROM picket.silent_regions AS silent USING picket.regions AS region
                 WHERE region.id = silent.region_id AND region.name = ANY ($1)",
            )
            .bind(active)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok((now_silent.rows_affected(), back.rows_affected()))
        })
        .await
}
