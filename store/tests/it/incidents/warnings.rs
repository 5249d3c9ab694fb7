//! Warnings of sites that are up: one for each occasion, whoever writes, and what tells of it.

use picket_proto::Warning;
use picket_store::{incidents, reports};
use serde_json::json;

use super::*;

impl World {
    fn slow_result(&self, region: usize, tick: i64) -> CheckResult {
        CheckResult {
            warnings: vec![Warning::Slow],
            details: json!({ "slow": { "took_ms": 3_100, "warn_after_ms": 2_000 } }).as_object().cloned(),
            ..self.up_result(region, tick)
        }
    }

    /// The result of a check that was served a certificate which ends so many days from now.
    fn ending_result(&self, region: usize, tick: i64, serial: &str, days: u64) -> CheckResult {
        let ends = now().saturating_add(Duration::from_secs(days * 86_400 + 3_600));
        let details = json!({ "certificate": { "serial": serial, "expires_at": ends } });
        CheckResult {
            warnings: vec![Warning::Certificate],
            details: details.as_object().cloned(),
            tls_expires_at: Some(ends),
            ..self.up_result(region, tick)
        }
    }

    /// Opens a warning in the first two regions, by their ticks 0 and 1.
    async fn open_slow_warning(&self) {
        for tick in 0..2 {
            self.insert_results(&[
                self.slow_result(0, tick),
                self.slow_result(1, tick),
                self.up_result(2, tick),
            ])
            .await;
        }
        assert_eq!(self.count_warnings().await, (1, 1));
    }

    async fn count_warning_states(&self) -> i64 {
        self.query_number("SELECT count(*) FROM picket.warning_states").await
    }
}

#[tokio::test]
async fn a_warning_of_a_quorum_is_one_row_with_two_events_and_no_remaining_state() {
    let world = new_world().await;

    world.insert_results(&[world.slow_result(0, 0), world.slow_result(1, 0), world.slow_result(2, 0)]).await;
    assert_eq!((world.count_warnings().await, world.count_warning_states().await), ((0, 0), 1));
    world.insert_results(&[world.slow_result(0, 1)]).await;
    let opened = world.insert_results(&[world.slow_result(1, 1), world.up_result(2, 1)]).await;
    assert_eq!((opened.warnings.opened, world.count_warnings().await), (1, (1, 1)));
    let still = world.insert_results(&[world.slow_result(0, 2), world.slow_result(1, 2)]).await;
    assert_eq!((still.warnings.opened, still.warnings.closed), (0, 0));
    world.insert_results(&[world.up_result(0, 3), world.up_result(1, 3), world.up_result(2, 3)]).await;
    assert_eq!(world.count_warnings().await, (1, 1), "one without is not two");
    let closed = world.insert_results(&[world.up_result(0, 4), world.up_result(1, 4)]).await;

    assert_eq!((closed.warnings.closed, world.count_warnings().await), (1, (1, 0)));
    assert_eq!((world.count_warning_states().await, world.count_site_states().await), (0, 0));
    assert_eq!(world.count_incidents().await, (0, 0));
    assert_eq!(
        world.list_events().await,
        [
            "picket.event.warning.opened warning.1.slow.TIME.opened",
            "picket.event.warning.closed warning.1.slow.TIME.closed"
        ]
    );
    let row =
        "SELECT (site_id, kind, first_warned_at < opened_at, message, regions, duration > '0', days_left,
                       in_maintenance)::text FROM report.warnings";
    assert_eq!(
        world.query_texts(row).await,
        [format!(
            "({},slow,t,\"the check took 3100 ms, and warn_after_ms is 2000\",\"{{asia,eu}}\",t,,f)",
            world.site
        )]
    );
}

#[tokio::test]
async fn failures_and_missed_checks_neither_open_a_warning_nor_close_one() {
    let world = new_world().await;
    world.open_slow_warning().await;

    for tick in 2..6 {
        let missed = missed_result(world.site.0, REGIONS[2], world.tick_time(2, tick));
        world.insert_results(&[world.down_result(0, tick), world.down_result(1, tick), missed]).await;
    }

    assert_eq!((world.count_warnings().await, world.count_incidents().await), ((1, 1), (1, 1)));
    // A failure with a warning is a failure: no prober sends one, and its warning does not count.
    let down = |tick| CheckResult { warnings: vec![Warning::Loss], ..world.down_result(0, tick) };
    world.insert_results(&[down(6), down(7), down(8)]).await;
    assert_eq!(world.count_warning_states().await, 1);
}

#[tokio::test]
async fn each_kind_of_warning_of_a_site_opens_and_closes_for_itself() {
    let world = new_world().await;
    let both = |region, tick| CheckResult {
        warnings: vec![Warning::Slow, Warning::Certificate],
        ..world.ending_result(region, tick, "0a:1b", 9)
    };
    for tick in 0..2 {
        world.insert_results(&[both(0, tick), both(1, tick), both(2, tick)]).await;
    }
    assert_eq!(world.count_warnings().await, (2, 2));
    for tick in 2..4 {
        world.insert_results(&[0, 1, 2].map(|region| world.ending_result(region, tick, "0a:1b", 9))).await;
    }

    let open = "SELECT (kind, serial, days_left, expires_at > now())::text FROM report.warnings WHERE closed_at IS NULL";
    assert_eq!(world.query_texts(open).await, ["(certificate,0a:1b,9,t)"]);
    assert_eq!(world.query_texts("SELECT kind::text FROM picket.warning_states").await, ["certificate"]);
}

#[tokio::test]
async fn a_renewed_certificate_closes_its_warning_and_opens_one_if_it_warns_too() {
    let world = new_world().await;
    let served = async |tick, serial: &str, days| {
        let results = [0, 1, 2].map(|region| world.ending_result(region, tick, serial, days));
        world.insert_results(&results).await.warnings
    };
    for tick in 0..3 {
        served(tick, "01", 9).await;
    }
    assert_eq!(world.count_warnings().await, (1, 1));

    assert_eq!(served(3, "02", 12).await, Default::default());
    let renewed = served(4, "02", 12).await;
    served(5, "02", 12).await;

    assert_eq!((renewed.closed, renewed.opened), (1, 1));
    let rows = "SELECT serial || ' ' || days_left || ' ' || (closed_at IS NULL) FROM report.warnings ORDER BY warning_id";
    assert_eq!(world.query_texts(rows).await, ["01 9 false", "02 12 true"]);
    assert_eq!(world.list_events().await.len(), 3);
    for tick in 6..8 {
        world.insert_results(&[0, 1, 2].map(|region| world.up_result(region, tick))).await;
    }
    assert_eq!((world.count_warnings().await, world.count_warning_states().await), ((2, 0), 0));
    assert_eq!(world.query_number("SELECT count(DISTINCT event_id) FROM picket.outbox").await, 4);
}

#[tokio::test]
async fn the_warning_of_a_site_that_is_paused_or_removed_closes_as_unwatched() {
    for change in [
        "UPDATE picket.sites SET enabled = false",
        "DELETE FROM picket.sites",
        "UPDATE picket.sites SET problem = 'no'",
    ] {
        let world = new_world().await;
        world.open_slow_warning().await;

        world.execute_sql(change).await;

        assert_eq!(
            (world.count_warnings().await, world.count_warning_states().await),
            ((1, 0), 0),
            "{change}"
        );
        let last = "SELECT payload->>'unwatched' FROM picket.outbox ORDER BY id DESC LIMIT 1";
        assert_eq!(world.query_texts(last).await, ["true"], "{change}");
    }
}

#[tokio::test]
async fn a_warning_that_was_decided_while_its_site_was_paused_is_closed_by_a_coordinator() {
    let world = new_world().await;
    world.open_slow_warning().await;
    // As of a sink whose decision the transaction that paused the site could not see.
    world
        .execute_sql(
            "ALTER TABLE picket.sites DISABLE TRIGGER sites_watch_ended_warnings_by_update;
             UPDATE picket.sites SET enabled = false;",
        )
        .await;
    // Of a tick before the pause, and stored before a coordinator acts.
    world.insert_results(&[world.up_result(0, 20)]).await;
    assert_eq!(world.count_warnings().await, (1, 1));

    incidents::close_unwatched(&world.store).await.unwrap();

    assert_eq!((world.count_warnings().await, world.count_warning_states().await), ((1, 0), 0));
}

#[tokio::test]
async fn a_warning_opens_in_a_maintenance_window_and_says_so() {
    let world = new_world().await;
    let from = world.tick_time(0, 0).saturating_sub(Duration::from_secs(60));
    maintenance::add_window(&world.store, &MaintenanceTarget::Site(world.site), from, None).await.unwrap();

    world.open_slow_warning().await;

    let flags = "SELECT in_maintenance::text FROM report.warnings
                 UNION ALL SELECT payload->>'in_maintenance' FROM picket.outbox";
    assert_eq!(world.query_texts(flags).await, ["true", "true"]);
}

#[tokio::test]
async fn a_warning_that_is_decided_again_after_its_database_lost_it_has_the_events_that_it_had() {
    let world = new_world().await;
    let mut results = Vec::new();
    for tick in 0..4 {
        results.extend([world.ending_result(0, tick, "01", 9), world.ending_result(1, tick, "01", 9)]);
    }
    for tick in 4..8 {
        results.extend([world.ending_result(0, tick, "02", 12), world.ending_result(1, tick, "02", 12)]);
    }
    for tick in 8..12 {
        results.extend([world.up_result(0, tick), world.up_result(1, tick)]);
    }
    results.sort_by_key(|result| result.scheduled_at);
    for result in &results {
        world.insert_results(std::slice::from_ref(result)).await;
    }
    let told = world.query_texts("SELECT event_id FROM picket.outbox ORDER BY id").await;
    // As a replica has it that did not get the last commits. Numbers go on, as sequences do.
    world
        .execute_sql(&format!(
            "DELETE FROM picket.warnings; DELETE FROM picket.warning_states; DELETE FROM picket.outbox;
             DELETE FROM picket.check_results WHERE scheduled_at >= '{}'",
            world.tick_time(0, 0).min(world.tick_time(1, 0))
        ))
        .await;

    for batch in results.chunks(5) {
        world.insert_results(batch).await;
    }

    assert_eq!(world.query_texts("SELECT event_id FROM picket.outbox ORDER BY id").await, told);
    assert_eq!(told.len(), 4);
}

#[tokio::test]
async fn results_from_the_future_and_results_beside_the_ticks_open_no_warning() {
    let world = new_world().await;
    let beside = |result: CheckResult, millis| CheckResult {
        scheduled_at: result.scheduled_at.saturating_add(Duration::from_millis(millis)),
        ..result
    };

    for tick in 0..4 {
        world.insert_results(&[0, 1, 2].map(|region| beside(world.slow_result(region, tick), 1))).await;
        world.insert_results(&[0, 1, 2].map(|region| world.slow_result(region, 100 + tick))).await;
    }

    assert_eq!((world.count_warnings().await, world.count_warning_states().await), ((0, 0), 0));
}

#[tokio::test]
async fn a_result_without_a_warning_that_another_writer_stored_is_found_between_two_that_warn() {
    let world = new_world().await;
    world.insert_results(&[world.slow_result(0, 0), world.slow_result(1, 0), world.up_result(2, 0)]).await;
    // As a sink stores results that sees no state of the site, because it is not committed yet.
    world
        .execute_sql(&format!(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             SELECT due, {}, id, 'scheduled', 'up' FROM (VALUES ('asia', timestamptz '{}'), ('eu', '{}')) AS row (region, due)
             JOIN picket.regions ON name = region",
            world.site,
            world.tick_time(0, 1),
            world.tick_time(1, 1),
        ))
        .await;

    world.insert_results(&[world.slow_result(0, 2), world.slow_result(1, 2)]).await;
    assert_eq!(world.count_warnings().await, (0, 0), "these are not the second in a row");
    world.insert_results(&[world.slow_result(0, 3), world.slow_result(1, 3)]).await;

    assert_eq!(world.count_warnings().await, (1, 1));
}

#[tokio::test]
async fn a_batch_without_warnings_of_sites_without_a_warning_runs_no_statement_for_warnings() {
    let world = new_world().await;
    // Any attempt to lock or write a state fails.
    world
        .execute_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a statement for warnings'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON picket.warning_states
             FOR EACH STATEMENT EXECUTE FUNCTION refuse();",
        )
        .await;
    for tick in 0..4 {
        let results = [world.down_result(0, tick), world.up_result(1, tick), world.down_result(2, tick)];
        world.insert_results(&results).await;
    }
    assert_eq!(world.count_incidents().await, (1, 1));

    let warned = world.slow_result(1, 4);
    let entry = IncomingResult { subject: "s", payload: b"", content: ResultContent::Check(&warned) };
    let refused = world.results.insert_batch(&[entry], now()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("a statement for warnings"), "{refused:?}");
}

#[tokio::test]
async fn warnings_do_not_change_uptime_or_any_other_report_of_checks() {
    let mut reported = Vec::new();
    // The first tick of both databases.
    let mut began = None;
    for has_warnings in [true, false] {
        let world = new_world().await;
        let ticks = began.get_or_insert_with(|| world.ticks.clone()).clone();
        let world = World { ticks, ..world };
        // The results from before the first tick depend on when the database was made.
        world.execute_sql("TRUNCATE picket.check_results").await;
        for tick in 0..20 {
            let results = [
                world.ending_result(0, tick, "01", 9),
                world.slow_result(1, tick),
                if tick % 4 == 0 { world.down_result(2, tick) } else { world.slow_result(2, tick) },
            ];
            let results = results.map(|result| match has_warnings {
                true => result,
                false => CheckResult { warnings: vec![], details: None, ..result },
            });
            world.insert_results(&results).await;
        }
        assert_eq!(world.count_warnings().await.0, i64::from(has_warnings));
        // Of an hour that has ended meanwhile reports show the rollups.
        for _ in 0..3 {
            world.execute_sql("SELECT picket.roll_up('1 hour')").await;
        }
        let mut texts = Vec::new();
        for view in ["uptime_daily", "uptime_monthly", "latency_hourly", "failures", "incidents"] {
            let sql = format!("SELECT '{view}: ' || row::text FROM report.{view} AS row ORDER BY 1");
            texts.extend(world.query_texts(&sql).await);
        }
        texts.extend(
            world
                .query_texts(
                    "SELECT (site_id, status, regions_up, regions_down)::text FROM report.site_status",
                )
                .await,
        );
        let filter = reports::ReportFilter { since: Duration::from_secs(86_400), ..Default::default() };
        texts.push(format!("{:?}", reports::report_uptime(&world.store, &filter).await.unwrap()));
        reported.push(texts);
    }

    assert!(reported[0].len() > 5, "{:?}", reported[0]);
    assert_eq!(reported[0], reported[1]);
}
