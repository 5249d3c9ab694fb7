//! Random rows of sites that SQL accepts, under a running coordinator: no row stops it, and a valid
//! site is scheduled all the time.
//!
//! The ordinary run is short. A longer run with another seed:
//! `PICKET_FUZZ_SECONDS=600 PICKET_FUZZ_SEED=7 cargo test -p picket-coordinator --test it odd_sites`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use picket_harness::{builders::scheduled_job_subject, eventually, proc};
use picket_proto::{CheckRequest, SiteId};
use picket_store::{maintenance, reports, site_status, sites};
use tokio::time::Instant;

use crate::{Stack, TEST_DEADLINE};

/// Chance, the same for the same seed (splitmix64).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn choose_from<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.next_u64() as usize % values.len()]
    }
}

const TEXTS: &[&str] = &[
    "''",
    "'x'",
    "E'\\x01'",
    "chr(1114111)",
    "repeat('x', 100)",
    "repeat('x', 5000)",
    "repeat('y', 3000000)",
    "E'a\\r\\nb'",
    "'4'",
    "'GET'",
    "'200-299,301'",
    "'0-99999999999999999999'",
];
const PATTERNS: &[&str] =
    &["NULL", "'ok'", "'a(b'", "'(\\w{500}){500}'", "'\\w{15}'", "repeat('(', 4000)", "repeat('r', 1000000)"];
const NUMBERS: &[&str] = &["-2147483648", "-1", "0", "1", "2", "60", "86400", "86401", "2147483647"];
const LISTS: &[&str] = &[
    "'{}'",
    "'{eu}'",
    "'{nowhere}'",
    "'{a,NULL}'",
    "'{{a,b},{c,d}}'",
    "'[3:4]={a,b}'",
    "'{eu,eu,eu}'",
    "array_fill('x'::text, '{100000}')",
    "ARRAY[repeat('x', 1000000)]",
];
const HEADERS: &[&str] = &[
    "'{}'",
    "'{\"A\": \"b\"}'",
    "'{\"A\": 1e400}'",
    "'{\"A\": null}'",
    "'{\"\": \"\"}'",
    "jsonb_build_object('A', (repeat('[', 500) || repeat(']', 500))::jsonb)",
    "jsonb_build_object(repeat('k', 100000), repeat('v', 1000000))",
    "(SELECT jsonb_object_agg('H' || n, 'v') FROM generate_series(1, 20000) AS n)",
];
/// Objects of the wrong shape, for options as for assertions.
macro_rules! odd_objects {
    ($($own:expr,)*) => {
        &[
            "NULL",
            "'null'",
            "'[]'",
            "'\"{}\"'",
            "'{}'",
            "'{\"future\": true}'",
            "'{\"\": {\"\": null}}'",
            "'{\"future\": 1e400}'",
            "'{\"future\": \"\\u0001\\u202e\"}'",
            "jsonb_build_object('future', (repeat('[', 500) || repeat(']', 500))::jsonb)",
            "jsonb_build_object(repeat('k', 100000), repeat('v', 1000000))",
            "(SELECT jsonb_object_agg('f' || n, n) FROM generate_series(1, 20000) AS n)",
            $($own,)*
        ]
    };
}
const OPTIONS: &[&str] = odd_objects![
    "'{\"auth\": {\"bearer\": {\"secret\": \"shop\"}}}'",
    "'{\"auth\": 7}'",
    "'{\"auth\": {}}'",
    "'{\"auth\": null, \"secret_headers\": null}'",
    "'{\"auth\": {\"bearer\": {\"secret\": null}}}'",
    "'{\"auth\": {\"bearer\": {\"secret\": \"../../etc/passwd\"}}}'",
    "'{\"auth\": {\"bearer\": {\"secret\": \"a\"}, \"basic\": {\"user\": \"\", \"password\": {\"secret\": \"\"}}}}'",
    "'{\"auth\": {\"oauth2\": {\"token_url\": \"x\", \"client_id\": \"\\n\", \"client_secret\": {\"secret\": \"a\"}, \"scopes\": [1]}}}'",
    "jsonb_build_object('auth', jsonb_build_object('bearer', jsonb_build_object('secret', repeat('s', 30000))))",
    "'{\"secret_headers\": {\"\": {\"secret\": \"a\"}, \"A\": {\"secret\": \"b\"}, \"a\": {\"secret\": \"c\"}}}'",
    "(SELECT jsonb_build_object('secret_headers', jsonb_object_agg('H' || n, '{\"secret\": \"a\"}'::jsonb)) FROM generate_series(1, 900) AS n)",
    "'{\"connect_to\": \"[::1\"}'",
    "'{\"connect_to\": [\"192.0.2.1\"]}'",
    "'{\"connect_to\": \"192.0.2.1\", \"proxy\": \"office\"}'",
    "'{\"host_header\": \"a\\r\\nb: c\"}'",
    "'{\"http_version\": 2}'",
    "'{\"http_version\": \"3\"}'",
    "'{\"client_certificate\": \"\", \"ca\": \"A B\"}'",
];
const ASSERTIONS: &[&str] = odd_objects![
    "'{\"warn_after_ms\": 500}'",
    "'{\"warn_after_ms\": -9223372036854775809}'",
    "'{\"warn_after_ms\": 0.5, \"fail_after_ms\": 1e300}'",
    "'{\"certificate_warn_days\": \"14\"}'",
    "'{\"regexes\": \"ok\"}'",
    "'{\"regexes\": [null, 7]}'",
    "'{\"regexes\": [\"(\\\\w{500}){500}\"]}'",
    "(SELECT jsonb_build_object('not_regexes', jsonb_agg('\\w{15}'::text)) FROM generate_series(1, 16))",
    "(SELECT jsonb_build_object('regexes', jsonb_agg('r'::text)) FROM generate_series(1, 9000))",
    "'{\"headers\": [{}]}'",
    "'{\"headers\": [{\"name\": \"A b\", \"regex\": \"(\"}]}'",
    "'{\"headers\": [{\"name\": \"A\", \"regex\": \"a\", \"absent\": true}]}'",
    "'{\"json\": [{\"path\": \"\"}]}'",
    "'{\"json\": [{\"path\": \"$\", \"equals\": null, \"exists\": false}]}'",
    "'{\"json\": [{\"path\": \"$..[?@..[?@..a]]\", \"exists\": true}]}'",
    "jsonb_build_object('json', jsonb_build_array(jsonb_build_object('path', '$' || repeat('[?(', 3000), 'exists', true)))",
    "jsonb_build_object('json', jsonb_build_array(jsonb_build_object('path', '$' || repeat('..*', 10000), 'exists', true)))",
    "'{\"body_bytes\": {\"min\": 7, \"max\": -1}}'",
    "'{\"final_url\": \"(\"}'",
    "'{\"must_fail\": [\"nothing\", \"connect\"]}'",
    "'{\"must_fail\": [\"expired\"]}'",
];
const TIMESTAMPS: &[&str] =
    &["now()", "'infinity'", "'-infinity'", "'294276-12-31 23:59:59+00'", "'4713-01-01 00:00:00+00 BC'"];
const FLAGS: &[&str] = &["true", "false"];

const COLUMNS: &[(&str, &[&str])] = &[
    ("name", TEXTS),
    ("interval_seconds", NUMBERS),
    ("timeout_ms", NUMBERS),
    ("method", TEXTS),
    ("headers", HEADERS),
    ("body", TEXTS),
    ("status", TEXTS),
    ("regex", PATTERNS),
    ("not_regex", PATTERNS),
    ("max_redirects", NUMBERS),
    ("ip_version", TEXTS),
    ("tls_verify", FLAGS),
    ("options", OPTIONS),
    ("assertions", ASSERTIONS),
    ("regions", LISTS),
    ("enabled", FLAGS),
    ("quorum", NUMBERS),
    ("failures_to_open", NUMBERS),
    ("successes_to_close", NUMBERS),
    ("tags", LISTS),
    ("problem", TEXTS),
    ("created_at", TIMESTAMPS),
    ("updated_at", TIMESTAMPS),
];

/// No more odd sites than these are there at once.
const MAX_ODD_SITES: i64 = 60;

/// A statement that writes odd rows; half of them as if there were no checks at the door, as older releases wrote them.
fn odd_site_sql(chance: &mut SplitMix64, number: usize) -> String {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    for _ in 0..=chance.next_u64() % 4 {
        let (column, values) = chance.choose_from(COLUMNS);
        if columns.iter().all(|(there, _)| *there != column) {
            columns.push((column, chance.choose_from(values)));
        }
    }
    let one = "(SELECT id FROM picket.sites WHERE id > 1 ORDER BY random() LIMIT 1)";
    let shard = chance.choose_from(&["0", "7", "63", "-1", "32767"]);
    let write = match chance.next_u64() % 8 {
        0..=3 => {
            let (names, values): (Vec<&str>, Vec<&str>) = columns.into_iter().unzip();
            let (names, values) = (names.join(", "), values.join(", "));
            format!(
                "INSERT INTO picket.sites (shard, version, url, {names})
                 VALUES ({shard}, pg_current_xact_id(), 'http://odd/{number}', {values})"
            )
        }
        4 | 5 => {
            let changes: Vec<String> = columns.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            format!("UPDATE picket.sites SET version = pg_current_xact_id(), {} WHERE id = {one}", changes.join(", "))
        }
        6 => {
            let (from, to) = (chance.choose_from(TIMESTAMPS), chance.choose_from(TIMESTAMPS));
            format!("INSERT INTO picket.maintenance (site_id, window_from, window_to) VALUES ({one}, {from}, {to})")
        }
        _ => "UPDATE picket.sites SET url = repeat('u', 2000) || id WHERE id = (SELECT max(id) FROM picket.sites WHERE id > 1)"
            .to_owned(),
    };
    let role = chance.choose_from(&["replica", "origin"]);
    format!(
        "BEGIN; SET LOCAL session_replication_role = {role}; {write}; SET LOCAL session_replication_role = origin;
         SELECT picket.reconcile_schedules(ARRAY(SELECT id FROM picket.sites WHERE id > 1));
         DELETE FROM picket.sites WHERE id > 1 AND id < (SELECT max(id) FROM picket.sites) - {MAX_ODD_SITES};
         DELETE FROM picket.maintenance WHERE id < (SELECT max(id) FROM picket.maintenance) - {MAX_ODD_SITES};
         SELECT pg_notify('picket_sites', ''); COMMIT"
    )
}

fn memory_kib() -> u64 {
    proc::resident_kib(std::process::id()).unwrap_or(0)
}

fn env_number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_that_sql_accepts_stops_a_coordinator_or_delays_a_valid_site() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let seed = env_number("PICKET_FUZZ_SEED").unwrap_or(14);
    let seconds = env_number("PICKET_FUZZ_SECONDS").unwrap_or(6);
    eprintln!("PICKET_FUZZ_SEED={seed} PICKET_FUZZ_SECONDS={seconds}");
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(panic);
    }));
    let mut chance = SplitMix64(seed);
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://well/', 1)").await;
    let client = async_nats::connect(stack.nats.url()).await.unwrap();
    let mut jobs = client.subscribe(scheduled_job_subject(&"eu".parse().unwrap(), SiteId(1))).await.unwrap();
    client.flush().await.unwrap();
    let running = stack.start_coordinator("first", Duration::from_secs(15)).await;
    let heard: Arc<Mutex<Vec<i64>>> = Arc::default();
    let ticks = heard.clone();
    let listening = tokio::spawn(async move {
        while let Some(message) = jobs.next().await {
            let request = CheckRequest::decode(&message.payload).unwrap();
            ticks.lock().push(request.scheduled_at.unwrap().as_millis());
        }
    });
    let mut connection = stack.pool.acquire().await.unwrap();

    let (store, until) = (stack.connect_store(), Instant::now() + Duration::from_secs(seconds));
    let (mut written, mut refused, mut grown_from) = (0, 0, None);
    while Instant::now() < until {
        let sql = odd_site_sql(&mut chance, written + refused);
        match sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut *connection).await {
            Ok(_) => written += 1,
            // Schedules before sites, against the order in which all others lock them: one of the two is told to try again.
            Err(sqlx::Error::Database(why)) if why.code().as_deref() == Some("40P01") => {
                sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.unwrap();
            }
            Err(sqlx::Error::Database(why)) => {
                refused += 1;
                // Refused for the written value, not for the statement itself.
                assert!(
                    ["22", "23", "54"]
                        .iter()
                        .any(|class| why.code().is_some_and(|code| code.starts_with(class))),
                    "{sql}: {why}"
                );
                sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.unwrap();
            }
            Err(error) => panic!("{sql}: {error}"),
        }
        if (written + refused) % 50 == 0 {
            sites::list_sites(&store).await.unwrap();
            site_status::list_site_status(&store).await.unwrap();
            maintenance::list_windows(&store, maintenance::WindowFilter { all: true, ..Default::default() })
                .await
                .unwrap();
            reports::report_incidents(&store, &reports::ReportFilter::default()).await.unwrap();
            grown_from.get_or_insert_with(memory_kib);
        }
    }

    // One that starts now has to read them all.
    let second = stack.start_coordinator("second", Duration::from_secs(15)).await;
    running.drain().await;
    let problems = "SELECT format('%s in shard %s, updated at %s', id, shard, updated_at) FROM picket.sites
                    WHERE problem IS NULL AND enabled
                      AND (octet_length(body) > 65536 OR octet_length(name) > 200 OR options ? 'future' OR assertions ? 'future')";
    eventually(TEST_DEADLINE, "every row that cannot be used to have a problem", async || {
        let left: Vec<String> = sqlx::query_scalar(problems).fetch_all(&stack.pool).await.unwrap();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    let behind = "SELECT count(*) FROM picket.leases WHERE holder LIKE 'second%' AND expires_at > now()";
    eventually(TEST_DEADLINE, "the second coordinator to hold all shards", async || {
        match stack.query_number(behind).await {
            64 => Ok(()),
            held => Err(held),
        }
    })
    .await;
    let so_far = heard.lock().len();
    eventually(TEST_DEADLINE, "the site that is well to be scheduled by the second", async || {
        let more = heard.lock().len() - so_far;
        if more >= 3 { Ok(()) } else { Err(more) }
    })
    .await;
    second.drain().await;
    listening.abort();

    let mut ticks = heard.lock().clone();
    ticks.sort_unstable();
    ticks.dedup();
    // A take-over publishes only jobs still worth doing.
    assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] <= 3_000), "{ticks:?}");
    assert!(written > 20 && refused > 0, "{written} written, {refused} refused");
    let objects =
        "SELECT count(DISTINCT md5(options::text)) + count(DISTINCT md5(assertions::text)) FROM picket.sites";
    assert!(stack.query_number(objects).await > 4, "odd objects are among the rows");
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    let grown = memory_kib().saturating_sub(grown_from.unwrap_or(u64::MAX));
    assert!(grown < 200 << 10, "grew by {grown} KiB");
}

#[tokio::test]
async fn a_problem_that_the_database_refuses_to_record_blocks_no_other() {
    let stack = Stack::new().await;
    stack
        .execute_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = 'check_violation'; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON picket.sites FOR EACH ROW WHEN (OLD.id = 2) EXECUTE FUNCTION refuse();
             INSERT INTO picket.sites (url) VALUES ('no url'), ('nor this'), ('nor that'), ('http://well/')",
        )
        .await;
    let running = stack.start_coordinator("one", Duration::from_secs(15)).await;

    let recorded = "SELECT coalesce(sum(id), 0)::bigint FROM picket.sites WHERE problem IS NOT NULL";
    eventually(TEST_DEADLINE, "the problems of the first and the third", async || {
        match stack.query_number(recorded).await {
            4 => Ok(()),
            sum => Err(sum),
        }
    })
    .await;
    running.drain().await;
}
