//! `growth`: the same checks a second with one, ten and a hundred times the schedules: what a check costs must not follow
//! how many sites there are.

use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use crate::{
    Error,
    bench_report::RunOptions,
    chain::{self, ChainProcesses, LoadPoint},
    target::BenchTarget,
    testbed::Testbed,
};

/// How much.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Checks a second
    #[arg(long, default_value_t = 1_000)]
    pub(crate) rate: u32,
    /// How often each site is checked at first, in seconds; the more sites, the longer
    #[arg(long, default_value_t = 5)]
    pub(crate) interval: u32,
    /// By how much the schedules grow
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    pub(crate) times: Vec<u32>,
    /// How long each is measured, in seconds
    #[arg(long, default_value_t = 15)]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScalingReport {
    pub(crate) levels: Vec<LoadPoint>,
}

/// Measures, and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let growth = measure_scaling(options).await?;
    crate::bench_report::write_results(options.run_options.json.as_deref(), &growth, &growth.to_markdown())
}

/// Measures.
pub(crate) async fn measure_scaling(options: &Options) -> Result<ScalingReport, Error> {
    let options = match options.run_options.smoke {
        true => Options { rate: 20, interval: 1, times: vec![1, 10], seconds: 2, ..options.clone() },
        false => options.clone(),
    };
    let target = BenchTarget::start()?;
    let mut levels = Vec::new();
    for times in &options.times {
        let bed = Testbed::start().await?;
        let interval = options.interval * times;
        bed.bulk_insert_sites(options.rate * interval, interval, &target.addresses.plain).await?;
        let running = ChainProcesses::start(&bed).await?;
        running.wait_scheduled(options.rate * interval).await?;
        // What was due while they started is done.
        sleep(Duration::from_secs(u64::from(options.interval) + 1)).await;
        levels.push(running.measure_load(&bed, options.rate, Duration::from_secs(options.seconds)).await?);
        running.stop().await?;
        bed.stop().await?;
    }
    Ok(ScalingReport { levels })
}

impl ScalingReport {
    /// What a check costs with the most schedules, by what it costs with the fewest.
    pub(crate) fn cost_ratio(&self) -> f64 {
        match self.levels.as_slice() {
            [first, .., last] => last.total_us() / first.total_us(),
            _ => f64::NAN,
        }
    }

    pub(crate) fn to_markdown(&self) -> String {
        format!(
            "## More schedules, as many checks a second\n\n{}\nWith the most schedules a check costs {:.2} of what it costs with the fewest.\n",
            chain::build_table(&self.levels),
            self.cost_ratio()
        )
    }
}
