//! Messages that may arrive over the bus.

use async_nats::jetstream::{self, consumer::DeliverPolicy};
use futures_util::StreamExt;
use picket_e2e::fault_test::{FaultTest, Topology, WAIT_TIMEOUT};
use picket_harness::eventually;
use picket_proto::{CheckResult, bundle, subject};
use serde_json::{Value, json};

type StoredMessage = (String, Vec<u8>);

/// All that the stream of results holds.
pub(crate) async fn read_all_results(jetstream: &jetstream::Context) -> Vec<StoredMessage> {
    let mut stream = jetstream.get_stream(subject::RESULTS_STREAM).await.unwrap();
    let there = usize::try_from(stream.info().await.unwrap().state.messages).unwrap();
    let config =
        jetstream::consumer::pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
    let messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let messages = messages.take(there).map(|message| {
        let message = message.unwrap();
        (message.subject.to_string(), message.payload.to_vec())
    });
    messages.collect().await
}

/// The results in a message, each still to be read.
pub(crate) fn result_payloads((subject, payload): &StoredMessage) -> Vec<&[u8]> {
    bundle::result_payloads(subject, payload).collect()
}

/// Waits until each result of the stream is a row: results in flight to a dead sink are
/// redelivered.
pub(crate) async fn wait_results_stored(drill: &FaultTest) {
    let jetstream = drill.stack.connect_jetstream().await;
    let kept: Vec<String> = read_all_results(&jetstream)
        .await
        .iter()
        .flat_map(|message| result_payloads(message))
        .filter_map(|payload| serde_json::from_slice::<CheckResult>(payload).ok())
        .filter_map(|result| {
            Some(format!(
                "({}, '{}', '{}'::timestamptz)",
                result.site_id?, result.region, result.scheduled_at
            ))
        })
        .collect();
    let lacking = format!(
        "SELECT count(*) FROM (VALUES {}) AS kept (site_id, region, at) WHERE NOT EXISTS (
             SELECT FROM picket.check_results AS result JOIN picket.regions AS region ON region.id = region_id
             WHERE result.site_id = kept.site_id AND region.name = kept.region AND scheduled_at = at
               AND prober IS NOT NULL)",
        kept.join(", ")
    );
    eventually(WAIT_TIMEOUT, "a row for every result that the stream has", async || {
        match drill.stack.query_number(&lacking).await {
            0 => Ok(()),
            lacking => Err(lacking),
        }
    })
    .await;
}

/// In another order each time, and in the same for the same `seed` (Fisher and Yates, with a generator of Knuth's).
fn shuffle_messages(messages: &mut [StoredMessage], seed: u64) {
    let mut state = seed;
    for last in (1..messages.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        messages.swap(last, (state >> 33) as usize % (last + 1));
    }
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f12_repeated_results_in_any_order_change_no_row() {
    let mut drill =
        FaultTest::start("F12", "all results published again, shuffled, three times", Topology::default())
            .await;
    drill.stack.wait_at_least(WAIT_TIMEOUT, 150, "SELECT count(*) FROM picket.check_results").await;
    let to = drill.database_now().await;
    drill.stack.wait_ledger_closed(&to).await;
    let content = format!(
        "SELECT count(*) || ' ' || md5(string_agg(result::text, '|' ORDER BY scheduled_at, site_id, region_id, kind))
         FROM picket.check_results AS result WHERE scheduled_at <= '{to}'"
    );
    let before = drill.stack.query_lines(&content).await;
    let jetstream = jetstream::new(drill.connect_client().await);
    let mut results = read_all_results(&jetstream).await;
    let number: usize = results.iter().map(|message| result_payloads(message).len()).sum();

    drill.mark_fault_started().await;
    for seed in 1..=3 {
        shuffle_messages(&mut results, seed);
        for (subject, payload) in &results {
            jetstream.publish(subject.clone(), payload.clone().into()).await.unwrap().await.unwrap();
        }
    }
    drill.mark_fault_ended().await;
    eventually(WAIT_TIMEOUT, "the sinks to have them all", async || {
        let duplicates: f64 =
            drill.sinks.iter().map(|sink| sink.read_metric("picket_sink_duplicate_results_total")).sum();
        if duplicates >= 3.0 * number as f64 { Ok(()) } else { Err((duplicates, number)) }
    })
    .await;

    assert_eq!(drill.stack.query_lines(&content).await, before);
    drill.wait_served().await;
    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f13_invalid_results_and_requests_become_dead_letters_and_the_rest_flows() {
    let mut drill =
        FaultTest::start("F13", "messages that cannot be used, among good ones", Topology::default()).await;
    let client = drill.connect_client().await;
    let jetstream = jetstream::new(client.clone());
    let mut rejected = client.subscribe("picket.rejected.*").await.unwrap();
    let good = {
        let results = read_all_results(&jetstream).await;
        let east = results.into_iter().find(|(subject, _)| subject.starts_with("picket.result.east."));
        east.expect("a result of the east")
    };
    let but = |field: &str, value: Value| {
        let mut result: Value = serde_json::from_slice(&good.1).unwrap();
        result[field] = value;
        (good.0.clone(), serde_json::to_vec(&result).unwrap())
    };
    // Published message, and a part of the expected reason.
    let unusable = [
        ((good.0.clone(), b"{\"v\":1,".to_vec()), "not a result"),
        ((good.0.clone(), b"\0\0\0".to_vec()), "not a result"),
        ((good.0.clone(), vec![b'x'; 60_000]), "not a result"),
        (but("region", json!("west")), "region: 'west', but the subject says 'east'"),
        (but("region", json!("nowhere")), "region: 'nowhere', but the subject says 'east'"),
        (
            ("picket.result.nowhere.3".to_owned(), with_unknown_region(&good.1)),
            "ticket: not made for a check of this site",
        ),
        (but("site_id", json!(424_242)), "ticket: not made for a check of this site"),
        (but("site_id", json!(-5)), "ticket: not made for a check of this site"),
        (but("ticket", Value::Null), "ticket: there is none"),
        (but("scheduled_at", json!("2031-01-01T00:00:00.000000Z")), "in the future"),
        (but("scheduled_at", json!("2001-01-01T00:00:00.000000Z")), "30 days ago"),
        (but("site_id", Value::Null), "site_id: there is none"),
        (("picket.result.what.is.this".to_owned(), good.1.clone()), "subject"),
    ];
    // These can be stored as they are, or after repair.
    let usable = [but("message", json!("a\0b")), but("message", json!("y".repeat(60_000)))];

    drill.mark_fault_started().await;
    for _ in 0..3 {
        for (subject, payload) in unusable.iter().map(|(message, _)| message).chain(&usable) {
            jetstream.publish(subject.clone(), payload.clone().into()).await.unwrap().await.unwrap();
        }
        for place in ["picket.job.east.adhoc.bad", "picket.job.west.424242", "picket.check.east"] {
            client.publish(place, "{\"url\":".into()).await.unwrap();
        }
        client.flush().await.unwrap();
    }
    drill.mark_fault_ended().await;

    let dead = i64::try_from(3 * unusable.len()).unwrap();
    drill.stack.wait_at_least(WAIT_TIMEOUT, dead, "SELECT count(*) FROM picket.dead_letters").await;
    for (_, reason) in &unusable {
        let of_it = format!(
            "SELECT count(*) FROM picket.dead_letters WHERE strpos(reason, '{}') > 0",
            reason.replace('\'', "''")
        );
        assert!(drill.stack.query_number(&of_it).await >= 3, "{reason}");
    }
    let counted: f64 =
        drill.sinks.iter().map(|sink| sink.read_metric("picket_sink_dead_letters_total")).sum();
    assert_eq!(counted, dead as f64);
    let mut parked = vec![];
    while parked.len() < 5 {
        let next = tokio::time::timeout(WAIT_TIMEOUT, rejected.next())
            .await
            .expect("refused messages are dead letters");
        let said: Value = serde_json::from_slice(&next.unwrap().payload).unwrap();
        assert!(said["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{said}");
        parked.push(said["subject"].as_str().unwrap_or_default().to_owned());
    }
    for place in ["picket.job.east.adhoc.bad", "picket.job.west.424242", "picket.check.east"] {
        assert!(parked.iter().any(|subject| subject == place), "{place}: {parked:?}");
    }
    let refused: f64 = drill
        .probers
        .iter()
        .map(|(_, prober)| prober.read_metric("picket_prober_invalid_messages_total"))
        .sum();
    assert!(refused >= parked.len() as f64, "{refused}");
    drill.wait_served().await;
    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, dead), "{account:#?}");
    drill.stop().await;
}

fn with_unknown_region(result: &[u8]) -> Vec<u8> {
    let mut result: Value = serde_json::from_slice(result).unwrap();
    result["region"] = json!("nowhere");
    result["shard"] = json!(3);
    serde_json::to_vec(&result).unwrap()
}
