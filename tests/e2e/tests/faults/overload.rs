//! Overload: dropped checks are counted, performed checks are measured correctly, and memory stays
//! flat.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use picket_e2e::{
    Process,
    fault_test::{FaultTest, Topology, WAIT_TIMEOUT},
};
use picket_harness::{eventually, with_ticket};

/// Permitted growth of an overloaded process, in KiB: buffers and arenas, not a backlog.
const MAX_GROWTH_KIB: u64 = 24 << 10;

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f17_an_overloaded_region_misses_the_excess_and_measures_the_rest_correctly() {
    // Two checks at a time, half a second each: four a second in each region.
    let topology = Topology { probers: 1, prober_options: &["--concurrency", "2"], ..Topology::default() };
    let mut drill = FaultTest::start("F17", "ten times the capacity of a region, for 40 s", topology).await;
    let slow = drill.target.url("/slow/500");
    let sites = |region: &str, count: u32, seconds: u32| {
        format!(
            "INSERT INTO picket.sites (url, interval_seconds, timeout_ms, regions, not_regex)
             SELECT '{slow}', {seconds}, 2000, '{{{region}}}', '{region} ' || n FROM generate_series(1, {count}) AS n"
        )
    };
    drill.stack.execute_sql(&sites("west", 4, 5)).await;
    drill.wait_served_in("region.name = 'west'").await;
    let memory = drill.memory_by_process();

    drill.stack.execute_sql(&sites("east", 80, 2)).await;
    drill.mark_fault_started().await;
    drill.run_for(Duration::from_secs(40)).await;
    drill.assert_memory_flat(&memory, MAX_GROWTH_KIB);
    drill.stack.execute_sql("UPDATE picket.sites SET enabled = false WHERE regions = '{east}'").await;
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!(account.missed_in_region("west"), 0, "{account:#?}");
    assert!(account.missed_in_region("east") >= 500, "{account:#?}");
    assert!(account.missed_for_cause("expired") * 10 >= account.missed * 9, "{account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    let of = |processes: &[&Process], metric: &str| {
        processes.iter().map(|process| process.read_metric_where(metric, "cause=\"expired\"")).sum::<f64>()
    };
    let probers: Vec<_> = drill.probers.iter().map(|(_, prober)| prober).collect();
    let coordinators: Vec<_> = drill.coordinators.iter().collect();
    let counted = of(&probers, "picket_prober_checks_total")
        + of(&coordinators, "picket_coordinator_ticks_missed_total");
    let expired = account.missed_for_cause("expired");
    assert!(counted >= expired as f64, "dropped checks are counted by cause: {counted} of {expired}");

    // The performed checks took half a second each, as in the region without load.
    let millis = |region: &str, column: &str, share: f64| {
        format!(
            "SELECT percentile_disc({share}) WITHIN GROUP (ORDER BY {column})::bigint FROM report.checks
             WHERE region = '{region}' AND url = '{slow}' AND outcome = 'up'"
        )
    };
    for (column, share, more) in [("total_ms", 0.5, 50), ("first_byte_ms", 0.5, 50), ("total_ms", 0.9, 200)] {
        let west = drill.stack.query_number(&millis("west", column, share)).await;
        let east = drill.stack.query_number(&millis("east", column, share)).await;
        assert!((east - west).abs() <= more, "{column} at {share}: {east} ms, and {west} ms without load");
    }
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f17b_a_backlog_of_results_waits_in_the_stream_and_a_slow_database_loses_nothing() {
    const BACKLOG: i64 = 50_000;
    let mut drill =
        FaultTest::start("F17b", "no sink, 50,000 results, then a slow database", Topology::default()).await;
    for sink in drill.sinks.drain(..) {
        sink.stop().await;
    }
    let memory = drill.memory_by_process();
    drill.mark_fault_started().await;
    // Of a site and region that there are, between its ticks.
    let of = "SELECT json_build_object('v', 1, 'id', 'x', 'site_id', site_id, 'kind', 'scheduled', 'region', region.name,
                 'shard', shard, 'prober', 'p', 'url', 'http://x/', 'outcome', 'up')::text
              FROM picket.schedules JOIN picket.regions AS region ON region.id = region_id
              WHERE valid_to IS NULL AND interval_ms = 20000 LIMIT 1";
    let template: serde_json::Value =
        serde_json::from_str(&drill.stack.query_lines(of).await[0]).expect("JSON");
    let subject =
        format!("picket.result.{}.{}", template["region"].as_str().unwrap_or_default(), template["shard"]);
    let base = drill.stack.query_number("SELECT (extract(epoch FROM now()) * 1000)::bigint - 3600000").await;
    let jetstream = drill.stack.connect_jetstream().await;
    let tickets = drill.stack.load_tickets().await;
    let mut acknowledgements = Vec::new();
    for n in 0..BACKLOG {
        let mut result = template.clone();
        let (second, micros) = ((base + n) / 1_000, (base + n) % 1_000 * 1_000 + 1);
        let at = format_timestamp(second, micros);
        result["scheduled_at"] = at.clone().into();
        result["started_at"] = at.into();
        let result = with_ticket(serde_json::from_value(result).expect("a result"), &tickets);
        let result = serde_json::to_string(&result).expect("JSON");
        let sent = jetstream.publish(subject.clone(), result.into()).await;
        acknowledgements.push(sent.expect("the bus takes it").into_future());
        if acknowledgements.len() == 1_000 {
            for acknowledged in acknowledgements.drain(..) {
                acknowledged.await.expect("the stream takes it");
            }
        }
    }
    eventually(WAIT_TIMEOUT, "the coordinators to see the backlog", async || {
        let seen = drill.coordinators[0].read_metric("picket_coordinator_results_waiting");
        if seen >= BACKLOG as f64 { Ok(()) } else { Err(seen) }
    })
    .await;
    drill.assert_memory_flat(&memory, MAX_GROWTH_KIB);

    drill
        .stack
        .execute_sql(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END $$;
             CREATE TRIGGER slow AFTER INSERT ON picket.check_results FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await;
    for _ in 0..2 {
        let sink = drill.spawn_sink().await;
        drill.sinks.push(sink);
    }
    for sink in &drill.sinks {
        sink.wait_ready().await;
        eventually(WAIT_TIMEOUT, "a first batch", async || {
            sink.read_metric("picket_sink_batch_size_count") >= 1.0
        })
        .await;
    }
    // Sinks pull no more than they may hold; the rest waits in the stream.
    let consumer: PullConsumer =
        jetstream.get_consumer_from_stream("sink", "PICKET_RESULTS").await.expect("the sinks have made it");
    assert!(consumer.cached_info().num_pending > 10_000, "{:?}", consumer.cached_info());
    let memory = drill.memory_by_process();
    let synthetic = "SELECT count(*) FROM picket.check_results WHERE prober = 'p'";
    drill.stack.wait_at_least(WAIT_TIMEOUT, BACKLOG / 2, synthetic).await;
    drill.assert_memory_flat(&memory, 2 * MAX_GROWTH_KIB);
    drill.stack.execute_sql("DROP TRIGGER slow ON picket.check_results").await;
    drill.mark_fault_ended().await;
    drill.stack.wait_at_least(WAIT_TIMEOUT, BACKLOG, synthetic).await;
    drill.wait_served().await;
    drill.assert_memory_flat(&memory, 2 * MAX_GROWTH_KIB);

    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    assert_eq!(drill.stack.query_number(synthetic).await, BACKLOG);
    drill.stop().await;
}

/// As the wire has it.
fn format_timestamp(second: i64, micros: i64) -> String {
    picket_proto::Timestamp::from_micros(second * 1_000_000 + micros).to_string()
}
