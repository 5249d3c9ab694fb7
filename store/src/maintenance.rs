//! Windows of maintenance: checks go on and are kept, incidents do not open.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp, ValidationError};
use serde::Serialize;

use crate::{DbTimestamp, Error, Store};

const MAINTENANCE_TIMEOUT: Duration = Duration::from_secs(30);

/// What is in maintenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaintenanceTarget {
    /// One site.
    Site(SiteId),
    /// All sites that carry a tag.
    Tag(String),
}

/// A window as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct MaintenanceWindow {
    /// Its number.
    pub id: i64,
    /// The site, if it is of one.
    pub site_id: Option<i64>,
    /// The site's name or URL; absent when there is no such site any more.
    pub site: Option<String>,
    /// The tag, if it is of all that carry it.
    pub tag: Option<String>,
    /// Its beginning.
    pub from: Timestamp,
    /// The first moment after it; absent where it lasts until further notice.
    pub to: Option<Timestamp>,
    /// `planned`, `now` or `over`.
    pub state: String,
}

/// Adds a window, which without `to` lasts until further notice; returns its number.
///
/// # Errors
/// When it ends before it begins, there is no such site, or the database cannot be reached in time.
pub async fn add_window(
    store: &Store,
    scope: &MaintenanceTarget,
    from: Timestamp,
    to: Option<Timestamp>,
) -> Result<i64, Error> {
    if let Some(to) = to.filter(|to| *to <= from) {
        return Err(ValidationError::new("to", to, format!("a time after {from}")).into());
    }
    let (site, tag) = match scope {
        MaintenanceTarget::Site(site) => (Some(site.0), None),
        MaintenanceTarget::Tag(tag) => (None, Some(tag)),
    };
    let added: Option<i64> = store
        .with_timeout(
            MAINTENANCE_TIMEOUT,
            "add a window of maintenance",
            sqlx::query_scalar(
                "INSERT INTO picket.maintenance (site_id, tag, window_from, window_to)
                 SELECT $1, $2, $3, coalesce($4, 'infinity') WHERE $1::bigint IS NULL OR EXISTS (SELECT FROM picket.sites WHERE id = $1)
                 RETURNING id",
            )
            .bind(site)
            .bind(tag)
            .bind(DbTimestamp(from))
            .bind(to.map(DbTimestamp))
            .fetch_optional(&store.pool),
        )
        .await?;
    added.ok_or_else(|| Error::SiteNotFound(SiteId(site.unwrap_or_default())))
}

type WindowRow = (i64, Option<i64>, Option<String>, Option<String>, DbTimestamp, DbTimestamp, String);

/// The windows, the newest first: those that are over too if `all`.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn list_windows(store: &Store, all: bool) -> Result<Vec<MaintenanceWindow>, Error> {
    let rows: Vec<WindowRow> = store
        .with_timeout(
            MAINTENANCE_TIMEOUT,
            "list windows of maintenance",
            sqlx::query_as(
                "SELECT maintenance.id, maintenance.site_id, site.site, maintenance.tag, window_from, window_to,
                        CASE WHEN window_to <= now() THEN 'over' WHEN window_from <= now() THEN 'now' ELSE 'planned' END
                 FROM picket.maintenance AS maintenance
                 LEFT JOIN picket.known_sites AS site ON site.id = maintenance.site_id
                 WHERE $1 OR window_to > now()
                 ORDER BY window_from DESC, maintenance.id DESC",
            )
            .bind(all)
            .fetch_all(&store.pool),
        )
        .await?;
    let window = |(id, site_id, site, tag, from, to, state): WindowRow| MaintenanceWindow {
        id,
        site_id,
        site,
        tag,
        from: from.into(),
        // Infinity, or a year beyond our calendar.
        to: Some(Timestamp::from(to)).filter(|to| *to < Timestamp::MAX),
        state,
    };
    Ok(rows.into_iter().map(window).collect())
}

/// Removes a window. Says whether there was one.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn remove_window(store: &Store, id: i64) -> Result<bool, Error> {
    let done = store
        .with_timeout(
            MAINTENANCE_TIMEOUT,
            "remove a window of maintenance",
            sqlx::query("DELETE FROM picket.maintenance WHERE id = $1").bind(id).execute(&store.pool),
        )
        .await?;
    Ok(done.rows_affected() > 0)
}
