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

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use picket_proto::Timestamp;
use picket_store::lanes::{LaneContents, LaneNotice, NoticeChange, NoticeKey, NoticeStep, WaitingMessage};
use serde_json::Value;
use uuid::Uuid;

pub(crate) use self::{fate::CALM_TIME, storm::Storm};
use self::{
    fate::{Fate, decide_fates},
    group::{Group, find_retry},
    storm::StormDecision,
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
    /// Number: that of an earlier attempt with the same contents, or a new one.
    pub(crate) id: Uuid,
    /// What it tells, hashed.
    pub(crate) contents: String,
    /// Attempts so far to tell some of it.
    pub(crate) attempts: i32,
    /// True if the receiver may have some of it.
    pub(crate) may_have_arrived: bool,
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
    /// Text of the item's line in place of the cause or the duration.
    pub(crate) headline: Option<String>,
    /// Words after the duration in the item's line, such as `silenced until now`; if empty, the duration
    /// alone.
    pub(crate) lasting: Option<&'static str>,
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
    mut groups: BTreeMap<&'a str, Group<'a>>,
    contents: &'a LaneContents,
    decision: &mut Decision<'a>,
    waits: &mut Vec<Wait>,
) {
    let mut notes = gap::describe_gaps(contents);
    let tells_of_gap = gap::tells_of_gap(&groups, contents);
    match storm::take_storm(&mut groups, contents, tells_of_gap) {
        StormDecision::Calm => {}
        StormDecision::Hold { items, until, storm } => {
            hold_items(items, until, Some("storm"), waits);
            decision.storm = storm;
        }
        StormDecision::Send { items, notes: more, storm } => {
            let mut message = build_message(Purpose::Digest, None, items, contents);
            notes.extend(more);
            notes.extend(describe_rest(contents));
            message.notes = notes;
            message.storm = storm.map(|next| {
                next.map(|mut next| {
                    next.digests.push(message.id);
                    next
                })
            });
            decision.message = Some(message);
            return;
        }
    }
    groups.retain(|_, group| !group.items().is_empty());
    if tells_of_gap && !groups.is_empty() {
        let told = storm::take_items(&mut groups, |_| true);
        if let Some(until) = find_retry(&told).filter(|at| *at > contents.now) {
            return hold_items(told, until, None, waits);
        }
        decision.message = Some(build_message(Purpose::Digest, None, told, contents));
    } else {
        choose_group(groups, contents, decision, waits);
    }
    if let Some(message) = &mut decision.message {
        notes.extend(describe_rest(contents));
        message.notes = notes;
    }
}

fn hold_items(
    items: Vec<PlannedItem<'_>>,
    until: Timestamp,
    reason: Option<&'static str>,
    waits: &mut Vec<Wait>,
) {
    waits.extend(items.into_iter().flat_map(|told| told.keys).map(|key| (key, until, reason)));
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
            NoticeStep::Acknowledgement => Purpose::Acknowledgement,
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
    // As many as a storm, where each site has a group of its own: reminders and ends of its sites, and what
    // was held back until now.
    let items = || ready.iter().flat_map(|(_, _, told)| told);
    let limit = items().map(|told| told.notice.storm_after).min().unwrap_or(i32::MAX);
    if ready.len() > 1 && i32::try_from(items().count()).unwrap_or(i32::MAX) > limit {
        let are_reminders = items().all(|told| told.notice.step == NoticeStep::Reminder);
        let purpose = if are_reminders { Purpose::Reminder } else { Purpose::Digest };
        let told = ready.into_iter().flat_map(|(_, _, told)| told).collect();
        decision.message = Some(build_message(purpose, None, told, contents));
        return;
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

/// A message, under the number of an earlier attempt to tell the same. A receiver that has a message drops
/// another one with its number, so other contents have a number of their own.
fn build_message<'a>(
    purpose: Purpose,
    group_key: Option<String>,
    told: Vec<PlannedItem<'a>>,
    contents: &LaneContents,
) -> PlannedMessage<'a> {
    let hash = hash_contents(&told);
    let ids: BTreeSet<Uuid> = told.iter().filter_map(|told| told.attempted).map(|(id, _)| id).collect();
    let earlier: Vec<&WaitingMessage> = ids.iter().filter_map(|id| contents.messages.get(id)).collect();
    let same = earlier.iter().find(|message| message.contents.as_ref() == Some(&hash));
    let may_have_arrived = match same {
        Some(message) => message.is_end_unknown,
        // Some recipients may have another message about it.
        None => earlier.iter().any(|message| message.is_end_unknown || message.receiver_ref.is_some()),
    };
    PlannedMessage {
        id: same.map_or_else(Uuid::now_v7, |message| message.notification_id),
        contents: hash,
        attempts: earlier.iter().map(|message| message.attempts).max().unwrap_or(0),
        may_have_arrived,
        purpose,
        group_key,
        told,
        notes: Vec::new(),
        is_single: false,
        storm: None,
    }
}

/// Hash of what a message tells: its notices and their verdicts.
fn hash_contents(told: &[PlannedItem<'_>]) -> String {
    let line = |item: &PlannedItem<'_>, key: &NoticeKey| {
        format!("{} {} {} {:?}\n", key.transition_id, key.step.as_str(), key.number, item.verdict)
    };
    let mut lines: Vec<String> =
        told.iter().flat_map(|item| item.keys.iter().map(move |key| line(item, key))).collect();
    lines.sort_unstable();
    let digest = digest(&SHA256, lines.concat().as_bytes());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The event's payload as a text field.
pub(crate) fn payload_text<'a>(payload: &'a Value, field: &str) -> Option<&'a str> {
    payload.get(field).and_then(Value::as_str)
}
