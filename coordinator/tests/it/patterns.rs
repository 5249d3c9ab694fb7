//! Regexes of sites: each is compiled once by one coordinator, and again only when it or the rules change.

use std::time::Duration;

use picket_harness::{Metrics, eventually};
use picket_runtime::{Health, PipelineHandle};

use crate::{Stack, TEST_DEADLINE};

const LEASE: Duration = Duration::from_secs(15);

/// Starts a coordinator and waits until it has planned `sites`; returns how many regexes it has compiled by then.
async fn planned(stack: &Stack, name: &str, sites: f64) -> (PipelineHandle, Health, f64) {
    let health = Health::new();
    let running = stack.start_coordinator_with(name, LEASE, health.clone()).await;
    eventually(TEST_DEADLINE, "the sites to be planned", async || {
        match Metrics::of_health(&health).sum("picket_coordinator_sites") {
            Some(there) if there == sites => Ok(()),
            there => Err(there),
        }
    })
    .await;
    let compiled = Metrics::of_health(&health).sum("picket_coordinator_patterns_compiled_total").unwrap();
    (running, health, compiled)
}

async fn until(stack: &Stack, what: &str, sql: &'static str, number: i64) {
    eventually(TEST_DEADLINE, what, async || match stack.query_number(sql).await {
        there if there == number => Ok(()),
        there => Err(there),
    })
    .await;
}

const MARKED: &str = "SELECT count(*) FROM picket.sites WHERE patterns_validated > 0";

#[tokio::test]
async fn regexes_accepted_by_a_coordinator_are_not_compiled_again_under_the_same_rules() {
    let stack = Stack::new().await;
    stack
        .execute_sql(
            "INSERT INTO picket.sites (url, regex, not_regex)
             SELECT 'http://x/' || n, 'ok ' || n, CASE WHEN n > 20 THEN 'error ' || n END FROM generate_series(1, 30) n;
             INSERT INTO picket.sites (url) VALUES ('http://plain/');
             INSERT INTO picket.sites (url, regex) VALUES ('http://odd/', 'a(b')",
        )
        .await;

    let (first, _, compiled) = planned(&stack, "first", 31.0).await;
    assert!(compiled >= 40.0, "{compiled} of 41 texts");
    until(&stack, "the sites with regexes to be marked", MARKED, 30).await;
    let judged =
        "SELECT count(*) FROM picket.sites WHERE problem LIKE 'regex: %' AND patterns_validated IS NULL";
    until(&stack, "a problem for the invalid regex", judged, 1).await;
    first.drain().await;

    let (second, _, compiled) = planned(&stack, "second", 31.0).await;
    assert_eq!(compiled, 0.0);
    second.drain().await;

    stack.execute_sql("UPDATE picket.sites SET patterns_validated = 0 WHERE patterns_validated > 0").await;
    let (third, _, compiled) = planned(&stack, "third", 31.0).await;
    assert_eq!(compiled, 40.0);
    until(&stack, "the sites to be marked again", MARKED, 30).await;
    third.drain().await;
}

#[tokio::test]
async fn a_regex_changed_by_sql_is_validated_again() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, regex) VALUES ('http://x/', 'ok')").await;
    let (running, health, _) = planned(&stack, "one", 1.0).await;
    until(&stack, "the first regex to be accepted", MARKED, 1).await;

    stack.execute_sql("UPDATE picket.sites SET regex = 'a(b'").await;
    let refused =
        "SELECT count(*) FROM picket.sites WHERE problem LIKE 'regex: %' AND patterns_validated IS NULL";
    until(&stack, "the second to be refused", refused, 1).await;
    eventually(TEST_DEADLINE, "the site to be planned no more", async || {
        let sites = Metrics::of_health(&health).sum("picket_coordinator_sites");
        if sites == Some(0.0) { Ok(()) } else { Err(sites) }
    })
    .await;

    stack.execute_sql("UPDATE picket.sites SET regex = 'fine'").await;
    let accepted = "SELECT count(*) FROM picket.sites WHERE problem IS NULL AND patterns_validated > 0";
    until(&stack, "the third to be accepted", accepted, 1).await;
    running.drain().await;
}

#[tokio::test]
async fn sites_are_scheduled_even_if_their_validation_cannot_be_recorded() {
    let stack = Stack::new().await;
    stack
        .execute_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = 'check_violation'; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE OF patterns_validated ON picket.sites
                 FOR EACH ROW EXECUTE FUNCTION refuse();
             INSERT INTO picket.sites (url, interval_seconds, regex) VALUES ('http://x/', 1, 'ok')",
        )
        .await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("one", LEASE).await;

    jobs.wait_for_jobs(3).await;

    running.drain().await;
    assert_eq!(stack.query_number(MARKED).await, 0);
}
