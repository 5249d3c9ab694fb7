//! Many sites at once: digests in place of single messages.
//!
//! A storm is about incidents only. All other events (of regions, channels, certificates, warnings and the
//! ledger), reminders, escalation, and the ends of older incidents go on as usual.
//!
//! - **Start**: more incidents than the route's `storm_after` wait to be told for the first time, and the
//!   wait of a group of them is over. A single digest tells all.
//! - **Growth**: an incident that opens at most a quiet time after the previous incident belongs to the
//!   storm. The quiet time is a minute, or the route's wait if longer. Such an incident waits for the next
//!   digest, 1, 5, 15 and 60 minutes after the first, or until a quiet time has passed. Later incidents are
//!   ordinary messages.
//! - **Ends** of its incidents wait for the next digest, or for the message that the storm is over.
//! - **Over**: when no incident of its digests is open; or when the storm no longer grows, something has
//!   ended, and nothing has changed for a minute if few are open (three, or a tenth), for five minutes
//!   otherwise; at the latest an hour after the first digest. The message names what is still open.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::Timestamp;
use picket_store::lanes::LaneContents;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    PlannedItem,
    fate::{delay_time, wait_time},
    group::{Group, find_retry, is_about_incident},
};
use crate::{
    message::{Purpose, Verdict},
    text::{describe_count, describe_names},
};

/// Times of digests after the first, from the start of the storm.
const DIGEST_TIMES: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(60 * 60),
];
/// Time without an opening after which a storm no longer grows, unless the route waits for longer. Sites
/// are checked once a minute or so, and sites that fail together open within a minute.
const QUIET_TIME: Duration = Duration::from_secs(60);
/// Time without a change after which a storm is over although many of its incidents are open.
const SETTLED_TIME: Duration = Duration::from_secs(5 * 60);
/// Open incidents that are few whatever the size of the storm.
const FEW_INCIDENTS: i64 = 3;

/// A storm of a channel, as kept in its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Storm {
    /// Time of the first digest.
    pub(crate) started_at: Timestamp,
    /// Number of digests that were due so far, sent or not.
    pub(crate) stage: usize,
    /// Time of the next digest.
    pub(crate) next_at: Timestamp,
    /// Latest opening that belongs to it.
    pub(crate) last_at: Timestamp,
    /// Number of incidents told so far.
    pub(crate) size: usize,
    /// Messages that told of it.
    pub(crate) digests: Vec<Uuid>,
}

impl Storm {
    /// The storm in progress.
    pub(crate) fn read(contents: &LaneContents) -> Option<Self> {
        contents.channel.storm.as_ref().and_then(|storm| serde_json::from_value(storm.0.clone()).ok())
    }

    fn start(now: Timestamp, last_at: Timestamp, size: usize) -> Self {
        let next_at = now.saturating_add(DIGEST_TIMES[0]);
        Self { started_at: now, stage: 0, next_at, last_at, size, digests: Vec::new() }
    }

    /// The storm after a digest was due; `None` after the last one.
    fn advance(&self, now: Timestamp) -> Option<Self> {
        let stage = (self.stage + 1..DIGEST_TIMES.len())
            .find(|stage| self.started_at.saturating_add(DIGEST_TIMES[*stage]) > now)?;
        let next_at = self.started_at.saturating_add(DIGEST_TIMES[stage]);
        Some(Self { stage, next_at, ..self.clone() })
    }
}

/// What a storm makes of the groups.
#[derive(Debug)]
pub(super) enum StormDecision<'a> {
    /// There is none: each group is told by itself.
    Calm,
    /// Its items wait; all others go on.
    Hold {
        items: Vec<PlannedItem<'a>>,
        until: Timestamp,
        /// New state, if it changes; `Some(None)` ends it.
        storm: Option<Option<Storm>>,
    },
    /// A single message tells its items.
    Send {
        items: Vec<PlannedItem<'a>>,
        notes: Vec<String>,
        /// State after it, if it changes.
        storm: Option<Option<Storm>>,
    },
}

/// Takes the items of a storm out of the groups, and decides on them. After a time without notifiers one
/// digest tells of the ends as well.
pub(super) fn take_storm<'a>(
    groups: &mut BTreeMap<&'a str, Group<'a>>,
    contents: &LaneContents,
    is_after_gap: bool,
) -> StormDecision<'a> {
    match Storm::read(contents) {
        Some(storm) => continue_storm(storm, groups, contents),
        // A state that this build cannot read is not kept.
        None if contents.channel.storm.is_some() => {
            StormDecision::Hold { items: Vec::new(), until: contents.now, storm: Some(None) }
        }
        None => start_storm(groups, contents, is_after_gap),
    }
}

fn start_storm<'a>(
    groups: &mut BTreeMap<&'a str, Group<'a>>,
    contents: &LaneContents,
    is_after_gap: bool,
) -> StormDecision<'a> {
    let now = contents.now;
    let is_candidate = |item: &PlannedItem<'_>| {
        let is_told_now = match is_opening(item) {
            true => opening_time(item) <= now,
            false => is_after_gap,
        };
        is_about_incident(item) && (is_told_now || is_of_digest(item, contents))
    };
    let candidates = || groups.values().flat_map(Group::items).filter(|item| is_candidate(item));
    let fresh = || candidates().filter(|item| is_fresh(item));
    let size = fresh().count();
    let limit = fresh().map(|item| item.notice.storm_after).min().unwrap_or(i32::MAX);
    let is_storm = i32::try_from(size).unwrap_or(i32::MAX) > limit;
    // A digest that could not be delivered stays one, whatever has ended since.
    if !is_storm && !candidates().any(|item| is_of_digest(item, contents)) {
        return StormDecision::Calm;
    }
    let retry_at = find_retry(candidates()).filter(|at| *at > now);
    let last_at = fresh().map(opening_time).max().unwrap_or(now);
    if retry_at.is_none()
        && groups
            .values()
            .filter_map(|group| group.openings_ready_at(is_candidate))
            .min()
            .is_some_and(|at| at > now)
    {
        return StormDecision::Calm;
    }
    let items = take_items(groups, is_candidate);
    if let Some(until) = retry_at {
        return StormDecision::Hold { items, until, storm: None };
    }
    StormDecision::Send {
        items,
        notes: Vec::new(),
        storm: is_storm.then(|| Some(Storm::start(now, last_at, size))),
    }
}

fn continue_storm<'a>(
    storm: Storm,
    groups: &mut BTreeMap<&'a str, Group<'a>>,
    contents: &LaneContents,
) -> StormDecision<'a> {
    let now = contents.now;
    let (last_at, quiet) = follow_growth(&storm, groups, now);
    let is_member = |item: &PlannedItem<'_>| {
        is_about_incident(item)
            && match is_opening(item) {
                true => is_within(&storm, opening_time(item), last_at) && opening_time(item) <= now,
                false => item.notice.begun_notification.is_some_and(|id| storm.digests.contains(&id)),
            }
    };
    let items = take_items(groups, is_member);
    if let Some(until) = find_retry(&items).filter(|at| *at > now) {
        // The lane is not looked at before.
        let next = Storm { next_at: storm.next_at.max(until), ..storm };
        return StormDecision::Hold { items, until, storm: Some(Some(next)) };
    }
    let fresh = items.iter().filter(|item| is_fresh(item)).count();
    let open = contents.storm_open.count;
    let last_end = items
        .iter()
        .filter(|item| !is_fresh(item))
        .map(|item| Timestamp::from(item.notice.recorded_at))
        .max();
    if open == 0 && fresh == 0 {
        return match items.is_empty() {
            true => StormDecision::Hold { items, until: now, storm: Some(None) },
            false => {
                StormDecision::Send { items, notes: vec![describe_over(&storm, contents)], storm: Some(None) }
            }
        };
    }
    let growth_ends = last_at.saturating_add(quiet);
    let few = FEW_INCIDENTS.max(i64::try_from(storm.size / 10).unwrap_or(i64::MAX));
    let calm = if open <= few { QUIET_TIME } else { SETTLED_TIME };
    let settles_at = last_end.map(|at| at.max(last_at).saturating_add(calm).max(growth_ends));
    let is_due = now >= storm.next_at;
    let next = if is_due { storm.advance(now) } else { Some(storm.clone()) };
    if fresh > 0 && (is_due || now >= growth_ends) {
        let more = items.iter().filter(|item| is_opening(item)).count();
        let notes = vec![format!("More since the last message: {}.", describe_count(fresh, "site"))];
        let storm = next.map(|next| Storm { last_at, size: next.size + more, ..next });
        return StormDecision::Send { items, notes, storm: Some(storm) };
    }
    let is_settled = fresh == 0 && settles_at.is_some_and(|at| now >= at);
    if is_settled || next.is_none() {
        return match items.is_empty() {
            true => StormDecision::Hold { items, until: now, storm: Some(None) },
            false => {
                StormDecision::Send { items, notes: vec![describe_over(&storm, contents)], storm: Some(None) }
            }
        };
    }
    let next_at = next.as_ref().map_or(storm.next_at, |next| next.next_at);
    let times = [Some(next_at), (fresh > 0).then_some(growth_ends), settles_at];
    let until = times.into_iter().flatten().filter(|at| *at > now).min().unwrap_or(next_at);
    StormDecision::Hold { items, until, storm: is_due.then_some(next) }
}

/// Latest opening that belongs to the storm, and the time without one after which it no longer grows.
fn follow_growth(storm: &Storm, groups: &BTreeMap<&str, Group<'_>>, now: Timestamp) -> (Timestamp, Duration) {
    let items = || groups.values().flat_map(Group::items);
    let openings = || items().filter(|item| is_about_incident(item) && is_opening(item));
    let quiet = openings().map(|item| wait_time(item.notice)).fold(QUIET_TIME, Duration::max);
    let mut times: Vec<Timestamp> = openings().map(opening_time).filter(|at| *at <= now).collect();
    times.sort_unstable();
    let extend =
        |last: Timestamp, at: Timestamp| if at <= last.saturating_add(quiet) { last.max(at) } else { last };
    (times.into_iter().fold(storm.last_at, extend), quiet)
}

/// True if an incident of that time belongs to the storm. An incident held back for another reason, such
/// as a silence, is older.
fn is_within(storm: &Storm, at: Timestamp, last_at: Timestamp) -> bool {
    at.saturating_add(QUIET_TIME) >= storm.started_at && at <= last_at
}

/// True for a beginning, also if its end is told with it.
fn is_opening(item: &PlannedItem<'_>) -> bool {
    !item.notice.is_end || item.keys.len() > 1
}

/// True for an opening to be told that lasts; also in a digest that could not be delivered.
fn is_fresh(item: &PlannedItem<'_>) -> bool {
    !item.notice.is_end && item.verdict != Verdict::WasDown
}

/// Time from which the opening could be told.
fn opening_time(item: &PlannedItem<'_>) -> Timestamp {
    let recorded = match item.notice.is_end {
        true => item.notice.other_recorded_at.unwrap_or(item.notice.recorded_at),
        false => item.notice.recorded_at,
    };
    Timestamp::from(recorded).saturating_add(delay_time(item.notice))
}

/// True if a digest was to tell the item and could not be delivered.
fn is_of_digest(item: &PlannedItem<'_>, contents: &LaneContents) -> bool {
    let message = item.attempted.and_then(|(id, _)| contents.messages.get(&id));
    message.is_some_and(|message| message.purpose == Purpose::Digest.as_str())
}

pub(super) fn take_items<'a>(
    groups: &mut BTreeMap<&'a str, Group<'a>>,
    is_taken: impl Fn(&PlannedItem<'_>) -> bool,
) -> Vec<PlannedItem<'a>> {
    groups.values_mut().flat_map(|group| group.take_items(&is_taken)).collect()
}

fn describe_over(storm: &Storm, contents: &LaneContents) -> String {
    let open = &contents.storm_open;
    let all = describe_count(storm.size, "site");
    match usize::try_from(open.count).unwrap_or(0) {
        0 => format!("The storm is over: none of its {all} is down any more."),
        count => {
            let verb = if count == 1 { "is" } else { "are" };
            let names = describe_names(&open.names, count);
            format!("The storm is over: of its {all} {count} {verb} still down: {names}.")
        }
    }
}
