//! Streams that fill up: the flooding region is named, and the oldest messages are discarded.

use std::time::Duration;

use picket_harness::{Metrics, eventually};
use picket_proto::subject;
use picket_runtime::Health;

use crate::{Stack, TEST_DEADLINE};

/// Publishes `number` messages of `bytes` each.
async fn fill_stream(stack: &Stack, number: usize, bytes: usize, to: impl Fn(usize) -> String) {
    let jetstream = async_nats::jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());
    for n in 0..number {
        jetstream.publish(to(n), vec![b'x'; bytes].into()).await.unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn a_region_that_fills_the_stream_of_results_is_named_in_metrics() {
    let stack = Stack::new().await;
    let health = Health::new();
    let running = stack.start_coordinator_with("one", Duration::from_secs(9), health.clone()).await;
    eventually(TEST_DEADLINE, "a coordinator that is ready", async || {
        let missing = health.unready_checks();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;

    // Without a sink all results wait: a third of the capacity of this test's stream.
    fill_stream(&stack, 350, 60 << 10, |n| format!("picket.result.loud.{}", n % 64)).await;
    let ratio = || Metrics::of_health(&health).sum("picket_coordinator_results_waiting_ratio");
    eventually(TEST_DEADLINE, "a coordinator that sees it", async || {
        if ratio() > Some(0.25) { Ok(()) } else { Err(ratio()) }
    })
    .await;
    // Two samples are compared; arrivals between them are counted.
    let of = |region: &str| {
        let selector = format!("picket_coordinator_results_arrived_total{{region=\"{region}\"}}");
        Metrics::of_health(&health).sum(&selector).unwrap_or(0.0)
    };
    eventually(TEST_DEADLINE, "a region that is named", async || {
        fill_stream(&stack, 3, 100, |_| "picket.result.loud.bundle".to_owned()).await;
        fill_stream(&stack, 1, 100, |_| "picket.result.eu.7".to_owned()).await;
        let seen = (of("loud"), of("eu"));
        if seen.0 > 10.0 && seen.1 > 0.0 { Ok(seen) } else { Err(seen) }
    })
    .await;
    assert!(of("loud") > of("eu"));
    running.drain().await;
}

#[tokio::test]
async fn a_nearly_full_jobs_stream_is_reported_and_discards_only_the_oldest_jobs() {
    let stack = Stack::new().await;
    let health = Health::new();
    let running = stack.start_coordinator_with("one", Duration::from_secs(9), health.clone()).await;
    eventually(TEST_DEADLINE, "a coordinator that is ready", async || {
        let missing = health.unready_checks();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;

    // No prober pulls. The stream of this test holds 64 MiB.
    fill_stream(&stack, 85, 700 << 10, |n| format!("picket.job.eu.{n}")).await;
    let ratio = || Metrics::of_health(&health).sum("picket_coordinator_jobs_stored_ratio");
    eventually(TEST_DEADLINE, "a stream that is nearly full", async || {
        if ratio() > Some(0.8) { Ok(()) } else { Err(ratio()) }
    })
    .await;
    fill_stream(&stack, 20, 700 << 10, |n| format!("picket.job.west.{n}")).await;

    let jetstream = async_nats::jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());
    let state = jetstream.get_stream(subject::JOBS_STREAM).await.unwrap().cached_info().state.clone();
    assert!(state.bytes <= 64 << 20, "{state:?}");
    assert_eq!(state.last_sequence, 105);
    assert_eq!(
        state.first_sequence,
        105 - state.messages + 1,
        "the newest are there, without a hole: {state:?}"
    );
    assert!(state.messages > 80, "{state:?}");
    running.drain().await;
}
