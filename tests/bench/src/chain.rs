//! `chain`: all parts on a single machine, each as its own process. Measures the cost of a check in
//! each part, the lateness, and the delay until its row is committed.

use std::{fmt::Write, time::Duration};

use picket_harness::{
    ledger::{count_ticks, sql_time},
    process::Process,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    Error,
    bench_report::RunOptions,
    log_progress,
    table::{Percentiles, ShortNumber, Table},
    target::BenchTarget,
    testbed::{REGION, Testbed, with_context},
    window::MeasurementWindow,
};

/// Offered load and durations.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Rates at which the chain is measured at length, in checks per second
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000])]
    pub(crate) rates: Vec<u32>,
    /// Maximum rate: from the last of the rates, the load rises by half an octave until the chain
    /// no longer keeps up; 0 measures the given rates only
    #[arg(long, default_value_t = 32_000)]
    pub(crate) most: u32,
    /// Measured time at each rate, in seconds
    #[arg(long, default_value_t = 20)]
    pub(crate) seconds: u64,
    /// Measured time at each rate while the load rises, in seconds
    #[arg(long, default_value_t = 8)]
    pub(crate) climb_seconds: u64,
    /// Interval of each site, in seconds
    #[arg(long, default_value_t = 5)]
    pub(crate) interval: u32,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// Results at a single rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadPoint {
    /// Due checks per second.
    pub(crate) offered: u32,
    pub(crate) schedules: i64,
    pub(crate) seconds: f64,
    /// Ticks of the span, and the rows found for them.
    pub(crate) expected: i64,
    pub(crate) found: i64,
    pub(crate) up: i64,
    pub(crate) missed: i64,
    /// Ticks without a row at the end of the wait.
    pub(crate) unaccounted: i64,
    /// CPU time per check in µs, by process.
    pub(crate) cpu_us: Vec<(&'static str, f64)>,
    /// Memory in bytes (PSS), by process.
    pub(crate) memory: Vec<(&'static str, u64)>,
    /// Time from the tick to the start of the check, in ms.
    pub(crate) lateness_ms: Percentiles,
    /// Time from the tick to the commit of the row, in ms.
    pub(crate) delay_ms: Percentiles,
}

impl LoadPoint {
    pub(crate) fn total_us(&self) -> f64 {
        self.cpu_us.iter().map(|(_, us)| us).sum()
    }

    pub(crate) fn part_us(&self, name: &str) -> f64 {
        self.cpu_us.iter().filter(|(process, _)| *process == name).map(|(_, us)| us).sum()
    }

    /// Completed checks per second.
    pub(crate) fn checks_per_s(&self) -> f64 {
        (self.found - self.missed) as f64 / self.seconds
    }

    /// Returns true if the chain kept up: each tick was checked in time.
    fn is_sustained(&self) -> bool {
        const MAX_LATENESS_MS: f64 = 1_000.0;
        self.unaccounted == 0
            && self.missed * 1_000 <= self.expected
            && self.lateness_ms.p99 < MAX_LATENESS_MS
    }
}

/// All results of the chain bench.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChainReport {
    pub(crate) levels: Vec<LoadPoint>,
    /// Highest rate at which the chain kept up, in checks per second.
    pub(crate) sustained_per_s: Option<f64>,
    /// Bytes on disk per row, including indexes.
    pub(crate) bytes_per_row: f64,
}

/// Maximum wait for rows after a span at rates that may exceed the capacity.
const ROW_WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum wait for rows at modest rates, which every machine should sustain. A long wait means a
/// failure.
const MODEST_ROW_WAIT_TIMEOUT: Duration = Duration::from_secs(90);
/// Highest modest rate, in checks per second.
const MAX_MODEST_RATE: u32 = 1_000;

/// Running processes of the chain.
pub(crate) struct ChainProcesses {
    processes: Vec<Process>,
    pids: Vec<(&'static str, u32)>,
}

impl ChainProcesses {
    /// Starts a process of each kind.
    pub(crate) async fn start(bed: &Testbed) -> Result<Self, Error> {
        let coordinator = bed.spawn_coordinator();
        // All sites of the bench share a few hosts.
        let prober = ["--region", REGION, "--allow-addresses", "127.0.0.0/8", "--per-host", "1000"];
        let prober = bed.spawn_process("picket-prober", &prober);
        let sink = bed.spawn_process("picket-sink", &[]);
        let parts = vec![
            ("coordinator", coordinator.pid()),
            ("NATS", bed.nats.pid()),
            ("prober", prober.pid()),
            ("sink", sink.pid()),
            ("Postgres", bed.postgres.pid()),
        ];
        let processes = vec![coordinator, prober, sink];
        for process in &processes {
            process.wait_ready().await;
        }
        log_progress(format_args!("processes: {parts:?}"));
        Ok(Self { processes, pids: parts })
    }

    /// Waits until the coordinator holds this number of schedules.
    pub(crate) async fn wait_scheduled(&self, schedules: u32) -> Result<(), Error> {
        crate::coordinator::wait_scheduled(&self.processes[0], schedules).await
    }

    /// Stops the processes gracefully.
    pub(crate) async fn stop(self) {
        for process in self.processes {
            process.terminate().await;
        }
    }

    /// Measures the running processes for `length`.
    pub(crate) async fn measure_load(
        &self,
        bed: &Testbed,
        offered: u32,
        length: Duration,
    ) -> Result<LoadPoint, Error> {
        let span = MeasurementWindow::observe(bed, &self.pids, length).await?;
        let mut level = wait_for_rows(bed, offered, &span).await?;
        // Missed checks cost less and do not count as checks.
        level.cpu_us = span.cpu_us((level.found - level.missed).max(1));
        level.memory = span.memory;
        log_progress(format_args!(
            "{offered}/s: {} of {} rows, {} missed, {} without a row; {:.0} µs a check {:.1?}; lateness {} ms; delay {} ms",
            level.found,
            level.expected,
            level.missed,
            level.unaccounted,
            level.total_us(),
            level.cpu_us,
            level.lateness_ms,
            level.delay_ms
        ));
        Ok(level)
    }
}

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let chain = measure_chain(options).await?;
    crate::bench_report::write_results(options.run_options.json.as_deref(), &chain, &chain.to_markdown())
}

/// Measures the chain.
pub(crate) async fn measure_chain(options: &Options) -> Result<ChainReport, Error> {
    let options = if options.run_options.smoke {
        Options { rates: vec![20, 40], most: 0, seconds: 2, interval: 1, ..options.clone() }
    } else {
        options.clone()
    };
    let target = BenchTarget::start()?;
    let bed = Testbed::start().await?;
    let running = ChainProcesses::start(&bed).await?;
    let mut sites = 0;
    let mut levels: Vec<LoadPoint> = Vec::new();
    let mut offered = options.rates.iter().map(|rate| (*rate, options.seconds)).collect::<Vec<_>>();
    let mut next = f64::from(options.rates.last().copied().unwrap_or_default()) * 2.0;
    while next <= f64::from(options.most) {
        offered.push((next as u32, options.climb_seconds));
        // Half an octave.
        next *= std::f64::consts::SQRT_2;
    }
    for (rate, seconds) in offered {
        let site_count = rate * options.interval;
        bed.add_sites(sites + 1, site_count, options.interval, &target.addresses.plain).await?;
        sites = sites.max(site_count);
        // Each site has been due once, and new sites run as steadily as the others.
        sleep(Duration::from_secs(u64::from(options.interval) + 1)).await;
        let level = running.measure_load(&bed, rate, Duration::from_secs(seconds)).await?;
        let keeps_up = level.is_sustained();
        levels.push(level);
        // Higher rates are not sustained either.
        if !keeps_up && rate > MAX_MODEST_RATE {
            break;
        }
    }
    let sustained =
        levels.iter().filter(|level| level.is_sustained()).map(LoadPoint::checks_per_s).reduce(f64::max);
    let bytes_per_row = measure_bytes_per_row(&bed).await?;
    // Work left over from an overload takes long to drain and does not matter here.
    bed.execute_sql("UPDATE picket.sites SET enabled = false").await?;
    running.stop().await;
    bed.stop().await?;
    Ok(ChainReport { levels, sustained_per_s: sustained, bytes_per_row })
}

/// Counts the outcomes of the ticks in a span, after all have a row or the wait has timed out.
async fn wait_for_rows(bed: &Testbed, offered: u32, span: &MeasurementWindow) -> Result<LoadPoint, Error> {
    const COUNT_SQL: &str = "SELECT count(*) FROM picket.check_results
        WHERE scheduled_at > $1 AND scheduled_at <= $2 AND kind = 'scheduled'";

    let schedules = bed.query_number("SELECT count(*) FROM picket.schedules WHERE valid_to IS NULL").await?;
    let count_ticks = async || {
        let counts = count_ticks(&bed.database, &sql_time(span.from), &sql_time(span.until)).await;
        counts.map_err(with_context("the ledger"))
    };
    let expected = count_ticks().await?.ticks;
    let deadline =
        Instant::now() + if offered > MAX_MODEST_RATE { ROW_WAIT_TIMEOUT } else { MODEST_ROW_WAIT_TIMEOUT };
    // Polls the number of rows, because a join with all ticks would slow the chain down.
    loop {
        let count: i64 = sqlx::query_scalar(COUNT_SQL)
            .bind(span.from)
            .bind(span.until)
            .fetch_one(&bed.database)
            .await
            .map_err(with_context("rows"))?;
        if count >= expected || Instant::now() > deadline {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let unaccounted = count_ticks().await?.unaccounted;
    let stats = span.read_tick_stats(bed, "picket.check_results").await?;
    Ok(LoadPoint {
        offered,
        schedules,
        seconds: span.length_seconds(),
        expected,
        found: stats.rows,
        up: stats.up,
        missed: stats.missed,
        unaccounted,
        cpu_us: Vec::new(),
        memory: Vec::new(),
        lateness_ms: stats.lateness_ms,
        delay_ms: stats.delay_ms,
    })
}

async fn measure_bytes_per_row(bed: &Testbed) -> Result<f64, Error> {
    bed.execute_sql("VACUUM picket.check_results").await?;
    let size = "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits
        WHERE inhparent = 'picket.check_results'::regclass";
    let rows = bed.query_number("SELECT count(*) FROM picket.check_results").await?;
    Ok(bed.query_number(size).await? as f64 / rows.max(1) as f64)
}

/// Builds the table of load points, also for other benches.
pub(crate) fn build_table(levels: &[LoadPoint]) -> Table {
    let parts = levels.first().map(|level| level.cpu_us.clone()).unwrap_or_default();
    let mut head = vec!["checks/s offered".to_owned(), "done".to_owned(), "schedules".to_owned()];
    head.extend(["ticks", "missed", "without a row", "CPU µs a check"].map(str::to_owned));
    head.extend(parts.iter().map(|(name, _)| (*name).to_owned()));
    head.extend(
        ["all but the prober", "lateness ms p50 / p99 / max", "due to committed ms p50 / p99 / max"]
            .map(str::to_owned),
    );
    let mut table = Table::new(head);
    for level in levels {
        let mut row = vec![
            level.offered.to_string(),
            format!("{:.0}", level.checks_per_s()),
            level.schedules.to_string(),
            level.expected.to_string(),
            level.missed.to_string(),
            level.unaccounted.to_string(),
            format!("**{:.0}**", level.total_us()),
        ];
        row.extend(level.cpu_us.iter().map(|(_, us)| ShortNumber(*us).to_string()));
        row.push(format!("{:.2}", 1.0 - level.part_us("prober") / level.total_us()));
        row.extend([level.lateness_ms.to_string(), level.delay_ms.to_string()]);
        table.add_row(row);
    }
    table
}

impl ChainReport {
    /// Load point at the highest sustained rate.
    pub(crate) fn highest_sustained(&self) -> Option<&LoadPoint> {
        self.levels.iter().rfind(|level| level.is_sustained())
    }

    /// Load point at half of the sustained rate, or the next above.
    pub(crate) fn half_sustained(&self) -> Option<&LoadPoint> {
        let half = self.sustained_per_s? / 2.0;
        self.levels.iter().find(|level| f64::from(level.offered) >= half * 0.99)
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::from("## The whole chain\n\n");
        // Writing to a string does not fail.
        let _ = write!(text, "{}", build_table(&self.levels));
        let sustained =
            self.sustained_per_s.map_or("nothing".to_owned(), |rate| format!("{rate:.0} checks/s"));
        let _ = writeln!(
            text,
            "\nSustained: {sustained}. On disk {:.0} bytes a row, with the index.",
            self.bytes_per_row
        );
        if let Some(half) = self.half_sustained() {
            let _ = writeln!(
                text,
                "At half of that, {}/s: lateness {} ms, from due to committed {} ms.",
                half.offered, half.lateness_ms, half.delay_ms
            );
        }
        if let Some(level) = self.levels.last() {
            let memory = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let each: Vec<_> =
                level.memory.iter().map(|(name, bytes)| format!("{name} {:.0}", memory(*bytes))).collect();
            let _ = writeln!(text, "Memory at the end, MiB (PSS): {}.", each.join(", "));
        }
        text
    }
}
