//! Channels, routes, silences, acknowledgements and notifications.

use std::time::Duration;

use picket_harness::eventually;
use picket_store::{api_tokens::Scope, lanes};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TEST_TIMEOUT, TestApi, send};

const HOOK: &str = "https://hooks.example.com/picket";

/// A client of the API with a token.
struct Client<'a> {
    api: &'a TestApi,
    token: String,
}

impl Client<'_> {
    async fn write(&self, method: Method, path: &str, body: Value) -> Answer {
        self.api.send_json(method, &format!("/api/v1{path}"), Some(&self.token), &body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.api.get(&format!("/api/v1{path}"), Some(&self.token)).await
    }

    async fn call(&self, method: Method, path: &str) -> Answer {
        send(self.api.request(method, &format!("/api/v1{path}"), Some(&self.token))).await
    }

    async fn add_channel(&self, name: &str) {
        let body = json!({"name": name, "kind": "webhook", "settings": {"url": HOOK}});
        let added = self.write(Method::POST, "/channels", body).await;
        assert_eq!(added.status, 201, "{added:?}");
    }

    async fn add_route(&self, body: Value) {
        let added = self.write(Method::POST, "/routes", body).await;
        assert_eq!(added.status, 201, "{added:?}");
    }
}

async fn admin(api: &TestApi) -> Client<'_> {
    Client { api, token: api.create_admin_token().await }
}

async fn limited<'a>(api: &'a TestApi, tag: &str) -> Client<'a> {
    let scopes = [Scope::Read, Scope::Write];
    Client { api, token: api.create_token(&scopes, Some(&[tag])).await }
}

/// Opens an incident of the site and plans its notices. Returns its id.
pub(crate) async fn open_incident(api: &TestApi, site: i64) -> i64 {
    let id = sqlx::query_scalar(
        "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
         VALUES ($1, now(), now(), 'timeout', 'no answer', '{eu}') RETURNING incident_id",
    )
    .bind(site)
    .fetch_one(&api.pool)
    .await
    .unwrap();
    lanes::plan_notices(&api.store).await.unwrap();
    id
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
async fn a_channel_is_added_changed_paused_and_removed() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    let secret = json!({"name": "ops", "kind": "slack", "settings": {"url": {"secret": "slack-ops"}}});

    let added = client.write(Method::POST, "/channels", secret.clone()).await;
    assert_eq!((added.status.as_u16(), added.header("location")), (201, "/api/v1/channels/ops"), "{added:?}");
    let channel = added.json();
    assert_eq!((&channel["state"], &channel["settings"]), (&json!("new"), &secret["settings"]), "{channel}");
    let twice = client.write(Method::POST, "/channels", secret).await;
    twice.expect_problem(409);
    assert_eq!(twice.json()["existing"], "ops");

    let changed = client.write(Method::PATCH, "/channels/ops", json!({"enabled": false, "pace": "2s"})).await;
    assert_eq!(
        (&changed.json()["state"], &changed.json()["pace"]),
        (&json!("paused"), &json!("2s")),
        "{changed:?}"
    );
    assert_eq!(changed.json()["settings"], channel["settings"]);
    let stale = api.request(Method::PUT, "/api/v1/channels/ops", Some(&client.token));
    let stale = stale.header("if-match", added.header("etag")).header("content-type", "application/json");
    send(stale.body(r#"{"kind": "webhook"}"#)).await.expect_problem(412);
    let renamed = client.write(Method::PATCH, "/channels/ops", json!({"name": "other"})).await;
    assert!(renamed.expect_problem(422).contains("keeps its name"), "{renamed:?}");
    let replaced = client
        .write(Method::PUT, "/channels/ops", json!({"kind": "webhook", "settings": {"url": HOOK}}))
        .await;
    assert_eq!(
        (&replaced.json()["enabled"], &replaced.json()["pace"]),
        (&json!(true), &json!(null)),
        "{replaced:?}"
    );

    client.add_route(json!({"channels": ["ops"]})).await;
    let refused = client.call(Method::DELETE, "/channels/ops").await;
    assert!(refused.expect_problem(409).contains("all-to-ops"), "{refused:?}");
    assert_eq!(client.call(Method::DELETE, "/routes/all-to-ops").await.status, 204);
    assert_eq!(client.call(Method::DELETE, "/channels/ops").await.status, 204);
    client.get("/channels/ops").await.expect_problem(404);
    assert_eq!(client.get("/channels").await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_credential_in_the_settings_of_a_channel_is_refused_and_not_repeated() {
    let api = TestApi::start().await;
    let client = admin(&api).await;

    for (body, pointer) in [
        (json!({"name": "bot", "kind": "telegram", "settings": {"token": "hunter2"}}), "/settings/token"),
        (
            json!({"name": "bot", "kind": "webhook", "settings": {"headers": {"Authorization": "hunter2"}}}),
            "/settings/headers/Authorization",
        ),
        (json!({"name": "bot", "kind": "telegram", "token": {"secret": "hunter2"}}), "/token"),
        (json!({"name": "bot", "kind": "slak"}), "/kind"),
        (json!({"kind": "slack"}), "/name"),
    ] {
        let refused = client.write(Method::POST, "/channels", body).await;
        refused.expect_problem(422);
        assert!(!refused.text.contains("hunter2"), "{refused:?}");
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{refused:?}");
    }
    assert_eq!(client.get("/channels").await.json()["items"], json!([]));
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
async fn a_route_is_added_in_its_place_renamed_and_refused_if_it_names_what_there_is_not() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    client.add_route(json!({"channels": ["ops"], "tags": ["shop"]})).await;
    client.add_route(json!({"name": "last", "channels": ["ops"], "fallback": true})).await;
    let unknown = client.write(Method::POST, "/routes", json!({"channels": ["phone"]})).await;
    assert!(unknown.expect_problem(422).contains("ops"), "{unknown:?}");
    assert_eq!(unknown.json()["errors"][0]["pointer"], "/channels");
    let twice = client.write(Method::POST, "/routes", json!({"name": "last", "channels": ["ops"]})).await;
    twice.expect_problem(409);

    let listed = client.get("/routes").await.json();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|route| &route["name"]).collect();
    assert_eq!(names, ["shop-to-ops", "last"]);
    assert_eq!((&listed["items"][1]["position"], &listed["items"][1]["remind"]), (&json!(1), &json!("1h")));
    let renamed =
        client.write(Method::PATCH, "/routes/last", json!({"name": "rest", "remind": "never"})).await;
    assert_eq!(
        (&renamed.json()["name"], &renamed.json()["position"]),
        (&json!("rest"), &json!(1)),
        "{renamed:?}"
    );
    let replaced =
        client.write(Method::PUT, "/routes/rest", json!({"channels": ["ops"], "wait": "30s"})).await;
    let (route, position) = (replaced.json(), json!(1));
    assert_eq!(
        (&route["name"], &route["position"], &route["remind"]),
        (&json!("rest"), &position, &json!("1h")),
        "{route}"
    );
    client.get("/routes/last").await.expect_problem(404);
    let taken = client.write(Method::PATCH, "/routes/rest", json!({"name": "shop-to-ops"})).await;
    taken.expect_problem(409);
}

#[tokio::test]
async fn the_channels_of_a_site_are_those_of_its_routes_and_a_limited_token_asks_about_its_sites_only() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    let (own, foreign) = (
        api.add_site("https://own.example/", &["shop"]).await,
        api.add_site("https://b.example/", &["blog"]).await,
    );
    client.add_channel("ops").await;
    client.add_channel("phone").await;
    let escalate = json!([{"after": "15m", "channels": ["phone"]}]);
    client.add_route(json!({"tags": ["shop"], "channels": ["ops"], "escalate": escalate})).await;

    let all = client.get("/reach").await.json();
    assert_eq!(
        (&all["sites"], &all["unreached"], &all["routes"]),
        (&json!(2), &json!(1), &json!(1)),
        "{all}"
    );
    let one = client.get(&format!("/reach?site={own}")).await.json();
    assert_eq!(one["items"][0]["channels"], json!(["ops"]), "{one}");
    assert_eq!(one["items"][0]["escalation_channels"], json!(["phone"]));
    let reader = limited(&api, "shop").await;
    let seen = reader.get("/reach").await.json();
    assert_eq!((&seen["unreached"], seen["items"].as_array().unwrap().len()), (&json!(0), 1), "{seen}");
    reader.get(&format!("/reach?site={foreign}")).await.expect_problem(404);
    reader.get("/reach?tag=blog").await.expect_problem(403);
    reader.get("/routes").await.expect_problem(403);
    let channels = reader.get("/channels").await.json();
    assert_eq!(
        (&channels["items"][0]["name"], &channels["items"][0]["settings"]),
        (&json!("ops"), &json!(null))
    );
}

#[tokio::test]
async fn a_silence_is_added_extended_ended_and_a_limited_token_silences_only_its_sites() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    let own = api.add_site("https://own.example/", &["shop"]).await;
    let foreign = api.add_site("https://b.example/", &["blog"]).await;
    let hours = async |hours: u64| {
        api.store.read_clock().await.unwrap().saturating_add(Duration::from_secs(hours * 3_600))
    };
    let to = hours(2).await;

    let added =
        client.write(Method::POST, "/silences", json!({"site_id": own, "to": to, "reason": "moving"})).await;
    assert_eq!((added.status.as_u16(), &added.json()["state"]), (201, &json!("now")), "{added:?}");
    assert!(added.json()["created_by"].as_str().unwrap().starts_with("test "), "{added:?}");
    let path = added.header("location").strip_prefix("/api/v1").unwrap().to_owned();
    let later = hours(3).await;
    let moved = client.write(Method::PATCH, &path, json!({"to": later})).await;
    assert_eq!(
        (&moved.json()["to"], &moved.json()["reason"]),
        (&json!(later), &json!("moving")),
        "{moved:?}"
    );
    let ended = client.call(Method::POST, &format!("{path}/end")).await;
    assert_eq!(ended.json()["state"], "over", "{ended:?}");
    assert_eq!(client.get("/silences").await.json()["items"], json!([]));
    assert_eq!(client.get("/silences?all=true").await.json()["items"].as_array().unwrap().len(), 1);
    let planned = json!({"all": true, "from": later, "to": hours(4).await, "reason": "x"});
    let planned = client.write(Method::POST, "/silences", planned).await;
    let planned = planned.header("location").strip_prefix("/api/v1").unwrap().to_owned();
    client.call(Method::POST, &format!("{planned}/end")).await.expect_problem(409);

    for (target, status) in [
        (json!({"to": to, "reason": "x"}), 422),
        (json!({"site_id": own, "tag": "shop", "to": to, "reason": "x"}), 422),
        (json!({"tag": "shop", "to": to, "reason": ""}), 422),
        (json!({"tag": "shop", "to": "2020-01-01T00:00:00Z", "reason": "x"}), 422),
        (json!({"site_id": 99, "to": to, "reason": "x"}), 404),
    ] {
        client.write(Method::POST, "/silences", target).await.expect_problem(status);
    }
    let writer = limited(&api, "shop").await;
    for (target, status) in [
        (json!({"all": true, "to": to, "reason": "x"}), 403),
        (json!({"tag": "blog", "to": to, "reason": "x"}), 403),
        (json!({"site_id": foreign, "to": to, "reason": "x"}), 404),
    ] {
        writer.write(Method::POST, "/silences", target).await.expect_problem(status);
    }
    writer.call(Method::DELETE, &planned).await.expect_problem(404);
    let own = writer.write(Method::POST, "/silences", json!({"tag": "shop", "to": to, "reason": "x"})).await;
    assert_eq!(own.status, 201, "{own:?}");
    assert_eq!(
        writer.call(Method::DELETE, own.header("location").strip_prefix("/api/v1").unwrap()).await.status,
        204
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
async fn a_definition_has_channels_and_routes_which_only_an_administrator_applies() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    let definition = json!({
        "sites": [{"url": "https://a.example/", "tags": ["shop"]}],
        "channels": {"ops": {"kind": "webhook", "url": HOOK}},
        "routes": [{"channels": ["ops"], "tags": ["shop"]}],
    });
    let writer = Client { api: &api, token: api.create_token(&[Scope::Write], None).await };
    let refused = writer.write(Method::PUT, "/sites", definition.clone()).await;
    assert!(refused.expect_problem(403).contains("lacks the scope 'admin'"), "{refused:?}");

    let planned = client.write(Method::PUT, "/sites?dry_run=true", definition.clone()).await.json();
    assert_eq!(
        (&planned["channels"]["added"], &planned["unreached"]),
        (&json!(["ops"]), &json!(0)),
        "{planned}"
    );
    assert_eq!(client.get("/channels").await.json()["items"], json!([]));
    let applied = client.write(Method::PUT, "/sites", definition.clone()).await.json();
    assert_eq!(
        (&applied["routes"]["added"], &applied["unreached"]),
        (&json!(["shop-to-ops"]), &json!(0)),
        "{applied}"
    );
    let again = client.write(Method::PUT, "/sites", definition).await.json();
    assert_eq!(
        (&again["channels"]["unchanged"], &again["routes"]["unchanged"]),
        (&json!(1), &json!(1)),
        "{again}"
    );
    let pruned = client
        .write(Method::PUT, "/sites?prune=true", json!({"sites": [], "channels": {}, "routes": []}))
        .await
        .json();
    assert_eq!(
        (&pruned["channels"]["removed"], &pruned["routes"]["removed"]),
        (&json!(["ops"]), &json!(["shop-to-ops"])),
        "{pruned}"
    );

    let wrong = json!({
        "sites": [],
        "channels": {"ops": {"kind": "slak"}, "bot": {"kind": "telegram", "token": "hunter2"}, "no": 7},
        "routes": [{"channels": ["ops"], "wait": "soon"}],
    });
    let refused = client.write(Method::PUT, "/sites", wrong).await;
    refused.expect_problem(422);
    assert!(!refused.text.contains("hunter2"), "{refused:?}");
    let errors = refused.json()["errors"].clone();
    let mut pointers: Vec<&str> =
        errors.as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(
        pointers,
        ["/channels/bot/settings/token", "/channels/no", "/channels/ops/kind", "/routes/0/wait"]
    );
}
