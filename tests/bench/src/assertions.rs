//! `assertions`: the cost of evaluating the most expensive assertions about a body of 1 MiB, and the
//! delay that they cause to other tasks.
//!
//! The checks and a heartbeat share one thread. Anything that was evaluated on it would delay the
//! heartbeat by all of its time.

use std::{
    cell::Cell,
    io::{BufRead, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use picket_harness::proc;
use picket_prober::check::{CheckLimits, Checker};
use picket_proto::{CheckRequest, HttpAssertions, Timing};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

use crate::{Error, bench_report::RunOptions, log_progress, table::Table};

/// Wanted maximum of the time to evaluate the assertions of a check.
const GOAL: Duration = Duration::from_millis(50);
const BODY_BYTES: usize = 1 << 20;
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(1);
/// Maximum number of assertions of one kind.
const MAX_ITEMS: usize = 16;

/// How often.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Checks of each case, of which the slowest counts
    #[arg(long, default_value_t = 9)]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) how: RunOptions,
}

/// A body, and the assertions about it.
struct Case {
    name: &'static str,
    body: Vec<u8>,
    assertions: Value,
}

/// The slowest of several checks of a case. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct CaseResult {
    pub(crate) name: &'static str,
    pub(crate) verdict: String,
    /// Time of the check outside of all phases of the site: mostly the evaluation.
    pub(crate) evaluation_ms: f64,
    /// CPU time of the process, which receives and sends the body as well.
    pub(crate) cpu_ms: f64,
    /// Longest delay of the heartbeat.
    pub(crate) heartbeat_ms: f64,
}

/// Measures, and prints Markdown.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let rounds = if options.how.smoke { 1 } else { options.rounds };
    let cases = Arc::<[Case]>::from(build_cases());
    let address = serve_bodies(Arc::clone(&cases))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::System("could not start", error))?;
    let results = LocalSet::new().block_on(&runtime, async {
        let limits = CheckLimits {
            allowed_networks: vec![std::net::IpAddr::from([127, 0, 0, 1]).into()],
            ca_file: None,
            max_body_bytes: BODY_BYTES,
        };
        let checker = Checker::new(&limits).map_err(|why| Error::Failed(why.to_string()))?;
        let mut results = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            let result = measure_case(&checker, case, &format!("http://{address}/{number}"), rounds).await?;
            log_progress(format_args!("{result:?}"));
            results.push(result);
        }
        Ok::<_, Error>(results)
    })?;
    crate::bench_report::write_results(options.how.json.as_deref(), &results, &to_markdown(&results))
}

async fn measure_case(checker: &Checker, case: &Case, url: &str, rounds: u32) -> Result<CaseResult, Error> {
    let assertions: HttpAssertions =
        serde_json::from_value(case.assertions.clone()).map_err(|why| Error::Failed(why.to_string()))?;
    let request = CheckRequest { assertions, timeout_ms: 30_000, ..CheckRequest::new(url) };
    let check = request.validate().map_err(|why| Error::Failed(format!("{}: {why}", case.name)))?;
    // Warm-up: tables that the first search builds are excluded.
    let seen = checker.run_check(&check).await;
    let verdict = seen.cause.map_or("up".to_owned(), |cause| format!("{} {cause}", seen.outcome.as_str()));
    let mut worst =
        CaseResult { name: case.name, verdict, evaluation_ms: 0.0, cpu_ms: 0.0, heartbeat_ms: 0.0 };
    let delay = Rc::new(Cell::new(Duration::ZERO));
    let heartbeat = tokio::task::spawn_local(beat(Rc::clone(&delay)));
    for _ in 0..rounds {
        let cpu = proc::own_cpu_seconds();
        let seen = checker.run_check(&check).await;
        worst.cpu_ms = worst.cpu_ms.max((proc::own_cpu_seconds() - cpu) * 1e3);
        worst.evaluation_ms = worst.evaluation_ms.max(own_time_us(&seen.timing) / 1e3);
    }
    heartbeat.abort();
    worst.heartbeat_ms = delay.get().as_secs_f64() * 1e3;
    Ok(worst)
}

/// Records the longest time by which a short sleep was late.
async fn beat(longest: Rc<Cell<Duration>>) {
    loop {
        let due = Instant::now() + HEARTBEAT_INTERVAL;
        sleep(HEARTBEAT_INTERVAL).await;
        longest.set(longest.get().max(due.elapsed()));
    }
}

/// Time of a check outside of its phases, in microseconds.
fn own_time_us(timing: &Timing) -> f64 {
    let phases = [timing.dns_us, timing.connect_us, timing.tls_us, timing.first_byte_us, timing.transfer_us];
    let phases: u32 = phases.into_iter().flatten().sum();
    f64::from(timing.total_us.unwrap_or_default().saturating_sub(phases))
}

/// Serves the body of case N at `/N`, on a thread that ends with the process.
fn serve_bodies(cases: Arc<[Case]>) -> Result<SocketAddr, Error> {
    let serve = |error| Error::System("could not serve", error);
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(serve)?;
    let address = listener.local_addr().map_err(serve)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that disconnects is no failure.
            let _ = serve_body(stream, &cases);
        }
    });
    Ok(address)
}

fn serve_body(mut stream: TcpStream, cases: &[Case]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let number = request.split(['/', ' ']).nth(2).and_then(|number| number.parse::<usize>().ok());
    let Some(case) = number.and_then(|number| cases.get(number)) else { return Ok(()) };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", case.body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&case.body)
}

fn build_cases() -> Vec<Case> {
    let paths = |path: &str| json!({"json": vec![json!({"path": path, "exists": true}); MAX_ITEMS]});
    let absent = |path: &str| json!({"json": vec![json!({"path": path, "absent": true}); MAX_ITEMS]});
    let regexes = |pattern: fn(usize) -> String| json!({"not_regexes": (0..MAX_ITEMS).map(pattern).collect::<Vec<_>>()});
    let objects = repeat_items(r#"{"a":1}"#);
    let text = "lorem ipsum dolor sit amet consectetur ".repeat(BODY_BYTES / 39);
    vec![
        Case { name: "no assertion (the rest of a check)", body: objects.clone(), assertions: json!({}) },
        Case { name: "`[[[[…`, `$..a`", body: vec![b'['; BODY_BYTES], assertions: paths("$..a") },
        Case {
            name: "arrays nested 100 deep, `$..[0]`",
            body: repeat_items(&format!("{}{}", "[".repeat(100), "]".repeat(100))),
            assertions: paths("$..[0]"),
        },
        Case { name: "empty objects, `$[*]`", body: repeat_items("{}"), assertions: paths("$[*]") },
        Case { name: "numbers, `$[*]`", body: repeat_items("0"), assertions: paths("$[*]") },
        Case { name: "small objects, `$..a`", body: objects.clone(), assertions: paths("$..a") },
        Case {
            name: "small objects, `$[?@.a == 2]`",
            body: objects.clone(),
            assertions: absent("$[?@.a == 2]"),
        },
        Case {
            name: "small objects, `$..[?count(@..a) > 1]`",
            body: objects.clone(),
            assertions: absent("$..[?count(@..a) > 1]"),
        },
        Case { name: "small objects, `$..*..*`", body: objects.clone(), assertions: absent("$..*..*") },
        Case {
            name: "texts, a filter with `search`",
            body: repeat_items(r#"{"a":"lorem ipsum dolor"}"#),
            assertions: absent(r#"$[?search(@.a, "(?:[a-z]{1,9} ?){3}!")]"#),
        },
        Case {
            name: "text, 16 regexes with words",
            body: text.clone().into(),
            assertions: regexes(|n| format!(r"(?i)\b(?:error|warning|fatal) *{n}\b")),
        },
        Case {
            name: "text, 16 regexes with repetitions",
            body: text.clone().into(),
            assertions: regexes(|n| format!(r"(?:\w+\s+){{3,20}}end{n}")),
        },
        Case {
            name: "text, 16 regexes close to the limit of steps",
            body: text.clone().into(),
            assertions: regexes(|n| format!(r"(?:[a-z]{{0,30}}[m-z]?){{12}}{n}!")),
        },
        Case {
            name: "random letters, 16 regexes close to the limit of steps",
            body: build_random_text(),
            assertions: regexes(|n| format!(r"(?:[a-z]{{0,30}}[m-z]?){{12}}{n}!")),
        },
        Case {
            name: "random letters, 16 regexes of many sets",
            body: build_random_text(),
            assertions: regexes(|n| format!(r"[a-m][a-z]{{12}}[n-z]{n}!")),
        },
        Case {
            name: "text outside ASCII, 16 regexes with words",
            body: "größe straße überall ".repeat(BODY_BYTES / 25).into(),
            assertions: regexes(|n| format!(r"(?i)\b(?:error|warning|fatal|straße) *{n}\b")),
        },
        Case {
            name: "small objects, 16 regexes and 16 paths",
            body: objects,
            assertions: {
                let mut both = absent("$..[?@.a == 2]");
                both["not_regexes"] = regexes(|n| format!(r#""b"\s*:\s*{n}\b"#))["not_regexes"].clone();
                both
            },
        },
    ]
}

/// Letters in an order that repeats nowhere, so that a search meets new sets of states.
fn build_random_text() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(16);
    (0..BODY_BYTES).map(|_| random.u8(b'a'..=b'z')).collect()
}

/// A JSON array of as many `item` as fit into the body.
fn repeat_items(item: &str) -> Vec<u8> {
    let count = (BODY_BYTES - 1) / (item.len() + 1);
    format!("[{}]", vec![item; count].join(",")).into_bytes()
}

fn to_markdown(results: &[CaseResult]) -> String {
    let mut table = Table::new([
        "body of 1 MiB, assertions",
        "verdict",
        "evaluation ms",
        "CPU ms",
        "heartbeat late by ms",
    ]);
    for result in results {
        let short = |value: f64| format!("{value:.1}");
        table.add_row([
            result.name.to_owned(),
            result.verdict.clone(),
            short(result.evaluation_ms),
            short(result.cpu_ms),
            short(result.heartbeat_ms),
        ]);
    }
    let slowest = results.iter().map(|result| result.evaluation_ms).fold(0.0, f64::max);
    let goal = GOAL.as_secs_f64() * 1e3;
    format!("{table}\nThe slowest evaluation took {slowest:.1} ms; wanted: at most {goal:.0} ms.\n")
}
