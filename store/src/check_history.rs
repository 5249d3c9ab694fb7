//! Single checks and histories of a site, for readers who follow one site.

use std::time::Duration;

use picket_proto::{CheckKind, RegionName, SiteId, Timestamp};

use crate::{DbTimestamp, Error, Store, leases::to_millis};

/// Deadline of a statement: somebody waits for its rows.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(5);
/// Decimal digits of a histogram that hold the count of one bucket.
const BUCKET_DIGITS: usize = 8;

/// A row of `check_results` with the name of its region.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct StoredCheck {
    /// Due time.
    pub scheduled_at: DbTimestamp,
    /// Name of the region.
    pub region: String,
    /// `scheduled` or `confirm`.
    pub kind: String,
    /// `up`, `down` or `missed`.
    pub outcome: String,
    /// Cause of a failed or missed check.
    pub cause: Option<String>,
    /// The cause in words.
    pub message: Option<String>,
    /// From the due time to the start; absent if the check never started.
    pub lateness_us: Option<i32>,
    /// Name resolution.
    pub dns_us: Option<i32>,
    /// Connection.
    pub connect_us: Option<i32>,
    /// TLS handshake.
    pub tls_us: Option<i32>,
    /// From the connection to the head of the response.
    pub first_byte_us: Option<i32>,
    /// From the head of the response to the end of its body.
    pub transfer_us: Option<i32>,
    /// The whole check.
    pub total_us: Option<i32>,
    /// Status of the last response.
    pub http_status: Option<i16>,
    /// Version of HTTP.
    pub http_version: Option<String>,
    /// Number of redirects that were followed.
    pub redirects: i16,
    /// Address and port of the last connection.
    pub remote_addr: Option<String>,
    /// Bytes of the body that were read.
    pub body_bytes: Option<i32>,
    /// Expiry of the certificate.
    pub tls_expires_at: Option<DbTimestamp>,
    /// The prober.
    pub prober: Option<String>,
}

const CHECK_COLUMNS_SQL: &str = "result.scheduled_at, region.name AS region, result.kind::text AS kind,
    result.outcome::text AS outcome, result.cause::text AS cause, result.message, result.lateness_us, result.dns_us,
    result.connect_us, result.tls_us, result.first_byte_us, result.transfer_us, result.total_us, result.http_status,
    result.http_version, result.redirects, result.remote_addr, result.body_bytes, result.tls_expires_at, result.prober";

/// Reads one check by its key.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_check(
    store: &Store,
    site: SiteId,
    region: &RegionName,
    scheduled_at: Timestamp,
    kind: CheckKind,
) -> Result<Option<StoredCheck>, Error> {
    let sql = format!(
        "SELECT {CHECK_COLUMNS_SQL}
         FROM picket.check_results AS result JOIN picket.regions AS region ON region.id = result.region_id
         WHERE result.scheduled_at = $1 AND result.site_id = $2 AND region.name = $3 AND result.kind::text = $4"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(DbTimestamp(scheduled_at))
        .bind(site.0)
        .bind(region.as_str())
        .bind(kind.as_str());
    store.with_timeout(HISTORY_TIMEOUT, "read the check", query.fetch_optional(&store.pool)).await
}

/// Lists the checks of a site that were due in a span, its ends included, the newest first, at most `limit`.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_checks(
    store: &Store,
    site: SiteId,
    from: Timestamp,
    to: Timestamp,
    limit: i64,
) -> Result<Vec<StoredCheck>, Error> {
    // The index of a site's rows begins with the quarter of an hour.
    let sql = format!(
        "SELECT {CHECK_COLUMNS_SQL}
         FROM picket.check_results AS result JOIN picket.regions AS region ON region.id = result.region_id
         WHERE result.site_id = $1 AND result.scheduled_at BETWEEN $2 AND $3
           AND date_bin('15 minutes', result.scheduled_at, timestamptz '2000-01-01 00:00Z')
               BETWEEN date_bin('15 minutes', $2, timestamptz '2000-01-01 00:00Z') AND $3
         ORDER BY result.scheduled_at DESC, region.name, result.kind LIMIT $4"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(site.0)
        .bind(DbTimestamp(from))
        .bind(DbTimestamp(to))
        .bind(limit);
    store.with_timeout(HISTORY_TIMEOUT, "list checks of the site", query.fetch_all(&store.pool)).await
}

/// Sums of a site over a span of time.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryColumn {
    /// Start of the span.
    pub at: Timestamp,
    /// Number of `up` checks.
    pub up: i64,
    /// Number of `down` checks.
    pub down: i64,
    /// Number of `missed` checks.
    pub missed: i64,
    /// Number of ticks in gaps.
    pub gap: i64,
    /// Sums over `up` checks in microseconds: DNS, connect, TLS and first byte.
    pub phase_sums_us: [f64; 4],
    /// Durations of `up` checks: pairs of bucket and count, by bucket.
    pub histogram: Vec<(usize, u64)>,
}

type HistoryRow = (DbTimestamp, i64, i64, i64, i64, f64, f64, f64, f64, Option<String>);

/// Lists sums of a site over spans of `step`, in one region or all. `step` is a multiple of an hour, since the rollups are
/// hourly. Spans without any tick are absent.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_history(
    store: &Store,
    site: SiteId,
    region: Option<&RegionName>,
    from: Timestamp,
    to: Timestamp,
    step: Duration,
) -> Result<Vec<HistoryColumn>, Error> {
    let query = sqlx::query_as(
        "SELECT date_bin($5 * interval '1 millisecond', hour, timestamptz '2000-01-01 00:00Z') AS at,
                sum(up)::bigint, sum(down)::bigint, sum(missed)::bigint, sum(gap)::bigint,
                coalesce(sum(dns_us), 0), coalesce(sum(connect_us), 0), coalesce(sum(tls_us), 0),
                coalesce(sum(first_byte_us), 0), sum(histogram)::text
         FROM picket.hourly
         WHERE site_id = $1 AND hour >= picket.hour_of($3) AND hour < $4
           AND ($2::text IS NULL OR region_id = (SELECT id FROM picket.regions WHERE name = $2))
         GROUP BY at ORDER BY at",
    )
    .bind(site.0)
    .bind(region.map(RegionName::as_str))
    .bind(DbTimestamp(from))
    .bind(DbTimestamp(to))
    .bind(to_millis(step));
    let rows: Vec<HistoryRow> = store
        .with_timeout(HISTORY_TIMEOUT, "read the history of the site", query.fetch_all(&store.pool))
        .await?;
    Ok(rows.into_iter().map(read_history_row).collect())
}

fn read_history_row(row: HistoryRow) -> HistoryColumn {
    let (at, up, down, missed, gap, dns, connect, tls, first_byte, histogram) = row;
    HistoryColumn {
        at: at.into(),
        up,
        down,
        missed,
        gap,
        phase_sums_us: [dns, connect, tls, first_byte],
        histogram: histogram.as_deref().map(read_histogram).unwrap_or_default(),
    }
}

/// Counts of a histogram: bucket b is in the decimal digits 8b to 8b+7.
fn read_histogram(digits: &str) -> Vec<(usize, u64)> {
    let bytes = digits.as_bytes();
    bytes
        .rchunks(BUCKET_DIGITS)
        .enumerate()
        .filter_map(|(bucket, digits)| {
            let count = std::str::from_utf8(digits).ok()?.parse().ok()?;
            (count > 0).then_some((bucket, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_is_read_by_eight_digits_from_the_right() {
        assert_eq!(read_histogram("0"), []);
        assert_eq!(read_histogram("7"), [(0, 7)]);
        assert_eq!(read_histogram("1200000007"), [(0, 7), (1, 12)]);
        assert_eq!(read_histogram("30000000000000000"), [(2, 3)]);
        assert_eq!(read_histogram("nonsense"), []);
    }
}
