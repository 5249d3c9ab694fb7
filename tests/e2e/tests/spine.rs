//! The main job, from outside: sites in Postgres become rows.

use std::time::Duration;

use picket_e2e::Stack;
use picket_harness::{eventually, targets::Target};
use picket_proto::subject;

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Rows of scheduled checks.
const ROW_COUNT_SQL: &str = "SELECT count(*) FROM picket.check_results WHERE kind = 'scheduled'";

async fn start_target_url(path: &str) -> String {
    // Kept for as long as the test process lives.
    let target = Box::leak(Box::new(Target::serve_http().await));
    target.url(path)
}

#[tokio::test]
async fn every_tick_of_every_site_becomes_one_row_through_coordinators_probers_and_sinks() {
    let url = start_target_url("/ok").await;
    let stack = Stack::start(&["east", "west"]).await;
    let coordinators = [stack.spawn_coordinator(&[]).await, stack.spawn_coordinator(&[]).await];
    let probers = [
        stack.spawn_prober("east", &[]).await,
        stack.spawn_prober("east", &[]).await,
        stack.spawn_prober("west", &[]).await,
    ];
    let sinks = [stack.spawn_sink(&[]).await, stack.spawn_sink(&[]).await];
    for process in coordinators.iter().chain(&probers).chain(&sinks) {
        process.wait_ready().await;
    }
    eventually(WAIT_TIMEOUT, "an even share", async || {
        let held = stack
            .query_lines("SELECT count(*)::text FROM picket.leases WHERE expires_at > now() GROUP BY holder ORDER BY 1")
            .await;
        if held == ["32", "32"] { Ok(()) } else { Err(held) }
    })
    .await;

    let from = "(SELECT max(valid_from) FROM picket.schedules)";
    stack
        .execute_sql(&format!("INSERT INTO picket.sites (url, interval_seconds, regex) SELECT '{url}/' || n, 5, 'well' FROM generate_series(1, 40) n"))
        .await;
    stack.wait_at_least(Duration::from_secs(40), 40 * 2 * 3, ROW_COUNT_SQL).await;
    let to = "(SELECT min(at) FROM (SELECT max(scheduled_at) AS at FROM picket.check_results GROUP BY site_id, region_id) AS newest)";
    let ledger = stack.count_ticks(from, to).await;

    assert!(ledger.ticks >= 150, "{ledger:?}");
    assert_eq!((ledger.unaccounted, ledger.up), (0, ledger.ticks), "{ledger:?}");
    // In one statement: rows keep coming.
    let incomplete =
        "SELECT count(*) FROM report.checks WHERE (first_byte_ms > 0 AND connect_ms > 0 AND total_ms > 0
                    AND regex_matched AND tls_ms IS NULL AND dns_ms IS NULL AND lateness_ms >= 0) IS NOT TRUE";
    assert_eq!(stack.query_number(incomplete).await, 0);
    assert!(probers.iter().all(|prober| prober.read_metric("picket_prober_checks_total") > 0.0));
    for process in coordinators.into_iter().chain(probers).chain(sinks) {
        process.stop().await;
    }
}

#[tokio::test]
async fn changes_of_a_site_by_sql_or_command_take_effect_within_seconds() {
    const PICKED_UP: Duration = Duration::from_secs(10);
    let url = start_target_url("/ok").await;
    let stack = Stack::start(&["local"]).await;
    let coordinator = stack.spawn_coordinator(&[]).await;
    let schedules = async |count: f64| {
        eventually(PICKED_UP, &format!("{count} schedules"), async || {
            let seen = coordinator.read_metric("picket_coordinator_schedules");
            if seen == count { Ok(()) } else { Err(seen) }
        })
        .await;
    };
    coordinator.wait_ready().await;

    stack.execute_sql(&format!("INSERT INTO picket.sites (url) VALUES ('{url}')")).await;
    schedules(1.0).await;
    let (code, _, error) = stack.run_picket(&["site", "add", &format!("{url}/2"), "--interval", "10s"]).await;
    assert_eq!(code, 0, "{error}");
    schedules(2.0).await;
    assert_eq!(stack.run_picket(&["region", "add", "other"]).await.0, 0);
    schedules(4.0).await;
    assert_eq!(stack.run_picket(&["site", "pause", "1"]).await.0, 0);
    schedules(2.0).await;
    stack.execute_sql("UPDATE picket.sites SET enabled = true, regions = '{other}' WHERE id = 1").await;
    schedules(3.0).await;
    assert_eq!(stack.run_picket(&["site", "remove", "2"]).await.0, 0);
    schedules(1.0).await;
    stack.execute_sql("DELETE FROM picket.sites").await;
    schedules(0.0).await;
    coordinator.stop().await;
}

#[tokio::test]
async fn an_invalid_site_is_explained_in_sql_and_refused_by_the_command() {
    let stack = Stack::start(&["local"]).await;
    let coordinator = stack.spawn_coordinator(&[]).await;
    coordinator.wait_ready().await;

    stack
        .execute_sql(
            "INSERT INTO picket.sites (url) VALUES ('example.com');
             INSERT INTO picket.sites (url, regex) VALUES ('http://a/', '(');
             INSERT INTO picket.sites (url, regex) VALUES ('http://a/', '(\\w{500}){500}');
             INSERT INTO picket.sites (url, status) VALUES ('http://b/', '2xx');
             INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://c/', 1);
             INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://d/', 0);
             INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://e/', 100000)",
        )
        .await;
    stack.wait_at_least(WAIT_TIMEOUT, 7, "SELECT count(*) FROM picket.sites WHERE problem IS NOT NULL").await;
    let problems = stack.query_lines("SELECT problem FROM picket.sites ORDER BY id").await;

    for (problem, field) in problems.iter().zip([
        "url",
        "regex",
        "regex",
        "status",
        "interval_seconds",
        "interval_seconds",
        "interval_seconds",
    ]) {
        assert!(problem.starts_with(&format!("{field}: '")) && problem.contains("allowed: "), "{problem}");
    }
    assert_eq!(stack.query_number("SELECT count(*) FROM picket.schedules WHERE valid_to IS NULL").await, 0);
    let (code, _, error) = stack.run_picket(&["site", "add", "http://x/", "--interval", "1s"]).await;
    assert_eq!(code, 2);
    assert!(error.contains("interval") && error.contains('1') && error.contains("allowed"), "{error}");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_stopped_coordinator_hands_over_immediately_and_no_tick_is_lost() {
    let url = start_target_url("/ok").await;
    let stack = Stack::start(&["local"]).await;
    let (first, second) = (stack.spawn_coordinator(&[]).await, stack.spawn_coordinator(&[]).await);
    let (prober, sink) = (stack.spawn_prober("local", &[]).await, stack.spawn_sink(&[]).await);
    for process in [&first, &second, &prober, &sink] {
        process.wait_ready().await;
    }
    stack
        .execute_sql(&format!("INSERT INTO picket.sites (url, interval_seconds) SELECT '{url}/' || n, 5 FROM generate_series(1, 60) n"))
        .await;
    stack.wait_at_least(WAIT_TIMEOUT, 60, ROW_COUNT_SQL).await;

    first.stop().await;
    let free = stack
        .query_number("SELECT count(*) FROM picket.leases WHERE holder IS NULL OR expires_at < now()")
        .await;
    eventually(Duration::from_secs(10), "the other to hold all", async || {
        let held = second.read_metric("picket_coordinator_leases_held");
        if held == 64.0 { Ok(()) } else { Err((held, free)) }
    })
    .await;
    stack.wait_at_least(Duration::from_secs(40), 60 * 5, ROW_COUNT_SQL).await;

    let ledger = stack
        .count_ticks(
            "(SELECT max(valid_from) FROM picket.schedules)",
            "(SELECT min(at) FROM (SELECT max(scheduled_at) AS at FROM picket.check_results GROUP BY site_id) AS newest)",
        )
        .await;
    assert_eq!((ledger.unaccounted, ledger.missed), (0, 0), "{ledger:?}");
    for process in [second, prober, sink] {
        process.stop().await;
    }
}

#[tokio::test]
async fn a_database_outage_loses_no_result() {
    let url = start_target_url("/ok").await;
    let mut postgres = picket_harness::servers::start_postgres().await;
    let stack = Stack::start_on(&["local"], postgres.create_database().await).await;
    let (coordinator, prober, sink) = (
        stack.spawn_coordinator(&[]).await,
        stack.spawn_prober("local", &[]).await,
        stack.spawn_sink(&[]).await,
    );
    for process in [&coordinator, &prober, &sink] {
        process.wait_ready().await;
    }
    stack
        .execute_sql(&format!("INSERT INTO picket.sites (url, interval_seconds) SELECT '{url}/' || n, 5 FROM generate_series(1, 50) n"))
        .await;
    stack.wait_at_least(WAIT_TIMEOUT, 50, ROW_COUNT_SQL).await;

    postgres.stop().await;
    let published = prober.read_metric("picket_prober_results_published_total");
    eventually(WAIT_TIMEOUT, "results that the database cannot take", async || {
        let now = prober.read_metric("picket_prober_results_published_total");
        if now >= published + 50.0 { Ok(()) } else { Err(now - published) }
    })
    .await;
    eventually(WAIT_TIMEOUT, "an unready sink", async || {
        sink.http_get("/readyz").is_some_and(|response| response.status == 503)
    })
    .await;
    postgres.start().await;

    coordinator.stop().await;
    let mut jobs = stack.connect_jetstream().await.get_stream(subject::JOBS_STREAM).await.expect("jobs");
    eventually(WAIT_TIMEOUT, "no job left", async || match jobs.info().await {
        Ok(info) if info.state.messages == 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let published = prober.read_metric("picket_prober_results_published_total") as i64;
    prober.stop().await;
    stack.wait_at_least(Duration::from_secs(60), published, ROW_COUNT_SQL).await;
    assert_eq!(stack.query_number(ROW_COUNT_SQL).await, published);
    sink.stop().await;
}

#[tokio::test]
async fn processes_started_before_their_servers_wait_and_then_work() {
    let url = start_target_url("/ok").await;
    let mut stack = Stack::start(&["local"]).await;
    stack.nats.stop().await;
    let (coordinator, prober, sink) = (
        stack.spawn_coordinator(&[]).await,
        stack.spawn_prober("local", &[]).await,
        stack.spawn_sink(&[]).await,
    );
    for process in [&coordinator, &prober, &sink] {
        eventually(WAIT_TIMEOUT, "not ready", async || {
            process.http_get("/readyz").is_some_and(|response| response.status == 503)
        })
        .await;
        eventually(WAIT_TIMEOUT, "alive", async || {
            process.http_get("/healthz").is_some_and(|response| response.status == 200)
        })
        .await;
        eventually(WAIT_TIMEOUT, "it logs what it waits for", async || {
            process.read_log().contains("waiting for NATS")
        })
        .await;
    }

    stack.nats.start().await;
    for process in [&coordinator, &prober, &sink] {
        process.wait_ready().await;
    }
    stack.execute_sql(&format!("INSERT INTO picket.sites (url, interval_seconds) VALUES ('{url}', 5)")).await;
    stack.wait_at_least(WAIT_TIMEOUT, 1, ROW_COUNT_SQL).await;
    for process in [coordinator, prober, sink] {
        process.stop().await;
    }
}

/// Before, one coordinator with a narrower range of intervals ended the schedules of all sites of its shards.
#[tokio::test]
async fn a_process_warns_of_a_variable_replaced_by_a_setting_and_uses_the_setting() {
    let stack = Stack::start(&["local"]).await;
    let narrow = [("PICKET_MIN_INTERVAL", "1h"), ("PICKET_RETENTION_DAYS", "1")];
    let processes = [
        stack.spawn_process("picket-coordinator", &[], &narrow).await,
        stack.spawn_coordinator(&[]).await,
        stack.spawn_process("picket-sink", &[], &narrow).await,
    ];
    for process in &processes {
        process.wait_ready().await;
    }
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://127.0.0.1:1/' || n, 5 FROM generate_series(1, 20) n").await;

    for process in [&processes[0], &processes[2]] {
        process.wait_logged("picket settings set retention_days VALUE").await;
        process.wait_logged("setting of the database replaces it").await;
    }
    // Both coordinators hold shards, and schedule the sites in them.
    for coordinator in &processes[..2] {
        eventually(WAIT_TIMEOUT, "jobs of both coordinators", async || {
            match coordinator.read_metric("picket_coordinator_jobs_published_total") {
                0.0 => Err(coordinator.read_log()),
                _ => Ok(()),
            }
        })
        .await;
    }
    assert_eq!(stack.query_number("SELECT count(*) FROM picket.sites WHERE problem IS NOT NULL").await, 0);
    for process in processes {
        process.stop().await;
    }
}
