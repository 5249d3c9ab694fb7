//! Sites as a token that is limited to tags may see, change and remove them.

use picket_store::api_tokens::Scope;
use reqwest::Method;
use serde_json::json;

use crate::{
    definition::{list_urls, put},
    support::{TestApi, send},
};

#[tokio::test]
async fn a_token_limited_to_tags_sees_and_changes_only_its_sites_and_lets_none_leave() {
    let api = TestApi::start().await;
    let token = api.create_token(&[Scope::Read, Scope::Write], Some(&["shop", "blog"])).await;
    let own = api.add_site("https://a.example/", &["shop", "other"]).await;
    let foreign = api.add_site("https://b.example/", &["other"]).await;
    let path = |id: i64| format!("/api/v1/sites/{id}");

    assert_eq!(api.get(&path(own), Some(&token)).await.status, 200);
    for method in [Method::GET, Method::DELETE] {
        send(api.request(method, &path(foreign), Some(&token))).await.expect_problem(404);
    }
    for method in [Method::PUT, Method::PATCH] {
        let body = json!({"url": "https://b.example/", "tags": ["shop"]});
        api.send_json(method, &path(foreign), Some(&token), &body).await.expect_problem(404);
    }
    for (method, path, body) in [
        (Method::POST, "/api/v1/sites".to_owned(), json!({"url": "https://c.example/"})),
        (Method::POST, "/api/v1/sites".to_owned(), json!({"url": "https://c.example/", "tags": ["other"]})),
        (Method::PATCH, path(own), json!({"tags": ["other"]})),
        (Method::PUT, path(own), json!({"url": "https://a.example/"})),
    ] {
        let refused = api.send_json(method, &path, Some(&token), &body).await;
        assert!(refused.expect_problem(403).contains("at least one of shop, blog"), "{refused:?}");
        assert_eq!(refused.json()["errors"][0]["pointer"], "/tags");
    }
    // Tags of others stay as they are.
    for (method, path, tags, part) in [
        (
            Method::PATCH,
            path(own),
            json!(["blog", "other", "new"]),
            "'new' is not allowed; allowed: shop, blog",
        ),
        (Method::PATCH, path(own), json!(["blog"]), "other as well"),
        (Method::PUT, path(own), json!(["shop", "victim"]), "'victim' is not allowed"),
        (Method::POST, "/api/v1/sites".to_owned(), json!(["shop", "victim"]), "'victim' is not allowed"),
    ] {
        let body = json!({"url": "https://a.example/new", "tags": tags});
        let refused = api.send_json(method, &path, Some(&token), &body).await;
        assert!(refused.expect_problem(403).contains(part), "{refused:?}");
        assert_eq!(refused.json()["errors"][0]["pointer"], "/tags");
    }
    let moved =
        api.send_json(Method::PATCH, &path(own), Some(&token), &json!({"tags": ["blog", "other"]})).await;
    assert_eq!(moved.json()["tags"], json!(["blog", "other"]), "{moved:?}");
    let renamed = api.send_json(Method::PATCH, &path(own), Some(&token), &json!({"name": "own"})).await;
    assert_eq!(renamed.status, 200, "{renamed:?}");
}

#[tokio::test]
async fn a_token_limited_to_tags_removes_no_site_that_has_a_tag_of_others() {
    let api = TestApi::start().await;
    let token = api.create_token(&[Scope::Read, Scope::Write], Some(&["shop", "blog"])).await;
    let own = api.add_site("https://own.example/", &["shop", "blog"]).await;
    let shared = api.add_site("https://shared.example/", &["shop", "premium"]).await;
    let remove = |id: i64| send(api.request(Method::DELETE, &format!("/api/v1/sites/{id}"), Some(&token)));

    let refused = remove(shared).await;
    assert!(refused.expect_problem(403).contains("the tag 'premium' as well"), "{refused:?}");
    assert_eq!(api.get(&format!("/api/v1/sites/{shared}"), Some(&token)).await.status, 200);
    assert_eq!(remove(own).await.status, 204);
    let admin = api.create_admin_token().await;
    let removed = send(api.request(Method::DELETE, &format!("/api/v1/sites/{shared}"), Some(&admin))).await;
    assert_eq!(removed.status, 204, "{removed:?}");
}

#[tokio::test]
async fn a_token_limited_to_tags_drops_no_tags_of_a_site_that_cannot_be_read() {
    let api = TestApi::start().await;
    let (admin, limited) = (
        api.create_admin_token().await,
        api.create_token(&[Scope::Read, Scope::Write], Some(&["shop"])).await,
    );
    let site = api.add_site("https://a.example/", &["shop", "premium"]).await;
    store_unreadable_options(&api).await;
    let path = format!("/api/v1/sites/{site}");
    let fields = json!({"url": "https://a.example/", "tags": ["shop"]});
    let definition = json!({"sites": [fields]});

    for (method, path, body) in [
        (Method::PUT, path.as_str(), &fields),
        (Method::DELETE, &path, &json!({})),
        (Method::PUT, "/api/v1/sites", &definition),
    ] {
        let refused = api.send_json(method, path, Some(&limited), body).await;
        assert!(refused.expect_problem(409).contains("cannot be read, nor its tags"), "{refused:?}");
    }
    let pruned =
        api.send_json(Method::PUT, "/api/v1/sites?prune=true", Some(&limited), &json!({"sites": []})).await;
    assert_eq!(pruned.json()["kept_shared"][0]["id"], site, "{pruned:?}");
    let tags: Vec<String> =
        sqlx::query_scalar("SELECT tags FROM picket.sites").fetch_one(&api.pool).await.unwrap();
    assert_eq!(tags, ["shop", "premium"]);

    let replaced = api.send_json(Method::PUT, &path, Some(&admin), &fields).await;
    assert_eq!(replaced.json()["tags"], json!(["shop"]), "{replaced:?}");
}

/// Gives all sites a value that SQL takes without the triggers, and that no version knows.
async fn store_unreadable_options(api: &TestApi) {
    let mut transaction = api.pool.begin().await.unwrap();
    for sql in [
        "SET LOCAL session_replication_role = replica",
        "UPDATE picket.sites SET options = '{\"unknown\": 1}'",
    ] {
        sqlx::query(sql).execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_token_limited_to_tags_prunes_only_its_sites_and_adds_no_region() {
    let api = TestApi::start().await;
    let token = api.create_token(&[Scope::Write], Some(&["shop"])).await;
    api.add_site("https://own.example/", &["shop"]).await;
    api.add_site("https://other.example/", &["blog"]).await;
    let wanted = json!({"sites": [{"url": "https://new.example/", "tags": ["shop"]}]});

    let mut with_region = wanted.clone();
    with_region["regions"] = json!(["us"]);
    put(&api, &token, "?prune=true", &with_region).await.expect_problem(403);
    let untagged =
        json!({"sites": [{"url": "https://new.example/", "tags": ["shop"]}, {"url": "https://b.example/"}]});
    let refused = put(&api, &token, "?prune=true", &untagged).await;
    refused.expect_problem(403);
    assert_eq!(refused.json()["errors"][0]["pointer"], "/sites/1/tags");
    // The tags are judged before anything that costs time.
    let unreadable = json!({"sites": [{"url": "x", "regex": "a(b", "tags": ["blog"]}]});
    put(&api, &token, "", &unreadable).await.expect_problem(403);
    for tags in [json!(["shop", "victim"]), json!(["victim", "shop"])] {
        for url in ["https://own.example/", "https://new.example/"] {
            let sites =
                json!([{"url": "https://first.example/", "tags": ["shop"]}, {"url": url, "tags": tags}]);
            let refused = put(&api, &token, "", &json!({"sites": sites})).await;
            assert!(refused.expect_problem(403).contains("'victim' is not allowed"), "{refused:?}");
            assert_eq!(refused.json()["errors"][0]["pointer"], "/sites/1/tags");
        }
    }
    let taken = json!({"sites": [{"url": "https://other.example/", "tags": ["shop"]}]});
    put(&api, &token, "", &taken).await.expect_problem(409);
    assert_eq!(list_urls(&api).await, ["https://other.example/", "https://own.example/"]);

    let applied = put(&api, &token, "?prune=true", &wanted).await;

    assert_eq!(applied.status, 200, "{applied:?}");
    assert_eq!(applied.json()["removed"].as_array().unwrap().len(), 1);
    assert_eq!(list_urls(&api).await, ["https://new.example/", "https://other.example/"]);
}

#[tokio::test]
async fn a_token_limited_to_tags_prunes_no_site_that_has_a_tag_of_others() {
    let api = TestApi::start().await;
    let token = api.create_token(&[Scope::Write], Some(&["shop"])).await;
    let own = api.add_site("https://own.example/", &["shop"]).await;
    let shared = api.add_site("https://shared.example/", &["shop", "premium"]).await;
    let none = json!({"sites": []});

    let planned = put(&api, &token, "?dry_run=true&prune=true", &none).await.json();
    let applied = put(&api, &token, "?prune=true", &none).await.json();

    for answer in [&planned, &applied] {
        assert_eq!(answer["removed"], json!([{"id": own, "url": "https://own.example/"}]), "{answer}");
        let kept = json!([{"id": shared, "url": "https://shared.example/", "name": null}]);
        assert_eq!(answer["kept_shared"], kept, "{answer}");
    }
    assert_eq!(list_urls(&api).await, ["https://shared.example/"]);
    let admin = api.create_admin_token().await;
    let pruned = put(&api, &admin, "?prune=true", &none).await.json();
    assert_eq!(
        (&pruned["removed"][0]["id"], &pruned["kept_shared"]),
        (&json!(shared), &json!([])),
        "{pruned}"
    );
}

#[tokio::test]
async fn a_form_removes_no_site_that_has_a_tag_of_others() {
    let api = TestApi::start().await;
    let token = api.create_token(&[Scope::Read, Scope::Write], Some(&["shop"])).await;
    let mut marked = String::new();
    for (name, tags) in [("own", &["shop"][..]), ("shared", &["shop", "premium"])] {
        let id = api.add_site(&format!("https://{name}.example/"), tags).await;
        let site = api.get(&format!("/api/v1/sites/{id}"), Some(&token)).await.json();
        marked.push_str(&format!("site={id}:{}&", site["version"].as_str().unwrap()));
    }
    let post = |action: &str| {
        let request = api.request(Method::POST, "/sites/bulk", Some(&token));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        send(request.body(format!("{marked}action={action}")))
    };

    let refused = post("remove").await;

    assert_eq!(refused.status, 403, "{}", refused.text);
    assert!(refused.text.contains("premium"), "{}", refused.text);
    assert_eq!(list_urls(&api).await, ["https://own.example/", "https://shared.example/"]);
    assert_eq!(post("pause").await.status, 303);
}
