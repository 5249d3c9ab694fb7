//! Faults of NATS.

use std::time::Duration;

use picket_e2e::fault_test::{FaultTest, Topology};

use crate::results::wait_results_stored;

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f10_all_processes_reconnect_to_a_restarted_or_killed_bus_and_no_result_is_lost() {
    let mut drill =
        FaultTest::start("F10", "NATS restarted, then kill -9 and away for 5 s", Topology::default()).await;

    drill.mark_fault_started().await;
    drill.stack.nats.restart().await;
    drill.wait_served().await;
    drill.stack.nats.kill().await;
    // The fault is its duration.
    tokio::time::sleep(Duration::from_secs(5)).await;
    drill.stack.nats.start().await;
    drill.mark_fault_ended().await;
    drill.wait_served().await;
    drill.wait_balanced().await;

    for process in drill.all_processes() {
        process.wait_ready().await;
        assert_eq!(process.read_metric("picket_nats_connects_total"), 3.0, "{}", process.read_log());
    }
    for (_, prober) in &drill.probers {
        assert_eq!(prober.read_metric("picket_prober_results_lost_total"), 0.0, "{}", prober.read_log());
    }
    wait_results_stored(&drill).await;
    let account = drill.verify_account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    // A job in flight to a prober is redelivered too, after it has expired: it was scheduled and
    // not performed.
    assert!(account.missed_for_cause("not_scheduled") > account.missed / 2, "{account:#?}");
    assert!(account.recovery_s < 15.0, "{account:#?}");
    drill.stop().await;
}
