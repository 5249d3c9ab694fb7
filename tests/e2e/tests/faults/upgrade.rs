//! Old and new side by side.

use std::{path::PathBuf, time::Duration};

use async_nats::HeaderMap;
use picket_e2e::fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT};
use picket_harness::eventually;
use serde_json::{Value, json};

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f19_processes_replaced_one_by_one_under_a_newer_schema_miss_nothing() {
    let mut drill =
        FaultTest::start("F19", "every process replaced, one after the other", Topology::default()).await;

    // As the migrations of the version to come would leave it.
    drill
        .stack
        .execute_sql(
            "INSERT INTO public._sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of a newer version', true, '\\x00', 0);
             ALTER TABLE picket.sites ADD COLUMN of_a_newer_version text;
             ALTER TABLE picket.check_results ADD COLUMN of_a_newer_version text",
        )
        .await;
    drill.mark_fault_started().await;
    for kind in [ProcessKind::Coordinators, ProcessKind::Probers, ProcessKind::Sinks] {
        replace_processes(&mut drill, kind).await;
    }
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    drill.stop().await;
}

/// The kinds of processes, which may be replaced in any order.
#[derive(Clone, Copy)]
pub(crate) enum ProcessKind {
    Coordinators,
    Probers,
    Sinks,
}

/// Replaces every process of a kind, one after the other, by one of the programs that are in force.
pub(crate) async fn replace_processes(drill: &mut FaultTest, kind: ProcessKind) {
    match kind {
        ProcessKind::Coordinators => {
            for _ in 0..drill.coordinators.len() {
                let new = drill.spawn_coordinator().await;
                new.wait_ready().await;
                drill.coordinators.push(new);
                drill.wait_balanced().await;
                drill.coordinators.remove(0).stop().await;
                drill.wait_balanced().await;
            }
        }
        ProcessKind::Probers => {
            for _ in 0..drill.probers.len() {
                let (region, old) = drill.probers.remove(0);
                let new = drill.spawn_prober(region).await;
                new.wait_ready().await;
                drill.probers.push((region, new));
                old.stop().await;
            }
        }
        ProcessKind::Sinks => {
            for _ in 0..drill.sinks.len() {
                let new = drill.spawn_sink().await;
                new.wait_ready().await;
                drill.sinks.push(new);
                drill.sinks.remove(0).stop().await;
            }
        }
    }
}

#[tokio::test]
#[ignore = "wants an older build: just e2e-upgrade"]
async fn f19c_an_older_build_is_upgraded_in_any_order_and_rolled_back_without_a_miss() {
    let Some(old) = std::env::var_os("PICKET_OLD_BIN_DIR").map(PathBuf::from) else {
        eprintln!("NOT TESTED: an upgrade from an older build; 'just e2e-upgrade' makes one and tests it");
        return;
    };
    let setting = Environment { programs: Some(old.clone()), ..Environment::default() };
    let description = "an older build replaced by this one, put back, and replaced in another order";
    let mut drill = FaultTest::start_with("F19c", description, Topology::default(), setting).await;
    let new = picket_e2e::program_path("picket").parent().unwrap().to_owned();

    drill.mark_fault_started().await;
    let schema = "SELECT max(version) FROM public._sqlx_migrations";
    let before = drill.stack.query_number(schema).await;
    drill.stack.programs = new.clone();
    // The values that the older coordinators have as variables.
    let initial = ["migrate", "--lease-time", "6s", "--ledger-grace", "10s", "--min-interval", "1s"];
    assert_eq!(drill.stack.run_picket(&initial).await.0, 0);
    eprintln!("schema {before} of the older build, {} of this one", drill.stack.query_number(schema).await);
    // The schema first, then the processes: the older build continues under the newer schema.
    drill.wait_served().await;

    use ProcessKind::{Coordinators, Probers, Sinks};
    let moves = [
        (&new, [Sinks, Coordinators, Probers]),
        (&old, [Probers, Coordinators, Sinks]),
        (&new, [Probers, Sinks, Coordinators]),
    ];
    for (programs, order) in moves {
        drill.stack.programs.clone_from(programs);
        for kind in order {
            replace_processes(&mut drill, kind).await;
            drill.wait_served().await;
            for (_, prober) in &drill.probers {
                assert_eq!(
                    prober.read_metric("picket_prober_invalid_messages_total"),
                    0.0,
                    "{}",
                    prober.read_log()
                );
            }
        }
    }
    drill.mark_fault_ended().await;

    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    drill.stop().await;
}

/// Ticks of a region that are due within the next seconds, as `{"site_id": …, "shard": …, "at": …, "expires": …}`.
async fn query_due_ticks(drill: &FaultTest, region: &str) -> Vec<Value> {
    let wire = |at: &str| format!("to_char(({at}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    let sql = format!(
        "SELECT json_build_object('site_id', schedule.site_id, 'shard', schedule.shard, 'url', url, 'at', {at},
             'ms', (extract(epoch FROM tick) * 1000)::bigint, 'expires', {expires})::text
         FROM picket.schedules AS schedule JOIN picket.sites AS site ON site.id = site_id
         JOIN picket.regions AS region ON region.id = region_id
         CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', now(), now() + interval '3 seconds') AS tick
         WHERE valid_to IS NULL AND region.name = '{region}' ORDER BY tick",
        at = wire("tick"),
        expires = wire("tick + interval_ms * interval '1 ms'"),
    );
    let lines = drill.stack.query_lines(&sql).await;
    lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

async fn wait_rows(drill: &FaultTest, ticks: &[Value], region: &str, condition: &str) -> i64 {
    let of: Vec<String> = ticks
        .iter()
        .map(|tick| format!("({}, '{}'::timestamptz)", tick["site_id"], tick["at"].as_str().unwrap_or("")))
        .collect();
    let sql = format!(
        "SELECT count(*) FROM picket.check_results AS result JOIN picket.regions AS region ON region.id = region_id
         JOIN (VALUES {}) AS wanted (site, at) ON site = site_id AND at = scheduled_at
         WHERE region.name = '{region}' AND kind = 'scheduled' AND {condition}",
        of.join(", ")
    );
    drill.stack.wait_at_least(WAIT_TIMEOUT, ticks.len() as i64, &sql).await
}

#[tokio::test]
async fn f19b_jobs_and_results_of_a_newer_and_an_older_version_are_understood() {
    let mut drill =
        FaultTest::start("F19b", "jobs and results as other versions write them", Topology::default()).await;
    let jetstream = drill.stack.connect_jetstream().await;
    // An older version knows no tickets. The sinks follow without being started again.
    drill.stack.execute_sql("UPDATE picket.settings SET require_tickets = false").await;
    for sink in &drill.sinks {
        eventually(WAIT_TIMEOUT, "the sinks to follow", async || {
            sink.read_metric("picket_sink_tickets_required") == 0.0
        })
        .await;
    }

    // A newer and an older coordinator: those of today are away.
    for coordinator in drill.coordinators.drain(..) {
        coordinator.stop().await;
    }
    drill.mark_fault_started().await;
    let ticks = query_due_ticks(&drill, "east").await;
    for (n, tick) in ticks.iter().enumerate() {
        let mut job = json!({
            "site_id": tick["site_id"], "kind": "scheduled", "shard": tick["shard"], "url": tick["url"],
            "scheduled_at": tick["at"], "expires_at": tick["expires"], "timeout_ms": 2000,
        });
        if n % 2 == 0 {
            job["v"] = 2.into();
            job["epoch"] = 999_999.into();
            job["of_a_newer_version"] = json!({"deep": [1, 2]});
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{}.east.{}", tick["site_id"], tick["ms"]));
        headers.insert("Nats-Of-A-Newer-Version", "1");
        let subject = format!("picket.job.east.{}", tick["site_id"]);
        let sent = jetstream.publish_with_headers(subject, headers, job.to_string().into()).await;
        sent.expect("it is sent").await.expect("it is stored");
        // One subject holds one job: the one before must have been taken.
        wait_rows(&drill, std::slice::from_ref(tick), "east", "outcome IN ('up', 'down')").await;
    }

    // A newer and an older prober.
    let ticks = query_due_ticks(&drill, "west").await;
    for (n, tick) in ticks.iter().enumerate() {
        let mut result = json!({
            "v": 1, "id": "x", "site_id": tick["site_id"], "kind": "scheduled", "region": "west",
            "shard": tick["shard"], "prober": "of another version", "url": tick["url"],
            "scheduled_at": tick["at"], "outcome": "up",
        });
        if n % 2 == 0 {
            result["v"] = 2.into();
            result["timing"] = json!({"total_us": 1000, "of_a_newer_version_us": 5});
            result["of_a_newer_version"] = json!([{"deep": 1}]);
        }
        let subject = format!("picket.result.west.{}", tick["shard"]);
        let sent = jetstream.publish(subject, result.to_string().into()).await;
        sent.expect("it is sent").await.expect("it is stored");
    }
    wait_rows(&drill, &ticks, "west", "prober = 'of another version'").await;
    assert!(ticks.len() >= 4, "there was something to do");

    for _ in 0..2 {
        let coordinator = drill.spawn_coordinator().await;
        coordinator.wait_ready().await;
        drill.coordinators.push(coordinator);
    }
    drill.wait_balanced().await;
    drill.mark_fault_ended().await;
    drill.wait_served().await;
    drill.run_for(Duration::from_secs(1)).await;
    let account = drill.verify_account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    drill.stop().await;
}
