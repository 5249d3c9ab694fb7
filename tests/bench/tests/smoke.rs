//! The bench itself works: no number here decides anything.

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn the_full_bench_finds_every_row_and_writes_its_table() {
    let dir = tempfile::tempdir().expect("a directory");

    let said = Command::new(env!("CARGO_BIN_EXE_picket-bench"))
        .args(["all", "--smoke", "--out"])
        .arg(dir.path())
        .output()
        .expect("the bench");

    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let markdown = fs::read_to_string(dir.path().join("bench.md")).expect("Markdown");
    assert!(markdown.contains("| goal | wanted | found |"), "{markdown}");
    let report: Value =
        serde_json::from_slice(&fs::read(dir.path().join("bench.json")).expect("JSON")).expect("JSON");
    let levels = [&report["chain"]["levels"], &report["growth"]["levels"]];
    let levels: Vec<&Value> = levels.iter().flat_map(|levels| levels.as_array().expect("levels")).collect();
    assert_eq!(levels.len(), 4);
    for level in levels {
        // How fast and how late decides nothing here.
        assert!(level["expected"].as_i64() > Some(0), "{level}");
        assert_eq!((&level["found"], &level["unaccounted"]), (&level["expected"], &0.into()), "{level}");
        assert_eq!(level["cpu_us"].as_array().map(Vec::len), Some(5), "{level}");
    }
    assert_eq!(report["sink"]["rows"], 2_000);
    let coordinator = &report["coordinator"];
    assert_eq!(coordinator["held"]["schedules"], 1_000);
    assert_eq!(coordinator["loads"].as_array().map(Vec::len), Some(3), "{coordinator}");
    // Installed tools are measured, and missing ones are named.
    let (peers, left_out) = (&report["peers"]["peers"], &report["peers"]["left_out"]);
    for peer in peers.as_array().expect("peers") {
        assert!(peer["checks"].is_i64() && peer["checks"] == peer["up"], "{peer}");
    }
    let ways = peers.as_array().map_or(0, Vec::len) + left_out.as_array().map_or(0, Vec::len);
    assert!(ways >= 2, "{peers} {left_out}");
}

#[test]
fn each_configuration_of_the_prober_bench_runs_all_contenders_and_measures_waiting_checks() {
    let file = tempfile::NamedTempFile::new().expect("a file");

    let said = Command::new(env!("CARGO_BIN_EXE_picket-bench"))
        .args(["prober", "--smoke", "--json"])
        .arg(file.path())
        .output()
        .expect("the bench");

    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let markdown = String::from_utf8_lossy(&said.stdout);
    assert!(markdown.contains("| plain | 1 |") && markdown.contains("| TLS | 16 |"), "{markdown}");
    let report: Value = serde_json::from_slice(&fs::read(file.path()).expect("JSON")).expect("JSON");
    let settings = report["settings"].as_array().expect("settings");
    assert_eq!(settings.len(), 6);
    for setting in settings {
        for side in setting["turns"][0].as_array().expect("three sides") {
            assert!(side["checks"].as_u64() > Some(0), "{setting}");
        }
    }
    let memory = report["memory"].as_array().expect("memory");
    assert_eq!(memory.len(), 2);
    for found in memory {
        assert_eq!((&found["check"]["checks"], &found["bare"]["checks"]), (&100.into(), &100.into()));
    }
}

#[test]
fn the_message_bench_completes_every_variant() {
    let said = Command::new(env!("CARGO_BIN_EXE_picket-bench"))
        .args(["messages", "--smoke"])
        .output()
        .expect("the bench");

    let markdown = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(markdown.lines().filter(|line| line.starts_with("| ")).count(), 12, "{markdown}");
}

#[test]
fn the_live_bench_delivers_every_result_to_every_viewer() {
    let file = tempfile::NamedTempFile::new().expect("a file");

    let said = Command::new(env!("CARGO_BIN_EXE_picket-bench"))
        .args(["live", "--smoke", "--json"])
        .arg(file.path())
        .output()
        .expect("the bench");

    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let report: Value = serde_json::from_slice(&fs::read(file.path()).expect("JSON")).expect("JSON");
    let rate = &report["rates"][0];
    assert_eq!((&rate["published"], &rate["delivered"]), (&20.into(), &(20 * 21).into()), "{report}");
}

#[test]
fn the_take_over_bench_compiles_each_regex_once() {
    let file = tempfile::NamedTempFile::new().expect("a file");

    let said = Command::new(env!("CARGO_BIN_EXE_picket-bench"))
        .args(["takeover", "--smoke", "--rounds", "2", "--json"])
        .arg(file.path())
        .output()
        .expect("the bench");

    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let report: Value = serde_json::from_slice(&fs::read(file.path()).expect("JSON")).expect("JSON");
    let compiled: Vec<_> =
        report["rounds"].as_array().expect("rounds").iter().map(|round| &round["compiled"]).collect();
    assert_eq!(compiled, [100.0, 0.0]);
}

#[test]
fn the_report_bench_fills_a_database_and_runs_every_query() {
    let said = Command::new(env!("CARGO_BIN_EXE_picket-bench"))
        .args(["reports", "--sites", "30", "--days", "2", "--hours", "1"])
        .output()
        .expect("the bench");

    let markdown = String::from_utf8_lossy(&said.stdout);
    // How fast it was decides nothing here.
    assert!(markdown.contains("| a site's months | "), "{markdown}{}", String::from_utf8_lossy(&said.stderr));
    assert!(markdown.contains("| the fleet's hours of a day | 7"), "{markdown}");
}

#[test]
fn the_assertions_bench_evaluates_each_case_beside_a_heartbeat() {
    let file = tempfile::NamedTempFile::new().expect("a file");

    let said = Command::new(env!("CARGO_BIN_EXE_picket-bench"))
        .args(["assertions", "--smoke", "--json"])
        .arg(file.path())
        .output()
        .expect("the bench");

    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(String::from_utf8_lossy(&said.stdout).contains("The slowest evaluation took "));
    let cases: Value = serde_json::from_slice(&fs::read(file.path()).expect("JSON")).expect("JSON");
    let cases = cases.as_array().expect("cases");
    assert!(cases.len() >= 10, "{cases:?}");
    // Every body was received and evaluated, or refused by a limit of steps.
    for case in cases {
        let verdict = case["verdict"].as_str().expect("a verdict");
        assert!(["up", "down body", "missed overloaded"].contains(&verdict), "{case}");
    }
}
