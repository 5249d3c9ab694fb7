//! Ledger: the account of all ticks. Closed interval by interval by the holders of the shards; any
//! past span can be read.

use std::time::Duration;

use picket_proto::{Epoch, Shard, SiteId, Timestamp};
use serde::Serialize;
use sqlx::AssertSqlSafe;

use crate::{
    DbTimestamp, Error, Store,
    error::DriverError,
    leases::{from_shard, to_millis},
};

/// Summary of a closed interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseSummary {
    /// Time since the due time of the newest accounted tick, in the shard furthest behind among
    /// those that could advance; absent if no shard is held.
    pub lag: Option<Duration>,
    /// Number of `missed` rows written, by cause.
    pub missed_by_cause: Vec<(String, u64)>,
}

/// A span in which ticks of a shard may not have been published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The shard.
    pub shard: Shard,
    /// Exclusive start.
    pub from: Timestamp,
    /// Inclusive end.
    pub to: Timestamp,
}

/// A row of `report.ledger`, or a sum of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LedgerRow {
    /// The site; absent in a sum over sites.
    pub site_id: Option<i64>,
    /// Name of the region.
    pub region: String,
    /// Number of ticks due.
    pub expected: i64,
    /// Number of `up` rows.
    pub up: i64,
    /// Number of `down` rows.
    pub down: i64,
    /// Number of `missed` rows.
    pub missed: i64,
    /// Number of ticks without a row inside a gap.
    pub gap: i64,
    /// Number of ticks without a row.
    pub unaccounted: i64,
}

/// Selection of sites in the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedgerFilter<'a> {
    /// Only sites with one of these tags.
    pub tags: Option<&'a [String]>,
    /// Only this site.
    pub site: Option<SiteId>,
}

impl LedgerFilter<'_> {
    /// The selected sites; `None` if all sites are selected, or so many that reading the rows of all
    /// of them is cheaper than a lookup of each tick.
    async fn find_few_sites(&self, store: &Store) -> Result<Option<Vec<i64>>, sqlx::Error> {
        const MAX_SITES: i64 = 2_000;
        /// A lookup of a tick takes about as long as reading the rows of so many.
        const ROWS_PER_LOOKUP: i64 = 12;
        if let Self { tags: None, site } = self {
            return Ok(site.map(|site| vec![site.0]));
        }
        let (sites, known): (Vec<i64>, i64) = sqlx::query_as(
            "SELECT coalesce(array_agg(chosen.id), '{}'), (SELECT coalesce(sum(sites), 0)::bigint FROM picket.site_state_counts)
             FROM (SELECT id FROM picket.known_sites
                   WHERE tags && $1 AND ($2::bigint IS NULL OR id = $2) LIMIT $3) AS chosen",
        )
        .bind(self.tags)
        .bind(self.site.map(|site| site.0))
        .bind(MAX_SITES + 1)
        .fetch_one(&store.pool)
        .await?;
        let number = i64::try_from(sites.len()).unwrap_or(i64::MAX);
        let are_few = number <= 1 || number <= MAX_SITES && number.saturating_mul(ROWS_PER_LOOKUP) <= known;
        Ok(are_few.then_some(sites))
    }
}

/// Condition on `site_id` by the tags in $3.
const TAGS_SQL: &str =
    "($3::text[] IS NULL OR site_id = ANY (ARRAY(SELECT id FROM picket.known_sites WHERE tags && $3)))";
/// Common table expressions with the ticks of the sites in $3.
const TICKS_OF_SITES_SQL: &str = include_str!("ledger/ticks_of_sites.sql");

/// Deadline of a ledger statement; closing an interval takes far less.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(30);

/// Closes the ledger of the shards in `held`, each from its own position: up to `grace` ago, by at
/// most `interval` for the shards furthest behind.
///
/// Results stored by the bus before `late_since` are all in the database; if absent, all results
/// are.
///
/// Returns `None` without any change if `holder` has lost any of the leases.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn close_interval(
    store: &Store,
    holder: &str,
    held: &[(Shard, Epoch)],
    grace: Duration,
    interval: Duration,
    late_since: Option<Timestamp>,
) -> Result<Option<CloseSummary>, Error> {
    /// SQLSTATE raised by `picket.close_ledger` for a lost shard.
    const FENCED: &str = "55000";

    type Answer = (Option<i64>, Option<Vec<String>>, Option<Vec<i64>>);
    let closing = store
        .with_timeout(
            LEDGER_TIMEOUT,
            "close the ledger",
            sqlx::query_as::<_, Answer>(
                "SELECT picket.micros(clock_timestamp()) - picket.micros(accounted_through), causes, ticks FROM picket.close_ledger(
                     $1, $2, $3, $4 * interval '1 millisecond', $5 * interval '1 millisecond', $6)",
            )
            .bind(holder)
            .bind(held.iter().map(|(shard, _)| from_shard(*shard)).collect::<Vec<_>>())
            .bind(held.iter().map(|(_, epoch)| epoch.0).collect::<Vec<_>>())
            .bind(to_millis(grace))
            .bind(to_millis(interval))
            .bind(late_since.map(DbTimestamp))
            .fetch_one(&store.pool),
        )
        .await;
    let (behind_us, causes, ticks) = match closing {
        // A lost lease is an expected result and no error.
        Err(Error::Database { source: DriverError(sqlx::Error::Database(why)), .. })
            if why.code().as_deref() == Some(FENCED) =>
        {
            return Ok(None);
        }
        closing => closing?,
    };
    let ticks = ticks.unwrap_or_default().into_iter().map(i64::unsigned_abs);
    Ok(Some(CloseSummary {
        // Negative after the database's clock was set back.
        lag: behind_us.map(|us| Duration::from_micros(us.max(0).unsigned_abs())),
        missed_by_cause: causes.unwrap_or_default().into_iter().zip(ticks).collect(),
    }))
}

/// Records spans in which ticks may not have been published. Spans of shards without schedules are
/// skipped.
///
/// # Errors
/// If the database cannot be reached in time; safe to retry.
pub async fn record_gaps(store: &Store, gaps: &[Gap]) -> Result<(), Error> {
    store
        .with_timeout(
            LEDGER_TIMEOUT,
            "record gaps",
            sqlx::query(
                // Grouped, because one statement must not update a row twice.
                "INSERT INTO picket.gaps (shard, gap_from, gap_to)
                 SELECT shard, gap_from, max(gap_to)
                 FROM unnest($1::smallint[], $2::timestamptz[], $3::timestamptz[]) AS gap (shard, gap_from, gap_to)
                 WHERE picket.had_schedules(shard, gap_from)
                 GROUP BY shard, gap_from
                 ON CONFLICT (shard, gap_from) DO UPDATE SET gap_to = greatest(gaps.gap_to, excluded.gap_to)",
            )
            .bind(gaps.iter().map(|gap| from_shard(gap.shard)).collect::<Vec<_>>())
            .bind(gaps.iter().map(|gap| DbTimestamp(gap.from)).collect::<Vec<_>>())
            .bind(gaps.iter().map(|gap| DbTimestamp(gap.to)).collect::<Vec<_>>())
            .execute(&store.pool),
        )
        .await?;
    Ok(())
}

/// Returns the database's clock, and the time through which the ledgers of all shards with
/// schedules are closed.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_accounted_through(store: &Store) -> Result<(Timestamp, Option<Timestamp>), Error> {
    let (now, through): (DbTimestamp, Option<DbTimestamp>) = store
        .with_timeout(
            LEDGER_TIMEOUT,
            "read the progress of the ledger",
            sqlx::query_as(
                // A shard without schedules is never closed and would hold the minimum back.
                "SELECT now(), (SELECT min(accounted_through) FROM picket.leases AS lease
                                WHERE EXISTS (SELECT FROM picket.schedules AS schedule
                                              WHERE schedule.shard = lease.shard AND schedule.valid_to IS NULL))",
            )
            .fetch_one(&store.pool),
        )
        .await?;
    Ok((now.into(), through.map(Timestamp::from)))
}

/// Length of the span whose ledger is shown unless another one is chosen.
pub const DEFAULT_SPAN: Duration = Duration::from_secs(3_600);

/// End of the newest span whose ledger is expected to be closed, by the progress that
/// [`read_accounted_through`] returns. Ticks older than five minutes count even if their ledger is
/// still open, so that a stuck ledger shows up as unaccounted ticks.
pub fn find_closed_end(now: Timestamp, through: Option<Timestamp>) -> Timestamp {
    const MAX_CLOSE_DELAY: Duration = Duration::from_secs(300);
    through.map_or(now, |through| through.max(now.saturating_sub(MAX_CLOSE_DELAY)).min(now))
}

/// Sum of the ticks of several rows, of no region and no site.
pub fn sum_rows(rows: &[LedgerRow]) -> LedgerRow {
    rows.iter().fold(LedgerRow::default(), |sum, row| LedgerRow {
        site_id: None,
        region: String::new(),
        expected: sum.expected + row.expected,
        up: sum.up + row.up,
        down: sum.down + row.down,
        missed: sum.missed + row.missed,
        gap: sum.gap + row.gap,
        unaccounted: sum.unaccounted + row.unaccounted,
    })
}

/// Reads the ledger of a span, summed by region over the sites of a filter. The cost rises with the ticks of all
/// sites, unless the filter selects one site or few of all.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_by_region(
    store: &Store,
    from: Timestamp,
    to: Timestamp,
    filter: LedgerFilter<'_>,
) -> Result<Vec<LedgerRow>, Error> {
    const SUMS: &str =
        "SELECT NULL::bigint AS site_id, region, sum(expected)::bigint AS expected, sum(up)::bigint AS up,
             sum(down)::bigint AS down, sum(missed)::bigint AS missed, sum(gap)::bigint AS gap,
             sum(unaccounted)::bigint AS unaccounted
         FROM report.ledger($1, $2)";
    const SUMS_OF_SITES: &str = "SELECT NULL::bigint AS site_id, region, count(*) AS expected,
             count(*) FILTER (WHERE outcome = 'up') AS up, count(*) FILTER (WHERE outcome = 'down') AS down,
             count(*) FILTER (WHERE outcome = 'missed') AS missed, count(*) FILTER (WHERE in_gap) AS gap,
             count(*) FILTER (WHERE outcome IS NULL AND NOT in_gap) AS unaccounted
         FROM tick_rows GROUP BY region ORDER BY region";
    let read = async {
        let query = match filter.find_few_sites(store).await? {
            Some(sites) => {
                sqlx::query_as(AssertSqlSafe(format!("WITH {TICKS_OF_SITES_SQL} {SUMS_OF_SITES}")))
                    .bind(DbTimestamp(from))
                    .bind(DbTimestamp(to))
                    .bind(sites)
            }
            None => sqlx::query_as(AssertSqlSafe(format!(
                "{SUMS} WHERE {TAGS_SQL} GROUP BY region ORDER BY region"
            )))
            .bind(DbTimestamp(from))
            .bind(DbTimestamp(to))
            .bind(filter.tags),
        };
        query.fetch_all(&store.pool).await
    };
    store.with_timeout(LEDGER_TIMEOUT, "read the ledger", read).await
}

/// Reads the ledger of a span by site and region.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_by_site(store: &Store, from: Timestamp, to: Timestamp) -> Result<Vec<LedgerRow>, Error> {
    let query = sqlx::query_as(
        "SELECT site_id, region, expected, up, down, missed, gap, unaccounted
         FROM report.ledger($1, $2) ORDER BY unaccounted = 0, site_id, region",
    )
    .bind(DbTimestamp(from))
    .bind(DbTimestamp(to));
    store.with_timeout(LEDGER_TIMEOUT, "read the ledger", query.fetch_all(&store.pool)).await
}

/// Counts the missed ticks of a span by region and cause, the most frequent cause first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_missed_by_cause(
    store: &Store,
    from: Timestamp,
    to: Timestamp,
    filter: LedgerFilter<'_>,
) -> Result<Vec<(String, String, i64)>, Error> {
    const COUNTS_OF_SITES: &str = "SELECT region, cause::text, count(*) AS ticks FROM tick_rows
         WHERE outcome = 'missed' GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2";
    const COUNTS: &str = "SELECT region.name, cause::text, count(*) AS ticks
         FROM picket.tick_results AS result JOIN picket.regions AS region ON region.id = result.region_id
         WHERE scheduled_at > $1 AND scheduled_at <= $2 AND outcome = 'missed'";
    let read = async {
        let query = match filter.find_few_sites(store).await? {
            Some(sites) => {
                sqlx::query_as(AssertSqlSafe(format!("WITH {TICKS_OF_SITES_SQL} {COUNTS_OF_SITES}")))
                    .bind(DbTimestamp(from))
                    .bind(DbTimestamp(to))
                    .bind(sites)
            }
            None => sqlx::query_as(AssertSqlSafe(format!(
                "{COUNTS} AND {TAGS_SQL} GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"
            )))
            .bind(DbTimestamp(from))
            .bind(DbTimestamp(to))
            .bind(filter.tags),
        };
        query.fetch_all(&store.pool).await
    };
    store.with_timeout(LEDGER_TIMEOUT, "count missed ticks by cause", read).await
}
