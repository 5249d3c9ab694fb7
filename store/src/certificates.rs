//! Certificates that sites present.

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
/// that many days left. A certificate that took the place of another one is listed once its check is
/// rolled up, within half an hour.
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
