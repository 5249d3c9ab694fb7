//! A site in three regions with results at its ticks.

use std::time::Duration;

use picket_proto::{Cause, CheckResult, Outcome, SiteId, Timestamp, site::SiteSpec};
use picket_store::{
    Store, regions,
    results::{IncomingResult, InsertSummary, ResultContent, ResultStore},
    sites,
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::results::{now, up_result};

pub(super) const REGIONS: [&str; 3] = ["asia", "eu", "us"];
pub(super) const INTERVAL: i64 = 5_000;

pub(super) struct World {
    pub(super) store: Store,
    pub(super) pool: PgPool,
    pub(super) results: ResultStore,
    pub(super) site: SiteId,
    /// A tick of each region: the first of this test.
    pub(super) ticks: Vec<Timestamp>,
}

/// A site in three regions that has been watched for a while, and has just been up everywhere.
pub(super) async fn new_world() -> World {
    let crate::Database { store, pool } = crate::new_database().await;
    for region in REGIONS {
        regions::add_region(&store, &region.parse().unwrap()).await.unwrap();
    }
    let spec = SiteSpec { interval_seconds: INTERVAL / 1_000, ..SiteSpec::new("http://127.0.0.1:8000/") };
    let site = sites::insert_site(&store, &spec).await.unwrap();
    sqlx::query("UPDATE picket.schedules SET valid_from = valid_from - interval '1 hour'")
        .execute(&pool)
        .await
        .unwrap();
    let began = now().saturating_sub(Duration::from_secs(300)).as_millis();
    let phases: Vec<i32> = sqlx::query_scalar(
        "SELECT phase_ms FROM picket.schedules JOIN picket.regions ON region_id = id ORDER BY name",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let ticks = phases
        .iter()
        .map(|phase| Timestamp::from_millis(began + (i64::from(*phase) - began).rem_euclid(INTERVAL)));
    let results = ResultStore::new(store.clone());
    let world = World { results, site, ticks: ticks.collect(), store, pool };
    let before: Vec<_> = (0..3).map(|region| world.up_result(region, -1)).collect();
    world.insert_results(&before).await;
    world
}

impl World {
    /// Adds `count` sites that have been watched for a while.
    pub(super) async fn add_sites(&self, count: i64) {
        self.execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds)
             SELECT 'http://127.0.0.1/' || n, {INTERVAL} / 1000 FROM generate_series(1, {count}) AS n;
             UPDATE picket.schedules SET valid_from = valid_from - interval '1 hour';"
        ))
        .await;
    }

    pub(super) fn tick_time(&self, region: usize, tick: i64) -> Timestamp {
        Timestamp::from_millis(self.ticks[region].as_millis() + tick * INTERVAL)
    }

    pub(super) fn up_result(&self, region: usize, tick: i64) -> CheckResult {
        up_result(self.site.0, REGIONS[region], self.tick_time(region, tick))
    }

    pub(super) fn down_result(&self, region: usize, tick: i64) -> CheckResult {
        CheckResult {
            outcome: Outcome::Down,
            cause: Some(Cause::Connect),
            message: Some("refused".to_owned()),
            ..self.up_result(region, tick)
        }
    }

    pub(super) async fn insert_results(&self, results: &[CheckResult]) -> InsertSummary {
        insert_into_store(&self.results, results, now()).await
    }

    /// As of a sink that knows that it is later than the database's clock says.
    pub(super) async fn insert_results_at(&self, now: Timestamp, results: &[CheckResult]) -> InsertSummary {
        insert_into_store(&self.results, results, now).await
    }

    pub(super) async fn query_number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    pub(super) async fn query_texts(&self, sql: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&self.pool).await.unwrap()
    }

    pub(super) async fn execute_sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    pub(super) async fn count_incidents(&self) -> (i64, i64) {
        let open = self.query_number("SELECT count(*) FROM picket.incidents WHERE closed_at IS NULL").await;
        (self.query_number("SELECT count(*) FROM picket.incidents").await, open)
    }

    /// All warnings, and the open ones.
    pub(super) async fn count_warnings(&self) -> (i64, i64) {
        let open = self.query_number("SELECT count(*) FROM picket.warnings WHERE closed_at IS NULL").await;
        (self.query_number("SELECT count(*) FROM picket.warnings").await, open)
    }

    pub(super) async fn list_events(&self) -> Vec<String> {
        self.query_texts("SELECT subject || ' ' || regexp_replace(event_id, '\\d{13}', 'TIME') FROM picket.outbox ORDER BY id").await
    }

    pub(super) async fn count_site_states(&self) -> i64 {
        self.query_number("SELECT count(*) FROM picket.site_states").await
    }
}

pub(super) async fn insert_into_store(
    results: &ResultStore,
    rows: &[CheckResult],
    now: Timestamp,
) -> InsertSummary {
    let entries: Vec<_> = rows
        .iter()
        .map(|row| IncomingResult {
            subject: "picket.result.eu.7",
            payload: b"",
            content: ResultContent::Check(row),
        })
        .collect();
    results.insert_batch(&entries, now).await.unwrap()
}
