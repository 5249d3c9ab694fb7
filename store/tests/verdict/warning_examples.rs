//! When warnings open and close, case by case.

use std::collections::BTreeMap;

use picket_store::{
    incident_rules::{RegionId, SiteView},
    warning_rules::{
        WarningChange, WarningDecision, WarningDetails, WarningResult, WarningState, WarningView,
        fast_path_still_warned,
    },
};

use crate::setup::{POLICY, new_site_view, timestamp_at};

/// The view after `decision`, as the store loads it.
fn view_after(site: &SiteView, decision: &WarningDecision) -> WarningView {
    let mut site = site.clone();
    let state = decision.state.clone().unwrap_or_default();
    for (id, region) in &mut site.regions {
        region.state = state.regions.iter().find(|state| state.region == *id).cloned();
    }
    for change in &decision.changes {
        site.has_open_incident = matches!(change, WarningChange::Opened { .. });
    }
    WarningView::new(site, state.observations, state.renewal)
}

fn evaluate(results: Vec<WarningResult>) -> WarningDecision {
    WarningView::new(new_site_view(POLICY, 3), BTreeMap::new(), None).evaluate_results(results)
}

fn clear(region: RegionId, second: i64) -> WarningResult {
    WarningResult { region, scheduled_at: timestamp_at(second), warned: None, message: None }
}

fn slow(region: RegionId, second: i64) -> WarningResult {
    let message = Some(format!("took {second} s"));
    WarningResult { warned: Some(WarningDetails::default()), message, ..clear(region, second) }
}

/// A certificate that ends `days` days after 1970.
fn ending(region: RegionId, second: i64, serial: &str, days: i64) -> WarningResult {
    let details =
        WarningDetails { serial: Some(serial.to_owned()), expires_at: Some(timestamp_at(days * 86_400)) };
    WarningResult { warned: Some(details), ..clear(region, second) }
}

#[test]
fn a_quorum_that_warns_twice_opens_a_warning_and_a_quorum_that_does_not_closes_it() {
    let decision = evaluate(vec![
        slow(1, 10),
        slow(1, 20),
        slow(2, 21),
        slow(2, 31),
        clear(1, 40),
        slow(1, 50),
        clear(2, 51),
        clear(2, 61),
    ]);

    assert_eq!(
        decision.changes,
        [
            WarningChange::Opened {
                at: timestamp_at(31),
                first_warned_at: timestamp_at(10),
                details: WarningDetails::default(),
                message: Some("took 20 s".to_owned()),
                regions: vec![1, 2],
            },
            WarningChange::Closed { at: timestamp_at(61) }
        ]
    );
}

#[test]
fn a_region_alone_opens_no_warning() {
    let decision =
        evaluate((1..9).flat_map(|n| [slow(1, n * 10), clear(2, n * 10), clear(3, n * 10)]).collect());

    assert_eq!(decision.changes, []);
    assert!(decision.state.is_some(), "the region still warns");
}

#[test]
fn a_region_without_recent_results_does_not_keep_a_warning_open_or_prevent_one() {
    // The third was last up long ago: two of two that report are a majority.
    let decision =
        evaluate(vec![slow(1, 300), slow(2, 301), slow(1, 310), slow(2, 311), clear(2, 320), clear(2, 330)]);
    let [WarningChange::Opened { regions, .. }] = &decision.changes[..] else { panic!("{decision:?}") };
    assert_eq!(regions, &[1, 2]);

    let site = new_site_view(POLICY, 3);
    let later = view_after(&site, &decision).evaluate_results(vec![clear(2, 500)]);
    assert_eq!(
        later.changes,
        [WarningChange::Closed { at: timestamp_at(500) }],
        "the first is silent by now"
    );
}

#[test]
fn a_warning_opens_in_a_maintenance_window_too() {
    let mut site = new_site_view(POLICY, 1);
    site.maintenance_windows.clear();
    let decision =
        WarningView::new(site, BTreeMap::new(), None).evaluate_results(vec![slow(1, 10), slow(1, 20)]);

    assert_eq!(decision.changes.len(), 1);
}

#[test]
fn a_renewed_certificate_closes_its_warning_though_the_old_one_is_still_served_by_a_region() {
    let opened = evaluate(vec![
        ending(1, 10, "a", 9),
        ending(2, 11, "a", 9),
        ending(3, 12, "a", 9),
        ending(1, 20, "a", 9),
        ending(2, 21, "a", 9),
        ending(3, 22, "a", 9),
    ]);
    let [WarningChange::Opened { details, .. }] = &opened.changes[..] else { panic!("{opened:?}") };
    assert_eq!(details.serial.as_deref(), Some("a"));

    let site = new_site_view(POLICY, 3);
    let results = vec![clear(1, 30), clear(2, 31), ending(3, 32, "a", 9), clear(1, 40), clear(2, 41)];
    let closed = view_after(&site, &opened).evaluate_results(results);

    assert_eq!(closed.changes, [WarningChange::Closed { at: timestamp_at(41) }]);
}

#[test]
fn a_renewed_certificate_that_warns_as_well_closes_the_warning_and_opens_another() {
    let opened = evaluate(vec![
        ending(1, 10, "a", 9),
        ending(2, 11, "a", 9),
        ending(1, 20, "a", 9),
        ending(2, 21, "a", 9),
    ]);
    let site = new_site_view(POLICY, 3);

    let first =
        view_after(&site, &opened).evaluate_results(vec![ending(1, 30, "b", 12), ending(2, 31, "b", 12)]);
    assert_eq!(first.changes, [], "one result with another certificate may be a balancer's");
    let renewed = view_after(&site, &WarningDecision { changes: opened.changes.clone(), ..first })
        .evaluate_results(vec![ending(1, 40, "b", 12), ending(2, 41, "b", 12)]);

    let [
        WarningChange::Closed { at: closed },
        WarningChange::Opened { at, first_warned_at, details, regions, .. },
    ] = &renewed.changes[..]
    else {
        panic!("{renewed:?}")
    };
    assert_eq!((*closed, *at, *first_warned_at), (timestamp_at(40), timestamp_at(40), timestamp_at(30)));
    assert_eq!((details.serial.as_deref(), regions.as_slice()), (Some("b"), &[1, 2][..]));
}

#[test]
fn servers_with_two_certificates_that_both_end_soon_have_one_warning_about_the_first_to_end() {
    let serial = |round: i64| if round % 2 == 0 { "a" } else { "b" };
    let results = (1..20).flat_map(|round| {
        (1..=3).map(move |region| {
            let serial = serial(round + i64::from(region));
            ending(region, round * 10 + i64::from(region), serial, if serial == "a" { 9 } else { 8 })
        })
    });
    let decision = evaluate(results.collect());

    assert_eq!(decision.changes.len(), 1, "{:?}", decision.changes);
}

#[test]
fn regions_that_receive_different_certificates_warn_together() {
    let mut results = Vec::new();
    for second in [10, 20, 30, 40] {
        results.extend((1..=3).map(|region| {
            ending(region, second + i64::from(region), &format!("serial {region}"), 10 - i64::from(region))
        }));
    }
    let decision = evaluate(results);

    let [WarningChange::Opened { details, regions, .. }] = &decision.changes[..] else {
        panic!("{:?}", decision.changes)
    };
    assert_eq!(regions, &[1, 2], "the third had its turn later");
    assert_eq!(details.expires_at, Some(timestamp_at(8 * 86_400)), "the first to end");
}

#[test]
fn the_end_of_an_observation_without_a_serial_number_is_kept_too() {
    let expires_at = Some(timestamp_at(86_400));
    let of_domain = |second| WarningResult {
        warned: Some(WarningDetails { serial: None, expires_at }),
        ..clear(1, second)
    };
    let decision = WarningView::new(new_site_view(POLICY, 1), BTreeMap::new(), None)
        .evaluate_results(vec![of_domain(10), of_domain(20)]);

    let [WarningChange::Opened { details, .. }] = &decision.changes[..] else { panic!("{decision:?}") };
    assert_eq!(details.expires_at, expires_at);
    assert!(decision.state.unwrap().renewal.is_none());
}

#[test]
fn a_repeated_warning_is_decided_without_context_and_a_possible_change_is_not() {
    let opened = evaluate(vec![
        ending(1, 10, "a", 9),
        ending(2, 11, "a", 9),
        ending(1, 20, "a", 9),
        ending(2, 21, "a", 9),
    ]);
    let state = opened.state.clone().unwrap();
    let site = new_site_view(POLICY, 3);

    for new in [
        vec![ending(1, 30, "b", 12)],
        vec![clear(1, 30)],
        vec![ending(3, 30, "a", 9)],
        vec![ending(1, 30, "a", 9), clear(2, 31)],
    ] {
        assert_eq!(fast_path_still_warned(&state, &new), None, "{new:?}");
    }
    let same = vec![ending(1, 30, "a", 9), ending(2, 31, "a", 9), ending(1, 5, "a", 9)];
    let fast: WarningState = fast_path_still_warned(&state, &same).unwrap();
    let full = view_after(&site, &opened).evaluate_results(same);
    assert_eq!((full.changes, full.state.unwrap()), (vec![], fast));
}

#[test]
fn the_stored_state_reads_back() {
    let opened = evaluate(vec![
        ending(1, 10, "a", 9),
        ending(2, 11, "a", 9),
        ending(1, 20, "a", 9),
        ending(2, 21, "a", 9),
    ]);
    let state = opened.state.unwrap();

    let text = serde_json::to_string(&state).unwrap();

    assert_eq!(serde_json::from_str::<WarningState>(&text).unwrap(), state);
    assert_eq!(serde_json::from_str::<WarningState>(r#"{"regions": []}"#).unwrap(), WarningState::default());
}
