//! A database that lost commits which were acknowledged: it is set back to an older copy of its data while the stream goes on.

use picket_proto::{CheckResult, Outcome, SiteId, Timestamp, subject};
use picket_runtime::streams;
use picket_sink::Config;
use picket_testkit::{eventually, servers};

use crate::stack::{LIMIT, Stack};

/// Waits until the database says that it holds all of so many messages.
async fn until_noted(stack: &Stack, messages: i64) {
    eventually(LIMIT, "the watermark", async || {
        match stack.count("SELECT coalesce(max(through), 0) FROM picket.results_stored").await {
            through if through >= messages => Ok(()),
            through => Err(through),
        }
    })
    .await;
}

#[tokio::test]
async fn results_that_the_database_lost_after_they_were_acknowledged_come_back_from_the_stream() {
    let (mut postgres, copy) = (servers::own_postgres().await, servers::scratch_dir("copy").join("data"));
    let stack = Stack::on(postgres.url().to_owned()).await;
    let sink = stack.sink_with(Config { batch_size: 20, ..Config::default() }).await;
    stack.publish(0..100).await;
    stack.until_rows(100).await;
    until_noted(&stack, 100).await;
    stack.publish(100..150).await;
    stack.until_rows(150).await;
    stack.until_acknowledged().await;
    postgres.copy_data(&copy).await;
    stack.publish(150..300).await;
    stack.until_rows(300).await;
    stack.until_acknowledged().await;

    postgres.set_back(&copy).await;

    stack.until_rows(300).await;
    sink.until_ready().await;
    assert_eq!(sink.metric("picket_sink_replayed_total"), 150);
    assert_eq!(sink.metric("picket_sink_replays_total"), 1, "a mere restart loses nothing");
    stack.publish(300..310).await;
    stack.until_rows(310).await;
    until_noted(&stack, 310).await;
    sink.running.drain().await;
}

#[tokio::test]
async fn a_sink_that_starts_beside_a_database_that_was_restored_reads_what_it_lost() {
    let (mut postgres, copy) = (servers::own_postgres().await, servers::scratch_dir("copy").join("data"));
    let stack = Stack::on(postgres.url().to_owned()).await;
    let sink = stack.sink().await;
    stack.publish(0..50).await;
    stack.until_rows(50).await;
    until_noted(&stack, 50).await;
    postgres.copy_data(&copy).await;
    stack.publish(50..120).await;
    stack.until_rows(120).await;
    until_noted(&stack, 120).await;
    sink.running.drain().await;

    postgres.set_back(&copy).await;
    let (one, other) = tokio::join!(stack.sink(), stack.sink());

    stack.until_rows(120).await;
    one.running.drain().await;
    other.running.drain().await;
}

#[tokio::test]
async fn a_database_that_was_made_anew_is_not_filled_with_what_the_stream_still_holds() {
    let stack = Stack::new().await;
    let sink = stack.sink().await;
    stack.publish(0..50).await;
    stack.until_rows(50).await;
    until_noted(&stack, 50).await;
    sink.running.drain().await;
    let anew = Stack::new().await;

    let sink = stack.sink_on(&anew.database_url, Config::default()).await;
    until_noted(&anew, 50).await;

    assert_eq!(anew.rows().await, 0);
    sink.running.drain().await;
}

#[tokio::test]
async fn an_incident_that_the_database_lost_is_decided_again_and_told_once() {
    let (mut postgres, copy) = (servers::own_postgres().await, servers::scratch_dir("copy").join("data"));
    let stack = Stack::on(postgres.url().to_owned()).await;
    stack
        .run(
            "INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://127.0.0.1/', 5);
             UPDATE picket.schedules SET valid_from = now() - interval '1 hour'",
        )
        .await;
    streams::ensure(&stack.jetstream, streams::events(streams::Durability::default())).await.unwrap();
    let sink = stack.sink().await;
    let ticks: Vec<Timestamp> = stack
        .times(
            "SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', now() - interval '1 minute', now())
             FROM picket.schedules",
        )
        .await;
    let result = |tick: usize, outcome: Outcome| {
        stack.signed(CheckResult {
            site_id: Some(SiteId(1)),
            scheduled_at: ticks[tick],
            started_at: Some(ticks[tick]),
            outcome,
            ..stack.result(0)
        })
    };
    stack.publish_result(&result(0, Outcome::Up)).await;
    stack.until_rows(1).await;
    until_noted(&stack, 1).await;
    postgres.copy_data(&copy).await;
    for tick in 1..4 {
        stack.publish_result(&result(tick, Outcome::Down)).await;
    }
    stack.until_rows(4).await;
    let told = async || {
        let events = stack.jetstream.get_stream(subject::EVENTS).await.unwrap();
        events.cached_info().state.messages
    };
    eventually(LIMIT, "the event", async || if told().await == 1 { Ok(()) } else { Err(told().await) }).await;
    stack.until_acknowledged().await;

    postgres.set_back(&copy).await;
    for tick in 4..6 {
        stack.publish_result(&result(tick, Outcome::Down)).await;
    }

    stack.until_rows(6).await;
    eventually(LIMIT, "the outbox to be empty", async || {
        match stack.count("SELECT count(*) FROM picket.outbox").await {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
    assert_eq!(stack.count("SELECT count(*) FROM picket.incidents WHERE closed_at IS NULL").await, 1);
    assert_eq!(told().await, 1);
    sink.running.drain().await;
}
