//! `web`: what a page and a list cost with a thousand and with a hundred thousand sites, and the
//! list of the API beside its statement alone.
//!
//! Both databases are on this machine at once and are asked in turns, so that a slow moment of the
//! machine meets both. Only a few sites have rollups and rows: 90 days of all sites would be
//! hundreds of millions of rows. The number of sites with history is the same in both databases.

mod list_cost;
mod requests;

use std::fmt::Write as _;

use serde::Serialize;

use self::{
    list_cost::{ListCost, measure_list_cost},
    requests::{RequestTimes, WebServer, measure_requests},
};
use crate::{
    Error,
    bench_report::{RunOptions, write_results},
    log_progress,
    table::{ShortNumber, Table},
    testbed::Testbed,
};

/// Sizes of the bench.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Sites of the small and of the large database
    #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [1_000, 100_000])]
    pub(crate) sites: Vec<u32>,
    /// Sites with rollups and rows, in each database
    #[arg(long, default_value_t = 20)]
    pub(crate) with_history: u32,
    /// Requests of each kind to each database
    #[arg(long, default_value_t = 40)]
    pub(crate) rounds: usize,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// Wanted maximum of the ratio of the 95th percentiles, and of the larger one in milliseconds.
const MAX_RATIO: f64 = 2.0;
const MAX_P95_MS: f64 = 300.0;
/// Wanted maximum of the CPU time of a list, relative to its statement and serialization.
const MAX_LIST_RATIO: f64 = 3.0;

/// All results.
#[derive(Clone, Debug, Serialize)]
struct WebReport {
    sites: Vec<u32>,
    with_history: u32,
    rounds: usize,
    requests: Vec<RequestTimes>,
    list: ListCost,
}

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let options = match options.run_options.smoke {
        true => Options { sites: vec![100, 200], with_history: 2, rounds: 2, ..options.clone() },
        false => options.clone(),
    };
    let mut servers = Vec::new();
    for sites in &options.sites {
        let bed = Testbed::start_without_region().await?;
        log_progress(format_args!("filling a database of {sites} sites"));
        let sample = (sites / options.with_history.max(1)).max(8);
        let script = include_str!("web/fill.sql")
            .replace("{sites}", &sites.to_string())
            .replace("{sample}", &sample.to_string());
        let (script, vacuum) = script.split_once("VACUUM").unwrap_or((&script, ""));
        bed.execute_sql(script).await?;
        bed.execute_sql(&format!("VACUUM{vacuum}")).await?;
        servers.push(WebServer::start(bed, sample, options.with_history).await?);
    }
    let [small, large] = &servers[..] else {
        return Err(Error::Failed("two numbers of sites are needed".to_owned()));
    };
    let requests = measure_requests(small, large, options.rounds).await?;
    let list = measure_list_cost(large, options.run_options.smoke).await?;
    for server in servers {
        server.stop().await?;
    }
    let Options { sites, with_history, rounds, run_options } = options;
    let report = WebReport { sites, with_history, rounds, requests, list };
    write_results(run_options.json.as_deref(), &report, &report.to_markdown())
}

impl WebReport {
    fn to_markdown(&self) -> String {
        let mut text = String::from("## Pages and lists\n\n");
        let [small, large] = self.sites[..] else { return text };
        let mut table = Table::new([
            "request".to_owned(),
            format!("p50 / p95 ms, {small} sites"),
            format!("{large} sites"),
            "ratio of p95".to_owned(),
            "KiB".to_owned(),
        ]);
        let mut missed = Vec::new();
        for times in &self.requests {
            let pair = |[p50, p95]: [f64; 2]| format!("{} / {}", ShortNumber(p50), ShortNumber(p95));
            table.add_row([
                times.name.to_owned(),
                pair(times.small_ms),
                pair(times.large_ms),
                format!("{:.2}", times.ratio()),
                ShortNumber(times.large_bytes as f64 / 1024.0).to_string(),
            ]);
            if times.ratio() > MAX_RATIO || times.large_ms[1] > MAX_P95_MS {
                missed.push(times.name);
            }
        }
        let list = &self.list;
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{} requests of each kind to each, in turns; {} sites of each have history.\n\n{table}\nWanted: a ratio of \
             at most {MAX_RATIO} and a p95 of at most {MAX_P95_MS} ms. Missed by: {}.\n\n\
             A list of 100 sites costs {:.2} ms of CPU time, Postgres included; its statement and its serialization \
             alone cost {:.2} ms: ratio {:.2}, wanted at most {MAX_LIST_RATIO}. Without Postgres: {:.2} and {:.2} ms.\n",
            self.rounds,
            self.with_history,
            if missed.is_empty() { "none".to_owned() } else { missed.join(", ") },
            list.api_ms + list.api_postgres_ms,
            list.alone_ms + list.alone_postgres_ms,
            list.ratio(),
            list.api_ms,
            list.alone_ms,
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::requests::REQUESTS;

    #[test]
    fn each_request_of_the_bench_has_a_name_of_its_own() {
        let mut names: Vec<_> = REQUESTS.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REQUESTS.len());
    }
}
