//! The schema `report`: documented, and all that its readers may read.

use sqlx::{AssertSqlSafe, Column, Connection, Executor, SqlSafeStr, Statement};

use crate::rollups::World;

#[tokio::test]
async fn every_view_column_and_function_of_report_has_a_comment() {
    let world = World::new().await;

    let silent = world
        .query_text(
            "SELECT string_agg(name, ', ') FROM (
                 SELECT view.relname AS name FROM pg_class AS view
                 WHERE relnamespace = 'report'::regnamespace AND obj_description(oid, 'pg_class') IS NULL
                 UNION ALL
                 SELECT attrelid::regclass || '.' || attname FROM pg_attribute
                 JOIN pg_class ON pg_class.oid = attrelid AND relkind = 'v'
                 WHERE relnamespace = 'report'::regnamespace AND attnum > 0 AND col_description(attrelid, attnum) IS NULL
                 UNION ALL
                 SELECT proname FROM pg_proc
                 WHERE pronamespace = 'report'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL) AS silent",
        )
        .await;

    assert_eq!(silent, "");
}

#[tokio::test]
async fn the_views_have_the_columns_of_the_contract_first_and_in_order() {
    let world = World::new().await;
    for (view, columns) in [
        (
            "uptime_daily",
            "day, site_id, site, region, checks, up, down, missed, uptime_pct, coverage_pct, p50_ms, p95_ms, p99_ms",
        ),
        (
            "uptime_monthly",
            "month, site_id, site, checks, up, down, missed, uptime_pct, coverage_pct, p50_ms, p95_ms, p99_ms, incidents, \
             downtime",
        ),
        (
            "latency_hourly",
            "hour, site_id, site, region, checks, p50_ms, p95_ms, p99_ms, dns_ms, connect_ms, tls_ms, first_byte_ms",
        ),
        ("failures", "day, region, cause, checks, sites"),
        ("certificates", "site_id, site, url, expires_at, days_left"),
    ] {
        let found = world
            .query_text(&format!(
                "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = 'report.{view}'::regclass AND attnum > 0"
            ))
            .await;
        assert!(found.starts_with(columns), "{view}: {found}");
    }
}

#[tokio::test]
async fn the_role_for_reports_reads_every_view_and_function_of_report_and_nothing_else() {
    let world = World::new().await;
    world.insert_rows().await;
    let relations: Vec<(String, bool)> = sqlx::query_as(
        "SELECT oid::regclass::text, relnamespace = 'report'::regnamespace FROM pg_class
         WHERE relnamespace IN ('report'::regnamespace, 'picket'::regnamespace) AND relkind IN ('r', 'p', 'v')",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let mut reader = world.pool.acquire().await.unwrap().detach();
    sqlx::query("SET ROLE picket_report").execute(&mut reader).await.unwrap();

    assert!(relations.len() > 20);
    for (relation, readable) in &relations {
        let sql = AssertSqlSafe(format!("SELECT * FROM {relation} LIMIT 1000"));
        let read = sqlx::raw_sql(sql).execute(&mut reader).await;
        assert_eq!(read.is_ok(), *readable, "{relation}: {read:?}");
        let sql = AssertSqlSafe(format!("DELETE FROM {relation}"));
        assert!(sqlx::raw_sql(sql).execute(&mut reader).await.is_err(), "{relation}");
    }
    let ledger = "SELECT * FROM report.ledger(now() - interval '2 hours', now())";
    sqlx::raw_sql(ledger).execute(&mut reader).await.unwrap();
    for refused in [
        "SELECT picket.ensure_partitions()",
        "SELECT picket.roll_up('1 hour')",
        "CREATE TABLE report.mine (n integer)",
        "CREATE FUNCTION report.mine() RETURNS integer LANGUAGE sql RETURN 1",
    ] {
        assert!(sqlx::raw_sql(refused).execute(&mut reader).await.is_err(), "{refused}");
    }
    reader.close().await.unwrap();
}

/// A header or a body of a site may be a credential, and reports are for many readers.
#[tokio::test]
async fn the_schema_report_does_not_read_headers_bodies_and_options_of_sites() {
    let world = World::new().await;
    world.insert_rows().await;
    world
        .execute_sql(
            r#"UPDATE picket.sites SET headers = '{"X-Api-Key": "MARK"}', body = 'MARK', method = 'POST',
              options = '{"secret_headers": {"X-Key": {"secret": "MARK"}}}'"#,
        )
        .await;

    let views = world
        .query_text(
            "SELECT string_agg(DISTINCT view.oid::regclass || '.' || attname, ', ')
             FROM pg_rewrite JOIN pg_class AS view ON view.oid = ev_class AND view.relnamespace = 'report'::regnamespace
             JOIN pg_depend ON pg_depend.objid = pg_rewrite.oid AND refobjid = 'picket.sites'::regclass
             JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
             WHERE attname IN ('headers', 'body', 'options')",
        )
        .await;
    let functions = world
        .query_text(
            "SELECT string_agg(proname, ', ') FROM pg_proc
             WHERE pronamespace = 'report'::regnamespace AND pg_get_functiondef(oid) ~* '\\m(headers|body|options)\\M'",
        )
        .await;
    assert_eq!((views.as_str(), functions.as_str()), ("", ""));
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'report'::regnamespace AND relkind = 'v'",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert!(names.len() >= 9, "{names:?}");
    for view in names {
        let rows = format!("SELECT coalesce(string_agg(row_to_json(t)::text, ''), '') FROM {view} AS t");
        assert!(!world.query_text(&rows).await.contains("MARK"), "{view}");
    }
}

/// The blocks of docs/how-to/sql-reports.md that begin with this line.
fn documented_blocks(fence: &str) -> Vec<String> {
    let text = include_str!("../../../docs/how-to/sql-reports.md");
    let blocks = text.split(fence).skip(1);
    blocks.map(|block| block.split("```").next().unwrap().trim().to_owned()).collect()
}

#[tokio::test]
async fn every_documented_query_runs_as_the_report_role_with_its_samples_columns() {
    let world = World::new().await;
    world.insert_rows().await;
    world
        .execute_sql("INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, cause, message, regions)
              SELECT 1, now() - n * interval '1 hour', CASE WHEN n > 1 THEN now() - (n - 0.5) * interval '1 hour' END,
                     now() - n * interval '1 hour', 'timeout', 'no answer', '{eu}' FROM generate_series(1, 5) AS n")
        .await;
    world.close_ledger_until(0, 0).await;
    world.roll_up().await;
    let (statements, samples) = (documented_blocks("```sql\n"), documented_blocks("```text\n"));
    let mut reader = world.pool.acquire().await.unwrap().detach();
    sqlx::raw_sql("SET ROLE picket_report; SET timezone = 'UTC'").execute(&mut reader).await.unwrap();

    assert!(statements.len() >= 20 && statements.len() == samples.len());
    let mut answered = 0;
    for (sql, sample) in statements.into_iter().zip(samples) {
        let prepared = (&mut reader)
            .prepare(AssertSqlSafe(sql.clone()).into_sql_str())
            .await
            .unwrap_or_else(|why| panic!("{sql}: {why}"));
        let columns: Vec<_> = prepared.columns().iter().map(|column| column.name().to_owned()).collect();
        let shown: Vec<_> = sample.lines().next().unwrap().split('|').map(str::trim).collect();
        assert_eq!(columns, shown, "{sql}");
        let rows = sqlx::query(AssertSqlSafe(sql.clone())).fetch_all(&mut reader).await;
        answered += usize::from(!rows.unwrap_or_else(|why| panic!("{sql}: {why}")).is_empty());
    }
    // Queries of the last month, or of failures, may find nothing here.
    assert!(answered >= 10, "{answered} have an answer in this small world");
    reader.close().await.unwrap();
}

#[tokio::test]
async fn the_checks_of_a_site_are_found_without_reading_other_sites() {
    let world = World::new().await;
    // Two hours of a hundred thousand checks, of a thousand sites.
    world
        .execute_sql("INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
              SELECT picket.start_of_day(picket.day_of(now())) + tick * interval '72 seconds' + site * interval '60 ms', site,
                     (SELECT min(id) FROM picket.regions), 'scheduled', 'up'
              FROM generate_series(1, 100) AS tick, generate_series(1, 1000) AS site")
        .await;
    world.execute_sql("VACUUM ANALYZE picket.check_results").await;

    let (plan,): (serde_json::Value,) = sqlx::query_as(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
         SELECT * FROM report.checks WHERE site_id = 7 AND scheduled_at >= picket.start_of_day(picket.day_of(now()))",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();

    let plan = &plan[0]["Plan"];
    let blocks = plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap();
    assert_eq!(plan["Actual Rows"].as_f64(), Some(100.0));
    // One a row, three for each of nine quarters of an hour, and some for what surrounds it; the table has over 800.
    assert!(blocks < 250, "{blocks} blocks: {plan:#}");
}
