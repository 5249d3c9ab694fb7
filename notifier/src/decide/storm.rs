//! Many sites at once: digests in place of single messages.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::Timestamp;
use picket_store::lanes::{LaneContents, NoticeStep};
use serde::{Deserialize, Serialize};

use super::{
    PlannedItem,
    group::{Group, find_retry},
};
use crate::{message::Verdict, text::describe_count};

/// Times of digests after the first, from the start of the storm.
const DIGEST_TIMES: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(60 * 60),
];

/// A storm of a channel, as kept in its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Storm {
    /// Time of the first digest.
    pub(crate) started_at: Timestamp,
    /// Number of digests that were due so far, sent or not.
    pub(crate) stage: usize,
    /// Time of the next digest.
    pub(crate) next_at: Timestamp,
}

impl Storm {
    /// The storm in progress.
    pub(crate) fn read(contents: &LaneContents) -> Option<Self> {
        contents.channel.storm.as_ref().and_then(|storm| serde_json::from_value(storm.0.clone()).ok())
    }

    fn start(now: Timestamp) -> Self {
        Self { started_at: now, stage: 0, next_at: now.saturating_add(DIGEST_TIMES[0]) }
    }

    /// The storm after a digest was due; `None` after the last one.
    fn advance(&self, now: Timestamp) -> Option<Self> {
        let stage = (self.stage + 1..DIGEST_TIMES.len())
            .find(|stage| self.started_at.saturating_add(DIGEST_TIMES[*stage]) > now)?;
        Some(Self { stage, next_at: self.started_at.saturating_add(DIGEST_TIMES[stage]), ..*self })
    }
}

/// What a storm makes of the groups.
#[derive(Debug)]
pub(super) enum StormDecision {
    /// There is none: each group is told by itself.
    Calm,
    /// Everything waits for the next digest.
    Hold {
        until: Timestamp,
        /// New state, if it changes; `Some(None)` ends it.
        storm: Option<Option<Storm>>,
    },
    /// A single message tells all groups.
    Send {
        notes: Vec<String>,
        /// State after it.
        storm: Option<Option<Storm>>,
    },
}

pub(super) fn decide_storm(
    storm: Option<&Storm>,
    groups: &BTreeMap<&str, Group<'_>>,
    contents: &LaneContents,
) -> StormDecision {
    let now = contents.now;
    let told = || groups.values().flat_map(Group::items);
    // Also those of a digest that could not be delivered.
    let is_untold = |item: &&PlannedItem<'_>| {
        item.notice.step == NoticeStep::Event && !item.notice.is_end && item.verdict != Verdict::WasDown
    };
    let fresh = told().filter(is_untold).count();
    // An attempt of a digest that failed is repeated at its time, whatever has come since.
    let retry_at = find_retry(told()).filter(|at| *at > now);
    let Some(storm) = storm else {
        let limit = told().map(|told| told.notice.storm_after).min().unwrap_or(i32::MAX);
        let is_storm = i32::try_from(fresh).unwrap_or(i32::MAX) > limit;
        let ready_at = groups.values().filter_map(Group::beginnings_ready_at).min().or(Some(now));
        return match (is_storm, ready_at, retry_at) {
            (true, Some(at), None) if at <= now => {
                StormDecision::Send { notes: Vec::new(), storm: Some(Some(Storm::start(now))) }
            }
            (true, Some(at), retry_at) => {
                StormDecision::Hold { until: retry_at.unwrap_or(at).max(at), storm: None }
            }
            _ => StormDecision::Calm,
        };
    };
    if let Some(until) = retry_at {
        return StormDecision::Hold { until, storm: None };
    }
    let open = contents.open_told.values().sum::<i64>();
    let untold = told().filter(|told| told.verdict == Verdict::Down).count();
    if open == 0 && untold == 0 {
        let notes = vec!["All of them are over.".to_owned()];
        return match told().next() {
            Some(_) => StormDecision::Send { notes, storm: Some(None) },
            None => StormDecision::Hold { until: now, storm: Some(None) },
        };
    }
    if now < storm.next_at {
        return StormDecision::Hold { until: storm.next_at, storm: None };
    }
    let next = storm.advance(now);
    match (fresh > 0, next) {
        (true, next) => {
            let notes = vec![format!("More since the last message: {}.", describe_count(fresh, "site"))];
            StormDecision::Send { notes, storm: Some(next) }
        }
        (false, Some(next)) => StormDecision::Hold { until: next.next_at, storm: Some(Some(next)) },
        // The last digest says what is left; from then on single messages tell of it.
        (false, None) if told().next().is_some() => StormDecision::Send {
            notes: vec![format!(
                "The storm is over; still down: {}.",
                describe_count(usize::try_from(open).unwrap_or(0), "site")
            )],
            storm: Some(None),
        },
        (false, None) => StormDecision::Hold { until: now, storm: Some(None) },
    }
}
