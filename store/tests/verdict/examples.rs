//! What the verdict says, case by case.

use std::time::Duration;

use picket_proto::{Cause, Kind, Outcome, Timestamp};
use picket_store::verdict::{Change, Evidence, Region, RegionId, Rules, Site};

const RULES: Rules = Rules { failures_to_open: 2, successes_to_close: 2, quorum: None };

fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(second * 1_000)
}

/// Watched from three regions, plainly up until second 0.
fn site(rules: Rules) -> Site {
    let region = Region {
        state: None,
        window: Duration::from_secs(120),
        joining_until: at(-1_000),
        seen: Some(at(0)),
        seen_up: Some(at(0)),
    };
    Site {
        rules,
        regions: (1..=3).map(|id| (id, region.clone())).collect(),
        open: false,
        maintenance: vec![],
    }
}

fn says(region: RegionId, second: i64, outcome: Outcome) -> Evidence {
    let cause = (outcome == Outcome::Down).then_some(Cause::Connect);
    Evidence { region, at: at(second), kind: Kind::Scheduled, outcome, cause, message: None }
}

fn down(region: RegionId, second: i64) -> Evidence {
    says(region, second, Outcome::Down)
}

fn up(region: RegionId, second: i64) -> Evidence {
    says(region, second, Outcome::Up)
}

#[test]
fn two_of_three_regions_that_fail_twice_open_an_incident_and_two_successes_of_a_quorum_close_it() {
    let judgement = site(RULES).judge(vec![
        down(1, 10),
        down(1, 20),
        down(2, 21),
        down(2, 31),
        up(1, 40),
        down(1, 50),
        up(2, 51),
        up(2, 61),
    ]);

    let [Change::Opened { at: opened, first_failure_at, regions, .. }, Change::Closed { at: closed }] =
        &judgement.changes[..]
    else {
        panic!("{judgement:?}")
    };
    assert_eq!((*opened, *first_failure_at, regions.as_slice()), (at(31), at(10), &[1, 2][..]));
    assert_eq!(*closed, at(61), "the first region's recovery started over, the other two are a quorum");
}

#[test]
fn one_region_of_three_opens_nothing_however_long_it_fails() {
    let judgement = site(RULES).judge((1..50).map(|n| down(1, n * 2)).collect());

    assert_eq!(judgement.changes, []);
    assert!(judgement.states.unwrap()[0].down);
}

#[test]
fn failures_with_a_success_between_them_are_not_in_a_row() {
    let both = |n| if n % 2 == 0 { vec![down(1, n), down(2, n)] } else { vec![up(1, n), up(2, n)] };

    assert_eq!(site(RULES).judge((1..40).flat_map(both).collect()).changes, []);
}

#[test]
fn regions_that_do_not_report_have_no_voice() {
    let mut site = site(RULES);
    site.regions.get_mut(&3).unwrap().seen = Some(at(-500));
    site.regions.get_mut(&2).unwrap().seen = Some(at(-500));

    let judgement = site.judge(vec![down(1, 10), down(1, 20)]);

    assert!(matches!(judgement.changes[..], [Change::Opened { .. }]), "{judgement:?}");
}

#[test]
fn a_region_that_has_just_joined_is_waited_for() {
    let mut site = site(RULES);
    for id in [2, 3] {
        let region = site.regions.get_mut(&id).unwrap();
        (region.seen, region.seen_up, region.joining_until) = (None, None, at(60));
    }

    let judgement = site.judge(vec![down(1, 10), down(1, 20), down(1, 70)]);

    let [Change::Opened { at: opened, .. }] = judgement.changes[..] else { panic!("{judgement:?}") };
    assert_eq!(opened, at(70));
}

#[test]
fn a_quorum_of_more_regions_than_there_are_is_all_of_them() {
    let rules = Rules { quorum: Some(9), failures_to_open: 1, ..RULES };

    assert_eq!(site(rules).judge(vec![down(1, 1), down(2, 2)]).changes, []);
    assert_eq!(site(rules).judge(vec![down(1, 1), down(2, 2), down(3, 3)]).changes.len(), 1);
}

#[test]
fn with_a_quorum_of_one_it_is_down_until_no_region_says_so() {
    let rules = Rules { quorum: Some(1), ..RULES };

    let open = site(rules).judge(vec![down(1, 1), down(1, 2), up(2, 3), up(3, 4), up(1, 5)]);
    assert_eq!(open.changes.len(), 1);
    let back = site(rules).judge(vec![down(1, 1), down(1, 2), up(2, 3), up(1, 5), up(1, 6)]);
    assert_eq!(back.changes[1], Change::Closed { at: at(6) });
}

#[test]
fn nothing_opens_in_maintenance_and_what_is_still_down_at_its_end_opens_then() {
    let mut site = site(RULES);
    site.maintenance = vec![(at(0), at(100))];

    let judgement = site.judge((1..12).flat_map(|n| [down(1, n * 10), down(2, n * 10 + 1)]).collect());

    let [Change::Opened { at: opened, first_failure_at, .. }] = judgement.changes[..] else {
        panic!("{judgement:?}")
    };
    assert_eq!((opened, first_failure_at), (at(100), at(10)));
}

#[test]
fn the_first_failure_asks_for_as_many_rounds_as_make_a_quorum_and_a_success_takes_that_back() {
    let asked = site(RULES).judge(vec![down(1, 10)]);
    assert_eq!(asked.confirm, Some(2), "one of the others needs two");

    let mut next = site(RULES);
    next.regions.get_mut(&1).unwrap().state = Some(asked.states.unwrap()[0].clone());
    assert_eq!(next.clone().judge(vec![down(1, 20)]).confirm, None, "they are asked once");
    let confirmed = Evidence { kind: Kind::Confirm, ..up(1, 11) };
    let judgement = next.judge(vec![confirmed]);
    assert_eq!(judgement.confirm, Some(0));
    assert_eq!(
        judgement.states.unwrap().len(),
        1,
        "a confirming check is remembered, since no tick tells of it"
    );
}

#[test]
fn a_success_that_another_writer_overlooked_stands_between_failures() {
    let asked = site(RULES).judge(vec![down(1, 10), down(2, 10)]);
    let mut next = site(RULES);
    for state in asked.states.unwrap() {
        let region = next.regions.get_mut(&state.region).unwrap();
        (region.state, region.seen, region.seen_up) = (Some(state), Some(at(20)), Some(at(20)));
    }

    assert_eq!(next.judge(vec![down(1, 30), down(2, 30)]).changes, []);
}
