//! What programs are told: each event once, in order.

use super::*;

fn single(notice: LaneNotice) -> LaneNotice {
    LaneNotice { group_key: None, wait_ms: None, due_at: at(0).into(), ..notice }
}

#[test]
fn programs_are_told_each_event_of_a_subject_in_order() {
    let lane = contents(
        1,
        vec![single(ended(opened(1, 0), 1)), single(closed(1, 0, 1, "waiting")), single(opened(2, 0))],
    );
    let decision = decide(&lane);
    let order: Vec<_> = decision.singles.iter().flat_map(verdicts).collect();
    assert_eq!(order, [(Verdict::Down, 1), (Verdict::Up, 1), (Verdict::Down, 2)]);
    assert!(decision.singles.iter().all(|message| message.is_single));

    // A retry in an hour holds its own subject back only.
    let mut blocked = single(closed(1, 0, 1, "waiting"));
    blocked.blocked_until = Some(at(3_600).into());
    let lane = contents(2, vec![blocked, single(opened(2, 0))]);
    let decision = decide(&lane);
    assert_eq!(decision.singles.iter().flat_map(verdicts).collect::<Vec<_>>(), [(Verdict::Down, 2)]);
    assert_eq!(waits(&decision), [(None, 3_600)]);
}

#[test]
fn programs_hear_of_an_end_also_during_a_silence() {
    let silenced = LaneNotice {
        group_key: None,
        silenced_until: Some(at(3_600).into()),
        ..closed(1, 0, 100, "delivered")
    };
    assert_eq!(decide(&contents(101, vec![silenced])).singles.len(), 1);
}

#[test]
fn an_opening_that_failed_is_not_sent_once_its_end_was_delivered() {
    let retried =
        |state: &str| LaneNotice { end_state: Some(state.to_owned()), ..single(ended(opened(1, 0), 60)) };
    let lane = contents(100, vec![retried("delivered")]);
    let decision = decide(&lane);
    assert!(decision.singles.is_empty());
    assert_eq!(suppressed(&decision), ["closed"]);

    // With its end still to come, both are told.
    let lane = contents(100, vec![retried("waiting"), single(closed(1, 0, 60, "waiting"))]);
    assert_eq!(decide(&lane).singles.len(), 2);
}

#[test]
fn the_end_of_what_may_be_open_at_the_receiver_is_told_although_its_beginning_was_given_up() {
    let end = |attempted: bool| LaneNotice {
        begun_reason: Some("closed".to_owned()),
        begun_notification: attempted.then(Uuid::now_v7),
        ..single(closed(1, 0, 60, "suppressed"))
    };
    let lane = contents(100, vec![end(true)]);
    assert_eq!(decide(&lane).singles.len(), 1);
    let lane = contents(100, vec![end(false)]);
    assert_eq!(decide(&lane).singles.len(), 0);
}

#[test]
fn an_acknowledgement_follows_its_opening_and_ends_with_the_incident() {
    let acknowledged = |notice: LaneNotice| LaneNotice {
        step: NoticeStep::Acknowledgement,
        is_acknowledged: true,
        ..single(notice)
    };
    let lane = contents(100, vec![single(opened(1, 0)), acknowledged(opened(1, 0))]);
    let decision = decide(&lane);
    let purposes: Vec<_> = decision.singles.iter().map(|message| message.purpose).collect();
    assert_eq!(purposes, [Purpose::Alert, Purpose::Acknowledgement]);

    let later = LaneNotice { blocked_until: Some(at(300).into()), ..acknowledged(opened(1, 0)) };
    assert_eq!(waits(&decide(&contents(100, vec![later]))), [(None, 300)]);
    let over = acknowledged(ended(opened(1, 0), 50));
    assert_eq!(suppressed(&decide(&contents(100, vec![over]))), ["closed"]);
    let withdrawn = LaneNotice { is_acknowledged: false, ..acknowledged(opened(1, 0)) };
    assert_eq!(suppressed(&decide(&contents(100, vec![withdrawn]))), ["withdrawn"]);
}
