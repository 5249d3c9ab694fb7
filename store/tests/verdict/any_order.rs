//! The verdict, with results in any order, any number of times, from regions that come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use picket_proto::{CheckKind, Outcome, Timestamp};
use picket_store::incident_rules::{
    IncidentChange, IncidentPolicy, RegionId, RegionResult, RegionState, RegionView, SiteView,
};
use proptest::{collection::vec, prelude::*};

use crate::setup::{
    POLICY, REGIONS, Step, WINDOW, cut_into_batches, policy_strategy, sort_by_due_time, step_strategy,
    timestamp_at,
};

/// The store around the rules: each row once, states and the incident kept between batches.
struct World {
    rules: IncidentPolicy,
    regions: BTreeSet<RegionId>,
    rows: BTreeMap<(RegionId, Timestamp, CheckKind), Outcome>,
    states: Option<Vec<RegionState>>,
    open: bool,
    changes: Vec<IncidentChange>,
}

impl World {
    fn new(rules: IncidentPolicy, regions: impl IntoIterator<Item = RegionId>) -> Self {
        let regions = regions.into_iter().collect();
        Self { rules, regions, rows: BTreeMap::new(), states: None, open: false, changes: vec![] }
    }

    fn apply_batch(&mut self, batch: &[RegionResult]) -> Vec<IncidentChange> {
        let mut new = Vec::new();
        for result in batch {
            let key = (result.region, result.scheduled_at, result.kind);
            // A real result replaces a missed one and is never replaced.
            if self
                .rows
                .get(&key)
                .is_none_or(|kept| *kept == Outcome::Missed && result.outcome != Outcome::Missed)
            {
                self.rows.insert(key, result.outcome);
                new.push(result.clone());
            }
        }
        let interesting = self.states.is_some()
            || new.iter().any(|new| {
                new.outcome == Outcome::Down
                    || new.kind == CheckKind::Confirm && new.outcome != Outcome::Missed
            });
        if !interesting || new.is_empty() {
            return vec![];
        }
        let is_new = |region, at| new.iter().any(|new| new.region == region && new.scheduled_at == at);
        let seen = |region: RegionId, up: bool| {
            let rows = self.rows.iter().filter(move |((of, at, kind), outcome)| {
                *of == region
                    && *kind == CheckKind::Scheduled
                    && !is_new(region, *at)
                    && (**outcome == Outcome::Up || !up && **outcome == Outcome::Down)
            });
            rows.map(|((_, at, _), _)| *at).max()
        };
        let region = |id: &RegionId| RegionView {
            state: self.states.iter().flatten().find(|state| state.region == *id).cloned(),
            reporting_window: WINDOW,
            joining_until: Timestamp::from_micros(i64::MIN),
            last_result_at: seen(*id, false),
            last_success_at: seen(*id, true),
        };
        let site = SiteView {
            policy: self.rules,
            regions: self.regions.iter().map(|id| (*id, region(id))).collect(),
            has_open_incident: self.open,
            maintenance_windows: vec![],
        };
        let judgement = site.evaluate_results(new);
        for change in &judgement.changes {
            let opens = matches!(change, IncidentChange::Opened { .. });
            assert_ne!(opens, self.open, "an incident opens when none is open, and closes when one is");
            self.open = opens;
        }
        self.states = judgement.states;
        self.changes.extend(judgement.changes.clone());
        judgement.changes
    }

    fn apply_step(&mut self, step: &Step<RegionResult>) {
        let batch = step.apply_to(&mut self.regions);
        self.apply_batch(batch);
    }
}

fn outcome_strategy() -> impl Strategy<Value = Outcome> {
    prop_oneof![4 => Just(Outcome::Up), 5 => Just(Outcome::Down), 1 => Just(Outcome::Missed)]
}

fn result_strategy() -> impl Strategy<Value = RegionResult> {
    let kind = prop_oneof![3 => Just(CheckKind::Scheduled), 1 => Just(CheckKind::Confirm)];
    (1..=REGIONS, 0..40i64, kind, outcome_strategy()).prop_map(|(region, second, kind, outcome)| {
        RegionResult { region, scheduled_at: timestamp_at(second), kind, outcome, cause: None, message: None }
    })
}

fn in_due_order(results: &[RegionResult]) -> Vec<RegionResult> {
    sort_by_due_time(results, |result| (result.scheduled_at, result.region, result.kind))
}

fn scheduled_result(region: RegionId, at: Timestamp, outcome: Outcome) -> RegionResult {
    RegionResult { region, scheduled_at: at, kind: CheckKind::Scheduled, outcome, cause: None, message: None }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn incidents_open_and_close_alternately_for_any_input(rules in policy_strategy(), steps in vec(step_strategy(result_strategy()), 1..40)) {
        let mut world = World::new(rules, 1..=REGIONS);
        steps.iter().for_each(|step| world.apply_step(step));
    }

    #[test]
    fn repeated_results_change_nothing(rules in policy_strategy(), batches in vec(vec(result_strategy(), 1..6), 1..20)) {
        let mut world = World::new(rules, 1..=REGIONS);
        for batch in &batches {
            world.apply_batch(batch);
            let (states, open) = (world.states.clone(), world.open);
            prop_assert_eq!(world.apply_batch(batch), vec![]);
            prop_assert_eq!((&world.states, world.open), (&states, open));
        }
        let (states, open) = (world.states.clone(), world.open);
        for batch in batches.iter().rev() {
            prop_assert_eq!(world.apply_batch(batch), vec![]);
        }
        prop_assert_eq!((world.states, world.open), (states, open));
    }

    #[test]
    fn missed_results_neither_open_nor_close_incidents(rules in policy_strategy(), results in vec(result_strategy(), 1..60)) {
        let results = in_due_order(&results);
        let (mut with, mut without) = (World::new(rules, 1..=REGIONS), World::new(rules, 1..=REGIONS));
        for result in &results {
            with.apply_batch(std::slice::from_ref(result));
            if result.outcome != Outcome::Missed {
                without.apply_batch(std::slice::from_ref(result));
            }
        }
        prop_assert_eq!(with.changes, without.changes);
    }

    #[test]
    fn the_division_into_batches_does_not_matter(
        rules in policy_strategy(), results in vec(result_strategy(), 1..80), cuts in vec(1..9usize, 80),
    ) {
        let results = in_due_order(&results);
        let (mut whole, mut cut) = (World::new(rules, 1..=REGIONS), World::new(rules, 1..=REGIONS));
        for result in &results {
            whole.apply_batch(std::slice::from_ref(result));
        }
        for batch in cut_into_batches(&results, &cuts) {
            cut.apply_batch(&batch);
        }
        prop_assert_eq!(whole.changes, cut.changes);
        prop_assert_eq!(whole.open, cut.open);
    }

    #[test]
    fn results_older_than_their_regions_newest_change_nothing(
        rules in policy_strategy(), results in vec(result_strategy(), 1..40), older in vec(result_strategy(), 1..10),
    ) {
        let mut world = World::new(rules, 1..=REGIONS);
        for result in in_due_order(&results) {
            world.apply_batch(&[RegionResult { scheduled_at: result.scheduled_at.saturating_add(Duration::from_secs(100)), ..result }]);
        }
        // A tick of each region's that is newer than what follows.
        for region in 1..=REGIONS {
            world.apply_batch(&[scheduled_result(region, timestamp_at(141), Outcome::Up)]);
        }
        let (states, open) = (world.states.clone(), world.open);
        prop_assert_eq!(world.apply_batch(&older), vec![]);
        prop_assert_eq!((world.states, world.open), (states, open));
    }

    #[test]
    fn regions_up_for_long_enough_leave_no_incident_and_no_state(
        rules in policy_strategy(), steps in vec(step_strategy(result_strategy()), 1..40),
    ) {
        let mut world = World::new(rules, 1..=REGIONS);
        steps.iter().for_each(|step| world.apply_step(step));
        (1..=REGIONS).for_each(|region| world.apply_step(&Step::Join(region)));
        for second in 100..104 {
            for region in 1..=REGIONS {
                world.apply_batch(&[scheduled_result(region, timestamp_at(second), Outcome::Up)]);
            }
        }
        prop_assert!(!world.open);
        prop_assert!(world.states.is_none(), "{:?}", world.states);
    }
}

#[test]
fn a_long_outage_in_all_regions_is_one_incident() {
    let mut world = World::new(POLICY, 1..=3);
    for second in 0..100 {
        for region in 1..=3 {
            let outcome = if (30..60).contains(&second) { Outcome::Down } else { Outcome::Up };
            let at = Timestamp::from_millis(second * 1_000 + i64::from(region));
            world.apply_batch(&[scheduled_result(region, at, outcome)]);
        }
    }

    let [IncidentChange::Opened { at: opened, .. }, IncidentChange::Closed { at: closed }] =
        world.changes[..]
    else {
        panic!("{:?}", world.changes)
    };
    assert_eq!((opened.as_millis(), closed.as_millis()), (31_002, 61_002));
    let last = world.rows.keys().map(|(_, at, _)| *at).max().unwrap();
    assert!(last > closed);
}
