//! Live streams: subscriptions, filters, tag limits, replay.

use picket_harness::{eventually, sse::SseStream};
use picket_proto::Outcome;
use serde_json::Value;

use crate::stack::{TEST_TIMEOUT, TestStack, make_result};

/// The site and the outcome of the next result.
async fn next_result(stream: &mut SseStream) -> (i64, String) {
    let event = stream.expect_event("result").await;
    let json: Value = serde_json::from_str(&event.data).unwrap();
    (json["site_id"].as_i64().unwrap(), json["outcome"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn viewers_share_a_subscription_that_is_opened_with_the_first_and_closed_with_the_last() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    assert_eq!(stack.list_api_subjects().await, Vec::<String>::new());

    let mut viewers = Vec::new();
    for _ in 0..50 {
        viewers.push(api.follow("").await);
    }
    assert_eq!(stack.list_api_subjects().await, ["picket.event.>", "picket.result.>"]);
    stack.publish_result(1, "eu", Outcome::Up).await;
    for viewer in &mut viewers {
        assert_eq!(next_result(viewer).await, (1, "up".to_owned()));
    }
    api.wait_metric("picket_api_live_streams", 50.0).await;

    drop(viewers);
    stack.wait_api_subjects(&[]).await;
    api.wait_metric("picket_api_live_streams", 0.0).await;
    api.drain().await;
}

#[tokio::test]
async fn a_stream_has_the_headers_that_proxies_need_and_a_time_to_return() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;

    let stream = api.follow("").await;

    for line in ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"] {
        assert!(stream.has_header(line), "{line} in {}", stream.head);
    }
    assert!(stream.retry.is_some_and(|retry| retry >= 1_000));
    drop(stream);
    api.drain().await;
}

#[tokio::test]
async fn a_stream_of_one_site_subscribes_to_its_shard_and_to_bundles() {
    let stack = TestStack::start().await;
    stack
        .run_sql("INSERT INTO picket.sites (url) VALUES ('http://one.example'), ('http://two.example')")
        .await;
    let shard = stack.query_number("SELECT shard::bigint FROM picket.sites WHERE id = 1").await;
    let api = stack.start_api().await;

    let mut stream = api.follow("?site=1&event=result").await;
    let expected = [format!("picket.result.*.{shard}"), "picket.result.*.bundle".to_owned()];
    assert_eq!(stack.list_api_subjects().await, expected);

    let lines = [2, 1].map(|site| serde_json::to_string(&make_result(site, "eu", Outcome::Up)).unwrap());
    stack.publish("picket.result.eu.bundle".to_owned(), lines.join("\n").into_bytes()).await;
    assert_eq!(next_result(&mut stream).await, (1, "up".to_owned()));

    let missing = api.get("/api/v1/live?site=99").await;
    assert_eq!(missing.status, 404, "{}", missing.body);
    drop(stream);
    api.drain().await;
}

#[tokio::test]
async fn a_viewer_gets_what_its_filter_admits_and_nothing_else() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let mut down_in_us = api.follow("?region=us&outcome=down").await;
    let mut changes = api.follow("?changes=true&event=result").await;

    for (site, region, outcome) in [
        (1, "us", Outcome::Up),
        (1, "eu", Outcome::Down),
        (1, "us", Outcome::Down),
        (1, "us", Outcome::Down),
        (2, "us", Outcome::Down),
        (1, "us", Outcome::Up),
    ] {
        stack.publish_result(site, region, outcome).await;
    }

    for expected in [1, 1, 2] {
        assert_eq!(next_result(&mut down_in_us).await, (expected, "down".to_owned()));
    }
    for expected in [(1, "down"), (1, "down"), (2, "down"), (1, "up")] {
        assert_eq!(next_result(&mut changes).await, (expected.0, expected.1.to_owned()));
    }
    drop((down_in_us, changes));
    api.drain().await;
}

#[tokio::test]
async fn a_filter_by_tag_follows_the_tags_of_sites() {
    let stack = TestStack::start().await;
    stack
        .run_sql("INSERT INTO picket.sites (url, tags) VALUES ('http://one.example', '{shop}'), ('http://two.example', '{}')")
        .await;
    let api = stack.start_api().await;
    let mut stream = api.follow("?tag=shop&event=result").await;

    // The tags are read while the first results come.
    assert_eq!(publish_until_seen(&stack, &mut stream, 1).await, 1);
    stack.run_sql("UPDATE picket.sites SET tags = '{blog,shop}' WHERE id = 2").await;
    assert_eq!(publish_until_seen(&stack, &mut stream, 2).await, 2);
    stack.run_sql("UPDATE picket.sites SET tags = '{}' WHERE id = 1; INSERT INTO picket.sites (url, tags) VALUES ('http://three.example', '{shop}')").await;
    assert_eq!(publish_until_seen(&stack, &mut stream, 3).await, 3);
    stack.publish_result(1, "eu", Outcome::Up).await;
    stack.publish_result(2, "eu", Outcome::Down).await;
    loop {
        match next_result(&mut stream).await {
            (2, outcome) if outcome == "down" => break,
            (2 | 3, _) => {}
            other => panic!("{other:?}"),
        }
    }
    drop(stream);
    api.drain().await;
}

/// Publishes results of a site until one of them comes.
async fn publish_until_seen(stack: &TestStack, stream: &mut SseStream, site: i64) -> i64 {
    let publishing = async {
        loop {
            stack.publish_result(site, "eu", Outcome::Up).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let seeing = async {
        loop {
            let (found, _) = next_result(stream).await;
            if found == site {
                return found;
            }
        }
    };
    tokio::select! {
        () = publishing => unreachable!("publishing has no end"),
        found = seeing => found,
    }
}

#[tokio::test]
async fn a_result_on_a_wrong_subject_and_an_undecodable_one_are_counted_and_not_shown() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let mut stream = api.follow("?event=result").await;
    let of_eu = serde_json::to_vec(&make_result(1, "eu", Outcome::Down)).unwrap();

    stack.publish("picket.result.us.7".to_owned(), of_eu).await;
    stack.publish("picket.result.eu.7".to_owned(), b"{".to_vec()).await;
    stack.publish_result(2, "eu", Outcome::Up).await;

    assert_eq!(next_result(&mut stream).await, (2, "up".to_owned()));
    assert_eq!(api.metric("picket_api_live_unusable_messages_total"), 2.0);
    drop(stream);
    api.drain().await;
}

#[tokio::test]
async fn a_client_that_returns_gets_the_incidents_of_its_absence_and_no_results() {
    let stack = TestStack::start().await;
    stack.run_sql("INSERT INTO picket.sites (url, name) VALUES ('http://one.example', 'shop')").await;
    let api = stack.start_api().await;
    let last_id = SseStream::get(api.address, "/api/v1/live").await.expect_event("bus").await.id.unwrap();
    stack
        .run_sql(
            "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, regions)
             VALUES (1, now() - interval '1 min', now() - interval '2 min', 'tls', '{eu}');
             UPDATE picket.incidents SET closed_at = now();",
        )
        .await;
    let header = format!("Last-Event-ID: {last_id}");
    let mut stream = SseStream::open(api.address, "GET", "/api/v1/live", &[&header], "").await.unwrap();

    assert_eq!(stream.next_event().await.unwrap().name, "bus");
    let key =
        stack.query_text("SELECT picket.incident_key(incident) FROM picket.incidents AS incident").await;
    for (kind, suffix) in [("incident.opened", "opened"), ("incident.closed", "closed")] {
        let event = stream.next_event().await.unwrap();
        assert_eq!(event.name, "incident");
        let json: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!((json["event"].as_str(), json["site"].as_str()), (Some(kind), Some("shop")));
        assert_eq!(json["id"].as_str(), Some(format!("{key}.{suffix}").as_str()));
    }
    // The replayed event is the published one.
    let published = stack
        .query_text("SELECT payload::text FROM picket.outbox WHERE subject LIKE '%.opened' LIMIT 1")
        .await;
    let published: Value = serde_json::from_str(&published).unwrap();
    let mut replayed = SseStream::open(api.address, "GET", "/api/v1/live", &[&header], "").await.unwrap();
    let replayed: Value = serde_json::from_str(&replayed.expect_event("incident").await.data).unwrap();
    assert_eq!(replayed, published);
    drop(stream);
    api.drain().await;
}

#[tokio::test]
async fn a_refused_filter_names_the_parameter() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;

    let refusal = api.get("/api/v1/live?outcome=best").await;

    assert_eq!(refusal.status, 422);
    assert!(
        refusal.body.contains("outcome: 'best' is not allowed; allowed: up, down or missed"),
        "{}",
        refusal.body
    );
    api.drain().await;
}

#[tokio::test]
async fn an_event_of_the_bus_comes_with_its_place_in_the_stream() {
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let mut stream = api.follow("?event=region").await;
    let silent = r#"{"v":1,"id":"a","event":"region.silent","region":"eu","since":"2026-11-20T12:00:00.000000Z","at":"2026-11-20T12:00:20.000000Z"}"#;

    stack.publish("picket.event.region.silent".to_owned(), silent.into()).await;

    eventually(TEST_TIMEOUT, "the event to be delivered", async || {
        let delivered = api.metric("picket_api_live_events_delivered_total");
        let unusable = api.metric("picket_api_live_unusable_messages_total");
        if delivered == 1.0 { Ok(()) } else { Err((delivered, unusable)) }
    })
    .await;
    let event = stream.expect_event("region").await;
    let (sent, received): (Value, Value) =
        (serde_json::from_str(silent).unwrap(), serde_json::from_str(&event.data).unwrap());
    assert_eq!(received, sent);
    assert!(event.id.is_some());
    drop(stream);
    api.drain().await;
}

#[tokio::test]
async fn a_token_with_a_tag_limit_sees_its_sites_only() {
    let stack = TestStack::start().await;
    stack
        .run_sql("INSERT INTO picket.sites (url, tags) VALUES ('http://one.example', '{shop}'), ('http://two.example', '{blog}')")
        .await;
    let (_, token) = stack.create_token(Some(&["shop"])).await;
    let api = stack.start_api().await;

    assert_eq!(api.follow_with(&token, "?site=2").await.status(), 404);
    let mut stream = api.follow_with(&token, "?event=result").await;
    assert_eq!(stream.status(), 200);
    let mut all = {
        let (_, token) = stack.create_token(None).await;
        api.follow_with(&token, "?event=result").await
    };
    publish_until_seen(&stack, &mut stream, 1).await;
    stack.publish_result(2, "eu", Outcome::Down).await;
    stack.publish_result(1, "eu", Outcome::Down).await;

    loop {
        match next_result(&mut stream).await {
            (1, outcome) if outcome == "down" => break,
            (1, _) => {}
            other => panic!("{other:?}"),
        }
    }
    // A token for all sites gets the other one as well.
    while next_result(&mut all).await != (2, "down".to_owned()) {}
    drop((stream, all));
    api.drain().await;
}

#[tokio::test]
async fn the_stream_of_a_revoked_token_ends_within_a_minute() {
    let stack = TestStack::start().await;
    let (id, token) = stack.create_token(None).await;
    let (_, other) = stack.create_token(None).await;
    let api = stack.start_api().await;
    let mut revoked = api.follow_with(&token, "").await;
    let mut kept = api.follow_with(&other, "").await;

    stack.revoke_token(id).await;

    revoked.expect_event("closed").await;
    assert_eq!(revoked.next_event().await, None);
    stack.publish_result(1, "eu", Outcome::Up).await;
    kept.expect_event("result").await;
    drop(kept);
    api.drain().await;
}

#[tokio::test]
async fn a_token_has_eight_streams_and_others_have_theirs() {
    let stack = TestStack::start().await;
    let (_, token) = stack.create_token(None).await;
    let (_, other) = stack.create_token(None).await;
    let api = stack.start_api().await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(api.follow_with(&token, "").await);
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));

    let ninth = api.follow_with(&token, "").await;

    assert_eq!(ninth.status(), 429, "{}", ninth.head);
    assert!(ninth.head.to_lowercase().contains("retry-after: "), "{}", ninth.head);
    assert_eq!(api.follow_with(&other, "").await.status(), 200);
    drop(streams);
    eventually(TEST_TIMEOUT, "room for another stream", async || {
        api.follow_with(&token, "").await.status() == 200
    })
    .await;
    api.drain().await;
}
