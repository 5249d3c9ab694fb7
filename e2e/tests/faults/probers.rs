//! What may happen to probers.

use picket_e2e::drill::{Drill, Scene};

#[tokio::test]
async fn f6_a_region_without_probers_is_missed_there_and_nowhere_else_and_goes_on_when_they_are_back() {
    let mut drill = Drill::start("F6", "kill -9 all probers of a region for 15 s", Scene::default()).await;

    let (dead, living) = drill.probers.drain(..).partition(|(region, _)| *region == "east");
    drill.probers = living;
    let dead: Vec<_> = dead;
    for (_, prober) in dead {
        prober.kill().await;
    }
    drill.injured().await;
    drill
        .stack
        .at_least(
            picket_e2e::drill::LONG,
            20,
            "SELECT count(*) FROM picket.check_results WHERE outcome = 'missed'",
        )
        .await;
    // Nobody works there: that is told, and is no incident of a site.
    drill.stack.at_least(picket_e2e::drill::LONG, 1, "SELECT count(*) FROM picket.silent_regions").await;
    let prober = drill.prober("east").await;
    prober.ready().await;
    drill.probers.push(("east", prober));
    drill.healed().await;
    drill.served().await;

    picket_testkit::eventually(picket_e2e::drill::LONG, "the region to be back, and all told", async || {
        let left =
            "SELECT (SELECT count(*) FROM picket.silent_regions) + (SELECT count(*) FROM picket.outbox)";
        drill.stack.number(left).await == 0
    })
    .await;
    let account = drill.account().await;
    assert_eq!(account.missed_in("west"), 0, "{account:#?}");
    assert!(account.missed_for("no_prober") >= 20, "{account:#?}");
    drill.stop().await;
}
