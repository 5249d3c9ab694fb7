//! What may come over the bus.

use async_nats::jetstream::{self, consumer::DeliverPolicy};
use futures_util::StreamExt;
use picket_e2e::drill::{Drill, LONG, Scene};
use picket_proto::{CheckResult, bundle, subject};
use picket_testkit::eventually;
use serde_json::{Value, json};

type Message = (String, Vec<u8>);

/// All that the stream of results holds.
pub(crate) async fn all_results(jetstream: &jetstream::Context) -> Vec<Message> {
    let mut stream = jetstream.get_stream(subject::RESULTS).await.unwrap();
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
pub(crate) fn results_in((subject, payload): &Message) -> Vec<&[u8]> {
    bundle::results_in(subject, payload).collect()
}

/// Waits until each result that the stream has is a row: what was on its way to a sink that never had it comes again.
pub(crate) async fn every_result_has_a_row(drill: &Drill) {
    let jetstream = drill.stack.jetstream().await;
    let kept: Vec<String> = all_results(&jetstream)
        .await
        .iter()
        .flat_map(|message| results_in(message))
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
    eventually(LONG, "a row for every result that the stream has", async || {
        match drill.stack.number(&lacking).await {
            0 => Ok(()),
            lacking => Err(lacking),
        }
    })
    .await;
}

/// In another order each time, and in the same for the same `seed` (Fisher and Yates, with a generator of Knuth's).
fn shuffle(messages: &mut [Message], seed: u64) {
    let mut state = seed;
    for last in (1..messages.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        messages.swap(last, (state >> 33) as usize % (last + 1));
    }
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f12_results_that_come_again_in_any_order_change_no_row() {
    let mut drill =
        Drill::start("F12", "all results published again, shuffled, three times", Scene::default()).await;
    drill.stack.at_least(LONG, 150, "SELECT count(*) FROM picket.check_results").await;
    let to = drill.now().await;
    drill.stack.closed(&to).await;
    let content = format!(
        "SELECT count(*) || ' ' || md5(string_agg(result::text, '|' ORDER BY scheduled_at, site_id, region_id, kind))
         FROM picket.check_results AS result WHERE scheduled_at <= '{to}'"
    );
    let before = drill.stack.lines(&content).await;
    let jetstream = jetstream::new(drill.bus().await);
    let mut results = all_results(&jetstream).await;
    let number: usize = results.iter().map(|message| results_in(message).len()).sum();

    drill.injured().await;
    for seed in 1..=3 {
        shuffle(&mut results, seed);
        for (subject, payload) in &results {
            jetstream.publish(subject.clone(), payload.clone().into()).await.unwrap().await.unwrap();
        }
    }
    drill.healed().await;
    eventually(LONG, "the sinks to have them all", async || {
        let duplicates: f64 =
            drill.sinks.iter().map(|sink| sink.metric("picket_sink_duplicates_total")).sum();
        if duplicates >= 3.0 * number as f64 { Ok(()) } else { Err((duplicates, number)) }
    })
    .await;

    assert_eq!(drill.stack.lines(&content).await, before);
    drill.served().await;
    let account = drill.account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f13_what_cannot_be_stored_or_read_is_parked_with_the_reason_and_the_rest_flows() {
    let mut drill =
        Drill::start("F13", "messages that cannot be used, among good ones", Scene::default()).await;
    let client = drill.bus().await;
    let jetstream = jetstream::new(client.clone());
    let mut rejected = client.subscribe("picket.rejected.*").await.unwrap();
    let good = {
        let results = all_results(&jetstream).await;
        let east = results.into_iter().find(|(subject, _)| subject.starts_with("picket.result.east."));
        east.expect("a result of the east")
    };
    let but = |field: &str, value: Value| {
        let mut result: Value = serde_json::from_slice(&good.1).unwrap();
        result[field] = value;
        (good.0.clone(), serde_json::to_vec(&result).unwrap())
    };
    // What is published, and of what the reason must speak.
    let unusable = [
        ((good.0.clone(), b"{\"v\":1,".to_vec()), "not a result"),
        ((good.0.clone(), b"\0\0\0".to_vec()), "not a result"),
        ((good.0.clone(), vec![b'x'; 60_000]), "not a result"),
        (but("region", json!("west")), "region: 'west', but the subject says 'east'"),
        (but("region", json!("nowhere")), "region: 'nowhere', but the subject says 'east'"),
        (
            ("picket.result.nowhere.3".to_owned(), of_nowhere(&good.1)),
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
    // These can be stored as they are, or mended.
    let usable = [but("message", json!("a\0b")), but("message", json!("y".repeat(60_000)))];

    drill.injured().await;
    for _ in 0..3 {
        for (subject, payload) in unusable.iter().map(|(message, _)| message).chain(&usable) {
            jetstream.publish(subject.clone(), payload.clone().into()).await.unwrap().await.unwrap();
        }
        for place in ["picket.job.east.adhoc.bad", "picket.job.west.424242", "picket.check.east"] {
            client.publish(place, "{\"url\":".into()).await.unwrap();
        }
        client.flush().await.unwrap();
    }
    drill.healed().await;

    let dead = i64::try_from(3 * unusable.len()).unwrap();
    drill.stack.at_least(LONG, dead, "SELECT count(*) FROM picket.dead_letters").await;
    for (_, reason) in &unusable {
        let of_it = format!(
            "SELECT count(*) FROM picket.dead_letters WHERE strpos(reason, '{}') > 0",
            reason.replace('\'', "''")
        );
        assert!(drill.stack.number(&of_it).await >= 3, "{reason}");
    }
    let counted: f64 = drill.sinks.iter().map(|sink| sink.metric("picket_sink_dead_letters_total")).sum();
    assert_eq!(counted, dead as f64);
    let mut parked = vec![];
    while parked.len() < 5 {
        let next = tokio::time::timeout(LONG, rejected.next()).await.expect("what is refused is parked");
        let said: Value = serde_json::from_slice(&next.unwrap().payload).unwrap();
        assert!(said["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{said}");
        parked.push(said["subject"].as_str().unwrap_or_default().to_owned());
    }
    for place in ["picket.job.east.adhoc.bad", "picket.job.west.424242", "picket.check.east"] {
        assert!(parked.iter().any(|subject| subject == place), "{place}: {parked:?}");
    }
    let refused: f64 =
        drill.probers.iter().map(|(_, prober)| prober.metric("picket_prober_rejected_total")).sum();
    assert!(refused >= parked.len() as f64, "{refused}");
    drill.served().await;
    let account = drill.account().await;
    assert_eq!((account.missed, account.dead_letters), (0, dead), "{account:#?}");
    drill.stop().await;
}

fn of_nowhere(result: &[u8]) -> Vec<u8> {
    let mut result: Value = serde_json::from_slice(result).unwrap();
    result["region"] = json!("nowhere");
    result["shard"] = json!(3);
    serde_json::to_vec(&result).unwrap()
}
