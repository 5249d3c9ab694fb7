//! What reports read: the state of sites, and their last results.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp};
use serde::Serialize;

use crate::{DbTimestamp, Error, Store};

/// A report may read much; it is not worth more than this.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);

/// A row of `report.site_status`, with the site's problem.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct SiteStatus {
    /// Its number.
    pub site_id: i64,
    /// Its name, or its URL.
    pub site: String,
    /// What is watched.
    pub url: String,
    /// `up`, `down`, `unknown` or `paused`.
    pub status: String,
    /// Since when it is so; absent where that is not known.
    pub since: Option<DbTimestamp>,
    /// When the newest check that counts was due.
    pub last_check_at: Option<DbTimestamp>,
    /// Regions whose newest result is `up`.
    pub regions_up: i64,
    /// Regions whose newest result is `down`.
    pub regions_down: i64,
    /// Regions that said nothing lately.
    pub regions_silent: i64,
    /// The incident that is open.
    pub incident_id: Option<i64>,
    /// Why it cannot be watched.
    pub problem: Option<String>,
}

/// A schedule in force.
#[derive(Clone, Debug, Serialize)]
pub struct RegionSchedule {
    /// Where.
    pub region: String,
    /// How often.
    pub interval_ms: i64,
    /// Since when.
    pub valid_from: Timestamp,
}

/// A row of `report.checks`, as far as it is shown beside a site.
#[derive(Clone, Debug, Serialize)]
pub struct RecentCheck {
    /// When it was due.
    pub scheduled_at: Timestamp,
    /// Where.
    pub region: String,
    /// `up`, `down` or `missed`.
    pub outcome: String,
    /// Why not up.
    pub cause: Option<String>,
    /// The cause in words.
    pub message: Option<String>,
    /// Of the last answer.
    pub http_status: Option<i16>,
    /// The whole check.
    pub total_ms: Option<f64>,
}

impl SiteStatus {
    /// When the newest check that counts was due.
    pub fn last_check(&self) -> Option<Timestamp> {
        self.last_check_at.map(Timestamp::from)
    }
}

/// How all sites are, those that need a look first.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn list_site_status(store: &Store) -> Result<Vec<SiteStatus>, Error> {
    store
        .with_timeout(
            STATUS_TIMEOUT,
            "read how the sites are",
            sqlx::query_as(
                // A name of a row that was there before names had a limit is shown in part.
                "SELECT status.site_id, left(status.site, 1000) AS site, left(status.url, 4096) AS url, status.status,
                        status.since, status.last_check_at, status.regions_up, status.regions_down,
                        status.regions_silent, status.incident_id, left(site.problem, 2000) AS problem
                 FROM report.site_status AS status JOIN picket.sites AS site ON site.id = status.site_id
                 ORDER BY array_position('{down,unknown,paused,up}', status.status), status.site_id",
            )
            .fetch_all(&store.pool),
        )
        .await
}

/// The schedules of a site that are in force.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn list_schedules(store: &Store, site: SiteId) -> Result<Vec<RegionSchedule>, Error> {
    let rows: Vec<(String, i64, DbTimestamp)> = store
        .with_timeout(
            STATUS_TIMEOUT,
            "read the site's schedules",
            sqlx::query_as(
                "SELECT region.name, schedule.interval_ms::bigint, schedule.valid_from
                 FROM picket.schedules AS schedule JOIN picket.regions AS region ON region.id = schedule.region_id
                 WHERE schedule.site_id = $1 AND schedule.valid_to IS NULL ORDER BY region.name",
            )
            .bind(site.0)
            .fetch_all(&store.pool),
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(region, interval_ms, valid_from)| RegionSchedule {
            region,
            interval_ms,
            valid_from: valid_from.into(),
        })
        .collect())
}

type RecentCheckRow = (DbTimestamp, String, String, Option<String>, Option<String>, Option<i16>, Option<f64>);

/// The newest results of a site, up to `most` in each region, the newest first.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn list_recent_checks(store: &Store, site: SiteId, most: i64) -> Result<Vec<RecentCheck>, Error> {
    let rows: Vec<RecentCheckRow> = store
        .with_timeout(
            STATUS_TIMEOUT,
            "read the site's last results",
            sqlx::query_as(include_str!("report/last_checks.sql"))
                .bind(site.0)
                .bind(most)
                .fetch_all(&store.pool),
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(scheduled_at, region, outcome, cause, message, http_status, total_ms)| RecentCheck {
            scheduled_at: scheduled_at.into(),
            region,
            outcome,
            cause,
            message,
            http_status,
            total_ms,
        })
        .collect())
}
