//! A database that lost acknowledged commits: it is replaced by an older copy of its data while the
//! stream continues.

use std::{fs, path::Path};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use futures_util::{StreamExt, TryStreamExt};
use picket_harness::{eventually, servers};
use picket_proto::{CheckResult, Outcome, SiteId, Timestamp, Warning, subject};
use picket_runtime::streams;
use picket_sink::Config;

use crate::stack::{TEST_TIMEOUT, TestStack};

/// Waits until the database's watermark covers this number of messages.
async fn wait_watermark(stack: &TestStack, messages: i64) {
    eventually(TEST_TIMEOUT, "the watermark", async || {
        match stack.query_count("SELECT coalesce(max(through), 0) FROM picket.results_stored").await {
            through if through >= messages => Ok(()),
            through => Err(through),
        }
    })
    .await;
}

#[tokio::test]
async fn acknowledged_results_that_the_database_lost_are_replayed_from_the_stream() {
    let (mut postgres, copy) = (servers::start_postgres().await, servers::scratch_dir("copy").join("data"));
    let stack = TestStack::with_database(postgres.url().to_owned()).await;
    let sink = stack.start_sink_with(Config { batch_size: 20, ..Config::default() }).await;
    stack.publish_results(0..100).await;
    stack.wait_rows(100).await;
    wait_watermark(&stack, 100).await;
    stack.publish_results(100..150).await;
    stack.wait_rows(150).await;
    stack.wait_acknowledged().await;
    postgres.copy_data(&copy).await;
    stack.publish_results(150..300).await;
    stack.wait_rows(300).await;
    stack.wait_acknowledged().await;

    postgres.roll_back_to(&copy).await;

    stack.wait_rows(300).await;
    sink.wait_ready().await;
    assert_eq!(sink.metric_value("picket_sink_replayed_results_total"), 150);
    assert_eq!(sink.metric_value("picket_sink_replays_total"), 1, "a mere restart loses nothing");
    stack.publish_results(300..310).await;
    stack.wait_rows(310).await;
    wait_watermark(&stack, 310).await;
    sink.running.drain().await;
}

#[tokio::test]
async fn a_sink_started_after_a_restore_replays_the_lost_results() {
    let (mut postgres, copy) = (servers::start_postgres().await, servers::scratch_dir("copy").join("data"));
    let stack = TestStack::with_database(postgres.url().to_owned()).await;
    let sink = stack.start_sink().await;
    stack.publish_results(0..50).await;
    stack.wait_rows(50).await;
    wait_watermark(&stack, 50).await;
    postgres.copy_data(&copy).await;
    stack.publish_results(50..120).await;
    stack.wait_rows(120).await;
    wait_watermark(&stack, 120).await;
    sink.running.drain().await;

    postgres.roll_back_to(&copy).await;
    let (one, other) = tokio::join!(stack.start_sink(), stack.start_sink());

    stack.wait_rows(120).await;
    one.running.drain().await;
    other.running.drain().await;
}

#[tokio::test]
async fn a_new_database_is_not_filled_from_the_stream() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    stack.publish_results(0..50).await;
    stack.wait_rows(50).await;
    wait_watermark(&stack, 50).await;
    sink.running.drain().await;
    let anew = TestStack::new().await;

    let sink = stack.start_sink_on(&anew.database_url, Config::default()).await;
    wait_watermark(&anew, 50).await;

    assert_eq!(anew.count_rows().await, 0);
    sink.running.drain().await;
}

#[tokio::test]
async fn a_lost_incident_is_decided_again_and_published_once() {
    let down = |result| CheckResult { outcome: Outcome::Down, ..result };
    lose_decision(down, "SELECT count(*) FROM picket.incidents WHERE closed_at IS NULL").await;
}

#[tokio::test]
async fn a_lost_warning_is_decided_again_and_published_once() {
    let details =
        serde_json::json!({ "certificate": { "serial": "01", "expires_at": "2030-01-02T03:04:05Z" } });
    let warned = |result| CheckResult {
        warnings: vec![Warning::Certificate],
        details: details.as_object().cloned(),
        ..result
    };
    lose_decision(warned, "SELECT count(*) FROM picket.warnings WHERE closed_at IS NULL AND serial = '01'")
        .await;
}

/// Lets a database lose the commits in which results that `spoil` makes of good ones opened what
/// `open_count` counts.
async fn lose_decision(spoil: impl Fn(CheckResult) -> CheckResult, open_count: &'static str) {
    let (mut postgres, copy) = (servers::start_postgres().await, servers::scratch_dir("copy").join("data"));
    let stack = TestStack::with_database(postgres.url().to_owned()).await;
    stack
        .run_sql(
            "INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://127.0.0.1/', 5);
             UPDATE picket.schedules SET valid_from = now() - interval '1 hour'",
        )
        .await;
    streams::create_if_missing(&stack.jetstream, streams::events_config(streams::StreamLimits::default()))
        .await
        .unwrap();
    let sink = stack.start_sink().await;
    let ticks: Vec<Timestamp> = stack
        .query_times(
            "SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', now() - interval '1 minute', now())
             FROM picket.schedules",
        )
        .await;
    let result = |tick: usize| CheckResult {
        site_id: Some(SiteId(1)),
        scheduled_at: ticks[tick],
        started_at: Some(ticks[tick]),
        ..stack.make_result(0)
    };
    let spoiled = |tick| stack.sign_result(spoil(result(tick)));
    stack.publish_result(&stack.sign_result(result(0))).await;
    stack.wait_rows(1).await;
    wait_watermark(&stack, 1).await;
    postgres.copy_data(&copy).await;
    for tick in 1..4 {
        stack.publish_result(&spoiled(tick)).await;
    }
    stack.wait_rows(4).await;
    let told = async || {
        let events = stack.jetstream.get_stream(subject::EVENTS_STREAM).await.unwrap();
        events.cached_info().state.messages
    };
    eventually(
        TEST_TIMEOUT,
        "the event",
        async || if told().await == 1 { Ok(()) } else { Err(told().await) },
    )
    .await;
    stack.wait_acknowledged().await;

    postgres.roll_back_to(&copy).await;
    for tick in 4..6 {
        stack.publish_result(&spoiled(tick)).await;
    }

    stack.wait_rows(6).await;
    eventually(TEST_TIMEOUT, "the outbox to be empty", async || {
        match stack.query_count("SELECT count(*) FROM picket.outbox").await {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
    assert_eq!(stack.query_count(open_count).await, 1);
    assert_eq!(told().await, 1);
    sink.running.drain().await;
}

/// A database whose watermark is at the first message, and `lost` results that were acknowledged after it and are in no table.
async fn lose_results(stack: &TestStack, lost: i64) {
    let sink = stack.start_sink().await;
    stack.publish_results(0..1).await;
    stack.wait_rows(1).await;
    wait_watermark(stack, 1).await;
    sink.running.drain().await;
    stack.publish_results(1..1 + lost).await;
    let consumer =
        stack.jetstream.get_consumer_from_stream(subject::SINK_CONSUMER, subject::RESULTS_STREAM).await;
    let consumer: PullConsumer = consumer.unwrap();
    let delivered = consumer.fetch().max_messages(lost as usize).messages().await.unwrap();
    let delivered: Vec<_> = delivered.try_collect().await.unwrap();
    assert_eq!(delivered.len(), lost as usize);
    for message in delivered {
        message.double_ack().await.unwrap();
    }
    assert_eq!(stack.count_rows().await, 1);
}

async fn replay_consumer(stack: &TestStack) -> Option<PullConsumer> {
    stack
        .jetstream
        .get_consumer_from_stream(subject::SINK_REPLAY_CONSUMER, subject::RESULTS_STREAM)
        .await
        .ok()
}

#[tokio::test]
async fn a_sink_on_the_bus_of_another_installation_replays_nothing_and_leaves_the_watermark() {
    let stack = TestStack::new().await;
    lose_results(&stack, 100).await;
    let another = "00000000-0000-4000-8000-000000000000".parse().unwrap();
    streams::adopt_streams(&stack.jetstream, another).await.unwrap();
    let lock = "LOCK TABLE picket.results_stored IN ACCESS EXCLUSIVE MODE";
    let until_used = async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'picket.results_stored'::regclass";
        eventually(TEST_TIMEOUT, "the sink to use the watermark", async || {
            stack.query_count(waiting).await == 1
        })
        .await;
    };

    let locked = stack.lock_table(lock).await;
    let sink = stack.start_sink().await;
    until_used().await;
    drop(locked);
    // The sink has read the watermark and uses it again: to advance it in a replay, or because it did not replay.
    let locked = stack.lock_table(lock).await;
    until_used().await;

    assert!(replay_consumer(&stack).await.is_none());
    drop(locked);
    assert_eq!(stack.count_rows().await, 1);
    assert_eq!(stack.query_count("SELECT through FROM picket.results_stored").await, 1);
    streams::adopt_streams(&stack.jetstream, stack.tickets.installation()).await.unwrap();
    stack.wait_rows(101).await;
    wait_watermark(&stack, 101).await;
    sink.running.drain().await;
}

#[tokio::test]
async fn a_sink_with_a_replaced_replay_consumer_pulls_nothing_from_another_sinks() {
    const BATCH: u32 = 20;
    let stack = TestStack::new().await;
    lose_results(&stack, 100).await;
    let lock = stack.lock_table("LOCK TABLE picket.check_results IN ACCESS EXCLUSIVE MODE").await;
    let sink = stack.start_sink_with(Config { batch_size: BATCH, ..Config::default() }).await;
    eventually(TEST_TIMEOUT, "the first messages of the replay", async || {
        match replay_consumer(&stack).await {
            Some(consumer) if consumer.cached_info().delivered.consumer_sequence >= BATCH.into() => Ok(()),
            consumer => Err(consumer.map(|consumer| consumer.cached_info().delivered)),
        }
    })
    .await;
    let stream = stack.jetstream.get_stream(subject::RESULTS_STREAM).await.unwrap();
    stream.delete_consumer(subject::SINK_REPLAY_CONSUMER).await.unwrap();
    let another = pull::Config {
        name: Some(subject::SINK_REPLAY_CONSUMER.to_owned()),
        description: Some("another sink".to_owned()),
        filter_subject: subject::RESULT_SUBJECTS.to_owned(),
        ack_policy: AckPolicy::None,
        memory_storage: true,
        ..pull::Config::default()
    };
    let another: PullConsumer = stream.create_consumer(another).await.unwrap();
    let mut messages = another.fetch().max_messages(BATCH as usize).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        message.unwrap();
    }

    drop(lock);

    sink.wait_unready("database").await;
    let missing = sink.health.unready_checks();
    assert!(missing.iter().any(|(_, why)| why.contains("another sink is replaying")), "{missing:?}");
    let found = replay_consumer(&stack).await.unwrap();
    assert_eq!(found.cached_info().created, another.cached_info().created);
    assert_eq!(found.cached_info().delivered.consumer_sequence, u64::from(BATCH));
    stream.delete_consumer(subject::SINK_REPLAY_CONSUMER).await.unwrap();
    stack.wait_rows(101).await;
    sink.wait_ready().await;
    sink.running.drain().await;
}

/// Denies or allows everyone the creation of replay consumers.
fn write_configuration(path: &Path, port: u16, permitted: bool) {
    let denied =
        format!("$JS.API.CONSUMER.CREATE.{}.{}.>", subject::RESULTS_STREAM, subject::SINK_REPLAY_CONSUMER);
    let denied =
        if permitted { String::new() } else { format!("permissions: {{publish: {{deny: [\"{denied}\"]}}}}") };
    let directory = path.parent().unwrap().display();
    fs::write(
        path,
        format!(
            "listen: \"127.0.0.1:{port}\"\npid_file: \"{directory}/nats.pid\"\njetstream {{store_dir: \"{directory}\"}}\n\
             authorization {{users: [{{user: everybody, password: secret, {denied}}}]}}\nno_auth_user: everybody\n"
        ),
    )
    .unwrap();
}

#[tokio::test]
async fn a_sink_without_replay_permission_writes_new_results_and_leaves_the_watermark() {
    let path = servers::scratch_dir("nats-denied").join("nats.conf");
    let written = path.clone();
    let nats = servers::start_nats_with_config(move |port| {
        write_configuration(&written, port, false);
        written.clone()
    })
    .await;
    let stack = TestStack::with_servers(nats, servers::shared_postgres().await.create_database().await).await;
    lose_results(&stack, 100).await;
    let sink = stack.start_sink().await;

    stack.publish_results(101..102).await;
    stack.wait_rows(2).await;
    sink.wait_ready().await;
    assert_eq!(stack.query_count("SELECT through FROM picket.results_stored").await, 1);

    write_configuration(&path, stack.nats.port(), true);
    stack.nats.reload_config();
    let other = stack.start_sink().await;
    stack.wait_rows(102).await;
    wait_watermark(&stack, 102).await;
    sink.running.drain().await;
    other.running.drain().await;
}
