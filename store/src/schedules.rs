//! Schedules in force, read by coordinators together with their sites.

use picket_proto::{Shard, SiteId, Timestamp};

use crate::{
    DbTimestamp,
    sites::{self, Site},
};

/// A schedule in force: one site in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Id of the region.
    pub region_id: i16,
    /// Interval in milliseconds.
    pub interval_ms: i32,
    /// Offset of the ticks within the interval, in milliseconds.
    pub phase_ms: i32,
    /// Ticks after this time belong to this schedule.
    pub valid_from: Timestamp,
}

/// A site with its schedules in force; none if the site is paused, has a problem, or has no region.
#[derive(Clone, Debug)]
pub struct SiteWithSchedules {
    /// The site.
    pub site: Site,
    /// One schedule per region.
    pub schedules: Vec<Schedule>,
}

/// A deleted site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedSite {
    /// Id of the site.
    pub id: SiteId,
    /// Shard of the site.
    pub shard: Shard,
}

#[derive(sqlx::FromRow)]
pub(crate) struct SiteScheduleRow {
    #[sqlx(flatten)]
    site: Site,
    region_ids: Option<Vec<i16>>,
    interval_ms: Option<Vec<i32>>,
    phase_ms: Option<Vec<i32>>,
    valid_from: Option<Vec<DbTimestamp>>,
}

/// Returns the statement that reads [`SiteScheduleRow`]s; the caller appends a condition on `site`.
pub(crate) fn select_sql() -> String {
    format!(
        "SELECT {}, schedule.region_ids, schedule.interval_ms, schedule.phase_ms, schedule.valid_from
         FROM picket.sites AS site
         CROSS JOIN LATERAL (
             SELECT array_agg(region_id) AS region_ids, array_agg(interval_ms) AS interval_ms,
                    array_agg(phase_ms) AS phase_ms, array_agg(valid_from) AS valid_from
             FROM picket.schedules WHERE site_id = site.id AND valid_to IS NULL
         ) AS schedule",
        *sites::SITE_COLUMNS
    )
}

impl From<SiteScheduleRow> for SiteWithSchedules {
    fn from(row: SiteScheduleRow) -> Self {
        // The arrays are aggregated over the same rows, so their lengths are equal; all are NULL
        // without schedules.
        let columns = row
            .region_ids
            .into_iter()
            .flatten()
            .zip(row.interval_ms.into_iter().flatten())
            .zip(row.phase_ms.into_iter().flatten())
            .zip(row.valid_from.into_iter().flatten());
        let schedules = columns
            .map(|(((region_id, interval_ms), phase_ms), valid_from)| Schedule {
                region_id,
                interval_ms,
                phase_ms,
                valid_from: valid_from.into(),
            })
            .collect();
        Self { site: row.site, schedules }
    }
}
