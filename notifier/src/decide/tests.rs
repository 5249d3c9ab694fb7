//! Rules of what people are told; those of storms, flapping and programs are in modules of their own.

mod flapping;
mod programs;
mod storms;

use std::{collections::BTreeMap, time::Duration};

use picket_proto::Timestamp;
use picket_store::lanes::{
    Gap, LaneChannel, LaneContents, LaneNotice, NoticeChange, NoticeState, NoticeStep, StormOutages,
    WaitingMessage,
};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Decision, PlannedMessage, decide};
use crate::{
    message::{Purpose, Verdict},
    samples,
};

/// Noon, in seconds.
const NOON: i64 = 1_764_244_800;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis((NOON + seconds) * 1_000)
}

fn opened(site: i64, seconds: i64) -> LaneNotice {
    LaneNotice {
        transition_id: site * 10,
        due_at: at(seconds + 10).into(),
        subject: format!("incident.{site}.1"),
        incident_id: Some(site),
        site_id: Some(site),
        payload: Json(json!({"event": "incident.opened", "site": format!("site-{site}")})),
        recorded_at: at(seconds).into(),
        active_from: Some(at(-100_000).into()),
        site_changed_at: Some(at(seconds).into()),
        ..samples::notice()
    }
}

/// The end of `opened(site, begun)`, whose notice is in the state `begun_state`.
fn closed(site: i64, begun: i64, seconds: i64, begun_state: &str) -> LaneNotice {
    LaneNotice {
        transition_id: site * 10 + 1,
        event: "incident.closed".to_owned(),
        is_end: true,
        due_at: at(seconds).into(),
        payload: Json(
            json!({"event": "incident.closed", "site": format!("site-{site}"), "unwatched": false}),
        ),
        recorded_at: at(seconds).into(),
        other_recorded_at: Some(at(begun).into()),
        begun_state: Some(begun_state.to_owned()),
        is_site_down: false,
        ..opened(site, begun)
    }
}

fn ended(notice: LaneNotice, seconds: i64) -> LaneNotice {
    LaneNotice { other_recorded_at: Some(at(seconds).into()), is_site_down: false, ..notice }
}

fn contents(now: i64, notices: Vec<LaneNotice>) -> LaneContents {
    let mut contents = LaneContents {
        now: at(now),
        channel: LaneChannel {
            name: "ops".to_owned(),
            kind: "slack".to_owned(),
            settings: Json(json!({})),
            enabled: true,
            pace_ms: None,
            created_at: at(-100_000).into(),
            next_send_at: at(-100_000).into(),
            problem: None,
            is_gone: false,
            failing_since: None,
            is_failing: false,
            last_delivered_at: None,
            storm: None,
        },
        notices,
        more_notices: 0,
        messages: BTreeMap::new(),
        open_told: BTreeMap::new(),
        storm_open: StormOutages::default(),
        gaps: Vec::new(),
    };
    contents.notices.sort_by_key(|notice| notice.transition_id);
    contents
}

/// A message that was attempted and not delivered.
fn waiting(id: Uuid, purpose: &str, is_end_unknown: bool) -> WaitingMessage {
    WaitingMessage {
        notification_id: id,
        purpose: purpose.to_owned(),
        attempts: 1,
        is_end_unknown,
        receiver_ref: None,
        contents: None,
    }
}

fn verdicts(message: &PlannedMessage<'_>) -> Vec<(Verdict, i64)> {
    message.told.iter().map(|told| (told.verdict, told.notice.site_id.unwrap_or(0))).collect()
}

fn suppressed(decision: &Decision<'_>) -> Vec<&'static str> {
    let ended = decision.changes.iter().filter(|change| change.state == Some(NoticeState::Suppressed));
    ended.filter_map(|change| change.reason.flatten()).collect()
}

fn waits(decision: &Decision<'_>) -> Vec<(Option<&'static str>, i64)> {
    let waiting = decision.changes.iter().filter(|change| change.state.is_none());
    let seconds = |change: &NoticeChange| change.due_at.map_or(0, |due| due.as_millis() / 1_000 - NOON);
    waiting.map(|change| (change.reason.flatten(), seconds(change))).collect()
}

#[test]
fn openings_within_the_wait_share_a_message_and_the_wait_is_extended_to_three_times_at_most() {
    let lane = contents(9, vec![opened(1, 0), opened(2, 8)]);
    let decision = decide(&lane);
    assert!(decision.message.is_none());
    assert_eq!(waits(&decision), [(None, 18)], "that of the other stays");

    let lane = contents(18, vec![opened(1, 0), opened(2, 8)]);
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::Down, 1), (Verdict::Down, 2)]);
    assert_eq!(message.purpose, Purpose::Alert);

    let lane = contents(29, (0..8).map(|n| opened(n, n * 4)).collect());
    assert_eq!(waits(&decide(&lane))[0], (None, 30));
}

#[test]
fn an_incident_that_ends_within_the_wait_is_brief_and_one_that_ends_later_was_down() {
    let lane = contents(20, vec![ended(opened(1, 0), 5), closed(1, 0, 5, "waiting")]);
    let decision = decide(&lane);
    assert_eq!(suppressed(&decision), ["brief", "brief"]);
    assert!(decision.message.is_none());

    let lane = contents(60, vec![ended(opened(1, 0), 40), closed(1, 0, 40, "waiting")]);
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::WasDown, 1)]);
    assert_eq!(message.told[0].keys.len(), 2, "one line tells both");
}

#[test]
fn an_incident_that_was_attempted_is_not_brief_since_the_receiver_may_know_of_it() {
    let id = Uuid::now_v7();
    let mut begun = ended(opened(1, 0), 5);
    begun.notification_id = Some(id);
    begun.wait_ms = Some(0);
    begun.due_at = at(6).into();
    let mut lane = contents(20, vec![begun, closed(1, 0, 5, "waiting")]);
    lane.messages.insert(id, waiting(id, "alert", true));
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::WasDown, 1)]);
    assert_ne!(message.id, id, "a receiver that has 'down' under this number would drop 'was down'");
    assert!(message.may_have_arrived);
}

#[test]
fn a_message_keeps_its_number_while_it_tells_the_same_and_gets_another_one_with_other_contents() {
    let first = contents(60, vec![opened(1, 0)]);
    let message = decide(&first).message.unwrap();
    let attempted =
        |site| LaneNotice { notification_id: Some(message.id), due_at: at(70).into(), ..opened(site, 0) };
    let kept = WaitingMessage {
        contents: Some(message.contents.clone()),
        attempts: 4,
        ..waiting(message.id, "alert", false)
    };

    let mut lane = contents(80, vec![attempted(1)]);
    lane.messages.insert(message.id, kept.clone());
    let again = decide(&lane).message.unwrap();
    assert_eq!((again.id, again.attempts, again.may_have_arrived), (message.id, 4, false));

    // Another site has failed since, and some recipients of the mail have the first message.
    let progress = Some(Json(json!({"delivered": ["a@example.com"]})));
    let mut lane = contents(80, vec![attempted(1), opened(2, 20)]);
    lane.messages.insert(message.id, WaitingMessage { receiver_ref: progress, ..kept });
    let more = decide(&lane).message.unwrap();
    assert_eq!((more.told.len(), more.attempts, more.may_have_arrived), (2, 4, true));
    assert_ne!(more.id, message.id);
}

#[test]
fn as_many_ends_as_a_storm_of_sites_with_groups_of_their_own_are_one_message() {
    let of_site = |notice: LaneNotice| LaneNotice {
        group_key: Some(format!("site {}", notice.site_id.unwrap_or(0))),
        ..notice
    };
    let ends = |count| (1..=count).map(|site| of_site(closed(site, 0, 5, "delivered"))).collect();

    let many = contents(60, ends(25));
    let message = decide(&many).message.unwrap();
    assert_eq!((message.purpose, message.told.len()), (Purpose::Digest, 25));
    let few = contents(60, ends(20));
    let message = decide(&few).message.unwrap();
    assert_eq!((message.purpose, message.told.len()), (Purpose::Alert, 1));
}

#[test]
fn an_incident_that_was_over_before_the_first_look_is_not_told_outside_the_hours() {
    let night = |notice: LaneNotice| LaneNotice { active_from: Some(at(30_000).into()), ..notice };
    let lane = contents(600, vec![night(ended(opened(1, 0), 400)), night(closed(1, 0, 400, "waiting"))]);

    assert_eq!(suppressed(&decide(&lane)), ["outside_hours", "outside_hours"]);
}

#[test]
fn a_closed_incident_of_more_than_an_hour_ago_is_stale() {
    let lane = contents(8_000, vec![ended(opened(1, 0), 100), closed(1, 0, 100, "waiting")]);
    assert_eq!(suppressed(&decide(&lane)), ["stale", "stale"]);
}

#[test]
fn an_incident_that_the_receiver_may_know_of_is_told_to_be_over_however_long_ago_that_was() {
    let id = Uuid::now_v7();
    let attempted =
        LaneNotice { notification_id: Some(id), due_at: at(8_000).into(), ..ended(opened(1, 0), 100) };
    let mut lane = contents(8_000, vec![attempted, closed(1, 0, 100, "waiting")]);
    assert_eq!(suppressed(&decide(&lane)), ["stale", "stale"], "the attempt failed");
    lane.messages.insert(id, waiting(id, "alert", true));
    assert_eq!(verdicts(&decide(&lane).message.unwrap()), [(Verdict::WasDown, 1)]);
}

#[test]
fn a_site_that_went_up_and_down_again_before_people_could_be_told_is_told_to_be_down() {
    let again = LaneNotice { transition_id: 12, subject: "incident.9.1".to_owned(), ..opened(1, 200) };
    let lane = contents(300, vec![closed(1, 0, 100, "delivered"), again.clone()]);
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::Down, 1)]);
    assert_eq!(message.told[0].keys.len(), 2, "both notices are told by it");

    // Another site has a line of its own.
    let other = LaneNotice { site_id: Some(2), ..again };
    let lane = contents(300, vec![closed(1, 0, 100, "delivered"), other]);
    assert_eq!(decide(&lane).message.unwrap().told.len(), 2);
}

#[test]
fn many_reminders_that_are_due_together_are_one_message_also_where_each_site_has_a_group() {
    let reminder = |site: i64| LaneNotice {
        step: NoticeStep::Reminder,
        number: 1,
        group_key: Some(format!("site {site}")),
        ..opened(site, 0)
    };
    let lane = contents(3_700, (1..=21).map(reminder).collect());
    let message = decide(&lane).message.unwrap();
    assert_eq!((message.purpose, message.told.len()), (Purpose::Reminder, 21));
    let lane = contents(3_700, (1..=20).map(reminder).collect());
    let message = decide(&lane).message.unwrap();
    assert_eq!(message.told.len(), 1);
}

#[test]
fn the_last_end_of_a_group_is_told_at_once_and_another_after_the_wait() {
    let mut lane = contents(101, vec![closed(1, 0, 100, "delivered")]);
    assert_eq!(verdicts(&decide(&lane).message.unwrap()), [(Verdict::Up, 1)]);

    lane.open_told.insert("route all".to_owned(), 1);
    let decision = decide(&lane);
    assert!(decision.message.is_none());
    assert_eq!(waits(&decision), [(None, 110)]);
}

#[test]
fn the_end_of_an_untold_beginning_is_not_told_and_that_of_a_failed_one_says_was_down() {
    let begun = LaneNotice { begun_reason: Some("silenced".to_owned()), ..closed(1, 0, 100, "suppressed") };
    let lane = contents(200, vec![begun, closed(2, 0, 100, "failed")]);
    let decision = decide(&lane);
    assert_eq!(suppressed(&decision), ["silenced"]);
    assert_eq!(verdicts(&decision.message.unwrap()), [(Verdict::WasDown, 2)]);
}

#[test]
fn a_silence_holds_back_what_is_down_and_forgets_what_ends_within_it() {
    let silenced = |notice: LaneNotice| LaneNotice { silenced_until: Some(at(3_600).into()), ..notice };
    let lane = contents(
        60,
        vec![
            silenced(opened(1, 0)),
            silenced(ended(opened(2, 0), 50)),
            silenced(closed(2, 0, 50, "waiting")),
        ],
    );
    let decision = decide(&lane);
    assert_eq!(waits(&decision), [(Some("silenced"), 3_600)]);
    assert_eq!(suppressed(&decision), ["silenced", "silenced"]);

    let after = LaneNotice { reason: Some("silenced".to_owned()), ..opened(1, 0) };
    let lane = contents(3_601, vec![after]);
    let message = decide(&lane).message.unwrap();
    assert_eq!(message.told[0].lasting, Some("silenced until now"));
}

#[test]
fn outside_its_hours_a_route_waits_for_them() {
    let lane = contents(60, vec![LaneNotice { active_from: Some(at(28_800).into()), ..opened(1, 0) }]);
    assert_eq!(waits(&decide(&lane)), [(Some("outside_hours"), 28_800)]);
}

#[test]
fn a_reminder_ends_with_the_incident_or_an_acknowledgement_and_is_told_otherwise() {
    let reminder =
        LaneNotice { step: NoticeStep::Reminder, number: 1, due_at: at(3_600).into(), ..opened(1, 0) };
    let acknowledged = LaneNotice { is_acknowledged: true, ..reminder.clone() };
    let over = ended(LaneNotice { transition_id: 11, ..reminder.clone() }, 100);
    let lane = contents(3_600, vec![acknowledged, over]);
    assert_eq!(suppressed(&decide(&lane)), ["acknowledged", "closed"]);

    let lane = contents(3_600, vec![reminder]);
    let message = decide(&lane).message.unwrap();
    assert_eq!(message.purpose, Purpose::Reminder);
    assert_eq!(message.told[0].lasting, Some(""), "its title says for how long");
}

#[test]
fn incidents_during_a_time_without_notifiers_are_told_in_one_message() {
    let mut lane = contents(
        2_000,
        vec![
            ended(opened(1, 100), 600),
            closed(1, 100, 600, "waiting"),
            LaneNotice { group_key: Some("route other".to_owned()), ..opened(2, 1_000) },
        ],
    );
    lane.gaps.push(Gap { from: at(0).into(), to: at(1_990).into(), ended: 1, down: 1 });
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::WasDown, 1), (Verdict::Down, 2)]);
    assert_eq!(
        message.notes,
        [
            "While notifications were off (2025-11-27 12:00 to 12:33 UTC): 1 incident opened and closed; 1 site is down now."
        ]
    );
}

#[test]
fn the_first_message_after_a_time_without_notifiers_tells_of_that_time_too() {
    let gap = Gap { from: at(-3 * 86_400).into(), to: at(-90_000).into(), ended: 14, down: 0 };
    // What began then is suppressed by now, or held back.
    let held = LaneNotice { silenced_until: Some(at(9_000).into()), ..opened(2, -100_000) };
    let mut lane = contents(60, vec![held, opened(1, 0)]);
    lane.gaps.push(gap);
    let message = decide(&lane).message.unwrap();
    assert_eq!(verdicts(&message), [(Verdict::Down, 1)]);
    let note = "While notifications were off (2025-11-24 12:00 to 2025-11-26 11:00 UTC): 14 incidents opened and closed; 0 sites are down now.";
    assert_eq!(message.notes, [note]);

    // Also the digest of a storm, and the next attempt after one that failed.
    let mut lane = contents(60, (1..=30).map(|site| opened(site, 0)).collect());
    lane.gaps.push(Gap { from: at(-10).into(), to: at(30).into(), ended: 0, down: 30 });
    assert!(decide(&lane).message.unwrap().notes[0].contains("30 sites are down now"));
    let attempted =
        LaneNotice { notification_id: Some(Uuid::now_v7()), due_at: at(90).into(), ..opened(1, 0) };
    let mut lane = LaneContents { notices: vec![attempted], ..lane };
    assert!(waits(&decide(&lane)).is_empty(), "it waits for its next attempt");
    lane.now = at(90);
    assert!(decide(&lane).message.unwrap().notes[0].contains("30 sites are down now"));
}

#[test]
fn a_message_about_a_part_of_what_waits_says_how_much_more_there_is() {
    let mut lane = contents(30, (1..=30).map(|site| opened(site, 0)).collect());
    lane.more_notices = 15_000;
    let message = decide(&lane).message.unwrap();
    assert_eq!(message.notes, ["15000 changes more: the next messages tell of them."]);
}

#[test]
fn a_group_waits_as_a_whole_for_the_next_attempt_after_a_failed_one() {
    let id = Uuid::now_v7();
    let mut attempted = opened(1, 0);
    attempted.notification_id = Some(id);
    attempted.due_at = at(300).into();
    let lane = contents(60, vec![attempted, opened(2, 30)]);
    let decision = decide(&lane);
    assert!(decision.message.is_none());
    assert_eq!(waits(&decision), [(None, 300)], "that of the other stays");
    let lane = LaneContents { now: at(300), ..lane };
    assert_eq!(decide(&lane).message.unwrap().told.len(), 2);
}

#[test]
fn a_paused_channel_is_told_nothing_until_it_is_resumed_and_then_what_is_true() {
    let day = 86_400;
    let single = |notice: LaneNotice| LaneNotice { group_key: None, ..notice };
    let shapes: [fn(LaneNotice) -> LaneNotice; 2] = [|notice| notice, single];
    for shape in shapes {
        let known = shape(closed(1, -100, 50, "delivered"));
        let lasting = shape(opened(2, 40));
        let over = [shape(ended(opened(3, 30), 45)), shape(closed(3, 30, 45, "waiting"))];
        let mut lane = contents(60, [known, lasting].into_iter().chain(over).collect());
        lane.channel.enabled = false;
        let decision = decide(&lane);
        let held = Some("channel_paused");
        assert_eq!(waits(&decision), [(held, 60 + day), (held, 60 + day)]);
        assert_eq!(suppressed(&decision), ["channel_paused", "channel_paused"]);

        // Three hours later. A further incident has ended in between.
        let hold = |notice: &LaneNotice| LaneNotice {
            reason: Some("channel_paused".to_owned()),
            due_at: at(10_800).into(),
            ..notice.clone()
        };
        let (known, lasting) = (hold(&lane.notices[0]), hold(&lane.notices[1]));
        let over = [hold(&shape(ended(opened(4, 30), 9_000))), shape(closed(4, 30, 9_000, "waiting"))];
        let lane = contents(10_800, [known, lasting].into_iter().chain(over).collect());
        let decision = decide(&lane);
        assert_eq!(suppressed(&decision), ["channel_paused", "channel_paused"]);
        let told: Vec<_> = decision.singles.iter().chain(&decision.message).flat_map(verdicts).collect();
        assert_eq!(told, [(Verdict::Up, 1), (Verdict::Down, 2)]);
        let messages: Vec<_> = decision.singles.iter().chain(&decision.message).collect();
        let notes: Vec<_> =
            messages.iter().flat_map(|message| &message.told).map(|told| &told.note).collect();
        assert_eq!(notes[1].as_deref(), Some("held back while the channel was paused"));
    }
}

#[test]
fn a_longer_delay_of_the_route_makes_longer_incidents_brief() {
    let patient = |notice: LaneNotice| LaneNotice { delay_ms: 300_000, ..notice };
    let lane = contents(400, vec![patient(ended(opened(1, 0), 200)), patient(closed(1, 0, 200, "waiting"))]);
    assert_eq!(suppressed(&decide(&lane)), ["brief", "brief"]);
    let lane = contents(100, vec![patient(opened(1, 0))]);
    assert_eq!(waits(&decide(&lane)), [(None, 310)]);
    assert_eq!(super::fate::CALM_TIME, Duration::from_secs(1_800));
}

#[test]
fn a_region_that_was_silent_in_between_is_back_and_was_not_down() {
    let of = |notice: LaneNotice, event: &str| LaneNotice {
        event: event.to_owned(),
        payload: Json(json!({"event": event, "region": "eu"})),
        ..notice
    };
    let begun = of(ended(opened(1, 0), 40), "region.silent");
    let over = of(closed(1, 0, 40, "waiting"), "region.back");
    let lane = contents(60, vec![begun, over]);
    assert_eq!(verdicts(&decide(&lane).message.unwrap()), [(Verdict::Back, 1)]);
}
