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

const COUNTS_SQL: &str = "coalesce(sum(sites) FILTER (WHERE state = 'down'), 0)::bigint AS down,
     coalesce(sum(sites) FILTER (WHERE state = 'unknown'), 0)::bigint AS unknown,
     coalesce(sum(sites) FILTER (WHERE state = 'problem'), 0)::bigint AS problem,
     coalesce(sum(sites) FILTER (WHERE state = 'up'), 0)::bigint AS up,
     coalesce(sum(sites) FILTER (WHERE state = 'paused'), 0)::bigint AS paused";

/// Counts sites by state. With a limit to tags, the sites with such a tag are counted one by one.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_states(store: &Store, tag_limit: Option<&[String]>) -> Result<StateCounts, Error> {
    let source = match tag_limit {
        None => "picket.site_state_counts WHERE $1::text[] IS NULL",
        Some(_) => {
            "(SELECT condition.state, 1 AS sites FROM picket.sites AS site
              JOIN picket.site_conditions AS condition ON condition.site_id = site.id WHERE site.tags && $1) AS counted"
        }
    };
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT {COUNTS_SQL} FROM {source}")))
            .bind(tag_limit)
            .fetch_one(&mut *transaction)
            .await
    };
    store.read_for_page("count sites by state", read).await
}

/// Counts the sites with one of the `tags` one by one, or reads the numbers of all sites.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_sites_by_state(store: &Store, tags: Option<&[String]>) -> Result<SiteCounts, Error> {
    let (chosen, source, sums) = match tags {
        None => (
            "site_conditions AS chosen WHERE $1::text[] IS NULL",
            "picket.site_state_counts",
            "SELECT up_24h, down_24h, checks_24h FROM picket.site_summary_state",
        ),
        Some(_) => (
            "sites AS site JOIN picket.site_conditions AS chosen ON chosen.site_id = site.id WHERE site.tags && $1",
            "(SELECT state, 1 AS sites FROM chosen) AS counted",
            "SELECT sum(up_24h)::bigint AS up_24h, sum(down_24h)::bigint AS down_24h, sum(checks_24h)::bigint AS checks_24h
             FROM picket.site_statistics WHERE site_id IN (SELECT site_id FROM chosen)",
        ),
    };
    let sql = format!(
        "WITH chosen AS (SELECT chosen.site_id, chosen.state FROM picket.{chosen})
         SELECT counted.*,
                (SELECT count(DISTINCT warning.site_id) FROM picket.warnings AS warning
                 JOIN chosen ON chosen.site_id = warning.site_id WHERE warning.closed_at IS NULL) AS warned,
                picket.percent(up_24h, up_24h + down_24h) AS uptime_24h_pct,
                picket.percent(up_24h + down_24h, checks_24h) AS coverage_24h_pct
         FROM (SELECT coalesce(sum(sites), 0)::bigint AS sites, {COUNTS_SQL} FROM {source}) AS counted
         LEFT JOIN ({sums}) AS summed ON true"
    );
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(tags).fetch_one(&mut *transaction).await
    };
    store.read_for_page("count sites", read).await
}
