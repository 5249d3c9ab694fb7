//! What may happen to NATS.

use std::time::Duration;

use picket_e2e::drill::{Drill, Scene};

use crate::results::every_result_has_a_row;

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f10_a_bus_that_is_restarted_or_killed_is_taken_up_again_by_all_and_no_result_is_lost() {
    let mut drill =
        Drill::start("F10", "NATS restarted, then kill -9 and away for 5 s", Scene::default()).await;

    drill.injured().await;
    drill.stack.nats.restart().await;
    drill.served().await;
    drill.stack.nats.kill().await;
    // The injury is the time itself.
    tokio::time::sleep(Duration::from_secs(5)).await;
    drill.stack.nats.start().await;
    drill.healed().await;
    drill.served().await;
    drill.share().await;

    for process in drill.processes() {
        process.ready().await;
        assert_eq!(process.metric("picket_nats_connects_total"), 3.0, "{}", process.log());
    }
    for (_, prober) in &drill.probers {
        assert_eq!(prober.metric("picket_prober_results_lost_total"), 0.0, "{}", prober.log());
    }
    every_result_has_a_row(&drill).await;
    let account = drill.account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    // A job that was on its way to a prober comes again too, when it has expired: it was scheduled, and nobody did it.
    assert!(account.missed_for("not_scheduled") > account.missed / 2, "{account:#?}");
    assert!(account.recovery_s < 15.0, "{account:#?}");
    drill.stop().await;
}
