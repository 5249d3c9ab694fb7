//! Results that are valid JSON and false in every field: nothing panics, nothing stops, and results of others are stored.
//!
//! A few hundred batches in the ordinary run. For longer: `PICKET_FUZZ_SECONDS=600 cargo test -p picket-sink fuzz`; the
//! seed is printed, and `PICKET_FUZZ_SEED` repeats a run.

use std::time::Duration;

use fastrand::Rng;
use picket_proto::{CheckResult, RegionName, Timestamp, bundle};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::stack::TestStack;

const MIN_BATCHES: i64 = 300;
/// Of the region that does not lie: one in each batch.
const HONEST_ROWS_SQL: &str = "SELECT count(*) FROM picket.check_results AS result JOIN picket.regions AS region ON region.id = region_id
    WHERE region.name = 'us' AND prober = 'honest'";

/// Values that a field may have and few expect.
fn odd_value(rng: &mut Rng) -> Value {
    let times = [
        Timestamp::MIN,
        Timestamp::MAX,
        Timestamp::from_micros(0),
        Timestamp::from_micros(i64::from(rng.u32(..)) * 1_000_000),
    ];
    let texts =
        ["", "up", "down", "missed", "confirm", "adhoc", "dns", "eu", "us", "a\0b", "\u{202e}\u{1b}[2J", "é"];
    match rng.u8(..14) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(i64::MIN),
        4 => json!(u64::MAX),
        5 => json!(rng.u16(..)),
        6 => json!(1e300),
        7 => json!([]),
        8 => json!({"dns_us": u32::MAX, "total_us": u32::MAX, "tls_us": 0}),
        9 => json!("x".repeat(rng.usize(..20_000))),
        10 => json!(times[rng.usize(..times.len())]),
        11 => json!("2026-02-30T25:61:00Z"),
        12 => json!("ffff".repeat(9)),
        _ => json!(texts[rng.usize(..texts.len())]),
    }
}

/// A false result, perhaps with a valid ticket for its claims.
fn forged_result(stack: &TestStack, rng: &mut Rng, sites: i64) -> Vec<u8> {
    let moments: [i64; 8] = [0, 5, 250, 290, -60, -3_600, -86_400, -29 * 86_400];
    let at =
        stack.current_time().as_micros() + (moments[rng.usize(..moments.len())] + rng.i64(-5..5)) * 1_000_000;
    let result =
        CheckResult { scheduled_at: Timestamp::from_micros(at), ..stack.make_result(rng.i64(..sites) + 1) };
    let mut result = serde_json::to_value(result).unwrap();
    let fields: Vec<String> = result.as_object().unwrap().keys().cloned().collect();
    let more =
        ["cause", "message", "http_version", "remote_addr", "regex_matched", "tls_expires_at", "timing"];
    if rng.bool() {
        (result["outcome"], result["cause"]) = (json!("down"), json!("connect"));
    }
    if rng.bool() {
        result["kind"] = json!("confirm");
    }
    for _ in 0..rng.usize(..4) {
        let field = match rng.bool() {
            true => fields[rng.usize(..fields.len())].as_str(),
            false => more[rng.usize(..more.len())],
        };
        result[field] = odd_value(rng);
    }
    // Half of the results are signed, as if the region had been given the check.
    match serde_json::from_value::<CheckResult>(result.clone()) {
        Ok(readable) if rng.bool() => serde_json::to_vec(&stack.sign_result(readable)).unwrap(),
        _ => serde_json::to_vec(&result).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_false_in_every_field_stop_nothing() {
    let variable = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    let until = variable("PICKET_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = variable("PICKET_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("PICKET_FUZZ_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let stack = TestStack::new().await;
    let sites = stack
        .query_count(
            "WITH region AS (INSERT INTO picket.regions (name) VALUES ('us'), ('asia') RETURNING id),
                  site AS (INSERT INTO picket.sites (url, interval_seconds)
                           SELECT 'http://127.0.0.1/' || n, 5 FROM generate_series(1, 40) AS n RETURNING id)
             SELECT count(*) FROM site, (SELECT count(*) FROM region) AS regions",
        )
        .await;
    stack.query_count("SELECT picket.ensure_partitions(30)::bigint").await;
    let sink = stack.start_sink().await;
    sink.wait_ready().await;
    let us: RegionName = "us".parse().unwrap();

    let mut batches = 0;
    while until.map_or(batches < MIN_BATCHES, |until| Instant::now() < until) {
        let lines: Vec<_> = (0..rng.usize(1..40)).map(|_| forged_result(&stack, &mut rng, sites)).collect();
        match rng.bool() {
            true => {
                // As many as a message may hold.
                let mut size = 0;
                let fits = |line: &&Vec<u8>| {
                    size += line.len() + 1;
                    size < bundle::MAX_BYTES
                };
                let lines: Vec<_> = lines.iter().take_while(fits).map(Vec::as_slice).collect();
                stack.publish_raw("picket.result.eu.bundle", lines.join(&b'\n')).await;
            }
            false => {
                for line in lines.into_iter().filter(|line| line.len() < bundle::MAX_BYTES) {
                    let subjects = ["picket.result.eu.7", "picket.result.eu.adhoc", "picket.result.eu.8"];
                    stack.publish_raw(subjects[rng.usize(..subjects.len())], line).await;
                }
            }
        }
        let honest =
            CheckResult { region: us.clone(), prober: "honest".to_owned(), ..stack.make_result(batches) };
        stack
            .publish_raw("picket.result.us.7", serde_json::to_vec(&stack.sign_result(honest)).unwrap())
            .await;
        batches += 1;
        if batches % 100 == 0 {
            stack.wait_acknowledged().await;
        }
    }

    stack.wait_acknowledged().await;
    assert_eq!(stack.query_count(HONEST_ROWS_SQL).await, batches);
    sink.wait_ready().await;
    assert!(sink.metric_value(r#"picket_sink_dead_letters_total{reason="ticket"}"#) > 0);
    assert_eq!(sink.metric_value("picket_sink_database_errors_total"), 0);
    sink.running.drain().await;
}
