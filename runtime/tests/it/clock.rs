//! The NATS server's clock, as a witness.

use std::time::Duration;

use picket_harness::servers;
use picket_proto::Role;
use picket_runtime::{Bus, Health, clock::wall_clock_now, options::NatsOptions, streams};

#[tokio::test]
async fn the_server_reports_its_time_once_the_jobs_stream_exists() {
    let server = servers::start_nats().await;
    let bus = Bus::connect(&NatsOptions::with_url(server.url()), &Role::Operator, "test", &Health::new())
        .await
        .unwrap();
    bus.wait_connected().await.unwrap();
    let close = async || {
        let reading = streams::read_server_clock(&bus.jetstream).await?;
        Some(
            wall_clock_now()
                .saturating_duration_since(reading.remote_time)
                .max(reading.remote_time.saturating_duration_since(wall_clock_now()))
                < Duration::from_secs(30),
        )
    };

    // An error has no time, and is no witness.
    assert_eq!(close().await, None);
    streams::create_if_missing(&bus.jetstream, streams::jobs_config(streams::StreamLimits::default()))
        .await
        .unwrap();
    assert_eq!(close().await, Some(true));
}
