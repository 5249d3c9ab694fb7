//! The incident rules, case by case.

use picket_proto::{Cause, CheckKind, Outcome};
use picket_store::incident_rules::{
    Doubts, IncidentChange, IncidentPolicy, RegionId, RegionResult, RegionState,
};

use crate::setup::{POLICY, new_site_view, timestamp_at};

fn region_result(region: RegionId, second: i64, outcome: Outcome) -> RegionResult {
    let cause = (outcome == Outcome::Down).then_some(Cause::Connect);
    RegionResult {
        region,
        scheduled_at: timestamp_at(second),
        kind: CheckKind::Scheduled,
        outcome,
        cause,
        message: None,
    }
}

fn down_result(region: RegionId, second: i64) -> RegionResult {
    region_result(region, second, Outcome::Down)
}

fn up_result(region: RegionId, second: i64) -> RegionResult {
    region_result(region, second, Outcome::Up)
}

#[test]
fn two_of_three_regions_that_fail_twice_open_an_incident_and_two_successes_of_a_quorum_close_it() {
    let judgement = new_site_view(POLICY, 3).evaluate_results(vec![
        down_result(1, 10),
        down_result(1, 20),
        down_result(2, 21),
        down_result(2, 31),
        up_result(1, 40),
        down_result(1, 50),
        up_result(2, 51),
        up_result(2, 61),
    ]);

    let [
        IncidentChange::Opened { at: opened, first_failure_at, regions, .. },
        IncidentChange::Closed { at: closed },
    ] = &judgement.changes[..]
    else {
        panic!("{judgement:?}")
    };
    assert_eq!(
        (*opened, *first_failure_at, regions.as_slice()),
        (timestamp_at(31), timestamp_at(10), &[1, 2][..])
    );
    assert_eq!(
        *closed,
        timestamp_at(61),
        "the first region's recovery started over, the other two are a quorum"
    );
}

#[test]
fn a_single_failing_region_of_three_never_opens_an_incident() {
    let judgement =
        new_site_view(POLICY, 3).evaluate_results((1..50).map(|n| down_result(1, n * 2)).collect());

    assert_eq!(judgement.changes, []);
    assert!(judgement.states.unwrap()[0].is_down);
}

#[test]
fn failures_with_a_success_between_them_are_not_in_a_row() {
    let both = |n| {
        if n % 2 == 0 {
            vec![down_result(1, n), down_result(2, n)]
        } else {
            vec![up_result(1, n), up_result(2, n)]
        }
    };

    assert_eq!(new_site_view(POLICY, 3).evaluate_results((1..40).flat_map(both).collect()).changes, []);
}

#[test]
fn silent_regions_do_not_count_in_the_quorum() {
    let mut site = new_site_view(POLICY, 3);
    site.regions.get_mut(&3).unwrap().last_result_at = Some(timestamp_at(-500));
    site.regions.get_mut(&2).unwrap().last_result_at = Some(timestamp_at(-500));

    let judgement = site.evaluate_results(vec![down_result(1, 10), down_result(1, 20)]);

    assert!(matches!(judgement.changes[..], [IncidentChange::Opened { .. }]), "{judgement:?}");
}

#[test]
fn a_recently_added_region_is_awaited() {
    let mut site = new_site_view(POLICY, 3);
    for id in [2, 3] {
        let region = site.regions.get_mut(&id).unwrap();
        (region.last_result_at, region.last_success_at, region.joining_until) =
            (None, None, timestamp_at(60));
    }

    let judgement = site.evaluate_results(vec![down_result(1, 10), down_result(1, 20), down_result(1, 70)]);

    let [IncidentChange::Opened { at: opened, .. }] = judgement.changes[..] else { panic!("{judgement:?}") };
    assert_eq!(opened, timestamp_at(70));
}

#[test]
fn a_quorum_above_the_number_of_regions_means_all_of_them() {
    let rules = IncidentPolicy { quorum: Some(9), failures_to_open: 1, ..POLICY };

    assert_eq!(
        new_site_view(rules, 3).evaluate_results(vec![down_result(1, 1), down_result(2, 2)]).changes,
        []
    );
    assert_eq!(
        new_site_view(rules, 3)
            .evaluate_results(vec![down_result(1, 1), down_result(2, 2), down_result(3, 3)])
            .changes
            .len(),
        1
    );
}

#[test]
fn a_quorum_of_one_keeps_a_site_down_until_no_region_is_down() {
    let rules = IncidentPolicy { quorum: Some(1), ..POLICY };

    let open = new_site_view(rules, 3).evaluate_results(vec![
        down_result(1, 1),
        down_result(1, 2),
        up_result(2, 3),
        up_result(3, 4),
        up_result(1, 5),
    ]);
    assert_eq!(open.changes.len(), 1);
    let back = new_site_view(rules, 3).evaluate_results(vec![
        down_result(1, 1),
        down_result(1, 2),
        up_result(2, 3),
        up_result(1, 5),
        up_result(1, 6),
    ]);
    assert_eq!(back.changes[1], IncidentChange::Closed { at: timestamp_at(6) });
}

#[test]
fn maintenance_opens_no_incident_until_its_end() {
    let mut site = new_site_view(POLICY, 3);
    site.maintenance_windows = vec![(timestamp_at(0), timestamp_at(100))];

    let judgement = site.evaluate_results(
        (1..12).flat_map(|n| [down_result(1, n * 10), down_result(2, n * 10 + 1)]).collect(),
    );

    let [IncidentChange::Opened { at: opened, first_failure_at, .. }] = judgement.changes[..] else {
        panic!("{judgement:?}")
    };
    assert_eq!((opened, first_failure_at), (timestamp_at(100), timestamp_at(10)));
}

#[test]
fn the_first_failure_requests_enough_confirmation_rounds_and_a_success_withdraws_them() {
    let asked = new_site_view(POLICY, 3).evaluate_results(vec![down_result(1, 10)]);
    assert_eq!(asked.confirmation_rounds, Some(2), "one of the others needs two");

    let mut next = new_site_view(POLICY, 3);
    next.regions.get_mut(&1).unwrap().state = Some(asked.states.unwrap()[0].clone());
    assert_eq!(
        next.clone().evaluate_results(vec![down_result(1, 20)]).confirmation_rounds,
        None,
        "they are requested once"
    );
    let confirmed = RegionResult { kind: CheckKind::Confirm, ..up_result(1, 11) };
    let judgement = next.evaluate_results(vec![confirmed]);
    assert_eq!(judgement.confirmation_rounds, Some(0));
    assert_eq!(
        judgement.states.unwrap().len(),
        1,
        "a confirming check is recorded, since no tick contains it"
    );
}

#[test]
fn a_success_unseen_by_another_writer_separates_failures() {
    let asked = new_site_view(POLICY, 3).evaluate_results(vec![down_result(1, 10), down_result(2, 10)]);
    let mut next = new_site_view(POLICY, 3);
    for state in asked.states.unwrap() {
        let region = next.regions.get_mut(&state.region).unwrap();
        (region.state, region.last_result_at, region.last_success_at) =
            (Some(state), Some(timestamp_at(20)), Some(timestamp_at(20)));
    }

    assert_eq!(next.evaluate_results(vec![down_result(1, 30), down_result(2, 30)]).changes, []);
}

/// Failures of this region are doubtful from and before these seconds.
fn doubts(region: RegionId, from: i64, to: i64) -> Doubts {
    Doubts::from([(region, vec![(timestamp_at(from), timestamp_at(to))])])
}

#[test]
fn a_failure_in_doubt_opens_nothing_until_the_doubt_ends_and_then_its_incident_opens() {
    let alone = IncidentPolicy { quorum: Some(1), ..POLICY };
    let failing: Vec<_> = (1..10).map(|n| down_result(1, n * 10)).collect();

    let judgement = new_site_view(alone, 3).evaluate_with_doubts(failing, &doubts(1, 10, 60));

    let [IncidentChange::Opened { at, first_failure_at, .. }] = &judgement.changes[..] else {
        panic!("{judgement:?}")
    };
    assert_eq!((*at, *first_failure_at), (timestamp_at(60), timestamp_at(10)));
}

#[test]
fn a_region_in_doubt_takes_no_part_in_the_vote_of_the_others() {
    let outage = vec![
        down_result(1, 10),
        down_result(2, 11),
        down_result(3, 12),
        down_result(1, 20),
        down_result(2, 21),
        down_result(3, 22),
    ];
    let judgement = new_site_view(POLICY, 3).evaluate_with_doubts(outage, &doubts(1, 10, 600));
    let [IncidentChange::Opened { at, regions, .. }] = &judgement.changes[..] else {
        panic!("{judgement:?}")
    };
    assert_eq!((*at, regions.as_slice()), (timestamp_at(22), &[2, 3][..]));

    let one_other = vec![down_result(1, 10), down_result(2, 11), down_result(1, 20), down_result(2, 21)];
    let judgement = new_site_view(POLICY, 3).evaluate_with_doubts(one_other, &doubts(1, 10, 600));
    assert_eq!(judgement.changes, [], "one of the two that count is no majority");
}

#[test]
fn a_region_that_recovers_after_a_doubt_opens_no_incident_with_its_first_success() {
    let alone = IncidentPolicy { quorum: Some(1), ..POLICY };
    let results = vec![down_result(1, 10), down_result(1, 20), up_result(1, 30), up_result(1, 40)];

    let judgement = new_site_view(alone, 3).evaluate_with_doubts(results, &doubts(1, 10, 30));

    assert_eq!(judgement.changes, []);
}

#[test]
fn a_doubt_closes_no_incident() {
    let results = vec![
        down_result(1, 1),
        down_result(2, 2),
        down_result(1, 5),
        down_result(2, 6),
        down_result(1, 20),
        down_result(2, 21),
        up_result(3, 30),
    ];

    let changes = new_site_view(POLICY, 3).evaluate_with_doubts(results, &doubts(1, 10, 600)).changes;

    assert!(matches!(changes[..], [IncidentChange::Opened { .. }]), "{changes:?}");
}

#[test]
fn a_state_with_a_cause_of_a_newer_version_is_read_and_its_cause_is_other() {
    let read = |cause: &str| {
        let state = format!(
            r#"{{"region":1,"last_scheduled_us":1,"kind":"scheduled","consecutive_failures":1,
                "consecutive_successes":0,"is_down":true,"failing_since_us":1{cause}}}"#
        );
        serde_json::from_str::<RegionState>(&state).unwrap()
    };

    for (cause, expected) in [
        (r#","cause":"future_cause""#, Some(Cause::Other)),
        (r#","cause":"connect""#, Some(Cause::Connect)),
        (r#","cause":null"#, None),
        ("", None),
    ] {
        assert_eq!(read(cause).cause, expected, "{cause}");
    }
}
