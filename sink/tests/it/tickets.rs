//! Installations and checks whose results a sink accepts.

use std::time::Duration;

use picket_harness::eventually;
use picket_proto::{CheckResult, InstallationId, Outcome, SiteId};
use picket_runtime::streams;

use crate::stack::{TEST_TIMEOUT, TestStack};

const OTHER_INSTALLATION: &str = "00000000-0000-4000-8000-000000000000";

fn other_installation() -> InstallationId {
    OTHER_INSTALLATION.parse().unwrap()
}

fn encode_result(result: &CheckResult) -> Vec<u8> {
    serde_json::to_vec(result).unwrap()
}

#[tokio::test]
async fn a_result_of_a_check_not_assigned_to_its_region_becomes_a_dead_letter() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    let good = stack.make_result(0);
    let later = good.scheduled_at.saturating_add(Duration::from_millis(1));
    let lies = [
        CheckResult { ticket: None, ..good.clone() },
        CheckResult { ticket: None, installation: None, expires_at: None, ..good.clone() },
        CheckResult { site_id: Some(SiteId(1)), ..good.clone() },
        CheckResult { scheduled_at: later, ..good.clone() },
        CheckResult { expires_at: Some(later), ..good.clone() },
        CheckResult { ticket: stack.make_result(1).ticket, outcome: Outcome::Down, ..good },
    ];

    for lie in &lies {
        stack.publish_raw("picket.result.eu.7", encode_result(lie)).await;
    }
    stack.publish_results(0..20).await;

    stack.wait_rows(20).await;
    stack.wait_acknowledged().await;
    assert_eq!(stack.query_count("SELECT count(*) FROM picket.check_results WHERE outcome = 'up'").await, 20);
    let parked = "SELECT count(*) FROM picket.dead_letters WHERE reason LIKE 'ticket: %'";
    assert_eq!(stack.query_count(parked).await, lies.len() as i64);
    assert_eq!(sink.metric_value(r#"picket_sink_dead_letters_total{reason="ticket"}"#), lies.len() as u64);
    sink.running.drain().await;
}

#[tokio::test]
async fn a_result_of_another_installation_is_counted_and_not_stored() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;

    for number in 0..10 {
        let foreign = CheckResult { installation: Some(other_installation()), ..stack.make_result(number) };
        stack.publish_raw("picket.result.eu.7", encode_result(&foreign)).await;
    }
    stack.publish_results(10..20).await;

    stack.wait_rows(10).await;
    stack.wait_acknowledged().await;
    assert_eq!(sink.metric_value("picket_sink_foreign_results_total"), 10);
    assert_eq!(stack.query_count("SELECT count(*) FROM picket.dead_letters").await, 0);
    sink.running.drain().await;
}

#[tokio::test]
async fn a_sink_pulls_nothing_from_another_installations_bus_until_adoption() {
    let stack = TestStack::new().await;
    streams::adopt_streams(&stack.jetstream, other_installation()).await.unwrap();
    stack.publish_results(0..10).await;
    let sink = stack.start_sink().await;

    let ours = stack.tickets.installation().to_string();
    eventually(TEST_TIMEOUT, "the sink's reason", async || {
        let missing = sink.health.unready_checks();
        let why = missing.iter().find(|(name, _)| *name == "results").map(|(_, why)| why.as_str());
        let named = [OTHER_INSTALLATION, &ours, "picket nats adopt"];
        if named.iter().all(|named| why.is_some_and(|why| why.contains(named))) {
            Ok(())
        } else {
            Err(missing)
        }
    })
    .await;
    assert_eq!(stack.count_rows().await, 0);

    streams::adopt_streams(&stack.jetstream, stack.tickets.installation()).await.unwrap();
    stack.wait_rows(10).await;
    sink.wait_ready().await;

    // And again, while it runs.
    streams::adopt_streams(&stack.jetstream, other_installation()).await.unwrap();
    sink.wait_unready("results").await;
    sink.running.drain().await;
}

#[tokio::test]
async fn a_sink_follows_the_ticket_setting_and_the_keys() {
    let stack = TestStack::new().await;
    let sink = stack.start_sink().await;
    let without = |number| CheckResult { ticket: None, installation: None, ..stack.make_result(number) };
    let required = async |required: u64| {
        eventually(TEST_TIMEOUT, "the sink to follow", async || {
            sink.metric_value("picket_sink_tickets_required") == required
        })
        .await;
    };
    required(1).await;

    stack.query_count("UPDATE picket.settings SET require_tickets = false RETURNING 1::bigint").await;
    required(0).await;
    stack.publish_raw("picket.result.eu.7", encode_result(&without(0))).await;
    stack.wait_rows(1).await;

    stack.query_count("UPDATE picket.settings SET require_tickets = true RETURNING 1::bigint").await;
    stack
        .query_count("UPDATE picket.ticket_keys SET retired_at = now() - interval '2 h' RETURNING 1::bigint")
        .await;
    required(1).await;
    stack.publish_raw("picket.result.eu.7", encode_result(&stack.make_result(1))).await;
    stack.wait_acknowledged().await;
    eventually(TEST_TIMEOUT, "the result to be parked", async || {
        stack.query_count("SELECT count(*) FROM picket.dead_letters WHERE reason LIKE '%retired%'").await == 1
    })
    .await;
    sink.running.drain().await;
}
