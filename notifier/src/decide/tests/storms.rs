//! Storms.

use super::*;
use crate::decide::storm::Storm;

const DIGEST: Uuid = Uuid::from_u128(7);

/// A storm of 21 sites that began at `NOON`.
fn storm() -> Storm {
    Storm { started_at: at(0), stage: 0, next_at: at(60), last_at: at(0), size: 21, digests: vec![DIGEST] }
}

/// A lane in a storm of whose incidents `open` last.
fn in_storm(storm: &Storm, open: i64, now: i64, notices: Vec<LaneNotice>) -> LaneContents {
    let mut lane = contents(now, notices);
    lane.channel.storm = Some(Json(serde_json::to_value(storm).unwrap()));
    let names = (1..=open.min(10)).map(|site| format!("site-{site}")).collect();
    lane.storm_open = StormOutages { count: open, names };
    lane.open_told.insert("route all".to_owned(), open);
    lane
}

/// The end of an incident that a digest of the storm told.
fn closed_in_storm(site: i64, seconds: i64) -> LaneNotice {
    LaneNotice { begun_notification: Some(DIGEST), ..closed(site, -10, seconds, "delivered") }
}

fn of_event(notice: LaneNotice, event: &str) -> LaneNotice {
    let payload = Json(json!({"event": event, "region": "eu"}));
    LaneNotice { event: event.to_owned(), incident_id: None, payload, ..notice }
}

#[test]
fn more_than_storm_after_sites_at_once_become_one_digest_and_later_ones_wait_for_the_next() {
    let lane = contents(30, (1..=21).map(|site| opened(site, 0)).collect());
    let message = decide(&lane).message.unwrap();
    assert_eq!((message.purpose, message.told.len()), (Purpose::Digest, 21));
    let storm = message.storm.unwrap().unwrap();
    assert_eq!((storm.next_at, storm.size), (at(30 + 60), 21));
    assert_eq!(storm.digests, [message.id]);

    let mut lane = in_storm(&storm, 21, 40, vec![opened(30, 35)]);
    assert_eq!(waits(&decide(&lane)), [(Some("storm"), 90)]);
    lane.now = at(91);
    let message = decide(&lane).message.unwrap();
    assert_eq!(message.notes, ["More since the last message: 1 site."]);
    let storm = message.storm.unwrap().unwrap();
    assert_eq!((storm.next_at, storm.last_at, storm.size), (at(30 + 300), at(35), 22));
}

#[test]
fn a_storm_that_does_not_grow_says_nothing_until_it_is_over() {
    let mut lane = in_storm(&storm(), 20, 61, vec![closed_in_storm(1, 20)]);
    let decision = decide(&lane);
    assert!(decision.message.is_none());
    assert_eq!(decision.storm.unwrap().unwrap().next_at, at(300));

    lane.storm_open = StormOutages::default();
    let message = decide(&lane).message.unwrap();
    assert_eq!(message.notes, ["The storm is over: none of its 21 sites is down any more."]);
    assert_eq!(message.storm, Some(None), "the storm ends with it");
}

#[test]
fn during_a_storm_a_channel_is_told_of_everything_else_as_usual() {
    let region = LaneNotice {
        group_key: Some("route regions".to_owned()),
        ..of_event(opened(90, 20), "region.silent")
    };
    let reminder = LaneNotice {
        step: NoticeStep::Reminder,
        group_key: Some("route slow".to_owned()),
        ..opened(91, -9_000)
    };
    for other in [region, reminder, closed(92, -9_000, 20, "delivered")] {
        let lane = in_storm(&storm(), 21, 40, vec![opened(30, 25), other.clone()]);
        let decision = decide(&lane);
        let told = verdicts(decision.message.as_ref().unwrap());
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(Some(told[0].1), other.site_id);
        assert_eq!(waits(&decision), [(Some("storm"), 60)], "what opens meanwhile waits for the next digest");
    }
}

#[test]
fn warnings_and_regions_alone_make_no_storm() {
    let silent: Vec<_> = (1..=30).map(|n| of_event(opened(n, 0), "region.silent")).collect();
    let lane = contents(30, silent);
    let message = decide(&lane).message.unwrap();
    assert_eq!((message.purpose, message.told.len(), message.storm), (Purpose::Alert, 30, None));
}

#[test]
fn an_incident_that_opens_after_a_quiet_time_is_no_part_of_the_storm() {
    // A minute without an opening has passed.
    let lane = in_storm(&storm(), 21, 75, vec![opened(30, 61)]);
    assert_eq!(verdicts(&decide(&lane).message.unwrap()), [(Verdict::Down, 30)]);
    assert_eq!(decide(&lane).message.unwrap().purpose, Purpose::Alert);
    // A route that waits for two minutes has a quiet time of as much.
    let patient = LaneNotice { wait_ms: Some(120_000), ..opened(30, 61) };
    let lane = in_storm(&storm(), 21, 75, vec![patient]);
    assert_eq!(decide(&lane).message.unwrap().purpose, Purpose::Digest);
    // One follows the other.
    let lane = in_storm(&storm(), 21, 130, vec![opened(30, 50), opened(31, 100)]);
    assert_eq!(decide(&lane).message.unwrap().told.len(), 2);
}

#[test]
fn a_digest_does_not_wait_for_its_time_once_the_storm_no_longer_grows() {
    let storm = Storm { stage: 1, next_at: at(300), last_at: at(70), ..storm() };
    let lane = in_storm(&storm, 21, 100, vec![opened(30, 90)]);
    assert_eq!(waits(&decide(&lane)), [(Some("storm"), 150)]);
    let lane = LaneContents { now: at(150), ..lane };
    let message = decide(&lane).message.unwrap();
    assert_eq!(message.notes, ["More since the last message: 1 site."]);
    assert_eq!(message.storm.unwrap().unwrap().next_at, at(300));
}

#[test]
fn a_storm_of_which_little_is_left_is_over_and_the_message_names_what_is_still_down() {
    let ends: Vec<_> = (3..=21).map(|site| closed_in_storm(site, 100)).collect();
    let storm = Storm { stage: 1, next_at: at(300), ..storm() };
    let lane = in_storm(&storm, 2, 130, ends);
    assert_eq!(waits(&decide(&lane))[0], (Some("storm"), 160), "a minute after the last change");
    let lane = LaneContents { now: at(160), ..lane };
    let message = decide(&lane).message.unwrap();
    assert_eq!(message.notes, ["The storm is over: of its 21 sites 2 are still down: site-1, site-2."]);
    assert_eq!((message.told.len(), message.storm), (19, Some(None)));
}

#[test]
fn a_storm_of_which_much_is_left_is_over_after_five_minutes_without_a_change() {
    let storm = Storm { stage: 2, next_at: at(900), ..storm() };
    let lane = in_storm(&storm, 12, 400, vec![closed_in_storm(21, 200)]);
    assert_eq!(waits(&decide(&lane)), [(Some("storm"), 500)]);
    let lane = LaneContents { now: at(500), ..lane };
    let message = decide(&lane).message.unwrap();
    let names: Vec<_> = (1..=10).map(|site| format!("site-{site}")).collect();
    let expected =
        format!("The storm is over: of its 21 sites 12 are still down: {} and 2 more.", names.join(", "));
    assert_eq!(message.notes, [expected]);
}

#[test]
fn a_storm_without_an_end_is_forgotten_an_hour_after_its_first_digest() {
    let storm = Storm { stage: 3, next_at: at(3_600), ..storm() };
    let lane = in_storm(&storm, 21, 3_600, Vec::new());
    let decision = decide(&lane);
    assert!(decision.message.is_none());
    assert_eq!(decision.storm, Some(None));
}

#[test]
fn an_incident_held_back_by_a_silence_or_a_delay_is_no_part_of_the_storm() {
    let lane = in_storm(
        &storm(),
        21,
        40,
        vec![LaneNotice { reason: Some("silenced".to_owned()), ..opened(30, -900) }],
    );
    assert_eq!(decide(&lane).message.unwrap().purpose, Purpose::Alert);

    // A digest does not tell of what the delay of its route still holds back.
    let patient = LaneNotice { delay_ms: 300_000, group_key: Some("route slow".to_owned()), ..opened(30, 0) };
    let lane = contents(30, (1..=21).map(|site| opened(site, 0)).chain([patient]).collect());
    assert_eq!(decide(&lane).message.unwrap().told.len(), 21);
}

#[test]
fn a_state_of_a_storm_that_cannot_be_read_is_not_kept() {
    let mut lane = contents(30, vec![opened(1, 0)]);
    lane.channel.storm = Some(Json(json!({"next_at": "soon"})));
    let decision = decide(&lane);
    assert_eq!(decision.storm, Some(None));
    assert!(decision.message.is_some());
}

#[test]
fn a_digest_that_could_not_be_delivered_stays_a_digest() {
    let id = Uuid::now_v7();
    let attempted = |site| LaneNotice {
        notification_id: Some(id),
        due_at: at(40).into(),
        group_key: Some(format!("site {site}")),
        ..opened(site, 0)
    };
    let lane = contents(35, (1..=21).map(attempted).collect());
    assert!(decide(&lane).message.is_none(), "not before its next attempt");
    let lane = LaneContents { now: at(40), ..lane };
    let message = decide(&lane).message.unwrap();
    assert_eq!((message.purpose, message.told.len()), (Purpose::Digest, 21));
    assert!(message.storm.is_some());

    // Nor do its sites become a message each if some have ended meanwhile.
    let attempted = |site| LaneNotice {
        notification_id: Some(id),
        due_at: at(40).into(),
        group_key: Some(format!("site {site}")),
        ..opened(site, 0)
    };
    let over = |site| {
        [
            ended(attempted(site), 35),
            LaneNotice { group_key: Some(format!("site {site}")), ..closed(site, 0, 35, "waiting") },
        ]
    };
    let mut lane = contents(40, (1..=5).map(attempted).chain((6..=21).flat_map(over)).collect());
    lane.messages.insert(id, waiting(id, "digest", false));
    let message = decide(&lane).message.unwrap();
    assert_eq!((message.purpose, message.told.len()), (Purpose::Digest, 21));
}
