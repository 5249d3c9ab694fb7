//! What a failover may lose.

use std::time::Duration;

use picket_e2e::drill::{Drill, LONG, Scene, Setting};
use picket_testkit::{eventually, servers};

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f24_results_that_were_acknowledged_and_lost_by_a_failover_come_back_from_the_stream() {
    let mut postgres = servers::own_postgres().await;
    let mut drill = Drill::start_in(
        "F24",
        "Postgres goes back to its data of 20 s before",
        Scene::default(),
        Setting { database: Some(postgres.url().to_owned()), ..Setting::default() },
    )
    .await;
    let copy = drill.scratch().join("data");
    postgres.copy_data(&copy).await;
    drill.share().await;
    drill.served().await;

    let from = drill.injured().await;
    // The injury is the time itself.
    drill.endure(Duration::from_secs(20)).await;
    drill.served().await;
    let to = drill.now().await;
    let real = format!(
        "SELECT count(*) FROM picket.check_results
         WHERE kind = 'scheduled' AND outcome <> 'missed' AND scheduled_at > '{from}' AND scheduled_at <= '{to}'"
    );
    let stored = drill.stack.number(&real).await;
    assert!(stored > 0);
    postgres.set_back(&copy).await;

    eventually(LONG, "the results that were lost", async || {
        let found = drill.stack.number(&real).await;
        if found >= stored { Ok(()) } else { Err(format!("{found} of {stored}")) }
    })
    .await;
    drill.healed().await;
    drill.share().await;
    drill.served().await;
    let replayed: f64 = drill.sinks.iter().map(|sink| sink.metric("picket_sink_replayed_total")).sum();
    assert!(replayed > 0.0);
    let account = drill.account().await;
    assert!(drill.stack.number(&real).await >= stored, "{account:#?}");
    drill.stop().await;
}
