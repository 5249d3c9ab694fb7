//! One region of a site: its results, its state, and how a result changes the state.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{Cause, CheckKind, Outcome, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

/// Thresholds that open and close incidents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncidentPolicy {
    /// Consecutive failures until a region is down.
    pub failures_to_open: u32,
    /// Consecutive successes until a region is up again.
    pub successes_to_close: u32,
    /// Number of regions that must be down; a majority of the reporting regions if absent.
    pub quorum: Option<u32>,
}

/// Id of a region.
pub type RegionId = i16;

/// A new result of a check in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionResult {
    /// The region.
    pub region: RegionId,
    /// Due time of the check.
    pub scheduled_at: Timestamp,
    /// A tick or a confirmation.
    pub kind: CheckKind,
    /// Outcome of the check; `missed` is ignored.
    pub outcome: Outcome,
    /// Cause of a failure.
    pub cause: Option<Cause>,
    /// The cause in words.
    pub message: Option<String>,
}

/// State of a region, derived from its results. Stored until a site is fully up again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionState {
    /// The region.
    pub region: RegionId,
    /// Due time of the newest applied check, in microseconds since 1970.
    pub last_scheduled_us: i64,
    /// Kind of the newest applied check.
    pub kind: CheckKind,
    /// Consecutive failures.
    pub consecutive_failures: u32,
    /// Consecutive successes.
    pub consecutive_successes: u32,
    /// True if the region is down.
    pub is_down: bool,
    /// Due time of the first of the consecutive failures, in microseconds since 1970.
    #[serde(default)]
    pub failing_since_us: i64,
    /// Cause of the last failure; `other` if a newer version wrote one that this version does not
    /// know.
    #[serde(default, deserialize_with = "decode_cause", skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The cause in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Decodes a cause of a stored state. An error here would hold up the whole batch, again and again.
fn decode_cause<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cause>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    Ok(word.map(|word| word.parse().unwrap_or(Cause::Other)))
}

/// A region that checks a site: its stored state and facts from its result rows.
#[derive(Clone, Debug)]
pub struct RegionView {
    /// The stored state; absent if the region was fully up.
    pub state: Option<RegionState>,
    /// Time after the last result during which the region counts as reporting.
    pub reporting_window: Duration,
    /// Until this time a new region counts as reporting without any result, because its first check
    /// may not be due yet.
    pub joining_until: Timestamp,
    /// Due time of the newest real result, excluding the new results.
    pub last_result_at: Option<Timestamp>,
    /// Due time of the newest success, excluding the new results.
    pub last_success_at: Option<Timestamp>,
}

/// Spans of due times, from a start to an exclusive end, in which the failures of a region may be
/// those of its prober. In a span such failures open no incident; they count for everything else.
pub type Doubts = BTreeMap<RegionId, Vec<(Timestamp, Timestamp)>>;

impl RegionView {
    /// Applies a result, unless an applied result is newer. Returns true if a series of failures
    /// begins.
    pub(super) fn apply_result(&mut self, new: &RegionResult, rules: IncidentPolicy) -> Option<bool> {
        // Without stored state the region was fully up; results older than its newest row cannot
        // change that.
        let seen = |seen: Timestamp| {
            (new.scheduled_at.as_micros(), new.kind) <= (seen.as_micros(), CheckKind::Scheduled)
        };
        if self.state.is_none() && self.last_result_at.is_some_and(seen) {
            return None;
        }
        let state = self.state.get_or_insert_with(|| RegionState::initial(new.region));
        match new.outcome {
            Outcome::Down => {
                let begins = state.record_failure(new)?;
                state.is_down |= state.consecutive_failures >= rules.failures_to_open;
                Some(begins)
            }
            _ => {
                if !state.advance_to(new) {
                    return None;
                }
                (state.consecutive_successes, state.consecutive_failures) =
                    (state.consecutive_successes.saturating_add(1), 0);
                state.is_down &= state.consecutive_successes < rules.successes_to_close;
                Some(false)
            }
        }
    }

    pub(super) fn is_reporting(&self, now: Timestamp) -> bool {
        let last = self
            .state
            .as_ref()
            .map(|state| Timestamp::from_micros(state.last_scheduled_us))
            .max(self.last_result_at);
        now < self.joining_until
            || last.is_some_and(|last| now.saturating_duration_since(last) <= self.reporting_window)
    }

    pub(super) fn down_state(&self) -> Option<&RegionState> {
        self.state.as_ref().filter(|state| state.is_down)
    }

    /// Returns true if the region reports the site as up; false for a new region without results.
    pub(super) fn is_up(&self) -> bool {
        match &self.state {
            Some(state) => state.is_up(),
            None => self.last_result_at.is_some(),
        }
    }

    pub(super) fn failures_until_down(&self, rules: IncidentPolicy) -> u32 {
        match &self.state {
            Some(state) if state.is_down => 0,
            Some(state) => rules.failures_to_open.saturating_sub(state.consecutive_failures).max(1),
            None => rules.failures_to_open.max(1),
        }
    }
}

impl RegionState {
    fn initial(region: RegionId) -> Self {
        Self {
            region,
            last_scheduled_us: i64::MIN,
            kind: CheckKind::Scheduled,
            consecutive_failures: 0,
            consecutive_successes: 0,
            is_down: false,
            failing_since_us: 0,
            cause: None,
            message: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        !self.is_down && self.consecutive_failures == 0
    }

    /// The failure by which doubts judge the region: the newest one, or the first one once the
    /// region has succeeded since. A region stays down until several successes, and a doubt ends with
    /// the first.
    pub(crate) fn judged_failure(&self) -> (Timestamp, CheckKind) {
        match self.consecutive_failures {
            0 => (Timestamp::from_micros(self.failing_since_us), CheckKind::Scheduled),
            _ => (Timestamp::from_micros(self.last_scheduled_us), self.kind),
        }
    }

    pub(super) fn is_in_doubt(&self, doubts: &Doubts) -> bool {
        let (at, _) = self.judged_failure();
        doubts.get(&self.region).is_some_and(|spans| spans.iter().any(|(from, to)| *from <= at && at < *to))
    }

    /// Advances to `new` if it is newer than the applied results; returns false otherwise.
    fn advance_to(&mut self, new: &RegionResult) -> bool {
        let newer = (new.scheduled_at.as_micros(), new.kind) > (self.last_scheduled_us, self.kind);
        if newer {
            (self.last_scheduled_us, self.kind) = (new.scheduled_at.as_micros(), new.kind);
        }
        newer
    }

    /// Applies a failure, unless an applied result is newer. Returns true if a series of failures
    /// begins.
    pub(super) fn record_failure(&mut self, new: &RegionResult) -> Option<bool> {
        if !self.advance_to(new) {
            return None;
        }
        let begins = self.consecutive_failures == 0;
        if begins {
            self.failing_since_us = new.scheduled_at.as_micros();
        }
        (self.consecutive_failures, self.consecutive_successes) =
            (self.consecutive_failures.saturating_add(1), 0);
        (self.cause, self.message) = (new.cause, new.message.clone());
        Some(begins)
    }
}
