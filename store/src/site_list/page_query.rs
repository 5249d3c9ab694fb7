//! Statements of a page: rows in the order of an index, from the cursor on.

use sqlx::{Postgres, QueryBuilder};

use super::{
    SiteFilter, SiteSort,
    cursor::{Direction, PageCursor, SortKey},
    filter::SiteTable,
};

/// Columns of [`SiteSummary`](super::SiteSummary), of a site that may have no summary yet. Rows older than the limits
/// on names may have longer ones; these are truncated.
pub(super) const SUMMARY_COLUMNS: &str = "site.id AS site_id, site.version::text AS version, left(coalesce(site.name, site.url), 1000) AS site, left(site.url, 4096) AS url,
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

/// A page to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageQuery<'a> {
    pub(super) filter: &'a SiteFilter<'a>,
    pub(super) sort: SiteSort,
    pub(super) direction: Direction,
    pub(super) cursor: Option<&'a PageCursor>,
    pub(super) limit: usize,
}

impl PageQuery<'_> {
    /// Rows of the list that are tried for each row of the page, so that what a tenth of all sites match is found;
    /// and the most that are tried.
    const TRIED_PER_ROW: i64 = 12;
    const MAX_TRIED: i64 = 5_000;

    /// Builds the statement of a page: rows with a key first, then those without one. The second part runs only if
    /// the first one does not fill the page. The sites are those `matched`, or else those that meet the conditions.
    pub(super) fn build(&self, matched: Option<&[i64]>) -> QueryBuilder<Postgres> {
        let (sort, rows) = (self.sort, self.rows());
        let mut query = QueryBuilder::new("WITH page AS MATERIALIZED (");
        let push_part = |query: &mut QueryBuilder<Postgres>, is_null: bool| {
            query.push("(");
            let columns = self.key_columns();
            let (table, id) = (sort.table(), sort.table().id_column());
            match matched {
                // An index of the key and the id has all that this reads.
                Some(matched) => {
                    query.push(format!("SELECT {columns} FROM {} WHERE {id} = ANY (", table.source()));
                    query.push_bind(matched.to_vec()).push(")");
                }
                None => {
                    self.filter.push_select(query, Some(table), |_| columns);
                    self.filter.push_conditions(query, id, false);
                }
            }
            self.push_position(query, is_null);
            query.push(" LIMIT ").push_bind(rows).push(")");
        };
        let is_among_nulls = self.is_among_nulls();
        if !is_among_nulls {
            push_part(&mut query, false);
        }
        if sort.is_nullable() {
            if !is_among_nulls {
                query.push(" UNION ALL ");
            }
            push_part(&mut query, true);
        }
        // Of a single part this would be a second limit, which the grammar forbids.
        if sort.is_nullable() && !is_among_nulls {
            query.push(" LIMIT ").push_bind(rows);
        }
        self.push_rows(&mut query);
        query
    }

    /// Builds the statement that tries the next rows of the list: only if these fill a page are they the page.
    pub(super) fn build_trial(&self) -> QueryBuilder<Postgres> {
        let (rows, order, table) = (self.rows(), self.order(), self.sort.table());
        let mut query = QueryBuilder::new("WITH page AS MATERIALIZED (SELECT id, key FROM (SELECT ");
        query.push(format!("{} FROM {} WHERE true", self.key_columns(), table.source()));
        self.push_position(&mut query, self.is_among_nulls());
        query.push(" LIMIT ").push_bind(rows.saturating_mul(Self::TRIED_PER_ROW).min(Self::MAX_TRIED));
        query.push(") AS tried WHERE EXISTS (");
        let id = self.filter.push_select(&mut query, None, |_| String::new());
        self.filter.push_conditions(&mut query, id, false);
        // The OFFSET keeps the planner from reading all rows that meet the conditions.
        query.push(format!(" AND {id} = tried.id OFFSET 0) ORDER BY key {order}, id {order} LIMIT "));
        query.push_bind(rows);
        self.push_rows(&mut query);
        query
    }

    /// One row more than the page has shows that there is a next page.
    fn rows(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX).saturating_add(1)
    }

    fn order(&self) -> &'static str {
        match self.direction {
            Direction::Ascending => "ASC",
            Direction::Descending => "DESC",
        }
    }

    fn key_columns(&self) -> String {
        format!("{} AS id, {} AS key", self.sort.table().id_column(), self.sort.column())
    }

    /// Whether the page begins after the rows that have a key.
    fn is_among_nulls(&self) -> bool {
        self.sort.is_nullable() && self.cursor.is_some_and(|cursor| cursor.key == SortKey::Null)
    }

    /// Adds the conditions and the order by which a part of the list, with or without a key, goes on after the cursor.
    fn push_position(&self, query: &mut QueryBuilder<Postgres>, is_null: bool) {
        let (sort, column, order) = (self.sort, self.sort.column(), self.order());
        let id = sort.table().id_column();
        let after = match self.direction {
            Direction::Ascending => ">",
            Direction::Descending => "<",
        };
        // A site has rows in either all other tables or none.
        if sort.table() == SiteTable::Sites {
            query.push(HAS_SUMMARY_SQL);
        }
        if sort.is_nullable() {
            query.push(format!(" AND {column} IS {}NULL", if is_null { "" } else { "NOT " }));
        }
        // The part without a key that follows the one with the cursor begins at its first row.
        let cursor = self.cursor.filter(|_| is_null == self.is_among_nulls());
        match cursor {
            None => {}
            Some(cursor) if is_null || sort == SiteSort::Created => {
                query.push(format!(" AND {id} {after} ")).push_bind(cursor.id);
            }
            Some(cursor) => {
                query.push(format!(" AND ({column}, {id}) {after} ("));
                cursor.key.push_bind(query);
                query.push(", ").push_bind(cursor.id).push(")");
            }
        }
        query.push(format!(" ORDER BY {column} {order}, {id} {order}"));
    }

    /// Adds the rows of the sites of the page.
    fn push_rows(&self, query: &mut QueryBuilder<Postgres>) {
        let order = self.order();
        query.push(format!(
            ") SELECT {SUMMARY_COLUMNS} FROM page {SUMMARY_JOINS} ORDER BY page.key {order} NULLS LAST, page.id {order}"
        ));
    }
}
