//! The sink without faults.

use std::time::Duration;

use futures_util::StreamExt;
use picket_harness::{eventually, proc};
use picket_proto::{CheckKind, CheckResult, Event, SiteId, Warning, subject};
use picket_runtime::streams;
use picket_sink::Config;
use serde_json::json;

use crate::stack::{TEST_TIMEOUT, TestStack};

#[tokio::test]
async fn every_result_becomes_a_row_and_is_acknowledged() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink_with(Config { batch_size: 2_000, ..Config::default() }).await;
    sink.wait_ready().await;

    stack.publish_results(0..5_000).await;

    stack.wait_rows(5_000).await;
    stack.wait_acknowledged().await;
    assert_eq!(sink.metric_value(r#"picket_sink_results_total{outcome="up",cause=""}"#), 5_000);
    assert_eq!(sink.metric_value("picket_sink_result_delay_seconds_count"), 5_000);
    assert_eq!(sink.metric_value("picket_sink_duplicate_results_total"), 0);
    assert!(sink.metric_value("picket_sink_batch_size_count") >= 3, "a batch has 2000 at most");
    sink.running.drain().await;
}

#[tokio::test]
async fn a_lone_result_does_not_wait_for_others() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    // Beyond a heartbeat and the end of a request, where a wake-up could be lost.
    tokio::time::sleep(Duration::from_millis(2_500)).await;

    let began = tokio::time::Instant::now();
    stack.publish_results(0..1).await;
    stack.wait_rows(1).await;

    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    sink.running.drain().await;
}

#[tokio::test]
async fn a_redelivered_result_is_counted_and_adds_no_row() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    stack.publish_results(0..100).await;
    stack.wait_rows(100).await;

    stack.publish_results(0..100).await;
    eventually(TEST_TIMEOUT, "the duplicates", async || {
        sink.metric_value("picket_sink_duplicate_results_total") == 100
    })
    .await;

    assert_eq!(stack.count_rows().await, 100);
    sink.running.drain().await;
}

#[tokio::test]
async fn a_result_that_cannot_be_a_row_becomes_a_dead_letter_and_the_rest_flows() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    let long_ago = stack.sign_result(CheckResult {
        scheduled_at: stack.make_result(0).scheduled_at.saturating_sub(Duration::from_secs(20 * 86_400)),
        ..stack.make_result(0)
    });
    let from_nowhere =
        stack.sign_result(CheckResult { region: "nowhere".parse().unwrap(), ..stack.make_result(0) });

    stack.publish_results(0..50).await;
    stack.publish_raw("picket.result.eu.7", "{\0").await;
    stack.publish_raw("picket.result.eu.8", serde_json::to_vec(&stack.make_result(1_000)).unwrap()).await;
    stack.publish_raw("picket.result.us.7", serde_json::to_vec(&stack.make_result(1_000)).unwrap()).await;
    stack.publish_raw("picket.result.eu.7", serde_json::to_vec(&long_ago).unwrap()).await;
    stack.publish_raw("picket.result.nowhere.7", serde_json::to_vec(&from_nowhere).unwrap()).await;
    stack.publish_raw("picket.result.what.is.this", "x").await;
    stack.publish_results(50..100).await;

    stack.wait_rows(100).await;
    stack.wait_acknowledged().await;
    assert_eq!(stack.query_count("SELECT count(*) FROM picket.dead_letters").await, 6);
    for (reason, count) in [("json", 1), ("contradiction", 2), ("refused", 1), ("region", 1), ("subject", 1)]
    {
        let name = format!(r#"picket_sink_dead_letters_total{{reason="{reason}"}}"#);
        assert_eq!(sink.metric_value(&name), count, "{reason}");
    }
    sink.running.drain().await;
}

#[tokio::test]
async fn a_result_of_a_newer_prober_is_a_row_or_a_dead_letter_that_names_the_unknown_word() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    let newer = |number, fields: serde_json::Value| {
        let mut result = serde_json::to_value(stack.make_result(number)).unwrap();
        result.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        result.to_string()
    };

    for result in [
        newer(1, json!({"outcome": "down", "cause": "future_cause", "message": "it is so"})),
        newer(2, json!({"warnings": ["future_warning", "slow"], "details": {"a": 1}})),
        newer(3, json!({"requires": ["result.future"], "future": {}})),
        newer(4, json!({"requires": ["result.future"], "outcome": "future_outcome"})),
    ] {
        stack.publish_raw("picket.result.eu.7", result).await;
    }

    stack.wait_rows(2).await;
    stack.wait_acknowledged().await;
    for (condition, table) in [
        (
            "site_id = 1 AND outcome = 'down' AND cause = 'other' AND message = 'future_cause: it is so'",
            "check_results",
        ),
        (
            r#"site_id = 2 AND outcome = 'up' AND warnings = '{slow}' AND details = '{"a": 1}'"#,
            "check_results",
        ),
    ] {
        assert_eq!(stack.count_where(table, condition).await, 1, "{condition}");
    }
    let named = "reason LIKE 'requires: ''result.future'' is unknown to version %'";
    assert_eq!(stack.count_where("dead_letters", named).await, 2);
    assert_eq!(sink.metric_value(r#"picket_sink_dead_letters_total{reason="unsupported"}"#), 2);
    sink.running.drain().await;
}

#[tokio::test]
async fn each_result_of_a_bundle_is_a_row_and_an_invalid_line_becomes_a_dead_letter() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    sink.wait_ready().await;
    let line = |number| serde_json::to_string(&stack.make_result(number)).unwrap();

    for bundle in 0..50_i64 {
        let mut lines: Vec<_> = (bundle * 40..(bundle + 1) * 40).map(line).collect();
        lines.insert(20, "{}".to_owned());
        stack.publish_raw("picket.result.eu.bundle", lines.join("\n")).await;
    }

    stack.wait_rows(2_000).await;
    stack.wait_acknowledged().await;
    assert_eq!(sink.metric_value(r#"picket_sink_results_total{outcome="up",cause=""}"#), 2_000);
    assert_eq!(sink.metric_value(r#"picket_sink_dead_letters_total{reason="json"}"#), 50);
    assert_eq!(stack.query_count("SELECT count(*) FROM picket.dead_letters WHERE payload = '{}'").await, 50);
    sink.running.drain().await;
}

#[tokio::test]
async fn the_result_of_an_adhoc_check_is_a_row_of_its_own_table() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    let adhoc = CheckResult { kind: CheckKind::Adhoc, site_id: None, shard: None, ..stack.make_result(1) };

    stack.publish_raw("picket.result.eu.adhoc", serde_json::to_vec(&adhoc).unwrap()).await;

    eventually(TEST_TIMEOUT, "the row", async || {
        stack.query_count("SELECT count(*) FROM picket.adhoc_results").await == 1
    })
    .await;
    stack.wait_acknowledged().await;
    assert_eq!(stack.count_rows().await, 0);
    sink.running.drain().await;
}

#[tokio::test]
async fn two_sinks_share_the_results_without_duplicates() {
    let stack = TestStack::new().await;
    let config = Config { batch_size: 100, ..Config::default() };
    let (one, other) = (stack.start_sink_with(config).await, stack.start_sink_with(config).await);

    stack.publish_results(0..5_000).await;

    stack.wait_rows(5_000).await;
    stack.wait_acknowledged().await;
    let shares =
        [&one, &other].map(|sink| sink.metric_value(r#"picket_sink_results_total{outcome="up",cause=""}"#));
    assert_eq!(shares[0] + shares[1], 5_000, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    one.running.drain().await;
    other.running.drain().await;
}

#[tokio::test]
async fn a_sink_waiting_for_a_batch_stops_immediately_and_leaves_results_in_the_stream() {
    let stack = TestStack::new().await;
    let sink =
        stack.start_sink_with(Config { batch_age: Duration::from_secs(3_600), ..Config::default() }).await;
    stack.publish_results(0..10).await;
    stack.wait_rows_at_least(1).await;
    stack.publish_results(10..20).await;

    sink.running.drain().await;

    let (waiting, unacknowledged) = stack.outstanding_messages().await;
    assert_eq!((waiting, unacknowledged), (20 - stack.count_rows().await.unsigned_abs(), 0));
    assert!(waiting >= 10, "{waiting}");
}

#[tokio::test]
async fn a_sink_drained_under_load_leaves_the_rest_to_another() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink_with(Config { batch_size: 50, ..Config::default() }).await;
    let publishing = stack.publish_results(0..20_000);
    let draining = async {
        stack.wait_rows_at_least(500).await;
        sink.running.drain().await;
        stack.count_rows().await
    };

    let ((), rows) = tokio::join!(publishing, draining);

    // The last acknowledgements are sent, and not confirmed.
    eventually(TEST_TIMEOUT, "the rest to wait in the stream", async || {
        match stack.outstanding_messages().await {
            (waiting, 0) if waiting == 20_000 - rows.unsigned_abs() => Ok(()),
            outstanding => Err((outstanding, rows)),
        }
    })
    .await;
    let next = stack.start_sink().await;
    stack.wait_rows(20_000).await;
    assert_eq!(next.metric_value("picket_sink_duplicate_results_total"), 0);
    next.running.drain().await;
}

/// Prints what a result costs: `cargo test --release -p picket-sink -- --ignored --nocapture measure_result_cost`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_result_cost() {
    const RESULTS: i64 = 100_000;
    let stack = TestStack::new().await;
    stack.publish_results(0..RESULTS).await;

    // The servers are processes of their own.
    let (cpu, began) = (proc::own_cpu_seconds(), tokio::time::Instant::now());
    let sink = stack.start_sink_with(Config::default()).await;
    eventually(TEST_TIMEOUT * 4, "the rows", async || {
        sink.metric_value(r#"picket_sink_results_total{outcome="up",cause=""}"#) == RESULTS.unsigned_abs()
    })
    .await;

    let took = began.elapsed();
    let cpu_us = (proc::own_cpu_seconds() - cpu) * 1e6 / RESULTS as f64;
    eprintln!("{RESULTS} results in {took:?}: {cpu_us:.1} µs of CPU in the sink for each");
    sink.running.drain().await;
}

#[tokio::test]
async fn an_unpublishable_event_becomes_a_dead_letter_and_the_rest_flows() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    sink.wait_ready().await;
    // The trigger shortens texts and drops oversized lists; rows from before it must not block.
    let inserted = stack
        .query_count(
            "WITH odd AS (
                 INSERT INTO picket.outbox (event_id, subject, payload) VALUES
                     ('large', 'picket.event.large', jsonb_build_object('site', repeat('x', 2000000))),
                     (E'line\nbreak', 'picket.event.a', '{}'), (repeat('i', 1000), 'picket.event.a', '{}'),
                     ('', 'picket.event.a', '{}'), ('a', 'picket.event.>', '{}'), ('b', 'picket.event.a b', '{}'),
                     ('c', E'picket.event.a\r\nPUB x 0', '{}'), ('d', '$JS.API.STREAM.DELETE.PICKET_EVENTS', '{}'),
                     ('keys', 'picket.event.keys', (SELECT jsonb_object_agg('key' || n, 'value') FROM generate_series(1, 100000) AS n)),
                     ('well', 'picket.event.well', '{}')
                 RETURNING id
             ) SELECT count(*) FROM odd",
        )
        .await;
    assert_eq!(inserted, 10);

    eventually(TEST_TIMEOUT, "the outbox to be empty", async || {
        let left = stack.query_count("SELECT count(*) FROM picket.outbox").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;

    assert_eq!(stack.query_count("SELECT count(*) FROM picket.dead_letters").await, 8);
    let explained = "SELECT count(*) FROM picket.dead_letters WHERE reason LIKE '%allowed: %' AND length(payload) <= 16384";
    assert_eq!(stack.query_count(explained).await, 8);
    assert_eq!(sink.metric_value(r#"picket_sink_dead_letters_total{reason="event"}"#), 8);
    let mut events = stack.jetstream.get_stream(subject::EVENTS_STREAM).await.unwrap();
    let state = events.info().await.unwrap().state.clone();
    assert_eq!(state.messages, 2);
    assert!(state.bytes < 20_000, "{state:?}");
    sink.running.drain().await;
}

#[tokio::test]
async fn a_running_sink_follows_the_retention_setting() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    let two_days_old = |number| {
        let at = stack.current_time().saturating_sub(Duration::from_secs(2 * 86_400));
        let at = at.saturating_add(Duration::from_millis(number));
        let result = stack.make_result(number.cast_signed());
        stack.sign_result(CheckResult { scheduled_at: at, started_at: Some(at), ticket: None, ..result })
    };
    stack.publish_result(&two_days_old(1)).await;
    stack.wait_rows(1).await;

    stack.query_count("UPDATE picket.settings SET retention_days = 1 RETURNING 1::bigint").await;

    let mut number = 1;
    eventually(TEST_TIMEOUT, "a result that is too old now", async || {
        number += 1;
        stack.publish_result(&two_days_old(number)).await;
        stack.wait_acknowledged().await;
        let refused = "SELECT count(*) FROM picket.dead_letters WHERE reason LIKE '%more than 1 days ago'";
        match stack.query_count(refused).await {
            0 => Err(number),
            _ => Ok(()),
        }
    })
    .await;
    sink.running.drain().await;
}

#[tokio::test]
async fn a_warning_is_told_on_its_subjects_and_counted() {
    let stack = TestStack::new().await;
    streams::create_if_missing(&stack.jetstream, streams::events_config(streams::StreamLimits::default()))
        .await
        .unwrap();
    stack
        .run_sql(
            "INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://127.0.0.1/', 5);
             UPDATE picket.schedules SET valid_from = now() - interval '1 hour'",
        )
        .await;
    let ticks = stack
        .query_times(
            "SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', now() - interval '1 minute', now())
             FROM picket.schedules",
        )
        .await;
    let client = async_nats::connect(stack.nats.url()).await.unwrap();
    let mut events = client.subscribe(subject::EVENT_SUBJECTS).await.unwrap();
    client.flush().await.unwrap();
    let sink = stack.start_sink().await;

    for (number, at) in ticks.iter().take(6).enumerate() {
        let warnings = if number < 3 { vec![Warning::Slow] } else { vec![] };
        let result = CheckResult {
            site_id: Some(SiteId(1)),
            scheduled_at: *at,
            started_at: Some(*at),
            warnings,
            ..stack.make_result(0)
        };
        stack.publish_result(&stack.sign_result(result)).await;
    }

    let mut told = Vec::new();
    for _ in 0..2 {
        let message = tokio::time::timeout(TEST_TIMEOUT, events.next()).await.unwrap().unwrap();
        let event: Event = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(event.subject().as_str(), message.subject.as_str());
        told.push(message.subject.to_string());
    }
    assert_eq!(told, ["picket.event.warning.opened", "picket.event.warning.closed"]);
    assert_eq!(sink.metric_value("picket_sink_warnings_opened_total"), 1);
    assert_eq!(sink.metric_value("picket_sink_warnings_closed_total"), 1);
    assert_eq!(stack.query_count("SELECT count(*) FROM picket.incidents").await, 0);
    sink.running.drain().await;
}
