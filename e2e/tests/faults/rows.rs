//! Rows that SQL allows and that no process can use.

use picket_e2e::drill::{Drill, LONG, Scene};
use picket_testkit::eventually;

/// Values of a site's columns that a release without checks at the door took.
const ODD: [(&str, &str); 11] = [
    ("tags", "'{a,NULL}'"),
    ("tags", "'{{a,b},{c,d}}'"),
    ("tags", "'[5:6]={a,b}'"),
    ("regions", "'{{east},{west}}'"),
    ("headers", "'{\"A\": 1e400}'"),
    ("headers", "jsonb_build_object('A', (repeat('[', 200) || repeat(']', 200))::jsonb)"),
    ("headers", "jsonb_build_object('A', repeat('x', 10000000))"),
    ("name", "repeat('n', 2000000)"),
    ("body", "repeat('b', 200000000)"),
    ("regex", "repeat('r', 200000)"),
    ("status", "repeat('1', 10000000)"),
];

#[tokio::test]
async fn f22_a_row_that_nobody_can_use_is_a_problem_of_its_own_and_the_others_are_checked() {
    let mut drill =
        Drill::start("F22", "rows of sites, windows and events that no process can use", Scene::default())
            .await;
    let memory = drill.memory();
    let url = drill.target.url("/ok/odd/");

    drill.injured().await;
    let mut inserts = String::new();
    for (place, (column, value)) in ODD.iter().enumerate() {
        inserts += &insert(column, &format!("'{url}{place}'"), value);
    }
    // A site of which only a date is odd is watched as any other.
    inserts += &insert("created_at, updated_at", &format!("'{url}date'"), "'infinity', '-infinity'");
    drill.stack.execute(&unchecked(&inserts)).await;
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
    let problems = "SELECT count(*) FROM picket.sites WHERE problem IS NOT NULL";
    drill.stack.at_least(LONG, ODD.len() as i64, problems).await;
    drill.healed().await;
    drill.share().await;
    drill.served().await;

    assert_eq!(drill.stack.number(problems).await, ODD.len() as i64);
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

fn insert(columns: &str, url: &str, values: &str) -> String {
    format!(
        "INSERT INTO picket.sites (shard, version, interval_seconds, timeout_ms, url, {columns})
         VALUES (0, pg_current_xact_id(), 2, 2000, {url}, {values}) RETURNING id INTO site;
         UPDATE picket.sites SET shard = picket.shard_of(id) WHERE id = site;
         PERFORM picket.reconcile_schedules(ARRAY[site]);"
    )
}

/// Runs statements of PL/pgSQL as if there were no triggers.
fn unchecked(statements: &str) -> String {
    format!(
        "DO $$ DECLARE site bigint; BEGIN SET LOCAL session_replication_role = replica; {statements} END $$"
    )
}
