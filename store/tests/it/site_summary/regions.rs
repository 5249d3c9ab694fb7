//! Regions that become silent or are removed.

use super::*;

const STATES: &str = "SELECT string_agg(state::text, ' ' ORDER BY site_id) FROM picket.site_summary";

/// Deletes what a region without probers would not have checked in the last minutes, and reports the region.
async fn fall_silent(fleet: &Fleet, region: &str, seconds: u32) {
    fleet
        .execute_sql(&format!(
            "DELETE FROM picket.check_results USING picket.regions
             WHERE region_id = regions.id AND name = '{region}' AND scheduled_at > now() - interval '{seconds} seconds';
             INSERT INTO picket.silent_regions SELECT id, now() - interval '{seconds} seconds' FROM picket.regions WHERE name = '{region}'"
        ))
        .await;
}

#[tokio::test]
async fn sites_of_silent_regions_are_unknown_without_a_rollup_once_their_results_are_old() {
    let fleet = Fleet::new(UP).await;
    fleet
        .execute_sql(
            "INSERT INTO picket.regions (name) VALUES ('us');
             UPDATE picket.schedules SET valid_from = now() - interval '1 hour' WHERE valid_to IS NULL;
             UPDATE picket.sites SET regions = '{eu}' WHERE id = 1; UPDATE picket.sites SET regions = '{us}' WHERE id = 2;
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, total_us)
             SELECT tick, site_id, region_id, 'scheduled', 'up', 5000 FROM picket.schedules
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), valid_from, now()) AS tick
             WHERE valid_to IS NULL ON CONFLICT DO NOTHING",
        )
        .await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("up up up"));

    // Six intervals of a minute are not over yet.
    fall_silent(&fleet, "eu", 100).await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("up up up"));
    let later = "SELECT string_agg(site_id || ' ' || round(extract(epoch FROM due_at - now())), ', ') FROM picket.site_summaries_dirty";
    let due = fleet.query_text(later).await.unwrap();
    assert!(due == "1 260" || due == "1 259", "{due}");
    assert_eq!(housekeeping::count_waiting_summaries(&fleet.store).await.unwrap(), 0);

    fleet.execute_sql("DELETE FROM picket.silent_regions").await;
    fall_silent(&fleet, "eu", 400).await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("unknown up up"));
    fall_silent(&fleet, "us", 400).await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("unknown unknown unknown"));
}

#[tokio::test]
async fn a_site_without_results_in_the_regions_that_are_left_is_unknown_without_a_rollup() {
    let fleet = Fleet::new(UP).await;
    fleet.execute_sql("INSERT INTO picket.regions (name) VALUES ('us')").await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("up up up"));

    // 'us' has no result yet.
    fleet.execute_sql("UPDATE picket.sites SET regions = '{eu}' WHERE id = 1").await;
    fleet.execute_sql("DELETE FROM picket.regions WHERE name = 'eu'").await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("problem unknown unknown"));

    fleet.execute_sql("UPDATE picket.regions SET removed_at = NULL WHERE name = 'eu'").await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("unknown unknown unknown"));
}

#[tokio::test]
async fn the_number_of_schedules_in_each_region_follows_sites_and_regions() {
    let fleet = Fleet::new(UP).await;
    let different = "SELECT count(*)
        FROM (SELECT region_id, sum(schedules) AS schedules FROM picket.schedule_counts GROUP BY region_id HAVING sum(schedules) <> 0)
            AS kept
        FULL JOIN (SELECT region_id, count(*) AS schedules FROM picket.schedules WHERE valid_to IS NULL GROUP BY region_id)
            AS counted USING (region_id)
        WHERE kept.schedules IS DISTINCT FROM counted.schedules";
    for change in [
        "INSERT INTO picket.regions (name) VALUES ('us'), ('ap')",
        "UPDATE picket.sites SET enabled = false WHERE id = 1",
        "UPDATE picket.sites SET regions = '{us}', interval_seconds = 90 WHERE id = 2",
        "DELETE FROM picket.regions WHERE name = 'eu'",
        "DELETE FROM picket.sites WHERE id = 3",
        "UPDATE picket.sites SET enabled = true",
        // More differences than are kept.
        "DO $$ BEGIN FOR n IN 1..1100 LOOP UPDATE picket.sites SET enabled = NOT enabled WHERE id = 1; END LOOP; END $$",
        "SELECT picket.rebuild_site_summary()",
    ] {
        fleet.execute_sql(change).await;
        assert_eq!(fleet.query_text(different).await.as_deref(), Some("0"), "{change}");
        fleet.refresh().await;
        assert_eq!(fleet.query_text(different).await.as_deref(), Some("0"), "{change}, refreshed");
    }
    let rows = "SELECT count(*) FROM picket.schedule_counts";
    assert_eq!(fleet.query_text(rows).await.as_deref(), Some("2"));
}
