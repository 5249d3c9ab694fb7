//! A region that lies, and an installation that is not alone on its bus.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures_util::StreamExt;
use picket_e2e::{
    fault_test::{FaultTest, Topology, WAIT_TIMEOUT},
    forged_results::forge_results,
};
use picket_harness::{eventually, servers};
use picket_proto::{CheckKind, CheckRequest, CheckResult, bundle, subject};
use serde_json::json;
use tokio::time::Instant;

use crate::results::{read_all_results, result_payloads};

const FORGING_REGION: &str = "east";
/// How long the region's jobs are answered with lies: several ticks of each site that is checked often.
const FORGING_TIME: Duration = Duration::from_secs(12);

#[tokio::test]
async fn f23_a_region_that_lies_in_every_field_changes_nothing_of_others_and_opens_no_incident_alone() {
    let topology = Topology { regions: &["east", "north", "west"], probers: 1, ..Topology::default() };
    let mut drill = FaultTest::start("F23", "a region's prober lies in every field", topology).await;
    let jetstream = jetstream::new(drill.connect_client().await);
    let to = drill.database_now().await;
    let of_others = format!(
        "SELECT count(*) || ' ' || md5(string_agg(result::text, '|' ORDER BY scheduled_at, site_id, region_id, kind))
         FROM picket.check_results AS result JOIN picket.regions AS region ON region.id = region_id
         WHERE region.name <> '{FORGING_REGION}' AND scheduled_at <= '{to}' AND outcome <> 'missed'"
    );
    drill.stack.wait_ledger_closed(&to).await;
    let before = drill.stack.query_lines(&of_others).await;

    drill.mark_fault_started().await;
    // Of checks that it was not given.
    let given = forging_region_results(&jetstream).await;
    let mut refused = 0;
    for result in &given {
        for lie in forge_results(result, &"west".parse().unwrap()) {
            let subject = lie["shard"].as_u64().map_or_else(
                || subject::result_bundle(&result.region),
                |shard| format!("picket.result.{FORGING_REGION}.{shard}"),
            );
            let sent = jetstream.publish(subject, lie.to_string().into()).await;
            sent.expect("it is sent").await.expect("it is stored");
            refused += 1;
        }
    }
    // Of checks that it was given: all of its sites are down.
    for (_, prober) in drill.probers.extract_if(.., |(region, _)| *region == FORGING_REGION) {
        prober.stop().await;
    }
    let answered = answer_with_forgeries(&drill, &jetstream).await;
    assert!(answered > 20, "{answered} jobs");
    let prober = drill.spawn_prober(FORGING_REGION).await;
    drill.probers.push((FORGING_REGION, prober));
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    let counted = async |metric: &str, label: &str| -> f64 {
        drill.sinks.iter().map(|sink| sink.read_metric_where(metric, label)).sum()
    };
    eventually(WAIT_TIMEOUT, "all lies to be refused", async || {
        let parked = counted("picket_sink_dead_letters_total", "").await;
        let foreign = counted("picket_sink_foreign_results_total", "").await;
        if parked + foreign >= f64::from(refused) { Ok(()) } else { Err((parked, foreign, refused)) }
    })
    .await;
    assert!(counted("picket_sink_dead_letters_total", "reason=\"ticket\"").await > 0.0);
    assert_eq!(drill.stack.query_lines(&of_others).await, before);
    let lied = "SELECT count(*) FROM picket.check_results AS result JOIN picket.regions AS region ON region.id = region_id
                WHERE prober = 'liar' AND region.name <> 'east'";
    assert_eq!(drill.stack.query_number(lied).await, 0);
    // Which asserts that there is no incident of a site that is up.
    let account = drill.verify_account().await;
    assert_eq!((account.missed_in_region("north"), account.missed_in_region("west")), (0, 0), "{account:#?}");
    drill.stop().await;
}

/// Some results of the region that lies, with their tickets.
async fn forging_region_results(jetstream: &jetstream::Context) -> Vec<CheckResult> {
    let all = read_all_results(jetstream).await;
    let results = all.iter().flat_map(result_payloads).filter_map(|said| serde_json::from_slice(said).ok());
    results
        .filter(|result: &CheckResult| {
            result.region.as_str() == FORGING_REGION && result.kind == CheckKind::Scheduled
        })
        .take(20)
        .collect()
}

/// Pulls the jobs of the false region, and reports each site as down.
async fn answer_with_forgeries(drill: &FaultTest, jetstream: &jetstream::Context) -> u32 {
    let region = FORGING_REGION.parse().unwrap();
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream(subject::prober_consumer(&region), subject::JOBS_STREAM)
        .await
        .expect("the region's consumer");
    let until = Instant::now() + FORGING_TIME;
    let mut answered = 0;
    while Instant::now() < until {
        let fetch = consumer.fetch().max_messages(bundle::MAX_RESULTS).expires(Duration::from_millis(500));
        let mut jobs = fetch.messages().await.expect("jobs");
        while let Some(Ok(job)) = jobs.next().await {
            let request = CheckRequest::decode(&job.payload).expect("a job");
            let tick = request.scheduled_tick().expect("a job").expect("of a site");
            let lie = json!({
                "v": 1, "id": request.id, "site_id": tick.site, "kind": tick.kind, "region": FORGING_REGION, "shard": tick.shard,
                "prober": "liar", "url": request.url, "scheduled_at": tick.scheduled_at, "expires_at": tick.expires_at,
                "outcome": "down", "cause": "connect", "installation": request.installation, "ticket": request.ticket,
            });
            let sent =
                jetstream.publish(subject::site_result(&region, tick.shard), lie.to_string().into()).await;
            sent.expect("it is sent").await.expect("it is stored");
            job.ack().await.expect("it is acknowledged");
            answered += 1;
        }
    }
    let believed = "SELECT count(*) FROM picket.check_results WHERE prober = 'liar'";
    // A few ticks may have been done already.
    drill.stack.wait_at_least(WAIT_TIMEOUT, i64::from(answered) * 9 / 10, believed).await;
    answered
}

#[tokio::test]
async fn f27_a_second_installation_on_a_bus_consumes_and_publishes_nothing_until_it_adopts_the_bus() {
    const FOREIGN: &str = "belongs to another installation";
    let mut drill =
        FaultTest::start("F27", "a second installation on the same bus", Topology::default()).await;
    let other = servers::shared_postgres().await.create_database().await;
    let its = [("DATABASE_URL", other.as_str())];
    for arguments in
        [&["migrate"][..], &["region", "add", "east"], &["site", "add", &drill.target.url("/ok")]]
    {
        let (code, said, complained) = drill.stack.run_picket_with(arguments, &its).await;
        assert_eq!(code, 0, "{said} {complained}");
    }

    drill.mark_fault_started().await;
    let coordinator = drill.stack.spawn_process("picket-coordinator", &[], &its).await;
    let sink = drill.stack.spawn_process("picket-sink", &[], &its).await;
    coordinator.wait_unready(FOREIGN).await;
    sink.wait_unready(FOREIGN).await;
    drill.wait_served().await;
    drill.mark_fault_ended().await;

    let its_database = sqlx::PgPool::connect(&other).await.unwrap();
    let results = "SELECT count(*) FROM picket.check_results WHERE prober IS NOT NULL";
    let taken: i64 = sqlx::query_scalar(results).fetch_one(&its_database).await.unwrap();
    assert_eq!(taken, 0);
    assert_eq!(coordinator.read_metric("picket_coordinator_jobs_published_total"), 0.0);
    for sink in &drill.sinks {
        assert_eq!(sink.read_metric("picket_sink_foreign_results_total"), 0.0);
    }
    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");

    // On purpose, as for a new database beside an old bus.
    let (code, said, complained) = drill.stack.run_picket_with(&["nats", "adopt"], &its).await;
    assert_eq!(code, 0, "{said} {complained}");
    assert_eq!(said.lines().count(), 3, "{said}");
    coordinator.wait_ready().await;
    sink.wait_ready().await;
    for process in drill.coordinators.iter().chain(&drill.sinks) {
        process.wait_unready(FOREIGN).await;
    }
    drop((coordinator, sink));
    drill.stop().await;
}
