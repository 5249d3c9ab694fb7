//! Maintenance, settings, regions and probers.

use std::time::Duration;

use picket_harness::eventually;
use picket_proto::Timestamp;
use picket_store::api_tokens::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{REGION, TEST_TIMEOUT, TestApi, send};

/// The present time, by the database, plus some hours.
async fn in_hours(api: &TestApi, hours: u64) -> Timestamp {
    api.store.read_clock().await.unwrap().saturating_add(Duration::from_secs(hours * 3_600))
}

#[tokio::test]
async fn a_window_is_added_moved_ended_and_removed() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let site = api.add_site("https://a.example/", &["shop"]).await;
    let write = |method, path: String, body: Value| api_write(&api, &token, method, path, body);

    let added = write(Method::POST, "/api/v1/maintenance".into(), json!({"site_id": site})).await;
    assert_eq!(added.status, 201, "{added:?}");
    let (path, window) = (added.header("location").to_owned(), added.json());
    assert_eq!(
        (&window["state"], &window["to"], &window["site_id"]),
        (&json!("now"), &json!(null), &json!(site))
    );

    let to = in_hours(&api, 2).await;
    let moved = write(Method::PATCH, path.clone(), json!({"to": to})).await;
    assert_eq!((&moved.json()["from"], &moved.json()["to"]), (&window["from"], &json!(to)), "{moved:?}");
    let open = write(Method::PATCH, path.clone(), json!({"to": null})).await;
    assert_eq!(open.json()["to"], json!(null));
    let refused = write(Method::PATCH, path.clone(), json!({"to": "2020-01-01T00:00:00Z"})).await;
    assert!(refused.expect_problem(422).contains("a time after"), "{refused:?}");

    let ended = write(Method::POST, format!("{path}/end"), json!({})).await;
    assert_eq!(ended.json()["state"], "over", "{ended:?}");
    let listed = api.get("/api/v1/maintenance", Some(&token)).await.json();
    assert_eq!(listed["items"], json!([]));
    let all = api.get("/api/v1/maintenance?all=true", Some(&token)).await.json();
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    assert_eq!(send(api.request(Method::DELETE, &path, Some(&token))).await.status, 204);
    api.get(&path, Some(&token)).await.expect_problem(404);
}

async fn api_write(
    api: &TestApi,
    token: &str,
    method: Method,
    path: String,
    body: Value,
) -> crate::support::Answer {
    api.send_json(method, &path, Some(token), &body).await
}

#[tokio::test]
async fn a_planned_window_is_not_ended_and_one_without_a_target_is_refused() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let from = in_hours(&api, 1).await;

    let planned = api
        .send_json(Method::POST, "/api/v1/maintenance", Some(&token), &json!({"tag": "shop", "from": from}))
        .await;
    assert_eq!(planned.json()["state"], "planned", "{planned:?}");
    let path = format!("{}/end", planned.header("location"));
    send(api.request(Method::POST, &path, Some(&token))).await.expect_problem(409);
    for (body, status) in [
        (json!({}), 422),
        (json!({"site_id": 1, "tag": "a"}), 422),
        (json!({"tag": ""}), 422),
        (json!({"tag": "x".repeat(65)}), 422),
        (json!({"site_id": 9}), 404),
    ] {
        api.send_json(Method::POST, "/api/v1/maintenance", Some(&token), &body).await.expect_problem(status);
    }
}

#[tokio::test]
async fn a_token_limited_to_tags_sees_and_makes_only_windows_of_its_sites_and_tags() {
    let api = TestApi::start().await;
    let (admin, token) = (
        api.create_admin_token().await,
        api.create_token(&[Scope::Read, Scope::Write], Some(&["shop"])).await,
    );
    let own = api.add_site("https://a.example/", &["shop"]).await;
    let foreign = api.add_site("https://b.example/", &["blog"]).await;
    let mut paths = Vec::new();
    for target in
        [json!({"site_id": own}), json!({"tag": "shop"}), json!({"site_id": foreign}), json!({"tag": "blog"})]
    {
        let added = api.send_json(Method::POST, "/api/v1/maintenance", Some(&admin), &target).await;
        paths.push(added.header("location").to_owned());
    }

    let listed = api.get("/api/v1/maintenance", Some(&token)).await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    for path in &paths[..2] {
        assert_eq!(api.get(path, Some(&token)).await.status, 200);
    }
    for path in &paths[2..] {
        for (method, path) in [
            (Method::GET, path.clone()),
            (Method::DELETE, path.clone()),
            (Method::POST, format!("{path}/end")),
        ] {
            send(api.request(method, &path, Some(&token))).await.expect_problem(404);
        }
        api.send_json(Method::PATCH, path, Some(&token), &json!({"to": null})).await.expect_problem(404);
    }
    for (target, status) in [(json!({"tag": "blog"}), 403), (json!({"site_id": foreign}), 404)] {
        api.send_json(Method::POST, "/api/v1/maintenance", Some(&token), &target)
            .await
            .expect_problem(status);
    }
}

#[tokio::test]
async fn windows_are_paged_without_loss_while_windows_are_added() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let mut expected = std::collections::BTreeSet::new();
    for hour in 1..8 {
        let from = in_hours(&api, hour / 2).await;
        let added = api
            .send_json(Method::POST, "/api/v1/maintenance", Some(&token), &json!({"tag": "a", "from": from}))
            .await;
        expected.insert(added.json()["id"].as_i64().unwrap());
    }

    let (mut path, mut seen) = ("/api/v1/maintenance?limit=2".to_owned(), Vec::new());
    loop {
        let page = api.get(&path, Some(&token)).await;
        seen.extend(page.json()["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()));
        api.send_json(
            Method::POST,
            "/api/v1/maintenance",
            Some(&token),
            &json!({"tag": "b", "from": in_hours(&api, 9).await}),
        )
        .await;
        let Some((next, _)) = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>'))
        else {
            break;
        };
        assert!(next.contains(page.json()["next_cursor"].as_str().unwrap()));
        path = next.to_owned();
    }

    assert_eq!(seen.iter().copied().collect::<std::collections::BTreeSet<_>>(), expected);
    assert_eq!(seen.len(), expected.len());
    api.get("/api/v1/maintenance?cursor=x", Some(&token)).await.expect_problem(422);
    api.get("/api/v1/maintenance?limit=1001", Some(&token)).await.expect_problem(422);
}

#[tokio::test]
async fn settings_are_listed_and_changed_by_admins_of_all_sites() {
    let api = TestApi::start().await;
    let admin = api.create_admin_token().await;

    let changed = api
        .send_json(
            Method::PATCH,
            "/api/v1/settings",
            Some(&admin),
            &json!({"lease_time": "20s", "retention_days": 60}),
        )
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(changed.json()["changed"].as_array().unwrap().len(), 2);
    let listed = api.get("/api/v1/settings", Some(&admin)).await.json();
    let find = |name: &str| {
        listed["items"].as_array().unwrap().iter().find(|item| item["name"] == name).unwrap()["value"].clone()
    };
    assert_eq!((find("lease_time"), find("retention_days")), (json!("20s"), json!("60")));

    for (body, pointer) in [
        (json!({"lease_time": "1s"}), "/lease_time"),
        (json!({"leasetime": "9s"}), "/leasetime"),
        (json!({"shards": 8}), "/shards"),
        (json!({"require_tickets": false}), "/require_tickets"),
    ] {
        let refused = api.send_json(Method::PATCH, "/api/v1/settings", Some(&admin), &body).await;
        refused.expect_problem(422);
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{refused:?}");
    }
    let writer = api.create_token(&[Scope::Read, Scope::Write], None).await;
    api.send_json(Method::PATCH, "/api/v1/settings", Some(&writer), &json!({"lease_time": "9s"}))
        .await
        .expect_problem(403);
    let limited = api.create_token(&[Scope::Read, Scope::Write], Some(&["shop"])).await;
    api.send_json(Method::PATCH, "/api/v1/settings", Some(&limited), &json!({"lease_time": "9s"}))
        .await
        .expect_problem(403);
    api.get("/api/v1/settings", Some(&limited)).await.expect_problem(403);
}

#[tokio::test]
async fn a_region_shows_its_silence_and_the_schedules_of_the_sites_that_a_token_may_see() {
    let api = TestApi::start().await;
    let (admin, limited) =
        (api.create_admin_token().await, api.create_token(&[Scope::Read], Some(&["shop"])).await);
    api.add_site("https://a.example/", &["shop"]).await;
    api.add_site("https://b.example/", &[]).await;
    sqlx::query("INSERT INTO picket.silent_regions SELECT id, now() FROM picket.regions")
        .execute(&api.pool)
        .await
        .unwrap();

    let all = api.get("/api/v1/regions", Some(&admin)).await.json();
    // The process connects to NATS in the background.
    let own = eventually(TEST_TIMEOUT, "an answer of the probers", async || {
        let own = api.get("/api/v1/regions?probers=true", Some(&limited)).await.json();
        if own["items"][0]["probers"].is_null() { Err(own) } else { Ok(own) }
    })
    .await;

    assert_eq!((&all["items"][0]["name"], &all["items"][0]["schedules"]), (&json!(REGION), &json!(2)));
    assert!(all["items"][0]["silent_since"].is_string() && all["items"][0]["probers"].is_null(), "{all}");
    assert_eq!((&own["items"][0]["schedules"], &own["items"][0]["probers"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn probers_are_listed_to_tokens_of_all_sites() {
    let api = TestApi::start().await;
    let (admin, limited) =
        (api.create_admin_token().await, api.create_token(&[Scope::Read], Some(&["shop"])).await);

    let listed = eventually(TEST_TIMEOUT, "an answer of the probers", async || {
        let listed = api.get("/api/v1/probers", Some(&admin)).await;
        if listed.status == 200 { Ok(listed) } else { Err(listed) }
    })
    .await;

    assert!(listed.json()["items"].is_array());
    api.get("/api/v1/probers", Some(&limited)).await.expect_problem(403);
}

/// Sends a write with the header `If-Match`.
async fn write_if_match(
    api: &TestApi,
    token: &str,
    (method, path): (Method, &str),
    etag: &str,
    body: &Value,
) -> crate::support::Answer {
    let request = api.request(method, path, Some(token)).header("content-type", "application/json");
    send(request.header("if-match", etag).body(body.to_string())).await
}

#[tokio::test]
async fn a_window_is_changed_only_with_its_present_version_if_the_request_names_one() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let added =
        api.send_json(Method::POST, "/api/v1/maintenance", Some(&token), &json!({"tag": "shop"})).await;
    let (path, old) = (added.header("location").to_owned(), added.header("etag").to_owned());
    assert_eq!(old, format!("\"{}\"", added.json()["version"].as_str().unwrap()));
    assert_eq!(api.get(&path, Some(&token)).await.header("etag"), old);

    let change = json!({"to": in_hours(&api, 2).await});
    let moved = write_if_match(&api, &token, (Method::PATCH, &path), &old, &change).await;
    assert_eq!(moved.status, 200, "{moved:?}");
    let new = moved.header("etag").to_owned();
    assert_ne!(new, old);

    let end = format!("{path}/end");
    for (method, path, body) in [
        (Method::PATCH, path.as_str(), json!({"to": null})),
        (Method::POST, end.as_str(), json!({})),
        (Method::DELETE, path.as_str(), json!({})),
    ] {
        let refused = write_if_match(&api, &token, (method, path), &old, &body).await;
        assert!(refused.expect_problem(412).contains(&new), "{refused:?}");
    }
    assert_eq!(api.get(&path, Some(&token)).await.json()["to"], change["to"]);
    let ended = write_if_match(&api, &token, (Method::POST, &end), &new, &json!({})).await;
    assert_eq!(ended.json()["state"], "over", "{ended:?}");
    let removed =
        write_if_match(&api, &token, (Method::DELETE, &path), ended.header("etag"), &json!({})).await;
    assert_eq!(removed.status, 204, "{removed:?}");
}

#[tokio::test]
async fn settings_are_changed_only_with_their_present_version_if_the_request_names_one() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let settings = (Method::PATCH, "/api/v1/settings");
    let old = api.get(settings.1, Some(&token)).await.header("etag").to_owned();

    let changed = write_if_match(&api, &token, settings.clone(), &old, &json!({"lease_time": "20s"})).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_ne!(changed.header("etag"), old);
    let refused = write_if_match(&api, &token, settings.clone(), &old, &json!({"lease_time": "30s"})).await;
    assert!(refused.expect_problem(412).contains(changed.header("etag")), "{refused:?}");

    let read = api.get(settings.1, Some(&token)).await;
    assert_eq!(read.header("etag"), changed.header("etag"));
    let lease =
        read.json()["items"].as_array().unwrap().iter().find(|item| item["name"] == "lease_time").cloned();
    assert_eq!(lease.unwrap()["value"], "20s");
}

#[tokio::test]
async fn a_token_is_revoked_only_with_its_present_version_if_the_request_names_one() {
    let api = TestApi::start().await;
    let admin = api.create_admin_token().await;
    let (id, _) = api.create_token_until(&[Scope::Read], None, None).await;
    let path = format!("/api/v1/tokens/{id}");
    let read = api.get(&path, Some(&admin)).await;
    let old = read.header("etag").to_owned();
    assert_eq!((&read.json()["id"], &read.json()["state"]), (&json!(id), &json!("valid")), "{read:?}");

    let other = write_if_match(&api, &admin, (Method::DELETE, &path), "\"7\"", &json!({})).await;
    assert!(other.expect_problem(412).contains(&old), "{other:?}");
    let revoked = write_if_match(&api, &admin, (Method::DELETE, &path), &old, &json!({})).await;
    assert_eq!(revoked.status, 204, "{revoked:?}");

    write_if_match(&api, &admin, (Method::DELETE, &path), &old, &json!({})).await.expect_problem(412);
    assert_eq!(api.get(&path, Some(&admin)).await.json()["state"], "revoked");
    api.get("/api/v1/tokens/999999", Some(&admin)).await.expect_problem(404);
}
