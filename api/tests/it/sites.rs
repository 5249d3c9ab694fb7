//! Sites, one at a time.

use picket_store::api_tokens::Scope;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, TestApi, send};

async fn create(api: &TestApi, token: &str, body: serde_json::Value) -> Answer {
    api.send_json(Method::POST, "/api/v1/sites", Some(token), &body).await
}

#[tokio::test]
async fn a_created_site_has_an_address_a_version_and_all_its_fields() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;

    let created =
        create(&api, &token, json!({"url": "https://a.example/", "interval": "30s", "tags": ["shop"]})).await;

    assert_eq!(created.status, 201, "{created:?}");
    let site = created.json();
    assert_eq!(
        (&site["interval_seconds"], &site["method"], &site["tags"]),
        (&json!(30), &json!("GET"), &json!(["shop"]))
    );
    let read = api.get(created.header("location"), Some(&token)).await;
    assert_eq!((read.status.as_u16(), read.header("etag")), (200, created.header("etag")));
    assert_eq!(read.json(), site);
    let stored: i64 = sqlx::query_scalar("SELECT interval_seconds::bigint FROM picket.sites")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(stored, 30);
}

#[tokio::test]
async fn a_site_that_exists_already_is_a_conflict_that_names_it() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let id = api.add_site("https://a.example/", &["shop"]).await;

    let conflict = create(&api, &token, json!({"url": "https://a.example/"})).await;
    let elsewhere = api.create_token(&[Scope::Write], Some(&["blog"])).await;
    let hidden = create(&api, &elsewhere, json!({"url": "https://a.example/", "tags": ["blog"]})).await;

    conflict.expect_problem(409);
    assert_eq!(conflict.json()["existing"], id.to_string());
    hidden.expect_problem(409);
    assert!(hidden.json()["existing"].is_null(), "{hidden:?}");
}

#[tokio::test]
async fn a_field_that_is_not_allowed_is_refused_by_pointer_value_and_what_is_allowed() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;

    for (body, pointer, detail) in [
        (json!({"url": "ftp://a.example/"}), "/url", "'ftp://a.example/' is not allowed; allowed: "),
        (json!({"url": "https://a.example/", "intervall": 5}), "/intervall", "did you mean 'interval"),
        (
            json!({"url": "https://a.example/", "interval": "1s"}),
            "/interval_seconds",
            "'1' is not allowed; allowed: 5 to 86400",
        ),
        (
            json!({"url": "https://a.example/", "regions": ["mars"]}),
            "/regions",
            "'mars' is not allowed; allowed: eu",
        ),
        (
            json!({"url": "https://a.example/", "assertions": {"json": [{"path": "a", "exists": true}]}}),
            "/assertions/json/0/path",
            "RFC 9535",
        ),
        (json!([]), "", "an object"),
    ] {
        let refused = create(&api, &token, body.clone()).await;
        assert!(refused.expect_problem(422).contains(detail), "{body}: {refused:?}");
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{body}: {refused:?}");
    }
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM picket.sites").fetch_one(&api.pool).await.unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_patch_merges_a_put_replaces_and_a_delete_removes() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let site = create(
        &api,
        &token,
        json!({"url": "https://a.example/", "name": "a", "headers": {"A": "1", "B": "2"}, "interval": "30s"}),
    )
    .await;
    let path = site.header("location").to_owned();

    let patch = json!({"name": null, "headers": {"A": null, "C": "3"}, "timeout": "5s"});
    let patched = send(
        api.request(Method::PATCH, &path, Some(&token))
            .header("content-type", "application/merge-patch+json")
            .body(patch.to_string()),
    )
    .await;
    assert_eq!(patched.status, 200, "{patched:?}");
    let fields = patched.json();
    assert_eq!(fields["headers"], json!({"B": "(hidden)", "C": "(hidden)"}));
    assert_eq!(
        (&fields["name"], &fields["timeout_ms"], &fields["interval_seconds"]),
        (&json!(null), &json!(5000), &json!(30))
    );
    assert_ne!(patched.header("etag"), site.header("etag"));

    let replaced =
        api.send_json(Method::PUT, &path, Some(&token), &json!({"url": "https://a.example/"})).await;
    assert_eq!((&replaced.json()["headers"], &replaced.json()["interval_seconds"]), (&json!({}), &json!(60)));

    let deleted = send(api.request(Method::DELETE, &path, Some(&token))).await;
    assert_eq!(deleted.status, 204, "{deleted:?}");
    api.get(&path, Some(&token)).await.expect_problem(404);
}

#[tokio::test]
async fn a_write_with_an_old_version_is_refused_and_changes_nothing() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let site = create(&api, &token, json!({"url": "https://a.example/"})).await;
    let (path, old) = (site.header("location").to_owned(), site.header("etag").to_owned());
    let patch = |etag: &str, name: &str| {
        let request =
            api.request(Method::PATCH, &path, Some(&token)).header("content-type", "application/json");
        send(request.header("if-match", etag).body(json!({"name": name}).to_string()))
    };

    let current = patch(&old, "first").await;
    assert_eq!(current.status, 200, "{current:?}");
    let refusal = patch(&old, "second").await.expect_problem(412);
    assert!(refusal.contains(current.header("etag")), "{refusal}");
    let deleted = send(api.request(Method::DELETE, &path, Some(&token)).header("if-match", &old)).await;
    deleted.expect_problem(412);

    let read = api.get(&path, Some(&token)).await;
    assert_eq!(read.json()["name"], "first");
    let unchanged =
        send(api.request(Method::GET, &path, Some(&token)).header("if-none-match", read.header("etag")))
            .await;
    assert_eq!((unchanged.status.as_u16(), unchanged.text.as_str()), (304, ""));
    assert_eq!(patch("*", "third").await.json()["name"], "third");
}

#[tokio::test]
async fn no_token_reads_values_of_headers_and_only_tokens_that_may_write_read_the_body() {
    let api = TestApi::start().await;
    let (writer, reader) = (api.create_admin_token().await, api.create_token(&[Scope::Read], None).await);
    let fields = json!({
        "url": "https://a.example/", "method": "POST", "body": "key=hunter2",
        "headers": {"X-Key": "hunter2", "Accept": "text/html"}, "options": {"auth": {"bearer": {"secret": "shop"}}},
    });
    let site = create(&api, &writer, fields).await;
    assert_eq!(site.status, 201, "{site:?}");

    let own = api.get(site.header("location"), Some(&writer)).await;
    let read = api.get(site.header("location"), Some(&reader)).await;

    for answer in [&site, &own, &read] {
        let shown = answer.json();
        assert_eq!(shown["headers"], json!({"X-Key": "(hidden)", "Accept": "(hidden)"}));
        assert_eq!(shown["options"]["auth"]["bearer"]["secret"], "shop");
    }
    assert_eq!((&own.json()["body"], &read.json()["body"]), (&json!("key=hunter2"), &json!("(hidden)")));
    assert!(!read.text.contains("hunter2"));
}

#[tokio::test]
async fn a_site_that_is_read_and_written_back_keeps_its_hidden_values() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let headers = json!({"X-Key": "hunter2", "Accept": "text/html"});
    let site = create(
        &api,
        &token,
        json!({"url": "https://a.example/", "method": "POST", "body": "hunter2", "headers": headers}),
    )
    .await;
    let path = site.header("location").to_owned();
    let stored = async || {
        sqlx::query_as::<_, (serde_json::Value, String, i32)>(
            "SELECT headers::jsonb, body, interval_seconds FROM picket.sites",
        )
        .fetch_one(&api.pool)
        .await
        .unwrap()
    };

    let mut fields = api.get(&path, Some(&token)).await.json();
    for name in ["id", "problem", "created_at", "updated_at", "version"] {
        fields.as_object_mut().unwrap().remove(name);
    }
    fields["interval_seconds"] = json!(30);
    let put = api.send_json(Method::PUT, &path, Some(&token), &fields).await;
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(stored().await, (headers.clone(), "hunter2".to_owned(), 30));
    // The name of a header is the same in any case.
    for given in ["(hidden)", "hunter3", "hunter2"] {
        let patch = json!({"headers": {"x-key": given}});
        let patched = api.send_json(Method::PATCH, &path, Some(&token), &patch).await;
        assert_eq!(patched.status, 200, "{patched:?}");
        let kept = if given == "hunter3" { "hunter3" } else { "hunter2" };
        assert_eq!(stored().await.0, json!({"X-Key": kept, "Accept": "text/html"}));
    }
    let twice = json!({"headers": {"x-key": "(hidden)", "X-Key": "hunter3"}});
    let refused = api.send_json(Method::PATCH, &path, Some(&token), &twice).await;
    assert!(refused.expect_problem(422).contains("each header once, in any case"), "{refused:?}");
    let patch = json!({"headers": {"x-key": "(hidden)", "X-Key": null}, "body": "(hidden)"});
    let patched = api.send_json(Method::PATCH, &path, Some(&token), &patch).await;
    assert_eq!(patched.status, 200, "{patched:?}");
    assert_eq!(stored().await.0, json!({"x-key": "hunter2", "Accept": "text/html"}));

    fields["interval_seconds"] = json!(20);
    let definition = json!({"sites": [fields, {"url": "https://b.example/"}]});
    let applied = api.send_json(Method::PUT, "/api/v1/sites", Some(&token), &definition).await;
    assert_eq!(applied.json()["changed"][0]["fields"], json!(["headers", "interval_seconds"]), "{applied:?}");
    sqlx::query("DELETE FROM picket.sites WHERE url LIKE '%b.example%'").execute(&api.pool).await.unwrap();
    assert_eq!(stored().await, (headers, "hunter2".to_owned(), 20));

    for (method, path, body, pointer) in [
        (Method::PATCH, path.clone(), json!({"headers": {"X-Other": "(hidden)"}}), "/headers/X-Other"),
        (
            Method::POST,
            "/api/v1/sites".to_owned(),
            json!({"url": "https://c.example/", "headers": {"X-Key": "(hidden)"}}),
            "/headers/X-Key",
        ),
        (
            Method::PUT,
            "/api/v1/sites".to_owned(),
            json!({"sites": [{"url": "https://c.example/", "method": "POST", "body": "(hidden)"}]}),
            "/sites/0/body",
        ),
    ] {
        let refused = api.send_json(method, &path, Some(&token), &body).await;
        assert!(refused.expect_problem(422).contains("none is stored"), "{refused:?}");
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer);
    }
}

/// Follows the pages of a list of sites; adds a site after each.
async fn read_pages(api: &TestApi, token: &str, path: &str) -> Vec<i64> {
    let (mut path, mut seen) = (path.to_owned(), Vec::new());
    for added in 0.. {
        let page = api.get(&path, Some(token)).await;
        assert_eq!(page.status, 200, "{path}: {page:?}");
        let items = page.json()["items"].as_array().unwrap().clone();
        seen.extend(items.iter().map(|item| item["site_id"].as_i64().unwrap()));
        api.add_site(&format!("https://added-{added}.example/{path}"), &["shop"]).await;
        let Some((next, _)) = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>'))
        else {
            break;
        };
        path = next.to_owned();
    }
    seen
}

#[tokio::test]
async fn pages_of_sites_have_every_site_once_in_any_order_while_sites_are_added() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let mut expected = std::collections::BTreeSet::new();
    for n in 0..12 {
        expected.insert(api.add_site(&format!("https://{}.example/{n}", n % 3), &[]).await);
    }

    for sort in ["created", "-created", "name", "-name", "state", "-state_since", "uptime_7d", "-p95"] {
        let seen = read_pages(&api, &token, &format!("/api/v1/sites?limit=5&sort={sort}")).await;
        let distinct: std::collections::BTreeSet<i64> = seen.iter().copied().collect();
        assert_eq!(distinct.len(), seen.len(), "{sort}: {seen:?}");
        assert!(distinct.is_superset(&expected), "{sort}: {seen:?}");
    }
}

#[tokio::test]
async fn the_list_is_filtered_and_a_limited_token_sees_its_sites_only() {
    let api = TestApi::start().await;
    let (admin, limited) =
        (api.create_admin_token().await, api.create_token(&[Scope::Read], Some(&["shop"])).await);
    let own = api.add_site("https://shop.example/", &["shop"]).await;
    let other = api.add_site("https://blog.example/", &["blog"]).await;
    let count = async |query: &str, token: &str| {
        let list = api.get(&format!("/api/v1/sites?{query}"), Some(token)).await;
        assert_eq!(list.status, 200, "{query}: {list:?}");
        list.json()["items"].as_array().unwrap().len()
    };

    for (query, all, seen) in [
        ("", 2, 1),
        ("tag=blog", 1, 0),
        ("q=blog", 1, 0),
        ("status=unknown", 2, 1),
        ("status=up&status=down", 0, 0),
        ("enabled=false", 0, 0),
        ("region=eu", 2, 1),
    ] {
        assert_eq!((count(query, &admin).await, count(query, &limited).await), (all, seen), "{query}");
    }
    for (query, pointer) in
        [("sort=size", "?sort"), ("status=bad", "?status"), ("cursor=x", "?cursor"), ("limit=0", "?limit")]
    {
        let refused = api.get(&format!("/api/v1/sites?{query}"), Some(&admin)).await;
        refused.expect_problem(422);
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{refused:?}");
    }
    assert_eq!(
        api.get(&format!("/api/v1/sites/{own}/status"), Some(&limited)).await.json()["state"],
        "unknown"
    );
    api.get(&format!("/api/v1/sites/{other}/status"), Some(&limited)).await.expect_problem(404);
}

#[tokio::test]
async fn the_summary_counts_the_sites_of_the_token_by_state() {
    let api = TestApi::start().await;
    let (admin, limited) =
        (api.create_admin_token().await, api.create_token(&[Scope::Read], Some(&["shop"])).await);
    api.add_site("https://shop.example/", &["shop"]).await;
    let paused = api.add_site("https://blog.example/", &["blog"]).await;
    api.send_json(
        Method::PATCH,
        &format!("/api/v1/sites/{paused}"),
        Some(&admin),
        &json!({"enabled": false}),
    )
    .await;

    let all = api.get("/api/v1/summary", Some(&admin)).await.json();
    let own = api.get("/api/v1/summary", Some(&limited)).await.json();

    assert_eq!(
        (&all["sites"], &all["unknown"], &all["paused"], &all["warned"]),
        (&json!(2), &json!(1), &json!(1), &json!(0))
    );
    assert_eq!((&own["sites"], &own["unknown"], &own["paused"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(own["coverage_24h_pct"], json!(null));
}

#[tokio::test]
async fn an_impossible_part_of_a_path_is_refused_by_its_name_value_and_what_is_allowed() {
    let api = TestApi::start().await;
    let token = api.create_token(&[Scope::Admin], None).await;
    for (path, detail) in [
        ("/api/v1/sites/abc", "site: 'abc' is not allowed; allowed: a whole number"),
        ("/api/v1/sites/99999999999999999999", "site: '99999999999999999999' is not allowed"),
        ("/api/v1/sites/abc/ledger", "site: 'abc' is not allowed"),
        ("/api/v1/sites/abc/checks/eu/2026-11-20T12:00:00Z", "site: 'abc' is not allowed"),
        ("/api/v1/sites/%ff", "path: '(unreadable)' is not allowed; allowed: percent-encoded UTF-8"),
        ("/api/v1/maintenance/soon", "id: 'soon' is not allowed"),
        ("/assets/%ff/picket.css", "path: '(unreadable)' is not allowed"),
    ] {
        let told = api.get(path, Some(&token)).await.expect_problem(404);
        assert!(told.contains(detail), "{path}: {told}");
    }
}
