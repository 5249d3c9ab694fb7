use std::{collections::BTreeMap, time::Duration};

use picket_proto::{ChannelKind, Timestamp};
use picket_store::lanes::{LaneChannel, LaneContents, LaneNotice, LaneWork, NoticeState};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::{EndedAttempt, follow_attempt};
use crate::{
    attempt::{Attempt, AttemptOutcome},
    decide::{PlannedItem, PlannedMessage},
    message::{Purpose, Verdict},
    pending::PendingMessage,
    samples::notice,
};

const NOON: i64 = 1_764_244_800;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis((NOON + seconds) * 1_000)
}

fn channel() -> LaneChannel {
    LaneChannel {
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
    }
}

/// What is written after the `number`th attempt with `outcome`, `now` seconds after the first.
fn follow(
    kind: ChannelKind,
    outcome: AttemptOutcome,
    number: i32,
    now: i64,
    channel: &LaneChannel,
) -> LaneWork {
    let first_attempt_at = (number > 1).then(|| at(0).into());
    let group_key = (kind == ChannelKind::Slack).then(|| "route all".to_owned());
    let told = LaneNotice { first_attempt_at, group_key, ..notice() };
    follow_notices(kind, outcome, number, now, channel, vec![told])
}

/// As [`follow`], of a message that tells `notices`.
fn follow_notices(
    kind: ChannelKind,
    outcome: AttemptOutcome,
    number: i32,
    now: i64,
    channel: &LaneChannel,
    notices: Vec<LaneNotice>,
) -> LaneWork {
    let contents = LaneContents {
        now: at(now),
        channel: channel.clone(),
        notices,
        more_notices: 0,
        messages: BTreeMap::new(),
        open_told: BTreeMap::new(),
        storm_open: picket_store::lanes::StormOutages::default(),
        gaps: Vec::new(),
    };
    let tell = |notice| PlannedItem {
        verdict: Verdict::Down,
        keys: vec![LaneNotice::key(notice)],
        notice,
        note: None,
        headline: None,
        lasting: None,
        attempted: None,
    };
    let plan = PlannedMessage {
        contents: String::new(),
        attempts: 0,
        may_have_arrived: false,
        id: Uuid::now_v7(),
        purpose: Purpose::Alert,
        group_key: contents.notices[0].group_key.clone(),
        told: contents.notices.iter().map(tell).collect(),
        notes: Vec::new(),
        is_single: contents.notices[0].group_key.is_none(),
        storm: None,
    };
    follow_attempt(&EndedAttempt {
        pending: &PendingMessage::of_plan(&plan, &contents),
        channel,
        audience: kind.audience(),
        problem: None,
        number,
        attempt: &Attempt::new(outcome, Some(500), "an answer"),
        pace: Duration::from_secs(1),
        now: at(now),
        random: 0.5,
    })
}

fn retry(retry_after: Option<u64>) -> AttemptOutcome {
    let retry_after = retry_after.map(Duration::from_secs);
    AttemptOutcome::Retry { retry_after, is_channel_failing: false, receiver_ref: None }
}

fn seconds(work: &LaneWork) -> Option<i64> {
    let next = work.notification.as_ref()?.next_attempt_at?;
    Some(next.as_millis() / 1_000 - NOON)
}

fn added(work: &LaneWork) -> Vec<Value> {
    work.added.iter().map(|added| serde_json::to_value(added).unwrap()).collect()
}

#[test]
fn a_program_that_gets_messages_about_several_events_is_tried_as_people_are() {
    let grouped = LaneNotice { group_key: Some("route all".to_owned()), ..notice() };
    let tried = |number| {
        seconds(&follow_notices(
            ChannelKind::Webhook,
            retry(None),
            number,
            0,
            &channel(),
            vec![grouped.clone()],
        ))
    };

    assert_eq!((1..=3).map(tried).collect::<Vec<_>>(), [1, 5, 15].map(Some));
    assert_eq!(tried(12), Some(3_600), "a new notice is not given up with an old message");
}

#[test]
fn people_are_tried_at_growing_intervals_for_a_day_and_programs_by_the_schedule_of_standard_webhooks() {
    let people: Vec<_> = (1..=9)
        .map(|number| seconds(&follow(ChannelKind::Slack, retry(None), number, 0, &channel())))
        .collect();
    assert_eq!(people, [1, 5, 15, 60, 300, 900, 1_800, 3_600, 3_600].map(Some));
    let over = follow(ChannelKind::Slack, retry(None), 30, 86_400, &channel());
    assert_eq!(over.notification.unwrap().state, Some(NoticeState::Failed));
    assert_eq!(over.notices[0].reason, Some(Some("exhausted")));

    let programs: Vec<_> = (1..=9)
        .map(|number| seconds(&follow(ChannelKind::Webhook, retry(None), number, 0, &channel())))
        .collect();
    let hours = |hours: i64| Some(hours * 3_600);
    assert_eq!(programs[..3], [Some(5), Some(300), Some(1_800)]);
    assert_eq!(programs[3..], [hours(2), hours(5), hours(10), hours(14), hours(20), hours(24)]);
    let over = follow(ChannelKind::Webhook, retry(None), 10, 300_000, &channel());
    assert_eq!(over.notification.unwrap().state, Some(NoticeState::Failed));
}

#[test]
fn a_notice_that_joins_an_old_message_has_a_day_of_its_own_and_an_old_one_ends_alone() {
    let attempted = |transition_id, first: Option<i64>| LaneNotice {
        transition_id,
        first_attempt_at: first.map(|seconds| at(seconds).into()),
        ..notice()
    };
    let notices = vec![attempted(1, Some(0)), attempted(2, Some(80_000)), attempted(3, None)];
    let work = follow_notices(ChannelKind::Slack, retry(None), 30, 86_400, &channel(), notices);
    let message = work.notification.as_ref().unwrap();
    assert_eq!((message.state, seconds(&work)), (None, Some(86_400 + 3_600)), "the message goes on");
    let changes: Vec<Value> =
        work.notices.iter().map(|change| serde_json::to_value(change).unwrap()).collect();
    let find = |id: i64| changes.iter().find(|change| change["transition_id"] == json!(id)).unwrap();
    assert_eq!((&find(1)["state"], &find(1)["reason"]), (&json!("failed"), &json!("exhausted")));
    for younger in [2, 3] {
        assert_eq!((find(younger).get("state"), &find(younger)["due_at"]), (None, &json!(at(90_000))));
    }
    assert_eq!(work.channel.unwrap().is_failing, Some(true));

    // The message may be new although its notice is not.
    let notices = vec![attempted(1, Some(-86_400))];
    let work = follow_notices(ChannelKind::Slack, retry(None), 1, 0, &channel(), notices);
    assert_eq!(work.notification.unwrap().state, Some(NoticeState::Failed));
    assert_eq!(work.notices[0].reason, Some(Some("exhausted")));
}

#[test]
fn a_receiver_that_asks_for_time_holds_the_channel_and_no_attempt_comes_earlier() {
    let work = follow(ChannelKind::Webhook, retry(Some(30)), 1, 0, &channel());
    assert_eq!(seconds(&work), Some(30));
    assert_eq!(work.channel.unwrap().next_send_at, Some(at(30)));
    let work = follow(ChannelKind::Webhook, retry(None), 1, 0, &channel());
    assert_eq!(work.channel.unwrap().next_send_at, None, "other subjects are told meanwhile");
    let work = follow(ChannelKind::Slack, retry(None), 2, 0, &channel());
    assert_eq!(work.channel.unwrap().next_send_at, Some(at(5)), "people are told in order");
}

#[test]
fn a_channel_counts_as_failing_at_once_if_the_receiver_does_not_know_it_and_after_a_quarter_of_an_hour_otherwise()
 {
    let unknown = AttemptOutcome::Retry { retry_after: None, is_channel_failing: true, receiver_ref: None };
    let work = follow(ChannelKind::Slack, unknown, 1, 0, &channel());
    assert_eq!(work.channel.unwrap().is_failing, Some(true));
    let failing = LaneChannel { failing_since: Some(at(-600).into()), ..channel() };
    assert_eq!(follow(ChannelKind::Slack, retry(None), 5, 0, &failing).channel.unwrap().is_failing, None);
    let failing = LaneChannel { failing_since: Some(at(-901).into()), ..channel() };
    assert_eq!(
        follow(ChannelKind::Slack, retry(None), 5, 0, &failing).channel.unwrap().is_failing,
        Some(true)
    );
    let failing = LaneChannel { is_failing: true, ..channel() };
    let delivered = AttemptOutcome::Delivered { receiver_ref: None };
    assert_eq!(
        follow(ChannelKind::Slack, delivered, 5, 0, &failing).channel.unwrap().is_failing,
        Some(false)
    );
}

#[test]
fn a_delivery_to_people_is_followed_by_a_reminder_and_one_to_programs_by_none() {
    let delivered = || AttemptOutcome::Delivered { receiver_ref: Some(json!({"ts": "1"})) };
    let work = follow(ChannelKind::Slack, delivered(), 1, 0, &channel());
    let [reminder] = added(&work).try_into().unwrap();
    assert_eq!((&reminder["step"], &reminder["number"]), (&json!("reminder"), &json!(1)));
    assert_eq!(reminder["due_at"], json!(at(3_600)));
    assert_eq!(work.channel.unwrap().next_send_at, Some(at(1)), "the pace of the kind");
    assert_eq!(work.notification.unwrap().receiver_ref, Some(json!({"ts": "1"})));
    assert!(added(&follow(ChannelKind::Webhook, delivered(), 1, 0, &channel())).is_empty());
}

#[test]
fn a_refused_message_fails_alone_and_a_receiver_that_is_gone_ends_its_channel() {
    let work = follow(ChannelKind::Webhook, AttemptOutcome::Refused, 1, 0, &channel());
    assert_eq!(work.notices[0].reason, Some(Some("refused")));
    let change = work.channel.unwrap();
    assert_eq!((change.succeeded, change.problem, change.is_gone), (None, None, None));
    let work = follow(ChannelKind::Webhook, AttemptOutcome::Gone, 1, 0, &channel());
    let change = work.channel.unwrap();
    assert_eq!(change.is_gone, Some(true));
    assert!(change.problem.flatten().is_some_and(|problem| problem.contains("410")));
}

#[test]
fn a_receiver_that_moves_again_and_again_is_tried_at_growing_intervals() {
    let moved = || AttemptOutcome::Moved { settings: json!({"chat_id": "-2"}) };
    let first = follow(ChannelKind::Slack, moved(), 1, 0, &channel());
    assert_eq!(seconds(&first), Some(0));
    assert_eq!(first.channel.unwrap().overrides, Some(json!({"chat_id": "-2"})));
    assert_eq!(seconds(&follow(ChannelKind::Slack, moved(), 4, 0, &channel())), Some(60));
}
