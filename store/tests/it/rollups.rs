//! Rollups: each row is counted once, whenever it arrives, and percentiles are within their bound.

use std::time::Duration;

use picket_store::{Store, housekeeping};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::wall_clock_now;

const PIECE: Duration = Duration::from_secs(600);
/// 2^(1/16) - 1, and half a microsecond of rounding.
const BOUND: f64 = 0.0443;

/// A database with two regions and some sites, watched each minute since the start of the hour four hours ago.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) pool: PgPool,
}

impl World {
    pub(crate) async fn new() -> Self {
        let crate::Database { store, pool } = crate::new_database().await;
        let world = Self { store, pool };
        world
            .execute_sql(
                "INSERT INTO picket.regions (name) VALUES ('eu'), ('us');
                 INSERT INTO picket.sites (url, name, tags) VALUES
                     ('https://shop.example/', 'shop', '{sales}'), ('https://api.example/', 'api', '{sales,core}'),
                     ('https://blog.example/', 'blog', '{}');
                 UPDATE picket.schedules SET valid_from = picket.hour_of(now()) - interval '4 hours';
                 UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '4 hours',
                     days_through = picket.day_of(picket.hour_of(now()) - interval '4 hours')",
            )
            .await;
        world
    }

    pub(crate) async fn execute_sql(&self, sql: &str) -> u64 {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    pub(crate) async fn query_text(&self, sql: &str) -> String {
        let found: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!("SELECT ({sql})::text")))
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        found.unwrap_or_default()
    }

    /// Rows for all ticks so far: some down, some missed, and times of all sizes.
    pub(crate) async fn insert_rows(&self) -> u64 {
        self.execute_sql(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, dns_us, connect_us,
                 first_byte_us, total_us, tls_expires_at)
             SELECT tick, site_id, region_id, 'scheduled', outcome::picket.outcome,
                    CASE outcome WHEN 'down' THEN 'timeout' WHEN 'missed' THEN 'no_prober' END::picket.cause,
                    1000, 2000, 3000, 100 + (picket.hash32(tick::text) % 1000000)::integer, now() + interval '9 days'
             FROM picket.schedules
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), valid_from, now()) AS tick
             CROSS JOIN LATERAL (SELECT CASE WHEN picket.hash32(tick::text || site_id) % 10 = 0 THEN 'down'
                                             WHEN picket.hash32(tick::text || site_id) % 10 = 1 THEN 'missed'
                                             ELSE 'up' END AS outcome) AS chance
             ON CONFLICT DO NOTHING",
        )
        .await
    }

    /// As if the ledger were closed up to `minutes` after the start of the hour `ago` hours ago.
    pub(crate) async fn close_ledger_until(&self, ago: u32, minutes: u32) {
        self.execute_sql(&format!(
            "UPDATE picket.leases SET accounted_through =
                 picket.hour_of(now()) - interval '{ago} hours' + interval '{minutes} minutes'"
        ))
        .await;
    }

    pub(crate) async fn roll_up(&self) -> u32 {
        let mut pieces = 0;
        while housekeeping::roll_up_results(&self.store, wall_clock_now(), PIECE).await.unwrap().is_some() {
            pieces += 1;
        }
        while housekeeping::roll_up_day(&self.store, wall_clock_now()).await.unwrap().is_some() {}
        pieces
    }

    /// The sums of the reports, and the same counted from the rows.
    pub(crate) async fn rollups_and_recount(&self) -> (String, String) {
        let said = self
            .query_text(
                "SELECT (sum(up), sum(down), sum(missed), sum(checks)) FROM report.uptime_daily
                 WHERE day >= picket.day_of(now()) - 1",
            )
            .await;
        let counted = self
            .query_text(
                "SELECT (count(*) FILTER (WHERE outcome = 'up'), count(*) FILTER (WHERE outcome = 'down'),
                         count(*) FILTER (WHERE outcome = 'missed'), count(*))
                 FROM report.checks",
            )
            .await;
        (said, counted)
    }

    pub(crate) async fn rebuild_dirty_hours(&self) {
        self.execute_sql("UPDATE picket.rollups_dirty SET marked_at = '-infinity'").await;
        while housekeeping::rebuild_dirty_hour(&self.store, wall_clock_now()).await.unwrap().is_some() {}
        while housekeeping::roll_up_day(&self.store, wall_clock_now()).await.unwrap().is_some() {}
    }
}

/// Merged from any number of parts, as an hour is from its pieces and a month from its days.
#[tokio::test]
async fn a_percentile_of_merged_histograms_is_within_the_stated_bound_of_the_exact_one() {
    let database = crate::new_database().await;
    let mut runner = TestRunner::new(Config::default());
    // Times over the whole range, or crowded together as a site's are; some of them the same.
    let times = prop_oneof![
        prop::collection::vec(128_i32..60_000_000, 1..200),
        (200_i32..1_000_000)
            .prop_flat_map(|middle| prop::collection::vec(middle / 2 + 64..middle * 2, 1..400)),
        (128_i32..60_000_000, 1_usize..50).prop_map(|(time, number)| vec![time; number]),
    ];
    let cases = (times, 1_i64..7);
    for _ in 0..150 {
        let (times, parts) = cases.new_tree(&mut runner).unwrap().current();

        let (found, total): (Option<Vec<Option<f64>>>, i64) = sqlx::query_as(
            "SELECT ARRAY(SELECT picket.bucket_ms(bucket) FROM unnest(picket.percentile_buckets(
                        sum(histogram), sum(number)::bigint, '{1,0.99,0.95,0.5,0.01}')) AS bucket),
                    sum(number)::bigint
             FROM (SELECT sum(unit) AS histogram, count(*) AS number
                   FROM unnest($1::integer[]) WITH ORDINALITY AS time (us, place)
                   JOIN picket.histogram_units AS histogram ON histogram.bucket = picket.bucket(us)
                   GROUP BY place % $2) AS part",
        )
        .bind(&times)
        .bind(parts)
        .fetch_one(&database.pool)
        .await
        .unwrap();

        let mut sorted = times.clone();
        sorted.sort_unstable();
        assert_eq!(usize::try_from(total).unwrap(), times.len());
        let found = found.unwrap();
        assert_eq!(found.len(), 5, "{times:?}");
        for (found, per_cent) in found.into_iter().zip([100, 99, 95, 50, 1]) {
            let rank = (times.len() * per_cent).div_ceil(100).max(1);
            let exact = f64::from(sorted[rank - 1]) / 1_000.0;
            let error = (found.unwrap() / exact - 1.0).abs();
            // Times are shown in whole microseconds.
            assert!(error <= BOUND + 0.000_6 / exact, "p{per_cent}: {found:?} and not {exact}: {times:?}");
        }
    }
}

#[tokio::test]
async fn an_overflowing_histogram_has_no_percentiles() {
    let world = World::new().await;

    let well = world.query_text("SELECT picket.percentile_buckets(99999999, 99999999, '{0.5}')").await;
    let over = world.query_text("SELECT picket.percentile_buckets(100000001, 100000001, '{0.5}')").await;

    assert_eq!((well.as_str(), over.as_str()), ("{0}", ""));
}

#[tokio::test]
async fn each_row_is_counted_once_before_it_is_rolled_up_and_after() {
    let world = World::new().await;
    world.close_ledger_until(4, 0).await;
    assert!(world.insert_rows().await > 3 * 2 * 4 * 60 - 6);

    for (ago, minutes) in [(4, 0), (4, 25), (3, 0), (2, 59), (1, 0)] {
        world.close_ledger_until(ago, minutes).await;
        world.roll_up().await;
        let (said, counted) = world.rollups_and_recount().await;
        assert_eq!(said, counted, "closed up to {minutes} minutes of the hour {ago} hours ago");
    }

    let rolled = world.query_text("SELECT count(DISTINCT hour) FROM picket.rollups_hourly").await;
    assert_eq!(rolled, "3");
    let hour = world
        .query_text(
            "SELECT (bool_and(dns_ms = 1 AND connect_ms = 2 AND first_byte_ms = 3 AND tls_ms IS NULL),
                     bool_and(p50_ms <= p95_ms AND p95_ms <= p99_ms)) FROM report.latency_hourly",
        )
        .await;
    assert_eq!(hour, "(t,t)");
}

#[tokio::test]
async fn rollups_and_rows_give_equal_reports() {
    const SAID: &str = "SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM (
        SELECT day, site_id, region, up, down, missed, uptime_pct, p50_ms, p95_ms, p99_ms FROM report.uptime_daily) AS t";
    const HOURS: &str =
        "SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM report.latency_hourly AS t
        WHERE hour < picket.hour_of(now())";
    const FAILED: &str = "SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM report.failures AS t";
    let world = World::new().await;
    world.close_ledger_until(4, 0).await;
    world.insert_rows().await;
    let before =
        (world.query_text(SAID).await, world.query_text(HOURS).await, world.query_text(FAILED).await);

    world.close_ledger_until(0, 0).await;
    world.execute_sql("UPDATE picket.leases SET accounted_through = now() - interval '11 seconds'").await;
    assert!(world.roll_up().await >= 24);

    let after = (world.query_text(SAID).await, world.query_text(HOURS).await, world.query_text(FAILED).await);
    assert_eq!(before, after);
}

#[tokio::test]
async fn only_closed_ledgers_or_ledgers_open_for_a_day_are_rolled_up() {
    let world = World::new().await;
    world.close_ledger_until(4, 9).await;
    world.insert_rows().await;

    assert_eq!(world.roll_up().await, 0);
    world
        .execute_sql(
            "UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '26 hours',
             days_through = days_through - 1; UPDATE picket.leases SET accounted_through = now() - interval '9 days'",
        )
        .await;
    assert!(world.roll_up().await >= 6);
    assert_eq!(
        world.query_text("SELECT rolled_through <= now() - interval '1 day' FROM picket.rollup_state").await,
        "true"
    );
}

#[tokio::test]
async fn a_late_result_that_replaces_a_missed_row_updates_the_rollups_of_hour_and_day() {
    let world = World::new().await;
    world.insert_rows().await;
    world.close_ledger_until(0, 0).await;
    world.roll_up().await;
    // As if yesterday ended with the last full hour: its days are summed up too.
    let late = world
        .execute_sql(
            "UPDATE picket.check_results SET outcome = 'up', cause = NULL, total_us = 5000 WHERE outcome = 'missed'
             AND scheduled_at < picket.hour_of(now()) - interval '1 hour'",
        )
        .await;
    assert!(late > 0);

    world.rebuild_dirty_hours().await;

    let (said, counted) = world.rollups_and_recount().await;
    assert_eq!(said, counted);
    assert_eq!(world.query_text("SELECT count(*) FROM picket.rollups_dirty").await, "0");
    let missed = "SELECT coalesce(sum(checks), 0) FROM picket.failures_hourly WHERE cause = 'no_prober'
                  AND hour < picket.hour_of(now()) - interval '1 hour'";
    assert_eq!(world.query_text(missed).await, "0");
}

#[tokio::test]
async fn a_late_row_without_a_predecessor_is_found_by_recounting() {
    let world = World::new().await;
    world.insert_rows().await;
    world.execute_sql("DELETE FROM picket.check_results WHERE site_id = 2 AND outcome = 'down'").await;
    world.close_ledger_until(0, 0).await;
    world.roll_up().await;
    assert!(!housekeeping::recount_hour(&world.store, wall_clock_now(), 2).await.unwrap());

    assert!(world.insert_rows().await > 0);
    for ago in 1..=4 {
        housekeeping::recount_hour(&world.store, wall_clock_now(), ago).await.unwrap();
    }
    world.rebuild_dirty_hours().await;

    let (said, counted) = world.rollups_and_recount().await;
    assert_eq!(said, counted);
}

#[tokio::test]
async fn two_concurrent_rollups_count_each_row_once() {
    let world = World::new().await;
    world.insert_rows().await;
    world.close_ledger_until(0, 0).await;

    let one = async {
        for _ in 0..40 {
            housekeeping::roll_up_results(&world.store, wall_clock_now(), PIECE).await.unwrap();
            housekeeping::roll_up_day(&world.store, wall_clock_now()).await.unwrap();
        }
    };
    let other = async {
        for _ in 0..40 {
            housekeeping::roll_up_results(&world.store, wall_clock_now(), PIECE / 2).await.unwrap();
            housekeeping::rebuild_dirty_hour(&world.store, wall_clock_now()).await.unwrap();
        }
    };
    tokio::join!(one, other);
    world.roll_up().await;

    let (said, counted) = world.rollups_and_recount().await;
    assert_eq!(said, counted);
}

#[tokio::test]
async fn maintenance_can_be_excluded_even_if_changed_afterwards() {
    const UPTIME: &str = "SELECT bool_or(uptime_pct < 100), bool_and(uptime_pct_excl_maintenance = 100)
        FROM report.uptime_monthly WHERE site_id IN (1, 2)";
    let world = World::new().await;
    world.insert_rows().await;
    world.close_ledger_until(0, 0).await;
    world.roll_up().await;
    world
        .execute_sql(
            "UPDATE picket.check_results SET outcome = 'up', cause = NULL WHERE outcome = 'down'
              AND scheduled_at < picket.hour_of(now()) - interval '2 hours'",
        )
        .await;

    world
        .execute_sql(
            "INSERT INTO picket.maintenance (tag, window_from, window_to)
             VALUES ('sales', picket.hour_of(now()) - interval '2 hours', now() + interval '1 hour')",
        )
        .await;
    world.rebuild_dirty_hours().await;
    let (all, without): (bool, bool) = sqlx::query_as(UPTIME).fetch_one(&world.pool).await.unwrap();
    assert!(all && without);

    world.execute_sql("DELETE FROM picket.maintenance").await;
    world.rebuild_dirty_hours().await;
    let (_, without): (bool, bool) = sqlx::query_as(UPTIME).fetch_one(&world.pool).await.unwrap();
    assert!(!without);
}

#[tokio::test]
async fn ticks_in_a_recorded_gap_reduce_coverage_and_not_uptime() {
    let world = World::new().await;
    world.execute_sql("UPDATE picket.sites SET enabled = false WHERE id > 1").await;
    world.insert_rows().await;
    world
        .execute_sql(
            "DELETE FROM picket.check_results WHERE scheduled_at < picket.hour_of(now()) - interval '3 hours'
                 OR outcome <> 'up';
             INSERT INTO picket.gaps (shard, gap_from, gap_to) SELECT shard, picket.hour_of(now()) - interval '4 hours',
                 picket.hour_of(now()) - interval '3 hours' FROM picket.sites WHERE id = 1",
        )
        .await;
    world.close_ledger_until(0, 0).await;
    world.roll_up().await;

    let hour = world
        .query_text(
            "SELECT (sum(gap), sum(up)) FROM picket.hourly WHERE site_id = 1
                           AND hour = picket.hour_of(now()) - interval '4 hours'",
        )
        .await;
    assert_eq!(hour, "(120,0)");
    let day = world
        .query_text("SELECT (bool_or(coverage_pct < 100), bool_and(uptime_pct = 100)) FROM report.uptime_monthly WHERE site_id = 1")
        .await;
    assert_eq!(day, "(t,t)");
}
