//! Schedules in force, as a coordinator reads them with their sites.

use picket_proto::{Shard, SiteId, Timestamp};

use crate::{
    DbTimestamp,
    sites::{self, Site},
};

/// One site in one region, in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The region's number.
    pub region_id: i16,
    /// In milliseconds.
    pub interval_ms: i32,
    /// Where in the interval its ticks lie, in milliseconds.
    pub phase_ms: i32,
    /// Ticks after this are this schedule's.
    pub valid_from: Timestamp,
}

/// A site with its schedules in force; without any when it is paused, has a problem, or has no region.
#[derive(Clone, Debug)]
pub struct SiteWithSchedules {
    /// The site.
    pub site: Site,
    /// One for each region.
    pub schedules: Vec<Schedule>,
}

/// A site that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedSite {
    /// Its number.
    pub id: SiteId,
    /// Its shard.
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

/// The statement that reads [`Row`]s; a condition on `site` follows it.
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
