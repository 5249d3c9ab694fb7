//! The death of a task that is no actor ends the pipeline, which is rebuilt.

use std::time::Duration;

use picket_harness::{eventually, injected_panic::inject_panic, servers};
use picket_proto::{Role, Shard, subject};
use picket_runtime::{Bus, Health, options::NatsOptions};
use picket_store::{
    DatabaseOptions, Store,
    settings::{SettingValue, update_settings},
};
use sqlx::PgPool;

use crate::{Config, start};

const TEST_DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_panic_of_a_listener_rebuilds_the_coordinators_pipeline() {
    let nats = servers::start_nats().await;
    let url = servers::shared_postgres().await.create_database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    let store = Store::new(&DatabaseOptions { database_url: Some(url) }, "test", 5).unwrap();
    store.migrate(4).await.unwrap();
    let health = Health::new();
    let options = NatsOptions::with_url(nats.url());
    let bus = Bus::connect(&options, &Role::Coordinator, "test", &health).await.unwrap();
    let settings = [
        ("lease_time", SettingValue::Duration(Duration::from_secs(30))),
        ("ledger_grace", SettingValue::Duration(Duration::from_secs(10))),
        ("batch_delay", SettingValue::Duration(Duration::from_millis(100))),
        ("results_max_bytes", SettingValue::Bytes(64 << 20)),
    ];
    update_settings(&store, &settings).await.unwrap();
    let config = Config { name: "test".to_owned(), max_jobs_bytes: 64 << 20 };
    let coordinator = start(config, bus.clone(), store, health.clone()).await.unwrap();

    // The first task once more at the end: its successor in a rebuilt pipeline works.
    let tasks = ["confirmation_listener", "notification_listener", "confirmation_listener"];
    for (restarts, task) in (1..).zip(tasks) {
        inject_panic(task);
        eventually(TEST_DEADLINE, "an unready pipeline", async || {
            let request = subject::confirmation_request(Shard(0));
            bus.client.publish(request, "anything".into()).await.unwrap();
            sqlx::raw_sql("NOTIFY picket_sites").execute(&pool).await.unwrap();
            let reason = health.unready_checks().into_iter().find(|(name, _)| *name == "pipeline");
            reason.filter(|(_, reason)| reason.contains(&format!("injected into {task}")))
        })
        .await;
        eventually(TEST_DEADLINE, "a rebuilt pipeline", async || {
            let restarts = format!("picket_pipeline_restarts_total {restarts}\n");
            let is_counted = health.encode_metrics().unwrap().contains(&restarts);
            if is_counted && health.unready_checks().is_empty() {
                Ok(())
            } else {
                Err(health.unready_checks())
            }
        })
        .await;
    }
    coordinator.drain().await;
}
