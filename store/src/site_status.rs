//! Status of sites and their recent results.

use std::{collections::HashMap, time::Duration};

use picket_proto::{SiteId, Timestamp};
use serde::Serialize;

use crate::{DbTimestamp, Error, Store};

/// Deadline of a status query; reports may read many rows.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);

/// A row of `report.site_status`, with the site's warnings, maintenance and problem.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct SiteStatus {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// URL of the site.
    pub url: String,
    /// `up`, `down`, `unknown` or `paused`.
    pub status: String,
    /// Start of the current status; absent if unknown.
    pub since: Option<DbTimestamp>,
    /// Due time of the newest check that counts.
    pub last_check_at: Option<DbTimestamp>,
    /// Number of regions whose newest result is `up`.
    pub regions_up: i64,
    /// Number of regions whose newest result is `down`.
    pub regions_down: i64,
    /// Number of regions without recent results.
    pub regions_silent: i64,
    /// The open incident.
    pub incident_id: Option<i64>,
    /// Kinds of the open warnings.
    pub warnings: Vec<String>,
    /// True in a maintenance window.
    pub in_maintenance: bool,
    /// End of the maintenance; absent for an open-ended window.
    pub maintenance_until: Option<DbTimestamp>,
    /// Reason why the site cannot be checked.
    pub problem: Option<String>,
    /// Reason why the status is `unknown`, by region.
    pub unknown_reason: Option<String>,
}

/// A schedule in force.
#[derive(Clone, Debug, Serialize)]
pub struct RegionSchedule {
    /// Name of the region.
    pub region: String,
    /// Interval in milliseconds.
    pub interval_ms: i64,
    /// Start of the schedule.
    pub valid_from: Timestamp,
}

/// A row of `report.checks`, reduced to the columns displayed for a site.
#[derive(Clone, Debug, Serialize)]
pub struct RecentCheck {
    /// Due time of the check.
    pub scheduled_at: Timestamp,
    /// Name of the region.
    pub region: String,
    /// `up`, `down` or `missed`.
    pub outcome: String,
    /// Cause of a failed or missed check.
    pub cause: Option<String>,
    /// The cause in words.
    pub message: Option<String>,
    /// Status of the last response.
    pub http_status: Option<i16>,
    /// Total time of the check.
    pub total_ms: Option<f64>,
}

impl SiteStatus {
    /// Due time of the newest check that counts.
    pub fn last_check(&self) -> Option<Timestamp> {
        self.last_check_at.map(Timestamp::from)
    }
}

/// Lists the status of all sites, the failing ones first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_site_status(store: &Store) -> Result<Vec<SiteStatus>, Error> {
    store
        .with_timeout(
            STATUS_TIMEOUT,
            "read the status of sites",
            sqlx::query_as(include_str!("site_status/site_status.sql")).fetch_all(&store.pool),
        )
        .await
}

/// Lists the schedules of a site that are in force, or were at a past time.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_schedules(
    store: &Store,
    site: SiteId,
    at: Option<Timestamp>,
) -> Result<Vec<RegionSchedule>, Error> {
    let rows: Vec<(String, i64, DbTimestamp)> = store
        .with_timeout(
            STATUS_TIMEOUT,
            "read the site's schedules",
            sqlx::query_as(
                "SELECT region.name, schedule.interval_ms::bigint, schedule.valid_from
                 FROM picket.schedules AS schedule JOIN picket.regions AS region ON region.id = schedule.region_id
                 WHERE schedule.site_id = $1
                   AND CASE WHEN $2::timestamptz IS NULL THEN schedule.valid_to IS NULL
                            ELSE schedule.valid_from <= $2 AND (schedule.valid_to IS NULL OR schedule.valid_to > $2) END
                 ORDER BY region.name",
            )
            .bind(site.0)
            .bind(at.map(DbTimestamp))
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

type RecentCheckRow =
    (i64, DbTimestamp, String, String, Option<String>, Option<String>, Option<i16>, Option<f64>);

/// Lists the newest results of a site, the newest first, up to `max_per_region` for each region: those of now, or
/// those that were the newest at a past time.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_recent_checks(
    store: &Store,
    site: SiteId,
    max_per_region: i64,
    at: Option<Timestamp>,
) -> Result<Vec<RecentCheck>, Error> {
    let mut checks = list_recent_checks_by_site(store, &[site], max_per_region, at).await?;
    Ok(checks.remove(&site).unwrap_or_default())
}

/// Lists the newest results of each of these sites, as [`list_recent_checks`] does.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_recent_checks_by_site(
    store: &Store,
    sites: &[SiteId],
    max_per_region: i64,
    at: Option<Timestamp>,
) -> Result<HashMap<SiteId, Vec<RecentCheck>>, Error> {
    let ids: Vec<i64> = sites.iter().map(|site| site.0).collect();
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        sqlx::query_as(include_str!("site_status/last_checks.sql"))
            .bind(ids)
            .bind(max_per_region)
            .bind(at.map(DbTimestamp))
            .fetch_all(&mut *transaction)
            .await
    };
    let rows: Vec<RecentCheckRow> = store.read_for_page("read the last results of sites", read).await?;
    let mut by_site = HashMap::<_, Vec<_>>::new();
    for (site, scheduled_at, region, outcome, cause, message, http_status, total_ms) in rows {
        let scheduled_at = scheduled_at.into();
        let check = RecentCheck { scheduled_at, region, outcome, cause, message, http_status, total_ms };
        by_site.entry(SiteId(site)).or_default().push(check);
    }
    Ok(by_site)
}
