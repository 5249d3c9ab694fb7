//! Clocks that are wrong.

use std::path::Path;

use picket_e2e::drill::{Drill, Scene};

/// Builds the library that a process with a wrong clock is started with.
fn skew(dir: &Path) -> String {
    let library = dir.join("skew.so");
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/skew.c"))
        .arg("-ldl")
        .status();
    assert!(built.is_ok_and(|status| status.success()), "cc builds skew.c, as it links Rust");
    library.display().to_string()
}

fn variables<'a>(library: &'a str, seconds: &'a str) -> [(&'a str, &'a str); 2] {
    [("LD_PRELOAD", library), ("SKEW_SECONDS", seconds)]
}

#[tokio::test]
async fn f15_coordinators_whose_clocks_are_minutes_wrong_schedule_what_is_due_when_it_is_due_and_say_so() {
    let mut drill =
        Drill::start("F15", "coordinators 5 min fast and 5 min slow take over", Scene::default()).await;
    let library = skew(&drill.scratch());

    for seconds in ["300", "-300"] {
        let wrong = drill.coordinator_with(&[], &variables(&library, seconds)).await;
        wrong.ready().await;
        drill.coordinators.push(wrong);
    }
    drill.injured().await;
    drill.share().await;
    drill.served().await;
    // Now they are alone, and close the ledger as well.
    for right in drill.coordinators.drain(..2).collect::<Vec<_>>() {
        right.stop().await;
    }
    drill.share().await;
    drill.served().await;
    for wrong in &drill.coordinators {
        wrong.says("this machine's clock is").await;
    }

    let account = drill.account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    assert!(account.latest_ms < 3_000, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f15b_probers_and_sinks_whose_clocks_are_minutes_wrong_lose_nothing_and_date_checks_rightly() {
    let mut drill = Drill::start(
        "F15b",
        "all probers and sinks replaced by ones 10 min fast or slow",
        Scene { probers: 1, sinks: 1, ..Scene::default() },
    )
    .await;
    let library = skew(&drill.scratch());

    let wrong = [("east", "600"), ("west", "-600")];
    for (region, seconds) in wrong {
        let prober = drill.prober_with(region, &variables(&library, seconds)).await;
        prober.ready().await;
        drill.probers.push((region, prober));
    }
    for (_, right) in drill.probers.drain(..2).collect::<Vec<_>>() {
        right.stop().await;
    }
    for (_, seconds) in wrong {
        let sink = drill.stack.process("picket-sink", &[], &variables(&library, seconds)).await;
        sink.ready().await;
        drill.sinks.push(sink);
    }
    drill.sinks.remove(0).stop().await;
    drill.injured().await;
    drill.served().await;
    for (_, prober) in &drill.probers {
        prober.says("this machine's clock is").await;
    }

    let account = drill.account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    assert!(account.latest_ms < 3_000, "{account:#?}");
    let earliest = "SELECT (min(lateness_us) / 1000)::bigint FROM picket.check_results";
    assert!(drill.stack.number(earliest).await >= 0, "no check began before it was due");
    drill.stop().await;
}
