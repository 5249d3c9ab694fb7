//! Faults of Postgres.

use std::time::Duration;

use picket_e2e::fault_test::{Environment, FaultTest, JobRecorder, LEASE_TIME, Topology, WAIT_TIMEOUT};
use picket_harness::{eventually, servers};

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f8_a_database_outage_of_a_minute_loses_no_result_and_causes_no_second_scheduler() {
    let mut postgres = servers::start_postgres().await;
    let mut drill = FaultTest::start_with(
        "F8",
        "Postgres stopped for a minute",
        Topology::default(),
        Environment { database: Some(postgres.url().to_owned()), ..Environment::default() },
    )
    .await;
    let witness = JobRecorder::subscribe(&drill).await;

    let stopped = drill.mark_fault_started().await;
    postgres.stop().await;
    // The fault is its duration.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for coordinator in &drill.coordinators {
        assert_eq!(coordinator.read_metric("picket_coordinator_leases_held"), 0.0);
        assert!(coordinator.read_log().contains("lost leases"), "{}", coordinator.read_log());
    }
    postgres.start().await;
    let healed = drill.mark_fault_ended().await;
    drill.wait_balanced().await;
    drill.wait_served().await;
    for process in drill.all_processes() {
        process.wait_ready().await;
    }

    assert_eq!(witness.stale_epoch_jobs(), [], "published by two for one shard");
    let rows = |condition: &str| {
        format!(
            "SELECT count(*) FROM picket.check_results WHERE scheduled_at > '{stopped}'
               AND scheduled_at < '{healed}' AND {condition}"
        )
    };
    // A lease is trusted for a while without the database; its results are stored now.
    assert!(drill.stack.query_number(&rows("outcome <> 'missed'")).await > 0);
    let lease = LEASE_TIME.as_secs();
    let no_lease = rows(&format!(
        "outcome <> 'missed' AND scheduled_at > '{stopped}'::timestamptz + interval '{lease} seconds'
         AND scheduled_at < '{healed}'::timestamptz - interval '20 seconds'"
    ));
    assert_eq!(drill.stack.query_number(&no_lease).await, 0);
    let account = drill.verify_account().await;
    assert_eq!(drill.describe_missed("cause <> 'not_scheduled'").await, [""; 0], "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f9_a_killed_database_loses_and_duplicates_no_result() {
    let mut postgres = servers::start_postgres().await;
    let mut drill = FaultTest::start_with(
        "F9",
        "kill -9 of a sink's backend of Postgres, then of the postmaster",
        Topology::default(),
        Environment { database: Some(postgres.url().to_owned()), ..Environment::default() },
    )
    .await;
    let witness = JobRecorder::subscribe(&drill).await;

    drill.mark_fault_started().await;
    let backend = drill
        .stack
        .query_lines("SELECT pid::text FROM pg_stat_activity WHERE application_name LIKE 'picket-sink%'")
        .await;
    let killed =
        std::process::Command::new("kill").args(["-9", backend.first().expect("a session")]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    // All sessions end with it, a moment later.
    eventually(WAIT_TIMEOUT, "the database's recovery", async || {
        let ready = postgres.read_log().matches("ready to accept connections").count();
        if ready == 2 { Ok(()) } else { Err(ready) }
    })
    .await;
    drill.wait_served().await;
    postgres.kill().await;
    postgres.start().await;
    drill.mark_fault_ended().await;
    drill.wait_balanced().await;
    drill.wait_served().await;

    assert_eq!(witness.stale_epoch_jobs(), [], "published by two for one shard");
    assert!(postgres.read_log().contains("database system was not properly shut down"));
    let account = drill.verify_account().await;
    assert_eq!(drill.describe_missed("cause <> 'not_scheduled'").await, [""; 0], "{account:#?}");
    drill.stop().await;
}
