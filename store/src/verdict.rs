//! Pure: whether a site is down, from what its regions say. Time is that of the checks, not of the day.
//!
//! A region is down after so many failures in a row; the site is, when a quorum of the regions that report is. What a
//! region says is taken in the order in which its checks were due: an older result never changes a newer state.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{Cause, Kind, Outcome, Timestamp};
use serde::{Deserialize, Serialize};

/// When a site counts as down, and when as up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
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
pub struct Evidence {
    /// Where.
    pub region: RegionId,
    /// When the check was due.
    pub at: Timestamp,
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
pub struct Region {
    /// What is kept; absent where it was plainly up.
    pub state: Option<RegionState>,
    /// For how long after its last result it counts as one that reports.
    pub window: Duration,
    /// Until then it counts though it has said nothing, since it had no turn yet.
    pub joining_until: Timestamp,
    /// When its newest real result was due, leaving out what is new.
    pub seen: Option<Timestamp>,
    /// The same of its successes.
    pub seen_up: Option<Timestamp>,
}

/// A site, as it is to be judged.
#[derive(Clone, Debug)]
pub struct Site {
    /// When it counts as down.
    pub rules: Rules,
    /// Those that check it.
    pub regions: BTreeMap<RegionId, Region>,
    /// Whether an incident is open.
    pub open: bool,
    /// Windows of maintenance: from, and the first moment after.
    pub maintenance: Vec<(Timestamp, Timestamp)>,
}

/// What becomes of a site's incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
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
pub struct Judgement {
    /// In the order in which they happened.
    pub changes: Vec<Change>,
    /// How many rounds of confirming checks would decide it; 0: none are needed any more.
    pub confirm: Option<u32>,
    /// What is to be kept; nothing when the site is plainly up.
    pub states: Option<Vec<RegionState>>,
}

impl Site {
    /// Takes in what is new, in the order in which it was due.
    pub fn judge(mut self, mut evidence: Vec<Evidence>) -> Judgement {
        evidence.retain(|new| new.outcome != Outcome::Missed && self.regions.contains_key(&new.region));
        self.find_what_was_overlooked(&mut evidence);
        evidence.sort_by_key(|new| (new.at, new.region, new.kind));
        let failing_before = self.failing();
        let (mut changes, mut suspicious) = (Vec::new(), false);
        let states = self.regions.values().filter_map(|region| region.state.as_ref());
        let mut now = Timestamp::from_micros(states.map(|state| state.last_us).max().unwrap_or(i64::MIN));
        for new in &evidence {
            let taken = self.regions.get_mut(&new.region).and_then(|region| region.take(new, self.rules));
            let Some(begins) = taken else { continue };
            suspicious |= begins;
            now = now.max(new.at);
            if let Some(change) = self.change(now) {
                self.open = matches!(change, Change::Opened { .. });
                changes.push(change);
            }
        }
        let undecided = suspicious && !self.open && !self.in_maintenance(now);
        let confirm = match undecided.then(|| self.rounds(now)).flatten() {
            Some(rounds) => Some(rounds),
            None if (failing_before || suspicious) && (self.open || !self.failing()) => Some(0),
            None => None,
        };
        Judgement { changes, confirm, states: self.states() }
    }

    /// Two writers at once do not see each other's rows when they look whether a site is plainly up. What one of them
    /// took for uninteresting is found in the rows, before it could make failures seem to follow each other.
    fn find_what_was_overlooked(&mut self, evidence: &mut Vec<Evidence>) {
        for (id, region) in &mut self.regions {
            let (Some(state), Some(up)) = (&mut region.state, region.seen_up) else { continue };
            if state.down || state.fails == 0 || up.micros() <= state.failing_since_us {
                continue;
            }
            if up.micros() < state.last_us {
                (state.fails, state.failing_since_us) = (1, state.last_us);
            } else {
                evidence.push(Evidence {
                    region: *id,
                    at: up,
                    kind: Kind::Scheduled,
                    outcome: Outcome::Up,
                    cause: None,
                    message: None,
                });
            }
        }
    }

    fn change(&self, now: Timestamp) -> Option<Change> {
        let reporting: Vec<&Region> = self.regions.values().filter(|region| region.reports(now)).collect();
        let down: Vec<&RegionState> = reporting.iter().filter_map(|region| region.down()).collect();
        let up = reporting.iter().filter(|region| region.is_up()).count();
        let quorum = self.quorum(reporting.len());
        if self.open {
            // Of a quorum that does not report any more nobody waits for an answer.
            let back = up > 0 && down.len() < quorum && up >= quorum.min(reporting.len());
            return back.then_some(Change::Closed { at: now });
        }
        if down.len() < quorum || self.in_maintenance(now) {
            return None;
        }
        let first = down.iter().min_by_key(|state| (state.failing_since_us, state.region))?;
        Some(Change::Opened {
            at: now,
            first_failure_at: Timestamp::from_micros(first.failing_since_us),
            cause: first.cause,
            message: first.message.clone(),
            regions: down.iter().map(|state| state.region).collect(),
        })
    }

    /// How many of `reporting` regions make a quorum: at least one, and never more than check the site at all.
    fn quorum(&self, reporting: usize) -> usize {
        match self.rules.quorum {
            Some(quorum) => (quorum as usize).clamp(1, self.regions.len().max(1)),
            None => reporting / 2 + 1,
        }
    }

    fn in_maintenance(&self, now: Timestamp) -> bool {
        self.maintenance.iter().any(|(from, to)| *from <= now && now < *to)
    }

    /// How many more failures of every region would make a quorum.
    fn rounds(&self, now: Timestamp) -> Option<u32> {
        let reporting = self.regions.values().filter(|region| region.reports(now));
        let mut needed: Vec<u32> = reporting.map(|region| region.fails_needed(self.rules)).collect();
        needed.sort_unstable();
        let rounds = *needed.get(self.quorum(needed.len()) - 1)?;
        (rounds > 0 && self.failing()).then_some(rounds)
    }

    fn failing(&self) -> bool {
        self.regions.values().any(|region| region.state.as_ref().is_some_and(|state| !state.is_up()))
    }

    fn states(self) -> Option<Vec<RegionState>> {
        // Who was asked to confirm is remembered until its next tick, which anybody can look up.
        let settled = |state: &RegionState| state.is_up() && state.kind == Kind::Scheduled;
        let states: Vec<RegionState> = self.regions.into_values().filter_map(|region| region.state).collect();
        (self.open || !states.iter().all(settled)).then_some(states)
    }
}

/// What is to be kept of a site whose incident is open, if all that is new says that regions which are down still are:
/// then nothing follows from it. Otherwise the site is to be judged.
pub fn still_down(states: &[RegionState], new: &[Evidence]) -> Option<Vec<RegionState>> {
    let mut states = states.to_vec();
    for new in new {
        let state = states.iter_mut().find(|state| state.region == new.region && state.down)?;
        if new.outcome != Outcome::Down {
            return None;
        }
        state.failed(new);
    }
    Some(states)
}

impl Region {
    /// Takes in a result, unless it is older than what the region has said. Says whether failures begin with it.
    fn take(&mut self, new: &Evidence, rules: Rules) -> Option<bool> {
        let seen = |seen: Timestamp| (new.at.micros(), new.kind) <= (seen.micros(), Kind::Scheduled);
        if self.state.is_none() && self.seen.is_some_and(seen) {
            return None;
        }
        let state = self.state.get_or_insert_with(|| RegionState::plainly_up(new.region));
        match new.outcome {
            Outcome::Down => {
                let begins = state.failed(new)?;
                state.down |= state.fails >= rules.failures_to_open;
                Some(begins)
            }
            _ => {
                if !state.moves_to(new) {
                    return None;
                }
                (state.oks, state.fails) = (state.oks.saturating_add(1), 0);
                state.down &= state.oks < rules.successes_to_close;
                Some(false)
            }
        }
    }

    fn reports(&self, now: Timestamp) -> bool {
        let last = self.state.as_ref().map(|state| Timestamp::from_micros(state.last_us)).max(self.seen);
        now < self.joining_until || last.is_some_and(|last| now.since(last) <= self.window)
    }

    fn down(&self) -> Option<&RegionState> {
        self.state.as_ref().filter(|state| state.down)
    }

    /// Whether it says that the site is up; one that has just joined has said nothing.
    fn is_up(&self) -> bool {
        match &self.state {
            Some(state) => state.is_up(),
            None => self.seen.is_some(),
        }
    }

    fn fails_needed(&self, rules: Rules) -> u32 {
        match &self.state {
            Some(state) if state.down => 0,
            Some(state) => rules.failures_to_open.saturating_sub(state.fails).max(1),
            None => rules.failures_to_open.max(1),
        }
    }
}

impl RegionState {
    fn plainly_up(region: RegionId) -> Self {
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
    fn moves_to(&mut self, new: &Evidence) -> bool {
        let newer = (new.at.micros(), new.kind) > (self.last_us, self.kind);
        if newer {
            (self.last_us, self.kind) = (new.at.micros(), new.kind);
        }
        newer
    }

    /// Takes in a failure, unless it is older. Says whether failures begin with it.
    fn failed(&mut self, new: &Evidence) -> Option<bool> {
        if !self.moves_to(new) {
            return None;
        }
        let begins = self.fails == 0;
        if begins {
            self.failing_since_us = new.at.micros();
        }
        (self.fails, self.oks) = (self.fails.saturating_add(1), 0);
        (self.cause, self.message) = (new.cause, new.message.clone());
        Some(begins)
    }
}
