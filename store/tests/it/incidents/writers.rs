//! Many writers at once, of which each stores all results, in batches of another size.

use picket_proto::Warning;
use picket_store::results::InsertSummary;

use super::*;

/// A world of many sites, with ticks of the last two minutes.
struct Fleet {
    world: World,
    site_count: i64,
    /// Site, region and at least 16 ticks of each schedule.
    ticks: Vec<(i64, String, Vec<OffsetDateTime>)>,
}

/// Ticks of a minute or less.
const ROUNDS: usize = 8;

impl Fleet {
    async fn new(sites: i64) -> Self {
        let world = new_world().await;
        world.add_sites(sites - 1).await;
        let ticks = sqlx::query_as(
            "SELECT site_id, region.name, ARRAY(SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', since, since + interval '80 seconds'))
             FROM (SELECT now() - interval '2 minutes' AS since) AS span, picket.schedules
             JOIN picket.regions AS region ON region.id = region_id ORDER BY site_id, region.name",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap();
        Self { world, site_count: sites, ticks }
    }

    /// Results of eight ticks of each schedule, beginning with the tick `from`, as `change` makes them.
    fn results(&self, from: usize, change: impl Fn(CheckResult) -> CheckResult) -> Vec<CheckResult> {
        let rounds = (from..from + ROUNDS).flat_map(|round| self.ticks.iter().map(move |of| (of, round)));
        rounds
            .map(|((site, region, ticks), round)| change(up_result(*site, region, ticks[round].into())))
            .collect()
    }

    /// Lets each of the writers insert all results. Returns what each insert did.
    async fn insert_by_writers(&self, writers: usize, all: &[CheckResult]) -> Vec<InsertSummary> {
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let results = ResultStore::new(self.world.store.clone());
            let all = all.to_vec();
            tasks.spawn(async move {
                let mut written = Vec::new();
                for batch in all.chunks(20 + writer * 7) {
                    written.push(insert_until_stored(&results, batch).await);
                }
                written
            });
        }
        tasks.join_all().await.concat()
    }
}

/// Inserts `batch`, again after each transient error.
async fn insert_until_stored(results: &ResultStore, batch: &[CheckResult]) -> InsertSummary {
    loop {
        let contents = batch.iter().map(|row| incoming_result(ResultContent::Check(row)));
        match results.insert_batch(&contents.collect::<Vec<_>>(), now()).await {
            Ok(written) => return written,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn concurrent_writers_open_one_incident_for_each_outage() {
    let fleet = Fleet::new(40).await;
    let down = |result| CheckResult { outcome: Outcome::Down, cause: Some(Cause::Tls), ..result };

    let written = fleet.insert_by_writers(6, &fleet.results(0, down)).await;
    let opened: u64 = written.iter().map(|written| written.incidents.opened).sum();
    assert_eq!(opened, fleet.site_count.unsigned_abs());
    assert_eq!(fleet.world.count_incidents().await, (fleet.site_count, fleet.site_count));
    fleet.insert_by_writers(6, &fleet.results(ROUNDS, |up| up)).await;

    assert_eq!(fleet.world.count_incidents().await, (fleet.site_count, 0));
    let per_site = "SELECT max(count) FROM (SELECT count(*) FROM picket.incidents GROUP BY site_id) AS count";
    assert_eq!(fleet.world.query_number(per_site).await, 1);
    assert_eq!(fleet.world.query_number("SELECT count(*) FROM picket.outbox").await, 2 * fleet.site_count);
}

#[tokio::test]
async fn concurrent_writers_open_one_warning_for_each_site() {
    let fleet = Fleet::new(20).await;
    let slow = |result| CheckResult { warnings: vec![Warning::Slow], ..result };

    fleet.insert_by_writers(4, &fleet.results(0, slow)).await;
    assert_eq!(fleet.world.count_warnings().await, (fleet.site_count, fleet.site_count));
    fleet.insert_by_writers(4, &fleet.results(ROUNDS, |up| up)).await;

    assert_eq!(fleet.world.count_warnings().await, (fleet.site_count, 0));
    assert_eq!(fleet.world.query_number("SELECT count(*) FROM picket.outbox").await, 2 * fleet.site_count);
}
