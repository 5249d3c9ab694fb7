//! Pure rules that decide from regional results if a site is down. All times are due times of
//! checks, not the current time.
//!
//! A region is down after a number of consecutive failures, and a site is down if a quorum of the
//! reporting regions is down. The results of a region are applied in order of their due times: an
//! older result never changes a newer state.

mod region;

use std::collections::BTreeMap;

use picket_proto::{Cause, CheckKind, Outcome, Timestamp};

pub use self::region::{Doubts, IncidentPolicy, RegionId, RegionResult, RegionState, RegionView};

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
