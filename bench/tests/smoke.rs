//! The bench itself works: no number here decides anything.

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn each_setting_of_the_probers_bench_does_checks_on_both_sides_and_measures_those_that_wait() {
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
        for side in setting["pairs"][0].as_array().expect("two sides") {
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
fn the_bench_of_reports_fills_a_database_and_asks_every_question() {
    let said = Command::new(env!("CARGO_BIN_EXE_picket-bench"))
        .args(["reports", "--sites", "30", "--days", "2", "--hours", "1"])
        .output()
        .expect("the bench");

    let markdown = String::from_utf8_lossy(&said.stdout);
    // How fast it was decides nothing here.
    assert!(markdown.contains("| a site's months | "), "{markdown}{}", String::from_utf8_lossy(&said.stderr));
    assert!(markdown.contains("| the fleet's hours of a day | 7"), "{markdown}");
}
