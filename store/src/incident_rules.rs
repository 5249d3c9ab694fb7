//! Pure: whether a site is down, from what its regions say. Time is that of the checks, not of the day.
//!
//! A region is down after so many failures in a row; the site is, when a quorum of the regions that report is. What a
//! region says is taken in the order in which its checks were due: an older result never changes a newer state.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{Cause, Kind, Outcome, Timestamp};
use serde::{Deserialize, Serialize};

/// When a site counts as down, and when as up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncidentPolicy {
    /// Failures in a row that make a region down.
    pub failures_to_open: u32,
    /// Successes in a row that make it up again.
    pub successes_to_close: u32,
    /// How many regions must be down; a majority of those that report where absent.
    pub quorum: Option<u32>,
}

/// A region's number.
pub type RegionId = i16;

/// A result that is new: what a region said of a check that was due then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionResult {
    /// Where.
    pub region: RegionId,
    /// When the check was due.
    pub scheduled_at: Timestamp,
    /// A tick or a confirming check.
    pub kind: Kind,
    /// What it says; `missed` says nothing.
    pub outcome: Outcome,
    /// Why not up.
    pub cause: Option<Cause>,
    /// The cause in words.
    pub message: Option<String>,
}

/// What a region has said, as far as it counts: kept while a site is not plainly up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionState {
    /// Which.
    pub region: RegionId,
    /// When the newest check that counts was due, in microseconds since 1970.
    pub last_us: i64,
    /// What kind that check was of.
    pub kind: Kind,
    /// Failures in a row.
    pub fails: u32,
    /// Successes in a row.
    pub oks: u32,
    /// Whether it is down.
    pub down: bool,
    /// When the first check of these failures was due, in microseconds since 1970.
    #[serde(default)]
    pub failing_since_us: i64,
    /// Why the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The cause in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A region that checks a site: what is kept of it, and what its rows say besides.
#[derive(Clone, Debug)]
pub struct RegionView {
    /// What is kept; absent where it was plainly up.
    pub state: Option<RegionState>,
    /// For how long after its last result it counts as one that reports.
    pub reporting_window: Duration,
    /// Until then it counts though it has said nothing, since it had no turn yet.
    pub joining_until: Timestamp,
    /// When its newest real result was due, leaving out what is new.
    pub last_result_at: Option<Timestamp>,
    /// The same of its successes.
    pub last_success_at: Option<Timestamp>,
}

/// A site, as it is to be judged.
#[derive(Clone, Debug)]
pub struct SiteView {
    /// When it counts as down.
    pub policy: IncidentPolicy,
    /// Those that check it.
    pub regions: BTreeMap<RegionId, RegionView>,
    /// Whether an incident is open.
    pub has_open_incident: bool,
    /// Windows of maintenance: from, and the first moment after.
    pub maintenance_windows: Vec<(Timestamp, Timestamp)>,
}

/// What becomes of a site's incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncidentChange {
    /// It is down.
    Opened {
        /// When the check was due that made it so.
        at: Timestamp,
        /// When the first of the failing checks was due.
        first_failure_at: Timestamp,
        /// Of the region that failed first.
        cause: Option<Cause>,
        /// The cause in words.
        message: Option<String>,
        /// Those that are down.
        regions: Vec<RegionId>,
    },
    /// It is up again.
    Closed {
        /// When the check was due that made it so.
        at: Timestamp,
    },
}

/// What follows from new results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In the order in which they happened.
    pub changes: Vec<IncidentChange>,
    /// How many rounds of confirming checks would decide it; 0: none are needed any more.
    pub confirmation_rounds: Option<u32>,
    /// What is to be kept; nothing when the site is plainly up.
    pub states: Option<Vec<RegionState>>,
}

impl SiteView {
    /// Takes in what is new, in the order in which it was due.
    pub fn evaluate_results(mut self, mut evidence: Vec<RegionResult>) -> Decision {
        evidence.retain(|new| new.outcome != Outcome::Missed && self.regions.contains_key(&new.region));
        self.reconcile_unseen_results(&mut evidence);
        evidence.sort_by_key(|new| (new.scheduled_at, new.region, new.kind));
        let failing_before = self.is_failing();
        let (mut changes, mut suspicious) = (Vec::new(), false);
        let states = self.regions.values().filter_map(|region| region.state.as_ref());
        let mut now = Timestamp::from_micros(states.map(|state| state.last_us).max().unwrap_or(i64::MIN));
        for new in &evidence {
            let taken =
                self.regions.get_mut(&new.region).and_then(|region| region.apply_result(new, self.policy));
            let Some(begins) = taken else { continue };
            suspicious |= begins;
            now = now.max(new.scheduled_at);
            if let Some(change) = self.next_change(now) {
                self.has_open_incident = matches!(change, IncidentChange::Opened { .. });
                changes.push(change);
            }
        }
        let undecided = suspicious && !self.has_open_incident && !self.is_in_maintenance(now);
        let confirm = match undecided.then(|| self.confirmation_rounds(now)).flatten() {
            Some(rounds) => Some(rounds),
            None if (failing_before || suspicious) && (self.has_open_incident || !self.is_failing()) => {
                Some(0)
            }
            None => None,
        };
        Decision { changes, confirmation_rounds: confirm, states: self.into_states() }
    }

    /// Two writers at once do not see each other's rows when they look whether a site is plainly up. What one of them
    /// took for uninteresting is found in the rows, before it could make failures seem to follow each other.
    fn reconcile_unseen_results(&mut self, evidence: &mut Vec<RegionResult>) {
        for (id, region) in &mut self.regions {
            let (Some(state), Some(up)) = (&mut region.state, region.last_success_at) else { continue };
            if state.down || state.fails == 0 || up.as_micros() <= state.failing_since_us {
                continue;
            }
            if up.as_micros() < state.last_us {
                (state.fails, state.failing_since_us) = (1, state.last_us);
            } else {
                evidence.push(RegionResult {
                    region: *id,
                    scheduled_at: up,
                    kind: Kind::Scheduled,
                    outcome: Outcome::Up,
                    cause: None,
                    message: None,
                });
            }
        }
    }

    fn next_change(&self, now: Timestamp) -> Option<IncidentChange> {
        let reporting: Vec<&RegionView> =
            self.regions.values().filter(|region| region.is_reporting(now)).collect();
        let down: Vec<&RegionState> = reporting.iter().filter_map(|region| region.down_state()).collect();
        let up = reporting.iter().filter(|region| region.is_up()).count();
        let quorum = self.required_quorum(reporting.len());
        if self.has_open_incident {
            // Of a quorum that does not report any more nobody waits for an answer.
            let back = up > 0 && down.len() < quorum && up >= quorum.min(reporting.len());
            return back.then_some(IncidentChange::Closed { at: now });
        }
        if down.len() < quorum || self.is_in_maintenance(now) {
            return None;
        }
        let first = down.iter().min_by_key(|state| (state.failing_since_us, state.region))?;
        Some(IncidentChange::Opened {
            at: now,
            first_failure_at: Timestamp::from_micros(first.failing_since_us),
            cause: first.cause,
            message: first.message.clone(),
            regions: down.iter().map(|state| state.region).collect(),
        })
    }

    /// How many of `reporting` regions make a quorum: at least one, and never more than check the site at all.
    fn required_quorum(&self, reporting: usize) -> usize {
        match self.policy.quorum {
            Some(quorum) => (quorum as usize).clamp(1, self.regions.len().max(1)),
            None => reporting / 2 + 1,
        }
    }

    fn is_in_maintenance(&self, now: Timestamp) -> bool {
        self.maintenance_windows.iter().any(|(from, to)| *from <= now && now < *to)
    }

    /// How many more failures of every region would make a quorum.
    fn confirmation_rounds(&self, now: Timestamp) -> Option<u32> {
        let reporting = self.regions.values().filter(|region| region.is_reporting(now));
        let mut needed: Vec<u32> = reporting.map(|region| region.failures_until_down(self.policy)).collect();
        needed.sort_unstable();
        let rounds = *needed.get(self.required_quorum(needed.len()) - 1)?;
        (rounds > 0 && self.is_failing()).then_some(rounds)
    }

    fn is_failing(&self) -> bool {
        self.regions.values().any(|region| region.state.as_ref().is_some_and(|state| !state.is_up()))
    }

    fn into_states(self) -> Option<Vec<RegionState>> {
        // Who was asked to confirm is remembered until its next tick, which anybody can look up.
        let settled = |state: &RegionState| state.is_up() && state.kind == Kind::Scheduled;
        let states: Vec<RegionState> = self.regions.into_values().filter_map(|region| region.state).collect();
        (self.has_open_incident || !states.iter().all(settled)).then_some(states)
    }
}

/// What is to be kept of a site whose incident is open, if all that is new says that regions which are down still are:
/// then nothing follows from it. Otherwise the site is to be judged.
pub fn fast_path_still_down(states: &[RegionState], new: &[RegionResult]) -> Option<Vec<RegionState>> {
    let mut states = states.to_vec();
    for new in new {
        let state = states.iter_mut().find(|state| state.region == new.region && state.down)?;
        if new.outcome != Outcome::Down {
            return None;
        }
        state.record_failure(new);
    }
    Some(states)
}

impl RegionView {
    /// Takes in a result, unless it is older than what the region has said. Says whether failures begin with it.
    fn apply_result(&mut self, new: &RegionResult, rules: IncidentPolicy) -> Option<bool> {
        let seen =
            |seen: Timestamp| (new.scheduled_at.as_micros(), new.kind) <= (seen.as_micros(), Kind::Scheduled);
        if self.state.is_none() && self.last_result_at.is_some_and(seen) {
            return None;
        }
        let state = self.state.get_or_insert_with(|| RegionState::initial(new.region));
        match new.outcome {
            Outcome::Down => {
                let begins = state.record_failure(new)?;
                state.down |= state.fails >= rules.failures_to_open;
                Some(begins)
            }
            _ => {
                if !state.advance_to(new) {
                    return None;
                }
                (state.oks, state.fails) = (state.oks.saturating_add(1), 0);
                state.down &= state.oks < rules.successes_to_close;
                Some(false)
            }
        }
    }

    fn is_reporting(&self, now: Timestamp) -> bool {
        let last =
            self.state.as_ref().map(|state| Timestamp::from_micros(state.last_us)).max(self.last_result_at);
        now < self.joining_until
            || last.is_some_and(|last| now.saturating_duration_since(last) <= self.reporting_window)
    }

    fn down_state(&self) -> Option<&RegionState> {
        self.state.as_ref().filter(|state| state.down)
    }

    /// Whether it says that the site is up; one that has just joined has said nothing.
    fn is_up(&self) -> bool {
        match &self.state {
            Some(state) => state.is_up(),
            None => self.last_result_at.is_some(),
        }
    }

    fn failures_until_down(&self, rules: IncidentPolicy) -> u32 {
        match &self.state {
            Some(state) if state.down => 0,
            Some(state) => rules.failures_to_open.saturating_sub(state.fails).max(1),
            None => rules.failures_to_open.max(1),
        }
    }
}

impl RegionState {
    fn initial(region: RegionId) -> Self {
        Self {
            region,
            last_us: i64::MIN,
            kind: Kind::Scheduled,
            fails: 0,
            oks: 0,
            down: false,
            failing_since_us: 0,
            cause: None,
            message: None,
        }
    }

    fn is_up(&self) -> bool {
        !self.down && self.fails == 0
    }

    /// Whether `new` is newer than what it has said; then it is the newest.
    fn advance_to(&mut self, new: &RegionResult) -> bool {
        let newer = (new.scheduled_at.as_micros(), new.kind) > (self.last_us, self.kind);
        if newer {
            (self.last_us, self.kind) = (new.scheduled_at.as_micros(), new.kind);
        }
        newer
    }

    /// Takes in a failure, unless it is older. Says whether failures begin with it.
    fn record_failure(&mut self, new: &RegionResult) -> Option<bool> {
        if !self.advance_to(new) {
            return None;
        }
        let begins = self.fails == 0;
        if begins {
            self.failing_since_us = new.scheduled_at.as_micros();
        }
        (self.fails, self.oks) = (self.fails.saturating_add(1), 0);
        (self.cause, self.message) = (new.cause, new.message.clone());
        Some(begins)
    }
}
