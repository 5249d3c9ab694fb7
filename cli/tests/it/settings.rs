//! `picket settings`, and initial settings of `picket migrate`.

use serde_json::Value;

use crate::{Picket, picket_command};

#[tokio::test]
async fn settings_are_listed_read_and_changed() {
    let picket = Picket::new().await;

    assert_eq!(picket.run_ok(&["settings", "get", "lease_time"]), "15s\n");
    let told = picket.run_ok(&["settings", "set", "lease_time", "30s"]);
    assert!(told.contains("lease_time: '15s' → '30s'") && told.contains("within 2 s"), "{told}");
    assert!(picket.run_ok(&["settings", "set", "lease_time", "30000ms"]).contains("nothing was changed"));
    picket.run_ok(&["settings", "set", "public_url", "https://status.example.com"]);
    picket.run_ok(&["settings", "set", "require_tickets", "false"]);

    let table = picket.run_ok(&["settings", "list"]);
    assert!(table.contains("lease_time") && table.contains("8GiB") && table.contains("MEANING"), "{table}");
    let listed: Vec<Value> =
        serde_json::from_str(&picket.run_ok(&["settings", "list", "--output", "json"])).unwrap();
    let of = |name: &str| listed.iter().find(|setting| setting["name"] == name).unwrap();
    assert_eq!((&of("lease_time")["value"], &of("lease_time")["default"]), (&"30s".into(), &"15s".into()));
    assert_eq!(of("public_url")["value"], "https://status.example.com");
    assert_eq!((&of("shards")["value"], &of("require_tickets")["value"]), (&"4".into(), &"false".into()));
    assert!(of("installation_id")["default"].is_null());
}

#[tokio::test]
async fn an_invalid_setting_is_refused_with_name_value_and_allowed_range() {
    let picket = Picket::new().await;

    for (arguments, parts) in [
        (&["lease", "15s"][..], &["setting: 'lease'", "lease_time"][..]),
        (&["lease_time", "1s"], &["lease_time: '1s'", "3s to 5m"]),
        (&["min_interval", "-5s"], &["min_interval: '-5s'", "1s to 1d"]),
        (
            &["retention_days", "1000"],
            &["retention_days: '1000'", "rollup_hours_days is at least retention_days"],
        ),
        (&["shards", "8"], &["shards: '8'", "fixed"]),
        (&["installation_id", "8"], &["installation_id: '8'", "fixed"]),
    ] {
        let refusal = picket.run_rejected(&[&["settings", "set"], arguments].concat());
        assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
    }
    picket.run_rejected(&["settings", "get", "leasetime"]);
}

#[tokio::test]
async fn a_narrower_range_reports_the_count_of_unchecked_sites_and_applies_to_commands() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://a.example", "--interval", "5s"]);

    let told = picket.run_ok(&["settings", "set", "min_interval", "30s"]);
    assert!(told.contains("1 sites"), "{told}");
    let refusal = picket.run_rejected(&["site", "add", "https://b.example", "--interval", "10s"]);
    assert!(refusal.contains("30 to 86400 (settings min_interval and max_interval)"), "{refusal}");
    let refusal = picket.run_rejected(&["generate", "3", "--base-url", "http://c/", "--interval", "10s"]);
    assert!(refusal.contains("30 to 86400"), "{refusal}");
    picket.run_ok(&["settings", "set", "min_interval", "5s"]);
    assert!(picket.run_ok(&["site", "list", "--output", "json"]).contains("\"problem\": null"));
}

#[tokio::test]
async fn migrate_sets_the_given_settings_and_leaves_the_others_unchanged() {
    let picket = Picket::new().await;
    picket.run_ok(&["settings", "set", "ledger_grace", "60s"]);

    // One by option, one by variable, the third as it is.
    let migrate = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = picket_command(picket.dir());
        command.env("DATABASE_URL", &picket.database_url).envs(variables.iter().copied());
        command.arg("migrate").args(arguments).output().unwrap()
    };
    let output = migrate(
        &[("PICKET_RETENTION_DAYS", "7"), ("PICKET_GATHER", "10ms")],
        &["--lease-time", "6s", "--results-max-bytes", "1GiB"],
    );
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        told.contains("setting lease_time: '15s' → '6s'") && told.contains("retention_days: '30' → '7'"),
        "{told}"
    );
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(
        warned.contains("PICKET_GATHER") && warned.contains("picket settings set batch_delay"),
        "{warned}"
    );
    for (name, value) in [
        ("lease_time", "6s"),
        ("retention_days", "7"),
        ("results_max_bytes", "1GiB"),
        ("ledger_grace", "1m"),
        ("batch_delay", "250ms"),
    ] {
        assert_eq!(picket.run_ok(&["settings", "get", name]).trim(), value);
    }

    let output = migrate(&[], &["--lease-time", "6s"]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("setting"), "{output:?}");
    let output = migrate(&[("PICKET_MIN_INTERVAL", "2h")], &["--max-interval", "1h"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("min_interval is at most max_interval"),
        "{output:?}"
    );
    assert_eq!(picket.run_ok(&["settings", "get", "max_interval"]), "1d\n");
}
