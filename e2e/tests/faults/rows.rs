//! Rows that SQL allows and that no process can use.

use picket_e2e::{
    drill::{Drill, LONG, Scene},
    odd_rows::{ODD, insert_sites},
};
use picket_testkit::eventually;

/// Larger than any process should read.
const HUGE: (&str, &str) = ("body", "repeat('b', 200000000)");
/// A site of which only a date is odd is watched as any other.
const ODD_DATE: (&str, &str) = ("created_at, updated_at", "'infinity', '-infinity'");

#[tokio::test]
async fn f22_a_row_that_nobody_can_use_is_a_problem_of_its_own_and_the_others_are_checked() {
    let mut drill =
        Drill::start("F22", "rows of sites, windows and events that no process can use", Scene::default())
            .await;
    let memory = drill.memory();
    let url = drill.target.url("/ok/odd/");

    drill.injured().await;
    drill.stack.execute(&insert_sites(&url, ODD.into_iter().chain([HUGE, ODD_DATE]))).await;
    // Its failures are kept, and open no incident until further notice.
    let failing = drill.target.url("/status/500");
    drill
        .stack
        .execute(&format!(
            "WITH site AS (
                 INSERT INTO picket.sites (url, interval_seconds, timeout_ms, failures_to_open, name)
                 VALUES ('{failing}', 2, 2000, 1, 'in maintenance') RETURNING id
             )
             INSERT INTO picket.maintenance (site_id, window_from, window_to) SELECT id, '-infinity', 'infinity' FROM site"
        ))
        .await;
    drill
        .stack
        .execute(
            "INSERT INTO picket.outbox (event_id, subject, payload) VALUES
                 ('keys', 'picket.event.keys', (SELECT jsonb_object_agg('key' || n, 'value') FROM generate_series(1, 100000) AS n)),
                 (E'line\\nbreak', 'picket.event.a', '{}')",
        )
        .await;
    // The shards of a coordinator that is gone are read anew, odd rows and all.
    drill.coordinators.remove(0).kill().await;
    let coordinator = drill.coordinator().await;
    coordinator.ready().await;
    drill.coordinators.push(coordinator);
    let unusable = ODD.len() as i64 + 1;
    let problems = "SELECT count(*) FROM picket.sites WHERE problem IS NOT NULL";
    drill.stack.at_least(LONG, unusable, problems).await;
    drill.healed().await;
    drill.share().await;
    drill.served().await;

    assert_eq!(drill.stack.number(problems).await, unusable);
    eventually(LONG, "the outbox to be empty", async || {
        let left = drill.stack.number("SELECT count(*) FROM picket.outbox").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let parked = "SELECT count(*) FROM picket.dead_letters WHERE reason LIKE '%allowed: %'";
    assert_eq!(drill.stack.number(parked).await, 2);
    let failed = "SELECT count(*) FROM picket.check_results AS result JOIN picket.sites AS site ON site.id = result.site_id
                  WHERE site.name = 'in maintenance' AND outcome = 'down'";
    drill.stack.at_least(LONG, 4, failed).await;
    let opened = "SELECT count(*) FROM picket.incidents AS incident JOIN picket.sites AS site ON site.id = incident.site_id
                  WHERE site.name = 'in maintenance'";
    assert_eq!(drill.stack.number(opened).await, 0);
    for command in
        [&["status"][..], &["site", "list"], &["maintenance", "list"], &["export"], &["report", "incidents"]]
    {
        let (code, _, errors) = drill.stack.picket(command).await;
        assert!(code <= 1, "picket {command:?} ended with {code}: {errors}");
    }
    let (code, said, _) = drill.stack.picket(&["maintenance", "add", "--tag", "shop"]).await;
    assert!(code == 0 && said.contains("until further notice"), "{said}");
    let (_, listed, _) = drill.stack.picket(&["maintenance", "list"]).await;
    assert_eq!(listed.matches("until further notice").count(), 2, "{listed}");
    for process in drill.processes() {
        assert!(!process.log().contains("panicked"), "{}", process.log());
    }
    drill.assert_flat(&memory, 100 << 10);
    let account = drill.account().await;
    assert_eq!(account.dead_letters, 2, "{account:#?}");
    drill.stop().await;
}
