//! Results and a connection that fails, ends or takes long.

use super::*;

#[tokio::test]
async fn an_unreachable_database_is_a_transient_error() {
    let mut server = servers::start_postgres().await;
    let store = crate::open_store(server.url());
    store.migrate(64).await.unwrap();
    regions::add_region(&store, &"eu".parse().unwrap()).await.unwrap();
    let (results, row) = (ResultStore::new(store), up_result(1, "eu", now()));
    results.insert_batch(&[incoming_result(ResultContent::Check(&row))], now()).await.unwrap();

    server.kill().await;
    let error =
        results.insert_batch(&[incoming_result(ResultContent::Check(&row))], now()).await.unwrap_err();
    server.start().await;

    assert!(error.is_transient(), "{error:?}");
    picket_harness::eventually(std::time::Duration::from_secs(20), "the database is back", async || {
        results
            .insert_batch(&[incoming_result(ResultContent::Check(&row))], now())
            .await
            .map(|written| assert_eq!(written.duplicates, 1))
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_insert_leaves_no_connection_in_a_transaction() {
    let database = database_with_regions().await;
    let at = now();
    let mut batch: Vec<_> = (0..400).map(|site| up_result(site, "eu", at)).collect();
    for bad in batch.iter_mut().step_by(7) {
        bad.scheduled_at = at.saturating_sub(std::time::Duration::from_secs(20 * 86_400));
    }
    let contents: Vec<_> = batch.iter().map(|result| incoming_result(ResultContent::Check(result))).collect();

    for millis in [1, 5, 10, 20, 40] {
        let cut = std::time::Duration::from_millis(millis);
        let _ = tokio::time::timeout(cut, database.results.insert_batch(&contents, now())).await;
    }
    let written = database.results.insert_batch(&contents, now()).await.unwrap();

    assert_eq!(written.count_inserted() + written.duplicates, 342);
    assert_eq!(database.count_checks().await, 342);
    let inside = "SELECT count(*) FROM pg_stat_activity
        WHERE state LIKE 'idle in transaction%' AND datname = current_database() AND application_name = 'test'";
    picket_harness::eventually(std::time::Duration::from_secs(10), "no transaction is open", async || {
        database.count_rows(inside).await == 0
    })
    .await;
}

/// Prints what a row costs: `cargo test --release -p picket-store -- --ignored --nocapture measure_row_cost`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_row_cost() {
    const ROWS: i64 = 2_000;
    const BATCHES: i64 = 100;
    let database = database_with_regions().await;
    let at = now();

    let (mut spent, mut again) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    for batch in 0..BATCHES {
        let tick = |row: i64| at.saturating_sub(std::time::Duration::from_millis((row / 20).unsigned_abs()));
        let rows: Vec<_> = (0..ROWS).map(|row| up_result(batch * ROWS + row, "eu", tick(row))).collect();
        let entries: Vec<_> = rows.iter().map(|row| incoming_result(ResultContent::Check(row))).collect();
        let began = tokio::time::Instant::now();
        database.results.insert_batch(&entries, now()).await.unwrap();
        spent += began.elapsed();
        let began = tokio::time::Instant::now();
        database.results.insert_batch(&entries, now()).await.unwrap();
        again += began.elapsed();
    }

    let per_row = |spent: std::time::Duration| spent.as_micros() as f64 / (ROWS * BATCHES) as f64;
    eprintln!("{ROWS} rows a batch: {:.2} µs a row, {:.2} µs a duplicate", per_row(spent), per_row(again));
}
