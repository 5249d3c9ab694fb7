//! The checks of a site, row by row.

use std::time::Duration;

use picket_proto::{CheckKind, Outcome, RegionName, SiteId, Timestamp, ValidationError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Span;
use crate::{
    DbTimestamp, Error, Store,
    site_list::{Page, check_page_limit, decode_cursor, encode_cursor, take_next_cursor},
};

/// A row of a check, with the names of messages.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct CheckRow {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the region.
    pub region: String,
    /// `scheduled` or `confirm`.
    pub kind: String,
    /// Due time of the check.
    pub scheduled_at: DbTimestamp,
    /// Start of the check; absent if it never started.
    pub started_at: Option<DbTimestamp>,
    /// From `scheduled_at` to `started_at`.
    pub lateness_us: Option<i32>,
    /// `up`, `down` or `missed`.
    pub outcome: String,
    /// Cause of a failed or missed check.
    pub cause: Option<String>,
    /// The cause in words.
    pub message: Option<String>,
    /// Status of the last response.
    pub http_status: Option<i16>,
    /// HTTP version of the last response.
    pub http_version: Option<String>,
    /// Number of redirects.
    pub redirects: i16,
    /// Address and port of the last connection.
    pub remote_addr: Option<String>,
    /// Time to resolve the name.
    pub dns_us: Option<i32>,
    /// Time to connect.
    pub connect_us: Option<i32>,
    /// Time of the TLS handshake.
    pub tls_us: Option<i32>,
    /// From the connection to the head of the response.
    pub first_byte_us: Option<i32>,
    /// From the head of the response to the end of its body.
    pub transfer_us: Option<i32>,
    /// Time of the whole check.
    pub total_us: Option<i32>,
    /// Bytes of the decoded body that were read.
    pub body_bytes: Option<i32>,
    /// Whether the regex matched.
    pub regex_matched: Option<bool>,
    /// Expiry of the certificate.
    pub tls_expires_at: Option<DbTimestamp>,
    /// The prober.
    pub prober: Option<String>,
    /// Properties of an `up` result that need attention.
    pub warnings: Option<Vec<String>>,
    /// Observations that depend on the type of check.
    pub details: Option<Value>,
    /// Id of the region, which is part of the order of rows.
    #[serde(skip)]
    pub region_id: i16,
}

const CHECK_COLUMNS: &str = "result.site_id, region.name AS region, result.kind::text AS kind, result.scheduled_at,
    result.scheduled_at + result.lateness_us * interval '1 microsecond' AS started_at, result.lateness_us,
    result.outcome::text AS outcome, result.cause::text AS cause, result.message, result.http_status, result.http_version,
    result.redirects, result.remote_addr, result.dns_us, result.connect_us, result.tls_us, result.first_byte_us,
    result.transfer_us, result.total_us, result.body_bytes, result.regex_matched, result.tls_expires_at, result.prober,
    result.warnings::text[] AS warnings, result.details, result.region_id";

/// Selection of checks.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChecksFilter<'a> {
    /// A region; all if absent.
    pub region: Option<&'a RegionName>,
    /// An outcome; all if absent.
    pub outcome: Option<Outcome>,
    /// Scheduled or confirmation checks; both if absent.
    pub kind: Option<CheckKind>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckPosition {
    /// Due time, in microseconds since 1970.
    scheduled_us: i64,
    region: i16,
    kind: String,
}

/// Lists a page of the checks of a site within a span, the newest first.
///
/// # Errors
/// If the cursor or the limit is not allowed, or the database cannot be reached in time.
pub async fn list_checks_page(
    store: &Store,
    site: SiteId,
    span: Span,
    filter: ChecksFilter<'_>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<CheckRow>, Error> {
    let limit = check_page_limit(limit)?;
    let after = cursor
        .map(|cursor| {
            let CheckPosition { scheduled_us, region, kind } = decode_cursor(cursor)?;
            Ok((DbTimestamp(Timestamp::from_micros(scheduled_us)), region, kind.parse()?))
        })
        .transpose()
        .map_err(|error: ValidationError| error)?;
    let rows = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let read = fetch_checks(store, site, span, filter, after, rows);
    let mut items = store.read_for_page("list the site's checks", read).await?;
    let next_cursor = take_next_cursor(&mut items, limit, |last| {
        encode_cursor(&CheckPosition {
            scheduled_us: last.scheduled_at.0.as_micros(),
            region: last.region_id,
            kind: last.kind.clone(),
        })
    });
    Ok(Page { items, next_cursor })
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
) -> Result<Vec<CheckRow>, Error> {
    let span = Span { from, to: to.saturating_add(Duration::from_micros(1)) };
    let read = fetch_checks(store, site, span, ChecksFilter::default(), None, limit);
    store.read_for_page("list checks of the site", read).await
}

/// Fetches the newest checks of a site within a span, `rows` at most, after the one with a due time,
/// region and kind.
async fn fetch_checks(
    store: &Store,
    site: SiteId,
    span: Span,
    filter: ChecksFilter<'_>,
    after: Option<(DbTimestamp, i16, CheckKind)>,
    rows: i64,
) -> Result<Vec<CheckRow>, sqlx::Error> {
    let (from, to) = span.bounds();
    // One quarter of an hour after the other, the newest first, because an index begins with them.
    // The lateral part is computed for one quarter at a time until the page is full.
    let sql = format!(
        "SELECT * FROM (
             SELECT result.*
             FROM generate_series(date_bin('15 minutes', least($3, coalesce($7, $3), now() + interval '1 hour'),
                                           timestamptz '2000-01-01 00:00Z'),
                                  date_bin('15 minutes', greatest($2, picket.retained_since()), timestamptz '2000-01-01 00:00Z'),
                                  interval '-15 minutes') AS quarter
             CROSS JOIN LATERAL (
                 SELECT {CHECK_COLUMNS}
                 FROM picket.check_results AS result
                 JOIN picket.regions AS region ON region.id = result.region_id
                 WHERE date_bin('15 minutes', result.scheduled_at, timestamptz '2000-01-01 00:00Z') = quarter
                   AND result.scheduled_at >= quarter AND result.scheduled_at < quarter + interval '15 minutes'
                   AND result.site_id = $1 AND result.scheduled_at >= $2 AND result.scheduled_at < $3
                   AND ($4::text IS NULL OR region.name = $4)
                   AND ($5::text IS NULL OR result.outcome = $5::text::picket.outcome)
                   AND ($6::text IS NULL OR result.kind = $6::text::picket.kind)
                   AND ($7::timestamptz IS NULL OR (result.scheduled_at, result.region_id, result.kind)
                                                   < ($7, $8::smallint, $9::text::picket.kind))
                 ORDER BY result.scheduled_at DESC, result.region_id DESC, result.kind DESC
                 OFFSET 0
             ) AS result
             LIMIT $10
         ) AS page ORDER BY scheduled_at DESC, region_id DESC, kind::picket.kind DESC"
    );
    let mut transaction = store.begin_page_read().await?;
    sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(site.0)
        .bind(from)
        .bind(to)
        .bind(filter.region.map(RegionName::as_str))
        .bind(filter.outcome.map(|outcome| outcome.as_str()))
        .bind(filter.kind.map(|kind| kind.as_str()))
        .bind(after.map(|(at, ..)| at))
        .bind(after.map(|(_, region, _)| region))
        .bind(after.map(|(.., kind)| kind.as_str()))
        .bind(rows)
        .fetch_all(&mut *transaction)
        .await
}

/// Returns one check; `None` if there is no such row.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_check(
    store: &Store,
    site: SiteId,
    region: &RegionName,
    scheduled_at: Timestamp,
    kind: CheckKind,
) -> Result<Option<CheckRow>, Error> {
    let sql = format!(
        "SELECT {CHECK_COLUMNS} FROM picket.check_results AS result
         JOIN picket.regions AS region ON region.id = result.region_id
         WHERE result.scheduled_at = $1 AND result.site_id = $2 AND region.name = $3 AND result.kind = $4::text::picket.kind"
    );
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(DbTimestamp(scheduled_at))
            .bind(site.0)
            .bind(region.as_str())
            .bind(kind.as_str())
            .fetch_optional(&mut *transaction)
            .await
    };
    store.read_for_page("read the check", read).await
}
