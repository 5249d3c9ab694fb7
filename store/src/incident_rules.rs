//! Pure rules that decide from regional results if a site is down. All times are due times of
//! checks, not the current time.
//!
//! A region is down after a number of consecutive failures, and a site is down if a quorum of the
//! reporting regions is down. The results of a region are applied in order of their due times: an
//! older result never changes a newer state.

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

/// A site with everything needed for a decision.
#[derive(Clone, Debug)]
pub struct SiteView {
    /// Thresholds of the site.
    pub policy: IncidentPolicy,
    /// Regions that check the site.
    pub regions: BTreeMap<RegionId, RegionView>,
    /// True if an incident is open.
    pub has_open_incident: bool,
    /// Maintenance windows: start and exclusive end.
    pub maintenance_windows: Vec<(Timestamp, Timestamp)>,
}

/// A change of a site's incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncidentChange {
    /// The site is down.
    Opened {
        /// Due time of the deciding check.
        at: Timestamp,
        /// Due time of the earliest of the consecutive failures.
        first_failure_at: Timestamp,
        /// Cause reported by the region that failed first.
        cause: Option<Cause>,
        /// The cause in words.
        message: Option<String>,
        /// The regions that are down.
        regions: Vec<RegionId>,
    },
    /// The site is up again.
    Closed {
        /// Due time of the deciding check.
        at: Timestamp,
    },
}

/// Consequences of new results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Changes in chronological order.
    pub changes: Vec<IncidentChange>,
    /// Number of confirmation rounds needed for a decision; 0 cancels earlier requests.
    pub confirmation_rounds: Option<u32>,
    /// State to store; `None` if the site is fully up.
    pub states: Option<Vec<RegionState>>,
    /// Votes behind each opened incident, in the order of `changes`.
    pub openings: Vec<Opening>,
}

/// Votes that open an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Due time of the deciding check.
    pub at: Timestamp,
    /// States of the regions that are down and not in doubt.
    pub down: Vec<RegionState>,
    /// Number of reporting regions that are up.
    pub up_count: usize,
}

/// Spans of due times, from a start to an exclusive end, in which the failures of a region may be
/// those of its prober. In a span such failures open no incident; they count for everything else.
pub type Doubts = BTreeMap<RegionId, Vec<(Timestamp, Timestamp)>>;

impl SiteView {
    /// Applies new results in order of their due times.
    pub fn evaluate_results(self, evidence: Vec<RegionResult>) -> Decision {
        self.evaluate_with_doubts(evidence, &Doubts::new())
    }

    /// Applies new results as [`evaluate_results`](Self::evaluate_results) does, without the votes
    /// of regions whose newest failure lies in a span of `doubts`.
    pub fn evaluate_with_doubts(mut self, evidence: Vec<RegionResult>, doubts: &Doubts) -> Decision {
        let evidence = self.prepare_evidence(evidence);
        let failing_before = self.is_failing();
        let (mut changes, mut openings, mut suspicious) = (Vec::new(), Vec::new(), false);
        let mut now = self.newest_applied_at();
        for new in &evidence {
            let Some(begins) = self.apply_result(new) else { continue };
            suspicious |= begins;
            now = now.max(new.scheduled_at);
            if let Some((change, opening)) = self.next_change(now, doubts) {
                self.has_open_incident = matches!(change, IncidentChange::Opened { .. });
                changes.push(change);
                openings.extend(opening);
            }
        }
        // An open incident or a maintenance window makes confirmation pointless.
        let undecided = suspicious && !self.has_open_incident && !self.is_in_maintenance(now);
        let confirm = match undecided.then(|| self.confirmation_rounds(now)).flatten() {
            Some(rounds) => Some(rounds),
            // Cancels confirmations of a site that recovered, or whose incident is open by now.
            None if (failing_before || suspicious) && (self.has_open_incident || !self.is_failing()) => {
                Some(0)
            }
            None => None,
        };
        Decision { changes, confirmation_rounds: confirm, states: self.into_states(), openings }
    }

    /// Returns the results to apply, in order of their due times.
    pub(crate) fn prepare_evidence(&mut self, mut evidence: Vec<RegionResult>) -> Vec<RegionResult> {
        evidence.retain(|new| new.outcome != Outcome::Missed && self.regions.contains_key(&new.region));
        self.reconcile_unseen_results(&mut evidence);
        evidence.sort_by_key(|new| (new.scheduled_at, new.region, new.kind));
        evidence
    }

    /// Due time of the newest applied result. Decisions use it as the current time.
    pub(crate) fn newest_applied_at(&self) -> Timestamp {
        let states = self.regions.values().filter_map(|region| region.state.as_ref());
        Timestamp::from_micros(states.map(|state| state.last_scheduled_us).max().unwrap_or(i64::MIN))
    }

    /// Applies a result to its region, unless an applied result is newer. Returns true if a series
    /// of failures begins.
    pub(crate) fn apply_result(&mut self, new: &RegionResult) -> Option<bool> {
        let policy = self.policy;
        self.regions.get_mut(&new.region).and_then(|region| region.apply_result(new, policy))
    }

    /// Applies successes missing from the stored state. Two concurrent writers do not see each
    /// other's rows when checking for a fully up site, so that one of them may have skipped a
    /// success. Without this correction, failures before and after the success would count as
    /// consecutive.
    fn reconcile_unseen_results(&mut self, evidence: &mut Vec<RegionResult>) {
        for (id, region) in &mut self.regions {
            let (Some(state), Some(up)) = (&mut region.state, region.last_success_at) else { continue };
            if state.is_down || state.consecutive_failures == 0 || up.as_micros() <= state.failing_since_us {
                continue;
            }
            // A success between the failures leaves only the newest failure.
            if up.as_micros() < state.last_scheduled_us {
                (state.consecutive_failures, state.failing_since_us) = (1, state.last_scheduled_us);
            } else {
                evidence.push(RegionResult {
                    region: *id,
                    scheduled_at: up,
                    kind: CheckKind::Scheduled,
                    outcome: Outcome::Up,
                    cause: None,
                    message: None,
                });
            }
        }
    }

    /// The change that the states of the regions require at `now`, and the votes behind an opened
    /// incident.
    pub(crate) fn next_change(
        &self,
        now: Timestamp,
        doubts: &Doubts,
    ) -> Option<(IncidentChange, Option<Opening>)> {
        let reporting: Vec<&RegionView> = self.reporting_regions(now).collect();
        let mut down: Vec<&RegionState> = reporting.iter().filter_map(|region| region.down_state()).collect();
        let up = reporting.iter().filter(|region| region.is_up()).count();
        if self.has_open_incident {
            let quorum = self.required_quorum(reporting.len());
            // A region that stopped reporting must not keep the incident open.
            let back = up > 0 && down.len() < quorum && up >= quorum.min(reporting.len());
            return back.then_some((IncidentChange::Closed { at: now }, None));
        }
        // A region in doubt does not report: with its vote missing, the others would need a larger
        // majority than they have.
        let all_down = down.len();
        down.retain(|state| !state.is_in_doubt(doubts));
        let quorum = self.required_quorum(reporting.len() - (all_down - down.len()));
        if down.len() < quorum || self.is_in_maintenance(now) {
            return None;
        }
        let first = down.iter().min_by_key(|state| (state.failing_since_us, state.region))?;
        let change = IncidentChange::Opened {
            at: now,
            first_failure_at: Timestamp::from_micros(first.failing_since_us),
            cause: first.cause,
            message: first.message.clone(),
            regions: down.iter().map(|state| state.region).collect(),
        };
        Some((change, Some(Opening { at: now, down: down.into_iter().cloned().collect(), up_count: up })))
    }

    pub(crate) fn reporting_regions(&self, now: Timestamp) -> impl Iterator<Item = &RegionView> {
        self.regions.values().filter(move |region| region.is_reporting(now))
    }

    /// Returns the quorum for `reporting` regions: at least 1, at most the number of regions of the
    /// site.
    pub(crate) fn required_quorum(&self, reporting: usize) -> usize {
        match self.policy.quorum {
            Some(quorum) => (quorum as usize).clamp(1, self.regions.len().max(1)),
            None => reporting / 2 + 1,
        }
    }

    fn is_in_maintenance(&self, now: Timestamp) -> bool {
        self.maintenance_windows.iter().any(|(from, to)| *from <= now && now < *to)
    }

    /// Returns the number of further failures in every region that would make a quorum.
    fn confirmation_rounds(&self, now: Timestamp) -> Option<u32> {
        let mut needed: Vec<u32> =
            self.reporting_regions(now).map(|region| region.failures_until_down(self.policy)).collect();
        needed.sort_unstable();
        let rounds = *needed.get(self.required_quorum(needed.len()) - 1)?;
        (rounds > 0 && self.is_failing()).then_some(rounds)
    }

    fn is_failing(&self) -> bool {
        self.regions.values().any(|region| region.state.as_ref().is_some_and(|state| !state.is_up()))
    }

    /// The states to store; `None` if the site is fully up.
    pub(crate) fn into_states(self) -> Option<Vec<RegionState>> {
        // A confirmation has no tick, so that its state is stored until the next tick, which later
        // writers can look up.
        let settled = |state: &RegionState| state.is_up() && state.kind == CheckKind::Scheduled;
        let states: Vec<RegionState> = self.regions.into_values().filter_map(|region| region.state).collect();
        (self.has_open_incident || !states.iter().all(settled)).then_some(states)
    }
}

/// Returns the new states of a site with an open incident if all new results are failures of
/// regions that are already down, since such results change no decision. Returns `None` if the site
/// needs a full evaluation.
pub fn fast_path_still_down(states: &[RegionState], new: &[RegionResult]) -> Option<Vec<RegionState>> {
    let mut states = states.to_vec();
    for new in new {
        let state = states.iter_mut().find(|state| state.region == new.region && state.is_down)?;
        if new.outcome != Outcome::Down {
            return None;
        }
        state.record_failure(new);
    }
    Some(states)
}

/// Dates states that are newer than `latest` just before the new results, the oldest of which is due
/// at `oldest`. Such states were written before the clock was set back, or by an earlier version, and
/// still hold.
pub(crate) fn redate_future_states(states: &mut [RegionState], latest: Timestamp, oldest: Timestamp) {
    for state in states.iter_mut().filter(|state| state.last_scheduled_us > latest.as_micros()) {
        state.last_scheduled_us = oldest.as_micros() - 1;
        state.failing_since_us = state.failing_since_us.min(state.last_scheduled_us);
    }
}

impl RegionView {
    /// Applies a result, unless an applied result is newer. Returns true if a series of failures
    /// begins.
    fn apply_result(&mut self, new: &RegionResult, rules: IncidentPolicy) -> Option<bool> {
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

    fn is_reporting(&self, now: Timestamp) -> bool {
        let last = self
            .state
            .as_ref()
            .map(|state| Timestamp::from_micros(state.last_scheduled_us))
            .max(self.last_result_at);
        now < self.joining_until
            || last.is_some_and(|last| now.saturating_duration_since(last) <= self.reporting_window)
    }

    fn down_state(&self) -> Option<&RegionState> {
        self.state.as_ref().filter(|state| state.is_down)
    }

    /// Returns true if the region reports the site as up; false for a new region without results.
    fn is_up(&self) -> bool {
        match &self.state {
            Some(state) => state.is_up(),
            None => self.last_result_at.is_some(),
        }
    }

    fn failures_until_down(&self, rules: IncidentPolicy) -> u32 {
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

    fn is_up(&self) -> bool {
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

    fn is_in_doubt(&self, doubts: &Doubts) -> bool {
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
    fn record_failure(&mut self, new: &RegionResult) -> Option<bool> {
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
