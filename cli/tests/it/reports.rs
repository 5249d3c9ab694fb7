//! `picket report`: output for people and for programs.

use sqlx::{Connection, PgConnection};

use crate::Picket;

/// Two sites in two regions over the last hours, one of which was down from us for a while.
async fn create_reported_sites() -> Picket {
    let picket = Picket::new().await;
    picket.run_ok(&["region", "add", "us"]);
    picket.run_ok(&["site", "add", "https://shop.example", "--name", "shop, new", "--tag", "sales"]);
    picket.run_ok(&["site", "add", "https://blog.example", "--name", "blog"]);
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    sqlx::raw_sql(
        "UPDATE picket.schedules SET valid_from = now() - interval '3 hours';
         UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '4 hours',
             days_through = picket.day_of(picket.hour_of(now()) - interval '4 hours');
         INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, total_us)
         SELECT tick, site_id, region_id, 'scheduled', CASE WHEN bad THEN 'down' ELSE 'up' END::picket.outcome,
                CASE WHEN bad THEN 'timeout' END::picket.cause, site_id * 10000
         FROM picket.schedules
         CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), valid_from, now()) AS tick
         CROSS JOIN LATERAL (SELECT site_id = 1 AND region_id = 2 AND tick < now() - interval '2 hours' AS bad) AS judged;
         INSERT INTO picket.incidents (site_id, first_failure_at, opened_at, closed_at, cause, message, regions) VALUES
             (1, now() - interval '3 hours', now() - interval '3 hours', now() - interval '2 hours', 'timeout', 'no answer within 10 s', '{us}')",
    )
    .execute(&mut database)
    .await
    .unwrap();
    picket
}

#[tokio::test]
async fn uptime_is_reported_for_all_sites_for_a_tag_and_for_a_region() {
    let picket = create_reported_sites().await;

    let all = picket.run_ok(&["report", "uptime"]);
    let lines: Vec<_> = all.lines().collect();
    assert!(lines[0].contains("UPTIME %") && lines[0].ends_with("LAST 30 DAYS"), "{all}");
    assert!(lines[1].contains("shop, new") && lines[2].contains("100.0000"), "the worst first: {all}");
    assert!(lines[2].ends_with('█'), "{all}");

    let of_tag = picket.run_ok(&["report", "uptime", "--tag", "sales", "--output", "json"]);
    assert!(of_tag.contains("\"site\": \"shop, new\"") && !of_tag.contains("blog"), "{of_tag}");
    let of_region =
        picket.run_ok(&["report", "uptime", "--region", "eu", "--since", "2d", "--output", "json"]);
    assert!(of_region.contains("\"down\": 0") && of_region.contains("\"uptime_pct\": 100.0"), "{of_region}");
    assert!(picket.run_ok(&["report", "uptime", "--tag", "none"]).contains("no checks in that period"));
}

#[tokio::test]
async fn csv_is_readable_by_a_spreadsheet_and_equals_the_json() {
    let picket = create_reported_sites().await;

    let csv = picket.run_ok(&["report", "latency", "--output", "csv"]);

    let lines: Vec<_> = csv.split("\r\n").collect();
    assert_eq!(lines[0], "site_id,site,p50_ms,p95_ms,p99_ms,checks");
    // 10 and 20 ms, within 4.43 %; the slowest first.
    assert!(lines[1].starts_with("2,blog,20.3,20.3,20.3,"), "{csv}");
    assert!(lines[2].starts_with("1,\"shop, new\",10.2,10.2,10.2,"), "{csv}");
}

#[tokio::test]
async fn incidents_and_failures_are_reported_with_time_and_cause() {
    let picket = create_reported_sites().await;

    let incidents = picket.run_ok(&["report", "incidents", "--tag", "sales", "--region", "us"]);
    assert!(incidents.contains("no answer within 10 s") && incidents.contains("1h"), "{incidents}");
    assert!(picket.run_ok(&["report", "incidents", "--region", "eu"]).contains("no incidents"));
    let failures = picket.run_ok(&["report", "failures", "--output", "json"]);
    assert!(
        failures.contains("\"cause\": \"timeout\"") && failures.contains("\"region\": \"us\""),
        "{failures}"
    );
    assert!(picket.run_ok(&["report", "failures", "--region", "eu"]).contains("nothing failed"));
}
