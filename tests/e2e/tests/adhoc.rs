//! A check now, from any shell: by publish, by request, and by the command.

use std::time::Duration;

use picket_e2e::Stack;
use picket_harness::targets::Target;

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_published_request_becomes_a_row_and_a_request_with_reply_is_answered() {
    let target = Target::serve_http().await;
    let stack = Stack::start(&["local"]).await;
    let (coordinator, prober, sink) = (
        stack.spawn_coordinator(&[]).await,
        stack.spawn_prober("local", &[]).await,
        stack.spawn_sink(&[]).await,
    );
    for process in [&coordinator, &prober, &sink] {
        process.wait_ready().await;
    }
    let client = async_nats::connect(stack.nats.url()).await.unwrap();
    let request = |id: &str| format!(r#"{{"url":"{}","id":"{id}"}}"#, target.url("/ok"));

    client.publish("picket.check.local", request("published").into()).await.unwrap();
    client.publish("picket.job.local.adhoc.7", request("queued").into()).await.unwrap();
    let answer = client.request("picket.check.local", request("asked").into()).await.unwrap();

    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(
        (answer["outcome"].as_str(), answer["id"].as_str(), answer["kind"].as_str()),
        (Some("up"), Some("asked"), Some("adhoc"))
    );
    stack
        .wait_at_least(WAIT_TIMEOUT, 3, "SELECT count(*) FROM picket.adhoc_results WHERE outcome = 'up'")
        .await;

    let (code, table, error) = stack.run_picket(&["check", &target.url("/ok")]).await;
    assert_eq!(code, 0, "{error}");
    assert!(table.lines().any(|line| line.contains("local") && line.contains("up")), "{table}");
    let (code, ..) = stack.run_picket(&["check", &target.url("/status/500")]).await;
    assert_eq!(code, 1);
    let (code, _, error) = stack.run_picket(&["check", "--region", "nowhere", &target.url("/ok")]).await;
    assert_eq!(code, 3, "{error}");
    for process in [coordinator, prober, sink] {
        process.stop().await;
    }
}

#[tokio::test]
async fn a_malformed_message_on_any_subject_is_counted_and_blocks_nothing() {
    let target = Target::serve_http().await;
    let stack = Stack::start(&["local"]).await;
    let (coordinator, prober, sink) = (
        stack.spawn_coordinator(&[]).await,
        stack.spawn_prober("local", &[]).await,
        stack.spawn_sink(&[]).await,
    );
    for process in [&coordinator, &prober, &sink] {
        process.wait_ready().await;
    }
    let client = async_nats::connect(stack.nats.url()).await.unwrap();
    let garbage = ["", "{", "null", "[]", r#"{"url":7}"#, "\u{0}\u{0}", r#"{"site_id":1,"url":"http://x/"}"#];

    for garbage in garbage {
        for subject in [
            "picket.check.local",
            "picket.check.any",
            "picket.job.local.5",
            "picket.job.local.adhoc.x",
            "picket.result.local.1",
            "picket.result.local.adhoc",
            "picket.result.x.y.z",
            "picket.suspect.1",
        ] {
            client.publish(subject, garbage.into()).await.unwrap();
        }
    }
    client.flush().await.unwrap();
    stack
        .execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds) VALUES ('{}', 5)",
            target.url("/ok")
        ))
        .await;

    stack
        .wait_at_least(WAIT_TIMEOUT, 1, "SELECT count(*) FROM picket.check_results WHERE outcome = 'up'")
        .await;
    stack
        .wait_at_least(WAIT_TIMEOUT, 3 * garbage.len() as i64, "SELECT count(*) FROM picket.dead_letters")
        .await;
    assert!(prober.read_metric("picket_prober_invalid_messages_total") > 0.0);
    for process in [coordinator, prober, sink] {
        process.stop().await;
    }
}
