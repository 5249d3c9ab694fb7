//! Features and words that one process knows and another does not: each ends as an honest row or as
//! a dead letter that names it, and never as a wrong `up`.

use std::path::PathBuf;

use picket_e2e::fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT};
use picket_harness::eventually;
use serde_json::{Value, json};

use crate::upgrade::{ProcessKind, replace_processes};

/// Lets the sinks store results that the test writes by hand, which have no ticket.
async fn accept_results_without_tickets(drill: &FaultTest) {
    drill.stack.execute_sql("UPDATE picket.settings SET require_tickets = false").await;
    for sink in &drill.sinks {
        eventually(WAIT_TIMEOUT, "the sinks to follow", async || {
            sink.read_metric("picket_sink_tickets_required") == 0.0
        })
        .await;
    }
}

/// The fields of the next confirming check of a site that is up, in the region `east`. A
/// confirmation is no tick, so that no coordinator of the test publishes it too.
async fn confirmation_fields(drill: &FaultTest) -> Value {
    let wire = |at: &str| format!("to_char(({at}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    let sql = format!(
        "SELECT json_build_object('v', 2, 'id', 'newer', 'site_id', id, 'shard', shard, 'url', url, 'kind', 'confirm',
             'scheduled_at', {}, 'expires_at', {})::text
         FROM picket.sites WHERE url LIKE '%/ok/%' ORDER BY id LIMIT 1",
        wire("clock_timestamp()"),
        wire("clock_timestamp() + interval '60 s'")
    );
    serde_json::from_str(&drill.stack.query_lines(&sql).await.remove(0)).expect("JSON")
}

/// Publishes a job, or a result of the prober `of another version`, with `fields` beside those of
/// its confirmation. Returns the condition on its row.
async fn publish_confirmation(drill: &FaultTest, is_job: bool, fields: Value) -> String {
    let mut message = confirmation_fields(drill).await;
    let (site, shard, at) =
        (message["site_id"].clone(), message["shard"].clone(), message["scheduled_at"].clone());
    let subject = match is_job {
        true => format!("picket.job.east.{site}.confirm"),
        false => {
            message["region"] = json!("east");
            message["prober"] = json!("of another version");
            format!("picket.result.east.{shard}")
        }
    };
    for (name, value) in fields.as_object().expect("an object") {
        message[name] = value.clone();
    }
    let jetstream = drill.stack.connect_jetstream().await;
    let sent = jetstream.publish(subject, message.to_string().into()).await;
    sent.expect("it is sent").await.expect("it is stored");
    format!("kind = 'confirm' AND site_id = {site} AND scheduled_at = '{}'", at.as_str().unwrap_or_default())
}

/// Waits for the row of `confirmation` and returns its outcome, cause and message.
async fn wait_row(drill: &FaultTest, confirmation: &str) -> String {
    let count = format!("SELECT count(*) FROM picket.check_results WHERE {confirmation}");
    drill.stack.wait_at_least(WAIT_TIMEOUT, 1, &count).await;
    let row = format!(
        "SELECT concat_ws(' ', outcome, cause, message) FROM picket.check_results WHERE {confirmation}"
    );
    drill.stack.query_lines(&row).await.remove(0)
}

async fn wait_dead_letters(drill: &FaultTest, count: i64, condition: &str) {
    let sql = format!("SELECT count(*) FROM picket.dead_letters WHERE {condition}");
    drill.stack.wait_at_least(WAIT_TIMEOUT, count, &sql).await;
}

/// A job as a coordinator publishes it that knows an assertion which no build knows.
fn newer_job(url: &Value) -> Value {
    json!({
        "url": "requires:assertions.future", "requires": ["assertions.future"],
        "check": {"url": url, "assertions": {"future": {"deep": [1, 2]}}},
    })
}

#[tokio::test]
async fn f19d_an_unknown_requirement_of_a_newer_process_is_missed_or_other_or_a_dead_letter_and_never_up() {
    let injury = "jobs and results with features and words of a newer version";
    let mut drill = FaultTest::start("F19d", injury, Topology::default()).await;
    accept_results_without_tickets(&drill).await;
    drill.mark_fault_started().await;
    let url = confirmation_fields(&drill).await["url"].clone();

    // A newer coordinator and these probers, and an older one.
    let newer = publish_confirmation(&drill, true, newer_job(&url)).await;
    let row = wait_row(&drill, &newer).await;
    assert!(row.starts_with("missed unsupported") && row.contains("assertions.future"), "{row}");
    let older = publish_confirmation(&drill, true, json!({"v": 1})).await;
    assert_eq!(wait_row(&drill, &older).await, "up");

    // A newer prober and these sinks, and an older one.
    let cause = json!({"outcome": "down", "cause": "future_cause", "message": "it is so"});
    let newer = publish_confirmation(&drill, false, cause).await;
    assert_eq!(wait_row(&drill, &newer).await, "down other future_cause: it is so");
    let required = json!({"outcome": "up", "requires": ["result.future"]});
    let refused = publish_confirmation(&drill, false, required).await;
    wait_dead_letters(&drill, 1, "reason LIKE 'requires: ''result.future''%'").await;
    let rows = format!("SELECT count(*) FROM picket.check_results WHERE {refused}");
    assert_eq!(drill.stack.query_number(&rows).await, 0);
    let older = publish_confirmation(&drill, false, json!({"v": 1, "outcome": "up"})).await;
    assert_eq!(wait_row(&drill, &older).await, "up");

    drill.mark_fault_ended().await;
    drill.wait_served().await;
    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 1), "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "wants an older build: just e2e-upgrade"]
async fn f19e_an_older_build_never_reports_up_for_a_check_with_features_and_loses_no_result_in_silence() {
    let Some(old) = std::env::var_os("PICKET_OLD_BIN_DIR").map(PathBuf::from) else {
        eprintln!("NOT TESTED: an older build beside this one; 'just e2e-upgrade' makes one and tests it");
        return;
    };
    let setting = Environment { programs: Some(old.clone()), ..Environment::default() };
    let injury = "coordinators, probers and sinks of an older build beside those of this one";
    let mut drill = FaultTest::start_with("F19e", injury, Topology::default(), setting).await;
    let new = picket_e2e::program_path("picket").parent().unwrap().to_owned();
    accept_results_without_tickets(&drill).await;
    drill.mark_fault_started().await;
    drill.stack.programs = new.clone();
    let initial = ["migrate", "--lease-time", "6s", "--ledger-grace", "10s", "--min-interval", "1s"];
    assert_eq!(drill.stack.run_picket(&initial).await.0, 0);

    // New coordinators and sinks, older probers: they refuse the check, and the row names the feature.
    replace_processes(&mut drill, ProcessKind::Sinks).await;
    replace_processes(&mut drill, ProcessKind::Coordinators).await;
    let url = drill.target.url("/ok/featured");
    let site = format!(
        "INSERT INTO picket.sites (url, interval_seconds, assertions) VALUES ('{url}', 1, '{{\"fail_after_ms\": 9000}}')"
    );
    drill.stack.execute_sql(&site).await;
    let rows = |condition: &str| {
        format!(
            "SELECT count(*) FROM picket.check_results
             WHERE site_id = (SELECT id FROM picket.sites WHERE url = '{url}') AND {condition}"
        )
    };
    let refused = rows(
        "outcome = 'missed' AND cause = 'invalid' AND message LIKE '%requires:assertions.fail_after_ms%'",
    );
    drill.stack.wait_at_least(WAIT_TIMEOUT, 4, &refused).await;
    assert_eq!(drill.stack.query_number(&rows("outcome <> 'missed'")).await, 0);
    // Older coordinators do not know the column and would check the site without it (upgrade.md).
    drill.stack.execute_sql("UPDATE picket.sites SET enabled = false WHERE assertions <> '{}'").await;

    // Older coordinators, new probers.
    drill.stack.programs.clone_from(&old);
    replace_processes(&mut drill, ProcessKind::Coordinators).await;
    drill.stack.programs = new;
    replace_processes(&mut drill, ProcessKind::Probers).await;
    drill.wait_served().await;

    // New probers, older sinks: a cause that they cannot read is a dead letter that names it.
    drill.stack.programs.clone_from(&old);
    replace_processes(&mut drill, ProcessKind::Sinks).await;
    let plain = confirmation_fields(&drill).await["url"].clone();
    let newer = publish_confirmation(&drill, true, newer_job(&plain)).await;
    wait_dead_letters(&drill, 1, "reason LIKE '%unsupported%' AND payload LIKE '%assertions.future%'").await;
    let stored = format!("SELECT count(*) FROM picket.check_results WHERE {newer}");
    assert_eq!(drill.stack.query_number(&stored).await, 0);

    // Older probers, new sinks.
    replace_processes(&mut drill, ProcessKind::Probers).await;
    drill.stack.programs = picket_e2e::program_path("picket").parent().unwrap().to_owned();
    replace_processes(&mut drill, ProcessKind::Sinks).await;
    drill.wait_served().await;

    drill.mark_fault_ended().await;
    drill.verify_account().await;
    // A sink that has just started may read a result twice, and a dead letter has no key.
    let others = "SELECT concat_ws(' ', subject, reason, payload) FROM picket.dead_letters
                  WHERE reason NOT LIKE '%unsupported%' OR payload NOT LIKE '%assertions.future%'";
    assert_eq!(drill.stack.query_lines(others).await, Vec::<String>::new());
    drill.stop().await;
}
