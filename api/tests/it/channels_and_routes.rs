//! Channels, routes and silences: definitions, and their refusals and warnings.

use std::time::Duration;

use picket_store::api_tokens::Scope;
use reqwest::Method;
use serde_json::json;

use crate::{
    client::{Client, HOOK, admin, limited},
    notifications::open_incident,
    support::{TestApi, send},
};

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

#[tokio::test]
async fn a_new_channel_and_a_new_route_are_told_of_open_incidents_on_demand_and_once() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    let site = api.add_site("https://own.example/", &["shop"]).await;
    open_incident(&api, site).await;

    let quiet = client.write(Method::POST, "/routes", json!({"channels": ["ops"], "tags": ["blog"]})).await;
    assert_eq!((quiet.status.as_u16(), &quiet.json()["caught_up"]), (201, &json!(null)), "{quiet:?}");
    let body = json!({"name": "all", "channels": ["ops"]});
    let loud = client.write(Method::POST, "/routes?catch_up=true", body.clone()).await;
    assert_eq!((loud.status.as_u16(), &loud.json()["caught_up"]), (201, &json!(1)), "{loud:?}");
    client.write(Method::POST, "/routes?catch_up=true", body).await.expect_problem(409);
    let again = client.call(Method::POST, "/routes/all/catch-up").await;
    assert_eq!((again.status.as_u16(), again.json()), (200, json!({"notices": 0})), "{again:?}");

    let body = json!({"name": "desk", "kind": "webhook", "settings": {"url": HOOK}});
    let added = client.write(Method::POST, "/channels?catch_up=true", body).await;
    assert_eq!((&added.json()["caught_up"], &added.json()["state"]), (&json!(0), &json!("new")), "{added:?}");
    client.write(Method::PATCH, "/routes/all", json!({"channels": ["ops", "desk"]})).await;
    let caught = client.call(Method::POST, "/channels/desk/catch-up").await;
    assert_eq!(caught.json(), json!({"notices": 1}), "{caught:?}");
    assert_eq!(client.call(Method::POST, "/channels/desk/catch-up").await.json(), json!({"notices": 0}));

    client.call(Method::POST, "/channels/none/catch-up").await.expect_problem(404);
    client.call(Method::POST, "/routes/none/catch-up").await.expect_problem(404);
    client
        .write(Method::POST, "/routes?catch_up=yes", json!({"channels": ["ops"]}))
        .await
        .expect_problem(422);
    let reader = limited(&api, "shop").await;
    reader.call(Method::POST, "/channels/desk/catch-up").await.expect_problem(403);
}

#[tokio::test]
async fn a_tag_without_a_site_is_a_warning_of_routes_silences_and_definitions() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    api.add_site("https://own.example/", &["shop"]).await;
    let warning = json!(["tags: no site has the tag 'shpo'; did you mean 'shop'?"]);

    let fields = json!({"name": "r", "channels": ["ops"], "tags": ["shpo"], "all_tags": ["shop"]});
    let route = client.write(Method::POST, "/routes", fields).await;
    assert_eq!((route.status.as_u16(), &route.json()["warnings"]), (201, &warning), "{route:?}");
    assert_eq!(client.get("/routes").await.json()["items"][0]["warnings"], warning);
    let mended = client.write(Method::PATCH, "/routes/r", json!({"tags": ["shop"]})).await;
    assert_eq!(mended.json()["warnings"], json!([]), "{mended:?}");
    let to = api.store.read_clock().await.unwrap().saturating_add(Duration::from_secs(3_600));
    let silence =
        client.write(Method::POST, "/silences", json!({"tag": "shpo", "to": to, "reason": "x"})).await;
    assert_eq!(silence.json()["warnings"], json!(["tag: no site has the tag 'shpo'"]), "{silence:?}");

    let definition = json!({
        "sites": [{"url": "https://new.example/", "tags": ["new"]}],
        "routes": [{"channels": ["ops"], "tags": ["new"]}, {"channels": ["ops"], "tags": ["nwe"]}],
    });
    let planned = client.write(Method::PUT, "/sites?dry_run=true", definition).await.json();
    let warnings = planned["warnings"].as_array().unwrap();
    assert!(
        warnings.len() == 1 && warnings[0].as_str().unwrap().starts_with("/routes/1: tags: "),
        "{planned}"
    );
}

#[tokio::test]
async fn all_unknown_names_in_routes_of_a_definition_are_refused_at_once_by_their_pointers() {
    let api = TestApi::start().await;
    let client = admin(&api).await;
    client.add_channel("ops").await;
    client.add_route(json!({"channels": ["ops"]})).await;
    let definition = json!({
        "sites": [{"url": "https://new.example/"}],
        "routes": [
            {"channels": ["none"], "sites": ["https://new.example/"]},
            {"channels": ["ops"], "sites": ["https://gone.example/"],
             "escalate": [{"after": "1h", "channels": ["boss"]}]},
        ],
    });

    let refused = client.write(Method::PUT, "/sites", definition).await;

    refused.expect_problem(422);
    let errors = refused.json()["errors"].clone();
    let mut pointers: Vec<&str> =
        errors.as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/routes/0/channels", "/routes/1/escalate/0/channels", "/routes/1/sites"]);
    let pruned = json!({"sites": [], "channels": {}});
    let refused = client.write(Method::PUT, "/sites?prune=true", pruned).await;
    assert!(refused.expect_problem(422).contains("remove these routes first: all-to-ops"), "{refused:?}");
}
