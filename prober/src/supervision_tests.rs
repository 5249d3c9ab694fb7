//! The death of a task that is no actor ends the pipeline, which is rebuilt.

use std::time::Duration;

use picket_harness::{eventually, injected_panic::inject_panic, servers};
use picket_proto::Role;
use picket_runtime::{Bus, Health, options::NatsOptions};

use crate::{Config, start};

const TEST_DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_panic_of_the_heartbeat_rebuilds_the_probers_pipeline() {
    let nats = servers::start_nats().await;
    let (health, region) = (Health::new(), "eu".parse().unwrap());
    let options = NatsOptions::with_url(nats.url());
    let bus = Bus::connect(&options, &Role::Prober("eu".parse().unwrap()), "test", &health).await.unwrap();
    let prober = start(Config::new(region), bus, health.clone()).await.unwrap();

    // Twice: the heartbeat of the rebuilt pipeline runs.
    for restarts in 1..=2 {
        inject_panic("heartbeat");
        eventually(TEST_DEADLINE, "an unready pipeline", async || {
            let reason = health.unready_checks().into_iter().find(|(name, _)| *name == "pipeline");
            reason.filter(|(_, reason)| reason.contains("injected into heartbeat"))
        })
        .await;
        eventually(TEST_DEADLINE, "a rebuilt pipeline", async || {
            let text = health.encode_metrics().unwrap();
            text.contains(&format!("picket_pipeline_restarts_total {restarts}\n"))
                && health.unready_checks().iter().all(|(name, _)| *name != "pipeline")
        })
        .await;
    }
    prober.drain().await;
}
