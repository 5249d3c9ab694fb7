//! Live streams under faults: NATS away, clients that never read, a drain.

use std::time::Duration;

use picket_harness::{eventually, proc, servers, sse::SseStream};
use picket_proto::{Outcome, subject};
use serde_json::Value;

use crate::stack::{TEST_TIMEOUT, TestStack, make_result};

#[tokio::test]
async fn without_nats_live_says_so_the_rest_works_and_results_come_again_with_it() {
    let mut stack = TestStack::start().await;
    let api = stack.start_api().await;
    let mut stream = api.follow("?event=result").await;

    stack.nats.stop().await;

    assert_eq!(stream.expect_event("bus").await.data, r#"{"connected":false}"#);
    assert_eq!(api.get("/api/v1/regions").await.status, 200);
    // A stream that begins without NATS says so in its first event.
    let mut late = SseStream::get(api.address, "/api/v1/live").await;
    assert_eq!(late.next_event().await.unwrap().data, r#"{"connected":false}"#);

    stack.nats.start().await;

    assert_eq!(stream.expect_event("bus").await.data, r#"{"connected":true}"#);
    assert_eq!(late.expect_event("bus").await.data, r#"{"connected":true}"#);
    stack.client = async_nats::connect(stack.nats.url()).await.unwrap();
    stack.wait_api_subjects(&["picket.event.>", "picket.result.>"]).await;
    stack.publish_result(1, "eu", Outcome::Up).await;
    stream.expect_event("result").await;
    late.expect_event("result").await;
    drop((stream, late));
    api.drain().await;
}

#[tokio::test]
async fn without_postgres_live_goes_on_and_reads_say_so() {
    let mut postgres = servers::start_postgres().await;
    let stack = TestStack::start_on(postgres.create_database().await).await;
    let api = stack.start_api().await;
    let (_, token) = stack.create_token(None).await;
    let mut stream = api.follow_with(&token, "?event=result").await;
    assert_eq!(stream.expect_event("bus").await.data, r#"{"connected":true}"#);
    stack.wait_api_subjects(&["picket.result.>"]).await;

    postgres.stop().await;

    let (client, base) = (reqwest::Client::new(), format!("http://{}", api.address));
    let get =
        async |path: &str| client.get(format!("{base}{path}")).bearer_auth(&token).send().await.unwrap();
    eventually(TEST_TIMEOUT, "reads to say that the database is away", async || {
        let answer = get("/api/v1/sites").await;
        let is_problem = answer.headers()["content-type"] == "application/problem+json";
        if answer.status() == 503 && is_problem { Ok(()) } else { Err(answer.status()) }
    })
    .await;
    assert_eq!(get("/live").await.status(), 503);
    // Beyond the next comment, before which the rights of the viewer are looked up again.
    let mut delivered = 0;
    while stream.comments == 0 {
        stack.publish_result(delivered, "eu", Outcome::Up).await;
        let event = stream.expect_event("result").await;
        let result: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(result["site_id"].as_i64(), Some(delivered));
        delivered += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stack.publish_result(delivered, "eu", Outcome::Down).await;
    assert!(stream.expect_event("result").await.data.contains(r#""outcome":"down""#));

    postgres.start().await;
    eventually(TEST_TIMEOUT, "reads to recover", async || {
        let status = get("/api/v1/sites").await.status();
        if status.is_success() { Ok(()) } else { Err(status) }
    })
    .await;
    drop(stream);
    api.drain().await;
}

#[tokio::test]
async fn clients_that_never_read_take_bounded_memory_and_nothing_from_their_neighbours() {
    const SILENT_CLIENTS: usize = 200;
    const BUNDLES: i64 = 400;
    const RESULTS_PER_BUNDLE: i64 = 64;
    /// What 25,600 results would take in 200 queues, and more.
    const MAX_GROWTH_KIB: u64 = 100 << 10;
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let mut silent = Vec::new();
    for _ in 0..SILENT_CLIENTS {
        silent.push(api.follow("").await);
    }
    let mut neighbour = api.follow("?event=result").await;
    let before = proc::resident_kib(std::process::id()).unwrap();

    let region = "eu".parse().unwrap();
    let publishing = async {
        for bundle in 0..BUNDLES {
            let first = bundle * RESULTS_PER_BUNDLE;
            let line = |site| serde_json::to_string(&make_result(site, "eu", Outcome::Up)).unwrap();
            let lines: Vec<String> = (first..first + RESULTS_PER_BUNDLE).map(line).collect();
            stack.publish(subject::result_bundle(&region), lines.join("\n").into_bytes()).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reading = async {
        let mut accounted = 0;
        while accounted < BUNDLES * RESULTS_PER_BUNDLE {
            let event = neighbour.next_event().await.unwrap();
            let data: Value = serde_json::from_str(&event.data).unwrap();
            match event.name.as_str() {
                "result" => {
                    assert_eq!(data["site_id"].as_i64(), Some(accounted));
                    accounted += 1;
                }
                // The tests share two cores: the neighbour may be slow, and knows what it lost.
                "lagged" => accounted += data["lost"].as_i64().unwrap(),
                other => panic!("{other}"),
            }
        }
    };
    tokio::join!(publishing, reading);

    let after = proc::resident_kib(std::process::id()).unwrap();
    assert!(after.saturating_sub(before) < MAX_GROWTH_KIB, "{before} KiB before, {after} KiB after");
    assert!(api.metric("picket_api_live_events_lost_total") > 0.0);
    // A client that reads at last gets what was kept, and the number of what was lost.
    let mut late = silent.remove(0);
    let lagged = late.expect_event("lagged").await;
    assert!(serde_json::from_str::<Value>(&lagged.data).unwrap()["lost"].as_i64() > Some(0));
    drop((silent, late, neighbour));
    api.wait_metric("picket_api_live_streams", 0.0).await;
    api.drain().await;
}

#[tokio::test]
async fn a_drain_ends_open_streams_with_a_time_to_return() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = api.follow("").await;
        stream.retry = None;
        streams.push(stream);
    }

    let began = tokio::time::Instant::now();
    api.drain().await;

    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    for mut stream in streams {
        assert_eq!(stream.next_event().await, None);
        assert!(stream.retry.is_some_and(|retry| retry >= 1_000), "{:?}", stream.retry);
    }
    eventually(TEST_TIMEOUT, "no subscription", async || stack.list_api_subjects().await.is_empty()).await;
}
