//! Cost of the ledger.

use super::*;

/// Prints what the ledger costs with 100,000 schedules:
/// `cargo test -p picket-store -- --ignored --nocapture measure_ledger_cost`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_ledger_cost() {
    const HOURS_ROWS: &str = "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, prober)
        SELECT tick, site_id, region_id, 'scheduled', 'up', 'p' FROM picket.schedules
        CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, valid_to, now() - interval '65 minutes', now()) AS tick
        ORDER BY tick";
    let world = World::new().await;
    let mut session = world.pool.acquire().await.unwrap();
    sqlx::raw_sql("SET statement_timeout = 0").execute(&mut *session).await.unwrap();
    for statement in [
        "INSERT INTO picket.sites (url) SELECT 'http://' || n FROM generate_series(1, 50000) AS n",
        "UPDATE picket.schedules SET valid_from = now() - interval '65 minutes', valid_to = NULL",
        "UPDATE picket.leases SET accounted_through = now() - interval '65 minutes', scheduled_through = now()",
        &HOURS_ROWS.replace("valid_to,", "'infinity',"),
        "VACUUM ANALYZE picket.check_results",
        "ANALYZE picket.schedules",
    ] {
        let began = tokio::time::Instant::now();
        let rows = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut *session).await.unwrap();
        eprintln!(
            "{:>9} rows in {:>6.1} s: {:.60}",
            rows.rows_affected(),
            began.elapsed().as_secs_f64(),
            statement
        );
    }
    let hour = "SELECT sum(expected)::bigint FROM report.ledger(now() - interval '61 minutes', now() - interval '1 minute')";
    for _ in 0..3 {
        let began = tokio::time::Instant::now();
        let ticks: i64 = sqlx::query_scalar(hour).fetch_one(&mut *session).await.unwrap();
        eprintln!("report.ledger over an hour, {ticks} ticks: {:.2} s", began.elapsed().as_secs_f64());
    }
    let explained: Vec<String> = sqlx::query_scalar(
        "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT count(*) FROM picket.check_results
         WHERE scheduled_at > now() - interval '61 minutes' AND scheduled_at <= now() AND kind = 'scheduled' AND outcome = 'up'",
    )
    .fetch_all(&mut *session)
    .await
    .unwrap();
    eprintln!("{}", explained.join("\n"));
    for minutes in [1, 5, 5] {
        world
            .execute_sql(&format!(
                "UPDATE picket.leases SET expires_at = now() + interval '1 hour', accounted_through = now() - interval '{} minutes'",
                minutes + 2
            ))
            .await;
        let piece = Duration::from_secs(60 * minutes);
        let began = tokio::time::Instant::now();
        let closed =
            ledger::close_interval(&world.store, "me", &world.held, LONG, piece, None).await.unwrap();
        eprintln!("closing {minutes} min of all shards: {:.2} s, {closed:?}", began.elapsed().as_secs_f64());
    }
    world.execute_sql("DELETE FROM picket.check_results WHERE region_id = 2 AND scheduled_at > now() - interval '3 minutes'").await;
    world.execute_sql("UPDATE picket.leases SET accounted_through = now() - interval '3 minutes'").await;
    let began = tokio::time::Instant::now();
    let closed = ledger::close_interval(&world.store, "me", &world.held, LONG, LONG, None).await.unwrap();
    eprintln!("closing 1 min with a region without rows: {:.2} s, {closed:?}", began.elapsed().as_secs_f64());
}
