//! `coordinator`: the cost of a job compared with a bare publish loop of the same bytes, the
//! lateness of jobs at several loads, and a million schedules in memory.

use std::time::Duration;

use async_nats::jetstream::{Context, message::PublishMessage};
use futures_util::{StreamExt, stream};
use picket_harness::{builders::scheduled_job_subject, proc, process::Process};
use picket_proto::{
    CheckKind, CheckRequest, Epoch, RegionName, ScheduledTick, Shard, SiteId, Tickets, Timestamp,
    job::JobTemplate, subject, ticket::TicketClaims,
};
use picket_runtime::streams::{self, StreamLimits};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Error,
    bench_report::RunOptions,
    log_progress,
    table::{Percentiles, ShortNumber, Table},
    testbed::{REGION, Testbed, with_context},
    windowed_publish,
};

/// Sizes and durations.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Schedules held in memory
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) schedules: u32,
    /// Interval of the schedules held in memory, in seconds
    #[arg(long, default_value_t = 300)]
    pub(crate) interval: u32,
    /// Schedules of the overload, whose jobs exceed the publishing capacity
    #[arg(long, default_value_t = 250_000)]
    pub(crate) load: u32,
    /// Interval of the schedules of the overload, in seconds
    #[arg(long, default_value_t = 5)]
    pub(crate) load_interval: u32,
    /// Measured time at each load, in seconds
    #[arg(long, default_value_t = 8)]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// CPU time per job, in µs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct JobCost {
    pub(crate) per_s: f64,
    /// CPU time of the coordinator or of the loop.
    pub(crate) client_us: f64,
    pub(crate) nats_us: f64,
}

/// Result at a share of the coordinator's capacity.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CoordinatorLoad {
    /// Share of the capacity.
    pub(crate) share: f64,
    pub(crate) cost: JobCost,
    /// Time from the tick to the arrival in the stream, in ms.
    pub(crate) lateness_ms: Percentiles,
    /// Number of sampled jobs.
    pub(crate) sampled: usize,
}

/// Many schedules in a single coordinator.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct HeldSchedules {
    pub(crate) schedules: u32,
    /// Time from the start of the process to the first job.
    pub(crate) first_publish_s: f64,
    /// Time from the start of the process until all schedules are held.
    pub(crate) all_scheduled_s: f64,
    /// Memory (PSS) with all schedules held, in bytes.
    pub(crate) memory: u64,
    pub(crate) filled_s: f64,
}

/// All results of the coordinator bench.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CoordinatorReport {
    pub(crate) bare: JobCost,
    /// Cost with more jobs due than can be published.
    pub(crate) full: JobCost,
    pub(crate) loads: Vec<CoordinatorLoad>,
    pub(crate) held: HeldSchedules,
}

/// Unacknowledged messages, as many as the coordinator allows.
const ACK_WINDOW: usize = 8_192;
const LOAD_SHARES: [f64; 3] = [0.9, 0.5, 0.1];
/// Sites whose newest job is sampled at a time.
const MAX_SAMPLED_SITES: u32 = 2_000;

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let coordinator = measure_coordinator(options).await?;
    crate::bench_report::write_results(
        options.run_options.json.as_deref(),
        &coordinator,
        &coordinator.to_markdown(),
    )
}

/// Measures the coordinator.
pub(crate) async fn measure_coordinator(options: &Options) -> Result<CoordinatorReport, Error> {
    let options = match options.run_options.smoke {
        true => Options {
            schedules: 1_000,
            interval: 1,
            load: 200,
            load_interval: 1,
            seconds: 1,
            ..options.clone()
        },
        false => options.clone(),
    };
    let bed = Testbed::start().await?;
    let bare = measure_bare_publish(&bed, &options).await?;
    log_progress(format_args!("bare publish: {bare:?}"));
    let (full, loads) = measure_loads(&bed, &options).await?;
    bed.stop().await?;
    let bed = Testbed::start().await?;
    let held = measure_held_schedules(&bed, &options).await?;
    bed.stop().await?;
    Ok(CoordinatorReport { bare, full, loads, held })
}

pub(crate) fn unused_address() -> [std::net::SocketAddr; 1] {
    [([127, 0, 0, 1], 20_000).into()]
}

/// Publishes jobs as the coordinator renders them, with the minimal publisher that loses none. The
/// stream already holds a job of each site, as without running probers.
async fn measure_bare_publish(bed: &Testbed, options: &Options) -> Result<JobCost, Error> {
    let sites = options.load;
    let life = Duration::from_secs(options.load_interval.into());
    let (_, jetstream) = bed.connect_jetstream().await?;
    streams::create_if_missing(&jetstream, streams::jobs_config(StreamLimits::default()))
        .await
        .map_err(with_context("stream"))?;
    let region: RegionName = REGION.parse().map_err(with_context("region"))?;
    let now: Timestamp = bed.database_now().await?.into();
    let tickets = bed.load_tickets().await?;
    let jobs = |round: u32| {
        let at = now.saturating_add(life * round);
        (1..=sites).map(|site| build_job(i64::from(site), &region, at, life, &tickets)).collect::<Vec<_>>()
    };
    let (first, second) = (jobs(0), jobs(1));
    windowed_publish::publish_windowed(&jetstream, first.into_iter(), ACK_WINDOW).await?;
    let nats = bed.nats.pid();
    let (before, own, began) = (proc::cpu_seconds(nats), proc::own_cpu_seconds(), Instant::now());
    windowed_publish::publish_windowed(&jetstream, second.into_iter(), ACK_WINDOW).await?;
    let (after, own, wall) = (proc::cpu_seconds(nats), proc::own_cpu_seconds() - own, began.elapsed());
    let stream = jetstream.get_stream(subject::JOBS_STREAM).await.map_err(with_context("stream"))?;
    // The coordinator starts with an empty stream.
    stream.purge().await.map_err(with_context("purge"))?;
    Ok(per_job_cost(f64::from(sites), own, after - before, wall))
}

fn build_job(
    site: i64,
    region: &RegionName,
    at: Timestamp,
    life: Duration,
    tickets: &Tickets,
) -> (async_nats::Subject, PublishMessage) {
    let (id, payload) = render_job(site, region, at, life, tickets);
    let message =
        PublishMessage::build().payload(payload.into()).message_id(id).ttl(life + Duration::from_secs(1));
    (scheduled_job_subject(region, SiteId(site)).into(), message)
}

/// Renders a job: id and payload.
pub(crate) fn render_job(
    site: i64,
    region: &RegionName,
    at: Timestamp,
    life: Duration,
    tickets: &Tickets,
) -> (String, String) {
    let request = CheckRequest::new(format!("http://127.0.0.1:20000/page/{site}"));
    let tick = ScheduledTick {
        site: SiteId(site),
        shard: Shard((site % 64) as u16),
        kind: CheckKind::Scheduled,
        scheduled_at: at,
        expires_at: at.saturating_add(life),
    };
    let (id, mut payload) = (tick.job_id(region), String::new());
    JobTemplate::new(&request).render_job(
        &TicketClaims { tick, region },
        Epoch(1),
        &id,
        tickets,
        &mut payload,
    );
    (id, payload)
}

fn per_job_cost(jobs: f64, client: f64, nats: f64, wall: Duration) -> JobCost {
    let each = |seconds: f64| seconds * 1e6 / jobs.max(1.0);
    JobCost { per_s: jobs / wall.as_secs_f64(), client_us: each(client), nats_us: each(nats) }
}

/// Measures with more jobs due than can be published, then at shares of the measured capacity.
async fn measure_loads(bed: &Testbed, options: &Options) -> Result<(JobCost, Vec<CoordinatorLoad>), Error> {
    bed.bulk_insert_sites(options.load, options.load_interval, &unused_address()).await?;
    let coordinator = bed.spawn_coordinator();
    coordinator.wait_ready().await;
    wait_scheduled(&coordinator, options.load).await?;
    let length = Duration::from_secs(options.seconds);
    let turn = Duration::from_secs(options.load_interval.into());
    sleep(turn).await;
    let full = measure_publishing(bed, &coordinator, length).await?;
    log_progress(format_args!("more than can be published: {full:?}"));
    let (_, jetstream) = bed.connect_jetstream().await?;
    let mut loads = Vec::new();
    for share in LOAD_SHARES {
        let sites = (full.per_s * share * f64::from(options.load_interval)) as u32;
        bed.execute_sql(&format!("UPDATE picket.sites SET enabled = false WHERE enabled AND id > {sites}"))
            .await?;
        bed.execute_sql("VACUUM ANALYZE picket.sites").await?;
        bed.execute_sql("VACUUM ANALYZE picket.schedules").await?;
        wait_scheduled(&coordinator, sites.min(options.load)).await?;
        // Left-over jobs are published or expired, and each site has been due once.
        sleep(turn + Duration::from_secs(1)).await;
        let mut samples = Vec::new();
        let (cost, ()) = tokio::try_join!(measure_publishing(bed, &coordinator, length), async {
            sleep(length / 2).await;
            samples.extend(sample_lateness(&jetstream, sites).await?);
            Ok(())
        })?;
        // Each site has been due again.
        sleep(turn.saturating_sub(length / 2)).await;
        samples.extend(sample_lateness(&jetstream, sites).await?);
        let load = CoordinatorLoad {
            share,
            cost,
            sampled: samples.len(),
            lateness_ms: Percentiles::from_samples(samples),
        };
        log_progress(format_args!("{load:?}"));
        loads.push(load);
    }
    coordinator.terminate().await;
    Ok((full, loads))
}

/// Measures the published jobs and their cost over `length`.
async fn measure_publishing(
    bed: &Testbed,
    coordinator: &Process,
    length: Duration,
) -> Result<JobCost, Error> {
    const JOBS: &str = "picket_coordinator_jobs_published_total";
    let cost = || (proc::cpu_seconds(coordinator.pid()), proc::cpu_seconds(bed.nats.pid()));
    let (jobs, before, began) = (coordinator.fetch_metric(JOBS).await, cost(), Instant::now());
    sleep(length).await;
    let (after, wall) = (cost(), began.elapsed());
    let jobs = coordinator.fetch_metric(JOBS).await - jobs;
    Ok(self::per_job_cost(jobs, after.0 - before.0, after.1 - before.1, wall))
}

/// Lateness of the newest jobs of random sites on arrival in the stream, in ms.
async fn sample_lateness(jetstream: &Context, sites: u32) -> Result<Vec<f64>, Error> {
    const MAX_CONCURRENT: usize = 32;
    let region: RegionName = REGION.parse().map_err(with_context("region"))?;
    let jobs = jetstream.get_stream(subject::JOBS_STREAM).await.map_err(with_context("stream"))?;
    let sampled: Vec<u32> = (0..MAX_SAMPLED_SITES.min(sites)).map(|_| fastrand::u32(1..=sites)).collect();
    let lookups = sampled.into_iter().map(|site| {
        let (jobs, subject) = (&jobs, scheduled_job_subject(&region, SiteId(i64::from(site))));
        async move {
            // A job that has just expired is missing from the stream.
            let message = jobs.direct_get_last_for_subject(subject).await.ok()?;
            let due = CheckRequest::decode(&message.payload).ok()?.scheduled_at?;
            Some((message.time.unix_timestamp_nanos() / 1_000) as f64 / 1e3 - due.as_micros() as f64 / 1e3)
        }
    });
    Ok(stream::iter(lookups)
        .buffer_unordered(MAX_CONCURRENT)
        .filter_map(async |lateness| lateness)
        .collect()
        .await)
}

async fn measure_held_schedules(bed: &Testbed, options: &Options) -> Result<HeldSchedules, Error> {
    const FIRST_JOB_TIMEOUT: Duration = Duration::from_secs(120);
    let began = Instant::now();
    bed.bulk_insert_sites(options.schedules, options.interval, &unused_address()).await?;
    let filled_s = began.elapsed().as_secs_f64();
    let (client, _) = bed.connect_jetstream().await?;
    // A core subscription receives the first job without the cost of a consumer.
    let mut jobs = client.subscribe(subject::JOB_SUBJECTS).await.map_err(with_context("subscribe"))?;
    client.flush().await.map_err(with_context("subscribe"))?;
    let began = Instant::now();
    let coordinator = bed.spawn_coordinator();
    let first = async {
        let first = timeout(FIRST_JOB_TIMEOUT, jobs.next()).await.map_err(with_context("the first job"))?;
        first.ok_or_else(|| Error::Failed("the subscription has ended".to_owned()))?;
        let first_publish_s = began.elapsed().as_secs_f64();
        jobs.unsubscribe().await.map_err(with_context("unsubscribe"))?;
        Ok(first_publish_s)
    };
    let all = async {
        wait_scheduled(&coordinator, options.schedules).await?;
        Ok(began.elapsed().as_secs_f64())
    };
    let (first_publish_s, all_scheduled_s) = tokio::try_join!(first, all)?;
    // Memory needed for reading is freed by then, or never.
    sleep(Duration::from_secs(5)).await;
    let memory = proc::memory_bytes(coordinator.pid());
    coordinator.terminate().await;
    let held =
        HeldSchedules { schedules: options.schedules, first_publish_s, all_scheduled_s, memory, filled_s };
    log_progress(format_args!("{held:?}"));
    Ok(held)
}

/// Waits until the coordinator holds this number of schedules.
pub(crate) async fn wait_scheduled(coordinator: &Process, schedules: u32) -> Result<(), Error> {
    const HOLD_TIMEOUT: Duration = Duration::from_secs(120);
    let all_held = async {
        while coordinator.fetch_metric("picket_coordinator_schedules").await != f64::from(schedules) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(HOLD_TIMEOUT, all_held)
        .await
        .map_err(|_| Error::Failed(format!("{schedules} schedules are not held")))
}

impl CoordinatorReport {
    /// Jobs per CPU-second by the coordinator, relative to the bare loop.
    pub(crate) fn cpu_ratio(&self) -> f64 {
        self.bare.client_us / self.full.client_us
    }

    /// Jobs per CPU-second including the CPU time of NATS on both sides.
    pub(crate) fn cpu_ratio_with_nats(&self) -> f64 {
        (self.bare.client_us + self.bare.nats_us) / (self.full.client_us + self.full.nats_us)
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut table =
            Table::new(["", "jobs/s", "CPU µs a job", "NATS", "lateness ms p50 / p99 / max", "jobs seen"]);
        let row = |name: String, cost: JobCost, late: String, seen: String| {
            let us = |us: f64| ShortNumber(us).to_string();
            [name, format!("{:.0}", cost.per_s), us(cost.client_us), us(cost.nats_us), late, seen]
        };
        table.add_row(row("bare publish loop".to_owned(), self.bare, String::new(), String::new()));
        table.add_row(row(
            "coordinator, more due than it can".to_owned(),
            self.full,
            String::new(),
            String::new(),
        ));
        for load in &self.loads {
            let name = format!("coordinator at {:.0} % of that", load.share * 100.0);
            table.add_row(row(name, load.cost, load.lateness_ms.to_string(), load.sampled.to_string()));
        }
        let held = &self.held;
        format!(
            "## The coordinator beside a bare publish loop\n\n{table}\nJobs per CPU-second by the bare loop's: **{:.2}**; \
             with NATS on both sides {:.2}.\n\n{} schedules: first job {:.1} s after the start of the process, all scheduled after {:.1} s; \
             {} MiB (PSS). Filling the database took {:.0} s.\n",
            self.cpu_ratio(),
            self.cpu_ratio_with_nats(),
            held.schedules,
            held.first_publish_s,
            held.all_scheduled_s,
            held.memory >> 20,
            held.filled_s
        )
    }
}
