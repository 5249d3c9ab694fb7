//! Cost of live results: an API process as deployed, with viewers that read all of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use picket_harness::{builders::up_result, proc, process, sse::SseStream};
use picket_proto::{CheckResult, RegionName, Shard, SiteId, subject};
use picket_runtime::clock;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    Error,
    bench_report::{RunOptions, write_results},
    contenders::raise_file_limit,
    log_progress,
    table::{Percentiles, ShortNumber, Table},
    testbed::{REGION, Testbed, with_context},
};

/// Sizes of the bench.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Viewers of all results
    #[arg(long, default_value_t = 1_000)]
    pub(crate) viewers: usize,
    /// Results a second, in turns
    #[arg(long, value_delimiter = ',', default_values_t = [5, 20, 50])]
    pub(crate) rates: Vec<u32>,
    /// Seconds of each rate
    #[arg(long, default_value_t = 15)]
    pub(crate) seconds: u32,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// The stream of all results.
const ALL_RESULTS: &str = "/api/v1/live?event=result";

/// What viewers cost.
#[derive(Clone, Debug, Serialize)]
struct LiveCost {
    viewers: usize,
    /// Memory of the process for each open stream, in bytes.
    bytes_per_viewer: u64,
    rates: Vec<RateCost>,
}

/// Cost at one rate.
#[derive(Clone, Debug, Serialize)]
struct RateCost {
    per_second: u32,
    published: u64,
    /// Results that the viewers received together.
    delivered: u64,
    /// CPU time of the API process for each delivered result, in µs.
    cpu_us: f64,
    /// CPU time of the API process in percent of a core.
    cpu_percent: f64,
    /// CPU time of the server for each published result, in µs.
    nats_us: f64,
    /// From the publish to the arrival at a viewer, in ms.
    delay_ms: Percentiles,
}

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let options = match options.run_options.smoke {
        true => Options { viewers: 20, rates: vec![20], seconds: 1, ..options.clone() },
        false => options.clone(),
    };
    // Before the API process is started, which inherits it.
    raise_file_limit();
    let bed = Testbed::start().await?;
    let address = process::free_address();
    let api = bed.spawn_process("picket-api", &["--api-listen", &address.to_string()]);
    api.wait_ready().await;
    let received = Arc::new(AtomicU64::new(0));
    let mut viewers = JoinSet::new();
    // The first streams also pay for one-time allocations, and are excluded.
    open_viewers(&mut viewers, address, ALL_RESULTS, 50.min(options.viewers), &received).await?;
    let before = proc::memory_bytes(api.pid());
    let more = options.viewers - viewers.len();
    open_viewers(&mut viewers, address, ALL_RESULTS, more, &received).await?;
    let after = proc::memory_bytes(api.pid());
    let mut rates = Vec::new();
    for rate in &options.rates {
        let cost = measure_rate(&bed, address, api.pid(), *rate, options.seconds, &received).await?;
        log_progress(format_args!("{rate}/s to {} viewers: {:.2} µs a result", options.viewers, cost.cpu_us));
        rates.push(cost);
    }
    let cost = LiveCost {
        viewers: options.viewers,
        bytes_per_viewer: after.saturating_sub(before) / more.max(1) as u64,
        rates,
    };
    drop(viewers);
    api.stop().await;
    bed.stop().await?;
    write_results(options.run_options.json.as_deref(), &cost, &format_markdown(&cost))
}

/// Opens streams of `path` that are read to their end, and counts their results.
pub(crate) async fn open_viewers(
    viewers: &mut JoinSet<()>,
    address: SocketAddr,
    path: &str,
    count: usize,
    received: &Arc<AtomicU64>,
) -> Result<(), Error> {
    for _ in 0..count {
        let mut connection = TcpStream::connect(address).await.map_err(with_context("connect"))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.map_err(with_context("request"))?;
        let mut head = [0; 1_024];
        let read = connection.read(&mut head).await.map_err(with_context("response"))?;
        if !head[..read].starts_with(b"HTTP/1.1 200") {
            return Err(Error::Failed(String::from_utf8_lossy(&head[..read]).into_owned()));
        }
        viewers.spawn(count_results(connection, Arc::clone(received)));
    }
    Ok(())
}

/// Counts the results in a stream until it ends.
async fn count_results(mut connection: TcpStream, received: Arc<AtomicU64>) {
    const MARK: &[u8] = b"event: result";
    let (mut piece, mut kept) = (vec![0; 8 << 10], 0);
    while let Ok(read) = connection.read(&mut piece[kept..]).await {
        if read == 0 {
            return;
        }
        let text = &piece[..kept + read];
        let found = text.windows(MARK.len()).filter(|window| *window == MARK).count();
        received.fetch_add(found as u64, Ordering::Relaxed);
        // The end of this piece may be the beginning of the next mark.
        let rest = (MARK.len() - 1).min(text.len());
        let from = text.len() - rest;
        piece.copy_within(from..from + rest, 0);
        kept = rest;
    }
}

async fn measure_rate(
    bed: &Testbed,
    address: SocketAddr,
    api: u32,
    rate: u32,
    seconds: u32,
    received: &AtomicU64,
) -> Result<RateCost, Error> {
    const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
    let (client, _) = bed.connect_jetstream().await?;
    let region: RegionName = REGION.parse().map_err(with_context("region"))?;
    let total = u64::from(rate) * u64::from(seconds);
    let mut sampled = SseStream::get(address, ALL_RESULTS).await;
    let sampling = tokio::spawn(async move {
        let mut delays = Vec::new();
        while (delays.len() as u64) < total {
            let event = sampled.expect_event("result").await;
            let result: CheckResult = serde_json::from_str(&event.data).map_err(with_context("result"))?;
            let delay = clock::wall_clock_now().saturating_duration_since(result.scheduled_at);
            delays.push(delay.as_secs_f64() * 1e3);
        }
        Ok::<_, Error>(delays)
    });
    sleep(Duration::from_secs(1)).await;
    let before = received.load(Ordering::Relaxed);
    let (api_before, nats_before, began) =
        (proc::cpu_seconds(api), proc::cpu_seconds(bed.nats.pid()), Instant::now());
    let mut ticks = interval(Duration::from_secs(1) / rate);
    for number in 0..total {
        ticks.tick().await;
        let site = SiteId(i64::try_from(number).unwrap_or(i64::MAX));
        let up = up_result(site, &region, clock::wall_clock_now());
        let result = CheckResult { shard: Some(Shard(7)), ..up };
        let payload = serde_json::to_vec(&result).map_err(with_context("result"))?;
        let publish = client.publish(subject::site_result(&region, Shard(7)), payload.into());
        publish.await.map_err(with_context("publish"))?;
    }
    let sampled = timeout(DELIVERY_TIMEOUT, sampling).await;
    let delays = sampled.map_err(with_context("results"))?.map_err(with_context("viewer"))??;
    // The other viewers have the last results some milliseconds later.
    sleep(Duration::from_secs(1)).await;
    let (cpu, elapsed) = (proc::cpu_seconds(api) - api_before, began.elapsed().as_secs_f64());
    let nats = proc::cpu_seconds(bed.nats.pid()) - nats_before;
    let delivered = received.load(Ordering::Relaxed) - before + delays.len() as u64;
    Ok(RateCost {
        per_second: rate,
        published: total,
        delivered,
        cpu_us: cpu * 1e6 / delivered.max(1) as f64,
        cpu_percent: cpu * 100.0 / elapsed,
        nats_us: nats * 1e6 / total.max(1) as f64,
        delay_ms: Percentiles::from_samples(delays),
    })
}

fn format_markdown(cost: &LiveCost) -> String {
    let mut table = Table::new([
        "results/s",
        "delivered of due",
        "CPU µs of the API a delivered result",
        "% of a core",
        "CPU µs of NATS a result",
        "delay ms: p50 / p99 / max",
    ]);
    for rate in &cost.rates {
        let due = rate.published * (cost.viewers as u64 + 1);
        table.add_row([
            rate.per_second.to_string(),
            format!("{} of {due}", rate.delivered),
            ShortNumber(rate.cpu_us).to_string(),
            ShortNumber(rate.cpu_percent).to_string(),
            ShortNumber(rate.nats_us).to_string(),
            rate.delay_ms.to_string(),
        ]);
    }
    format!(
        "## What live results cost\n\n{} viewers of all results, {} KiB of memory each.\n\n{table}",
        cost.viewers,
        ShortNumber(cost.bytes_per_viewer as f64 / 1024.0)
    )
}
