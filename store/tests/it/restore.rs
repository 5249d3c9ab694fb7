//! A database that is dumped and restored into another cluster.

use std::time::Duration;

use picket_harness::servers;
use picket_proto::{Epoch, Shard};
use picket_store::{Store, change_feed, leases, ledger};
use sqlx::{AssertSqlSafe, PgPool};

const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A database and its Postgres, dropped together.
struct World {
    store: Store,
    pool: PgPool,
    held: Vec<(Shard, Epoch)>,
}

impl World {
    async fn connect(url: &str) -> Self {
        Self { store: crate::open_store(url), pool: PgPool::connect(url).await.unwrap(), held: vec![] }
    }

    async fn execute_sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    async fn query_number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    async fn acquire_shards(&mut self, who: &str) {
        self.execute_sql("UPDATE picket.leases SET expires_at = '-infinity'").await;
        let taken =
            leases::acquire_leases(&self.store, who, &leases::AcquireCriteria::expired_only(64), LONG)
                .await
                .unwrap();
        self.held = taken.iter().map(|lease| (lease.shard, lease.epoch)).collect();
    }

    async fn close_ledger(&self, who: &str) {
        let closed =
            ledger::close_interval(&self.store, who, &self.held, Duration::ZERO, HOUR, None).await.unwrap();
        assert!(closed.is_some());
    }

    async fn count_unaccounted(&self) -> i64 {
        self.query_number(
            "SELECT coalesce(sum(unaccounted), 0)::bigint
             FROM report.ledger(now() - interval '1 hour', (SELECT min(accounted_through) FROM picket.leases))",
        )
        .await
    }
}

/// Sites that have been watched each 5 s for 20 minutes, of which 7 lie in a recorded gap, dumped and restored into a cluster whose
/// transaction numbers are far behind. One schedule was committed after the ledger had passed its first ticks.
async fn restored_worlds() -> (World, World, servers::TestPostgres) {
    let old = servers::shared_postgres().await;
    let url = old.create_database().await;
    let mut before = World::connect(&url).await;
    before.store.migrate(64).await.unwrap();
    before
        .execute_sql(
            "DO $$ BEGIN FOR n IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
        )
        .await;
    before
        .execute_sql(
            "INSERT INTO picket.regions (name) VALUES ('eu');
             INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://' || n, 5 FROM generate_series(1, 100) AS n;
             UPDATE picket.schedules SET valid_from = now() - interval '20 minutes';
             INSERT INTO picket.gaps (shard, gap_from, gap_to)
             SELECT shard, now() - interval '15 minutes', now() - interval '8 minutes' FROM picket.leases",
        )
        .await;
    before.acquire_shards("me").await;
    before
        .execute_sql(
            "UPDATE picket.leases SET scheduled_through = now(), accounted_through = (SELECT min(valid_from) FROM picket.schedules);
             DELETE FROM picket.gaps WHERE gap_to > now() - interval '1 minute'",
        )
        .await;
    let mut slow = before.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://late/', 5);
         UPDATE picket.schedules SET valid_from = now() - interval '5 minutes' WHERE site_id = 101",
    )
    .execute(&mut *slow)
    .await
    .unwrap();
    before.close_ledger("me").await;
    slow.commit().await.unwrap();
    assert!(before.count_unaccounted().await > 50);

    let new = servers::start_postgres().await;
    let url_of_new = new.restore_dump(&servers::dump_database(&url).await).await;
    let after = World::connect(&url_of_new).await;
    (before, after, new)
}

#[tokio::test]
async fn a_database_restored_into_another_cluster_closes_its_ledger_without_a_false_missed_row() {
    let (_before, mut after, _server) = restored_worlds().await;

    assert!(after.store.adopt_cluster().await.unwrap());
    assert!(!after.store.adopt_cluster().await.unwrap(), "once is enough");
    after.acquire_shards("other").await;
    for _ in 0..3 {
        after.execute_sql("UPDATE picket.leases SET scheduled_through = now()").await;
        after.close_ledger("other").await;
    }

    let in_gap = "SELECT count(*) FROM picket.check_results
        WHERE scheduled_at > now() - interval '14 minutes' AND scheduled_at < now() - interval '9 minutes'";
    assert_eq!(after.query_number(in_gap).await, 0);
    assert_eq!(after.count_unaccounted().await, 0);
    let belated = "SELECT count(DISTINCT site_id) FROM picket.check_results WHERE cause = 'not_scheduled'
        AND scheduled_at < now() - interval '1 minute'";
    assert_eq!(
        after.query_number(belated).await,
        1,
        "schedules late before the dump still are, and no others"
    );
    let looked_at = "SELECT count(*) FROM picket.belated_schedules(ARRAY(SELECT shard FROM picket.leases))";
    assert_eq!(after.query_number(looked_at).await, 0);
}

#[tokio::test]
async fn a_coordinator_reads_all_sites_again_after_a_restore_and_then_changes() {
    let (before, after, _server) = restored_worlds().await;
    let shards: Vec<Shard> = (0..64).map(Shard).collect();
    let through = change_feed::load_shards(&before.store, &shards, |_| ()).await.unwrap();
    after.store.adopt_cluster().await.unwrap();

    let mut all = 0;
    let now = change_feed::load_changes(&after.store, through, &shards, |_| all += 1, |_| ()).await.unwrap();
    assert_eq!((now.is_successor_of(through), all), (false, 101));
    after.execute_sql("UPDATE picket.sites SET interval_seconds = 10 WHERE id = 7").await;
    let mut changed = Vec::new();
    let then =
        change_feed::load_changes(&after.store, now, &shards, |site| changed.push(site.site.id.0), |_| ())
            .await
            .unwrap();

    assert_eq!((then.is_successor_of(now), changed), (true, vec![7]));
}

#[tokio::test]
async fn ids_assigned_after_the_dump_are_not_assigned_again() {
    let (before, after, _server) = restored_worlds().await;
    before
        .execute_sql(
            "INSERT INTO picket.sites (url) SELECT 'http://new/' || n FROM generate_series(1, 50) AS n",
        )
        .await;
    let given = before.query_number("SELECT max(id) FROM picket.sites").await;

    after.store.adopt_cluster().await.unwrap();
    after.execute_sql("INSERT INTO picket.sites (url) VALUES ('http://after/')").await;

    assert!(after.query_number("SELECT max(id) FROM picket.sites").await > given);
}

#[tokio::test]
async fn warnings_of_after_the_restore_have_numbers_that_the_dumped_database_did_not_give() {
    let (before, after, _server) = restored_worlds().await;
    let open = "INSERT INTO picket.warnings (site_id, kind, opened_at, first_warned_at, regions)
                SELECT n, 'slow', now(), now(), '{eu}' FROM generate_series(1, 50) AS n";
    before.execute_sql(open).await;
    let given = before.query_number("SELECT max(warning_id) FROM picket.warnings").await;

    after.store.adopt_cluster().await.unwrap();
    after.execute_sql(open).await;

    assert!(after.query_number("SELECT min(warning_id) FROM picket.warnings").await > given);
}
