//! Cost of incidents.

use super::{world::insert_into_store, *};

/// Prints what a row costs where sites fail: `cargo test --release -p picket-store -- --ignored --nocapture measure_incident_cost`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_incident_cost() {
    const SITES: i64 = 660;
    const BATCHES: i64 = 60;
    const ROWS: i64 = SITES * 3;
    for (failing, regions) in [(0, 0), (7, 3), (66, 3), (66, 1), (SITES, 3)] {
        let world = new_world().await;
        world
            .execute_sql(&format!(
                "INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://127.0.0.1/' || n, 5 FROM generate_series(1, {SITES}) AS n;
                 UPDATE picket.schedules SET valid_from = valid_from - interval '1 hour'; ANALYZE;"
            ))
            .await;
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
                let result = up_result(*site, region, at);
                let there = REGIONS.iter().take(regions).any(|name| name == region);
                let fails = *site <= failing + 1 && there && batch >= 2;
                let down =
                    || CheckResult { outcome: Outcome::Down, cause: Some(Cause::Connect), ..result.clone() };
                if fails { down() } else { result.clone() }
            };
            let rows: Vec<_> = schedules.iter().map(result).collect();
            let began = tokio::time::Instant::now();
            world.insert_results(&rows).await;
            spent.push(began.elapsed().as_micros() as f64 / ROWS as f64);
        }
        // The batches in which incidents begin are printed separately.
        let (first, second) = (spent[2], spent[3]);
        let steady = &mut spent[4..];
        steady.sort_by(f64::total_cmp);
        let median = steady[steady.len() / 2];
        eprintln!(
            "{failing} of {SITES} sites fail in {regions} of 3 regions: {median:.2} µs a row; the batch in which that begins {first:.2}, the
             next {second:.2}; incidents: {:?}",
            world.count_incidents().await
        );
    }
}

/// Prints what a row costs where sites warn: `cargo test --release -p picket-store -- --ignored --nocapture measure_warning_cost`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_warning_cost() {
    const SITES: i64 = 660;
    const BATCHES: i64 = 60;
    for warning in [0, 7, 66, SITES] {
        let world = new_world().await;
        world
            .execute_sql(&format!(
                "INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://127.0.0.1/' || n, 5 FROM generate_series(1, {SITES}) AS n;
                 UPDATE picket.schedules SET valid_from = valid_from - interval '1 hour'; ANALYZE;"
            ))
            .await;
        let schedules: Vec<(i64, i32, String)> = sqlx::query_as(
            "SELECT site_id, phase_ms, name FROM picket.schedules JOIN picket.regions ON region_id = id
             WHERE site_id > 1 ORDER BY 1, 3",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap();
        let results = ResultStore::new(world.store.clone());
        let began = now().saturating_sub(Duration::from_secs(400)).as_millis() / INTERVAL * INTERVAL;
        let mut spent = Vec::new();
        for batch in 0..BATCHES {
            let result = |(site, phase, region): &(i64, i32, String)| {
                let at = Timestamp::from_millis(began + batch * INTERVAL + i64::from(*phase));
                let warns = *site <= warning + 1 && batch >= 2;
                let warnings = if warns { vec![picket_proto::Warning::Slow] } else { vec![] };
                CheckResult { warnings, ..up_result(*site, region, at) }
            };
            let rows: Vec<_> = schedules.iter().map(result).collect();
            let began = tokio::time::Instant::now();
            insert_into_store(&results, &rows, now()).await;
            spent.push(began.elapsed().as_micros() as f64 / rows.len() as f64);
        }
        let (first, second) = (spent[2], spent[3]);
        let steady = &mut spent[4..];
        steady.sort_by(f64::total_cmp);
        let hot = "SELECT n_tup_hot_upd * 100 / greatest(n_tup_upd, 1) FROM pg_stat_user_tables WHERE relname = 'warning_states'";
        eprintln!(
            "{warning} of {SITES} sites warn: {:.2} µs a row; the batch in which that begins {first:.2}, \
             the next {second:.2}; {} % of the updates of states are HOT",
            steady[steady.len() / 2],
            world.query_number(hot).await
        );
    }
}
