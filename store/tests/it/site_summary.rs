//! The summary of sites: it equals the reports after any history, and follows transitions in their own transactions.

mod locks;
mod marks;
mod regions;
mod upgrade;

use std::time::Duration;

use picket_store::{
    Store, housekeeping,
    site_list::{MatchCount, SiteFilter, SiteState, count_sites},
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::wall_clock_now;

/// Sites of different shapes in two regions, checked every twenty minutes for four days. Days before those have sums only, so that
/// days leave the windows of 7, 30 and 90 days while the rollups advance. Results end with the last whole hour, and six ticks last
/// longer than the hour in progress, so that no site becomes unknown between a refresh and a comparison.
const HISTORY: &str = "
    UPDATE picket.settings SET min_interval = '1 second';
    INSERT INTO picket.regions (name) VALUES ('eu'), ('us');
    INSERT INTO picket.sites (url, interval_seconds, tags, enabled)
    SELECT 'https://site-' || n || '.example/', 1200, CASE WHEN n = 7 THEN '{planned}' ELSE '{}' END::text[], n <> 10
    FROM generate_series(1, 12) AS n;
    UPDATE picket.sites SET created_at = picket.hour_of(now()) - interval '200 days' WHERE id <> 9;
    SELECT picket.ensure_partitions(6, 7);
    UPDATE picket.schedules SET valid_from = picket.hour_of(now()) - interval '96 hours' WHERE site_id <> 9;
    INSERT INTO picket.rollups_daily
        (site_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance, region_id)
    SELECT id, picket.day_of(picket.hour_of(now()) - interval '96 hours') - back, 100 + chance % 40,
           CASE WHEN chance % 3 = 0 THEN chance % 7 ELSE 0 END, CASE WHEN chance % 5 = 0 THEN chance % 9 ELSE 0 END, 0, 0,
           CASE WHEN chance % 6 = 0 THEN chance % 7 ELSE 0 END, 1
    FROM picket.sites CROSS JOIN generate_series(1, 120) AS back
    CROSS JOIN LATERAL (SELECT picket.hash32(id || ' ' || back || '{seed}') AS chance) AS drawn
    WHERE id NOT IN (9, 10) AND chance % 11 > 0;
    UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '96 hours',
        days_through = picket.day_of(picket.hour_of(now()) - interval '96 hours');
    INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, total_us)
    SELECT tick, site_id, region_id, 'scheduled', outcome::picket.outcome,
           CASE outcome WHEN 'down' THEN 'timeout' WHEN 'missed' THEN 'no_prober' END::picket.cause,
           200 + (picket.hash32(tick::text || site_id || '{seed}') % 900000)::integer
    FROM picket.schedules
    CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, picket.hour_of(now()) - interval '1 microsecond',
                            valid_from, picket.hour_of(now()) - interval '1 microsecond') AS tick
    CROSS JOIN LATERAL (SELECT picket.hash32(tick::text || site_id || region_id || '{seed}') % 10 AS chance) AS drawn
    CROSS JOIN LATERAL (SELECT CASE
        WHEN site_id = 1 THEN 'up'
        -- An outage over midnight.
        WHEN site_id = 2 AND tick BETWEEN picket.start_of_day(picket.day_of(now()) - 1) - interval '2 hours'
                                      AND picket.start_of_day(picket.day_of(now()) - 1) + interval '3 hours' THEN 'down'
        WHEN site_id = 3 THEN 'missed'
        WHEN site_id IN (2, 12) THEN 'up'
        WHEN chance = 0 THEN 'down'
        WHEN chance = 1 THEN 'missed'
        ELSE 'up' END AS outcome) AS judged
    ON CONFLICT DO NOTHING;
    INSERT INTO picket.maintenance (tag, window_from, window_to)
    VALUES ('planned', picket.hour_of(now()) - interval '70 hours', picket.hour_of(now()) - interval '20 hours');
    UPDATE picket.leases SET accounted_through = picket.hour_of(now()) - interval '96 hours'";

/// Differences between the sums of all sites that are kept and those of the rows.
const SUM_DIFFERENCES: &str =
    "SELECT (max(state.up_24h) - sum(kept.up_24h), max(state.down_24h) - sum(kept.down_24h),
             max(state.checks_24h) - sum(kept.checks_24h))
     FROM picket.site_statistics AS kept CROSS JOIN picket.site_summary_state AS state";

/// Differences between the summary and the reports. The ledger counts the rows of 24 hours, and report.uptime_daily has the days.
const DIFFERENCES: &str = "
    WITH through AS (
        SELECT hours_through AS hour, picket.day_of(hours_through) AS today FROM picket.site_summary_state
    ),
    counted AS (
        SELECT site_id, sum(expected)::bigint AS expected, sum(up)::bigint AS up, sum(down)::bigint AS down
        FROM through, report.ledger(hour - interval '24 hours 1 microsecond', hour - interval '1 microsecond') GROUP BY site_id
    ),
    times AS (
        SELECT site_id, picket.percentile_buckets(sum(histogram), sum(up)::bigint, '{0.95,0.5}') AS p
        FROM picket.hourly, through WHERE hourly.hour >= through.hour - interval '24 hours' AND hourly.hour < through.hour
        GROUP BY site_id
    ),
    days AS (
        SELECT site_id, day, sum(checks)::bigint AS checks, sum(up)::bigint AS up, sum(down)::bigint AS down
        FROM report.uptime_daily GROUP BY site_id, day
    ),
    windows AS (
        SELECT site_id, length,
               picket.percent(sum(up)::bigint, sum(up + down)::bigint) AS uptime,
               picket.percent(sum(up + down)::bigint, sum(checks)::bigint) AS coverage
        FROM days CROSS JOIN through CROSS JOIN unnest('{7,30,90}'::integer[]) AS length
        WHERE day >= today - length GROUP BY site_id, length
    ),
    letters AS (
        SELECT site.id AS site_id, day.day, CASE
            WHEN coalesce(days.checks, 0) = 0 AND day.day = today THEN '-'
            WHEN coalesce(days.checks, 0) = 0 THEN CASE WHEN site.created_at < picket.start_of_day(day.day) THEN 's' ELSE '-' END
            WHEN days.up + days.down = 0 THEN 'x'
            WHEN days.down = 0 AND (days.checks - days.up) * 100 > days.checks THEN 'g'
            WHEN days.down = 0 THEN 'u'
            WHEN planned.down = days.down THEN 'm'
            WHEN planned.up = days.up THEN 'd'
            ELSE 'p' END AS letter
        FROM picket.sites AS site CROSS JOIN through
        CROSS JOIN LATERAL (SELECT today - back AS day FROM generate_series(0, 364) AS back) AS day
        LEFT JOIN days ON days.site_id = site.id AND days.day = day.day
        LEFT JOIN (SELECT site_id, day, sum(up_in_maintenance) AS up, sum(down_in_maintenance) AS down
                   FROM picket.daily GROUP BY site_id, day) AS planned ON planned.site_id = site.id AND planned.day = day.day
    ),
    expected AS (
        SELECT site.id, CASE WHEN status.status <> 'paused' AND site.problem IS NOT NULL THEN 'problem' ELSE status.status END AS state,
               status.incident_id,
               picket.percent(counted.up, counted.up + counted.down) AS uptime_24h,
               picket.percent(counted.up + counted.down, counted.expected) AS coverage_24h,
               week.uptime AS uptime_7d, month.uptime AS uptime_30d, quarter.uptime AS uptime_90d,
               week.coverage AS coverage_7d, month.coverage AS coverage_30d, quarter.coverage AS coverage_90d,
               (picket.bucket_ms(times.p[2]) * 1000)::integer AS p50, (picket.bucket_ms(times.p[1]) * 1000)::integer AS p95,
               (SELECT string_agg(letter, '' ORDER BY day) FROM letters WHERE letters.site_id = site.id) AS days
        FROM picket.sites AS site
        JOIN report.site_status AS status ON status.site_id = site.id
        LEFT JOIN counted ON counted.site_id = site.id
        LEFT JOIN times ON times.site_id = site.id
        LEFT JOIN windows AS week ON week.site_id = site.id AND week.length = 7
        LEFT JOIN windows AS month ON month.site_id = site.id AND month.length = 30
        LEFT JOIN windows AS quarter ON quarter.site_id = site.id AND quarter.length = 90
    ),
    found AS (
        SELECT site_id, state::text, incident_id, uptime_24h_pct, coverage_24h_pct, uptime_7d_pct, uptime_30d_pct, uptime_90d_pct,
               coverage_7d_pct, coverage_30d_pct, coverage_90d_pct, p50_us, p95_us, days
        FROM picket.site_summary
    )
    SELECT array_agg(difference ORDER BY difference) FROM (
        SELECT 'expected ' || t::text AS difference FROM (SELECT * FROM expected EXCEPT SELECT * FROM found) AS t
        UNION ALL
        SELECT 'found ' || t::text FROM (SELECT * FROM found EXCEPT SELECT * FROM expected) AS t
    ) AS differences";

/// Everything in the summary but the times of updates.
const CONTENT: &str = "
    SELECT string_agg((to_jsonb(summary) - 'updated_at')::text || sums.histogram::text || sums.checks_90d, E'\n' ORDER BY summary.site_id)
    FROM picket.site_summary AS summary
    JOIN (SELECT site_id, coalesce(histogram, 0) AS histogram, checks_90d FROM picket.site_statistics) AS sums USING (site_id)";

struct Fleet {
    store: Store,
    pool: PgPool,
}

impl Fleet {
    async fn new(history: &str) -> Self {
        let crate::Database { store, pool } = crate::new_database().await;
        let fleet = Self { store, pool };
        fleet.execute_sql(history).await;
        fleet
    }

    async fn execute_sql(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn query_text(&self, sql: &str) -> Option<String> {
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT ({sql})::text")))
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn list_differences(&self) -> Vec<String> {
        let found: Option<Vec<String>> = sqlx::query_scalar(DIFFERENCES).fetch_one(&self.pool).await.unwrap();
        found.unwrap_or_default()
    }

    /// Refreshes also the sites that other transactions had locked.
    async fn refresh_left_sites(&self) {
        self.execute_sql("UPDATE picket.site_summaries_dirty SET due_at = now()").await;
        self.refresh().await;
    }

    async fn refresh(&self) {
        while housekeeping::refresh_site_summaries(&self.store, wall_clock_now(), 500).await.unwrap() {}
    }

    /// Rolls up everything until `ago` hours ago, as a coordinator does.
    async fn roll_up_until(&self, ago: i32) {
        self.roll_up_rows_until(ago).await;
        self.refresh().await;
    }

    async fn roll_up_rows_until(&self, ago: i32) {
        self.execute_sql(&format!(
            "UPDATE picket.leases SET accounted_through = picket.hour_of(now()) - interval '{ago} hours'"
        ))
        .await;
        let piece = Duration::from_secs(1_200);
        while housekeeping::roll_up_results(&self.store, wall_clock_now(), piece).await.unwrap().is_some() {
            while housekeeping::roll_up_day(&self.store, wall_clock_now()).await.unwrap().is_some() {}
        }
        self.execute_sql("UPDATE picket.rollups_dirty SET marked_at = '-infinity'").await;
        while housekeeping::rebuild_dirty_hour(&self.store, wall_clock_now()).await.unwrap().is_some() {}
        while housekeeping::roll_up_day(&self.store, wall_clock_now()).await.unwrap().is_some() {}
    }

    async fn rebuild(&self) {
        housekeeping::rebuild_site_summaries(&self.store, wall_clock_now(), None).await.unwrap();
        self.refresh().await;
    }
}

/// A change in the middle of a history, `ago` hours before its end.
fn change_at(kind: u8, ago: i32) -> String {
    let at = format!("picket.hour_of(now()) - interval '{ago} hours'");
    match kind {
        // Results that arrive late.
        0 => format!(
            "UPDATE picket.check_results SET outcome = 'up', cause = NULL WHERE outcome = 'missed' AND site_id > 3
             AND scheduled_at >= {at} AND scheduled_at < {at} + interval '2 hours'"
        ),
        1 => format!(
            "INSERT INTO picket.maintenance (site_id, window_from, window_to) VALUES (4, {at}, {at} + interval '5 hours')"
        ),
        2 => format!(
            "DELETE FROM picket.check_results WHERE site_id = 5 AND scheduled_at > {at}
                 AND scheduled_at <= {at} + interval '3 hours';
             INSERT INTO picket.gaps (shard, gap_from, gap_to) SELECT shard, {at}, {at} + interval '3 hours'
             FROM picket.sites WHERE id = 5 ON CONFLICT DO NOTHING"
        ),
        // A region that no longer checks the site, and a site that was paused.
        3 => format!(
            "UPDATE picket.sites SET regions = '{{eu}}' WHERE id = 8;
             UPDATE picket.schedules SET valid_to = least(valid_to, {at}) WHERE site_id = 8 AND valid_to IS NOT NULL;
             DELETE FROM picket.check_results WHERE site_id = 8 AND region_id = 2 AND scheduled_at > {at};
             INSERT INTO picket.rollups_dirty SELECT generate_series({at}, now(), interval '1 hour')"
        ),
        4 => format!(
            "UPDATE picket.sites SET enabled = false WHERE id = 6;
             UPDATE picket.schedules SET valid_to = least(valid_to, {at}) WHERE site_id = 6 AND valid_to IS NOT NULL;
             DELETE FROM picket.check_results WHERE site_id = 6 AND scheduled_at > {at};
             INSERT INTO picket.rollups_dirty SELECT generate_series({at}, now(), interval '1 hour')"
        ),
        5 => "DELETE FROM picket.sites WHERE id = 11".to_owned(),
        6 => format!(
            "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions)
             VALUES (12, {at}, {at}, '{{eu}}') ON CONFLICT DO NOTHING"
        ),
        _ => "SELECT picket.rebuild_site_summary()".to_owned(),
    }
}

#[tokio::test]
async fn the_summary_equals_the_reports_after_any_history_and_after_a_rebuild() {
    let mut runner = TestRunner::new(Config::default());
    let histories = (any::<u16>(), prop::collection::vec((0_u8..8, 3_i32..90), 4..9));
    for _ in 0..4 {
        let (seed, mut changes) = histories.new_tree(&mut runner).unwrap().current();
        let fleet = Fleet::new(&HISTORY.replace("{seed}", &seed.to_string())).await;
        fleet.refresh().await;
        changes.sort_by_key(|(_, ago)| std::cmp::Reverse(*ago));

        for (kind, ago) in &changes {
            fleet.roll_up_until(*ago).await;
            // Changes concern hours that are rolled up, and hours that are not.
            fleet.execute_sql(&change_at(*kind, *ago - 2)).await;
            fleet.execute_sql(&change_at(*kind, *ago + 3)).await;
        }
        fleet.roll_up_until(0).await;

        let through = "SELECT (hours_through = picket.hour_of(now()), (SELECT count(*) FROM picket.site_summaries_dirty))
                       FROM picket.site_summary_state";
        assert_eq!(fleet.query_text(through).await.as_deref(), Some("(t,0)"));
        assert_eq!(fleet.list_differences().await, [""; 0], "seed {seed}, {changes:?}");
        assert_eq!(
            fleet.query_text(SUM_DIFFERENCES).await.as_deref(),
            Some("(0,0,0)"),
            "seed {seed}, {changes:?}"
        );
        let followed = fleet.query_text(CONTENT).await;
        fleet.rebuild().await;
        assert_eq!(
            fleet.query_text(SUM_DIFFERENCES).await.as_deref(),
            Some("(0,0,0)"),
            "rebuilt: seed {seed}"
        );
        assert_eq!(fleet.list_differences().await, [""; 0], "rebuilt: seed {seed}, {changes:?}");
        assert_eq!(fleet.query_text(CONTENT).await, followed, "rebuilt: seed {seed}, {changes:?}");
    }
}

/// Three sites in one region, checked each minute for an hour, up but for what a test adds.
const UP: &str = "
    INSERT INTO picket.regions (name) VALUES ('eu');
    INSERT INTO picket.sites (url, tags) VALUES ('https://a.example/', '{planned}'), ('https://b.example/', '{}'), ('https://c.example/', '{}');
    UPDATE picket.schedules SET valid_from = now() - interval '1 hour';
    INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, total_us)
    SELECT tick, site_id, region_id, 'scheduled', 'up', 5000 FROM picket.schedules
    CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), valid_from, now()) AS tick";

#[tokio::test]
async fn an_incident_changes_the_summary_in_its_own_transaction() {
    const STATE: &str = "SELECT (state, incident_id, state_since = now() - interval '5 minutes')::text
                         FROM picket.site_summary WHERE site_id = 2";
    let fleet = Fleet::new(UP).await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATE).await.as_deref(), Some("(up,,f)"));

    for (change, within) in [
        (
            "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions)
             VALUES (2, now() - interval '5 minutes', now(), '{eu}')",
            "(down,1,t)",
        ),
        ("UPDATE picket.incidents SET closed_at = now() - interval '5 minutes' WHERE site_id = 2", "(up,,t)"),
    ] {
        let before = fleet.query_text("SELECT state FROM picket.site_summary WHERE site_id = 2").await;
        let mut transaction = fleet.pool.begin().await.unwrap();
        sqlx::query("SET LOCAL ROLE picket_sink").execute(&mut *transaction).await.unwrap();
        sqlx::query(change).execute(&mut *transaction).await.unwrap();
        sqlx::query("RESET ROLE").execute(&mut *transaction).await.unwrap();
        let seen: String = sqlx::query_scalar(STATE).fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(seen, within);
        let elsewhere = fleet.query_text("SELECT state FROM picket.site_summary WHERE site_id = 2").await;
        assert_eq!(elsewhere, before, "not before the commit");
        transaction.commit().await.unwrap();
        let after = fleet.query_text("SELECT state FROM picket.site_summary WHERE site_id = 2").await;
        assert_ne!(after, before);
    }
}

#[tokio::test]
async fn the_state_follows_pauses_problems_and_failures_in_maintenance() {
    const STATES: &str = "SELECT string_agg(state::text, ' ' ORDER BY site_id) FROM picket.site_summary";
    let fleet = Fleet::new(UP).await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("unknown unknown unknown"));
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("up up up"));

    fleet.execute_sql("UPDATE picket.sites SET enabled = false WHERE id = 2; UPDATE picket.sites SET problem = 'no' WHERE id = 3").await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("up paused problem"));
    let since = "SELECT bool_and(state_since = (SELECT max(valid_to) FROM picket.schedules AS schedule
                                               WHERE schedule.site_id = summary.site_id))
                 FROM picket.site_summary AS summary WHERE site_id > 1";
    assert_eq!(fleet.query_text(since).await.as_deref(), Some("true"));
    fleet.execute_sql("UPDATE picket.sites SET enabled = true, name = 'b' WHERE id > 1").await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("up unknown unknown"));

    // As a sink leaves a site that fails in maintenance.
    fleet
        .execute_sql(
            "UPDATE picket.check_results SET outcome = 'down' WHERE site_id = 1;
             INSERT INTO picket.maintenance (tag, window_from, window_to) VALUES ('planned', now() - interval '1 hour', 'infinity');
             INSERT INTO picket.site_states (site_id) VALUES (1)",
        )
        .await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("down unknown unknown"));
    fleet.execute_sql("UPDATE picket.check_results SET outcome = 'up'; DELETE FROM picket.site_states").await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(STATES).await.as_deref(), Some("up unknown unknown"));

    fleet.execute_sql("DELETE FROM picket.sites WHERE id = 2; INSERT INTO picket.sites (url) VALUES ('https://d.example/')").await;
    let rows = "SELECT string_agg(site_id || '', ' ' ORDER BY site_id) FROM picket.site_summary";
    assert_eq!(fleet.query_text(rows).await.as_deref(), Some("1 3 4"));
}

#[tokio::test]
async fn two_rebuilds_and_concurrent_transitions_end_with_the_present_state() {
    let fleet = Fleet::new(UP).await;
    fleet.refresh().await;
    let rebuild = async || {
        for _ in 0..15 {
            fleet.rebuild().await;
        }
    };
    let transitions = async || {
        for round in 0..40 {
            let site = 1 + round % 3;
            fleet
                .execute_sql(&format!(
                    "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions)
                     VALUES ({site}, now(), now(), '{{eu}}') ON CONFLICT DO NOTHING"
                ))
                .await;
            fleet
                .execute_sql(&format!(
                    "UPDATE picket.incidents SET closed_at = greatest(opened_at, now()) WHERE site_id = {} AND closed_at IS NULL",
                    1 + (round + 1) % 3
                ))
                .await;
            fleet.execute_sql("UPDATE picket.sites SET enabled = NOT enabled WHERE id = 3").await;
        }
    };

    tokio::join!(rebuild(), rebuild(), transitions(), transitions());
    fleet.refresh_left_sites().await;

    let different = "SELECT string_agg(summary.site_id || ' ' || summary.state || ' ' || status.status, ', ')
         FROM picket.site_summary AS summary JOIN report.site_status AS status USING (site_id)
         WHERE (summary.state::text, summary.incident_id) IS DISTINCT FROM (status.status, status.incident_id)";
    assert_eq!(fleet.query_text(different).await, None);
    for state in SiteState::ALL_STATES {
        let counted =
            count_sites(&fleet.store, &SiteFilter { status: &[state], ..SiteFilter::default() }, 1).await;
        let listed =
            format!("SELECT count(*) FROM picket.site_conditions WHERE state = '{}'", state.as_str());
        let listed: i64 = fleet.query_text(&listed).await.unwrap().parse().unwrap();
        assert_eq!(counted.unwrap(), MatchCount::Exactly(listed), "{state:?}");
    }
}

#[tokio::test]
async fn a_rebuild_of_all_is_done_some_sites_at_a_time_and_can_be_interrupted() {
    let fleet = Fleet::new(&HISTORY.replace("{seed}", "3").replace("96 hours", "3 hours")).await;
    fleet.roll_up_until(0).await;
    let kept = fleet.query_text(CONTENT).await;
    fleet
        .execute_sql(
            "UPDATE picket.site_statistics SET up_24h = 0, checks_90d = -1, days = repeat('d', 365);
             UPDATE picket.site_texts SET searched = 'nothing';
             INSERT INTO picket.site_statistics (site_id) VALUES (999); INSERT INTO picket.site_texts VALUES (999, '', '')",
        )
        .await;

    housekeeping::rebuild_site_summaries(&fleet.store, wall_clock_now(), None).await.unwrap();
    let mut left = vec![housekeeping::count_waiting_summaries(&fleet.store).await.unwrap()];
    while housekeeping::refresh_site_summaries(&fleet.store, wall_clock_now(), 5).await.unwrap() {
        left.push(housekeeping::count_waiting_summaries(&fleet.store).await.unwrap());
    }

    assert_eq!(left, [13, 8, 3]);
    assert_eq!(fleet.query_text(CONTENT).await, kept);
    let texts = "SELECT count(*) FROM picket.site_texts WHERE searched LIKE '%site-%'";
    assert_eq!(fleet.query_text(texts).await.as_deref(), Some("12"));
    assert_eq!(fleet.query_text("SELECT count(*) FROM picket.site_statistics").await.as_deref(), Some("12"));
}

#[tokio::test]
async fn every_unknown_site_is_read_in_turn_however_many_there_are() {
    let fleet = Fleet::new(UP).await;
    fleet
        .execute_sql("INSERT INTO picket.sites (url) SELECT 'https://' || n || '.example/' FROM generate_series(1, 40) AS n")
        .await;
    fleet.refresh().await;
    fleet
        .execute_sql(
            "UPDATE picket.site_conditions SET state = 'unknown'; DELETE FROM picket.site_summaries_dirty",
        )
        .await;
    fleet.execute_sql("UPDATE picket.site_summary_rounds SET last_site = 3").await;

    // The 3 sites with results come after the 40 without.
    for round in 1..=10 {
        let more = housekeeping::refresh_site_summaries(&fleet.store, wall_clock_now(), 5).await.unwrap();
        assert_eq!(more, round == 10, "{round}");
    }
    let up = "SELECT array_agg(site_id ORDER BY site_id) FROM picket.site_summary WHERE state = 'up'";
    assert_eq!(fleet.query_text(up).await.as_deref(), Some("{1,2,3}"));
}

#[tokio::test]
async fn failures_of_the_hour_in_progress_count_before_it_is_over() {
    let fleet = Fleet::new(UP).await;
    fleet
        .execute_sql(
            "UPDATE picket.schedules SET valid_from = picket.hour_of(now()) - interval '1 hour';
             DELETE FROM picket.check_results;
             UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '1 hour';
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, total_us)
             SELECT tick, site_id, region_id, 'scheduled', CASE WHEN site_id = 1 THEN 'down' ELSE 'up' END::picket.outcome,
                    CASE WHEN site_id = 1 THEN 'status' END::picket.cause, 5000
             FROM picket.schedules
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), valid_from, valid_from + interval '20 minutes') AS tick",
        )
        .await;
    fleet.refresh().await;

    fleet
        .execute_sql(
            "UPDATE picket.leases SET accounted_through = picket.hour_of(now()) - interval '39 minutes'",
        )
        .await;
    let rolled = housekeeping::roll_up_results(&fleet.store, wall_clock_now(), Duration::from_secs(1_200))
        .await
        .unwrap();
    assert!(rolled.is_some());

    let found =
        "SELECT string_agg((uptime_24h_pct, coverage_24h_pct, right(days, 1))::text, ' ' ORDER BY site_id)
                 FROM picket.site_summary";
    // At the first hour of a day the letter is that of the new day, as in other hours.
    assert_eq!(fleet.query_text(found).await.as_deref(), Some("(0,100,d) (,,-) (,,-)"));
}
