//! Recorded gaps that overlap.

use super::*;
use crate::results::now;

/// A site with a tick each 60 s, of which nothing has a row, and gaps of its shard that overlap.
async fn insert_overlapping_gaps(world: &World) {
    world
        .execute_sql(
            "INSERT INTO picket.sites (url, regions) VALUES ('http://gaps.example/', '{eu}');
             UPDATE picket.schedules SET valid_from = picket.hour_of(now()) - interval '3 hours';
             INSERT INTO picket.gaps (shard, gap_from, gap_to)
             SELECT shard, hour + after * interval '1 minute', hour + through * interval '1 minute'
             FROM (SELECT shard, picket.hour_of(now()) - interval '2 hours' AS hour FROM picket.sites) AS site
             CROSS JOIN (VALUES (0, 30), (10, 40), (20, 25.5)) AS gap (after, through);
             UPDATE picket.leases SET scheduled_through = now(), accounted_through = now() - interval '1 minute';
             UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '2 hours',
                 days_through = picket.day_of(picket.hour_of(now()) - interval '2 hours')",
        )
        .await;
}

#[tokio::test]
async fn ticks_in_recorded_gaps_that_overlap_are_counted_once_by_the_ledger() {
    let world = World::new().await;
    insert_overlapping_gaps(&world).await;

    let ledger = "SELECT (expected * 1000000 + gap * 1000 + unaccounted)::bigint
        FROM (SELECT picket.hour_of(now()) - interval '2 hours' AS hour) AS span
        CROSS JOIN report.ledger(hour, hour + interval '40 minutes')";

    // 40 ticks, of which 40 lie in gaps and none is unaccounted for.
    assert_eq!(world.query_number(ledger).await, 40_040_000);
}

#[tokio::test]
async fn ticks_in_recorded_gaps_that_overlap_are_counted_once_by_the_rollups() {
    let world = World::new().await;
    insert_overlapping_gaps(&world).await;

    while picket_store::housekeeping::roll_up_results(&world.store, now(), LONG * 20).await.unwrap().is_some()
    {
    }

    let gap = "SELECT sum(gap)::bigint FROM picket.rollups_hourly WHERE hour = picket.hour_of(now()) - interval '2 hours'";
    assert_eq!(world.query_number(gap).await, 40);
}

#[tokio::test]
async fn a_gap_that_is_recorded_after_its_hour_was_rolled_up_is_counted_in_that_hour() {
    let world = World::new().await;
    insert_overlapping_gaps(&world).await;
    let gaps = "CREATE TABLE kept AS TABLE picket.gaps; DELETE FROM picket.gaps";
    world.execute_sql(gaps).await;
    while picket_store::housekeeping::roll_up_results(&world.store, now(), LONG * 20).await.unwrap().is_some()
    {
    }

    world
        .execute_sql(
            "INSERT INTO picket.gaps (shard, gap_from, gap_to) SELECT shard, gap_from, gap_to FROM kept",
        )
        .await;
    world.execute_sql("UPDATE picket.rollups_dirty SET marked_at = '-infinity'").await;
    while picket_store::housekeeping::rebuild_dirty_hour(&world.store, now()).await.unwrap().is_some() {}

    let gap = "SELECT coalesce(sum(gap), 0)::bigint FROM picket.rollups_hourly
        WHERE hour = picket.hour_of(now()) - interval '2 hours'";
    assert_eq!(world.query_number(gap).await, 40);
}

#[tokio::test]
async fn ticks_of_a_late_schedule_within_a_recorded_gap_get_no_rows() {
    let world = World::new().await;
    insert_overlapping_gaps(&world).await;
    world.close_ledger().await.unwrap();
    // As if its transaction had been open while the ledger passed its ticks.
    world
        .execute_sql(
            "UPDATE picket.schedules SET opened_by = pg_current_xact_id(), version = pg_current_xact_id()",
        )
        .await;
    world.execute_sql("UPDATE picket.leases SET scheduled_through = now() + interval '1 second'").await;

    world.close_ledger().await.unwrap();

    let hour = "SELECT count(*) FROM picket.check_results, (SELECT picket.hour_of(now()) - interval '2 hours' AS hour) AS gap
        WHERE scheduled_at > hour AND scheduled_at <= hour + interval '40 minutes'";
    assert_eq!(world.query_number(hour).await, 0);
    assert_eq!(world.sum_last_hour().await.unaccounted, 0);
}
