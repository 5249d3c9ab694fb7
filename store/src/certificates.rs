//! Certificates that sites present.

use std::time::Duration;

use picket_proto::Timestamp;
use serde::Serialize;
use sqlx::FromRow;

use crate::{DbTimestamp, Error, Store};

/// A row of `report.certificates`.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct CertificateRow {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// URL of the site.
    pub url: String,
    /// End of the certificate; the earliest if regions receive different ones.
    pub expires_at: DbTimestamp,
    /// Days until then.
    pub days_left: i32,
}

/// Lists a page of certificates, the soonest to expire first, after the one with the expiry and site
/// in `after`. `tags` limits the list to sites with one of them, `days` to certificates with at most
/// that many days left.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_certificates(
    store: &Store,
    tags: Option<&[String]>,
    days: Option<i32>,
    after: Option<(Timestamp, i64)>,
    limit: i64,
) -> Result<Vec<CertificateRow>, Error> {
    let query = sqlx::query_as(
        "SELECT seen.site_id, left(seen.site, 1000) AS site, left(seen.url, 4096) AS url, seen.expires_at, seen.days_left
         FROM report.certificates AS seen
         WHERE ($1::text[] IS NULL OR seen.site_id = ANY (ARRAY(SELECT id FROM picket.sites WHERE tags && $1)))
           AND isfinite(seen.expires_at) AND ($2::integer IS NULL OR seen.days_left <= $2)
           AND ($3::timestamptz IS NULL OR (seen.expires_at, seen.site_id) > ($3, $4::bigint))
         ORDER BY seen.expires_at, seen.site_id LIMIT $5",
    )
    .bind(tags)
    .bind(days)
    .bind(after.map(|(at, _)| DbTimestamp(at)))
    .bind(after.map(|(_, id)| id))
    .bind(limit);
    store.with_timeout(Duration::from_secs(30), "list certificates", query.fetch_all(&store.pool)).await
}
