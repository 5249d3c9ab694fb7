//! Checks of a site in lists: the newest of each region with its strip of ticks.

use picket_proto::CheckKind;
use picket_store::{
    site_history::CheckRow,
    site_status::{RecentCheck, RegionSchedule},
};

use super::{
    check::{check_address, check_address_of, format_micros},
    parts::{StatusMark, TimeMark},
    site_data::SiteData,
};
use crate::charts::{CellState, StripCell, draw_strip, format_duration, format_minute};

/// A check in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckItem {
    pub(crate) status: StatusMark,
    pub(crate) due: TimeMark,
    pub(crate) href: String,
    pub(crate) region: String,
    pub(crate) kind: &'static str,
    pub(crate) lateness: String,
    pub(crate) total: String,
    pub(crate) http_status: String,
    pub(crate) message: String,
}

/// A region of the site with its newest check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SiteRegionRow {
    pub(crate) region: String,
    pub(crate) check: Option<CheckItem>,
    /// Words in place of a check.
    pub(crate) empty: String,
    /// Newest ticks as a drawing.
    pub(crate) strip: String,
}

impl CheckItem {
    pub(super) fn new(site: i64, check: &CheckRow) -> Self {
        Self {
            status: StatusMark::from_word(&check.outcome),
            due: TimeMark(check.scheduled_at.0),
            href: check_address_of(site, check),
            region: check.region.clone(),
            kind: if check.kind == CheckKind::Confirm.as_str() { "confirmation" } else { "scheduled" },
            lateness: format_micros(check.lateness_us),
            total: format_micros(check.total_us),
            http_status: check.http_status.map_or_else(|| "–".to_owned(), |status| status.to_string()),
            message: check.message.clone().or_else(|| check.cause.clone()).unwrap_or_default(),
        }
    }

    /// The same of a row with fewer columns.
    fn of_recent(site: i64, check: &RecentCheck, full: Option<&CheckRow>) -> Self {
        if let Some(full) = full {
            return Self::new(site, full);
        }
        Self {
            status: StatusMark::from_word(&check.outcome),
            due: TimeMark(check.scheduled_at),
            href: check_address(site, &check.region, check.scheduled_at, false),
            region: check.region.clone(),
            kind: "scheduled",
            lateness: "–".to_owned(),
            total: check.total_ms.map_or_else(|| "–".to_owned(), |ms| format_duration(ms * 1e3)),
            http_status: check.http_status.map_or_else(|| "–".to_owned(), |status| status.to_string()),
            message: check.message.clone().or_else(|| check.cause.clone()).unwrap_or_default(),
        }
    }
}

/// One row for each schedule in force.
pub(super) fn list_regions(data: &SiteData) -> Vec<SiteRegionRow> {
    let site = data.summary.site_id;
    let row = |schedule: &RegionSchedule| {
        let ticks: Vec<&RecentCheck> =
            data.recent.iter().filter(|check| check.region == schedule.region).collect();
        let cells: Vec<StripCell> = ticks
            .iter()
            .rev()
            .map(|check| StripCell {
                state: match check.outcome.as_str() {
                    "up" => CellState::Up,
                    "down" => CellState::Down,
                    _ => CellState::Missed,
                },
                label: format_minute(check.scheduled_at),
                detail: check.message.clone().unwrap_or_default(),
            })
            .collect();
        let check = ticks.first().map(|newest| {
            let is_same = |full: &&CheckRow| {
                full.region == newest.region
                    && full.scheduled_at.0 == newest.scheduled_at
                    && full.kind == "scheduled"
            };
            CheckItem::of_recent(site, newest, data.checks.iter().find(is_same))
        });
        SiteRegionRow {
            region: schedule.region.clone(),
            check,
            empty: format!("no check yet; scheduled since {} UTC", format_minute(schedule.valid_from)),
            strip: draw_strip("ticks", &cells, true).svg,
        }
    };
    data.schedules.iter().map(row).collect()
}
