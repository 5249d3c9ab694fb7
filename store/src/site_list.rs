//! Lists of sites by page: filtered, sorted by any column of the summary, continued by a cursor.
//!
//! A page is a range of an index of the sort key, so that its cost does not depend on the number of
//! sites. A row whose key stays the same is listed exactly once, however many are added meanwhile.

mod cursor;
mod filter;
mod state;

use picket_proto::{SiteId, ValidationError};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, QueryBuilder, raw_sql};

pub(crate) use self::cursor::{decode_cursor, encode_cursor};
pub use self::{
    cursor::{Direction, SiteSort},
    filter::SiteFilter,
    state::SiteState,
};
use self::{
    cursor::{PageCursor, SortKey},
    filter::SiteTable,
};
use crate::{DbTimestamp, Error, Store, sites::SiteVersion};

/// Settings of a statement that finds sites by the index of texts. The planner believes that an index
/// computes n-grams again, as reading all rows does.
const LOOK_UP_SQL: &str = "SET LOCAL enable_seqscan = off";
const LOOK_UP_NO_MORE_SQL: &str = "SET LOCAL enable_seqscan = on";

/// Maximum number of rows of a page.
pub const MAX_PAGE_ROWS: u32 = 1_000;

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// The cursor of the next page; absent on the last one.
    pub next_cursor: Option<String>,
}

/// A site with its summary.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct SiteSummary {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// URL of the site.
    pub url: String,
    /// Version of the site's definition.
    #[serde(skip)]
    #[sqlx(try_from = "String")]
    pub version: SiteVersion,
    /// Tags of the site.
    pub tags: Vec<String>,
    /// Names of the regions that check the site; empty for all.
    pub regions: Vec<String>,
    /// Type of check.
    #[serde(rename = "type")]
    #[sqlx(rename = "type")]
    pub check_type: String,
    /// Interval of each region.
    pub interval_seconds: i32,
    /// False while the site is paused.
    pub enabled: bool,
    /// Reason why the site cannot be checked.
    pub problem: Option<String>,
    /// Time of creation.
    pub created_at: DbTimestamp,
    /// State, as of the last transition.
    #[sqlx(try_from = "String")]
    pub state: SiteState,
    /// Start of the state.
    pub state_since: DbTimestamp,
    /// The open incident.
    pub incident_id: Option<i64>,
    /// Kinds of the open warnings.
    pub warnings: Vec<String>,
    /// Percentage of the last 24 whole hours: up of (up + down).
    pub uptime_24h_pct: Option<f64>,
    /// The same of the last 7 whole days and today.
    pub uptime_7d_pct: Option<f64>,
    /// The same of the last 30 whole days and today.
    pub uptime_30d_pct: Option<f64>,
    /// The same of the last 90 whole days and today.
    pub uptime_90d_pct: Option<f64>,
    /// Percentage of the last 24 whole hours: (up + down) of the ticks that were due.
    pub coverage_24h_pct: Option<f64>,
    /// The same of the last 7 whole days and today.
    pub coverage_7d_pct: Option<f64>,
    /// The same of the last 30 whole days and today.
    pub coverage_30d_pct: Option<f64>,
    /// The same of the last 90 whole days and today.
    pub coverage_90d_pct: Option<f64>,
    /// Median duration of the last 24 hours.
    pub p50_us: Option<i32>,
    /// 95th percentile of the duration of the last 24 hours.
    pub p95_us: Option<i32>,
    /// A letter a day for 365 days, the last for `days_through`.
    pub days: String,
    /// The day of the last letter.
    pub days_through: Option<String>,
    #[serde(skip)]
    sort_name: String,
}

/// Columns of [`SiteSummary`], of a site that may have no summary yet. Rows older than the limits on
/// names may have longer ones; these are truncated.
const SUMMARY_COLUMNS: &str = "site.id AS site_id, site.version::text AS version, left(coalesce(site.name, site.url), 1000) AS site, left(site.url, 4096) AS url,
    site.tags, site.regions, site.type, site.interval_seconds, site.enabled, left(site.problem, 2000) AS problem, site.created_at,
    coalesce(summary.state::text, 'unknown') AS state, coalesce(summary.state_since, site.created_at) AS state_since,
    summary.incident_id, coalesce(summary.warnings::text[], '{}') AS warnings,
    summary.uptime_24h_pct, summary.uptime_7d_pct, summary.uptime_30d_pct, summary.uptime_90d_pct,
    summary.coverage_24h_pct, summary.coverage_7d_pct, summary.coverage_30d_pct, summary.coverage_90d_pct,
    summary.p50_us, summary.p95_us, coalesce(summary.days, repeat('-', 365)) AS days,
    summary.days_through::text AS days_through, coalesce(text.sort_name, '') AS sort_name";
const SUMMARY_JOINS: &str = "JOIN picket.sites AS site ON site.id = page.id
    JOIN picket.site_summary AS summary ON summary.site_id = page.id
    JOIN picket.site_texts AS text ON text.site_id = page.id";

/// Condition on a site that it has a summary, which it may lack after an upgrade. Checked row by row, so
/// that a page reads no more than its rows.
const HAS_SUMMARY_SQL: &str =
    " AND EXISTS (SELECT FROM picket.site_conditions AS kept WHERE kept.site_id = site.id OFFSET 0)";

/// Lists a page of at most `limit` sites.
///
/// # Errors
/// If the filter, the cursor or the limit is not allowed, or the database cannot be reached in time.
pub async fn list_sites_page(
    store: &Store,
    filter: &SiteFilter<'_>,
    sort: SiteSort,
    direction: Direction,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<SiteSummary>, Error> {
    filter.validate()?;
    let limit = check_page_limit(limit)?;
    let cursor = cursor.map(|text| PageCursor::decode(text, sort, direction)).transpose()?;
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        // By state the index of the list finds the few sites sooner.
        let has_own_index = sort == SiteSort::State && filter.selects_by_status_alone();
        let matched = if has_own_index { None } else { find_matches(&mut transaction, filter).await? };
        let mut query = build_page_query(filter, matched.as_deref(), sort, direction, cursor.as_ref(), limit);
        query.build_query_as().fetch_all(&mut *transaction).await
    };
    let mut items: Vec<SiteSummary> = store.read_for_page("list sites", read).await?;
    let next_cursor = take_next_cursor(&mut items, limit, |last| {
        PageCursor { sort, direction, key: sort.key_of(last), id: last.site_id }.encode()
    });
    Ok(Page { items, next_cursor })
}

/// Returns the summary of one site; `None` if there is no such site, or the token's limit does not
/// include it. A site that has no summary yet, after an upgrade, is unknown.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_site_summary(
    store: &Store,
    site: SiteId,
    tag_limit: Option<&[String]>,
) -> Result<Option<SiteSummary>, Error> {
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as::<_, SiteSummary>(AssertSqlSafe(format!(
            "SELECT {SUMMARY_COLUMNS} FROM picket.sites AS site
             LEFT JOIN picket.site_summary AS summary ON summary.site_id = site.id
             LEFT JOIN picket.site_texts AS text ON text.site_id = site.id
             WHERE site.id = $1 AND ($2::text[] IS NULL OR site.tags && $2)"
        )))
        .bind(site.0)
        .bind(tag_limit)
        .fetch_optional(&mut *transaction)
        .await
    };
    store.read_for_page("read the summary of the site", read).await
}

/// Counts the sites that the filter selects.
///
/// # Errors
/// If the filter is not allowed, or the database cannot be reached in time.
pub async fn count_sites(store: &Store, filter: &SiteFilter<'_>) -> Result<i64, Error> {
    filter.validate()?;
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        let mut query = QueryBuilder::new("");
        if filter.selects_by_status_alone() {
            query.push("SELECT coalesce(sum(sites), 0)::bigint FROM picket.site_state_counts AS condition WHERE true");
            filter.push_conditions(&mut query, "", false);
        } else {
            if let Some(ids) = find_matches(&mut transaction, filter).await? {
                return Ok(i64::try_from(ids.len()).unwrap_or(i64::MAX));
            }
            let id = filter.push_select(&mut query, None, |_| "count(*)".to_owned());
            filter.push_conditions(&mut query, id, false);
        }
        query.build_query_scalar().fetch_one(&mut *transaction).await
    };
    store.read_for_page("count sites", read).await
}

/// Finds the sites that the filter selects, by its indexes; `None` if these are many. A page of many
/// is found sooner in the order of the list, and the planner cannot tell one from the other.
async fn find_matches(
    connection: &mut PgConnection,
    filter: &SiteFilter<'_>,
) -> Result<Option<Vec<i64>>, sqlx::Error> {
    const MAX_MATCHES: i64 = 10_000;
    let Some(mut query) = filter.build_search(MAX_MATCHES) else { return Ok(None) };
    raw_sql(LOOK_UP_SQL).execute(&mut *connection).await?;
    let ids: Vec<i64> = query.build_query_scalar().fetch_all(&mut *connection).await?;
    raw_sql(LOOK_UP_NO_MORE_SQL).execute(connection).await?;
    Ok(i64::try_from(ids.len()).is_ok_and(|number| number <= MAX_MATCHES).then_some(ids))
}

/// Checks the number of rows of a page.
pub(crate) fn check_page_limit(limit: u32) -> Result<usize, ValidationError> {
    match limit {
        1..=MAX_PAGE_ROWS => Ok(limit.try_into().unwrap_or(usize::MAX)),
        _ => Err(ValidationError::new("limit", limit, format!("1 to {MAX_PAGE_ROWS}"))),
    }
}

/// Removes the row beyond the limit, which shows that there is a next page, and returns the cursor
/// after the last row that is left.
pub(crate) fn take_next_cursor<T>(
    items: &mut Vec<T>,
    limit: usize,
    encode: impl FnOnce(&T) -> String,
) -> Option<String> {
    if items.len() <= limit {
        return None;
    }
    items.truncate(limit);
    items.last().map(encode)
}

/// Builds the statement of a page: rows with a key first, then those without one. The second part
/// runs only if the first one does not fill the page.
fn build_page_query(
    filter: &SiteFilter<'_>,
    matched: Option<&[i64]>,
    sort: SiteSort,
    direction: Direction,
    cursor: Option<&PageCursor>,
    limit: usize,
) -> QueryBuilder<Postgres> {
    let (column, table) = (sort.column(), sort.table());
    let id = table.id_column();
    let (order, after) = match direction {
        Direction::Ascending => ("ASC", ">"),
        Direction::Descending => ("DESC", "<"),
    };
    let rows = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut query = QueryBuilder::new("WITH page AS MATERIALIZED (");
    let push_part = |query: &mut QueryBuilder<Postgres>, condition: &str| {
        let columns = format!("{id} AS id, {column} AS key");
        query.push("(");
        match matched {
            // An index of the key and the id has all that this reads.
            Some(matched) => {
                query.push(format!("SELECT {columns} FROM {} WHERE {id} = ANY (", table.source()));
                query.push_bind(matched.to_vec()).push(")");
            }
            None => {
                filter.push_select(query, Some(table), |_| columns);
                filter.push_conditions(query, id, false);
            }
        }
        // A site has rows in either all other tables or none.
        if table == SiteTable::Sites {
            query.push(HAS_SUMMARY_SQL);
        }
        query.push(condition);
    };
    let is_among_nulls = sort.is_nullable() && cursor.is_some_and(|cursor| cursor.key == SortKey::Null);
    if !is_among_nulls {
        let condition = if sort.is_nullable() { format!(" AND {column} IS NOT NULL") } else { String::new() };
        push_part(&mut query, &condition);
        if let Some(cursor) = cursor {
            match sort {
                SiteSort::Created => query.push(format!(" AND {id} {after} ")).push_bind(cursor.id),
                _ => {
                    query.push(format!(" AND ({column}, {id}) {after} ("));
                    cursor.key.push_bind(&mut query);
                    query.push(", ").push_bind(cursor.id).push(")")
                }
            };
        }
        query.push(format!(" ORDER BY {column} {order}, {id} {order} LIMIT ")).push_bind(rows);
        query.push(")");
    }
    if sort.is_nullable() {
        if !is_among_nulls {
            query.push(" UNION ALL ");
        }
        push_part(&mut query, &format!(" AND {column} IS NULL"));
        if let Some(cursor) = cursor.filter(|_| is_among_nulls) {
            query.push(format!(" AND {id} {after} ")).push_bind(cursor.id);
        }
        query.push(format!(" ORDER BY {column} {order}, {id} {order} LIMIT ")).push_bind(rows);
        query.push(")");
    }
    // Of a single part this would be a second limit, which the grammar forbids.
    if sort.is_nullable() && !is_among_nulls {
        query.push(" LIMIT ").push_bind(rows);
    }
    query.push(format!(
        ") SELECT {SUMMARY_COLUMNS} FROM page {SUMMARY_JOINS} ORDER BY page.key {order} NULLS LAST, page.id {order}"
    ));
    query
}
