//! `sink`: what a row costs by the sink, from the stream to the commit, beside `COPY` of the same rows by psql into the
//! same table.

use std::time::Duration;

use async_nats::{Subject, jetstream::message::PublishMessage};
use picket_proto::{CheckResult, Kind, Outcome, Region, Shard, SiteId, Timestamp, result::Timing, subject};
use picket_runtime::streams::{self, Durability};
use picket_testkit::with_ticket;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Error,
    bed::{Bed, Process, REGION, failed},
    bus, cpu,
    report::How,
    say,
    table::{Short, Table},
};

/// How much is written.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Results that wait in the stream
    #[arg(long, default_value_t = 300_000)]
    pub(crate) rows: u32,
    /// Results in one message, as a prober sends them that has so many ready at the same moment; 1: each in its own
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) bundle: u8,
    /// How often, in turns
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) how: How,
}

/// What a row cost, in CPU µs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// The sink's, or psql's.
    pub(crate) client_us: f64,
    pub(crate) postgres_us: f64,
    /// The bus's; of the sink alone.
    pub(crate) nats_us: f64,
    pub(crate) rows_per_s: f64,
}

impl Cost {
    /// Without the bus.
    fn us(self) -> f64 {
        self.client_us + self.postgres_us
    }
}

/// The three ways, in one turn.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) sink: Cost,
    pub(crate) copy_text: Cost,
    pub(crate) copy_binary: Cost,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sink {
    pub(crate) rows: u32,
    pub(crate) bundle: u8,
    pub(crate) rounds: Vec<Round>,
}

/// As many ticks of each site as a few minutes bring.
const TICKS: u32 = 10;
const WINDOW: usize = 4_096;
const TABLE: &str = "picket.check_results";

/// Measures, and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let sink = measure(options).await?;
    crate::report::write(options.how.json.as_deref(), &sink, &sink.markdown())
}

/// Measures.
pub(crate) async fn measure(options: &Options) -> Result<Sink, Error> {
    let options = match options.how.smoke {
        true => Options { rows: 2_000, rounds: 1, ..options.clone() },
        false => options.clone(),
    };
    let bed = Bed::start().await?;
    let sites = options.rows / TICKS;
    let nobody = [([127, 0, 0, 1], 9).into()];
    bed.add_sites(1, sites, 60, &nobody).await?;
    let (_, jetstream) = bed.jetstream().await?;
    streams::ensure(&jetstream, streams::results(Durability::default())).await.map_err(failed("stream"))?;
    let shards: Vec<(i64, i16)> = sqlx::query_as("SELECT id, shard FROM picket.sites ORDER BY id")
        .fetch_all(&bed.database)
        .await
        .map_err(failed("sites"))?;
    let now: Timestamp = bed.now().await?.into();
    let region: Region = REGION.parse().map_err(failed("region"))?;
    let tickets = bed.tickets().await?;
    let results = (0..TICKS).flat_map(|tick| {
        let (shards, region, tickets) = (&shards, &region, &tickets);
        shards.iter().enumerate().map(move |(number, (site, shard))| {
            let at = now.minus(
                Duration::from_secs(u64::from(TICKS - tick) * 5) - Duration::from_micros(number as u64),
            );
            with_ticket(result(SiteId(*site), Shard(shard.unsigned_abs()), region, at), tickets)
        })
    });
    bus::publish(&jetstream, messages(results, options.bundle.into()), WINDOW).await?;
    let measuring = Measuring { bed: &bed, rows: sites * TICKS };
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        if number > 0 {
            // Whoever reads anew begins with the oldest.
            let stream = jetstream.get_stream(subject::RESULTS).await.map_err(failed("stream"))?;
            stream.delete_consumer(subject::SINK).await.map_err(failed("consumer"))?;
            measuring.empty().await?;
        }
        let sink = measuring.sink().await?;
        let (text, binary) = (measuring.export("text").await?, measuring.export("binary").await?);
        let copy_text = measuring.copy(&text, "text").await?;
        let copy_binary = measuring.copy(&binary, "binary").await?;
        say(format_args!("sink: {sink:?}, COPY: {copy_text:?}, binary: {copy_binary:?}"));
        rounds.push(Round { sink, copy_text, copy_binary });
    }
    let rows = measuring.rows;
    bed.stop().await?;
    Ok(Sink { rows, bundle: options.bundle, rounds })
}

/// As a prober sends them that has so many at a time.
fn messages(
    results: impl Iterator<Item = CheckResult>,
    bundle: usize,
) -> impl Iterator<Item = (Subject, PublishMessage)> {
    let mut results = results.peekable();
    std::iter::from_fn(move || {
        let first = results.peek()?;
        let subject = match (bundle, first.shard) {
            (1, Some(shard)) => subject::result(&first.region, shard),
            _ => subject::results(&first.region),
        };
        let lines =
            results.by_ref().take(bundle).map(|result| serde_json::to_vec(&result).unwrap_or_default());
        let lines: Vec<Vec<u8>> = lines.collect();
        Some((subject.into(), PublishMessage::build().payload(lines.join(&b'\n').into())))
    })
}

/// A plain check that went well, as a prober tells it.
fn result(site: SiteId, shard: Shard, region: &Region, at: Timestamp) -> CheckResult {
    let phase = |us: u64| Some(us as u32 + (at.micros() % 97) as u32);
    CheckResult {
        v: picket_proto::VERSION,
        id: format!("{site}.{region}.{}", at.millis()),
        site_id: Some(site),
        kind: Kind::Scheduled,
        region: region.clone(),
        shard: Some(shard),
        prober: "bench-0000".to_owned(),
        url: format!("http://127.0.0.1:20000/page/{site}"),
        scheduled_at: at,
        expires_at: None,
        started_at: Some(at.plus(Duration::from_millis(7))),
        outcome: Outcome::Up,
        cause: None,
        message: None,
        http_status: Some(200),
        http_version: Some("1.1".to_owned()),
        remote_addr: Some("127.0.0.1:20000".to_owned()),
        timing: Timing {
            connect_us: phase(60),
            first_byte_us: phase(100),
            transfer_us: phase(10),
            total_us: phase(200),
            ..Timing::default()
        },
        redirects: 0,
        body_bytes: 1_024,
        regex_matched: None,
        tls_expires_at: None,
        installation: None,
        ticket: None,
    }
}

struct Measuring<'a> {
    bed: &'a Bed,
    rows: u32,
}

impl Measuring<'_> {
    async fn sink(&self) -> Result<Cost, Error> {
        self.bed.execute("CHECKPOINT").await?;
        let cost = || (cpu::seconds(self.bed.postgres.pid()), cpu::seconds(self.bed.nats.pid()));
        let (before, began) = (cost(), Instant::now());
        let sink = self.bed.process("picket-sink", &[])?;
        sink.ready().await?;
        self.until_written(&sink).await?;
        let (wall, after) = (began.elapsed(), cost());
        let client = cpu::seconds(sink.pid);
        sink.stop().await?;
        self.all_there().await?;
        Ok(self.cost(client, after.0 - before.0, after.1 - before.1, wall))
    }

    /// Asks the sink itself: a count would be Postgres's work.
    async fn until_written(&self, sink: &Process) -> Result<(), Error> {
        const LIMIT: Duration = Duration::from_secs(120);
        let written = async {
            while sink.metric("picket_sink_results_total").await < f64::from(self.rows) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LIMIT, written)
            .await
            .map_err(|_| Error::Failed("the sink did not write all results".to_owned()))
    }

    async fn copy(&self, file: &str, format: &str) -> Result<Cost, Error> {
        self.empty().await?;
        self.bed.execute("CHECKPOINT").await?;
        let postgres = self.bed.postgres.pid();
        let (before, children, began) = (cpu::seconds(postgres), cpu::ended_seconds(), Instant::now());
        self.psql(&format!("\\copy {TABLE} FROM '{file}' WITH (FORMAT {format})")).await?;
        let (after, client, wall) =
            (cpu::seconds(postgres), cpu::ended_seconds() - children, began.elapsed());
        self.all_there().await?;
        Ok(self.cost(client, after - before, 0.0, wall))
    }

    /// The rows that are there as a file.
    async fn export(&self, format: &str) -> Result<String, Error> {
        let file = self.bed.dir().join(format!("rows.{format}")).display().to_string();
        self.psql(&format!("\\copy (SELECT * FROM {TABLE}) TO '{file}' WITH (FORMAT {format})")).await?;
        Ok(file)
    }

    async fn psql(&self, command: &str) -> Result<(), Error> {
        const LIMIT: Duration = Duration::from_secs(120);
        let run = self.bed.psql()?.args(["--command", command]).output();
        let output = timeout(LIMIT, run).await.map_err(failed("psql"))?;
        let output = output.map_err(|error| Error::System("psql", error))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::Failed(format!("psql: {}", String::from_utf8_lossy(&output.stderr)))),
        }
    }

    async fn empty(&self) -> Result<(), Error> {
        self.bed.execute("TRUNCATE picket.check_results").await
    }

    async fn all_there(&self) -> Result<(), Error> {
        match self.bed.number("SELECT count(*) FROM picket.check_results").await? {
            rows if rows == i64::from(self.rows) => Ok(()),
            rows => Err(Error::Failed(format!("{rows} of {} rows are there", self.rows))),
        }
    }

    fn cost(&self, client: f64, postgres: f64, nats: f64, wall: Duration) -> Cost {
        let rows = f64::from(self.rows);
        let each = |seconds: f64| seconds * 1e6 / rows;
        Cost {
            client_us: each(client),
            postgres_us: each(postgres),
            nats_us: each(nats),
            rows_per_s: rows / wall.as_secs_f64(),
        }
    }
}

impl Sink {
    /// Rows per CPU-second by the sink and Postgres, by those of `COPY` and psql, over all rounds.
    pub(crate) fn ratio(&self, copy: fn(&Round) -> Cost) -> f64 {
        let sum = |of: fn(&Round) -> Cost| self.rounds.iter().map(|round| of(round).us()).sum::<f64>();
        sum(copy) / sum(|round| round.sink)
    }

    pub(crate) fn markdown(&self) -> String {
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
                        round.copy_text.us() / cost.us(),
                        round.copy_binary.us() / cost.us()
                    ),
                    _ => String::new(),
                };
                table.row([
                    name.to_owned(),
                    Short(cost.us()).to_string(),
                    Short(cost.client_us).to_string(),
                    Short(cost.postgres_us).to_string(),
                    Short(cost.nats_us).to_string(),
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
