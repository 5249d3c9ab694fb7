//! Losses by a failover or a restore.

use std::time::Duration;

use picket_e2e::fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT};
use picket_harness::{eventually, servers};

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f24_acknowledged_results_lost_by_a_failover_are_replayed_from_the_stream() {
    let mut postgres = servers::start_postgres().await;
    let mut drill = FaultTest::start_with(
        "F24",
        "Postgres goes back to its data of 20 s before",
        Topology::default(),
        Environment { database: Some(postgres.url().to_owned()), ..Environment::default() },
    )
    .await;
    let copy = drill.scratch_dir().join("data");
    postgres.copy_data(&copy).await;
    drill.wait_balanced().await;
    drill.wait_served().await;

    let from = drill.mark_fault_started().await;
    // The fault is its duration.
    drill.run_for(Duration::from_secs(20)).await;
    drill.wait_served().await;
    let to = drill.database_now().await;
    let real = format!(
        "SELECT count(*) FROM picket.check_results
         WHERE kind = 'scheduled' AND outcome <> 'missed' AND scheduled_at > '{from}' AND scheduled_at <= '{to}'"
    );
    let stored = drill.stack.query_number(&real).await;
    assert!(stored > 0);
    postgres.roll_back_to(&copy).await;

    eventually(WAIT_TIMEOUT, "the results that were lost", async || {
        let found = drill.stack.query_number(&real).await;
        if found >= stored { Ok(()) } else { Err(format!("{found} of {stored}")) }
    })
    .await;
    drill.mark_fault_ended().await;
    drill.wait_balanced().await;
    drill.wait_served().await;
    let replayed: f64 =
        drill.sinks.iter().map(|sink| sink.read_metric("picket_sink_replayed_results_total")).sum();
    assert!(replayed > 0.0);
    let account = drill.verify_account().await;
    assert!(drill.stack.query_number(&real).await >= stored, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f24b_a_database_restored_into_another_cluster_continues_where_the_old_one_ended() {
    let mut drill =
        FaultTest::start("F24b", "Postgres dumped, and restored into another cluster", Topology::default())
            .await;
    let from = drill.mark_fault_started().await;
    let dump = servers::dump_database(drill.stack.database_url()).await;
    // The time after the dump is lost.
    drill.run_for(Duration::from_secs(10)).await;
    drill.wait_served().await;
    let to = drill.database_now().await;
    let real = format!(
        "SELECT count(*) FROM picket.check_results
         WHERE kind = 'scheduled' AND outcome <> 'missed' AND scheduled_at > '{from}' AND scheduled_at <= '{to}'"
    );
    let stored = drill.stack.query_number(&real).await;
    for process in drill.coordinators.drain(..).chain(drill.sinks.drain(..)) {
        process.stop().await;
    }
    let other = servers::start_postgres().await;
    drill.stack.switch_database(other.restore_dump(&dump).await);

    let (code, said, _) = drill.stack.run_picket(&["migrate"]).await;
    assert!(code == 0 && said.contains("restored from another cluster"), "{said}");
    for _ in 0..2 {
        let (sink, coordinator) = (drill.spawn_sink().await, drill.spawn_coordinator().await);
        drill.sinks.push(sink);
        drill.coordinators.push(coordinator);
    }
    eventually(WAIT_TIMEOUT, "the results that were not in the dump", async || {
        let found = drill.stack.query_number(&real).await;
        if found >= stored { Ok(()) } else { Err(format!("{found} of {stored}")) }
    })
    .await;
    drill.mark_fault_ended().await;
    drill.wait_balanced().await;
    drill.wait_served().await;
    let account = drill.verify_account().await;
    assert_eq!(drill.describe_missed("cause <> 'not_scheduled'").await, [""; 0], "{account:#?}");
    drill.stop().await;
}
