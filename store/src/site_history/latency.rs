//! Response times of a site over a span: percentiles, means of phases, heat map.

use picket_proto::{RegionName, SiteId, ValidationError};
use serde::Serialize;

use super::{MAX_HOURLY_SECONDS, Span};
use crate::{DbTimestamp, Error, Store};

/// Maximum number of buckets of a series.
const MAX_BUCKETS: u32 = 500;
/// Longest span of which rows are read.
const MAX_ROWS_SECONDS: u64 = 3 * 3_600;

/// Response times of a part of a span in one region.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct LatencyBucket {
    /// Start of the part.
    pub from: DbTimestamp,
    /// Name of the region.
    pub region: String,
    /// Number of `up` checks, which the times are of.
    pub checks: i64,
    /// Median duration.
    pub p50_us: Option<i32>,
    /// 95th percentile of the duration.
    pub p95_us: Option<i32>,
    /// 99th percentile of the duration.
    pub p99_us: Option<i32>,
    /// Mean time of DNS; absent for spans of more than 62 days, as the other phases are.
    pub dns_us: Option<f64>,
    /// Mean time to connect.
    pub connect_us: Option<f64>,
    /// Mean time of TLS handshakes.
    pub tls_us: Option<f64>,
    /// Mean time to the first byte.
    pub first_byte_us: Option<f64>,
}

/// A column of a heat map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeatColumn {
    /// Start of the part.
    pub from: DbTimestamp,
    /// Number of `up` checks by bucket: bucket b has the times from 128 µs * 2^(b/8) on.
    pub counts: Vec<(u8, u32)>,
}

/// Source and width of the parts of a span.
enum Resolution {
    Rows { seconds: u64 },
    Hours { hours: u64 },
    Days { days: u64 },
}

impl Resolution {
    fn choose(span: Span, max_buckets: u32, has_rows: bool) -> Result<Self, ValidationError> {
        if !(1..=MAX_BUCKETS).contains(&max_buckets) {
            return Err(ValidationError::new("buckets", max_buckets, format!("1 to {MAX_BUCKETS}")));
        }
        // One part more than fits may be touched at either end.
        let parts = u64::from(max_buckets).saturating_sub(1).max(1);
        let seconds = span.seconds();
        Ok(match seconds {
            ..=MAX_ROWS_SECONDS if has_rows => Self::Rows { seconds: seconds.div_ceil(parts).max(1) },
            ..=MAX_HOURLY_SECONDS => Self::Hours { hours: seconds.div_ceil(3_600).div_ceil(parts).max(1) },
            _ => Self::Days { days: seconds.div_ceil(86_400).div_ceil(parts).max(1) },
        })
    }

    /// The width as a text for an interval.
    fn width(&self) -> String {
        match self {
            Self::Rows { seconds } => format!("{seconds} seconds"),
            Self::Hours { hours } => format!("{hours} hours"),
            Self::Days { days } => format!("{days} days"),
        }
    }
}

/// Sums of parts, from hours. $1 is the site, $2 and $3 the span, $4 the region and $5 the width.
const PARTS_OF_HOURS: &str =
    "SELECT date_bin($5::text::interval, hour, timestamptz '2000-01-01 00:00Z') AS \"from\", region_id,
    up, histogram, dns_us, connect_us, tls_us, first_byte_us
    FROM picket.hourly WHERE site_id = $1 AND hour >= picket.hour_of($2) AND hour < $3";
/// The same from days, without phases.
const PARTS_OF_DAYS: &str = "SELECT date_bin($5::text::interval, picket.start_of_day(day), timestamptz '2000-01-01 00:00Z') AS \"from\",
    region_id, up, histogram, NULL::float8 AS dns_us, NULL::float8 AS connect_us, NULL::float8 AS tls_us,
    NULL::float8 AS first_byte_us
    FROM picket.daily WHERE site_id = $1 AND day >= picket.day_of($2) AND day <= picket.day_of($3 - interval '1 microsecond')";

/// Lists response times by part of the span and region, at most `max_buckets` parts. Up to three
/// hours are read from rows and exact; longer spans are from rollups, accurate to 4.43 %, in whole
/// hours up to 62 days, else in days.
///
/// # Errors
/// If the number of buckets is not allowed, or the database cannot be reached in time.
pub async fn list_latency(
    store: &Store,
    site: SiteId,
    region: Option<&RegionName>,
    span: Span,
    max_buckets: u32,
) -> Result<Vec<LatencyBucket>, Error> {
    let resolution = Resolution::choose(span, max_buckets, true)?;
    let sql = match resolution {
        Resolution::Rows { .. } => include_str!("latency_of_rows.sql").to_owned(),
        Resolution::Hours { .. } | Resolution::Days { .. } => {
            let parts =
                if matches!(resolution, Resolution::Hours { .. }) { PARTS_OF_HOURS } else { PARTS_OF_DAYS };
            format!(
                "SELECT summed.\"from\", region.name AS region, checks, picket.bucket_us(p[3]) AS p50_us,
                        picket.bucket_us(p[2]) AS p95_us, picket.bucket_us(p[1]) AS p99_us, nullif(summed.dns_us, 0) / checks AS dns_us,
                        nullif(summed.connect_us, 0) / checks AS connect_us, nullif(summed.tls_us, 0) / checks AS tls_us,
                        nullif(summed.first_byte_us, 0) / checks AS first_byte_us
                 FROM (SELECT \"from\", region_id, sum(up)::bigint AS checks, sum(dns_us) AS dns_us,
                              sum(connect_us) AS connect_us, sum(tls_us) AS tls_us, sum(first_byte_us) AS first_byte_us,
                              picket.percentile_buckets(sum(histogram), sum(up)::bigint, '{{0.99,0.95,0.5}}') AS p
                       FROM ({parts}) AS part GROUP BY \"from\", region_id) AS summed
                 JOIN picket.regions AS region ON region.id = summed.region_id
                 WHERE checks > 0 AND ($4::text IS NULL OR region.name = $4) ORDER BY summed.\"from\", region.name"
            )
        }
    };
    let (from, to) = span.bounds();
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(site.0)
            .bind(from)
            .bind(to)
            .bind(region.map(RegionName::as_str))
            .bind(resolution.width())
            .fetch_all(&mut *transaction)
            .await
    };
    store.read_for_page("read response times", read).await
}

/// Loads the heat map of a span: how many checks took how long, by part, at most `max_buckets`
/// parts of whole hours, or of days for more than 62 days.
///
/// # Errors
/// If the number of buckets is not allowed, or the database cannot be reached in time.
pub async fn load_heat_map(
    store: &Store,
    site: SiteId,
    region: Option<&RegionName>,
    span: Span,
    max_buckets: u32,
) -> Result<Vec<HeatColumn>, Error> {
    let resolution = Resolution::choose(span, max_buckets, false)?;
    let parts = if matches!(resolution, Resolution::Hours { .. }) { PARTS_OF_HOURS } else { PARTS_OF_DAYS };
    let sql = format!(
        "SELECT part.\"from\", sum(part.histogram)::text FROM ({parts}) AS part
         JOIN picket.regions AS region ON region.id = part.region_id
         WHERE part.histogram IS NOT NULL AND ($4::text IS NULL OR region.name = $4)
         GROUP BY part.\"from\" ORDER BY part.\"from\""
    );
    let (from, to) = span.bounds();
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(site.0)
            .bind(from)
            .bind(to)
            .bind(region.map(RegionName::as_str))
            .bind(resolution.width())
            .fetch_all(&mut *transaction)
            .await
    };
    let rows: Vec<(DbTimestamp, String)> = store.read_for_page("read the heat map", read).await?;
    Ok(rows
        .into_iter()
        .map(|(from, digits)| HeatColumn { from, counts: decode_histogram(&digits) })
        .collect())
}

/// Decodes the decimal digits of a histogram, eight a bucket from the right.
pub(super) fn decode_histogram(digits: &str) -> Vec<(u8, u32)> {
    let chunks = digits.as_bytes().rchunks(8).zip(0_u8..);
    chunks
        .filter_map(|(chunk, bucket)| {
            let count = std::str::from_utf8(chunk).ok()?.parse().ok().filter(|count| *count > 0)?;
            Some((bucket, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_of_a_histogram_are_counts_by_bucket() {
        assert_eq!(decode_histogram("0"), []);
        assert_eq!(decode_histogram("7"), [(0, 7)]);
        assert_eq!(decode_histogram("120000000000000034"), [(0, 34), (2, 12)]);
        assert_eq!(decode_histogram("1200000007"), [(0, 7), (1, 12)]);
        assert_eq!(decode_histogram("30000000000000000"), [(2, 3)]);
        assert_eq!(decode_histogram("nonsense"), []);
    }
}
