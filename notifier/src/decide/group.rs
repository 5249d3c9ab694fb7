//! When the notices of a group become a message.

use std::collections::HashMap;

use picket_proto::Timestamp;
use picket_store::lanes::NoticeStep;

use super::{
    PlannedItem,
    fate::{delay_time, wait_time},
};
use crate::message::Verdict;

/// A group waits at most this many times its wait while more arrives.
const MAX_EXTENSION: u32 = 3;

/// What is to be told to a channel in a single message.
#[derive(Debug, Default)]
pub(super) struct Group<'a> {
    items: Vec<PlannedItem<'a>>,
    /// Places of the lines about incidents, by site.
    sites: HashMap<i64, usize>,
}

impl<'a> Group<'a> {
    /// Adds a line. An incident of a site that was down before is told in the same line: people are told how
    /// the site is, and not that it is up as well.
    pub(super) fn push(&mut self, mut told: PlannedItem<'a>) {
        let site = told.notice.site_id.filter(|_| is_about_incident(&told));
        let earlier =
            site.and_then(|site| self.sites.get(&site)).and_then(|place| self.items.get_mut(*place));
        match earlier.filter(|earlier| matches!(earlier.verdict, Verdict::Up | Verdict::WasDown)) {
            Some(earlier) => {
                told.keys.splice(0..0, earlier.keys.drain(..));
                told.attempted = told.attempted.or(earlier.attempted);
                *earlier = told;
            }
            None => {
                self.sites.extend(site.map(|site| (site, self.items.len())));
                self.items.push(told);
            }
        }
    }

    pub(super) fn items(&self) -> &[PlannedItem<'a>] {
        &self.items
    }

    /// Takes some items out of the group.
    pub(super) fn take_items(&mut self, is_taken: impl Fn(&PlannedItem<'a>) -> bool) -> Vec<PlannedItem<'a>> {
        let (taken, kept) = std::mem::take(&mut self.items).into_iter().partition(is_taken);
        self.items = kept;
        self.sites.clear();
        taken
    }

    /// Time when those beginnings told for the first time that are `counted` are ready: after a wait from
    /// the last of them, but at most three waits from the first.
    pub(super) fn openings_ready_at(&self, counted: impl Fn(&PlannedItem<'a>) -> bool) -> Option<Timestamp> {
        let fresh = || self.items.iter().filter(|told| is_fresh_beginning(told) && counted(told));
        let at = |told: &PlannedItem<'_>| {
            Timestamp::from(told.notice.recorded_at).saturating_add(delay_time(told.notice))
        };
        let (first, last) = (fresh().map(at).min()?, fresh().map(at).max()?);
        let wait = fresh().map(|told| wait_time(told.notice)).max()?;
        Some(last.saturating_add(wait).min(first.saturating_add(wait * MAX_EXTENSION)))
    }

    /// The part told now, and the rest with the times when it is.
    ///
    /// `open_told` is the number of open incidents of the group that the channel knows of: the end of
    /// the last one is told at once, single ends after a wait.
    pub(super) fn split_ready(
        self,
        open_told: i64,
        now: Timestamp,
    ) -> (Vec<PlannedItem<'a>>, Vec<(PlannedItem<'a>, Timestamp)>) {
        // While an attempt waits for its time, the whole group does.
        let retry_at = find_retry(&self.items).filter(|at| *at > now);
        let beginnings = self.openings_ready_at(|_| true);
        let ends = || self.items.iter().filter(|told| is_end(told));
        let ends_ready = ends().map(|told| told.notice.recorded_at).min().map(|first| {
            let wait = ends().map(|told| wait_time(told.notice)).max().unwrap_or_default();
            match open_told {
                0 => now,
                _ => Timestamp::from(first).saturating_add(wait),
            }
        });
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for told in self.items {
            let own = if is_end(&told) {
                ends_ready
            } else if is_fresh_beginning(&told) {
                beginnings
            } else {
                None
            };
            match retry_at.or(own).filter(|at| *at > now) {
                Some(at) => waiting.push((told, at)),
                None => ready.push(told),
            }
        }
        (ready, waiting)
    }
}

/// True for the opening or closing of an incident.
pub(super) fn is_about_incident(told: &PlannedItem<'_>) -> bool {
    told.notice.step == NoticeStep::Event && told.notice.event.starts_with("incident.")
}

fn is_end(told: &PlannedItem<'_>) -> bool {
    told.notice.is_end && told.keys.len() == 1 && told.attempted.is_none()
}

/// A beginning of which the channel has not been told, not even by an attempt that failed.
fn is_fresh_beginning(told: &PlannedItem<'_>) -> bool {
    told.notice.step == NoticeStep::Event && !is_end(told) && told.attempted.is_none()
}

/// Time of the next attempt of what has been attempted already.
pub(super) fn find_retry<'a, 'b: 'a>(
    told: impl IntoIterator<Item = &'a PlannedItem<'b>>,
) -> Option<Timestamp> {
    told.into_iter().filter_map(|told| told.attempted).map(|(_, at)| at).max()
}
