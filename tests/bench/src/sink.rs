//! `sink`: the cost of a row by the sink, from the stream to the commit, compared with `COPY` of
//! the same rows by psql into the same table.

use std::time::Duration;

use async_nats::{Subject, jetstream::message::PublishMessage};
use picket_harness::{builders::up_result, proc, process::Process, with_ticket};
use picket_proto::{CheckResult, RegionName, Shard, SiteId, Timestamp, result::Timing, subject};
use picket_runtime::streams::{self, StreamLimits};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Error,
    bench_report::RunOptions,
    log_progress,
    table::{ShortNumber, Table},
    testbed::{REGION, Testbed, with_context},
    windowed_publish,
};

/// Number of rows and rounds.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Results waiting in the stream
    #[arg(long, default_value_t = 300_000)]
    pub(crate) rows: u32,
    /// Results per message, as in the bundles of a busy prober; 1 sends each result alone
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) bundle: u8,
    /// Rounds, in turns
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// CPU time per row, in µs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct RowCost {
    /// CPU time of the sink or of psql.
    pub(crate) client_us: f64,
    pub(crate) postgres_us: f64,
    /// CPU time of NATS; 0 except for the sink.
    pub(crate) nats_us: f64,
    pub(crate) rows_per_s: f64,
}

impl RowCost {
    /// CPU time without NATS.
    fn total_us(self) -> f64 {
        self.client_us + self.postgres_us
    }
}

/// Costs of the three methods in a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SinkRound {
    pub(crate) sink: RowCost,
    pub(crate) copy_text: RowCost,
    pub(crate) copy_binary: RowCost,
}

/// All results of the sink bench.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SinkReport {
    pub(crate) rows: u32,
    pub(crate) bundle: u8,
    pub(crate) rounds: Vec<SinkRound>,
}

/// Ticks per site, as many as accumulate in a few minutes.
const TICKS_PER_SITE: u32 = 10;
const ACK_WINDOW: usize = 4_096;
const RESULTS_TABLE: &str = "picket.check_results";

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let sink = measure_sink(options).await?;
    crate::bench_report::write_results(options.run_options.json.as_deref(), &sink, &sink.to_markdown())
}

/// Measures the sink.
pub(crate) async fn measure_sink(options: &Options) -> Result<SinkReport, Error> {
    let options = match options.run_options.smoke {
        true => Options { rows: 2_000, rounds: 1, ..options.clone() },
        false => options.clone(),
    };
    let bed = Testbed::start().await?;
    let sites = options.rows / TICKS_PER_SITE;
    let no_listener = [([127, 0, 0, 1], 9).into()];
    bed.add_sites(1, sites, 60, &no_listener).await?;
    let (_, jetstream) = bed.connect_jetstream().await?;
    streams::create_if_missing(&jetstream, streams::results_config(StreamLimits::default()))
        .await
        .map_err(with_context("stream"))?;
    let shards: Vec<(i64, i16)> = sqlx::query_as("SELECT id, shard FROM picket.sites ORDER BY id")
        .fetch_all(&bed.database)
        .await
        .map_err(with_context("sites"))?;
    let now: Timestamp = bed.database_now().await?.into();
    let region: RegionName = REGION.parse().map_err(with_context("region"))?;
    let tickets = bed.load_tickets().await?;
    let results = (0..TICKS_PER_SITE).flat_map(|tick| {
        let (shards, region, tickets) = (&shards, &region, &tickets);
        shards.iter().enumerate().map(move |(number, (site, shard))| {
            let at = now.saturating_sub(
                Duration::from_secs(u64::from(TICKS_PER_SITE - tick) * 5)
                    - Duration::from_micros(number as u64),
            );
            with_ticket(build_result(SiteId(*site), Shard(shard.unsigned_abs()), region, at), tickets)
        })
    });
    windowed_publish::publish_windowed(
        &jetstream,
        build_messages(results, options.bundle.into()),
        ACK_WINDOW,
    )
    .await?;
    let measuring = SinkBench { bed: &bed, rows: sites * TICKS_PER_SITE };
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        if number > 0 {
            // A new consumer starts at the oldest message.
            let stream =
                jetstream.get_stream(subject::RESULTS_STREAM).await.map_err(with_context("stream"))?;
            stream.delete_consumer(subject::SINK_CONSUMER).await.map_err(with_context("consumer"))?;
            measuring.truncate_table().await?;
        }
        let sink = measuring.run_sink().await?;
        // COPY gets the same rows that the sink has written.
        let (text, binary) = (measuring.export_rows("text").await?, measuring.export_rows("binary").await?);
        let copy_text = measuring.measure_copy(&text, "text").await?;
        let copy_binary = measuring.measure_copy(&binary, "binary").await?;
        log_progress(format_args!("sink: {sink:?}, COPY: {copy_text:?}, binary: {copy_binary:?}"));
        rounds.push(SinkRound { sink, copy_text, copy_binary });
    }
    let rows = measuring.rows;
    bed.stop().await?;
    Ok(SinkReport { rows, bundle: options.bundle, rounds })
}

/// Builds messages as a prober sends them, with `bundle` results each.
fn build_messages(
    results: impl Iterator<Item = CheckResult>,
    bundle: usize,
) -> impl Iterator<Item = (Subject, PublishMessage)> {
    let mut results = results.peekable();
    std::iter::from_fn(move || {
        let first = results.peek()?;
        let subject = match (bundle, first.shard) {
            (1, Some(shard)) => subject::site_result(&first.region, shard),
            _ => subject::result_bundle(&first.region),
        };
        let lines =
            results.by_ref().take(bundle).map(|result| serde_json::to_vec(&result).unwrap_or_default());
        let lines: Vec<Vec<u8>> = lines.collect();
        Some((subject.into(), PublishMessage::build().payload(lines.join(&b'\n').into())))
    })
}

/// Builds the result of a plain successful check.
fn build_result(site: SiteId, shard: Shard, region: &RegionName, at: Timestamp) -> CheckResult {
    let phase = |us: u64| Some(us as u32 + (at.as_micros() % 97) as u32);
    let timing = Timing {
        connect_us: phase(60),
        first_byte_us: phase(100),
        transfer_us: phase(10),
        total_us: phase(200),
        ..Timing::default()
    };
    CheckResult { shard: Some(shard), timing, ..up_result(site, region, at) }
}

struct SinkBench<'a> {
    bed: &'a Testbed,
    rows: u32,
}

impl SinkBench<'_> {
    async fn run_sink(&self) -> Result<RowCost, Error> {
        self.bed.execute_sql("CHECKPOINT").await?;
        let cost = || (proc::cpu_seconds(self.bed.postgres.pid()), proc::cpu_seconds(self.bed.nats.pid()));
        let (before, began) = (cost(), Instant::now());
        let sink = self.bed.spawn_process("picket-sink", &[]);
        sink.wait_ready().await;
        self.wait_written(&sink).await?;
        let (wall, after) = (began.elapsed(), cost());
        let client = proc::cpu_seconds(sink.pid());
        sink.terminate().await;
        self.verify_row_count().await?;
        Ok(self.per_row_cost(client, after.0 - before.0, after.1 - before.1, wall))
    }

    /// Polls the sink's own metric, because a count would add to the CPU time of Postgres.
    async fn wait_written(&self, sink: &Process) -> Result<(), Error> {
        const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
        let written = async {
            while sink.fetch_metric("picket_sink_results_total").await < f64::from(self.rows) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(WRITE_TIMEOUT, written)
            .await
            .map_err(|_| Error::Failed("the sink did not write all results".to_owned()))
    }

    async fn measure_copy(&self, file: &str, format: &str) -> Result<RowCost, Error> {
        self.truncate_table().await?;
        self.bed.execute_sql("CHECKPOINT").await?;
        let postgres = self.bed.postgres.pid();
        let (before, children, began) =
            (proc::cpu_seconds(postgres), proc::ended_children_seconds(), Instant::now());
        self.run_psql(&format!("\\copy {RESULTS_TABLE} FROM '{file}' WITH (FORMAT {format})")).await?;
        let (after, client, wall) =
            (proc::cpu_seconds(postgres), proc::ended_children_seconds() - children, began.elapsed());
        self.verify_row_count().await?;
        Ok(self.per_row_cost(client, after - before, 0.0, wall))
    }

    /// Exports the rows of the table to a file.
    async fn export_rows(&self, format: &str) -> Result<String, Error> {
        let file = self.bed.scratch_dir().join(format!("rows.{format}")).display().to_string();
        self.run_psql(&format!("\\copy (SELECT * FROM {RESULTS_TABLE}) TO '{file}' WITH (FORMAT {format})"))
            .await?;
        Ok(file)
    }

    async fn run_psql(&self, command: &str) -> Result<(), Error> {
        const PSQL_TIMEOUT: Duration = Duration::from_secs(120);
        let run = self.bed.psql_command()?.args(["--command", command]).output();
        let output = timeout(PSQL_TIMEOUT, run).await.map_err(with_context("psql"))?;
        let output = output.map_err(|error| Error::System("psql", error))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::Failed(format!("psql: {}", String::from_utf8_lossy(&output.stderr)))),
        }
    }

    async fn truncate_table(&self) -> Result<(), Error> {
        self.bed.execute_sql("TRUNCATE picket.check_results").await
    }

    async fn verify_row_count(&self) -> Result<(), Error> {
        match self.bed.query_number("SELECT count(*) FROM picket.check_results").await? {
            rows if rows == i64::from(self.rows) => Ok(()),
            rows => Err(Error::Failed(format!("{rows} of {} rows were written", self.rows))),
        }
    }

    fn per_row_cost(&self, client: f64, postgres: f64, nats: f64, wall: Duration) -> RowCost {
        let rows = f64::from(self.rows);
        let each = |seconds: f64| seconds * 1e6 / rows;
        RowCost {
            client_us: each(client),
            postgres_us: each(postgres),
            nats_us: each(nats),
            rows_per_s: rows / wall.as_secs_f64(),
        }
    }
}

impl SinkReport {
    /// Rows per CPU-second by the sink and Postgres, relative to `COPY` and psql, over all rounds.
    pub(crate) fn cpu_ratio(&self, copy: fn(&SinkRound) -> RowCost) -> f64 {
        let sum =
            |of: fn(&SinkRound) -> RowCost| self.rounds.iter().map(|round| of(round).total_us()).sum::<f64>();
        sum(copy) / sum(|round| round.sink)
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut table = Table::new([
            "",
            "CPU µs a row",
            "client",
            "Postgres",
            "NATS",
            "rows/s",
            "rows per CPU-second by COPY's",
        ]);
        for round in &self.rounds {
            let ways = [
                ("sink", round.sink),
                ("`\\copy`, text", round.copy_text),
                ("`\\copy`, binary", round.copy_binary),
            ];
            for (name, cost) in ways {
                let ratio = match name {
                    "sink" => format!(
                        "**{:.2}** (binary {:.2})",
                        round.copy_text.total_us() / cost.total_us(),
                        round.copy_binary.total_us() / cost.total_us()
                    ),
                    _ => String::new(),
                };
                table.add_row([
                    name.to_owned(),
                    ShortNumber(cost.total_us()).to_string(),
                    ShortNumber(cost.client_us).to_string(),
                    ShortNumber(cost.postgres_us).to_string(),
                    ShortNumber(cost.nats_us).to_string(),
                    format!("{:.0}", cost.rows_per_s),
                    ratio,
                ]);
            }
        }
        format!(
            "## The sink beside COPY\n\n{} rows from the stream, {} in a message; then the same rows by psql into the emptied table. CPU of the client and Postgres, without NATS.\n\n{table}",
            self.rows, self.bundle
        )
    }
}
