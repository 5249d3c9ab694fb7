//! What responses about the history of a site consist of.

use picket_store::{
    DbTimestamp,
    site_history::{CheckRow, HeatColumn, LatencyBucket, TickSums},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::v1::api_row::api_row;

/// Durations of the phases of a check, in microseconds. A phase that did not happen is null.
#[derive(Serialize, ToSchema)]
struct CheckTiming {
    /// Time to resolve the name.
    dns_us: Option<i32>,
    /// Time to connect.
    connect_us: Option<i32>,
    /// Time of the TLS handshake.
    tls_us: Option<i32>,
    /// From the established connection to the head of the response.
    first_byte_us: Option<i32>,
    /// From the head of the response to the end of its body.
    transfer_us: Option<i32>,
    /// Time of the whole check.
    total_us: Option<i32>,
}

/// A check, with the names of its result on NATS.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "site_id": 7, "region": "eu-west", "kind": "scheduled", "prober": "host-7f3a", "scheduled_at": "2026-11-20T12:00:00.000000Z",
    "started_at": "2026-11-20T12:00:00.004211Z", "lateness_us": 4211, "outcome": "up", "cause": null, "message": null,
    "http_status": 200, "http_version": "2", "remote_addr": "93.184.216.34:443", "timing": {"dns_us": 1200, "connect_us": 8100,
    "tls_us": 9500, "first_byte_us": 15200, "transfer_us": 300, "total_us": 34300}, "redirects": 0, "body_bytes": 1256,
    "regex_matched": true, "tls_expires_at": "2027-01-15T23:59:59.000000Z", "warnings": [], "details": null
}))]
pub(super) struct SiteCheck {
    /// Id of the site.
    site_id: i64,
    /// Region of the prober.
    region: String,
    /// `scheduled` for a tick, `confirm` for a confirmation.
    kind: String,
    /// The prober; null if none ran the check.
    prober: Option<String>,
    /// Due time of the check.
    #[schema(value_type = String, format = DateTime)]
    scheduled_at: DbTimestamp,
    /// Start of the check; null if it never started.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<DbTimestamp>,
    /// From the due time to the start.
    lateness_us: Option<i32>,
    /// `up`, `down` or `missed`.
    outcome: String,
    /// Cause of a check that was not up.
    cause: Option<String>,
    /// The cause in words.
    message: Option<String>,
    /// Status of the last response.
    http_status: Option<i16>,
    /// Version of HTTP.
    http_version: Option<String>,
    /// Address and port of the last connection.
    remote_addr: Option<String>,
    /// Durations of the phases.
    timing: CheckTiming,
    /// Number of redirects.
    redirects: i16,
    /// Bytes of the decoded body that were read.
    body_bytes: Option<i32>,
    /// True if the regex matched; null without a regex.
    regex_matched: Option<bool>,
    /// End of the certificate.
    #[schema(value_type = Option<String>, format = DateTime)]
    tls_expires_at: Option<DbTimestamp>,
    /// Properties of an up result that need attention.
    warnings: Vec<String>,
    /// Observations that depend on the type of check.
    details: Option<Value>,
}

impl From<CheckRow> for SiteCheck {
    fn from(row: CheckRow) -> Self {
        Self {
            site_id: row.site_id,
            region: row.region,
            kind: row.kind,
            prober: row.prober,
            scheduled_at: row.scheduled_at,
            started_at: row.started_at,
            lateness_us: row.lateness_us,
            outcome: row.outcome,
            cause: row.cause,
            message: row.message,
            http_status: row.http_status,
            http_version: row.http_version,
            remote_addr: row.remote_addr,
            timing: CheckTiming {
                dns_us: row.dns_us,
                connect_us: row.connect_us,
                tls_us: row.tls_us,
                first_byte_us: row.first_byte_us,
                transfer_us: row.transfer_us,
                total_us: row.total_us,
            },
            redirects: row.redirects,
            body_bytes: row.body_bytes,
            regex_matched: row.regex_matched,
            tls_expires_at: row.tls_expires_at,
            warnings: row.warnings.unwrap_or_default(),
            details: row.details,
        }
    }
}

api_row! {
    /// Response times of a part of a span in one region, of the checks that were up.
    LatencyPart from LatencyBucket {
        /// Start of the part.
        #[schema(value_type = String, format = DateTime)]
        from: DbTimestamp,
        /// Name of the region.
        region: String,
        /// Number of `up` checks.
        checks: i64,
        /// Median duration.
        p50_us: Option<i32>,
        /// 95th percentile of the duration.
        p95_us: Option<i32>,
        /// 99th percentile of the duration.
        p99_us: Option<i32>,
        /// Mean time to resolve the name.
        dns_us: Option<f64>,
        /// Mean time to connect.
        connect_us: Option<f64>,
        /// Mean time of the TLS handshake.
        tls_us: Option<f64>,
        /// Mean time from the established connection to the head of the response.
        first_byte_us: Option<f64>,
    }
}

api_row! {
    /// How many checks of a part of a span took how long.
    HistogramPart from HeatColumn {
        /// Start of the part.
        #[schema(value_type = String, format = DateTime)]
        from: DbTimestamp,
        /// Pairs of a bucket and its number of checks. Buckets are those of `picket.bucket_us`, accurate to 4.43 %.
        #[schema(value_type = Vec<[u32; 2]>)]
        counts: Vec<(u8, u32)>,
    }
}

api_row! {
    /// Ticks of a site in a region.
    RegionUptime from TickSums {
        /// Name of the region.
        region: String,
        /// Number of ticks due.
        checks: i64,
        /// Number of `up` checks.
        up: i64,
        /// Number of `down` checks.
        down: i64,
        /// Number of `missed` ticks.
        missed: i64,
        /// Number of ticks inside a recorded gap.
        gap: i64,
        /// Percentage: up of (up + down).
        uptime_pct: Option<f64>,
        /// Percentage as above, without maintenance windows.
        uptime_pct_excl_maintenance: Option<f64>,
        /// Percentage: (up + down) of checks.
        coverage_pct: Option<f64>,
    }
}
