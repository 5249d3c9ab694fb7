//! Many sites hang at once: healthy sites are checked as before, and hanging ones are down.

use std::time::Duration;

use picket_e2e::fault_test::{FaultTest, Topology, WAIT_TIMEOUT};
use picket_harness::Proxy;

/// Ten ticks a second in each region, of five seconds each: fifty slots of sixty. Confirming all of them at once would take
/// a hundred more.
const HANGING_SITES: i64 = 300;

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f26_hundreds_of_sites_that_hang_at_once_are_down_and_healthy_sites_are_unaffected() {
    let prober_options = &["--concurrency", "60", "--per-host", "1000"];
    let topology = Topology { probers: 1, prober_options, ..Topology::default() };
    let mut drill = FaultTest::start("F26", "300 sites accept and do not respond for 40 s", topology).await;
    let website = Proxy::forward_to(drill.target.address()).await;
    let url = format!("http://{}/slow/0", website.address());
    drill
        .stack
        .execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
             SELECT '{url}/' || n, 30, 5000 FROM generate_series(1, {HANGING_SITES}) AS n"
        ))
        .await;
    let of_these = "JOIN picket.sites AS site ON site.id = site_id WHERE url LIKE '%/slow/%'";
    let up = format!(
        "SELECT count(DISTINCT (site_id, region_id)) FROM picket.check_results {of_these} AND outcome = 'up'"
    );
    drill.stack.wait_at_least(WAIT_TIMEOUT, 2 * HANGING_SITES, &up).await;

    website.blackhole();
    let since = drill.mark_fault_started().await;
    drill.run_for(Duration::from_secs(40)).await;
    let until = drill.database_now().await;
    let open = format!(
        "SELECT count(*) FROM picket.incidents {of_these} AND closed_at IS NULL AND cause = 'timeout'"
    );
    drill.stack.wait_at_least(WAIT_TIMEOUT, HANGING_SITES, &open).await;
    let confirmed = drill.sum_coordinator_metric("confirmation_jobs_total");
    website.heal().await;
    drill.mark_fault_ended().await;
    drill.stack.execute_sql("UPDATE picket.sites SET enabled = false WHERE url LIKE '%/slow/%'").await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    let well =
        drill.describe_missed("site_id IN (SELECT id FROM picket.sites WHERE url NOT LIKE '%/slow/%')").await;
    assert!(well.is_empty(), "sites that are well were missed: {well:#?}");
    // Of these all ticks are done: for fifty of sixty slots nothing has to wait until it expires.
    let false_up = format!(
        "SELECT count(*) FROM picket.check_results {of_these} AND kind = 'scheduled' AND outcome = 'up'
         AND scheduled_at BETWEEN timestamptz '{since}' + interval '1 s' AND '{until}'"
    );
    assert_eq!(drill.stack.query_number(&false_up).await, 0, "{account:#?}");
    let late = format!(
        "SELECT coalesce(max(lateness_us) / 1000, 0)::bigint FROM picket.check_results JOIN picket.sites AS site ON site.id = site_id
         WHERE url NOT LIKE '%/slow/%' AND kind = 'scheduled' AND scheduled_at BETWEEN '{since}' AND '{until}'"
    );
    eprintln!(
        "latest of the sites that are well: {} ms; {confirmed} confirming jobs",
        drill.stack.query_number(&late).await
    );
    drill.stop().await;
}
