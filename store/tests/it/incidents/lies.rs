//! Limits of a region that publishes false results with valid tickets: its effect on incidents.

use super::*;

impl World {
    /// A failure in a region that was due so many seconds from now.
    fn down_result_in(&self, region: usize, seconds: i64) -> CheckResult {
        let ahead = Duration::from_secs(seconds.unsigned_abs());
        let at = if seconds < 0 { now().saturating_sub(ahead) } else { now().saturating_add(ahead) };
        CheckResult { scheduled_at: at, ..self.down_result(region, 0) }
    }

    /// Number of blocks that Postgres reads to load the site's evidence for failures at these
    /// times.
    async fn count_blocks_read(&self, moments: &[Timestamp]) -> u64 {
        const EVIDENCE: &str = include_str!("../../../src/decisions/evidence.sql");
        let (plan,): (serde_json::Value,) =
            sqlx::query_as(AssertSqlSafe(format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {EVIDENCE}")))
                .bind(vec![self.site.0; moments.len()])
                .bind(moments.iter().map(|moment| moment.to_offset_datetime()).collect::<Vec<_>>())
                .bind(Vec::<i64>::new())
                .bind(Vec::<i16>::new())
                .bind(now().to_offset_datetime())
                .bind(None::<String>)
                .fetch_one(&self.pool)
                .await
                .unwrap();
        let plan = &plan[0]["Plan"];
        let blocks = |kind: &str| plan[kind].as_u64().unwrap();
        blocks("Shared Hit Blocks") + blocks("Shared Read Blocks")
    }
}

#[tokio::test]
async fn failures_dated_in_the_future_open_no_incident_and_hide_no_outage() {
    let world = new_world().await;
    world.insert_results(&[world.up_result(0, 0), world.up_result(1, 0), world.up_result(2, 0)]).await;

    let lie = world.insert_results(&[world.down_result_in(0, 285), world.down_result_in(0, 290)]).await;

    assert_eq!((lie.count_inserted(), lie.incidents), (2, Default::default()));
    assert_eq!((world.count_incidents().await, world.count_site_states().await), ((0, 0), 0));
    // A real outage in the two other regions opens an incident, although the false region reports
    // success.
    world.insert_results(&[world.down_result(1, 1), world.down_result(2, 1), world.up_result(0, 1)]).await;
    world.insert_results(&[world.down_result(1, 2), world.down_result(2, 2), world.up_result(0, 2)]).await;
    assert_eq!(world.count_incidents().await, (1, 1));
    world
        .insert_results(&[
            world.up_result(1, 3),
            world.up_result(2, 3),
            world.up_result(1, 4),
            world.up_result(2, 4),
        ])
        .await;
    assert_eq!(world.count_incidents().await, (1, 0));
}

#[tokio::test]
async fn a_region_down_in_the_future_is_up_with_its_next_results() {
    let world = new_world().await;
    let later = now().saturating_add(Duration::from_secs(280)).as_micros();
    world
        .execute_sql(&format!(
            r#"INSERT INTO picket.site_states SELECT {}, jsonb_build_array(jsonb_build_object('region', id, 'last_scheduled_us', {later},
                 'kind', 'scheduled', 'consecutive_failures', 2, 'consecutive_successes', 0, 'is_down', true, 'failing_since_us', {later}))
               FROM picket.regions WHERE name = 'asia'"#,
            world.site
        ))
        .await;

    world.insert_results(&[world.down_result(1, 0), world.up_result(0, 0), world.up_result(2, 0)]).await;
    world.insert_results(&[world.up_result(1, 1), world.up_result(0, 1), world.up_result(2, 1)]).await;

    assert_eq!((world.count_incidents().await, world.count_site_states().await), ((0, 0), 0));
}

#[tokio::test]
async fn results_a_month_apart_cost_the_sum_of_their_own_work() {
    let world = new_world().await;
    world
        .execute_sql(
            "UPDATE picket.schedules SET valid_from = valid_from - interval '40 days'; SELECT picket.ensure_partitions(30)",
        )
        .await;
    let month = Duration::from_secs(29 * 86_400);
    let (late, early) = (world.tick_time(0, 0), world.tick_time(0, 0).saturating_sub(month));

    let near = world.count_blocks_read(&[late, world.tick_time(0, 1)]).await;
    let far = world.count_blocks_read(&[early, late]).await;
    let spread: Vec<_> = (0..500).map(|day| early.saturating_add(Duration::from_secs(5_000) * day)).collect();
    let scattered = world.count_blocks_read(&spread).await;

    // Two ranges instead of one, and eight at most; each tick in between would be half a million.
    assert!(far <= 4 * near, "{far} blocks, and {near} for results that are close");
    assert!(scattered <= 16 * near, "{scattered} blocks, and {near} for results that are close");
    let pairs = [
        CheckResult { scheduled_at: early, ..world.down_result(0, 0) },
        world.down_result(0, 0),
        world.up_result(1, 0),
    ];
    assert_eq!(world.insert_results(&pairs).await.count_inserted(), 3);
}

#[tokio::test]
async fn a_single_region_neither_opens_an_incident_nor_keeps_one_open() {
    let world = new_world().await;

    for tick in 0..4 {
        world
            .insert_results(&[world.down_result(0, tick), world.up_result(1, tick), world.up_result(2, tick)])
            .await;
    }
    assert_eq!(world.count_incidents().await, (0, 0));
    for tick in 4..6 {
        world
            .insert_results(&[
                world.down_result(0, tick),
                world.down_result(1, tick),
                world.down_result(2, tick),
            ])
            .await;
    }
    assert_eq!(world.count_incidents().await, (1, 1));
    for tick in 6..8 {
        world
            .insert_results(&[world.down_result(0, tick), world.up_result(1, tick), world.up_result(2, tick)])
            .await;
    }
    assert_eq!(world.count_incidents().await, (1, 0));
}
