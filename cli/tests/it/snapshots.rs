//! The output of the main commands, compared with the files in `snapshots/`.
//!
//! `INSTA_UPDATE=always` writes the files.

use sqlx::{Connection, PgConnection};

use crate::{Picket, picket_command};

/// Compares `output` with the snapshot `name`. Times are masked, at their width.
#[track_caller]
fn assert_output(name: &str, output: &str) {
    let masks = [
        (r"\d{4}-\d\d-\d\dT[0-9:.]{15}Z", "<TIME>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "YYYY-MM-DD hh:mm:ss"),
        (r"\d+ s ago", "N s ago"),
        // An open warning grows older.
        (r" 108\d\d  ", " SSSSS  "),
        // Near midnight the day of the checks is two days.
        (r"(?m) {2,}[▁▂▃▄▅▆▇█ ]*[▁▂▃▄▅▆▇█]$", "  <DAYS>"),
    ];
    insta::with_settings!({ filters => masks, prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, output);
    });
}

const FILE: &str = r#"
sites:
  - url: https://shop.example/
    name: shop
    interval: 30s
    timeout: 5s
    regex: '"status": *"ok"'
    headers: {Accept: application/json, Authorization: secret}
    regions: [eu]
    tags: [shop, eu]
    quorum: 1
  - url: https://blog.example/
    enabled: false
  - url: https://old.example/
    method: HEAD
    max_redirects: 0
    ip_version: 6
    tls_verify: false
"#;

#[tokio::test]
async fn site_output_as_plan_list_json_details_and_file() {
    let picket = Picket::new().await;
    let applied = picket.apply_yaml(FILE, &[]);
    assert!(applied.status.success(), "{applied:?}");
    let changed = FILE
        .replace("interval: 30s", "interval: 1m")
        .replace("Authorization: secret", "X-Token: other")
        .replace("quorum: 1", "status: 200,301")
        .replace("https://old.example/", "https://new.example/");

    let plan = picket.apply_yaml(&changed, &["--prune", "--dry-run"]);

    assert_output("apply_plan", &String::from_utf8_lossy(&plan.stdout));
    assert_output("site_list", &picket.run_ok(&["site", "list"]));
    assert_output("site_list_json", &picket.run_ok(&["site", "list", "--output", "json"]));
    assert_output("site_show", &picket.run_ok(&["site", "show", "1"]));
    assert_output("export", &picket.run_ok(&["export"]));
}

#[tokio::test]
async fn status_ledger_and_reports_of_checks() {
    let picket = Picket::new().await;
    picket.run_ok(&["region", "add", "us"]);
    picket.run_ok(&["site", "add", "https://shop.example", "--name", "shop, new"]);
    picket.run_ok(&["site", "add", "https://blog.example", "--name", "blog"]);
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    // Each schedule has as many ticks as minutes in three hours, wherever they lie.
    sqlx::raw_sql(
        "CREATE TABLE the_time AS SELECT now() AS now;
         UPDATE picket.schedules SET valid_from = (SELECT now FROM the_time) - interval '3 hours';
         UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '4 hours',
             days_through = picket.day_of(picket.hour_of(now()) - interval '4 hours');
         INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, total_us)
         SELECT tick, site_id, region_id, 'scheduled', CASE WHEN bad THEN 'down' ELSE 'up' END::picket.outcome,
                CASE WHEN bad THEN 'timeout' END::picket.cause, site_id * 10000
         FROM the_time, picket.schedules
         CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now, valid_from, now) AS tick
         CROSS JOIN LATERAL (SELECT site_id = 1 AND region_id = 2 AND tick < now - interval '2 hours' AS bad) AS judged;
         INSERT INTO picket.incidents (site_id, first_failure_at, opened_at, closed_at, cause, message, regions)
         SELECT 1, now - interval '3 hours', now - interval '3 hours', now - interval '2 hours', 'timeout', 'no answer within 10 s', '{us}'
         FROM the_time;
         INSERT INTO picket.warnings (site_id, kind, first_warned_at, opened_at, closed_at, serial, expires_at, message, regions)
         SELECT 1, 'certificate'::picket.warning, now - interval '3 hours', now - interval '3 hours', NULL, '0a1b',
                now + interval '9 days 1 hour', NULL::text, '{eu,us}'::text[] FROM the_time
         UNION ALL
         SELECT 2, 'slow', now - interval '2 hours', now - interval '2 hours', now - interval '1 hour', NULL, NULL,
                'took 3.1 s, more than 3 s', '{us}' FROM the_time",
    )
    .execute(&mut database)
    .await
    .unwrap();

    assert_output("status", &picket.run_ok(&["status"]));
    assert_output("report_uptime", &picket.run_ok(&["report", "uptime"]));
    assert_output("report_incidents", &picket.run_ok(&["report", "incidents"]));
    assert_output("report_warnings", &picket.run_ok(&["report", "warnings"]));
    let open_in_eu = picket.run_ok(&["report", "warnings", "--region", "eu", "--output", "csv"]);
    assert_eq!(open_in_eu.lines().count(), 2, "{open_in_eu}");
    let status = picket.run_ok(&["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status[0]["warnings"], serde_json::json!(["certificate"]));
    assert_eq!(status[1]["warnings"], serde_json::json!([]));
    assert_output("report_latency_csv", &picket.run_ok(&["report", "latency", "--output", "csv"]));
    // The ledger counts whole schedules only if they have ended.
    sqlx::raw_sql("UPDATE picket.schedules SET valid_to = (SELECT now FROM the_time) - interval '1 hour'")
        .execute(&mut database)
        .await
        .unwrap();
    assert_output("ledger", &picket.run_ok(&["ledger", "--since", "4h"]));
}

#[tokio::test]
async fn status_of_sites_in_maintenance_and_of_unknown_ones() {
    let picket = Picket::new().await;
    picket.run_ok(&["region", "add", "us"]);
    picket.run_ok(&["site", "add", "https://new.example", "--region", "eu"]);
    picket.run_ok(&["site", "add", "https://missed.example", "--region", "eu", "--region", "us"]);
    picket.run_ok(&["maintenance", "add", "1", "--to", "2099-12-01T22:00:00Z"]);
    picket.run_ok(&["maintenance", "add", "2"]);
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    sqlx::raw_sql(
        "UPDATE picket.schedules SET valid_from = now() - interval '1 hour';
         INSERT INTO picket.silent_regions (region_id, since) SELECT id, now() FROM picket.regions WHERE name = 'us';
         INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause)
         SELECT tick, site_id, region_id, 'scheduled', 'missed', 'overloaded' FROM picket.schedules
         CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), now() - interval '5 minutes', now()) AS tick
         WHERE site_id = 2",
    )
    .execute(&mut database)
    .await
    .unwrap();

    assert_output("status_unknown", &picket.run_ok(&["status"]));
}

const ASSERTING_FILE: &str = r#"
sites:
  - url: https://api.example/health
    options:
      auth: {bearer: {secret: shop-token}}
      secret_headers: {X-Api-Key: {secret: shop-key}}
      connect_to: 192.0.2.7:8443
    assertions:
      json:
        - {path: $.status, equals: ok}
        - {path: $.queue.length, less_than: 100}
      headers:
        - {name: Content-Type, regex: ^application/json}
      not_regexes: [Exception]
      warn_after_ms: 2000
  - url: https://admin.example/
    assertions: {must_fail: [connect, timeout]}
"#;

#[tokio::test]
async fn options_and_assertions_as_a_plan_details_json_and_a_file() {
    let picket = Picket::new().await;
    let applied = picket.apply_yaml(ASSERTING_FILE, &[]);
    assert!(applied.status.success(), "{applied:?}");
    let changed = ASSERTING_FILE
        .replace("less_than: 100", "less_than: 50")
        .replace(
            "{bearer: {secret: shop-token}}",
            "{basic: {user: alice, password: {secret: shop-password}}}",
        )
        .replace("      connect_to: 192.0.2.7:8443\n", "      http_version: \"2\"\n")
        .replace("[Exception]", "[Exception, Warning]")
        .replace("{must_fail: [connect, timeout]}", "{certificate_min_days: 7}");

    let plan = picket.apply_yaml(&changed, &["--dry-run"]);

    assert_output("apply_plan_assertions", &String::from_utf8_lossy(&plan.stdout));
    assert_output("site_show_assertions", &picket.run_ok(&["site", "show", "1"]));
    assert_output("site_show_assertions_json", &picket.run_ok(&["site", "show", "2", "--output", "json"]));
    assert_output("export_assertions", &picket.run_ok(&["export"]));
}

#[test]
fn help_of_site_add_groups_its_options() {
    let dir = tempfile::tempdir().unwrap();
    let output = picket_command(dir.path()).args(["site", "add", "--help"]).output().unwrap();

    assert_output("help_site_add", &String::from_utf8_lossy(&output.stdout));
}

#[test]
fn help_lists_all_commands() {
    let dir = tempfile::tempdir().unwrap();
    let output = picket_command(dir.path()).arg("--help").output().unwrap();

    assert_output("help", &String::from_utf8_lossy(&output.stdout));
}
