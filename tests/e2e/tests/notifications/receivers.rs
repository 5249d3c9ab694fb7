//! Receivers that fail, ask for time, hang, or point elsewhere.

use std::time::Duration;

use picket_harness::{eventually, receiver::Answer};

use crate::drill::{Drill, WAIT_TIMEOUT};

#[tokio::test]
async fn n4_after_an_outage_of_the_receiver_people_get_one_message_that_is_true_then() {
    let drill = Drill::start(1).await;
    drill.add_sites(4).await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["phone"], &[("wait_ms", "0")]).await;
    drill.receiver.answer(Answer::status(500));

    drill.open_incidents(1, 2).await;
    drill.wait_requests(2).await;
    drill.open_incidents(3, 4).await;
    drill.close_incidents(1, 1).await;
    drill.close_incidents(3, 3).await;
    drill.wait_requests(3).await;
    let failed = drill.receiver.count();
    drill.receiver.answer(Answer::status(200));
    drill.wait_settled().await;

    let requests = drill.receiver.requests();
    let delivered: Vec<String> = requests[failed..].iter().map(|request| request.text()).collect();
    // An attempt may have been in flight when the receiver came back.
    let told = delivered.last().unwrap();
    assert!(delivered.len() <= 2, "{delivered:?}");
    assert!(told.contains("DOWN 2 sites") && told.contains("WAS DOWN"), "{told}");
    assert_eq!(
        drill.stack.query_number("SELECT count(*) FROM picket.notifications WHERE state = 'delivered'").await,
        1
    );
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n5_a_receiver_that_asks_for_time_gets_no_request_earlier() {
    let drill = Drill::start(2).await;
    drill.add_sites(1).await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["hook"], &[]).await;
    drill.receiver.answer_by(|_| Answer::Status(429, "Retry-After: 6".to_owned(), String::new()));
    drill.open_incidents(1, 1).await;
    drill.wait_requests(1).await;
    drill.receiver.answer(Answer::status(200));
    let requests = drill.wait_requests(2).await;
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= Duration::from_millis(5_900), "{pause:?}");
    drill.wait_settled().await;
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n6_a_receiver_that_resets_before_it_answers_gets_the_event_again_under_its_id() {
    let drill = Drill::start(1).await;
    drill.add_sites(1).await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["hook"], &[]).await;
    drill.receiver.answer(Answer::Reset);
    drill.open_incidents(1, 1).await;
    drill.wait_requests(1).await;
    drill.receiver.answer(Answer::status(204));
    let requests = drill.wait_requests(2).await;
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    assert_eq!(requests[0].json()["data"]["id"], requests[1].json()["data"]["id"]);
    drill.wait_settled().await;
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n7_a_receiver_that_drips_floods_or_redirects_is_given_up_in_time_and_others_are_told() {
    let drill = Drill::start(1).await;
    drill.add_sites(1).await;
    let url = |path: &str| serde_json::json!({"url": drill.receiver.url(path), "timeout_ms": 2000});
    for name in ["drip", "flood", "redirect", "good"] {
        drill.add_channel(name, "webhook", &url(&format!("/{name}"))).await;
    }
    drill.add_route("all", &["drip", "flood", "redirect", "good"], &[]).await;
    drill.receiver.answer_by(|request| match request.path.as_str() {
        "/drip" => Answer::Dripping,
        "/flood" => Answer::Endless,
        "/redirect" => Answer::Status(
            302,
            "Location: http://169.254.169.254/latest/meta-data/".to_owned(),
            String::new(),
        ),
        _ => Answer::status(200),
    });
    drill.open_incidents(1, 1).await;
    let told = "SELECT count(*) FROM picket.notices WHERE channel = 'good' AND state = 'delivered'";
    eventually(WAIT_TIMEOUT, "the good channel's message", async || {
        match drill.stack.query_number(told).await {
            1 => Ok(()),
            found => Err(found),
        }
    })
    .await;
    let ended =
        "SELECT count(DISTINCT notification_id) FROM picket.delivery_attempts WHERE ended_at IS NOT NULL";
    eventually(WAIT_TIMEOUT, "an end of each attempt", async || {
        match drill.stack.query_number(ended).await {
            4 => Ok(()),
            found => Err(found),
        }
    })
    .await;
    let outcomes: Vec<String> = sqlx::query_scalar(
        "SELECT notification.channel || ' ' || attempt.outcome FROM picket.delivery_attempts AS attempt
         JOIN picket.notifications AS notification USING (notification_id)
         WHERE attempt.number = 1 ORDER BY 1",
    )
    .fetch_all(&drill.stack.database)
    .await
    .unwrap();
    assert_eq!(outcomes[2], "good delivered");
    assert!(outcomes.iter().any(|outcome| outcome == "drip retry"), "{outcomes:?}");
    assert!(drill.notifiers[0].memory_kib() < 100 << 10);
}

#[tokio::test]
async fn a_body_that_the_receiver_refuses_is_failed_at_once_with_its_answer_and_a_gone_receiver_is_not_asked_again()
 {
    let drill = Drill::start(1).await;
    drill.add_sites(2).await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["hook"], &[]).await;
    drill.receiver.answer(Answer::Status(400, String::new(), "no such field".to_owned()));
    drill.open_incidents(1, 1).await;
    drill.wait_settled().await;
    assert_eq!(drill.count_notices("failed", "refused").await, 1);
    let answer = "SELECT count(*) FROM picket.delivery_attempts WHERE outcome = 'refused' AND message LIKE '%no such field%'";
    assert_eq!(drill.stack.query_number(answer).await, 1);

    drill.receiver.answer(Answer::status(410));
    drill.open_incidents(2, 2).await;
    drill.wait_settled().await;
    drill.close_incidents(1, 2).await;
    drill.wait_settled().await;
    assert_eq!(drill.receiver.count(), 2, "nothing after 410");
    let problem = "SELECT count(*) FROM report.channels WHERE problem IS NOT NULL AND is_failing";
    assert_eq!(drill.stack.query_number(problem).await, 1);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn a_channel_that_fails_is_told_to_the_channels_of_such_events() {
    let drill = Drill::start(1).await;
    drill.add_sites(1).await;
    drill.add_channel("hook", "webhook", &serde_json::json!({"url": drill.receiver.url("/hook")})).await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["hook"], &[]).await;
    drill.add_route("operator", &["phone"], &[("events", "'{channel}'"), ("wait_ms", "0")]).await;
    drill.receiver.answer_by(|request| match request.path.as_str() {
        "/hook" => Answer::Status(403, String::new(), "action_prohibited".to_owned()),
        _ => Answer::status(200),
    });
    drill.open_incidents(1, 1).await;
    let told = async || {
        let requests = drill.receiver.requests();
        let found = requests.iter().find(|request| request.path == "/").map(|request| request.text());
        found.ok_or("no message yet")
    };
    let text = eventually(WAIT_TIMEOUT, "the message to the operator", told).await;
    assert!(text.contains("CHANNEL FAILING hook") && text.contains("action_prohibited"), "{text}");
}

#[tokio::test]
async fn channels_that_hang_hold_up_no_channel_that_delivers() {
    let drill = Drill::start(1).await;
    drill.add_sites(40).await;
    let names: Vec<String> = (1..=6).map(|number| format!("hanging-{number}")).collect();
    for name in &names {
        let settings = serde_json::json!({"url": drill.receiver.url("/hang"), "timeout_ms": 10000});
        drill.add_channel(name, "webhook", &settings).await;
    }
    drill.add_channel("good", "webhook", &serde_json::json!({"url": drill.receiver.url("/good")})).await;
    drill.add_route("hanging", &names.iter().map(String::as_str).collect::<Vec<_>>(), &[]).await;
    drill.add_route("good", &["good"], &[]).await;
    drill.receiver.answer_by(|request| match request.path.as_str() {
        "/hang" => Answer::Late(Duration::from_secs(60)),
        _ => Answer::status(200),
    });
    // First the hanging channels fail once.
    drill.open_incidents(1, 20).await;
    let failing = "SELECT count(*) FROM picket.channel_states WHERE failing_since IS NOT NULL";
    eventually(WAIT_TIMEOUT, "six channels that fail", async || {
        match drill.stack.query_number(failing).await {
            6 => Ok(()),
            found => Err(found),
        }
    })
    .await;
    drill.open_incidents(21, 40).await;
    let told = "SELECT count(*) FROM picket.notices WHERE channel = 'good' AND state = 'delivered'";
    eventually(Duration::from_secs(20), "every event at the good channel", async || {
        match drill.stack.query_number(told).await {
            40 => Ok(()),
            found => Err(found),
        }
    })
    .await;
}
