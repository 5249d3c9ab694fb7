//! What may happen between the bus and a region.

use std::time::Duration;

use picket_e2e::drill::{Drill, Scene};

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f11_a_region_that_is_cut_off_is_missed_there_and_nowhere_else_and_comes_back_by_itself() {
    let scene = Scene { linked: Some("east"), ..Scene::default() };
    let mut drill = Drill::start("F11", "a region cut off from the bus for 40 s", scene).await;

    // Nothing is reset: packets get lost, and either side has to notice by itself.
    drill.link.blackhole();
    drill.injured().await;
    drill.served_in("region.name <> 'east'").await;
    drill.endure(Duration::from_secs(40)).await;
    for (_, prober) in drill.probers.iter().filter(|(region, _)| *region == "east") {
        prober.unready("").await;
    }
    drill.link.heal().await;
    drill.healed().await;
    drill.served().await;

    let account = drill.account().await;
    assert_eq!(account.missed_in("west"), 0, "{account:#?}");
    // What is due every two seconds alone are 120 ticks.
    assert!(account.missed_in("east") >= 100, "{account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}
