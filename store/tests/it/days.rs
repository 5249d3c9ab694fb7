//! Days of rollups: the sums of their hours, also after an hour was rebuilt.

use crate::rollups::World;

/// Site by site, with histograms: the stored sums of unfinished days, and the same from their
/// hours.
#[tokio::test]
async fn an_unfinished_day_is_the_sum_of_its_full_hours_after_a_rebuild_too() {
    const KEPT: &str = "SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM (
        SELECT day, site_id, region_id, up, down, missed, gap, histogram FROM picket.rollups_today) AS t";
    const SUMMED: &str = "SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM (
        SELECT picket.day_of(hour) AS day, site_id, region_id, sum(up), sum(down), sum(missed), sum(gap), sum(histogram)
        FROM picket.rollups_hourly, picket.rollup_state
        WHERE hour >= picket.start_of_day(days_through) AND hour < picket.hour_of(rolled_through)
        GROUP BY 1, 2, 3) AS t";
    let world = World::new().await;
    world.insert_rows().await;
    world.close_ledger_until(1, 30).await;
    world.roll_up().await;
    assert_eq!(world.query_text(KEPT).await, world.query_text(SUMMED).await);

    let late = "UPDATE picket.check_results SET outcome = 'up', cause = NULL, total_us = 5000 WHERE outcome = 'missed'";
    assert!(world.execute_sql(late).await > 0);
    world.rebuild_dirty_hours().await;
    assert_eq!(world.query_text(KEPT).await, world.query_text(SUMMED).await);

    world.close_ledger_until(0, 0).await;
    world.roll_up().await;
    assert_eq!(world.query_text(KEPT).await, world.query_text(SUMMED).await);
    let over = "SELECT count(*) FROM picket.rollups_today, picket.rollup_state WHERE day < days_through";
    assert_eq!(world.query_text(over).await, "0");
}

#[tokio::test]
async fn a_day_is_rebuilt_after_one_of_its_hours_was() {
    let world = World::new().await;
    world
        .execute_sql(
            "UPDATE picket.schedules SET valid_from = picket.start_of_day(picket.day_of(now()) - 1);
             UPDATE picket.rollup_state SET rolled_through = picket.start_of_day(picket.day_of(now()) - 1),
                 days_through = picket.day_of(now()) - 1",
        )
        .await;
    world.insert_rows().await;
    world.close_ledger_until(0, 0).await;
    world.roll_up().await;
    assert_eq!(
        world.query_text("SELECT days_through = picket.day_of(now()) FROM picket.rollup_state").await,
        "true"
    );

    world
        .execute_sql(
            "UPDATE picket.check_results SET outcome = 'up', cause = NULL, total_us = 5000 WHERE outcome = 'missed'
             AND scheduled_at < picket.start_of_day(picket.day_of(now()))",
        )
        .await;
    world.rebuild_dirty_hours().await;

    let missed = "SELECT sum(missed) FROM picket.rollups_daily WHERE day < picket.day_of(now())";
    assert_eq!(world.query_text(missed).await, "0");
    let (said, counted) = world.rollups_and_recount().await;
    assert_eq!(said, counted);
}
