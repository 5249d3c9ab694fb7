//! What is said after a time in which no notifier ran.

use std::collections::BTreeMap;

use picket_proto::Timestamp;
use picket_store::lanes::LaneContents;

use super::group::Group;
use crate::{message::Verdict, text::describe_count};

/// Sentences about a time without notifiers in which something began that is still to be told.
pub(super) fn describe_gap(
    groups: &BTreeMap<&str, Group<'_>>,
    contents: &LaneContents,
) -> Option<Vec<String>> {
    let told = || groups.values().flat_map(Group::items);
    let (from, to) = contents.gaps.iter().copied().find(|(from, to)| {
        told().any(|told| {
            let recorded = Timestamp::from(told.notice.recorded_at);
            recorded >= *from && recorded <= *to && told.attempted.is_none()
        })
    })?;
    let within = |at: Timestamp| at >= from && at <= to;
    let beginnings =
        contents.notices.iter().filter(|notice| !notice.is_end && within(notice.recorded_at.into()));
    let over = beginnings.filter(|notice| notice.other_recorded_at.is_some()).count();
    let down = told().filter(|told| matches!(told.verdict, Verdict::Down | Verdict::Flapping)).count();
    let clock = |at: Timestamp| at.to_string().get(11..16).unwrap_or_default().to_owned();
    Some(vec![format!(
        "While notifications were off ({} to {} UTC): {} opened and closed; {} down now.",
        clock(from),
        clock(to),
        describe_count(over, "incident"),
        match down {
            1 => "1 site is".to_owned(),
            more => format!("{more} sites are"),
        },
    )])
}
