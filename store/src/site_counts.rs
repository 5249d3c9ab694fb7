//! Numbers of sites by state, with the uptime and coverage of all of them.

use sqlx::FromRow;

use crate::{Error, Store};

/// Number of sites in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
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

/// Sites by state, and their checks of the last 24 whole hours.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct SiteCounts {
    /// All sites.
    pub sites: i64,
    /// Sites that are up.
    pub up: i64,
    /// Sites that are down.
    pub down: i64,
    /// Sites without a recent result.
    pub unknown: i64,
    /// Sites that cannot be checked.
    pub problem: i64,
    /// Disabled sites.
    pub paused: i64,
    /// Sites with an open warning, whatever their state.
    pub warned: i64,
    /// Percentage: up of (up + down).
    pub uptime_24h_pct: Option<f64>,
    /// Percentage: (up + down) of the ticks that were due.
    pub coverage_24h_pct: Option<f64>,
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

/// Counts the sites with one of the `tags`.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_sites_by_state(store: &Store, tags: Option<&[String]>) -> Result<SiteCounts, Error> {
    let query = sqlx::query_as(
        "WITH chosen AS MATERIALIZED (
             SELECT condition.site_id, condition.state, statistic.up_24h, statistic.down_24h, statistic.checks_24h
             FROM picket.site_conditions AS condition
             JOIN picket.site_statistics AS statistic ON statistic.site_id = condition.site_id
             WHERE $1::text[] IS NULL OR condition.site_id = ANY (ARRAY(SELECT id FROM picket.sites WHERE tags && $1))
         )
         SELECT count(*) AS sites, count(*) FILTER (WHERE state = 'up') AS up, count(*) FILTER (WHERE state = 'down') AS down,
                count(*) FILTER (WHERE state = 'unknown') AS unknown, count(*) FILTER (WHERE state = 'problem') AS problem,
                count(*) FILTER (WHERE state = 'paused') AS paused,
                (SELECT count(DISTINCT warning.site_id) FROM picket.warnings AS warning
                 JOIN chosen ON chosen.site_id = warning.site_id WHERE warning.closed_at IS NULL) AS warned,
                picket.percent(sum(up_24h)::bigint, sum(up_24h + down_24h)::bigint) AS uptime_24h_pct,
                picket.percent(sum(up_24h + down_24h)::bigint, sum(checks_24h)::bigint) AS coverage_24h_pct
         FROM chosen",
    )
    .bind(tags);
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        query.fetch_one(&mut *transaction).await
    };
    store.read_for_page("count sites", read).await
}
