//! `growth`: a constant rate of checks with one, ten and a hundred times the schedules. The cost of
//! a check must not depend on the number of sites.

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

/// Rate, factors and durations.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Rate in checks per second
    #[arg(long, default_value_t = 1_000)]
    pub(crate) rate: u32,
    /// Interval of each site at factor 1, in seconds; grows with the number of sites
    #[arg(long, default_value_t = 5)]
    pub(crate) interval: u32,
    /// Factors of the number of schedules
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    pub(crate) times: Vec<u32>,
    /// Measured time at each factor, in seconds
    #[arg(long, default_value_t = 15)]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// All results of the scaling bench.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScalingReport {
    pub(crate) levels: Vec<LoadPoint>,
}

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let growth = measure_scaling(options).await?;
    crate::bench_report::write_results(options.run_options.json.as_deref(), &growth, &growth.to_markdown())
}

/// Measures all factors.
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
        // Ticks that became due during the start are completed.
        sleep(Duration::from_secs(u64::from(options.interval) + 1)).await;
        levels.push(running.measure_load(&bed, options.rate, Duration::from_secs(options.seconds)).await?);
        running.stop().await;
        bed.stop().await?;
    }
    Ok(ScalingReport { levels })
}

impl ScalingReport {
    /// Cost of a check with the most schedules, relative to the fewest.
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
