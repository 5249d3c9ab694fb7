//! Rows that SQL allows and that no process can use.

use picket_e2e::{
    fault_test::{FaultTest, Topology, WAIT_TIMEOUT},
    invalid_rows::{INVALID_VALUES, build_insert_sql},
};
use picket_harness::eventually;

/// Larger than any process should read.
const HUGE_VALUE: (&str, &str) = ("body", "repeat('b', 200000000)");
/// A site of which only a date is odd is watched as any other.
const UNUSUAL_DATE: (&str, &str) = ("created_at, updated_at", "'infinity', '-infinity'");

#[tokio::test]
async fn f22_an_unusable_row_is_a_problem_of_its_own_and_other_sites_are_checked() {
    let mut drill = FaultTest::start(
        "F22",
        "rows of sites, windows and events that no process can use",
        Topology::default(),
    )
    .await;
    let memory = drill.memory_by_process();
    let url = drill.target.url("/ok/odd/");

    drill.mark_fault_started().await;
    drill
        .stack
        .execute_sql(&build_insert_sql(&url, INVALID_VALUES.into_iter().chain([HUGE_VALUE, UNUSUAL_DATE])))
        .await;
    // Its failures are kept, and open no incident until further notice.
    let failing = drill.target.url("/status/500");
    drill
        .stack
        .execute_sql(&format!(
            "WITH site AS (
                 INSERT INTO picket.sites (url, interval_seconds, timeout_ms, failures_to_open, name)
                 VALUES ('{failing}', 2, 2000, 1, 'in maintenance') RETURNING id
             )
             INSERT INTO picket.maintenance (site_id, window_from, window_to) SELECT id, '-infinity', 'infinity' FROM site"
        ))
        .await;
    drill
        .stack
        .execute_sql(
            "INSERT INTO picket.outbox (event_id, subject, payload) VALUES
                 ('keys', 'picket.event.keys', (SELECT jsonb_object_agg('key' || n, 'value') FROM generate_series(1, 100000) AS n)),
                 (E'line\\nbreak', 'picket.event.a', '{}')",
        )
        .await;
    // The shards of the dead coordinator are read again, with their invalid rows.
    drill.coordinators.remove(0).kill().await;
    let coordinator = drill.spawn_coordinator().await;
    coordinator.wait_ready().await;
    drill.coordinators.push(coordinator);
    let unusable = INVALID_VALUES.len() as i64 + 1;
    let problems = "SELECT count(*) FROM picket.sites WHERE problem IS NOT NULL";
    drill.stack.wait_at_least(WAIT_TIMEOUT, unusable, problems).await;
    drill.mark_fault_ended().await;
    drill.wait_balanced().await;
    drill.wait_served().await;

    assert_eq!(drill.stack.query_number(problems).await, unusable);
    eventually(WAIT_TIMEOUT, "the outbox to be empty", async || {
        let left = drill.stack.query_number("SELECT count(*) FROM picket.outbox").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let parked = "SELECT count(*) FROM picket.dead_letters WHERE reason LIKE '%allowed: %'";
    assert_eq!(drill.stack.query_number(parked).await, 2);
    let failed = "SELECT count(*) FROM picket.check_results AS result JOIN picket.sites AS site ON site.id = result.site_id
                  WHERE site.name = 'in maintenance' AND outcome = 'down'";
    drill.stack.wait_at_least(WAIT_TIMEOUT, 4, failed).await;
    let opened = "SELECT count(*) FROM picket.incidents AS incident JOIN picket.sites AS site ON site.id = incident.site_id
                  WHERE site.name = 'in maintenance'";
    assert_eq!(drill.stack.query_number(opened).await, 0);
    for command in
        [&["status"][..], &["site", "list"], &["maintenance", "list"], &["export"], &["report", "incidents"]]
    {
        let (code, _, errors) = drill.stack.run_picket(command).await;
        assert!(code <= 1, "picket {command:?} ended with {code}: {errors}");
    }
    let (code, said, _) = drill.stack.run_picket(&["maintenance", "add", "--tag", "shop"]).await;
    assert!(code == 0 && said.contains("until further notice"), "{said}");
    let (_, listed, _) = drill.stack.run_picket(&["maintenance", "list"]).await;
    assert_eq!(listed.matches("until further notice").count(), 2, "{listed}");
    for process in drill.all_processes() {
        assert!(!process.read_log().contains("panicked"), "{}", process.read_log());
    }
    drill.assert_memory_flat(&memory, 100 << 10);
    let account = drill.verify_account().await;
    assert_eq!(account.dead_letters, 2, "{account:#?}");
    drill.stop().await;
}
