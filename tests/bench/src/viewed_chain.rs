//! `viewed-chain`: what an API process without viewers, and one with viewers of the live page, add
//! to the cost of a check.
//!
//! The three conditions take turns on one running chain. The cost of the API process itself stands
//! beside that of the chain.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use picket_harness::{percentiles::Samples, proc, process};
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    Error,
    bench_report::{RunOptions, write_results},
    chain::{ChainProcesses, LoadPoint},
    live::open_viewers,
    table::{ShortNumber, Table},
    target::BenchTarget,
    testbed::Testbed,
};

/// Load, turns and viewers.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Checks per second
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Viewers of all events
    #[arg(long, default_value_t = 10)]
    viewers: usize,
    /// Turns of the three conditions
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Measured time of each condition, in seconds
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    #[command(flatten)]
    run_options: RunOptions,
}

/// Interval of each site, in seconds.
const INTERVAL_S: u32 = 5;
const CONDITIONS: [&str; 3] =
    ["no API process", "an API process without viewers", "viewers of the live page"];

/// Results of a condition.
#[derive(Clone, Debug, Default, Serialize)]
struct ConditionResult {
    /// CPU time of a check in µs, of all processes but the API.
    chain_us: Vec<f64>,
    /// CPU time of the API process for a check, in µs.
    api_us: Vec<f64>,
    lateness_p99_ms: Vec<f64>,
    /// Checks without a row, or missed.
    lost: i64,
}

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let options = match options.run_options.smoke {
        true => Options { rate: 20, viewers: 2, turns: 1, seconds: 2, ..options.clone() },
        false => options.clone(),
    };
    let target = BenchTarget::start()?;
    let bed = Testbed::start().await?;
    let running = ChainProcesses::start(&bed).await?;
    bed.add_sites(1, options.rate * INTERVAL_S, INTERVAL_S, &target.addresses.plain).await?;
    // Each site has been due once.
    sleep(Duration::from_secs(u64::from(INTERVAL_S) + 1)).await;
    let mut results: [ConditionResult; 3] = Default::default();
    for _ in 0..options.turns {
        for (number, result) in results.iter_mut().enumerate() {
            measure_condition(&bed, &running, &options, number, result).await?;
        }
    }
    bed.execute_sql("UPDATE picket.sites SET enabled = false").await?;
    running.stop().await;
    bed.stop().await?;
    write_results(options.run_options.json.as_deref(), &results, &format_markdown(&options, &results))
}

async fn measure_condition(
    bed: &Testbed,
    running: &ChainProcesses,
    options: &Options,
    condition: usize,
    result: &mut ConditionResult,
) -> Result<(), Error> {
    let address = process::free_address();
    let mut viewers = JoinSet::new();
    let api = match condition {
        0 => None,
        _ => {
            let api = bed.spawn_process("picket-api", &["--api-listen", &address.to_string()]);
            api.wait_ready().await;
            Some(api)
        }
    };
    if condition == 2 {
        let received = Arc::new(AtomicU64::new(0));
        open_viewers(&mut viewers, address, "/api/v1/live", options.viewers, &received).await?;
    }
    let api_cpu = || api.as_ref().map_or(0.0, |api| proc::cpu_seconds(api.pid()));
    let before = api_cpu();
    let level = running.measure_load(bed, options.rate, Duration::from_secs(options.seconds)).await?;
    let checks = (level.found - level.missed).max(1) as f64;
    result.chain_us.push(level.total_us());
    result.api_us.push((api_cpu() - before) * 1e6 / checks);
    result.lateness_p99_ms.push(level.lateness_ms.p99);
    result.lost += count_lost(&level);
    drop(viewers);
    if let Some(api) = api {
        api.stop().await;
    }
    Ok(())
}

fn count_lost(level: &LoadPoint) -> i64 {
    level.missed + level.unaccounted
}

fn format_markdown(options: &Options, results: &[ConditionResult; 3]) -> String {
    let median = |samples: &[f64]| Samples::new(samples.to_vec()).quantile(0.5).unwrap_or(f64::NAN);
    let base = median(&results[0].chain_us);
    let mut table = Table::new([
        "",
        "CPU µs a check, all but the API",
        "relative",
        "CPU µs a check of the API",
        "lateness ms p99",
        "missed or without a row",
    ]);
    for (name, result) in CONDITIONS.iter().zip(results) {
        let chain = median(&result.chain_us);
        table.add_row([
            (*name).to_owned(),
            ShortNumber(chain).to_string(),
            format!("{:.3}", chain / base),
            ShortNumber(median(&result.api_us)).to_string(),
            ShortNumber(median(&result.lateness_p99_ms)).to_string(),
            result.lost.to_string(),
        ]);
    }
    let Options { rate, viewers, turns, seconds, .. } = options;
    format!(
        "## The chain with viewers\n\n{rate} checks/s, {viewers} viewers of all events, {turns} turns of {seconds} s \
         (medians).\n\n{table}\nWanted: relative cost of at most 1.05.\n"
    )
}
