//! Certificates that sites present.

use picket_proto::{SiteId, Timestamp};
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
/// that many days left. A certificate that took the place of another one, or is the first one in more
/// than an hour of checks, is listed once its check is rolled up, within half an hour.
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
    let query = sqlx::query_as(include_str!("certificates/page.sql"))
        .bind(tags)
        .bind(days)
        .bind(after.map(|(at, _)| DbTimestamp(at)))
        .bind(after.map(|(_, id)| id))
        .bind(limit);
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        query.fetch_all(&mut *transaction).await
    };
    store.read_for_page("list certificates", read).await
}

/// The certificate that a region received from a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct SiteCertificate {
    /// Name of the region.
    pub region: String,
    /// End of the certificate.
    pub expires_at: DbTimestamp,
    /// Due time of the newest check that received it.
    pub seen_at: DbTimestamp,
}

/// Lists the newest certificate that each region received from a site, by region.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_site_certificates(store: &Store, site: SiteId) -> Result<Vec<SiteCertificate>, Error> {
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        // Rows that are not rolled up yet are found by the quarters of an hour since.
        sqlx::query_as(
            "SELECT * FROM (
                 SELECT DISTINCT ON (seen.region_id) region.name AS region, seen.expires_at, seen.seen_at
                 FROM (
                     SELECT region_id, expires_at, seen_at FROM picket.certificates WHERE site_id = $1
                     UNION ALL
                     SELECT newest.region_id, newest.tls_expires_at, newest.scheduled_at
                     FROM picket.rollup_state AS state
                     CROSS JOIN generate_series(date_bin('15 minutes', greatest(state.rolled_through, now() - interval '3 hours'),
                                                         timestamptz '2000-01-01 00:00Z'),
                                                now(), interval '15 minutes') AS quarter
                     CROSS JOIN LATERAL (
                         SELECT result.region_id, result.tls_expires_at, result.scheduled_at
                         FROM picket.check_results AS result
                         WHERE date_bin('15 minutes', result.scheduled_at, timestamptz '2000-01-01 00:00Z') = quarter
                           AND result.scheduled_at >= quarter AND result.scheduled_at < quarter + interval '15 minutes'
                           AND result.site_id = $1 AND result.kind = 'scheduled' AND result.tls_expires_at IS NOT NULL
                         OFFSET 0
                     ) AS newest
                 ) AS seen
                 JOIN picket.regions AS region ON region.id = seen.region_id
                 WHERE isfinite(seen.expires_at)
                 ORDER BY seen.region_id, seen.seen_at DESC
             ) AS certificate ORDER BY region",
        )
        .bind(site.0)
        .fetch_all(&mut *transaction)
        .await
    };
    store.read_for_page("list certificates of the site", read).await
}
