//! Ad-hoc requests: answered by the service, and stored.

use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt;
use picket_harness::{eventually, targets::Target};
use picket_proto::{Cause, CheckKind, CheckResult, Outcome, subject};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::bus::{STATE_TIMEOUT, TestRegion};

async fn send_request(place: &TestRegion, to: String, payload: String) -> Message {
    timeout(STATE_TIMEOUT, place.bus.client.request(to, payload.into())).await.unwrap().unwrap()
}

fn parse_json(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

#[tokio::test]
async fn a_request_is_answered_with_the_result_and_the_result_is_stored() {
    let (place, target) = (TestRegion::on_shared_nats("req-answered").await, Target::serve_http().await);
    let _prober = place.start_ready_prober("one", 10).await;

    let answer = send_request(
        &place,
        subject::region_check(&place.region),
        json!({"url": target.url("/status/500"), "id": "mine"}).to_string(),
    )
    .await;
    let answered: CheckResult = serde_json::from_slice(&answer.payload).unwrap();

    assert_eq!((answered.outcome, answered.cause), (Outcome::Down, Some(Cause::Status)));
    assert_eq!((answered.kind, answered.id.as_str()), (CheckKind::Adhoc, "mine"));
    assert_eq!(place.read_results(1).await, [answered]);
}

#[tokio::test]
async fn a_publish_without_a_reply_is_performed_and_stored() {
    let (place, target) = (TestRegion::on_shared_nats("req-published").await, Target::serve_http().await);
    let _prober = place.start_ready_prober("one", 10).await;

    let payload = json!({"url": target.url("/ok")}).to_string();
    place.bus.client.publish(subject::region_check(&place.region), payload.into()).await.unwrap();
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.id.len()), (Outcome::Up, 36), "a UUID where there is no id");
}

#[tokio::test]
async fn an_invalid_request_is_refused_by_field_name() {
    let place = TestRegion::on_shared_nats("req-refused").await;
    let _prober = place.start_ready_prober("one", 10).await;

    for (payload, field) in [
        (r#"{"url":"http://a.example","timout_ms":5}"#, "timout_ms"),
        (r#"{"url":"http://a.example","timeout_ms":5}"#, "timeout_ms"),
        (r#"{"url":"http://a.example","site_id":5}"#, "site_id"),
        (r#"{"url":"http://a.example","regex":"("}"#, "regex"),
        (r#"{"url":"http://a.example","requires":["assertions.future"]}"#, "requires"),
        (r#"{"url":"http://a.example","assertions":{"future":1}}"#, "assertions.future"),
        ("http://a.example", "request"),
    ] {
        let answer = send_request(&place, subject::region_check(&place.region), payload.to_owned()).await;
        let headers = answer.headers.as_ref().unwrap();
        let said = parse_json(&answer);
        assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), "400", "{payload}");
        assert!(headers.get("Nats-Service-Error").unwrap().as_str().contains(field), "{headers:?}");
        assert_eq!(said["field"], field);
        assert!(said["error"].is_string() && said["value"].is_string() && said["allowed"].is_string());
    }
}

#[tokio::test]
async fn an_invalid_request_without_a_reply_becomes_a_dead_letter_and_the_next_is_performed() {
    let (place, target) = (TestRegion::on_shared_nats("req-parked").await, Target::serve_http().await);
    let mut parked = place.bus.client.subscribe(subject::rejected_request(&place.region)).await.unwrap();
    let prober = place.start_ready_prober("one", 10).await;

    for (payload, field, value, allowed) in [
        ("nonsense", "request", "nonsense", "JSON object"),
        (r#"{"url":"http://x","timeout":5}"#, "timeout", "5", "did you mean 'timeout_ms'?"),
        (r#"{"url":"http://x","timout_ms":5}"#, "timout_ms", "5", "did you mean 'timeout_ms'?"),
        (r#"{"url":"http://x","timeout_ms":5}"#, "timeout_ms", "5", "100 to 60000"),
        (r#"{"url":"gopher://x"}"#, "url", "gopher://x", "http or https"),
    ] {
        place.bus.client.publish(subject::region_check(&place.region), payload.into()).await.unwrap();
        let said = parse_json(&timeout(STATE_TIMEOUT, parked.next()).await.unwrap().unwrap());
        assert_eq!((said["field"].as_str(), said["value"].as_str()), (Some(field), Some(value)), "{said}");
        assert!(said["allowed"].as_str().unwrap().contains(allowed), "{said}");
        let reason = said["reason"].as_str().unwrap();
        assert!(reason.contains(field) && reason.contains(value) && reason.contains(allowed), "{said}");
        assert_eq!((&said["payload"], &said["prober"]), (&json!(payload), &json!("one")));
    }
    assert_eq!(prober.read_metric("picket_prober_invalid_messages_total"), 5.0);

    let payload = json!({"url": target.url("/ok")}).to_string();
    place.bus.client.publish(subject::region_check(&place.region), payload.clone().into()).await.unwrap();
    assert_eq!(place.read_results(1).await[0].outcome, Outcome::Up);
    let answer = send_request(&place, subject::region_check(&place.region), payload).await;
    assert_eq!((answer.headers.is_none(), &parse_json(&answer)["outcome"]), (true, &json!("up")));
}

#[tokio::test]
async fn answers_are_sent_to_inboxes_only() {
    let (place, target) = (TestRegion::on_shared_nats("req-deputy").await, Target::serve_http().await);
    let mut elsewhere = place.bus.client.subscribe("test.req-deputy").await.unwrap();
    let _prober = place.start_ready_prober("one", 10).await;

    for payload in [json!({"url": target.url("/ok")}).to_string(), "nonsense".to_owned()] {
        let to = subject::region_check(&place.region);
        place.bus.client.publish_with_reply(to, "test.req-deputy", payload.into()).await.unwrap();
    }
    place.read_results(1).await;
    // An answer to the first would have been sent before this one, on the same connection.
    let payload = json!({"url": target.url("/ok")}).to_string();
    send_request(&place, subject::region_check(&place.region), payload).await;

    assert!(timeout(Duration::from_millis(100), elsewhere.next()).await.is_err());
}

#[tokio::test]
async fn the_service_describes_itself() {
    let place = TestRegion::on_shared_nats("req-service").await;
    let _prober = place.start_ready_prober("one", 10).await;

    for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        let (inbox, to) = (place.bus.client.new_inbox(), format!("$SRV.{verb}.{}", subject::PROBER_SERVICE));
        let answers = place.bus.client.subscribe(inbox.clone()).await.unwrap();
        place.bus.client.publish_with_reply(to, inbox, "".into()).await.unwrap();
        // Probers of other tests answer as well.
        let of_ours = answers.map(|message| parse_json(&message)).filter(|said| {
            let text = said.to_string();
            std::future::ready(text.contains("req-service"))
        });
        let said = timeout(STATE_TIMEOUT, std::pin::pin!(of_ours).next()).await.unwrap().unwrap();

        assert_eq!(said["type"], format!("io.nats.micro.v1.{kind}_response"));
        assert_eq!(said["version"], env!("CARGO_PKG_VERSION"));
        if verb == "STATS" {
            let data = &said["endpoints"][0]["data"];
            assert_eq!((&data["region"], &data["instance"]), (&json!("req-service"), &json!("one")));
            assert_eq!(
                (&data["slots_free"], &data["slots_used"], &data["checks"]),
                (&json!(10), &json!(0), &json!(0))
            );
        } else {
            assert_eq!(
                said["metadata"],
                json!({"region": "req-service", "instance": "one", "concurrency": "10"})
            );
        }
    }
}

#[tokio::test]
async fn running_ad_hoc_checks_count_as_used_and_occupy_no_free_slot() {
    let (place, server) = (TestRegion::on_shared_nats("req-slots").await, Target::serve_withheld().await);
    let prober = place.start_ready_prober("one", 10).await;
    let payload = json!({"url": server.url("/ok")}).to_string();
    for _ in 0..3 {
        place.bus.client.publish(subject::region_check(&place.region), payload.clone().into()).await.unwrap();
    }
    place.queue_check(1, &server.url("/ok")).await;
    eventually(STATE_TIMEOUT, "four at work", async || server.waiting_requests() == 4).await;

    let (inbox, to) = (place.bus.client.new_inbox(), format!("$SRV.STATS.{}", subject::PROBER_SERVICE));
    let answers = place.bus.client.subscribe(inbox.clone()).await.unwrap();
    place.bus.client.publish_with_reply(to, inbox, "".into()).await.unwrap();
    let of_ours = answers
        .map(|message| parse_json(&message))
        .filter(|said| std::future::ready(said.to_string().contains("req-slots")));
    let said = timeout(STATE_TIMEOUT, std::pin::pin!(of_ours).next()).await.unwrap().unwrap();
    let data = &said["endpoints"][0]["data"];

    assert_eq!(
        (&data["slots_total"], &data["slots_free"], &data["slots_used"], &data["adhoc"]),
        (&json!(10), &json!(9), &json!(4), &json!(3))
    );
    server.release_responses(4);
    place.read_results(4).await;
    eventually(STATE_TIMEOUT, "none under way", async || {
        prober.read_metric("picket_prober_checks_running") == 0.0
    })
    .await;
}

#[tokio::test]
async fn requests_beyond_the_limit_are_answered_busy() {
    let (place, target) = (TestRegion::on_shared_nats("req-busy").await, Target::serve_http().await);
    let _prober = place.start_ready_prober("one", 1).await;
    let payload = json!({"url": target.url("/slow/2000")}).to_string();
    let to = subject::region_check(&place.region);
    place.bus.client.publish(to.clone(), payload.clone().into()).await.unwrap();

    let answer = send_request(&place, to, payload).await;

    let headers = answer.headers.as_ref().unwrap();
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), "503");
    assert_eq!(parse_json(&answer)["error"], "busy");
}
