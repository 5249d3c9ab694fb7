//! Ad-hoc checks through the API.

use picket_harness::{eventually, sse::SseStream, targets::Target};
use serde_json::{Value, json};

use crate::stack::{TEST_TIMEOUT, TestApi, TestStack};

async fn post_check(api: &TestApi, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::new();
    let request = client.post(format!("http://{}/api/v1/checks", api.address)).body(body.to_string());
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
}

#[tokio::test]
async fn a_check_has_one_reply_a_region_also_of_regions_without_probers() {
    let target = Target::serve_http().await;
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let prober = stack.start_prober("eu").await;

    let (status, answers) = post_check(&api, &json!({"url": target.url("/ok")})).await;

    assert_eq!(status, 200, "{answers}");
    let [eu, us] = answers["results"].as_array().unwrap().as_slice() else { panic!("{answers}") };
    assert_eq!((eu["region"].as_str(), eu["state"].as_str()), (Some("eu"), Some("answered")));
    assert_eq!((eu["result"]["outcome"].as_str(), &eu["result"]["id"]), (Some("up"), &answers["id"]));
    assert_eq!((us["region"].as_str(), us["state"].as_str()), (Some("us"), Some("no_active_probers")));
    assert!(us["message"].as_str().unwrap().contains("no active probers"), "{us}");

    let (_, answers) = post_check(&api, &json!({"url": target.url("/status/500"), "regions": ["eu"]})).await;
    assert_eq!(answers["results"].as_array().map(Vec::len), Some(1));
    assert_eq!(answers["results"][0]["result"]["cause"], "status");
    prober.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn replies_are_streamed_as_they_come() {
    let target = Target::serve_http().await;
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let probers = [stack.start_prober("eu").await, stack.start_prober("us").await];
    let body = json!({"url": target.url("/ok")}).to_string();

    let mut stream =
        SseStream::open(api.address, "POST", "/api/v1/checks", &["Accept: text/event-stream"], &body)
            .await
            .unwrap();

    let mut regions = Vec::new();
    let end = loop {
        let event = stream.next_event().await.unwrap();
        let data: Value = serde_json::from_str(&event.data).unwrap();
        match event.name.as_str() {
            "reply" => {
                assert_eq!(data["result"]["outcome"], "up");
                regions.push(data["region"].as_str().unwrap().to_owned());
            }
            other => break (other.to_owned(), data),
        }
    };
    regions.sort();
    assert_eq!(regions, ["eu", "us"]);
    assert_eq!((end.0.as_str(), &end.1["regions"], &end.1["error"]), ("end", &json!(2), &Value::Null));
    assert_eq!(stream.next_event().await, None);
    for prober in probers {
        prober.drain().await;
    }
    api.drain().await;
}

#[tokio::test]
async fn a_private_address_is_refused_as_the_prober_does_and_nothing_is_said_of_the_target() {
    let target = Target::serve_http().await;
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let prober = stack.start_prober_with("eu", &[]).await;

    let (_, answers) = post_check(&api, &json!({"url": target.url("/ok"), "regions": ["eu"]})).await;

    let result = &answers["results"][0]["result"];
    assert_eq!(
        (result["outcome"].as_str(), result["cause"].as_str()),
        (Some("missed"), Some("blocked")),
        "{answers}"
    );
    prober.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn an_invalid_check_is_refused_by_its_field() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;

    for (body, pointer) in [
        (json!({"url": "ftp://x"}), "/url"),
        (json!({"url": "http://x", "timeout_ms": 1}), "/timeout_ms"),
        (json!({"url": "http://x", "regex": "("}), "/regex"),
        (json!({"url": "http://x", "site_id": 1}), "/site_id"),
        (json!({"url": "http://x", "regions": [7]}), "/regions"),
    ] {
        let (status, problem) = post_check(&api, &body).await;
        assert_eq!((status, problem["errors"][0]["pointer"].as_str()), (422, Some(pointer)), "{problem}");
    }
    api.drain().await;
}

#[tokio::test]
async fn stored_results_are_found_by_the_id_of_the_check() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let id = "6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33";
    stack
        .run_sql(&format!(
            "INSERT INTO picket.adhoc_results (requested_at, started_at, id, region, prober, url, outcome, cause,
                                               http_status, total_us, body_bytes, warnings, details)
             VALUES ('2026-11-20T12:00:00Z', '2026-11-20T12:00:00.5Z', '{id}', 'eu', 'p', 'http://x/', 'down', 'status',
                     503, 1500, 12, NULL, '{{\"a\": 1}}')"
        ))
        .await;

    let found = api.get(&format!("/api/v1/checks/{id}")).await;

    let json: Value = serde_json::from_str(&found.body).unwrap();
    let result = &json["results"][0];
    assert_eq!(
        (result["cause"].as_str(), result["http_status"].as_i64()),
        (Some("status"), Some(503)),
        "{json}"
    );
    assert_eq!((&result["timing"]["total_us"], &result["details"]["a"]), (&json!(1500), &json!(1)));
    assert_eq!(api.get("/api/v1/checks/unknown").await.status, 404);
    api.drain().await;
}

#[tokio::test]
async fn a_hasty_client_is_told_when_to_return() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;

    let mut refused = None;
    for _ in 0..31 {
        let (status, problem) = post_check(&api, &json!({"url": "no url"})).await;
        if status == 429 {
            refused = Some(problem);
        }
    }

    let problem = refused.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("30 ad-hoc checks a minute"), "{problem}");
    assert!(problem["retry_after"].as_u64() > Some(0), "{problem}");
    api.drain().await;
}

#[tokio::test]
async fn without_nats_a_check_is_refused_at_once() {
    let mut stack = TestStack::start().await;
    let api = stack.start_api().await;
    stack.nats.stop().await;
    api.wait_metric("picket_nats_connected", 0.0).await;

    let problem = eventually(TEST_TIMEOUT, "the refusal", async || {
        let (status, problem) = post_check(&api, &json!({"url": "http://x"})).await;
        if status == 503 { Ok(problem) } else { Err(problem) }
    })
    .await;

    assert_eq!(problem["type"], "/api#bus-unavailable");
    api.drain().await;
}
