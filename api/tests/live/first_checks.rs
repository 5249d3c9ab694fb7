//! The first check of a new site, requested when it is added.

use futures_util::StreamExt;
use picket_harness::targets::Target;
use picket_proto::{CheckKind, CheckResult, Outcome, subject};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::stack::{TEST_TIMEOUT, TestApi, TestStack};

async fn send(api: &TestApi, method: reqwest::Method, path: &str, body: &Value) -> (u16, Value) {
    let request = reqwest::Client::new()
        .request(method, format!("http://{}{path}", api.address))
        .header("content-type", "application/json")
        .body(body.to_string());
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
}

#[tokio::test]
async fn a_new_site_is_checked_at_once_in_its_regions_by_its_definition() {
    let target = Target::serve_http().await;
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let probers = [stack.start_prober("eu").await, stack.start_prober("us").await];
    let mut results = stack.client.subscribe("picket.result.*.adhoc").await.unwrap();
    stack.client.flush().await.unwrap();
    // A tick would be due in an hour; the regex proves that the definition is used and not only its URL.
    let body =
        json!({"url": target.url("/ok"), "interval": "1h", "regions": ["us"], "regex": "not in the body"});

    let (status, site) = send(&api, reqwest::Method::POST, "/api/v1/sites", &body).await;

    assert_eq!(status, 201, "{site}");
    let message = timeout(TEST_TIMEOUT, results.next()).await.expect("a result in time").unwrap();
    let result = CheckResult::decode(&message.payload).unwrap();
    assert_eq!(message.subject.as_str(), subject::adhoc_result(&"us".parse().unwrap()));
    assert_eq!(result.id, format!("first-check-of-site-{}", site["id"]));
    assert_eq!((result.kind, result.outcome, result.site_id), (CheckKind::Adhoc, Outcome::Down, None));
    // Such an id can be guessed, so a reader of some sites does not find results by it.
    let (_, token) = stack.create_token(Some(&["other"])).await;
    let guess = format!("http://{}/api/v1/checks/{}", api.address, result.id);
    let guessed = reqwest::Client::new().get(guess).bearer_auth(token).send().await.unwrap();
    assert_eq!(guessed.status(), 403);
    for prober in probers {
        prober.drain().await;
    }
    api.drain().await;
}

#[tokio::test]
async fn of_a_large_definition_a_bounded_number_of_sites_is_checked_at_once() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    // A region that takes requests and never answers, so that none of them ends.
    let _requests = stack.client.subscribe("picket.check.eu").await.unwrap();
    stack.client.flush().await.unwrap();
    let sites: Vec<Value> =
        (0..30).map(|n| json!({"url": format!("http://{n}.example/"), "regions": ["eu"]})).collect();

    let (status, applied) = send(&api, reqwest::Method::PUT, "/api/v1/sites", &json!({"sites": sites})).await;

    assert_eq!((status, applied["added"].as_array().map(Vec::len)), (200, Some(30)), "{applied}");
    api.wait_metric("picket_api_first_checks_total{outcome=\"requested\"}", 20.0).await;
    assert_eq!(api.metric("picket_api_first_checks_total{outcome=\"too_many\"}"), 10.0);
    let (_, paused) = send(
        &api,
        reqwest::Method::POST,
        "/api/v1/sites",
        &json!({"url": "http://paused.example/", "enabled": false}),
    )
    .await;
    assert_eq!(paused["enabled"], false, "{paused}");
    assert_eq!(api.metric("picket_api_first_checks_total"), 30.0);
    // Requests that wait for their replies do not hold up the end of the process.
    api.drain().await;
}

#[tokio::test]
async fn without_nats_a_site_is_added_all_the_same() {
    let mut stack = TestStack::start().await;
    let api = stack.start_api().await;
    stack.nats.stop().await;
    api.wait_metric("picket_nats_connected", 0.0).await;

    let (status, site) =
        send(&api, reqwest::Method::POST, "/api/v1/sites", &json!({"url": "http://x.example/"})).await;

    assert_eq!(status, 201, "{site}");
    assert_eq!(api.metric("picket_api_first_checks_total{outcome=\"bus_away\"}"), 1.0);
    api.drain().await;
}
