//! The NATS server's clock, as a witness.

use std::time::Duration;

use picket_proto::Role;
use picket_runtime::{Bus, Health, clock::wall, options::NatsOptions, streams};
use picket_testkit::servers;

#[tokio::test]
async fn the_server_says_what_time_it_is_once_the_stream_of_jobs_is_there() {
    let server = servers::nats().await;
    let bus =
        Bus::connect(&NatsOptions::at(server.url()), &Role::Operator, "test", &Health::new()).await.unwrap();
    bus.connected().await.unwrap();
    let close = async || {
        let reading = streams::server_time(&bus.jetstream).await?;
        Some(wall().since(reading.now).max(reading.now.since(wall())) < Duration::from_secs(30))
    };

    // An error has no time, and is no witness.
    assert_eq!(close().await, None);
    streams::ensure(&bus.jetstream, streams::jobs(streams::Durability::default())).await.unwrap();
    assert_eq!(close().await, Some(true));
}
