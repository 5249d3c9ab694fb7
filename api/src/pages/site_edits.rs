//! Edits of a site as marks on its charts, with what each changed in words: from the history of its schedules, and the
//! time of the last change of its definition, of which no older version is kept.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::Timestamp;
use picket_store::site_history::ScheduleChange;

use super::parts::{TimeMark, format_seconds};
use crate::charts::{EditMark, Span};

/// Maximum edits marked; the newest remain.
const MAX_EDITS: usize = 20;
/// A change of the definition and the schedules that it changes are written within this time.
const SAME_EDIT: Duration = Duration::from_secs(2);

/// An edit in the list beside the charts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EditItem {
    pub(crate) number: usize,
    pub(crate) at: TimeMark,
    pub(crate) text: String,
}

impl EditItem {
    pub(super) fn mark(&self) -> EditMark {
        EditMark { at: self.at.0, number: self.number }
    }
}

/// Intervals of a region's schedules that ended and began at one time.
#[derive(Default)]
struct RegionChange {
    ended_ms: Option<i32>,
    begun_ms: Option<i32>,
}

/// Lists the edits within a span, the oldest first. `updated_at` is the last change of the definition.
pub(super) fn list_edits(
    changes: &[ScheduleChange],
    span: Span,
    created_at: Timestamp,
    updated_at: Option<Timestamp>,
) -> Vec<EditItem> {
    let mut moments: BTreeMap<Timestamp, BTreeMap<&str, RegionChange>> = BTreeMap::new();
    for change in changes {
        let region = moments.entry(change.at.0).or_default().entry(&change.region).or_default();
        let interval = if change.is_begin { &mut region.begun_ms } else { &mut region.ended_ms };
        *interval = Some(change.interval_ms);
    }
    let is_near = |one: Timestamp, other: Timestamp| {
        one.as_micros().abs_diff(other.as_micros()) <= to_micros(SAME_EDIT)
    };
    let mut edits: Vec<(Timestamp, String)> = moments
        .iter()
        .map(|(at, regions)| {
            let added = if is_near(*at, created_at) { "added: " } else { "" };
            (*at, format!("{added}{}", describe_regions(regions)))
        })
        .collect();
    if let Some(updated_at) = updated_at
        && updated_at >= span.from
        && updated_at < span.to
        && !is_near(updated_at, created_at)
        && !edits.iter().any(|(at, _)| is_near(*at, updated_at))
    {
        edits.push((updated_at, "last change of the definition, not of its schedules".to_owned()));
        edits.sort();
    }
    let skipped = edits.len().saturating_sub(MAX_EDITS);
    let shown = edits.into_iter().skip(skipped).zip(1..);
    shown.map(|((at, text), number)| EditItem { number, at: TimeMark(at), text }).collect()
}

fn to_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What changed, for groups of regions in which the same changed.
fn describe_regions(regions: &BTreeMap<&str, RegionChange>) -> String {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (region, change) in regions {
        let format = |milliseconds: i32| format_seconds(i64::from(milliseconds) / 1_000);
        let text = match (change.ended_ms, change.begun_ms) {
            (Some(old), Some(new)) if old != new => {
                format!("interval {} instead of {}", format(new), format(old))
            }
            (Some(_), Some(_)) => "other times of the same interval".to_owned(),
            (None, Some(new)) => format!("checks begin, every {}", format(new)),
            (Some(_), None) => "checks end".to_owned(),
            (None, None) => continue,
        };
        groups.entry(text).or_default().push(region);
    }
    let parts: Vec<String> =
        groups.iter().map(|(text, regions)| format!("{text} ({})", regions.join(", "))).collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn change(time: &str, region: &str, is_begin: bool, interval_ms: i32) -> ScheduleChange {
        let at = picket_store::DbTimestamp(at(time));
        ScheduleChange { at, region: region.to_owned(), is_begin, interval_ms }
    }

    #[test]
    fn an_edit_names_what_changed_in_which_regions() {
        let (added, edited, reduced) =
            ("2026-11-20T09:00:00Z", "2026-11-20T10:00:00Z", "2026-11-20T11:00:00Z");
        let changes = [
            change(reduced, "us", false, 30_000),
            change(edited, "eu", true, 30_000),
            change(edited, "eu", false, 60_000),
            change(edited, "us", true, 30_000),
            change(edited, "us", false, 60_000),
            change(added, "eu", true, 60_000),
            change(added, "us", true, 60_000),
        ];
        let span = Span { from: at("2026-11-20T00:00:00Z"), to: at("2026-11-21T00:00:00Z") };

        let edits = list_edits(&changes, span, at(added), Some(at("2026-11-20T12:00:00Z")));

        let texts: Vec<(usize, &str)> = edits.iter().map(|edit| (edit.number, edit.text.as_str())).collect();
        assert_eq!(
            texts,
            [
                (1, "added: checks begin, every 1 min (eu, us)"),
                (2, "interval 30 s instead of 1 min (eu, us)"),
                (3, "checks end (us)"),
                (4, "last change of the definition, not of its schedules"),
            ]
        );
        // The change of the definition that changed the schedules is one edit.
        assert_eq!(list_edits(&changes, span, at(added), Some(at(reduced))).len(), 3);
    }

    #[test]
    fn the_newest_edits_remain_of_many() {
        let span = Span { from: Timestamp::from_micros(0), to: Timestamp::from_micros(i64::MAX) };
        let changes: Vec<_> = (0..30)
            .map(|minute| change(&format!("2026-11-20T10:{minute:02}:00Z"), "eu", true, 60_000))
            .collect();
        let edits = list_edits(&changes, span, Timestamp::from_micros(0), None);
        assert_eq!(edits.len(), MAX_EDITS);
        assert_eq!(edits.last().map(|edit| edit.at.0), Some(at("2026-11-20T10:29:00Z")));
    }
}
