//! Maintenance windows. Checks continue and are recorded, but open no incidents.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp, ValidationError, site::SiteSpec};
use serde::Serialize;

use crate::{DbTimestamp, Error, RowVersion, Store};

const MAINTENANCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Target of a maintenance window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaintenanceTarget {
    /// A single site.
    Site(SiteId),
    /// All sites with a tag.
    Tag(String),
}

/// A row of the window list.
#[derive(Clone, Debug, Serialize)]
pub struct MaintenanceWindow {
    /// Id of the window.
    pub id: i64,
    /// The site, for a window of one site.
    pub site_id: Option<i64>,
    /// Name or URL of the site; absent if the site is unknown.
    pub site: Option<String>,
    /// The tag, for a window of all sites with a tag.
    pub tag: Option<String>,
    /// Start of the window.
    pub from: Timestamp,
    /// Exclusive end; absent for an open-ended window.
    pub to: Option<Timestamp>,
    /// `planned`, `now` or `over`.
    pub state: String,
    /// Version, which each change replaces.
    #[serde(skip)]
    pub version: RowVersion,
}

/// Adds a window, open-ended without `to`; returns its id.
///
/// # Errors
/// If the window ends before it begins, no site may have the tag, there is no such site, or the
/// database cannot be reached in time.
pub async fn add_window(
    store: &Store,
    scope: &MaintenanceTarget,
    from: Timestamp,
    to: Option<Timestamp>,
) -> Result<i64, Error> {
    check_order(from, to)?;
    let (site, tag) = match scope {
        MaintenanceTarget::Site(site) => (Some(site.0), None),
        MaintenanceTarget::Tag(tag) => {
            SiteSpec::check_tag("tag", tag)?;
            (None, Some(tag))
        }
    };
    let added: Option<i64> = store
        .with_timeout(
            MAINTENANCE_TIMEOUT,
            "add the maintenance window",
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
    // No row was inserted because the site does not exist.
    added.ok_or_else(|| Error::SiteNotFound(SiteId(site.unwrap_or_default())))
}

type WindowRow = (i64, Option<i64>, Option<String>, Option<String>, DbTimestamp, DbTimestamp, String, String);

/// Selection of windows.
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowFilter<'a> {
    /// Includes windows that are over.
    pub all: bool,
    /// Only the window with this id.
    pub id: Option<i64>,
    /// Only windows of sites with one of these tags, and of these tags.
    pub tags: Option<&'a [String]>,
    /// Only windows after the one with this start and id, in the order of the list.
    pub after: Option<(Timestamp, i64)>,
    /// Maximum number of windows.
    pub limit: Option<i64>,
}

/// Lists the selected windows, the newest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_windows(store: &Store, filter: WindowFilter<'_>) -> Result<Vec<MaintenanceWindow>, Error> {
    let rows: Vec<WindowRow> = store
        .with_timeout(
            MAINTENANCE_TIMEOUT,
            "list maintenance windows",
            sqlx::query_as(
                "SELECT maintenance.id, maintenance.site_id, site.site, maintenance.tag, window_from, window_to,
                        CASE WHEN window_to <= now() THEN 'over' WHEN window_from <= now() THEN 'now' ELSE 'planned' END,
                        maintenance.xmin::text
                 FROM picket.maintenance AS maintenance
                 LEFT JOIN picket.known_sites AS site ON site.id = maintenance.site_id
                 WHERE ($1 OR window_to > now()) AND ($2::bigint IS NULL OR maintenance.id = $2)
                   AND ($3::text[] IS NULL OR site.tags && $3 OR maintenance.tag = ANY ($3))
                   AND ($4::timestamptz IS NULL OR (window_from, maintenance.id) < ($4, $5))
                 ORDER BY window_from DESC, maintenance.id DESC LIMIT $6",
            )
            .bind(filter.all)
            .bind(filter.id)
            .bind(filter.tags)
            .bind(filter.after.map(|(from, _)| DbTimestamp(from)))
            .bind(filter.after.map(|(_, id)| id))
            .bind(filter.limit)
            .fetch_all(&store.pool),
        )
        .await?;
    let window = |(id, site_id, site, tag, from, to, state, version): WindowRow| MaintenanceWindow {
        id,
        site_id,
        site,
        tag,
        from: from.into(),
        // Infinity, or a year outside the range of `Timestamp`.
        to: Some(Timestamp::from(to)).filter(|to| *to < Timestamp::MAX),
        state,
        version: version.into(),
    };
    Ok(rows.into_iter().map(window).collect())
}

/// Moves a window that still has `version`, open-ended without `to`. Returns false if the window is
/// missing or has another version.
///
/// # Errors
/// If the window ends before it begins, or the database cannot be reached in time.
pub async fn move_window(
    store: &Store,
    id: i64,
    version: &RowVersion,
    from: Timestamp,
    to: Option<Timestamp>,
) -> Result<bool, Error> {
    check_order(from, to)?;
    let done = store
        .with_timeout(
            MAINTENANCE_TIMEOUT,
            "move the maintenance window",
            sqlx::query(
                "UPDATE picket.maintenance SET window_from = $2, window_to = coalesce($3, 'infinity')
                 WHERE id = $1 AND xmin::text = $4",
            )
            .bind(id)
            .bind(DbTimestamp(from))
            .bind(to.map(DbTimestamp))
            .bind(version.as_str())
            .execute(&store.pool),
        )
        .await?;
    Ok(done.rows_affected() > 0)
}

fn check_order(from: Timestamp, to: Option<Timestamp>) -> Result<(), ValidationError> {
    match to.filter(|to| *to <= from) {
        Some(to) => Err(ValidationError::new("to", to, format!("a time after {from}"))),
        None => Ok(()),
    }
}

/// Removes a window; with `version`, only if it still has it. Returns false if there is no such window.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn remove_window(store: &Store, id: i64, version: Option<&RowVersion>) -> Result<bool, Error> {
    let done = store
        .with_timeout(
            MAINTENANCE_TIMEOUT,
            "remove the maintenance window",
            sqlx::query(
                "DELETE FROM picket.maintenance WHERE id = $1 AND ($2::text IS NULL OR xmin::text = $2)",
            )
            .bind(id)
            .bind(version.map(RowVersion::as_str))
            .execute(&store.pool),
        )
        .await?;
    Ok(done.rows_affected() > 0)
}
