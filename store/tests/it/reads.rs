//! Reads of pages: what they read depends on the sites that they show, and they end in time.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp};
use picket_store::{
    DatabaseOptions, Store,
    certificates::list_certificates,
    incident_pages::{EpisodeFilter, list_incidents, list_warnings, read_incident},
    ledger::{LedgerFilter, count_missed_by_cause, list_by_region},
    regions::list_region_overview,
    site_counts::count_sites_by_state,
    site_history::{ChecksFilter, Span, list_checks, list_checks_page},
};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

use crate::wall_clock_now;

const SITE: SiteId = SiteId(500);

/// A thousand sites that were checked each minute for an hour, by one region. Only one has a tag.
struct Fleet {
    url: String,
    pool: PgPool,
}

impl Fleet {
    async fn new() -> Self {
        let url = picket_harness::servers::shared_postgres().await.create_database().await;
        crate::open_store(&url).migrate(64).await.unwrap();
        // One session, of which the statistics can be flushed.
        let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        let fleet = Self { url, pool };
        fleet
            .execute_sql(
                "INSERT INTO picket.regions (name) VALUES ('eu');
                 INSERT INTO picket.sites (url, tags)
                 SELECT 'https://' || n || '.example/', CASE n WHEN 500 THEN '{only}' ELSE '{rest}' END::text[] FROM generate_series(1, 1000) AS n;
                 UPDATE picket.schedules SET valid_from = now() - interval '1 hour';
                 UPDATE picket.rollup_state SET rolled_through = now() - interval '1 hour';
                 INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, tls_expires_at)
                 SELECT tick, site_id, region_id, 'scheduled', CASE WHEN site_id % 7 = 3 THEN 'missed' ELSE 'up' END::picket.outcome,
                        CASE WHEN site_id % 7 = 3 THEN 'no_prober' END::picket.cause, now() + interval '9 days'
                 FROM picket.schedules CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), valid_from, now()) AS tick
                 ORDER BY tick;
                 INSERT INTO picket.certificates (site_id, region_id, expires_at, seen_at)
                 SELECT id, 1, now() + interval '9 days', now() - interval '1 hour' FROM picket.sites;
                 INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, regions)
                 SELECT id, now() - n * interval '1 hour', now(), now() - n * interval '1 hour', '{eu}'
                 FROM picket.sites CROSS JOIN generate_series(1, 10) AS n WHERE id <> 500 OR n < 4;
                 -- The reads of a vacuum are counted too.
                 DO $$ DECLARE name regclass; BEGIN
                     FOR name IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'picket'::regnamespace LOOP
                         EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', name);
                     END LOOP;
                 END $$",
            )
            .await;
        fleet.execute_sql("VACUUM ANALYZE").await;
        fleet
    }

    async fn execute_sql(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Number of blocks of tables with such names, and of their indexes, that sessions have read since the start.
    async fn count_blocks(&self, tables: &str) -> i64 {
        sqlx::query_scalar(
            "SELECT coalesce(sum(coalesce(heap_blks_read, 0) + coalesce(heap_blks_hit, 0) + coalesce(idx_blks_read, 0)
                                 + coalesce(idx_blks_hit, 0)), 0)::bigint
             FROM pg_statio_user_tables WHERE schemaname = 'picket' AND relname ~ $1",
        )
        .bind(tables)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// Number of blocks of tables with such names that `read` reads.
    async fn measure_reads(&self, tables: &str, read: impl AsyncFnOnce(&Store)) -> i64 {
        self.wait_for_statistics().await;
        let before = self.count_blocks(tables).await;
        let options = DatabaseOptions { database_url: Some(self.url.clone()) };
        let store = Store::new(&options, "reads", 1).unwrap();
        read(&store).await;
        store.close().await;
        self.wait_for_statistics().await;
        self.count_blocks(tables).await - before
    }

    /// A session reports what it has read at its end at the latest.
    async fn wait_for_statistics(&self) {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&self.pool).await.unwrap();
        picket_harness::eventually(Duration::from_secs(10), "the session to end", async || {
            let sessions: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('reads', 'test')",
            )
            .fetch_one(&self.pool)
            .await
            .unwrap();
            if sessions == 0 { Ok(()) } else { Err("it is open") }
        })
        .await;
    }
}

fn last_hour() -> (Timestamp, Timestamp) {
    let now = wall_clock_now();
    (now.saturating_sub(Duration::from_secs(3_500)), now.saturating_sub(Duration::from_secs(100)))
}

#[tokio::test]
async fn a_page_of_one_site_or_tenant_reads_its_own_rows() {
    const RESULTS: &str = "^check_results_";
    let fleet = Fleet::new().await;
    let only = ["only".to_owned()];
    let (from, to) = last_hour();

    let read = fleet.measure_reads(RESULTS, async |store| {
        let checks = list_checks(store, SITE, from, to, 50).await.unwrap();
        assert_eq!(checks.len(), 50);
        assert!(checks.iter().all(|check| check.site_id == SITE.0));
    });
    assert_below("checks of a site", read.await, 150);
    let read = fleet.measure_reads(RESULTS, async |store| {
        let span = Span::new(from, to).unwrap();
        let page = list_checks_page(store, SITE, span, ChecksFilter::default(), None, 10).await.unwrap();
        assert_eq!(page.items.len(), 10);
    });
    assert_below("a page of checks", read.await, 80);

    let read = fleet.measure_reads(RESULTS, async |store| {
        let found = list_certificates(store, Some(&only), None, None, 10).await.unwrap();
        assert_eq!(found.len(), 1);
    });
    // A plan reads a block of each index.
    assert_below("rows for the certificates of a tenant", read.await, 60);
    let read = fleet.measure_reads(RESULTS, async |store| {
        assert_eq!(list_certificates(store, None, None, None, 10).await.unwrap().len(), 10);
    });
    assert_below("rows for the certificates of all sites", read.await, 60);

    let filter = LedgerFilter { tags: Some(&only), site: None };
    let read = fleet.measure_reads(RESULTS, async |store| {
        let rows = list_by_region(store, from, to, filter).await.unwrap();
        assert!((56..=57).contains(&rows[0].expected), "{rows:?}");
        assert_eq!((rows.len(), rows[0].missed), (1, rows[0].expected));
    });
    assert_below("the ledger of a tenant", read.await, 600);
    let read = fleet.measure_reads(RESULTS, async |store| {
        let rows = count_missed_by_cause(store, from, to, filter).await.unwrap();
        assert!(matches!(&rows[..], [(_, cause, 56 | 57)] if cause == "no_prober"), "{rows:?}");
    });
    assert_below("missed ticks of a tenant", read.await, 600);
    // A lookup of each tick would read more than 100,000 blocks.
    let rest = ["rest".to_owned()];
    let read = fleet.measure_reads(RESULTS, async |store| {
        let filter = LedgerFilter { tags: Some(&rest), site: None };
        let rows = list_by_region(store, from, to, filter).await.unwrap();
        assert!(rows[0].expected > 999 * 55, "{rows:?}");
    });
    assert_below("the ledger of most sites", read.await, 20_000);

    let read = fleet.measure_reads("^schedules$", async |store| {
        assert_eq!(list_region_overview(store, None).await.unwrap()[0].schedules, 1_000);
    });
    assert_below("schedules for the list of regions", read.await, 0);
    let read = fleet.measure_reads("^schedules$", async |store| {
        assert_eq!(list_region_overview(store, Some(&only)).await.unwrap()[0].schedules, 1);
    });
    assert_below("schedules for the list of regions of a tenant", read.await, 30);

    // More often than a session makes a plan for the values of a statement by default.
    let read = fleet.measure_reads("^incidents$", async |store| {
        for _ in 0..10 {
            let filter = EpisodeFilter { site_id: Some(SITE.0), limit: 10, ..EpisodeFilter::default() };
            assert_eq!(list_incidents(store, &filter).await.unwrap().len(), 3);
        }
    });
    assert_below("ten pages of the incidents of a site", read.await, 200);
}

fn assert_below(what: &str, blocks: i64, limit: i64) {
    assert!(blocks <= limit, "{what}: {blocks} blocks, at most {limit} are allowed");
}

#[tokio::test]
async fn a_page_of_locked_tables_ends_with_an_error_in_time() {
    let database = crate::new_database().await;
    let mut locking = database.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "LOCK TABLE picket.incidents, picket.warnings, picket.sites, picket.regions, picket.site_conditions",
    )
    .execute(&mut *locking)
    .await
    .unwrap();
    let (store, filter) = (&database.store, EpisodeFilter { limit: 1, ..EpisodeFilter::default() });
    let began = tokio::time::Instant::now();

    let (incidents, warnings, incident, certificates, regions, counts) = tokio::join!(
        list_incidents(store, &filter),
        list_warnings(store, &filter),
        read_incident(store, 1, None),
        list_certificates(store, None, None, None, 1),
        list_region_overview(store, None),
        count_sites_by_state(store, None),
    );

    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(incidents.is_err() && warnings.is_err() && incident.is_err());
    assert!(certificates.is_err() && regions.is_err() && counts.is_err());
}
