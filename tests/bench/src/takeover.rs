//! `takeover`: how long a coordinator takes to plan all sites when their regexes must be compiled, and when they need not be.

use std::time::Duration;

use picket_harness::proc;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Error,
    bench_report::RunOptions,
    coordinator::{unused_address, wait_scheduled},
    log_progress,
    table::{ShortNumber, Table},
    testbed::Testbed,
};

/// How much.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Sites in one region
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) sites: u32,
    /// How often each is due, in seconds
    #[arg(long, default_value_t = 300)]
    pub(crate) interval: u32,
    /// Every so many-th site has a regex; 0: none
    #[arg(long, default_value_t = 10)]
    pub(crate) regex_every: u32,
    /// The regex, to which the site's number is appended
    #[arg(long, default_value = "Welcome to page ")]
    pub(crate) regex: String,
    /// Take-overs, each by a new process
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) how: RunOptions,
}

/// One take-over of all shards. CPU is in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    /// From the start of the process until all sites are planned.
    pub(crate) planned_s: f64,
    pub(crate) coordinator_s: f64,
    pub(crate) postgres_s: f64,
    pub(crate) compiled: f64,
    /// From then until the accepted regexes are recorded.
    pub(crate) recorded_s: f64,
    pub(crate) recording_coordinator_s: f64,
    pub(crate) recording_postgres_s: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TakeOver {
    pub(crate) sites: u32,
    pub(crate) rounds: Vec<Round>,
}

/// Measures, and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let options = match options.how.smoke {
        true => Options { sites: 1_000, interval: 10, ..options.clone() },
        false => options.clone(),
    };
    let bed = Testbed::start().await?;
    let regex = match options.regex_every {
        0 => "NULL".to_owned(),
        every => format!("CASE WHEN n % {every} = 0 THEN '{}' || n END", options.regex.replace('\'', "''")),
    };
    bed.bulk_insert_sites_with_regex(options.sites, options.interval, &unused_address(), &regex).await?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let round = round(&bed, &options).await?;
        log_progress(format_args!("{round:?}"));
        rounds.push(round);
    }
    bed.stop().await?;
    let found = TakeOver { sites: options.sites, rounds };
    crate::bench_report::write_results(options.how.json.as_deref(), &found, &found.markdown())
}

async fn round(bed: &Testbed, options: &Options) -> Result<Round, Error> {
    const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(120);
    // Cheaper than counting marks, and as good: nothing else updates sites.
    const UPDATED: &str = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'picket.sites'::regclass";
    let updated = bed.query_number(UPDATED).await?;
    let (postgres, began) = (proc::cpu_seconds(bed.postgres.pid()), Instant::now());
    let coordinator = bed.spawn_coordinator();
    let cost = || (proc::cpu_seconds(coordinator.pid()), proc::cpu_seconds(bed.postgres.pid()) - postgres);
    wait_scheduled(&coordinator, options.sites).await?;
    let (planned_s, planned) = (began.elapsed().as_secs_f64(), cost());
    let compiled = coordinator.fetch_metric("picket_coordinator_patterns_compiled_total").await;
    let recorded = async {
        while bed.query_number(UPDATED).await? < updated + compiled as i64 {
            sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, Error>((began.elapsed().as_secs_f64(), cost()))
    };
    let recorded = timeout(TAKEOVER_TIMEOUT, recorded).await;
    let (recorded_s, recorded) =
        recorded.map_err(|_| Error::Failed("regexes are not recorded".to_owned()))??;
    coordinator.terminate().await;
    Ok(Round {
        planned_s,
        coordinator_s: planned.0,
        postgres_s: planned.1,
        compiled,
        recorded_s: recorded_s - planned_s,
        recording_coordinator_s: recorded.0 - planned.0,
        recording_postgres_s: recorded.1 - planned.1,
    })
}

impl TakeOver {
    fn markdown(&self) -> String {
        let mut table = Table::new([
            "take-over",
            "all planned after s",
            "CPU s of the coordinator",
            "of Postgres",
            "regexes compiled",
            "recorded after another s",
            "CPU s of the coordinator",
            "of Postgres",
        ]);
        for (n, round) in self.rounds.iter().enumerate() {
            let short = |value: f64| ShortNumber(value).to_string();
            table.add_row([
                (n + 1).to_string(),
                short(round.planned_s),
                short(round.coordinator_s),
                short(round.postgres_s),
                format!("{:.0}", round.compiled),
                short(round.recorded_s),
                short(round.recording_coordinator_s),
                short(round.recording_postgres_s),
            ]);
        }
        format!("## Take-overs of {} sites\n\n{table}\n", self.sites)
    }
}
