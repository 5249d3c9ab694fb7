//! Results of ad-hoc checks, as they are stored.

use std::time::Duration;

use picket_proto::{CheckKind, CheckResult, MESSAGE_VERSION, Timestamp, Timing, Warning};
use sqlx::types::Json;

use crate::{DbTimestamp, Error, Store};

#[derive(sqlx::FromRow)]
struct AdhocRow {
    requested_at: DbTimestamp,
    started_at: Option<DbTimestamp>,
    id: String,
    region: String,
    prober: String,
    url: String,
    outcome: String,
    cause: Option<String>,
    message: Option<String>,
    http_status: Option<i16>,
    http_version: Option<String>,
    remote_addr: Option<String>,
    dns_us: Option<i32>,
    connect_us: Option<i32>,
    tls_us: Option<i32>,
    first_byte_us: Option<i32>,
    transfer_us: Option<i32>,
    total_us: Option<i32>,
    redirects: i16,
    body_bytes: Option<i32>,
    regex_matched: Option<bool>,
    tls_expires_at: Option<DbTimestamp>,
    warnings: Option<Vec<String>>,
    details: Option<Json<picket_proto::result::Details>>,
}

impl AdhocRow {
    /// The result, or `None` if the row has words that no version of Picket writes.
    fn into_result(self) -> Option<CheckResult> {
        let micros = |column: Option<i32>| column.map(i32::unsigned_abs);
        let warnings = self.warnings.unwrap_or_default();
        Some(CheckResult {
            v: MESSAGE_VERSION,
            id: self.id,
            site_id: None,
            kind: CheckKind::Adhoc,
            region: self.region.parse().ok()?,
            shard: None,
            prober: self.prober,
            url: self.url,
            scheduled_at: self.requested_at.into(),
            expires_at: None,
            started_at: self.started_at.map(Timestamp::from),
            outcome: self.outcome.parse().ok()?,
            cause: self.cause.and_then(|cause| cause.parse().ok()),
            message: self.message,
            http_status: self.http_status.map(i16::unsigned_abs),
            http_version: self.http_version,
            remote_addr: self.remote_addr,
            timing: Timing {
                dns_us: micros(self.dns_us),
                connect_us: micros(self.connect_us),
                tls_us: micros(self.tls_us),
                first_byte_us: micros(self.first_byte_us),
                transfer_us: micros(self.transfer_us),
                total_us: micros(self.total_us),
            },
            redirects: u8::try_from(self.redirects).unwrap_or(u8::MAX),
            body_bytes: self.body_bytes.map_or(0, |bytes| bytes.unsigned_abs().into()),
            regex_matched: self.regex_matched,
            tls_expires_at: self.tls_expires_at.map(Timestamp::from),
            warnings: warnings.iter().filter_map(|word| word.parse::<Warning>().ok()).collect(),
            details: self.details.map(|details| details.0),
            requires: Vec::new(),
            installation: None,
            ticket: None,
        })
    }
}

/// Lists the stored results of an ad-hoc request, at most 1,000 of them, by region. The requester
/// chose the id, and may have used it before.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_adhoc_results(store: &Store, id: &str) -> Result<Vec<CheckResult>, Error> {
    let query = sqlx::query_as(
        "SELECT requested_at, started_at, id, region, prober, url, outcome::text AS outcome, cause::text AS cause,
                message, http_status, http_version, remote_addr, dns_us, connect_us, tls_us, first_byte_us,
                transfer_us, total_us, redirects, body_bytes, regex_matched, tls_expires_at,
                warnings::text[] AS warnings, details
         FROM picket.adhoc_results WHERE id = $1 ORDER BY region, requested_at LIMIT 1000",
    );
    let query = query.bind(id).fetch_all(&store.pool);
    let rows: Vec<AdhocRow> =
        store.with_timeout(Duration::from_secs(10), "read the results of an ad-hoc check", query).await?;
    Ok(rows.into_iter().filter_map(AdhocRow::into_result).collect())
}
