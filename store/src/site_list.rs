//! Lists of sites by page: filtered, sorted by any column of the summary, continued by a cursor.
//!
//! A page is a range of an index of the sort key, so that its cost does not depend on the number of
//! sites. A row whose key stays the same is listed exactly once, however many are added meanwhile.

mod cursor;
mod filter;
mod page_query;
mod state;

use picket_proto::{SiteId, ValidationError};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, QueryBuilder, raw_sql};

pub(crate) use self::cursor::{decode_cursor, encode_cursor};
use self::{
    cursor::PageCursor,
    page_query::{PageQuery, SUMMARY_COLUMNS},
};
pub use self::{
    cursor::{Direction, SiteSort},
    filter::SiteFilter,
    state::SiteState,
};
use crate::{DbTimestamp, Error, Store, sites::SiteVersion};

/// Sites tried for each one that is counted, so that a word of a sixth of all sites needs no index.
const TRIED_PER_COUNTED: i64 = 6;

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
    let query = PageQuery { filter, sort, direction, cursor: cursor.as_ref(), limit };
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        read_page(&mut transaction, &query).await
    };
    let mut items = store.read_for_page("list sites", read).await?;
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

/// Number of sites that a filter selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchCount {
    /// All of them were counted.
    Exactly(i64),
    /// Counting ended at this number.
    MoreThan(i64),
}

/// Counts the sites that the filter selects. More than `max_counted` are counted only where that costs no more.
///
/// # Errors
/// If the filter is not allowed, or the database cannot be reached in time.
pub async fn count_sites(
    store: &Store,
    filter: &SiteFilter<'_>,
    max_counted: i64,
) -> Result<MatchCount, Error> {
    filter.validate()?;
    let is_kept = filter.selects_by_status_alone();
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        if is_kept {
            let sql = "SELECT coalesce(sum(sites), 0)::bigint FROM picket.site_state_counts AS condition WHERE true";
            let mut query = QueryBuilder::new(sql);
            filter.push_conditions(&mut query, "", false);
            return query.build_query_scalar().fetch_one(&mut *transaction).await;
        }
        if filter.selects_by_words_alone() {
            // The index finds all sites with a common word before the first one is counted.
            let mut query = QueryBuilder::new(
                "SELECT count(*) FROM (SELECT searched FROM picket.site_texts ORDER BY site_id LIMIT ",
            );
            query.push_bind(max_counted.saturating_mul(TRIED_PER_COUNTED)).push(") AS text WHERE true");
            filter.push_conditions(&mut query, "", false);
            let counted: i64 = query.build_query_scalar().fetch_one(&mut *transaction).await?;
            if counted > max_counted {
                return Ok(counted);
            }
        }
        let has_index = filter.has_index();
        let mut query = QueryBuilder::new("SELECT count(*) FROM (");
        filter.push_search(&mut query, has_index, max_counted);
        query.push(") AS counted");
        if has_index {
            raw_sql(LOOK_UP_SQL).execute(&mut *transaction).await?;
        }
        query.build_query_scalar().fetch_one(&mut *transaction).await
    };
    let counted: i64 = store.read_for_page("count sites", read).await?;
    let is_cut = counted > max_counted && !is_kept;
    Ok(if is_cut { MatchCount::MoreThan(max_counted) } else { MatchCount::Exactly(counted) })
}

/// Reads a page, and a single row more if there is a next page. Of filters with indexes of their own, those that select
/// many sites fill a page soonest in the order of the list, and those that select few by these indexes. The planner
/// cannot tell one from the other, and so a few rows of the list are tried first.
async fn read_page(
    connection: &mut PgConnection,
    query: &PageQuery<'_>,
) -> Result<Vec<SiteSummary>, sqlx::Error> {
    let filter = query.filter;
    // By state the index of the list finds the few sites sooner.
    let is_in_order = query.sort == SiteSort::State && filter.selects_by_status_alone();
    if !filter.has_index() || is_in_order {
        return query.build(None).build_query_as().fetch_all(connection).await;
    }
    if !filter.selects_by_status_alone() {
        let items: Vec<SiteSummary> =
            query.build_trial().build_query_as().fetch_all(&mut *connection).await?;
        if items.len() > query.limit {
            return Ok(items);
        }
    }
    let matched = find_matches(&mut *connection, filter).await?;
    query.build(matched.as_deref()).build_query_as().fetch_all(connection).await
}

/// Finds the sites that the filter selects, by its indexes; `None` if these are many.
async fn find_matches(
    connection: &mut PgConnection,
    filter: &SiteFilter<'_>,
) -> Result<Option<Vec<i64>>, sqlx::Error> {
    const MAX_MATCHES: i64 = 2_500;
    let mut query = QueryBuilder::new("");
    filter.push_search(&mut query, true, MAX_MATCHES);
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
