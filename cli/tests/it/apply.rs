//! `picket apply` and `picket export`.

use std::fs;

use sqlx::{Connection, PgConnection};

use crate::Picket;

const FILE: &str = "\
regions: [us]
sites:
  - url: https://a.example/
    interval: 30s
    regions: [us]
  - url: https://b.example/
    regex: 'say \"ok\": \\d+'
    headers: {Accept: text/html}
    tags: [x, 'yes']
";

#[tokio::test]
async fn a_file_is_applied_once_and_applying_it_again_changes_nothing() {
    let picket = Picket::new().await;
    fs::write(picket.dir().join("sites.yaml"), FILE).unwrap();

    let first = picket.run_ok(&["apply"]);
    let second = picket.run_ok(&["apply", "-f", "sites.yaml", "--prune"]);

    assert!(first.contains("+ region us\n+ https://a.example/\n"), "{first}");
    assert!(first.ends_with("2 added, 0 changed, 0 removed, 0 unchanged\n"), "{first}");
    assert_eq!(second, "0 added, 0 changed, 0 removed, 2 unchanged\n");
}

#[tokio::test]
async fn an_exported_file_applies_without_changes() {
    let picket = Picket::new().await;
    picket.apply_yaml(FILE, &[]);
    picket.run_ok(&["site", "pause", "1"]);

    let exported = picket.run_ok(&["export"]);
    let applied = picket.apply_yaml(&exported, &["--prune"]);

    assert_eq!(
        String::from_utf8_lossy(&applied.stdout),
        "0 added, 0 changed, 0 removed, 2 unchanged\n",
        "{exported}"
    );
    assert_eq!(picket.run_ok(&["export"]), exported);
}

#[tokio::test]
async fn a_site_that_apply_would_refuse_is_left_out_of_the_export_by_its_reason_and_exit_code() {
    let picket = Picket::new().await;
    picket.apply_yaml(FILE, &[]);
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO picket.sites (url, regex) VALUES ('https://refused.example/', '(');
         INSERT INTO picket.sites (url, interval_seconds) VALUES ('https://hasty.example/', 1)",
    )
    .execute(&mut database)
    .await
    .unwrap();

    let exported = picket.run(&["export"]);
    let file = String::from_utf8(exported.stdout).unwrap();
    let notes = String::from_utf8(exported.stderr).unwrap();
    let applied = picket.apply_yaml(&file, &[]);

    assert_eq!(exported.status.code(), Some(1));
    assert!(file.contains("b.example") && !file.contains("refused") && !file.contains("hasty"), "{file}");
    assert_eq!(notes.lines().count(), 2, "{notes}");
    for part in [
        "site 3 (https://refused.example/)",
        "regex: ",
        "site 4 (https://hasty.example/)",
        "interval_seconds: '1'",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert_eq!(String::from_utf8_lossy(&applied.stdout), "0 added, 0 changed, 0 removed, 2 unchanged\n");
}

#[tokio::test]
async fn regions_of_a_file_without_probers_are_warned_of() {
    let picket = Picket::new().await;
    picket.run_ok(&["region", "add", "asia"]);
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO picket.silent_regions (region_id, since)
         SELECT id, now() FROM picket.regions WHERE name IN ('eu', 'asia')",
    )
    .execute(&mut database)
    .await
    .unwrap();
    let warnings = |file: &str| String::from_utf8(picket.apply_yaml(file, &["--dry-run"]).stderr).unwrap();

    let some = warnings("regions: [us]\nsites:\n  - url: https://a.example/\n    regions: [eu]\n");
    let all = warnings("sites:\n  - url: https://a.example/\n");
    let added = picket.run(&["region", "add", "eu"]);

    assert_eq!(
        some,
        "picket: region eu has no active prober: without a prober its checks are missed; start one: picket-prober --region eu\n\
         picket: region us is new: without a prober its checks are missed; start one: picket-prober --region us\n"
    );
    assert!(all.contains("region asia has") && all.contains("region eu has"), "{all}");
    let said = String::from_utf8(added.stderr).unwrap();
    assert!(said.contains("region eu has no active prober"), "{said}");
}

#[tokio::test]
async fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let picket = Picket::new().await;
    picket.apply_yaml(FILE, &[]);
    let changed = "sites:\n  - url: https://a.example/\n    interval: 5s\n    regions: [us]\n";

    let dry = String::from_utf8(picket.apply_yaml(changed, &["--prune", "--dry-run"]).stdout).unwrap();
    let again = String::from_utf8(picket.apply_yaml(changed, &["--prune"]).stdout).unwrap();

    assert!(
        dry.contains("interval_seconds: 30 → 5") && dry.contains("- https://b.example/ (site 2)"),
        "{dry}"
    );
    assert_eq!(dry, format!("{again}nothing was changed (--dry-run)\n"));
    assert!(!picket.run_ok(&["site", "list"]).contains("b.example"));
}

#[tokio::test]
async fn a_value_that_the_api_has_hidden_is_never_stored() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://a.example", "--header", "X-Key: hunter2"]);
    let file = "sites:\n  - url: https://a.example\n    headers: {X-Key: (hidden)}\n";

    let applied = picket.apply_yaml(file, &[]);
    let refusals = [
        String::from_utf8(applied.stderr).unwrap(),
        picket.run_rejected(&["site", "add", "https://b.example", "--header", "X-Key: (hidden)"]),
        picket.run_rejected(&["site", "set", "1", "--header", "X-Key: (hidden)"]),
    ];

    assert_eq!(applied.status.code(), Some(2));
    for refusal in refusals {
        assert!(refusal.contains("headers.X-Key: '(hidden)' is not allowed"), "{refusal}");
        assert!(refusal.contains("the API does not give out"), "{refusal}");
    }
    assert!(picket.run_ok(&["export"]).contains("hunter2"));
}

#[tokio::test]
async fn an_invalid_site_refuses_the_whole_file_and_all_errors_are_shown() {
    let picket = Picket::new().await;
    let file = "sites:\n  - url: https://good.example/\n  - url: nonsense\n  - url: https://b.example/\n    quorum: 0\n";

    let refused = picket.apply_yaml(file, &[]);
    let unknown = picket.apply_yaml("sites:\n  - url: https://good.example/\n    regions: [mars]\n", &[]);

    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), unknown.status.code()), (Some(2), Some(2)));
    assert!(
        said.contains("line 3") && said.contains("quorum: '0'") && said.contains("nothing was changed"),
        "{said}"
    );
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no such region: mars"), "{unknown:?}");
    assert!(picket.run_ok(&["site", "list"]).contains("no sites yet"));
}

/// Ids of all sites with one field of their options or assertions, in the order of the ids.
fn list_variants(picket: &Picket) -> Vec<(i64, serde_json::Value)> {
    let sites: Vec<serde_json::Value> =
        serde_json::from_str(&picket.run_ok(&["site", "list", "--output", "json"])).unwrap();
    sites.iter().map(|site| (site["id"].as_i64().unwrap(), site["options"]["connect_to"].clone())).collect()
}

#[tokio::test]
async fn sites_that_differ_in_options_or_assertions_alone_are_applied_exported_and_changed_each() {
    let picket = Picket::new().await;
    let file = "sites:\n  - {url: https://a.example/}\n  - {url: https://a.example/, name: one, options: {connect_to: 192.0.2.1}}\n  \
                - {url: https://a.example/, name: two, options: {connect_to: 192.0.2.2}}\n  \
                - {url: https://a.example/, assertions: {warn_after_ms: 500}}\n";
    let applied = String::from_utf8(picket.apply_yaml(file, &[]).stdout).unwrap();
    assert!(applied.ends_with("4 added, 0 changed, 0 removed, 0 unchanged\n"), "{applied}");

    let exported = picket.run_ok(&["export"]);
    let again = String::from_utf8(picket.apply_yaml(&exported, &["--prune"]).stdout).unwrap();
    assert_eq!(again, "0 added, 0 changed, 0 removed, 4 unchanged\n", "{exported}");

    // Two changed options at once: each site is found again by its name, and keeps its id.
    let moved = exported.replace("192.0.2.1", "192.0.2.8").replace("192.0.2.2", "192.0.2.9");
    let changed = String::from_utf8(picket.apply_yaml(&moved, &["--prune"]).stdout).unwrap();
    assert!(changed.ends_with("0 added, 2 changed, 0 removed, 2 unchanged\n"), "{changed}");
    let ids = list_variants(&picket);
    assert_eq!(
        ids,
        [
            (1, serde_json::Value::Null),
            (2, "192.0.2.8".into()),
            (3, "192.0.2.9".into()),
            (4, serde_json::Value::Null)
        ]
    );
}

#[tokio::test]
async fn a_changed_option_or_assertion_in_the_file_changes_the_site_and_keeps_its_history() {
    let picket = Picket::new().await;
    picket.apply_yaml("sites: [{url: https://a.example/}]\n", &[]);

    for changed in [
        "options: {connect_to: 192.0.2.1}",
        "options: {connect_to: 192.0.2.2}, assertions: {warn_after_ms: 500}",
        "assertions: {warn_after_ms: 900}",
    ] {
        let file = format!("sites: [{{url: https://a.example/, {changed}}}]\n");
        let applied = String::from_utf8(picket.apply_yaml(&file, &["--prune"]).stdout).unwrap();
        assert!(applied.starts_with("~ https://a.example/ (site 1)\n"), "{applied}");
        assert!(applied.ends_with("0 added, 1 changed, 0 removed, 0 unchanged\n"), "{applied}");
    }
}
