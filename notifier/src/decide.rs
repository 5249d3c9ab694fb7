//! Decides what a channel is told next, from what is true now and what it has been told: pure rules.
//!
//! Each notice that waits meets one fate: it is told, suppressed for a reason, or waits. What is told
//! is collected in groups, of which one at a time becomes a message.

mod fate;
mod gap;
mod group;
mod storm;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use picket_proto::Timestamp;
use picket_store::lanes::{LaneContents, LaneNotice, NoticeChange, NoticeKey, NoticeStep};
use serde_json::Value;
use uuid::Uuid;

pub(crate) use self::{fate::CALM_TIME, storm::Storm};
use self::{
    fate::{Fate, decide_fates},
    group::Group,
};
use crate::{
    message::{Purpose, Verdict},
    text::describe_count,
};

/// What follows from the contents of a lane.
#[derive(Debug, Default)]
pub(crate) struct Decision<'a> {
    /// Notices that end untold, and notices that wait longer.
    pub(crate) changes: Vec<NoticeChange>,
    /// Messages about a single event each, to send now in this order.
    pub(crate) singles: Vec<PlannedMessage<'a>>,
    /// The message to send now, if there are no singles.
    pub(crate) message: Option<PlannedMessage<'a>>,
    /// New value of the storm: `Some(None)` ends it.
    pub(crate) storm: Option<Option<Storm>>,
}

/// A message to compose.
#[derive(Debug)]
pub(crate) struct PlannedMessage<'a> {
    /// Number: that of an earlier attempt, or a new one.
    pub(crate) id: Uuid,
    /// What it is for.
    pub(crate) purpose: Purpose,
    /// Group of its notices.
    pub(crate) group_key: Option<String>,
    /// What it tells, in order of recording.
    pub(crate) told: Vec<PlannedItem<'a>>,
    /// Sentences above the items.
    pub(crate) notes: Vec<String>,
    /// True for a message about a single event to programs.
    pub(crate) is_single: bool,
    /// State of the storm once the message is delivered.
    pub(crate) storm: Option<Option<Storm>>,
}

/// A site, region or channel of which a message tells.
#[derive(Clone, Debug)]
pub(crate) struct PlannedItem<'a> {
    /// What is the case.
    pub(crate) verdict: Verdict,
    /// The notice whose event is shown.
    pub(crate) notice: &'a LaneNotice,
    /// Notices told by it, `notice` among them.
    pub(crate) keys: Vec<NoticeKey>,
    /// Sentence about it.
    pub(crate) note: Option<String>,
    /// The message by which it was attempted, and the time of the next attempt.
    pub(crate) attempted: Option<(Uuid, Timestamp)>,
}

/// Decides on the notices of a lane.
pub(crate) fn decide(contents: &LaneContents) -> Decision<'_> {
    let mut decision = Decision::default();
    let mut waits = Vec::new();
    let (mut singles, mut groups) = (Vec::new(), BTreeMap::<&str, Group<'_>>::new());
    for (notice, fate) in decide_fates(contents) {
        match fate {
            Fate::Suppress(reason) => decision.changes.push(NoticeChange::suppress(&notice.key(), reason)),
            Fate::Wait(until, reason) => waits.push((notice.key(), until, reason)),
            Fate::Notify(told) => match &notice.group_key {
                None => singles.push(told),
                Some(key) => groups.entry(key).or_default().push(told),
            },
        }
    }
    decision.singles = plan_singles(singles, contents);
    if decision.singles.is_empty() {
        plan_group_message(groups, contents, &mut decision, &mut waits);
    }
    let known: BTreeMap<NoticeKey, &LaneNotice> =
        contents.notices.iter().map(|notice| (notice.key(), notice)).collect();
    let changed = waits.into_iter().filter(|(key, until, reason)| {
        known.get(key).is_none_or(|notice| {
            Timestamp::from(notice.due_at) != *until || notice.reason.as_deref() != *reason
        })
    });
    decision.changes.extend(changed.map(|(key, until, reason)| NoticeChange::wait(&key, until, reason)));
    decision
}

/// A notice that waits until then, and for what.
type Wait = (NoticeKey, Timestamp, Option<&'static str>);

/// Plans a single message about groups.
fn plan_group_message<'a>(
    groups: BTreeMap<&'a str, Group<'a>>,
    contents: &'a LaneContents,
    decision: &mut Decision<'a>,
    waits: &mut Vec<Wait>,
) {
    let storm = Storm::read(contents);
    let mut notes = gap::describe_gaps(contents);
    let decided = storm::decide_storm(storm.as_ref(), &groups, contents);
    match decided {
        storm::StormDecision::Calm => {}
        storm::StormDecision::Hold { until, storm } => {
            hold_groups(groups, until, Some("storm"), waits);
            decision.storm = storm;
            return;
        }
        storm::StormDecision::Send { notes: more, storm } => {
            let told: Vec<_> = groups.into_values().flat_map(Group::into_items).collect();
            let mut message = build_message(Purpose::Digest, None, told, contents);
            notes.extend(more);
            notes.extend(describe_rest(contents));
            message.notes = notes;
            message.storm = storm;
            decision.message = Some(message);
            return;
        }
    }
    if gap::tells_of_gap(&groups, contents) {
        if let Some(until) = gap::find_retry_of(&groups).filter(|at| *at > contents.now) {
            return hold_groups(groups, until, None, waits);
        }
        let told: Vec<_> = groups.into_values().flat_map(Group::into_items).collect();
        decision.message = Some(build_message(Purpose::Digest, None, told, contents));
    } else {
        choose_group(groups, contents, decision, waits);
    }
    if let Some(message) = &mut decision.message {
        notes.extend(describe_rest(contents));
        message.notes = notes;
    }
}

fn hold_groups(
    groups: BTreeMap<&str, Group<'_>>,
    until: Timestamp,
    reason: Option<&'static str>,
    waits: &mut Vec<Wait>,
) {
    let keys = groups.into_values().flat_map(Group::into_items).flat_map(|told| told.keys);
    waits.extend(keys.map(|key| (key, until, reason)));
}

/// A sentence about the notices that did not fit the page that was read.
fn describe_rest(contents: &LaneContents) -> Option<String> {
    let rest = usize::try_from(contents.more_notices).unwrap_or(0);
    (rest > 0).then(|| format!("{} more: the next messages tell of them.", describe_count(rest, "change")))
}

/// Messages about a single event each, in the order of recording.
fn plan_singles<'a>(singles: Vec<PlannedItem<'a>>, contents: &LaneContents) -> Vec<PlannedMessage<'a>> {
    let plan = |item: PlannedItem<'a>| {
        let purpose = match item.notice.step {
            NoticeStep::Escalation => Purpose::Escalation,
            NoticeStep::Reminder => Purpose::Reminder,
            NoticeStep::Event | NoticeStep::Calm => Purpose::Alert,
        };
        PlannedMessage { is_single: true, ..build_message(purpose, None, vec![item], contents) }
    };
    singles.into_iter().map(plan).collect()
}

/// The group ready first; the others wait for their times.
fn choose_group<'a>(
    groups: BTreeMap<&'a str, Group<'a>>,
    contents: &LaneContents,
    decision: &mut Decision<'a>,
    waits: &mut Vec<Wait>,
) {
    let mut ready = Vec::new();
    for (key, group) in groups {
        let (told, waiting) =
            group.split_ready(contents.open_told.get(key).copied().unwrap_or(0), contents.now);
        for (told, until) in waiting {
            waits.extend(told.keys.into_iter().map(|key| (key, until, None)));
        }
        if let Some(oldest) = told.iter().map(|told| told.notice.due_at).min() {
            ready.push((oldest, key, told));
        }
    }
    let Some(first) =
        ready.iter().enumerate().min_by_key(|(_, (oldest, ..))| *oldest).map(|(place, _)| place)
    else {
        return;
    };
    let (_, key, told) = ready.swap_remove(first);
    let purpose = if told.iter().all(|told| told.notice.step == NoticeStep::Reminder) {
        Purpose::Reminder
    } else if told.iter().all(|told| told.notice.step == NoticeStep::Escalation) {
        Purpose::Escalation
    } else {
        Purpose::Alert
    };
    decision.message = Some(build_message(purpose, Some(key.to_owned()), told, contents));
}

/// A message under the number of an earlier attempt that has not succeeded, if there was one.
fn build_message<'a>(
    purpose: Purpose,
    group_key: Option<String>,
    told: Vec<PlannedItem<'a>>,
    contents: &LaneContents,
) -> PlannedMessage<'a> {
    let attempted = told.iter().filter_map(|told| told.attempted);
    let id = attempted
        .map(|(id, _)| id)
        .filter(|id| contents.messages.contains_key(id))
        .min()
        .unwrap_or_else(Uuid::now_v7);
    PlannedMessage { id, purpose, group_key, told, notes: Vec::new(), is_single: false, storm: None }
}

/// The event's payload as a text field.
pub(crate) fn payload_text<'a>(payload: &'a Value, field: &str) -> Option<&'a str> {
    payload.get(field).and_then(Value::as_str)
}
