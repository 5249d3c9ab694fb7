//! `peers`: the cost of other monitors on the same targets at the same rates. Debian's
//! blackbox_exporter with Prometheus, if installed, and a checker in Python of the kind that Picket
//! replaces.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use picket_harness::process::{Process, free_address};
use reqwest::Url;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::types::time::OffsetDateTime;
use tokio::{process::Command, time::sleep};

use crate::{
    Error,
    bench_report::RunOptions,
    log_progress,
    table::{Percentiles, ShortNumber, Table},
    target::BenchTarget,
    testbed::Testbed,
    window::MeasurementWindow,
};

/// Rates, durations and programs.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Rates in checks per second
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000])]
    pub(crate) rates: Vec<u32>,
    /// Measured time of each peer at each rate, in seconds
    #[arg(long, default_value_t = 15)]
    pub(crate) seconds: u64,
    /// Interval of each site, in seconds
    #[arg(long, default_value_t = 5)]
    pub(crate) interval: u32,
    /// Python with the packages in tests/bench/python/requirements.txt
    #[arg(long, env = "PICKET_BENCH_PYTHON", value_name = "FILE")]
    pub(crate) python: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// Result of a peer at a single rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PeerResult {
    pub(crate) who: String,
    pub(crate) offered: u32,
    pub(crate) seconds: f64,
    pub(crate) checks: i64,
    pub(crate) up: i64,
    /// CPU time per check in µs, by process.
    pub(crate) cpu_us: Vec<(&'static str, f64)>,
    pub(crate) memory: Vec<(&'static str, u64)>,
    /// Lateness in ms. Prometheus does not store the start of a scrape, so its lateness is the
    /// excess of a target's intervals over the configured interval, without a maximum.
    pub(crate) lateness_ms: Percentiles,
}

impl PeerResult {
    pub(crate) fn total_us(&self) -> f64 {
        self.cpu_us.iter().map(|(_, us)| us).sum()
    }

    /// Returns true if the peer kept up with the offered rate. Otherwise its cost per check is
    /// meaningless.
    pub(crate) fn is_sustained(&self) -> bool {
        self.up as f64 >= 0.95 * f64::from(self.offered) * self.seconds.floor()
    }
}

/// Results of all peers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PeersReport {
    pub(crate) peers: Vec<PeerResult>,
    /// Missing peers, with instructions to install them.
    pub(crate) left_out: Vec<String>,
}

/// Time in which Prometheus gathers targets before scraping.
const DISCOVERY_DELAY: Duration = Duration::from_secs(6);
/// Source of the checker. Its requirements lie in the same directory.
const CHECKER_SOURCE: &str = include_str!("../python/checker.py");
/// Scheduling modes of the checker.
const CHECKER_MODES: [&str; 2] = ["loops", "claims"];
/// Tables of the checker: the sites, and results as in Picket.
const PYTHON_TABLES_SQL: &str = "CREATE SCHEMA peer;
    CREATE TABLE peer.sites (
        id bigint PRIMARY KEY, url text NOT NULL, interval_seconds integer NOT NULL, next_at timestamptz NOT NULL);
    CREATE INDEX ON peer.sites (next_at);
    CREATE TABLE peer.check_results (LIKE picket.check_results INCLUDING ALL);";

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let peers = measure_peers(options).await?;
    crate::bench_report::write_results(options.run_options.json.as_deref(), &peers, &peers.to_markdown())
}

/// Measures all installed peers.
pub(crate) async fn measure_peers(options: &Options) -> Result<PeersReport, Error> {
    let options = match options.run_options.smoke {
        true => Options { rates: vec![20], seconds: 2, interval: 1, ..options.clone() },
        false => options.clone(),
    };
    let target = BenchTarget::start()?;
    let bed = Testbed::start().await?;
    let measuring = PeersBench { bed: &bed, target: &target, options: &options };
    let mut report = PeersReport::default();
    match (find_program(&["prometheus"]), find_program(&["prometheus-blackbox-exporter", "blackbox_exporter"])) {
        (Some(prometheus), Some(blackbox)) => {
            for rate in &options.rates {
                report.peers.push(measuring.measure_blackbox(&prometheus, &blackbox, *rate).await?);
            }
        }
        _ => report.left_out.push(
            "blackbox_exporter and Prometheus: not installed (Debian: apt-get install --no-install-recommends \
             prometheus prometheus-blackbox-exporter; their services are not needed)"
                .to_owned(),
        ),
    }
    match &options.python {
        Some(python) if has_python_modules(python).await => {
            for mode in CHECKER_MODES {
                for rate in &options.rates {
                    report.peers.push(measuring.measure_python(python, mode, *rate).await?);
                }
            }
        }
        _ => report.left_out.push(
            "the checker in Python: no Python with the packages in tests/bench/python/requirements.txt (--python, \
             PICKET_BENCH_PYTHON; `just bench` makes one)"
                .to_owned(),
        ),
    }
    for absent in &report.left_out {
        log_progress(format_args!("skipped: {absent}"));
    }
    bed.stop().await?;
    Ok(report)
}

struct PeersBench<'a> {
    bed: &'a Testbed,
    target: &'a BenchTarget,
    options: &'a Options,
}

impl PeersBench<'_> {
    fn window_length(&self) -> Duration {
        Duration::from_secs(self.options.seconds)
    }

    /// Time until each site has been due.
    fn settle_time(&self) -> Duration {
        Duration::from_secs(u64::from(self.options.interval) + 2)
    }

    async fn measure_blackbox(
        &self,
        prometheus: &Path,
        blackbox: &Path,
        rate: u32,
    ) -> Result<PeerResult, Error> {
        let interval = self.options.interval;
        let dir = self.bed.scratch_dir().join(format!("prometheus-{rate}"));
        fs::create_dir_all(&dir).map_err(|error| Error::System("a directory", error))?;
        let write = |name: &str, text: Value| {
            let path = dir.join(name);
            // JSON is valid YAML.
            fs::write(&path, text.to_string()).map_err(|error| Error::System("a configuration", error))?;
            Ok::<_, Error>(path)
        };
        let (exporter_address, prometheus_address) = (free_address(), free_address());
        let http = json!({"preferred_ip_protocol": "ip4"});
        let modules = json!({"modules": {"http_2xx": {"prober": "http", "timeout": "10s", "http": http}}});
        let config = write("blackbox.yml", modules)?;
        let mut command = Command::new(blackbox);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--web.listen-address={exporter_address}"));
        let exporter = Process::spawn("blackbox_exporter", command, exporter_address, &dir);
        exporter.wait_responding("/-/healthy").await;

        let addresses = &self.target.addresses.plain;
        let urls: Vec<String> = (0..rate as usize * interval as usize)
            .map(|number| format!("http://{}/page/{number}", addresses[number % addresses.len()]))
            .collect();
        let config = write(
            "prometheus.yml",
            json!({
                "global": {"scrape_interval": format!("{interval}s"), "scrape_timeout": format!("{interval}s")},
                "scrape_configs": [{
                    "job_name": "checks",
                    "metrics_path": "/probe",
                    "params": {"module": ["http_2xx"]},
                    "static_configs": [{"targets": urls}],
                    "relabel_configs": [
                        {"source_labels": ["__address__"], "target_label": "__param_target"},
                        {"source_labels": ["__param_target"], "target_label": "instance"},
                        {"target_label": "__address__", "replacement": exporter_address.to_string()},
                    ],
                }],
            }),
        )?;
        let mut command = Command::new(prometheus);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={prometheus_address}"));
        let store = Process::spawn("Prometheus", command, prometheus_address, &dir);
        store.wait_responding("/-/ready").await;
        sleep(DISCOVERY_DELAY + self.settle_time()).await;

        let parts = [("blackbox_exporter", exporter.pid()), ("Prometheus", store.pid())];
        let span = MeasurementWindow::observe(self.bed, &parts, self.window_length()).await?;
        // Prometheus stores a scrape at its end.
        sleep(Duration::from_secs(1)).await;
        let seconds = span.length_seconds().round();
        let aggregate = async |function: &str| {
            query_prometheus(&store, &format!("sum({function}(probe_success[{seconds:.0}s]))"), span.until)
                .await
        };
        let counts = (aggregate("count_over_time").await? as i64, aggregate("sum_over_time").await? as i64);
        // Prometheus reports quantiles of its scrape intervals as metrics of its own.
        let metrics = store.fetch_metrics().await;
        let excess = |quantile: &str| {
            let labels = format!("interval=\"{interval}s\",quantile=\"{quantile}\"");
            let seconds = metrics.sum(&format!("prometheus_target_interval_length_seconds{{{labels}}}"));
            seconds.map_or(f64::NAN, |seconds| (seconds - f64::from(interval)) * 1e3)
        };
        let lateness = Percentiles { p50: excess("0.5"), p99: excess("0.99"), max: f64::NAN };
        store.terminate().await;
        exporter.terminate().await;
        Ok(PeerResult::new("blackbox_exporter + Prometheus".to_owned(), rate, span, counts, lateness))
    }

    async fn measure_python(&self, python: &Path, mode: &str, rate: u32) -> Result<PeerResult, Error> {
        let interval = self.options.interval;
        let ports: Vec<String> =
            self.target.addresses.plain.iter().map(|address| address.port().to_string()).collect();
        self.bed.execute_sql("DROP SCHEMA IF EXISTS peer CASCADE").await?;
        self.bed.execute_sql(PYTHON_TABLES_SQL).await?;
        let sites = rate * interval;
        self.bed
            .execute_sql(&format!(
                "INSERT INTO peer.sites
                 SELECT n, 'http://127.0.0.1:' || (ARRAY[{}])[1 + n % {}] || '/page/' || n, {interval},
                        now() + interval '2 seconds' + n * interval '{interval} seconds' / {sites}
                 FROM generate_series(1, {sites}) AS n",
                ports.join(","),
                ports.len()
            ))
            .await?;
        self.bed.execute_sql("VACUUM ANALYZE peer.sites").await?;
        let file = self.bed.scratch_dir().join("checker.py");
        fs::write(&file, CHECKER_SOURCE).map_err(|error| Error::System("the checker", error))?;
        let listen = free_address();
        let mut command = Command::new(python);
        command.arg(&file).args([mode, &listen.port().to_string()]);
        command.env("DATABASE_URL", self.bed.postgres.url());
        let checker = Process::spawn("Python", command, listen, self.bed.scratch_dir());
        checker.wait_responding("/").await;
        sleep(self.settle_time()).await;

        let who = format!("Python, asyncio + aiohttp + asyncpg, {mode}");
        let parts = [("Python", checker.pid()), ("Postgres", self.bed.postgres.pid())];
        let span = MeasurementWindow::observe(self.bed, &parts, self.window_length()).await?;
        // Waits for the rows of running checks.
        sleep(Duration::from_secs(1)).await;
        let stats = span.read_tick_stats(self.bed, "peer.check_results").await?;
        checker.terminate().await;
        Ok(PeerResult::new(who, rate, span, (stats.rows, stats.up), stats.lateness_ms))
    }
}

impl PeerResult {
    /// Computes the result from a window, the number of checks in the window and the number of `up`
    /// results, and logs the result.
    fn new(
        who: String,
        offered: u32,
        span: MeasurementWindow,
        (checks, up): (i64, i64),
        lateness_ms: Percentiles,
    ) -> Self {
        let (seconds, cpu_us) = (span.length_seconds(), span.cpu_us(checks));
        let peer = Self { who, offered, seconds, checks, up, cpu_us, memory: span.memory, lateness_ms };
        log_progress(format_args!(
            "{} at {}/s: {} checks, {} up; {:.0} µs a check {:.1?}; lateness {} ms",
            peer.who,
            peer.offered,
            peer.checks,
            peer.up,
            peer.total_us(),
            peer.cpu_us,
            peer.lateness_ms
        ));
        peer
    }
}

/// Queries Prometheus for a number at a time. No series counts as 0.
async fn query_prometheus(prometheus: &Process, query: &str, at: OffsetDateTime) -> Result<f64, Error> {
    let time = at.unix_timestamp().to_string();
    let url = Url::parse_with_params("http://p/api/v1/query", [("query", query), ("time", &time)]);
    let url = url.map_err(|why| Error::Failed(why.to_string()))?;
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let response = prometheus.fetch(&path).await.map_err(Error::Failed)?.body;
    let value = serde_json::from_str::<Value>(&response).ok();
    let result = value.as_ref().and_then(|value| value["data"]["result"].as_array());
    let number = result.and_then(|result| match result.first() {
        Some(first) => first["value"][1].as_str()?.parse().ok(),
        None => Some(0.0),
    });
    number.ok_or_else(|| Error::Failed(format!("Prometheus, query {query}: {response}")))
}

/// Returns the first of these programs on the PATH.
fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .flat_map(|dir| names.iter().map(move |name| dir.join(name)))
        .find(|program| program.is_file())
}

async fn has_python_modules(python: &Path) -> bool {
    let output = Command::new(python).args(["-c", "import aiohttp, asyncpg, uvloop"]).output().await;
    output.is_ok_and(|output| output.status.success())
}

impl PeersReport {
    pub(crate) fn to_markdown(&self) -> String {
        let mut table = Table::new([
            "who",
            "checks/s offered",
            "done",
            "up",
            "CPU µs a check",
            "of which",
            "MiB (PSS)",
            "lateness ms p50 / p99 / max",
        ]);
        for peer in &self.peers {
            let each: Vec<_> =
                peer.cpu_us.iter().map(|(name, us)| format!("{name} {}", ShortNumber(*us))).collect();
            let memory: u64 = peer.memory.iter().map(|(_, bytes)| bytes).sum();
            table.add_row([
                peer.who.clone(),
                peer.offered.to_string(),
                format!("{:.0}", peer.checks as f64 / peer.seconds),
                peer.up.to_string(),
                format!("**{:.0}**", peer.total_us()),
                each.join(", "),
                (memory >> 20).to_string(),
                peer.lateness_ms.to_string(),
            ]);
        }
        let mut text = format!(
            "## Others that do the same\n\nOf Prometheus the lateness is how far the intervals of a target exceed what they should be.\n\n{table}"
        );
        for absent in &self.left_out {
            text += &format!("\nLeft out: {absent}.\n");
        }
        text
    }
}
