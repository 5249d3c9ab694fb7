//! A database that is dumped and restored into another cluster.

use std::time::Duration;

use picket_proto::{Epoch, Shard};
use picket_store::{Store, changes, leases, ledger};
use picket_testkit::servers;
use sqlx::{AssertSqlSafe, PgPool};

const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A database and its Postgres, which are gone when this is.
struct World {
    store: Store,
    pool: PgPool,
    held: Vec<(Shard, Epoch)>,
}

impl World {
    async fn at(url: &str) -> Self {
        Self { store: crate::store(url), pool: PgPool::connect(url).await.unwrap(), held: vec![] }
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    async fn take(&mut self, who: &str) {
        self.run("UPDATE picket.leases SET expires_at = '-infinity'").await;
        let taken = leases::acquire(&self.store, who, &leases::Free::expired(64), LONG).await.unwrap();
        self.held = taken.iter().map(|lease| (lease.shard, lease.epoch)).collect();
    }

    async fn close(&self, who: &str) {
        let closed = ledger::close(&self.store, who, &self.held, Duration::ZERO, HOUR, None).await.unwrap();
        assert!(closed.is_some());
    }

    async fn unaccounted(&self) -> i64 {
        self.number(
            "SELECT coalesce(sum(unaccounted), 0)::bigint
             FROM report.ledger(now() - interval '1 hour', (SELECT min(accounted_through) FROM picket.leases))",
        )
        .await
    }
}

/// Sites that have been watched each 5 s for 20 minutes, of which 7 lie in a recorded gap, dumped and restored into a cluster whose
/// transaction numbers are far behind. One schedule was committed after the ledger had passed its first ticks.
async fn restored() -> (World, World, servers::Postgres) {
    let old = servers::postgres().await;
    let url = old.database().await;
    let mut before = World::at(&url).await;
    before.store.migrate(64).await.unwrap();
    before
        .run("DO $$ BEGIN FOR n IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        .await;
    before
        .run(
            "INSERT INTO picket.regions (name) VALUES ('eu');
             INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://' || n, 5 FROM generate_series(1, 100) AS n;
             UPDATE picket.schedules SET valid_from = now() - interval '20 minutes';
             INSERT INTO picket.gaps (shard, gap_from, gap_to)
             SELECT shard, now() - interval '15 minutes', now() - interval '8 minutes' FROM picket.leases",
        )
        .await;
    before.take("me").await;
    before
        .run(
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
    before.close("me").await;
    slow.commit().await.unwrap();
    assert!(before.unaccounted().await > 50);

    let new = servers::own_postgres().await;
    let url_of_new = new.restore(&servers::dump(&url).await).await;
    let after = World::at(&url_of_new).await;
    (before, after, new)
}

#[tokio::test]
async fn a_database_restored_into_another_cluster_closes_its_ledger_without_a_false_missed_row() {
    let (_before, mut after, _server) = restored().await;

    assert!(after.store.adopt_cluster().await.unwrap());
    assert!(!after.store.adopt_cluster().await.unwrap(), "once is enough");
    after.take("other").await;
    for _ in 0..3 {
        after.run("UPDATE picket.leases SET scheduled_through = now()").await;
        after.close("other").await;
    }

    let in_gap = "SELECT count(*) FROM picket.check_results
        WHERE scheduled_at > now() - interval '14 minutes' AND scheduled_at < now() - interval '9 minutes'";
    assert_eq!(after.number(in_gap).await, 0);
    assert_eq!(after.unaccounted().await, 0);
    let belated = "SELECT count(DISTINCT site_id) FROM picket.check_results WHERE cause = 'not_scheduled'
        AND scheduled_at < now() - interval '1 minute'";
    assert_eq!(after.number(belated).await, 1, "what was belated before the dump still is, and nothing else");
    let looked_at = "SELECT count(*) FROM picket.belated_schedules(ARRAY(SELECT shard FROM picket.leases))";
    assert_eq!(after.number(looked_at).await, 0);
}

#[tokio::test]
async fn a_coordinator_that_meets_a_restored_database_reads_all_sites_again_and_then_what_changes() {
    let (before, after, _server) = restored().await;
    let shards: Vec<Shard> = (0..64).map(Shard).collect();
    let through = changes::load(&before.store, &shards, |_| ()).await.unwrap();
    after.store.adopt_cluster().await.unwrap();

    let mut all = 0;
    let now = changes::since(&after.store, through, &shards, |_| all += 1, |_| ()).await.unwrap();
    assert_eq!((now.follows(through), all), (false, 101));
    after.run("UPDATE picket.sites SET interval_seconds = 10 WHERE id = 7").await;
    let mut changed = Vec::new();
    let then = changes::since(&after.store, now, &shards, |site| changed.push(site.site.id.0), |_| ())
        .await
        .unwrap();

    assert_eq!((then.follows(now), changed), (true, vec![7]));
}

#[tokio::test]
async fn numbers_that_were_given_away_after_the_dump_are_not_given_away_again() {
    let (before, after, _server) = restored().await;
    before
        .run("INSERT INTO picket.sites (url) SELECT 'http://new/' || n FROM generate_series(1, 50) AS n")
        .await;
    let given = before.number("SELECT max(id) FROM picket.sites").await;

    after.store.adopt_cluster().await.unwrap();
    after.run("INSERT INTO picket.sites (url) VALUES ('http://after/')").await;

    assert!(after.number("SELECT max(id) FROM picket.sites").await > given);
}
