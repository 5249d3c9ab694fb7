//! What a failover or a restore may lose.

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

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f24b_a_database_restored_from_a_dump_into_another_cluster_goes_on_where_the_old_one_ended() {
    let mut drill =
        Drill::start("F24b", "Postgres dumped, and restored into another cluster", Scene::default()).await;
    let from = drill.injured().await;
    let dump = servers::dump(drill.stack.url()).await;
    // What is lost is the time after the dump.
    drill.endure(Duration::from_secs(10)).await;
    drill.served().await;
    let to = drill.now().await;
    let real = format!(
        "SELECT count(*) FROM picket.check_results
         WHERE kind = 'scheduled' AND outcome <> 'missed' AND scheduled_at > '{from}' AND scheduled_at <= '{to}'"
    );
    let stored = drill.stack.number(&real).await;
    for process in drill.coordinators.drain(..).chain(drill.sinks.drain(..)) {
        process.stop().await;
    }
    let other = servers::own_postgres().await;
    drill.stack.move_to(other.restore(&dump).await);

    let (code, said, _) = drill.stack.picket(&["migrate"]).await;
    assert!(code == 0 && said.contains("restored from another cluster"), "{said}");
    for _ in 0..2 {
        let (sink, coordinator) = (drill.sink().await, drill.coordinator().await);
        drill.sinks.push(sink);
        drill.coordinators.push(coordinator);
    }
    eventually(LONG, "the results that were not in the dump", async || {
        let found = drill.stack.number(&real).await;
        if found >= stored { Ok(()) } else { Err(format!("{found} of {stored}")) }
    })
    .await;
    drill.healed().await;
    drill.share().await;
    drill.served().await;
    let account = drill.account().await;
    assert_eq!(drill.missed("cause <> 'not_scheduled'").await, [""; 0], "{account:#?}");
    drill.stop().await;
}
