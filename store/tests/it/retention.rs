//! Retention: only expired data is removed, and no writer is delayed.

use std::time::Duration;

use picket_store::{
    housekeeping::{self, Retention},
    partitions,
};
use tokio::time::Instant;

use crate::{rollups::World, wall_clock_now};

const RETENTION: Retention = Retention { result_days: 30, rollup_hours_days: 730, rollup_days_days: 730 };

impl World {
    /// A day of results `ago` days ago, with a row of it, rolled up or not.
    async fn insert_old_day(&self, ago: u32, rolled_up: bool) {
        self.execute_sql(&format!(
            "SELECT picket.ensure_partitions({ago}, 7);
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             SELECT now() - n * interval '1 day', 1, 1, 'scheduled', 'up' FROM generate_series(4, {ago}) AS n"
        ))
        .await;
        let through = if rolled_up { 0 } else { ago };
        self.execute_sql(&format!(
            "UPDATE picket.rollup_state SET days_through = picket.day_of(now()) - {through},
                 rolled_through = picket.start_of_day(picket.day_of(now()) - {through})"
        ))
        .await;
    }

    async fn count_kept_days(&self) -> i64 {
        self.query_text("SELECT picket.day_of(now()) - picket.day_of(picket.retained_since())")
            .await
            .parse()
            .unwrap()
    }
}

#[tokio::test]
async fn partitions_exist_for_a_week_without_a_coordinator() {
    let world = World::new().await;

    // No coordinator has ever run on this database: its schema brought the days.
    let kept = world
        .execute_sql(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             SELECT picket.start_of_day(picket.day_of(now()) + n), 1, 1, 'scheduled', 'up' FROM generate_series(0, 7) AS n",
        )
        .await;
    assert_eq!(kept, 8);

    // As it will be when that week is over and one is started again.
    let made = partitions::ensure_partitions(&world.store, wall_clock_now(), RETENTION).await.unwrap();
    assert!(made <= 1, "midnight may have passed");
}

#[tokio::test]
async fn days_of_results_are_dropped_one_by_one_once_old_and_rolled_up() {
    let world = World::new().await;
    world.insert_old_day(35, true).await;
    assert_eq!(world.count_kept_days().await, 35);

    while housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION)
        .await
        .unwrap()
        .has_pruned_any()
    {}

    // The day in which the sink may still take rows is there.
    let days = world.count_kept_days().await;
    assert!((30..=31).contains(&days), "{days}");
    let is_of_these_days = world
        .query_text(&format!(
            "SELECT min(scheduled_at) >= picket.start_of_day(picket.day_of(now()) - {days}) FROM picket.check_results"
        ))
        .await;
    assert_eq!(is_of_these_days, "true");
    let ledger = world
        .query_text(
            "SELECT count(*) FROM report.ledger(now() - interval '40 days', now() - interval '20 days')",
        )
        .await;
    assert_eq!(ledger, "0", "schedules begin four hours ago");
}

#[tokio::test]
async fn a_day_of_results_is_kept_until_rolled_up() {
    let world = World::new().await;
    world.insert_old_day(33, false).await;

    let dropped = housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION).await.unwrap();

    assert_eq!((dropped.dropped_day, world.count_kept_days().await), (None, 33));
}

#[tokio::test]
async fn a_long_report_defers_a_partition_drop_and_neither_blocks_writers() {
    let world = World::new().await;
    world.insert_old_day(33, true).await;
    let mut reading = world.pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM picket.check_results").execute(&mut *reading).await.unwrap();

    let begun = Instant::now();
    let refused = housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION).await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    world
        .execute_sql(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             VALUES (now(), 3, 1, 'scheduled', 'up')",
        )
        .await;
    assert!(
        begun.elapsed().as_secs() < 8,
        "other locks are waited for for ten seconds, this one for less than one"
    );

    reading.rollback().await.unwrap();
    assert!(
        housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION)
            .await
            .unwrap()
            .dropped_day
            .is_some()
    );
}

#[tokio::test]
async fn a_slow_deletion_is_not_mistaken_for_a_clock_jump() {
    let world = World::new().await;
    world.insert_old_day(33, true).await;
    world
        .execute_sql(
            "INSERT INTO picket.dead_letters (received_at, subject, reason, payload)
             VALUES (now() - interval '40 days', 's', 'r', 'p');
             CREATE FUNCTION public.takes_long() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_catalog.pg_sleep(6); RETURN NULL; END $$;
             CREATE TRIGGER takes_long AFTER DELETE ON picket.dead_letters EXECUTE FUNCTION public.takes_long()",
        )
        .await;

    // The difference that is allowed is 30 s.
    let now = wall_clock_now().saturating_sub(Duration::from_secs(25));
    let dropped = housekeeping::prune_expired(&world.store, now, RETENTION).await.unwrap();

    assert_eq!((dropped.deleted_rows, dropped.dropped_day.is_some()), (1, true));
}

#[tokio::test]
async fn old_rows_are_deleted_in_chunks_and_others_kept() {
    let world = World::new().await;
    world
        .execute_sql(
            "INSERT INTO picket.adhoc_results (requested_at, id, region, prober, url, outcome)
             SELECT now() - days * interval '1 day', days, 'eu', 'p', 'http://x/', 'up' FROM unnest('{1,29,31,900}'::int[]) AS days;
             INSERT INTO picket.dead_letters (received_at, subject, reason, payload)
             SELECT now() - interval '40 days', 's', 'r', 'p' FROM generate_series(1, 6000);
             INSERT INTO picket.gaps (shard, gap_from, gap_to) VALUES
                 (1, now() - interval '50 days', now() - interval '49 days'), (1, now() - interval '2 days', now() - interval '1 day');
             INSERT INTO picket.schedules (site_id, valid_from, valid_to, interval_ms, phase_ms, region_id, shard) VALUES
                 (1, now() - interval '50 days', now() - interval '49 days', 60000, 0, 1, 1);
             INSERT INTO picket.failures_hourly (hour, site_id, region_id, cause, checks) VALUES
                 (now() - interval '731 days', 1, 1, 'dns', 1), (now() - interval '729 days', 1, 1, 'dns', 1);
             INSERT INTO picket.rollups_daily (site_id, day, region_id, up, down, missed, gap, up_in_maintenance, down_in_maintenance)
                 VALUES (1, picket.day_of(now()) - 732, 1, 1, 0, 0, 0, 0, 0), (1, picket.day_of(now()) - 700, 1, 1, 0, 0, 0, 0, 0);
             INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, regions) VALUES
                 (1, now() - interval '900 days', now() - interval '899 days', now() - interval '900 days', '{}');
             INSERT INTO picket.warnings (site_id, kind, opened_at, closed_at, first_warned_at, regions) VALUES
                 (1, 'slow', now() - interval '900 days', now() - interval '899 days', now() - interval '900 days', '{}');
             DELETE FROM picket.sites WHERE id = 3;
             SELECT picket.ensure_rollups(now() - interval '800 days'), picket.ensure_rollups(now() - interval '700 days')",
        )
        .await;

    let first = housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION).await.unwrap();
    assert!((5_000..6_010).contains(&first.deleted_rows) && first.dropped_month.is_some(), "{first:?}");
    while housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION)
        .await
        .unwrap()
        .has_pruned_any()
    {}

    for (table, rows) in [
        ("adhoc_results", "2"),
        ("dead_letters", "0"),
        ("gaps", "1"),
        ("schedules", "6"),
        ("failures_hourly", "1"),
        ("rollups_daily", "1"),
        ("retired_sites", "1"),
        ("incidents", "1"),
        ("warnings", "1"),
    ] {
        assert_eq!(world.query_text(&format!("SELECT count(*) FROM picket.{table}")).await, rows, "{table}");
    }
    let months = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'picket.rollups_hourly'::regclass";
    assert_eq!(world.query_text(months).await, "1");
}

#[tokio::test]
async fn a_retention_of_a_day_creates_no_partition_that_is_dropped_at_once() {
    let retention = Retention { result_days: 1, rollup_hours_days: 730, rollup_days_days: 730 };
    let world = World::new().await;
    world.insert_old_day(5, true).await;

    while housekeeping::prune_expired(&world.store, wall_clock_now(), retention)
        .await
        .unwrap()
        .has_pruned_any()
    {}
    let kept = world.count_kept_days().await;
    partitions::ensure_partitions(&world.store, wall_clock_now(), retention).await.unwrap();

    assert!((1..=2).contains(&kept), "{kept}");
    assert!(world.count_kept_days().await <= kept);
}

#[tokio::test]
async fn notifications_are_deleted_once_old_and_ended_and_their_ledger_stays_closed() {
    let world = World::new().await;
    world
        .execute_sql(
            "INSERT INTO picket.channels (name, kind) VALUES ('ops', 'slack');
             INSERT INTO picket.routes (name, channels) VALUES ('all', '{ops}');
             INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions)
             SELECT n, clock_timestamp(), clock_timestamp(), '{eu}' FROM generate_series(101, 103) AS n;
             UPDATE picket.incidents SET closed_at = clock_timestamp() WHERE site_id < 103;
             SELECT picket.plan_notices(100);
             -- Site 101: told. Site 102: still to be told. Site 103: still down.
             UPDATE picket.notices SET state = 'suppressed', reason = 'brief', ended_at = now()
             FROM picket.transitions AS told WHERE told.transition_id = notices.transition_id AND told.site_id <> 102;
             UPDATE picket.transitions SET recorded_at = recorded_at - interval '800 days';
             UPDATE picket.incidents SET recorded_at = recorded_at - interval '800 days';
             UPDATE picket.notification_progress SET started_at = started_at - interval '900 days'",
        )
        .await;
    assert_eq!(world.query_text("SELECT count(*) FROM picket.notices").await, "5");

    while housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION)
        .await
        .unwrap()
        .has_pruned_any()
    {}

    let kept =
        "SELECT string_agg(site_id || ' ' || event, ', ' ORDER BY transition_id) FROM picket.transitions";
    assert_eq!(world.query_text(kept).await, "102 incident.opened, 103 incident.opened, 102 incident.closed");
    let unaccounted =
        "SELECT count(*) FROM report.notification_ledger('-infinity', 'infinity') WHERE unaccounted <> 0";
    assert_eq!(world.query_text(unaccounted).await, "0");
}
