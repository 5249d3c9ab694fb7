//! The history of a site in columns of equal length, for its charts.

use std::time::Duration;

use picket_proto::{RegionName, SiteId, Timestamp};

use super::latency::decode_histogram;
use crate::{DbTimestamp, Error, Store, leases::to_millis};

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
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(
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
        .bind(to_millis(step))
        .fetch_all(&mut *transaction)
        .await
    };
    let rows: Vec<HistoryRow> = store.read_for_page("read the history of the site", read).await?;
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
        histogram: decode_histogram(&histogram.unwrap_or_default())
            .into_iter()
            .map(|(bucket, count)| (bucket.into(), count.into()))
            .collect(),
    }
}
