//! Messages to channels, their ledger, tests of channels, and acknowledgements.

use std::time::Duration;

use picket_harness::eventually;
use picket_store::lanes;
use reqwest::Method;
use serde_json::json;

use crate::{
    client::{admin, limited},
    support::{TEST_TIMEOUT, TestApi},
};

/// Opens an incident of the site and plans its notices. Returns its id.
pub(crate) async fn open_incident(api: &TestApi, site: i64) -> i64 {
    let id = open_unplanned_incident(api, site).await;
    lanes::plan_notices(&api.store).await.unwrap();
    id
}

/// Opens an incident of the site. Returns its id.
pub(crate) async fn open_unplanned_incident(api: &TestApi, site: i64) -> i64 {
    sqlx::query_scalar(
        "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
         VALUES ($1, now(), now(), 'timeout', 'no answer', '{eu}') RETURNING incident_id",
    )
    .bind(site)
    .fetch_one(&api.pool)
    .await
    .unwrap()
}

/// Ends what waits for all channels as one failed notification of each, with an attempt.
pub(crate) async fn fail_notifications(api: &TestApi) {
    sqlx::raw_sql(
        "INSERT INTO picket.notifications (notification_id, channel, lane, purpose, state, reason, title, attempts, ended_at)
         SELECT gen_random_uuid(), name, 0, 'alert', 'failed', 'refused', 'DOWN something', 1, now() FROM picket.channels;
         UPDATE picket.notices AS notice
         SET state = 'failed', reason = 'refused', ended_at = now(), notification_id = message.notification_id
         FROM picket.notifications AS message WHERE message.channel = notice.channel;
         INSERT INTO picket.delivery_attempts (notification_id, number, notifier, epoch, outcome, status, message, ended_at)
         SELECT notification_id, 1, 'n', 1, 'refused', 400, 'bad channel', now() FROM picket.notifications",
    )
    .execute(&api.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_test_message_is_refused_without_a_notifier_and_answered_with_what_the_receiver_said() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    let refused = client.call(Method::POST, "/channels/ops/test").await;
    assert!(refused.expect_problem(503).contains("no notifier runs"), "{refused:?}");
    client.call(Method::POST, "/channels/none/test").await.expect_problem(404);

    lanes::mark_notifier(&api.store, "n", "test").await.unwrap();
    let deliver = async {
        eventually(TEST_TIMEOUT, "a requested test", async || {
            let sql =
                "SELECT count(*) FROM picket.notifications WHERE purpose = 'test' AND state = 'waiting'";
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&api.pool).await.unwrap() == 1
        })
        .await;
        sqlx::raw_sql(
            "INSERT INTO picket.delivery_attempts (notification_id, number, notifier, epoch, outcome, status, message, ended_at)
             SELECT notification_id, 1, 'n', 1, 'retry', 503, 'busy', clock_timestamp() FROM picket.notifications",
        )
        .execute(&api.pool)
        .await
        .unwrap();
    };
    let (answer, ()) = tokio::join!(client.call(Method::POST, "/channels/ops/test"), deliver);

    let test = answer.json();
    assert_eq!(
        (answer.status.as_u16(), &test["outcome"], &test["status"]),
        (200, &json!("retry"), &json!(503)),
        "{test}"
    );
    assert_eq!(test["message"], "busy");
    let number = test["notification_id"].as_str().unwrap();
    let notification = client.get(&format!("/notifications/{number}")).await.json();
    assert_eq!(
        (&notification["purpose"], &notification["state"]),
        (&json!("test"), &json!("superseded")),
        "{notification}"
    );
}

#[tokio::test]
async fn an_incident_is_acknowledged_once_by_name_and_not_by_a_token_of_another_tag() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    client.add_route(json!({"channels": ["ops"]})).await;
    let site = api.add_site("https://own.example/", &["shop"]).await;
    let id = open_incident(&api, site).await;
    let path = format!("/incidents/{id}/acknowledgement");
    let (writer, other) = (limited(&api, "shop").await, limited(&api, "blog").await);

    other.write(Method::PUT, &path, json!({})).await.expect_problem(404);
    let acknowledged = writer.write(Method::PUT, &path, json!({"note": "restarting"})).await;
    assert_eq!(
        (acknowledged.status.as_u16(), &acknowledged.json()["note"]),
        (200, &json!("restarting")),
        "{acknowledged:?}"
    );
    let again = writer.write(Method::PUT, &path, json!({"note": "restarting"})).await;
    assert_eq!(again.json(), acknowledged.json());
    client.write(Method::PUT, &path, json!({"note": "mine"})).await.expect_problem(409);
    let incident = client.get(&format!("/incidents/{id}")).await.json();
    assert_eq!(incident["acknowledgement"], acknowledged.json(), "{incident}");
    assert_eq!(
        (&incident["notices"][0]["channel"], &incident["notices"][0]["state"]),
        (&json!("ops"), &json!("waiting"))
    );

    other.call(Method::DELETE, &path).await.expect_problem(404);
    assert_eq!(writer.call(Method::DELETE, &path).await.status, 204);
    writer.call(Method::DELETE, &path).await.expect_problem(404);
    sqlx::query("UPDATE picket.incidents SET closed_at = now()").execute(&api.pool).await.unwrap();
    client.write(Method::PUT, &path, json!({})).await.expect_problem(409);
}

#[tokio::test]
async fn notifications_are_listed_by_channel_state_and_incident_and_a_failed_one_is_tried_again() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    for channel in ["ops", "mail"] {
        client.add_channel(channel).await;
    }
    client.add_route(json!({"channels": ["ops", "mail"]})).await;
    let site = api.add_site("https://own.example/", &["shop"]).await;
    let id = open_incident(&api, site).await;
    fail_notifications(&api).await;

    let page = client.get("/notifications?limit=1").await;
    assert_eq!(page.json()["items"].as_array().unwrap().len(), 1, "{page:?}");
    let next = page.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
    let rest = api.get(&next, Some(&client.token)).await.json();
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &json!(null)), "{rest}");
    assert_ne!(rest["items"][0]["channel"], page.json()["items"][0]["channel"]);
    let query = format!("/notifications?channel=ops&state=failed&incident={id}");
    let found = client.get(&query).await.json();
    let number = found["items"][0]["notification_id"].as_str().unwrap().to_owned();
    assert_eq!(
        (found["items"].as_array().unwrap().len(), &found["items"][0]["incident_ids"]),
        (1, &json!([id])),
        "{found}"
    );
    assert_eq!(client.get("/notifications?incident=999").await.json()["items"], json!([]));
    client.get("/notifications?state=lost").await.expect_problem(422);

    let detail = client.get(&format!("/notifications/{number}")).await.json();
    assert_eq!(
        (&detail["attempt_list"][0]["status"], &detail["attempt_list"][0]["message"]),
        (&json!(400), &json!("bad channel"))
    );
    assert_eq!(detail["notices"][0]["event"], "incident.opened", "{detail}");
    let retried = client.call(Method::POST, &format!("/notifications/{number}/retry")).await;
    assert_eq!((retried.status.as_u16(), &retried.json()["state"]), (202, &json!("waiting")), "{retried:?}");
    client.call(Method::POST, &format!("/notifications/{number}/retry")).await.expect_problem(409);
}

#[tokio::test]
async fn a_limited_token_sees_of_a_notification_what_concerns_its_sites_and_no_answer_of_the_receiver() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    client.add_route(json!({"channels": ["ops"]})).await;
    let own = api.add_site("https://own.example/", &["shop"]).await;
    let foreign = api.add_site("https://b.example/", &["blog"]).await;
    let (own, _) = (open_incident(&api, own).await, open_incident(&api, foreign).await);
    fail_notifications(&api).await;
    let reader = limited(&api, "shop").await;

    let listed = reader.get("/notifications").await.json();
    let seen = &listed["items"][0];
    assert_eq!(
        (&seen["incident_ids"], &seen["title"], &seen["last_message"]),
        (&json!([own]), &json!(null), &json!(null)),
        "{listed}"
    );
    let number = seen["notification_id"].as_str().unwrap();
    let detail = reader.get(&format!("/notifications/{number}")).await.json();
    assert_eq!(detail["notices"].as_array().unwrap().len(), 1, "{detail}");
    assert_eq!(
        (&detail["attempt_list"][0]["message"], &detail["attempt_list"][0]["status"]),
        (&json!(null), &json!(400))
    );
    let all = client.get(&format!("/notifications/{number}")).await.json();
    assert_eq!(
        (all["notices"].as_array().unwrap().len(), &all["title"]),
        (2, &json!("DOWN something")),
        "{all}"
    );
    let stranger = limited(&api, "other").await;
    assert_eq!(stranger.get("/notifications").await.json()["items"], json!([]));
    stranger.get(&format!("/notifications/{number}")).await.expect_problem(404);
    reader.get("/notifications/ledger").await.expect_problem(403);
}

#[tokio::test]
async fn the_ledger_of_notifications_counts_what_failed_with_its_reason_and_finds_what_is_missing() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    client.add_route(json!({"channels": ["ops"]})).await;
    let site = api.add_site("https://own.example/", &["shop"]).await;
    open_incident(&api, site).await;
    fail_notifications(&api).await;

    let ledger = client.get("/notifications/ledger").await.json();
    assert_eq!(
        (&ledger["unaccounted"], &ledger["channels"][0]["failed"]),
        (&json!(0), &json!(1)),
        "{ledger}"
    );
    assert_eq!((&ledger["reasons"][0]["reason"], &ledger["untold"]), (&json!("refused"), &json!(0)));
    sqlx::query("DELETE FROM picket.notices").execute(&api.pool).await.unwrap();
    let ledger = client.get("/notifications/ledger").await.json();
    assert_eq!(
        (&ledger["unaccounted"], &ledger["rows"][0]["event"]),
        (&json!(1), &json!("incident.opened")),
        "{ledger}"
    );
    client
        .get("/notifications/ledger?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z")
        .await
        .expect_problem(422);
}

#[tokio::test]
async fn all_that_failed_on_a_channel_since_a_time_is_tried_again_once_and_not_by_a_limited_token() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    for channel in ["ops", "mail"] {
        client.add_channel(channel).await;
    }
    client.add_route(json!({"channels": ["ops", "mail"]})).await;
    let site = api.add_site("https://own.example/", &["shop"]).await;
    open_incident(&api, site).await;
    fail_notifications(&api).await;
    let now = api.store.read_clock().await.unwrap();
    let hour_ago = now.saturating_sub(Duration::from_secs(3_600));
    let body = json!({"channel": "ops", "since": hour_ago});

    let future = json!({"channel": "ops", "since": now.saturating_add(Duration::from_secs(3_600))});
    let none = client.write(Method::POST, "/notifications/retry", future).await;
    assert_eq!((none.status.as_u16(), none.json()), (200, json!({"retried": 0})), "{none:?}");
    let retried = client.write(Method::POST, "/notifications/retry", body.clone()).await;
    assert_eq!((retried.status.as_u16(), retried.json()), (200, json!({"retried": 1})), "{retried:?}");
    let again = client.write(Method::POST, "/notifications/retry", body.clone()).await;
    assert_eq!(again.json(), json!({"retried": 0}));
    let states = client.get("/notifications?state=failed").await.json();
    assert_eq!(states["items"][0]["channel"], "mail", "{states}");

    limited(&api, "shop").await.write(Method::POST, "/notifications/retry", body).await.expect_problem(403);
    let unknown = json!({"channel": "none", "since": hour_ago});
    client.write(Method::POST, "/notifications/retry", unknown).await.expect_problem(404);
    client.write(Method::POST, "/notifications/retry", json!({"channel": "ops"})).await.expect_problem(422);
}

#[tokio::test]
async fn the_rows_behind_a_number_of_the_ledger_are_listed_and_escalations_are_counted_apart() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    client.add_channel("boss").await;
    let escalate = json!([{"after": "15m", "channels": ["boss"]}]);
    client.add_route(json!({"channels": ["ops"], "escalate": escalate})).await;
    let own = api.add_site("https://own.example/", &["shop"]).await;
    let foreign = api.add_site("https://b.example/", &["blog"]).await;
    open_incident(&api, own).await;
    open_incident(&api, foreign).await;
    sqlx::raw_sql(
        "UPDATE picket.notices SET state = 'suppressed', ended_at = now(),
             reason = CASE step WHEN 'event' THEN 'brief' ELSE 'acknowledged' END",
    )
    .execute(&api.pool)
    .await
    .unwrap();

    let ledger = client.get("/notifications/ledger").await.json();
    assert_eq!(
        (
            &ledger["channels"][0]["suppressed"],
            &ledger["steps"][0]["suppressed"],
            &ledger["steps"][0]["step"]
        ),
        (&json!(2), &json!(2), &json!("escalation")),
        "{ledger}"
    );
    let reasons: Vec<_> = ledger["reasons"].as_array().unwrap().iter().map(|row| &row["step"]).collect();
    assert_eq!(reasons, ["escalation", "event"], "{ledger}");
    let rows = client.get("/notifications/notices?channel=ops&state=suppressed&reason=brief").await.json();
    assert_eq!((rows["items"].as_array().unwrap().len(), &rows["has_more"]), (2, &json!(false)), "{rows}");
    let steps = client.get("/notifications/notices?step=escalation&limit=1").await.json();
    assert_eq!(
        (&steps["items"][0]["channel"], &steps["has_more"]),
        (&json!("boss"), &json!(true)),
        "{steps}"
    );
    let seen = limited(&api, "shop").await.get("/notifications/notices").await.json();
    assert_eq!(seen["items"].as_array().unwrap().len(), 2, "{seen}");
    assert!(!seen.to_string().contains("b.example"), "{seen}");
    client.get("/notifications/notices?state=lost").await.expect_problem(422);
}
