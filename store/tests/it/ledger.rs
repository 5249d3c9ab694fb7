//! The ledger: every tick ends as one row, or lies in a gap that is on record.

mod causes;
mod cost;
mod gaps;

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};
use picket_store::{
    Store,
    leases::{self, AcquireCriteria, ShardProgress},
    ledger::{self, CloseSummary, Gap},
};
use sqlx::{AssertSqlSafe, PgPool};

const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A database with the regions `eu` and `us`, whose leases are all held.
struct World {
    store: Store,
    pool: PgPool,
    held: Vec<(Shard, Epoch)>,
}

impl World {
    async fn new() -> Self {
        let crate::Database { store, pool } = crate::new_database().await;
        let mut world = Self { store, pool, held: vec![] };
        world.execute_sql("INSERT INTO picket.regions (name) VALUES ('eu'), ('us')").await;
        world.acquire_shards("me").await;
        world
    }

    async fn acquire_shards(&mut self, who: &str) {
        let taken =
            leases::acquire_leases(&self.store, who, &AcquireCriteria::expired_only(64), LONG).await.unwrap();
        self.held = taken.iter().map(|lease| (lease.shard, lease.epoch)).collect();
    }

    async fn execute_sql(&self, sql: &str) -> u64 {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    async fn query_number(&self, sql: &str) -> i64 {
        let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await;
        found.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Sites, watched each 5 s since 20 minutes ago, of which all was published and nothing is accounted for.
    async fn insert_watched_sites(&self, sites: u32, regions: &str) {
        self.execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds, regions)
             SELECT 'http://{regions}.example/' || n, 5, '{{{regions}}}' FROM generate_series(1, {sites}) AS n;
             UPDATE picket.schedules SET valid_from = now() - interval '20 minutes';
             UPDATE picket.leases SET accounted_through = now() - interval '20 minutes', scheduled_through = now()"
        ))
        .await;
    }

    /// Rows for those ticks of the last 20 minutes for which `condition` holds.
    async fn insert_rows_where(&self, condition: &str) -> u64 {
        self.execute_sql(&format!(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, prober)
             SELECT tick, site_id, region_id, 'scheduled', 'up', 'p'
             FROM picket.schedules AS schedule
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, coalesce(valid_to, now()),
                                     now() - interval '20 minutes', now()) AS tick
             WHERE {condition} ON CONFLICT DO NOTHING"
        ))
        .await
    }

    async fn close_ledger(&self) -> Option<CloseSummary> {
        ledger::close_interval(&self.store, "me", &self.held, Duration::ZERO, HOUR, None).await.unwrap()
    }

    /// The sums of the last hour's ledger up to its closed end.
    async fn sum_last_hour(&self) -> ledger::LedgerRow {
        let (now, through) = ledger::read_accounted_through(&self.store).await.unwrap();
        let from = Timestamp::from_micros(now.as_micros() - 3_600_000_000);
        let rows =
            ledger::list_by_region(&self.store, from, through.unwrap(), ledger::LedgerFilter::default())
                .await
                .unwrap();
        rows.into_iter().fold(ledger::LedgerRow::default(), |sum, row| ledger::LedgerRow {
            site_id: None,
            region: sum.region + &row.region,
            expected: sum.expected + row.expected,
            up: sum.up + row.up,
            down: sum.down + row.down,
            missed: sum.missed + row.missed,
            gap: sum.gap + row.gap,
            unaccounted: sum.unaccounted + row.unaccounted,
        })
    }

    /// The ledger of sites, whether they are most sites or few enough to look up their ticks, is that of all of them,
    /// and counts the same missed ticks.
    async fn compare_few_sites_with_all(&self, lower: u64, upper: u64) {
        let (now, _) = ledger::read_accounted_through(&self.store).await.unwrap();
        let (from, to) = (
            now.saturating_sub(Duration::from_secs(lower)),
            now.saturating_sub(Duration::from_secs(upper + 1)),
        );
        let all = ledger::LedgerFilter::default();
        let tags = ["all".to_owned()];
        let tagged = ledger::LedgerFilter { tags: Some(&tags), site: None };
        let by_region = async |filter| ledger::list_by_region(&self.store, from, to, filter).await.unwrap();
        let by_cause =
            async |filter| ledger::count_missed_by_cause(&self.store, from, to, filter).await.unwrap();
        for counted in [0, 1_000] {
            self.execute_sql(&format!("INSERT INTO picket.site_state_counts VALUES ('up', {counted})")).await;
            let span = format!("from {lower} s ago to {upper} s ago, of {counted} more sites");
            assert_eq!(by_region(tagged).await, by_region(all).await, "{span}");
            assert_eq!(by_cause(tagged).await, by_cause(all).await, "{span}");
        }
        self.execute_sql("INSERT INTO picket.site_state_counts VALUES ('up', -1000)").await;

        let by_site = ledger::list_by_site(&self.store, from, to).await.unwrap();
        for site in 1..=5 {
            let filter = ledger::LedgerFilter { tags: Some(&tags), site: Some(picket_proto::SiteId(site)) };
            let rows: Vec<_> = by_region(filter)
                .await
                .into_iter()
                .map(|row| ledger::LedgerRow { site_id: Some(site), ..row })
                .collect();
            let mut expected: Vec<_> =
                by_site.iter().filter(|row| row.site_id == Some(site)).cloned().collect();
            expected.sort_by(|one, other| one.region.cmp(&other.region));
            assert_eq!(rows, expected, "site {site}");
        }
    }

    async fn count_missed(&self, cause: &str) -> i64 {
        self.query_number(&format!(
            "SELECT count(*) FROM picket.check_results WHERE outcome = 'missed' AND cause = '{cause}'"
        ))
        .await
    }
}

#[tokio::test]
async fn every_tick_without_a_row_gets_a_missed_row_and_the_ledger_balances() {
    let world = World::new().await;
    world.insert_watched_sites(20, "eu").await;
    let there = world.insert_rows_where("(site_id + picket.micros(tick) / 5000000) % 3 > 0").await;

    let closed = world.close_ledger().await.unwrap();
    let again = world.close_ledger().await.unwrap();

    let totals = world.sum_last_hour().await;
    assert!((4_780..=4_800).contains(&totals.expected), "{totals:?}");
    assert_eq!((totals.unaccounted, totals.up + totals.missed), (0, totals.expected));
    assert!(there.abs_diff(totals.up.unsigned_abs()) <= 20, "{there} rows, {totals:?}");
    assert_eq!(
        closed.missed_by_cause.iter().map(|(_, ticks)| ticks).sum::<u64>(),
        totals.missed.unsigned_abs()
    );
    // A few ticks may have come due in between.
    assert!(again.missed_by_cause.iter().map(|(_, ticks)| ticks).sum::<u64>() <= 20, "{again:?}");
}

#[tokio::test]
async fn a_missed_tick_has_the_best_cause_that_is_known() {
    let world = World::new().await;
    world.insert_watched_sites(2, "eu").await;
    world.insert_watched_sites(2, "us").await;
    // The region eu has active probers but no result of the other site. The region us had none.
    world.insert_rows_where("region_id = 1 AND site_id = 1").await;
    let shard = world.query_number("SELECT shard::bigint FROM picket.sites WHERE id = 2").await;
    let (now, _) = ledger::read_accounted_through(&world.store).await.unwrap();
    let ago = |seconds: i64| Timestamp::from_micros(now.as_micros() - seconds * 1_000_000);
    let gap = Gap { shard: Shard(shard.try_into().unwrap()), from: ago(600), to: ago(540) };
    ledger::record_gaps(&world.store, &[gap, gap]).await.unwrap();

    let late = ledger::close_interval(&world.store, "me", &world.held, Duration::ZERO, HOUR, Some(ago(300)))
        .await
        .unwrap();

    assert_eq!(late.unwrap().missed_by_cause.len(), 4);
    // One minute of ticks, of which the last had not expired when the gap ended.
    assert!((10..=12).contains(&world.count_missed("not_scheduled").await));
    assert!((3 * 60..=3 * 62).contains(&world.count_missed("result_late").await));
    assert!((160..=170).contains(&world.count_missed("expired").await));
    assert!((355..=365).contains(&world.count_missed("no_prober").await));
    assert_eq!(
        world.query_number("SELECT count(*) FROM picket.gaps").await,
        0,
        "a short gap is forgotten when it is filled"
    );
}

#[tokio::test]
async fn the_ledger_is_not_closed_without_the_leases_of_all_its_shards() {
    let mut world = World::new().await;
    world.insert_watched_sites(20, "eu").await;
    let old = world.held.clone();
    world
        .execute_sql(
            "UPDATE picket.leases SET expires_at = now() WHERE shard = (SELECT min(shard) FROM picket.sites)",
        )
        .await;
    assert_eq!(world.close_ledger().await, None, "a lease ran out");
    world.execute_sql("UPDATE picket.leases SET expires_at = '-infinity'").await;
    world.acquire_shards("other").await;

    let stale =
        ledger::close_interval(&world.store, "me", &old, Duration::ZERO, HOUR, None).await.unwrap().unwrap();
    assert_eq!(stale, CloseSummary::default(), "none of the leases is its own");
    let robbed = ledger::close_interval(&world.store, "other", &old, Duration::ZERO, HOUR, None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(robbed.missed_by_cause, [], "under an epoch that is over");
    assert_eq!(world.query_number("SELECT count(*) FROM picket.check_results").await, 0);
    assert!(
        ledger::close_interval(&world.store, "other", &world.held, Duration::ZERO, HOUR, None)
            .await
            .unwrap()
            .is_some()
    );
    assert!(world.query_number("SELECT count(*) FROM picket.check_results").await > 0);
}

#[tokio::test]
async fn the_ledger_is_closed_in_chunks_and_never_past_the_watermark() {
    let world = World::new().await;
    world.insert_watched_sites(3, "eu").await;
    world.execute_sql("UPDATE picket.leases SET scheduled_through = now() - interval '10 minutes'").await;
    let behind = "SELECT extract(epoch FROM now() - min(accounted_through))::bigint FROM picket.leases";

    ledger::close_interval(&world.store, "me", &world.held, LONG, LONG, None).await.unwrap().unwrap();
    assert!((1_135..=1_145).contains(&world.query_number(behind).await));
    for _ in 0..12 {
        ledger::close_interval(&world.store, "me", &world.held, LONG, LONG, None).await.unwrap().unwrap();
    }

    assert!((595..=605).contains(&world.query_number(behind).await));
    assert!((357..=363).contains(&world.query_number("SELECT count(*) FROM picket.check_results").await));
    assert_eq!(world.sum_last_hour().await.unaccounted, 0);
}

#[tokio::test]
async fn a_span_without_a_scheduler_is_recorded_as_a_gap_when_the_shard_is_acquired() {
    let mut world = World::new().await;
    world.insert_watched_sites(1, "eu").await;
    // Ticks of two minutes were published; the rest had no scheduler.
    world
        .insert_rows_where("tick <= now() - interval '18 minutes' OR tick > now() - interval '5 seconds'")
        .await;
    world
        .execute_sql("UPDATE picket.leases SET expires_at = '-infinity', scheduled_through = now() - interval '18 minutes'")
        .await;
    world.acquire_shards("me").await;
    world.execute_sql("UPDATE picket.leases SET scheduled_through = now()").await;

    world.close_ledger().await.unwrap();

    assert_eq!(
        world.query_number("SELECT count(*) FROM picket.gaps WHERE lasting").await,
        1,
        "only where there is a schedule"
    );
    let totals = world.sum_last_hour().await;
    assert!((213..=216).contains(&totals.gap), "{totals:?}");
    assert_eq!((totals.unaccounted, totals.missed), (0, 0), "{totals:?}");
    assert_eq!(totals.expected, totals.up + totals.gap);
    assert!((24..=26).contains(&totals.up), "{totals:?}");
}

#[tokio::test]
async fn a_timely_handover_of_a_shard_leaves_no_gap() {
    let mut world = World::new().await;
    world.insert_watched_sites(5, "eu").await;
    let through = |(shard, epoch): &(Shard, Epoch)| ShardProgress {
        shard: *shard,
        epoch: *epoch,
        scheduled_through: Timestamp::default(),
    };
    let progress: Vec<ShardProgress> = world.held.iter().map(through).collect();
    leases::release_leases(&world.store, "me", &progress).await.unwrap();

    world.acquire_shards("other").await;

    assert_eq!((world.held.len(), world.query_number("SELECT count(*) FROM picket.gaps").await), (64, 0));
}

#[tokio::test]
async fn ticks_of_a_schedule_committed_late_are_accounted_for() {
    let world = World::new().await;
    world.insert_watched_sites(1, "eu").await;
    world.close_ledger().await.unwrap();
    let mut slow = world.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://late/', 5);
         UPDATE picket.schedules SET valid_from = now() - interval '10 minutes' WHERE site_id = 2;
         UPDATE picket.sites SET interval_seconds = 10 WHERE id = 2;
         UPDATE picket.schedules SET valid_to = now() - interval '5 minutes' WHERE site_id = 2 AND valid_to IS NOT NULL;
         UPDATE picket.schedules SET valid_from = now() - interval '5 minutes' WHERE site_id = 2 AND valid_to IS NULL",
    )
    .execute(&mut *slow)
    .await
    .unwrap();
    world.execute_sql("UPDATE picket.leases SET scheduled_through = now()").await;
    world.close_ledger().await.unwrap();
    slow.commit().await.unwrap();
    assert!((178..=184).contains(&world.sum_last_hour().await.unaccounted));

    world.execute_sql("UPDATE picket.leases SET scheduled_through = now()").await;
    world.close_ledger().await.unwrap();

    assert_eq!(world.sum_last_hour().await.unaccounted, 0);
    assert!((178..=184).contains(&world.count_missed("not_scheduled").await));
}

#[tokio::test]
async fn the_ledger_equals_a_count_tick_by_tick_for_any_history() {
    let world = World::new().await;
    world
        .execute_sql(
            "SELECT setseed(0.42);
             INSERT INTO picket.sites (url, interval_seconds, tags)
             SELECT 'http://' || n, (ARRAY[5, 7, 60, 61, 3600])[1 + n % 5], '{all}' FROM generate_series(1, 60) AS n;
             UPDATE picket.schedules SET valid_from = now() - random() * interval '50 minutes';
             UPDATE picket.sites SET interval_seconds = interval_seconds + 6 WHERE random() < 0.5;
             DELETE FROM picket.sites WHERE random() < 0.2;
             DELETE FROM picket.regions WHERE name = 'us';
             UPDATE picket.schedules SET valid_to = valid_from + random() * (now() - valid_from) WHERE valid_to IS NOT NULL;
             UPDATE picket.schedules AS new SET valid_from = coalesce((
                 SELECT max(old.valid_to) FROM picket.schedules AS old
                 WHERE old.site_id = new.site_id AND old.region_id = new.region_id AND old.valid_to IS NOT NULL), valid_from)
             WHERE valid_to IS NULL;
             INSERT INTO picket.gaps SELECT shard, now() - interval '30 minutes', now() - interval '20 minutes'
             FROM (SELECT DISTINCT shard FROM picket.schedules) AS shards WHERE random() < 0.5;
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             SELECT tick, site_id, region_id, 'scheduled', (ARRAY['up', 'down', 'missed'])[1 + floor(random() * 3)]::picket.outcome
             FROM picket.schedules
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, coalesce(valid_to, now()), '-infinity', now()) AS tick
             WHERE random() < 0.7 ON CONFLICT DO NOTHING;
             -- Nobody's ticks: between two, and after the end.
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             SELECT now() - n * interval '77.7 seconds', n, 1, 'scheduled', 'up' FROM generate_series(1, 40) AS n
             ON CONFLICT DO NOTHING;
             UPDATE picket.check_results SET cause = 'no_prober' WHERE outcome = 'missed'",
        )
        .await;
    let by_tick = "SELECT schedule.site_id, region.name AS region, count(*) AS expected,
                          count(*) FILTER (WHERE outcome = 'up') AS up, count(*) FILTER (WHERE outcome = 'down') AS down,
                          count(*) FILTER (WHERE outcome = 'missed') AS missed,
                          count(*) FILTER (WHERE outcome IS NULL AND gap.shard IS NOT NULL) AS gap,
                          count(*) FILTER (WHERE outcome IS NULL AND gap.shard IS NULL) AS unaccounted
                   FROM picket.schedules AS schedule
                   JOIN picket.regions AS region ON region.id = schedule.region_id
                   CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, coalesce(valid_to, span.upper), span.lower, span.upper) AS tick
                   LEFT JOIN picket.check_results AS result
                     ON scheduled_at = tick AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id
                   LEFT JOIN picket.gaps AS gap ON gap.shard = schedule.shard AND tick > gap_from AND tick <= gap_to
                   GROUP BY 1, 2";
    for (lower, upper) in [(3_600, 0), (1_700, 1_300), (1_501, 1_500), (2_000, 1), (10, 900)] {
        let span = format!(
            "(SELECT now() - interval '{lower} seconds' AS lower, now() - interval '{upper} seconds' AS upper) AS span"
        );
        let by_tick = by_tick.replacen(
            "FROM picket.schedules AS schedule",
            &format!("FROM {span} CROSS JOIN picket.schedules AS schedule"),
            1,
        );
        let function = format!("SELECT ledger.* FROM {span} CROSS JOIN report.ledger(lower, upper)");
        // In one statement, which has one now().
        let differences = format!(
            "SELECT count(*) FROM (({by_tick} EXCEPT {function}) UNION ALL ({function} EXCEPT {by_tick})) AS difference"
        );

        assert_eq!(world.query_number(&differences).await, 0, "from {lower} s ago to {upper} s ago");
        world.compare_few_sites_with_all(lower, upper).await;
    }
    assert!(
        world
            .query_number("SELECT sum(unaccounted)::bigint FROM report.ledger('-infinity', 'infinity')")
            .await
            > 100
    );
    world.execute_sql("UPDATE picket.leases SET accounted_through = now() - interval '1 hour', scheduled_through = now()").await;
    world.close_ledger().await.unwrap();
    let left = "SELECT sum(unaccounted)::bigint FROM report.ledger('-infinity', (SELECT min(accounted_through) FROM picket.leases))";
    assert_eq!(world.query_number(left).await, 0);
}

#[tokio::test]
async fn the_role_for_reports_reads_the_ledger_and_no_table() {
    let world = World::new().await;
    world.insert_watched_sites(1, "eu").await;
    let mut session = world.pool.acquire().await.unwrap();
    sqlx::raw_sql("SET ROLE picket_report").execute(&mut *session).await.unwrap();

    let ticks: i64 =
        sqlx::query_scalar("SELECT expected FROM report.ledger(now() - interval '10 minutes', now())")
            .fetch_one(&mut *session)
            .await
            .unwrap();
    let refused = sqlx::raw_sql("SELECT * FROM picket.check_results").execute(&mut *session).await;

    assert_eq!(ticks, 120);
    assert!(refused.is_err_and(|error| error.to_string().contains("permission denied")));
    sqlx::raw_sql("RESET ROLE").execute(&mut *session).await.unwrap();
}
