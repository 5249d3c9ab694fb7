//! Pure rules that decide from regional results if a warning of a site is open.
//!
//! These are the rules of incidents ([`incident_rules`](crate::incident_rules)) with other evidence:
//! a check that was `up` and warned stands for a failure, and one that was `up` and did not warn for
//! a success. `down` and `missed` checks say nothing about a warning. Maintenance windows do not
//! keep a warning from opening.
//!
//! A warning about a certificate is about one certificate, known by its serial number. Another
//! certificate closes it, and opens a warning of its own if it warns as well.

use std::collections::BTreeMap;

use picket_proto::{CheckKind, Outcome, Timestamp};
use serde::{Deserialize, Serialize};

use crate::incident_rules::{
    Doubts, IncidentChange, RegionId, RegionResult, RegionState, SiteView, fast_path_still_down,
};

/// What a check warns about, beyond the kind of the warning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningDetails {
    /// Serial number of the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Time at which the certificate or the registration ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A new result of a check that was `up`, with regard to one kind of warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarningResult {
    /// The region.
    pub region: RegionId,
    /// Due time of the check.
    pub scheduled_at: Timestamp,
    /// The warning; absent if the check did not warn.
    pub warned: Option<WarningDetails>,
    /// The warning in words.
    pub message: Option<String>,
}

/// What the newest applied check of a region warned about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Due time of the first of the consecutive checks that warned about the same, in microseconds
    /// since 1970.
    pub since_us: i64,
    /// What the check warned about.
    pub details: WarningDetails,
}

/// State of one kind of warning of a site. Stored until no region warns and no warning is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningState {
    /// The regions, as for incidents; a region that is `down` warns.
    pub regions: Vec<RegionState>,
    /// The regions whose newest check warned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub observations: BTreeMap<RegionId, Observation>,
    /// The certificate of the open warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
}

/// The regions with regard to the certificate of the open warning: any other certificate counts as
/// a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// Serial number of the certificate.
    pub serial: String,
    /// The regions.
    pub regions: Vec<RegionState>,
}

/// One kind of warning of a site, with everything needed for a decision.
#[derive(Clone, Debug)]
pub struct WarningView {
    /// The site: its open incident stands for the open warning, and it has no maintenance windows.
    pub site: SiteView,
    /// The regions whose newest check warned.
    pub observations: BTreeMap<RegionId, Observation>,
    /// Serial number of the open warning's certificate, and the site with regard to it.
    renewal: Option<(String, SiteView)>,
}

/// A change of a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarningChange {
    /// A quorum of regions warns.
    Opened {
        /// Due time of the deciding check.
        at: Timestamp,
        /// Due time of the earliest of the consecutive checks that warned.
        first_warned_at: Timestamp,
        /// What the warning is about.
        details: WarningDetails,
        /// The warning in words, of the result that `details` are from.
        message: Option<String>,
        /// The regions that warn about it.
        regions: Vec<RegionId>,
    },
    /// A quorum of regions does not warn any more, or not about this certificate.
    Closed {
        /// Due time of the deciding check.
        at: Timestamp,
    },
}

/// Consequences of new results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarningDecision {
    /// Changes in chronological order.
    pub changes: Vec<WarningChange>,
    /// State to store; `None` if no region warns and no warning is open.
    pub state: Option<WarningState>,
}

impl WarningResult {
    /// The result as evidence for the rules of incidents.
    pub(crate) fn to_evidence(&self) -> RegionResult {
        RegionResult {
            region: self.region,
            scheduled_at: self.scheduled_at,
            kind: CheckKind::Scheduled,
            outcome: if self.warned.is_some() { Outcome::Down } else { Outcome::Up },
            cause: None,
            message: self.message.clone(),
        }
    }

    fn serial(&self) -> Option<&str> {
        self.warned.as_ref()?.serial.as_deref()
    }
}

impl WarningView {
    /// Creates the view from the stored state and the site, whose regions have the states of
    /// `state.regions`.
    pub fn new(
        site: SiteView,
        observations: BTreeMap<RegionId, Observation>,
        renewal: Option<Renewal>,
    ) -> Self {
        let renewal = renewal.filter(|_| site.has_open_incident).map(|Renewal { serial, regions }| {
            let mut of_certificate = site.clone();
            for (id, region) in &mut of_certificate.regions {
                region.state = regions.iter().find(|state| state.region == *id).cloned();
            }
            (serial, of_certificate)
        });
        Self { site, observations, renewal }
    }

    /// Applies new results in order of their due times.
    pub fn evaluate_results(mut self, new: Vec<WarningResult>) -> WarningDecision {
        let evidence = new.iter().map(WarningResult::to_evidence).collect();
        let evidence = self.site.prepare_evidence(evidence);
        let details: BTreeMap<(RegionId, Timestamp), &WarningResult> =
            new.iter().map(|new| ((new.region, new.scheduled_at), new)).collect();
        let mut changes = Vec::new();
        let mut now = self.site.newest_applied_at();
        for result in &evidence {
            let warned =
                details.get(&(result.region, result.scheduled_at)).and_then(|new| new.warned.as_ref());
            if self.site.apply_result(result).is_none() {
                continue;
            }
            if let Some((serial, of_certificate)) = &mut self.renewal {
                let is_same = warned.is_some_and(|details| details.serial.as_ref() == Some(serial));
                let outcome = if is_same { Outcome::Down } else { Outcome::Up };
                of_certificate.apply_result(&RegionResult { outcome, ..result.clone() });
            }
            self.observe(result, warned);
            now = now.max(result.scheduled_at);
            self.apply_changes(now, &mut changes);
        }
        WarningDecision { changes, state: self.into_state() }
    }

    /// Remembers what the newest check of a region warned about.
    fn observe(&mut self, result: &RegionResult, warned: Option<&WarningDetails>) {
        let Some(details) = warned else {
            self.observations.remove(&result.region);
            return;
        };
        let known = self.observations.get(&result.region);
        let same = known.filter(|known| known.details.serial == details.serial);
        let since_us = same.map_or(result.scheduled_at.as_micros(), |known| known.since_us);
        self.observations.insert(result.region, Observation { since_us, details: details.clone() });
    }

    fn apply_changes(&mut self, now: Timestamp, changes: &mut Vec<WarningChange>) {
        if self.site.has_open_incident {
            let judged = self.renewal.as_ref().map_or(&self.site, |(_, of_certificate)| of_certificate);
            if judged.next_change(now, &Doubts::new()).is_none() {
                return;
            }
            changes.push(WarningChange::Closed { at: now });
            self.close();
        }
        // Also after closing: the new certificate may warn.
        // Results that were up are never in doubt.
        if let Some((IncidentChange::Opened { at, first_failure_at, message, regions, .. }, _)) =
            self.site.next_change(now, &Doubts::new())
        {
            changes.push(self.open(at, first_failure_at, message, regions));
        }
    }

    fn close(&mut self) {
        self.site.has_open_incident = false;
        if self.renewal.take().is_some() {
            // A region that has not warned again since the renewal does not warn about the new
            // certificate.
            for state in self.site.regions.values_mut().filter_map(|region| region.state.as_mut()) {
                state.is_down &= state.consecutive_failures >= self.site.policy.failures_to_open;
            }
        }
    }

    fn open(
        &mut self,
        at: Timestamp,
        first_failure_at: Timestamp,
        message: Option<String>,
        regions: Vec<RegionId>,
    ) -> WarningChange {
        let serial = self.quorum_serial(at, &regions);
        let seen: Vec<(RegionId, &Observation)> = regions
            .iter()
            .filter_map(|id| Some((*id, self.observations.get(id)?)))
            .filter(|(_, seen)| serial.is_none() || seen.details.serial == serial)
            .collect();
        // The first to end; if none ends, the first that warned.
        let chosen =
            seen.iter().min_by_key(|(id, seen)| (end_order(seen.details.expires_at), seen.since_us, *id));
        let first = seen.iter().map(|(id, seen)| self.warned_since(*id, seen)).min();
        let warning_regions = match serial {
            Some(_) => seen.iter().map(|(id, _)| *id).collect(),
            None => regions,
        };
        let change = WarningChange::Opened {
            at,
            first_warned_at: first.unwrap_or(first_failure_at),
            details: chosen.map(|(_, seen)| seen.details.clone()).unwrap_or_default(),
            message: chosen.map_or(message, |(id, _)| self.region_state(*id)?.message.clone()),
            regions: warning_regions,
        };
        self.site.has_open_incident = true;
        self.renewal = serial.map(|serial| {
            let of_certificate = self.site_by_certificate(&serial);
            (serial, of_certificate)
        });
        change
    }

    /// The certificate about which a quorum of regions warns; the first to end if there are several.
    /// `None` if the regions receive different certificates and no single one has a quorum: such a
    /// warning closes only when the regions no longer warn.
    fn quorum_serial(&self, now: Timestamp, regions: &[RegionId]) -> Option<String> {
        let mut counts: BTreeMap<&str, (usize, Option<Timestamp>)> = BTreeMap::new();
        for seen in regions.iter().filter_map(|id| self.observations.get(id)) {
            if let Some(serial) = &seen.details.serial {
                let (count, expires_at) = counts.entry(serial).or_default();
                (*count, *expires_at) = (*count + 1, seen.details.expires_at);
            }
        }
        let quorum = self.site.required_quorum(self.site.reporting_regions(now).count());
        let of_quorum = counts.into_iter().filter(|(_, (count, _))| *count >= quorum);
        of_quorum
            .min_by_key(|(serial, (_, expires_at))| (end_order(*expires_at), *serial))
            .map(|(serial, _)| serial.to_owned())
    }

    /// The site with regard to one certificate: regions that do not warn about it are up.
    fn site_by_certificate(&self, serial: &str) -> SiteView {
        let mut site = self.site.clone();
        for (id, region) in &mut site.regions {
            let seen = self.observations.get(id).and_then(|seen| seen.details.serial.as_deref());
            if let Some(state) = region.state.as_mut().filter(|_| seen != Some(serial)) {
                (state.is_down, state.consecutive_failures) = (false, 0);
            }
        }
        site
    }

    fn warned_since(&self, region: RegionId, seen: &Observation) -> Timestamp {
        let failing_since = self.region_state(region).map(|state| state.failing_since_us);
        Timestamp::from_micros(seen.since_us.max(failing_since.unwrap_or(i64::MIN)))
    }

    fn region_state(&self, region: RegionId) -> Option<&RegionState> {
        self.site.regions.get(&region)?.state.as_ref()
    }

    fn into_state(self) -> Option<WarningState> {
        let Self { site, mut observations, renewal } = self;
        observations.retain(|region, _| site.regions.contains_key(region));
        let renewal = renewal.map(|(serial, of_certificate)| Renewal {
            serial,
            regions: of_certificate.into_states().unwrap_or_default(),
        });
        site.into_states().map(|regions| WarningState { regions, observations, renewal })
    }
}

/// Orders the first to end before the others, and what does not end after all.
fn end_order(expires_at: Option<Timestamp>) -> (bool, Option<Timestamp>) {
    (expires_at.is_none(), expires_at)
}

/// Returns the new state of an open warning if all new results warn about the same as before, in
/// regions that warn already, since such results change no decision. Returns `None` if the warning
/// needs a full evaluation.
pub fn fast_path_still_warned(state: &WarningState, new: &[WarningResult]) -> Option<WarningState> {
    let is_known = |new: &WarningResult| {
        let known = state.observations.get(&new.region).map(|seen| seen.details.serial.as_deref());
        new.warned.is_some() && known == Some(new.serial())
    };
    let is_of_certificate = |new: &WarningResult| {
        state.renewal.as_ref().is_none_or(|renewal| new.serial() == Some(&renewal.serial))
    };
    if !new.iter().all(|new| is_known(new) && is_of_certificate(new)) {
        return None;
    }
    let evidence: Vec<RegionResult> = new.iter().map(WarningResult::to_evidence).collect();
    let renewal = match &state.renewal {
        Some(Renewal { serial, regions }) => {
            Some(Renewal { serial: serial.clone(), regions: fast_path_still_down(regions, &evidence)? })
        }
        None => None,
    };
    Some(WarningState {
        regions: fast_path_still_down(&state.regions, &evidence)?,
        observations: state.observations.clone(),
        renewal,
    })
}
