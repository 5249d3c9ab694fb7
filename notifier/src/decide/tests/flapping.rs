//! Sites that go down and up often.

use super::*;

fn third(notice: LaneNotice) -> LaneNotice {
    LaneNotice { recent_openings: 3, flap_since: Some(at(-2_400).into()), flap_down_ms: 540_000, ..notice }
}

#[test]
fn the_third_opening_within_an_hour_is_flapping_and_further_changes_are_not_told() {
    let lane = contents(0, vec![LaneNotice { wait_ms: Some(0), ..third(opened(1, 0)) }]);
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::Flapping, 1)]);
    assert_eq!(message.told[0].headline.as_deref(), Some("3 times in 40 min, down 9 min of it; down now"));

    let flapping = |notice: LaneNotice| LaneNotice { is_flapping: true, ..notice };
    let lane = contents(60, vec![flapping(opened(1, 0)), flapping(closed(2, 0, 50, "delivered"))]);
    assert_eq!(suppressed(&decide(&lane)), ["flapping", "flapping"]);
}

#[test]
fn a_site_that_flapped_while_the_channel_failed_is_one_line_with_its_present_state() {
    let fourth = |notice: LaneNotice| LaneNotice {
        recent_openings: 4,
        transition_id: notice.transition_id + 2,
        subject: "incident.9.1".to_owned(),
        is_site_down: false,
        ..third(notice)
    };
    let up = |notice: LaneNotice| LaneNotice { is_site_down: false, ..third(notice) };
    let lane = contents(
        700,
        vec![
            up(ended(opened(1, 0), 100)),
            up(closed(1, 0, 100, "waiting")),
            fourth(ended(opened(1, 200), 300)),
            fourth(closed(1, 200, 300, "waiting")),
        ],
    );
    let decision = decide(&lane);
    let message = decision.message.as_ref().unwrap();
    assert_eq!(verdicts(message), [(Verdict::Flapping, 1)]);
    let headline = message.told[0].headline.as_deref().unwrap();
    assert_eq!(headline, "4 times in 51 min 40 s, down 9 min of it; up now");
    assert_eq!(suppressed(&decision), ["flapping", "flapping"]);
}

#[test]
fn a_site_that_is_no_longer_watched_is_not_said_to_be_flapping_or_up() {
    let unwatched = json!({"event": "incident.closed", "site": "site-1", "unwatched": true});
    let end = LaneNotice { payload: Json(unwatched.clone()), ..closed(1, 0, 100, "waiting") };
    let lane = contents(700, vec![third(ended(opened(1, 0), 100)), end.clone()]);
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::Unwatched, 1)]);
    assert_eq!(message.told[0].headline, None);

    let told_of_failure = LaneNotice { begun_state: Some("failed".to_owned()), ..end };
    let lane = contents(700, vec![told_of_failure]);
    assert_eq!(verdicts(&decide(&lane).message.unwrap()), [(Verdict::Unwatched, 1)]);

    let calm = LaneNotice {
        step: NoticeStep::Calm,
        is_flapping: true,
        is_site_down: false,
        last_change: Some(Json(unwatched)),
        ..opened(1, 0)
    };
    assert_eq!(verdicts(&decide(&contents(1_800, vec![calm])).message.unwrap()), [(Verdict::Unwatched, 1)]);
}

#[test]
fn a_site_that_was_flapping_is_told_once_it_has_not_changed_for_half_an_hour() {
    let calm = LaneNotice { step: NoticeStep::Calm, is_flapping: true, is_site_down: false, ..opened(1, 0) };
    let changed = LaneNotice { site_changed_at: Some(at(900).into()), ..calm.clone() };
    assert_eq!(waits(&decide(&contents(1_800, vec![changed]))), [(None, 900 + 1_800)]);

    let lane = contents(1_800, vec![calm]);
    assert_eq!(verdicts(&decide(&lane).message.unwrap()), [(Verdict::Up, 1)]);
}

#[test]
fn the_message_after_flapping_has_the_number_of_outages_their_length_and_the_present_state() {
    let calm = LaneNotice {
        step: NoticeStep::Calm,
        is_flapping: true,
        recent_openings: 7,
        flap_since: Some(at(-4_000).into()),
        flap_down_ms: 1_500_000,
        ..opened(1, 0)
    };
    let up = LaneNotice { is_site_down: false, site_changed_at: Some(at(200).into()), ..calm.clone() };
    let lane = contents(2_000, vec![up]);
    let message = decide(&lane).message.unwrap();
    let expected = "steady for 30 min, after it flapped 7 times in 1 h 10 min, down 25 min of it";
    assert_eq!(message.told[0].headline.as_deref(), Some(expected));

    // Of an outage that lasts the time since then is no part.
    let down =
        LaneNotice { flap_down_ms: 1_500_000 + 1_800_000, site_changed_at: Some(at(200).into()), ..calm };
    let lane = contents(2_000, vec![down]);
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::Down, 1)]);
    let expected = "still down for 30 min, after it flapped 7 times in 1 h 10 min, down 25 min of it";
    assert_eq!(message.told[0].headline.as_deref(), Some(expected));
}

#[test]
fn the_end_of_an_outage_that_outlasts_the_flapping_is_told() {
    let begun = LaneNotice { begun_reason: Some("flapping".to_owned()), ..closed(1, 0, 100, "suppressed") };
    let still = LaneNotice { is_flapping: true, ..begun.clone() };
    assert_eq!(suppressed(&decide(&contents(200, vec![still]))), ["flapping"]);
    assert_eq!(verdicts(&decide(&contents(200, vec![begun])).message.unwrap()), [(Verdict::Up, 1)]);
}
