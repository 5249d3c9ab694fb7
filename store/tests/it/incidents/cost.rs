//! Cost of incidents and warnings.

use picket_proto::Warning;

use super::*;

/// Batches of a measurement, of one tick of each schedule.
const BATCHES: i64 = 60;

/// Stores batches of three regions and `sites` sites, with the results as `change` makes them of the
/// batch's number, the number of the site and its region. Prints what a row costs.
async fn measure_batches(
    world: &World,
    sites: i64,
    change: impl Fn(i64, i64, &str, CheckResult) -> CheckResult,
) {
    world.add_sites(sites).await;
    world.execute_sql("ANALYZE").await;
    let schedules: Vec<(i64, i32, String)> = sqlx::query_as(
        "SELECT site_id, phase_ms, name FROM picket.schedules JOIN picket.regions ON region_id = id
         WHERE site_id > 1 ORDER BY 1, 3",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let began = now().saturating_sub(Duration::from_secs(400)).as_millis() / INTERVAL * INTERVAL;
    let mut spent = Vec::new();
    for batch in 0..BATCHES {
        let result = |(site, phase, region): &(i64, i32, String)| {
            let at = Timestamp::from_millis(began + batch * INTERVAL + i64::from(*phase));
            change(batch, *site - 1, region, up_result(*site, region, at))
        };
        let rows: Vec<_> = schedules.iter().map(result).collect();
        let began = tokio::time::Instant::now();
        world.insert_results(&rows).await;
        spent.push(began.elapsed().as_micros() as f64 / rows.len() as f64);
    }
    // The batches in which incidents or warnings begin are printed separately.
    let (first, second) = (spent[2], spent[3]);
    let steady = &mut spent[4..];
    steady.sort_by(f64::total_cmp);
    let median = steady[steady.len() / 2];
    eprintln!("  {median:.2} µs a row; the batch in which that begins {first:.2}, the next {second:.2}");
}

/// Prints what a row costs where sites fail: `cargo test --release -p picket-store -- --ignored --nocapture measure_incident_cost`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_incident_cost() {
    const SITES: i64 = 660;
    for (failing, regions) in [(0, 0), (7, 3), (66, 3), (66, 1), (SITES, 3)] {
        let world = new_world().await;
        eprintln!("{failing} of {SITES} sites fail in {regions} of 3 regions:");
        measure_batches(&world, SITES, |batch, site, region, result| {
            let is_there = REGIONS.iter().take(regions).any(|name| *name == region);
            match site <= failing && is_there && batch >= 2 {
                true => CheckResult { outcome: Outcome::Down, cause: Some(Cause::Connect), ..result },
                false => result,
            }
        })
        .await;
        eprintln!("  incidents: {:?}", world.count_incidents().await);
    }
}

/// Prints what a row costs where sites warn: `cargo test --release -p picket-store -- --ignored --nocapture measure_warning_cost`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_warning_cost() {
    const SITES: i64 = 660;
    for warning in [0, 7, 66, SITES] {
        let world = new_world().await;
        eprintln!("{warning} of {SITES} sites warn:");
        measure_batches(&world, SITES, |batch, site, _, result| match site <= warning && batch >= 2 {
            true => CheckResult { warnings: vec![Warning::Slow], ..result },
            false => result,
        })
        .await;
        let hot = "SELECT n_tup_hot_upd * 100 / greatest(n_tup_upd, 1) FROM pg_stat_user_tables WHERE relname = 'warning_states'";
        eprintln!("  {} % of the updates of states are HOT", world.query_number(hot).await);
    }
}

#[tokio::test]
async fn a_batch_reads_the_states_of_its_own_sites_and_not_the_tables() {
    const STATES: i64 = 20_000;
    let world = new_world().await;
    // One session, in which the plans are made while the tables are empty.
    let mut session = world.pool.acquire().await.unwrap();
    for last in [0, STATES] {
        let fill = format!(
            "INSERT INTO picket.warning_states (site_id, kind) SELECT n, 'slow' FROM generate_series(11, {last}) AS n;
             INSERT INTO picket.site_states (site_id, regions) SELECT n, '[]' FROM generate_series(11, {last}) AS n"
        );
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut *session).await.unwrap();
        for (function, table) in [("warned_sites", "warning_states"), ("failing_sites", "site_states")] {
            let mut transaction = sqlx::Connection::begin(&mut *session).await.unwrap();
            let found = format!(
                "SELECT array_agg(site ORDER BY site) FROM picket.{function}('{{11, 12, 11, 900000}}') AS site"
            );
            let found: Option<Vec<i64>> =
                sqlx::query_scalar(AssertSqlSafe(found)).fetch_one(&mut *transaction).await.unwrap();
            let read = format!(
                "SELECT coalesce(seq_tup_read + idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = '{table}'"
            );
            let read: i64 =
                sqlx::query_scalar(AssertSqlSafe(read)).fetch_one(&mut *transaction).await.unwrap();
            transaction.rollback().await.unwrap();
            let expected = (last > 0).then(|| vec![11, 12]);
            assert_eq!(found, expected, "{function}");
            assert!(read <= 10, "{function} read {read} rows");
        }
    }
    let statement = include_str!("../../../src/results/insert.sql");
    // By the simple protocol, in which the parameters stay open.
    let explain = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN (GENERIC_PLAN) {statement}")));
    let lines = explain.fetch_all(&world.pool).await.unwrap();
    let plan = lines.iter().map(|line| sqlx::Row::get::<String, _>(line, 0)).collect::<Vec<_>>().join("\n");
    assert!(plan.contains("ProjectSet") && !plan.contains("_states"), "{plan}");
}
