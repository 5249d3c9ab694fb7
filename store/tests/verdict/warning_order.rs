//! Warnings, with results in any order, any number of times, from regions that come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use picket_proto::Timestamp;
use picket_store::{
    incident_rules::{IncidentPolicy, RegionId, RegionView, SiteView},
    warning_rules::{
        WarningChange, WarningDetails, WarningResult, WarningState, WarningView, fast_path_still_warned,
    },
};
use proptest::{collection::vec, prelude::*};

use crate::setup::{
    REGIONS, Step, WINDOW, cut_into_batches, policy_strategy, sort_by_due_time, step_strategy, timestamp_at,
};

/// What the store does around the decision: rows once each, the state and the warning kept between
/// batches.
struct World {
    policy: IncidentPolicy,
    regions: BTreeSet<RegionId>,
    rows: BTreeMap<(RegionId, Timestamp), bool>,
    state: Option<WarningState>,
    is_open: bool,
    changes: Vec<WarningChange>,
    /// True if results that repeat the warning skip the full evaluation, as in the store.
    has_fast_path: bool,
    reporting_window: Duration,
}

impl World {
    fn new(policy: IncidentPolicy) -> Self {
        Self {
            policy,
            regions: (1..=REGIONS).collect(),
            rows: BTreeMap::new(),
            state: None,
            is_open: false,
            changes: vec![],
            has_fast_path: true,
            reporting_window: WINDOW,
        }
    }

    fn apply_batch(&mut self, batch: &[WarningResult]) -> Vec<WarningChange> {
        let mut new = Vec::new();
        for result in batch {
            if self.rows.insert((result.region, result.scheduled_at), result.warned.is_some()).is_none() {
                new.push(result.clone());
            }
        }
        if new.is_empty() || self.state.is_none() && new.iter().all(|new| new.warned.is_none()) {
            return vec![];
        }
        if let Some(state) = self.state.as_ref().filter(|_| self.is_open && self.has_fast_path)
            && let Some(state) = fast_path_still_warned(state, &new)
        {
            self.state = Some(state);
            return vec![];
        }
        let is_new = |region, at| new.iter().any(|new| new.region == region && new.scheduled_at == at);
        let seen = |region: RegionId, is_clear: bool| {
            let rows = self.rows.iter().filter(move |((of, at), warned)| {
                *of == region && !is_new(region, *at) && !(is_clear && **warned)
            });
            rows.map(|((_, at), _)| *at).max()
        };
        let state = self.state.clone().unwrap_or_default();
        let region = |id: &RegionId| RegionView {
            state: state.regions.iter().find(|state| state.region == *id).cloned(),
            reporting_window: self.reporting_window,
            joining_until: Timestamp::from_micros(i64::MIN),
            last_result_at: seen(*id, false),
            last_success_at: seen(*id, true),
        };
        let site = SiteView {
            policy: self.policy,
            regions: self.regions.iter().map(|id| (*id, region(id))).collect(),
            has_open_incident: self.is_open,
            maintenance_windows: vec![],
        };
        let decision = WarningView::new(site, state.observations, state.renewal).evaluate_results(new);
        for change in &decision.changes {
            let opens = matches!(change, WarningChange::Opened { .. });
            assert_ne!(opens, self.is_open, "a warning opens when none is open, and closes when one is");
            self.is_open = opens;
        }
        self.state = decision.state;
        self.changes.extend(decision.changes.clone());
        decision.changes
    }

    fn apply_step(&mut self, step: &Step<WarningResult>) {
        let batch = step.apply_to(&mut self.regions);
        self.apply_batch(batch);
    }

    /// Applies `results` one by one.
    fn apply_each(&mut self, results: &[WarningResult]) {
        for result in results {
            self.apply_batch(std::slice::from_ref(result));
        }
    }
}

fn details_strategy() -> impl Strategy<Value = Option<WarningDetails>> {
    let certificate = |serial: &str, day: i64| {
        Some(WarningDetails {
            serial: Some(serial.to_owned()),
            expires_at: Some(Timestamp::from_millis(day * 86_400_000)),
        })
    };
    prop_oneof![
        4 => Just(None),
        3 => Just(certificate("a", 9)),
        2 => Just(certificate("b", 5)),
        1 => Just(Some(WarningDetails::default())),
    ]
}

fn result_strategy() -> impl Strategy<Value = WarningResult> {
    (1..=REGIONS, 0..40i64, details_strategy()).prop_map(|(region, second, warned)| WarningResult {
        region,
        scheduled_at: timestamp_at(second),
        warned,
        message: None,
    })
}

fn in_due_order(results: &[WarningResult]) -> Vec<WarningResult> {
    sort_by_due_time(results, |result| (result.scheduled_at, result.region))
}

fn clear_result(region: RegionId, second: i64) -> WarningResult {
    WarningResult { region, scheduled_at: timestamp_at(second), warned: None, message: None }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn warnings_open_and_close_in_turn_for_any_results(policy in policy_strategy(), steps in vec(step_strategy(result_strategy()), 1..40)) {
        let mut world = World::new(policy);
        steps.iter().for_each(|step| world.apply_step(step));
    }

    #[test]
    fn results_that_come_again_change_nothing(policy in policy_strategy(), batches in vec(vec(result_strategy(), 1..6), 1..20)) {
        let mut world = World::new(policy);
        for batch in &batches {
            world.apply_batch(batch);
        }
        let (state, is_open) = (world.state.clone(), world.is_open);
        for batch in batches.iter().rev() {
            prop_assert_eq!(world.apply_batch(batch), vec![]);
        }
        prop_assert_eq!((world.state, world.is_open), (state, is_open));
    }

    #[test]
    fn the_division_of_results_into_batches_does_not_matter(
        policy in policy_strategy(), results in vec(result_strategy(), 1..80), cuts in vec(1..9usize, 80),
    ) {
        let results = in_due_order(&results);
        let (mut whole, mut cut) = (World::new(policy), World::new(policy));
        (whole.has_fast_path, cut.has_fast_path) = (false, false);
        whole.apply_each(&results);
        for batch in cut_into_batches(&results, &cuts) {
            cut.apply_batch(&batch);
        }
        prop_assert_eq!(whole.changes, cut.changes);
        prop_assert_eq!(whole.is_open, cut.is_open);
    }

    #[test]
    fn results_that_repeat_a_warning_are_decided_the_same_without_its_context(
        policy in policy_strategy(), results in vec(result_strategy(), 1..80),
    ) {
        let results = in_due_order(&results);
        let (mut fast, mut full) = (World::new(policy), World::new(policy));
        full.has_fast_path = false;
        // As for incidents: a repetition does not ask which other regions have become silent.
        (fast.reporting_window, full.reporting_window) = (WINDOW * 100, WINDOW * 100);
        fast.apply_each(&results);
        full.apply_each(&results);
        prop_assert_eq!(fast.changes, full.changes);
    }

    #[test]
    fn a_result_older_than_all_applied_results_of_its_region_changes_nothing(
        policy in policy_strategy(), results in vec(result_strategy(), 1..40), older in vec(result_strategy(), 1..10),
    ) {
        let mut world = World::new(policy);
        for result in in_due_order(&results) {
            let scheduled_at = result.scheduled_at.saturating_add(Duration::from_secs(100));
            world.apply_batch(&[WarningResult { scheduled_at, ..result }]);
        }
        for region in 1..=REGIONS {
            world.apply_batch(&[clear_result(region, 141)]);
        }
        let (state, is_open) = (world.state.clone(), world.is_open);
        prop_assert_eq!(world.apply_batch(&older), vec![]);
        prop_assert_eq!((world.state, world.is_open), (state, is_open));
    }

    #[test]
    fn a_warning_that_no_region_repeats_closes_and_leaves_no_state(
        policy in policy_strategy(), steps in vec(step_strategy(result_strategy()), 1..40),
    ) {
        let mut world = World::new(policy);
        steps.iter().for_each(|step| world.apply_step(step));
        (1..=REGIONS).for_each(|region| world.apply_step(&Step::Join(region)));
        for second in 100..104 {
            for region in 1..=REGIONS {
                world.apply_batch(&[clear_result(region, second)]);
            }
        }
        prop_assert!(!world.is_open);
        prop_assert!(world.state.is_none(), "{:?}", world.state);
    }
}
