//! Sentences about times without notifiers.

use std::collections::BTreeMap;

use picket_proto::Timestamp;
use picket_store::lanes::{Gap, LaneContents};

use super::group::Group;
use crate::text::describe_count;

/// Sentences about times without notifiers, for the first message after them.
pub(super) fn describe_gaps(contents: &LaneContents) -> Vec<String> {
    contents.gaps.iter().rev().map(describe_gap).collect()
}

fn describe_gap(gap: &Gap) -> String {
    let (from, to) = (Timestamp::from(gap.from).to_string(), Timestamp::from(gap.to).to_string());
    let part = |at: &str, range: std::ops::Range<usize>| at.get(range).unwrap_or_default().to_owned();
    let (day, last_day) = (part(&from, 0..10), part(&to, 0..10));
    let (start, end) = (part(&from, 11..16), part(&to, 11..16));
    let span = match day == last_day {
        true => format!("{day} {start} to {end} UTC"),
        false => format!("{day} {start} to {last_day} {end} UTC"),
    };
    format!(
        "While notifications were off ({span}): {} opened and closed; {} down now.",
        describe_count(usize::try_from(gap.ended).unwrap_or(0), "incident"),
        match gap.down {
            1 => "1 site is".to_owned(),
            more => format!("{more} sites are"),
        },
    )
}

/// True if an item was recorded while no notifier ran: all groups share a message then.
pub(super) fn tells_of_gap(groups: &BTreeMap<&str, Group<'_>>, contents: &LaneContents) -> bool {
    let mut recorded =
        groups.values().flat_map(Group::items).map(|told| Timestamp::from(told.notice.recorded_at));
    recorded.any(|at| {
        contents.gaps.iter().any(|gap| at >= Timestamp::from(gap.from) && at <= Timestamp::from(gap.to))
    })
}
