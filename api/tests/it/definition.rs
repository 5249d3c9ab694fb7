//! The whole definition of the sites.

use std::pin::pin;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{runtime, task::spawn_blocking};

use crate::support::{Answer, TestApi};

pub(crate) async fn put(api: &TestApi, token: &str, query: &str, body: &Value) -> Answer {
    api.send_json(Method::PUT, &format!("/api/v1/sites{query}"), Some(token), body).await
}

pub(crate) async fn list_urls(api: &TestApi) -> Vec<String> {
    sqlx::query_scalar("SELECT url FROM picket.sites ORDER BY url").fetch_all(&api.pool).await.unwrap()
}

#[tokio::test]
async fn a_dry_run_answers_as_the_run_and_changes_nothing() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    for site in ["a", "b", "c"] {
        api.add_site(&format!("https://{site}.example/"), &[]).await;
    }
    let body = json!({
        "regions": ["us"],
        "sites": [
            {"url": "https://a.example/"}, {"url": "https://b.example/", "interval": "30s", "assertions": {"warn_after_ms": 900}},
            {"url": "https://d.example/", "name": "new", "regions": ["us"]},
        ],
    });

    let planned = put(&api, &token, "?dry_run=true&prune=true", &body).await;
    assert_eq!(planned.status, 200, "{planned:?}");
    assert_eq!(list_urls(&api).await, ["https://a.example/", "https://b.example/", "https://c.example/"]);
    let applied = put(&api, &token, "?prune=true", &body).await;
    assert_eq!(list_urls(&api).await, ["https://a.example/", "https://b.example/", "https://d.example/"]);

    let (planned, mut applied) = (planned.json(), applied.json());
    assert_eq!(planned["regions"], json!(["us"]));
    assert_eq!(planned["changed"][0]["fields"], json!(["assertions.warn_after_ms", "interval_seconds"]));
    assert_eq!(
        (&planned["removed"][0]["url"], &planned["unchanged"]),
        (&json!("https://c.example/"), &json!(1))
    );
    assert!(applied["added"][0]["id"].is_i64(), "{applied}");
    applied["added"][0]["id"] = Value::Null;
    applied["dry_run"] = true.into();
    assert_eq!(planned, applied);

    let again = put(&api, &token, "?prune=true", &body).await.json();
    assert_eq!(
        (&again["added"], &again["changed"], &again["unchanged"]),
        (&json!([]), &json!([]), &json!(3))
    );
}

#[tokio::test]
async fn a_definition_with_an_error_changes_nothing_and_names_every_error() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    api.add_site("https://a.example/", &[]).await;

    for (body, pointers) in [
        (
            json!({"sites": [{"url": "https://b.example/"}, {"url": "x"}, {"url": "https://c.example/", "quorum": 0}]}),
            vec!["/sites/1/url", "/sites/2/quorum"],
        ),
        (
            json!({"sites": [{"url": "https://b.example/", "regions": ["eu", "mars"]}]}),
            vec!["/sites/0/regions/1"],
        ),
        (json!({}), vec!["/sites"]),
    ] {
        let refused = put(&api, &token, "?prune=true", &body).await;
        refused.expect_problem(422);
        let problem = refused.json();
        let found: Vec<&str> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["pointer"].as_str().unwrap())
            .collect();
        assert_eq!(found, pointers, "{problem}");
    }
    assert_eq!(list_urls(&api).await, ["https://a.example/"]);
}

#[tokio::test]
async fn a_definition_of_several_mebibytes_is_applied() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let body = "x".repeat(60_000);
    let sites: Vec<Value> = (0..40)
        .map(|n| json!({"url": format!("https://{n}.example/"), "method": "POST", "body": body}))
        .collect();

    let applied = put(&api, &token, "", &json!({"sites": sites})).await;

    assert_eq!(applied.status, 200, "{}", applied.text);
    assert_eq!(list_urls(&api).await.len(), 40);
}

/// Occupies the only thread for work that blocks, so that the comparison of a definition waits for it.
#[test]
fn other_requests_are_answered_while_the_regexes_of_a_definition_are_compiled() {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let api = TestApi::start().await;
        let token = api.create_admin_token().await;
        let definition = json!({"sites": [{"url": "https://a.example/", "regex": "a\\w{20}"}]});
        let (release, held) = std::sync::mpsc::channel::<()>();
        let occupying = spawn_blocking(move || held.recv());

        let mut applying = pin!(put(&api, &token, "?dry_run=true", &definition));
        for _ in 0..100 {
            tokio::select! {
                biased;
                applied = &mut applying => panic!("compiled on the thread of all requests: {}", applied.text),
                me = api.get("/api/v1/me", Some(&token)) => assert_eq!(me.status, 200),
            }
        }

        release.send(()).unwrap();
        occupying.await.unwrap().unwrap();
        let applied = applying.await;
        assert_eq!(applied.status, 200, "{}", applied.text);
    });
}
