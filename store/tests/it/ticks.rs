//! Only rows that are ticks of a schedule count outside of `report.checks`.

use picket_store::{housekeeping, ledger};

use crate::{results::now, rollups::World};

/// As many results of one hour of site 1 in one region as a smallint cannot count, none of which is a tick.
const FLOOD: &str = "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, total_us, tls_expires_at)
    SELECT picket.hour_of(now()) - interval '2 hours' + n * interval '100 ms' + interval '7 microseconds', 1, 1, 'scheduled',
           CASE WHEN n % 2 = 0 THEN 'up' ELSE 'missed' END::picket.outcome,
           CASE WHEN n % 2 = 1 THEN 'result_late' END::picket.cause, 5000, now() + interval '1 year'
    FROM generate_series(1, 33000) AS n";
/// As many each second of the last minutes, which are not rolled up yet.
const NEW_FLOOD: &str = "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, tls_expires_at)
    SELECT now() - n * interval '100 ms' + interval '7 microseconds', 1, 1, 'scheduled', 'down', 'timeout', now() + interval '1 year'
    FROM generate_series(1, 3000) AS n ON CONFLICT DO NOTHING";
/// All sums of site 1 in the reports.
const SAID: &str = "SELECT md5(concat(
    (SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM report.uptime_daily AS t),
    (SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM report.uptime_monthly AS t),
    (SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM report.latency_hourly AS t),
    (SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM report.failures AS t),
    (SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM report.certificates AS t),
    (SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM report.site_status AS t)))";

#[tokio::test]
async fn results_that_are_no_ticks_block_no_rollup_and_change_no_report() {
    let world = World::new().await;
    world.insert_rows().await;
    world.close_ledger_until(4, 0).await;
    let before = world.query_text(SAID).await;
    world.execute_sql(FLOOD).await;
    world.execute_sql(NEW_FLOOD).await;
    assert_eq!(world.query_text(SAID).await, before, "read from the rows");

    world.close_ledger_until(0, 0).await;
    assert!(world.roll_up().await >= 24);

    assert_eq!(world.query_text(SAID).await, before, "read from the rollups");
    assert_eq!(
        world.query_text("SELECT count(*) > 33000 FROM report.checks WHERE site_id = 1").await,
        "true"
    );
}

#[tokio::test]
async fn results_that_are_no_ticks_do_not_count_as_late_rows() {
    let world = World::new().await;
    world.insert_rows().await;
    world.close_ledger_until(0, 0).await;
    world.roll_up().await;

    world.execute_sql(FLOOD).await;

    for ago in 1..=4 {
        assert!(!housekeeping::recount_hour(&world.store, now(), ago).await.unwrap(), "{ago} hours ago");
    }
}

#[tokio::test]
async fn an_overflowing_count_is_clamped_and_rollups_continue() {
    let world = World::new().await;
    world.insert_rows().await;
    world.close_ledger_until(4, 20).await;
    world.roll_up().await;
    world.execute_sql("UPDATE picket.rollups_hourly SET up = 32767, missed = 32767, down = 32767").await;

    world.close_ledger_until(0, 0).await;
    world.roll_up().await;

    let most = "SELECT max(up) FROM picket.rollups_hourly";
    assert_eq!(world.query_text(most).await, "32767");
    assert_eq!(
        world.query_text("SELECT rolled_through = picket.hour_of(now()) FROM picket.rollup_state").await,
        "true"
    );
}

#[tokio::test]
async fn results_that_are_no_ticks_do_not_reduce_the_ticks_of_a_gap() {
    let world = World::new().await;
    world
        .execute_sql(
            "INSERT INTO picket.gaps (shard, gap_from, gap_to) SELECT shard, picket.hour_of(now()) - interval '2 hours',
             picket.hour_of(now()) - interval '1 hour' FROM picket.sites WHERE id = 1",
        )
        .await;
    world.execute_sql(FLOOD).await;

    world.close_ledger_until(0, 0).await;
    world.roll_up().await;

    let gap = "SELECT sum(gap) FROM picket.rollups_hourly WHERE site_id = 1 AND region_id = 1";
    assert_eq!(world.query_text(gap).await, "60");
}

#[tokio::test]
async fn causes_of_missed_ticks_are_reported_for_ticks_alone() {
    let world = World::new().await;
    world.execute_sql(FLOOD).await;

    let (now, _) = ledger::read_accounted_through(&world.store).await.unwrap();
    let from = now.saturating_sub(std::time::Duration::from_secs(4 * 3_600));

    assert_eq!(
        ledger::count_missed_by_cause(&world.store, from, now, ledger::LedgerFilter::default())
            .await
            .unwrap(),
        []
    );
}
