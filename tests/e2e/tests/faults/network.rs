//! Faults between the bus and a region.

use std::time::Duration;

use picket_e2e::fault_test::{FaultTest, Topology};

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f11_only_a_region_cut_off_is_missed_and_it_recovers_by_itself() {
    let topology = Topology { proxied_region: Some("east"), ..Topology::default() };
    let mut drill = FaultTest::start("F11", "a region cut off from the bus for 40 s", topology).await;

    // Nothing is reset: packets get lost, and either side has to notice by itself.
    drill.link.blackhole();
    drill.mark_fault_started().await;
    drill.wait_served_in("region.name <> 'east'").await;
    drill.run_for(Duration::from_secs(40)).await;
    for (_, prober) in drill.probers.iter().filter(|(region, _)| *region == "east") {
        prober.wait_unready("").await;
    }
    drill.link.heal().await;
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!(account.missed_in_region("west"), 0, "{account:#?}");
    // What is due every two seconds alone are 120 ticks.
    assert!(account.missed_in_region("east") >= 100, "{account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}
