//! The main job, from outside: sites in Postgres become rows.

use std::time::Duration;

use picket_e2e::Stack;
use picket_testkit::{eventually, target::Target};

const SOON: Duration = Duration::from_secs(20);

/// Rows of scheduled checks.
const ROWS: &str = "SELECT count(*) FROM picket.check_results WHERE kind = 'scheduled'";

async fn url_of(path: &str) -> String {
    // Kept for as long as the test process lives.
    let target = Box::leak(Box::new(Target::http().await));
    target.url(path)
}

#[tokio::test]
async fn every_tick_of_every_site_becomes_one_row_through_coordinators_probers_and_sinks() {
    let url = url_of("/ok").await;
    let stack = Stack::start(&["east", "west"]).await;
    let coordinators = [stack.coordinator(&[]).await, stack.coordinator(&[]).await];
    let probers =
        [stack.prober("east", &[]).await, stack.prober("east", &[]).await, stack.prober("west", &[]).await];
    let sinks = [stack.sink(&[]).await, stack.sink(&[]).await];
    for process in coordinators.iter().chain(&probers).chain(&sinks) {
        process.ready().await;
    }
    eventually(SOON, "an even share", async || {
        let held = stack
            .lines("SELECT count(*)::text FROM picket.leases WHERE expires_at > now() GROUP BY holder ORDER BY 1")
            .await;
        if held == ["32", "32"] { Ok(()) } else { Err(held) }
    })
    .await;

    let from = "(SELECT max(valid_from) FROM picket.schedules)";
    stack
        .execute(&format!("INSERT INTO picket.sites (url, interval_seconds, regex) SELECT '{url}/' || n, 5, 'well' FROM generate_series(1, 40) n"))
        .await;
    stack.at_least(Duration::from_secs(40), 40 * 2 * 3, ROWS).await;
    let to = "(SELECT min(at) FROM (SELECT max(scheduled_at) AS at FROM picket.check_results GROUP BY site_id, region_id) AS newest)";
    let ledger = stack.ledger(from, to).await;

    assert!(ledger.ticks >= 150, "{ledger:?}");
    assert_eq!((ledger.unaccounted, ledger.up), (0, ledger.ticks), "{ledger:?}");
    // In one statement: rows keep coming.
    let incomplete =
        "SELECT count(*) FROM report.checks WHERE (first_byte_ms > 0 AND connect_ms > 0 AND total_ms > 0
                    AND regex_matched AND tls_ms IS NULL AND dns_ms IS NULL AND lateness_ms >= 0) IS NOT TRUE";
    assert_eq!(stack.number(incomplete).await, 0);
    assert!(probers.iter().all(|prober| prober.metric("picket_prober_checks_total") > 0.0));
    for process in coordinators.into_iter().chain(probers).chain(sinks) {
        process.stop().await;
    }
}

#[tokio::test]
async fn a_site_added_changed_paused_and_removed_by_sql_or_command_is_followed_within_seconds() {
    const PICKED_UP: Duration = Duration::from_secs(10);
    let url = url_of("/ok").await;
    let stack = Stack::start(&["local"]).await;
    let coordinator = stack.coordinator(&[]).await;
    let schedules = async |count: f64| {
        eventually(PICKED_UP, &format!("{count} schedules"), async || {
            let seen = coordinator.metric("picket_coordinator_schedules");
            if seen == count { Ok(()) } else { Err(seen) }
        })
        .await;
    };
    coordinator.ready().await;

    stack.execute(&format!("INSERT INTO picket.sites (url) VALUES ('{url}')")).await;
    schedules(1.0).await;
    let (code, _, error) = stack.picket(&["site", "add", &format!("{url}/2"), "--interval", "10s"]).await;
    assert_eq!(code, 0, "{error}");
    schedules(2.0).await;
    assert_eq!(stack.picket(&["region", "add", "other"]).await.0, 0);
    schedules(4.0).await;
    assert_eq!(stack.picket(&["site", "pause", "1"]).await.0, 0);
    schedules(2.0).await;
    stack.execute("UPDATE picket.sites SET enabled = true, regions = '{other}' WHERE id = 1").await;
    schedules(3.0).await;
    assert_eq!(stack.picket(&["site", "remove", "2"]).await.0, 0);
    schedules(1.0).await;
    stack.execute("DELETE FROM picket.sites").await;
    schedules(0.0).await;
    coordinator.stop().await;
}

#[tokio::test]
async fn a_site_that_makes_no_sense_is_explained_in_sql_and_refused_by_the_command() {
    let stack = Stack::start(&["local"]).await;
    let coordinator = stack.coordinator(&[]).await;
    coordinator.ready().await;

    stack
        .execute(
            "INSERT INTO picket.sites (url) VALUES ('example.com');
             INSERT INTO picket.sites (url, regex) VALUES ('http://a/', '(');
             INSERT INTO picket.sites (url, regex) VALUES ('http://a/', '(\\w{500}){500}');
             INSERT INTO picket.sites (url, status) VALUES ('http://b/', '2xx');
             INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://c/', 1);
             INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://d/', 0);
             INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://e/', 100000)",
        )
        .await;
    stack.at_least(SOON, 7, "SELECT count(*) FROM picket.sites WHERE problem IS NOT NULL").await;
    let problems = stack.lines("SELECT problem FROM picket.sites ORDER BY id").await;

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
    assert_eq!(stack.number("SELECT count(*) FROM picket.schedules WHERE valid_to IS NULL").await, 0);
    let (code, _, error) = stack.picket(&["site", "add", "http://x/", "--interval", "1s"]).await;
    assert_eq!(code, 2);
    assert!(error.contains("interval") && error.contains('1') && error.contains("allowed"), "{error}");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_coordinator_that_is_stopped_hands_over_at_once_and_no_tick_is_lost() {
    let url = url_of("/ok").await;
    let stack = Stack::start(&["local"]).await;
    let (first, second) = (stack.coordinator(&[]).await, stack.coordinator(&[]).await);
    let (prober, sink) = (stack.prober("local", &[]).await, stack.sink(&[]).await);
    for process in [&first, &second, &prober, &sink] {
        process.ready().await;
    }
    stack
        .execute(&format!("INSERT INTO picket.sites (url, interval_seconds) SELECT '{url}/' || n, 5 FROM generate_series(1, 60) n"))
        .await;
    stack.at_least(SOON, 60, ROWS).await;

    first.stop().await;
    let free =
        stack.number("SELECT count(*) FROM picket.leases WHERE holder IS NULL OR expires_at < now()").await;
    eventually(Duration::from_secs(10), "the other to hold all", async || {
        let held = second.metric("picket_coordinator_leases_held");
        if held == 64.0 { Ok(()) } else { Err((held, free)) }
    })
    .await;
    stack.at_least(Duration::from_secs(40), 60 * 5, ROWS).await;

    let ledger = stack
        .ledger(
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
async fn a_database_that_is_away_loses_no_result() {
    let url = url_of("/ok").await;
    let mut postgres = picket_testkit::servers::own_postgres().await;
    let stack = Stack::start_on(&["local"], postgres.database().await).await;
    let (coordinator, prober, sink) =
        (stack.coordinator(&[]).await, stack.prober("local", &[]).await, stack.sink(&[]).await);
    for process in [&coordinator, &prober, &sink] {
        process.ready().await;
    }
    stack
        .execute(&format!("INSERT INTO picket.sites (url, interval_seconds) SELECT '{url}/' || n, 5 FROM generate_series(1, 50) n"))
        .await;
    stack.at_least(SOON, 50, ROWS).await;

    postgres.stop().await;
    let published = prober.metric("picket_prober_results_published_total");
    eventually(SOON, "results that the database cannot take", async || {
        let now = prober.metric("picket_prober_results_published_total");
        if now >= published + 50.0 { Ok(()) } else { Err(now - published) }
    })
    .await;
    eventually(SOON, "a sink that says it is not ready", async || {
        sink.get("/readyz").is_some_and(|(code, _)| code == 503)
    })
    .await;
    postgres.start().await;

    coordinator.stop().await;
    let published = prober.metric("picket_prober_results_published_total") as i64;
    prober.stop().await;
    stack.at_least(Duration::from_secs(60), published, ROWS).await;
    assert_eq!(stack.number(ROWS).await, published);
    sink.stop().await;
}

#[tokio::test]
async fn processes_started_before_their_servers_wait_and_then_work() {
    let url = url_of("/ok").await;
    let mut stack = Stack::start(&["local"]).await;
    stack.nats.stop().await;
    let (coordinator, prober, sink) =
        (stack.coordinator(&[]).await, stack.prober("local", &[]).await, stack.sink(&[]).await);
    for process in [&coordinator, &prober, &sink] {
        eventually(SOON, "not ready", async || process.get("/readyz").is_some_and(|(code, _)| code == 503))
            .await;
        eventually(SOON, "alive", async || process.get("/healthz").is_some_and(|(code, _)| code == 200))
            .await;
        eventually(SOON, "it says what it waits for", async || process.log().contains("waiting for NATS"))
            .await;
    }

    stack.nats.start().await;
    for process in [&coordinator, &prober, &sink] {
        process.ready().await;
    }
    stack.execute(&format!("INSERT INTO picket.sites (url, interval_seconds) VALUES ('{url}', 5)")).await;
    stack.at_least(SOON, 1, ROWS).await;
    for process in [coordinator, prober, sink] {
        process.stop().await;
    }
}
