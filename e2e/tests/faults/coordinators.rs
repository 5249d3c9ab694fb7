//! What may happen to a coordinator.

use picket_e2e::drill::{Drill, Scene};

#[tokio::test]
async fn f1_a_killed_coordinators_shards_are_taken_over_and_no_tick_is_lost_without_a_trace() {
    let mut drill = Drill::start("F1", "kill -9 one of two coordinators", Scene::default()).await;

    drill.coordinators.remove(0).kill().await;
    drill.injured().await;
    drill.share().await;
    drill.served().await;

    let account = drill.account().await;
    assert_eq!(account.missed, account.missed_for("not_scheduled"), "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f3_a_coordinator_that_is_stopped_hands_over_and_no_tick_is_missed() {
    let mut drill = Drill::start("F3", "SIGTERM one of two coordinators", Scene::default()).await;

    drill.coordinators.remove(0).stop().await;
    drill.injured().await;
    drill.share().await;
    drill.served().await;

    let account = drill.account().await;
    assert_eq!(account.missed, 0, "{account:#?}");
    // The promise is a second; a machine that is busy with other tests may be slower by itself.
    assert!(account.latest_ms < 3_000, "{account:#?}");
    drill.stop().await;
}
