//! What may happen to Postgres.

use std::time::Duration;

use picket_e2e::drill::{Drill, LEASE, LONG, Scene, Setting, Witness};
use picket_testkit::{eventually, servers};

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f8_a_database_that_is_away_for_a_minute_costs_no_result_and_makes_no_second_scheduler() {
    let mut postgres = servers::own_postgres().await;
    let mut drill = Drill::start_in(
        "F8",
        "Postgres stopped for a minute",
        Scene::default(),
        Setting { database: Some(postgres.url().to_owned()), ..Setting::default() },
    )
    .await;
    let witness = Witness::of(&drill).await;

    let stopped = drill.injured().await;
    postgres.stop().await;
    // The injury is the time itself.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for coordinator in &drill.coordinators {
        assert_eq!(coordinator.metric("picket_coordinator_leases_held"), 0.0);
        assert!(coordinator.log().contains("lease lost"), "{}", coordinator.log());
    }
    postgres.start().await;
    let healed = drill.healed().await;
    drill.share().await;
    drill.served().await;
    for process in drill.processes() {
        process.ready().await;
    }

    assert_eq!(witness.out_of_turn(), [], "published by two for one shard");
    let rows = |condition: &str| {
        format!(
            "SELECT count(*) FROM picket.check_results WHERE scheduled_at > '{stopped}'
               AND scheduled_at < '{healed}' AND {condition}"
        )
    };
    // A lease is believed in for a while without the database: what was done in it is stored now.
    assert!(drill.stack.number(&rows("outcome <> 'missed'")).await > 0);
    let lease = LEASE.as_secs();
    let no_lease = rows(&format!(
        "outcome <> 'missed' AND scheduled_at > '{stopped}'::timestamptz + interval '{lease} seconds'
         AND scheduled_at < '{healed}'::timestamptz - interval '20 seconds'"
    ));
    assert_eq!(drill.stack.number(&no_lease).await, 0);
    let account = drill.account().await;
    assert_eq!(drill.missed("cause <> 'not_scheduled'").await, [""; 0], "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f9_a_database_that_is_killed_costs_no_result_and_doubles_none() {
    let mut postgres = servers::own_postgres().await;
    let mut drill = Drill::start_in(
        "F9",
        "kill -9 of a sink's backend of Postgres, then of the postmaster",
        Scene::default(),
        Setting { database: Some(postgres.url().to_owned()), ..Setting::default() },
    )
    .await;
    let witness = Witness::of(&drill).await;

    drill.injured().await;
    let backend = drill
        .stack
        .lines("SELECT pid::text FROM pg_stat_activity WHERE application_name LIKE 'picket-sink%'")
        .await;
    let killed =
        std::process::Command::new("kill").args(["-9", backend.first().expect("a session")]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    // All sessions end with it, a moment later.
    eventually(LONG, "the database's recovery", async || {
        let ready = postgres.log().matches("ready to accept connections").count();
        if ready == 2 { Ok(()) } else { Err(ready) }
    })
    .await;
    drill.served().await;
    postgres.kill().await;
    postgres.start().await;
    drill.healed().await;
    drill.share().await;
    drill.served().await;

    assert_eq!(witness.out_of_turn(), [], "published by two for one shard");
    assert!(postgres.log().contains("database system was not properly shut down"));
    let account = drill.account().await;
    assert_eq!(drill.missed("cause <> 'not_scheduled'").await, [""; 0], "{account:#?}");
    drill.stop().await;
}
