//! Acknowledged messages survive a kill -9 of the server.
//!
//! A power cut loses at most the messages of the last second, the server's `sync_interval`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use futures_util::{StreamExt, future::join_all};
use parking_lot::Mutex;
use picket_harness::{eventually, servers};
use picket_proto::{Role, Shard, subject};
use picket_runtime::{Bus, Health, options::NatsOptions, streams};

const EVENTUALLY_TIMEOUT: Duration = Duration::from_secs(60);
const PUBLISHER_COUNT: u32 = 4;
/// Published by each before it looks at the acknowledgements.
const PUBLISH_BATCH: u32 = 64;
/// Acknowledged between two kills.
const ACKS_BETWEEN_KILLS: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_server_kills_under_load_lose_no_acknowledged_result() {
    let mut server = servers::start_nats().await;
    let bus = Bus::connect(&NatsOptions::with_url(server.url()), &Role::Operator, "test", &Health::new())
        .await
        .unwrap();
    bus.wait_connected().await.unwrap();
    streams::create_if_missing(&bus.jetstream, streams::results_config(streams::StreamLimits::default()))
        .await
        .unwrap();
    let acknowledged = Arc::new(Mutex::new(HashSet::new()));
    let publishers: Vec<_> = (0..PUBLISHER_COUNT)
        .map(|publisher| tokio::spawn(publish_forever(bus.clone(), publisher, Arc::clone(&acknowledged))))
        .collect();

    for _ in 0..3 {
        let so_far = acknowledged.lock().len();
        eventually(EVENTUALLY_TIMEOUT, "acknowledgements", async || {
            let now = acknowledged.lock().len();
            if now >= so_far + ACKS_BETWEEN_KILLS { Ok(()) } else { Err(now) }
        })
        .await;
        server.kill().await;
        server.start().await;
    }
    let so_far = acknowledged.lock().len();
    eventually(EVENTUALLY_TIMEOUT, "acknowledgements again", async || acknowledged.lock().len() > so_far)
        .await;
    publishers.iter().for_each(tokio::task::JoinHandle::abort);
    join_all(publishers).await;

    let acknowledged = acknowledged.lock().clone();
    let there = read_all_payloads(&bus).await;
    let lost = acknowledged.difference(&there).count();
    assert_eq!(lost, 0, "of {} that were acknowledged; {} are there", acknowledged.len(), there.len());
}

/// Publishes for ever, and records the acknowledged messages.
async fn publish_forever(bus: Bus, publisher: u32, acknowledged: Arc<Mutex<HashSet<String>>>) {
    let subject = subject::site_result(&"eu".parse().unwrap(), Shard(1));
    for round in 0_u32.. {
        let publishing = (0..PUBLISH_BATCH).map(async |number| {
            let payload = format!("{publisher} {round} {number}");
            let sent = bus.jetstream.publish(subject.clone(), payload.clone().into()).await.ok()?;
            sent.await.ok().map(|_| payload)
        });
        let published = join_all(publishing).await;
        acknowledged.lock().extend(published.into_iter().flatten());
    }
}

/// All that the stream holds.
async fn read_all_payloads(bus: &Bus) -> HashSet<String> {
    let mut stream = eventually(EVENTUALLY_TIMEOUT, "the stream", async || {
        bus.jetstream.get_stream(subject::RESULTS_STREAM).await
    })
    .await;
    let there = usize::try_from(stream.info().await.unwrap().state.messages).unwrap();
    let config = OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
    let messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let texts =
        messages.take(there).map(|message| String::from_utf8_lossy(&message.unwrap().payload).into_owned());
    texts.collect().await
}
