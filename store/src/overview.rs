//! The state of the whole fleet: counts by state, states by region, silent regions, coverage.
//!
//! What is not up is a page of [`list_sites_page`](crate::site_list::list_sites_page) with these
//! states, whose cost follows the number of such sites.

use picket_proto::SiteId;
use serde::Serialize;

use crate::{DbTimestamp, Error, Store};

/// Number of sites in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct StateCounts {
    /// Sites with an open incident, or that fail in maintenance.
    pub down: i64,
    /// Sites without a recent result.
    pub unknown: i64,
    /// Sites that cannot be checked.
    pub problem: i64,
    /// Sites that are up.
    pub up: i64,
    /// Sites that are disabled.
    pub paused: i64,
}

/// Newest result of a site in a region.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct RegionState {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the region.
    pub region: String,
    /// `up` or `down`; absent if the last six ticks have no result.
    pub outcome: Option<String>,
    /// Cause of the failure.
    pub cause: Option<String>,
    /// The cause in words.
    pub message: Option<String>,
    /// Due time of the check.
    pub scheduled_at: Option<DbTimestamp>,
    /// Duration of the check.
    pub total_us: Option<i32>,
}

/// A region in use.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct RegionHealth {
    /// Name of the region.
    pub region: String,
    /// Start of the silence; absent while a prober takes jobs.
    pub silent_since: Option<DbTimestamp>,
}

/// Ticks of all sites in the newest hour of the rollups, up to where they are.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct FleetCoverage {
    /// Start of the hour.
    pub from: DbTimestamp,
    /// End of what is rolled up, at most the end of the hour.
    pub to: DbTimestamp,
    /// Number of checks due.
    pub checks: i64,
    /// Number of `up` checks.
    pub up: i64,
    /// Number of `down` checks.
    pub down: i64,
    /// Percentage: (up + down) of checks.
    pub coverage_pct: Option<f64>,
}

/// Counts sites by state. With a limit to tags, the sites with such a tag are counted one by one.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_states(store: &Store, tag_limit: Option<&[String]>) -> Result<StateCounts, Error> {
    const COUNTS: &str = "coalesce(sum(sites) FILTER (WHERE state = 'down'), 0)::bigint AS down,
         coalesce(sum(sites) FILTER (WHERE state = 'unknown'), 0)::bigint AS unknown,
         coalesce(sum(sites) FILTER (WHERE state = 'problem'), 0)::bigint AS problem,
         coalesce(sum(sites) FILTER (WHERE state = 'up'), 0)::bigint AS up,
         coalesce(sum(sites) FILTER (WHERE state = 'paused'), 0)::bigint AS paused";
    let source = match tag_limit {
        None => "picket.site_state_counts WHERE $1::text[] IS NULL",
        Some(_) => {
            "(SELECT condition.state, 1 AS sites FROM picket.sites AS site
              JOIN picket.site_conditions AS condition ON condition.site_id = site.id WHERE site.tags && $1) AS counted"
        }
    };
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT {COUNTS} FROM {source}")))
            .bind(tag_limit)
            .fetch_one(&mut *transaction)
            .await
    };
    store.read_for_page("count sites by state", read).await
}

/// Lists the newest result of each region of these sites, by site and region. Sites beyond the limit
/// to tags are left out.
///
/// # Errors
/// If there are more sites than a page has, or the database cannot be reached in time.
pub async fn list_region_states(
    store: &Store,
    sites: &[SiteId],
    tag_limit: Option<&[String]>,
) -> Result<Vec<RegionState>, Error> {
    if !sites.is_empty() {
        crate::site_list::check_page_limit(u32::try_from(sites.len()).unwrap_or(u32::MAX))?;
    }
    let ids: Vec<i64> = sites.iter().map(|site| site.0).collect();
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(
            "SELECT site.id AS site_id, region.name AS region, latest.outcome::text AS outcome, latest.cause::text AS cause,
                    latest.message, latest.scheduled_at, latest.total_us
             FROM picket.sites AS site
             JOIN picket.latest_results AS latest ON latest.site_id = site.id
             JOIN picket.regions AS region ON region.id = latest.region_id
             WHERE site.id = ANY ($1) AND ($2::text[] IS NULL OR site.tags && $2)
             ORDER BY site.id, region.name",
        )
        .bind(ids)
        .bind(tag_limit)
        .fetch_all(&mut *transaction)
        .await
    };
    store.read_for_page("read the results of regions", read).await
}

/// Lists the regions in use with their silences, by name.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_region_health(store: &Store) -> Result<Vec<RegionHealth>, Error> {
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(
            "SELECT region.name AS region, silence.since AS silent_since
             FROM picket.regions AS region
             LEFT JOIN picket.silent_regions AS silence ON silence.region_id = region.id
             WHERE region.removed_at IS NULL ORDER BY region.name",
        )
        .fetch_all(&mut *transaction)
        .await
    };
    store.read_for_page("list silent regions", read).await
}

/// Returns the coverage of the newest hour of the rollups; `None` before the first one.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_fleet_coverage(store: &Store) -> Result<Option<FleetCoverage>, Error> {
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(
            "SELECT fleet_from AS \"from\", fleet_to AS \"to\", fleet_checks AS checks, fleet_up AS up, fleet_down AS down,
                    picket.percent(fleet_up + fleet_down, fleet_checks) AS coverage_pct
             FROM picket.site_summary_state WHERE fleet_from IS NOT NULL",
        )
        .fetch_optional(&mut *transaction)
        .await
    };
    store.read_for_page("read the coverage", read).await
}
