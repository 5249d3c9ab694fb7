//! `coordinator`: what a job costs, beside a bare publish loop of the same bytes; how late jobs are at several loads; and a
//! million schedules in memory.

use std::time::Duration;

use async_nats::jetstream::{Context, message::PublishMessage};
use futures_util::{StreamExt, stream};
use picket_proto::{
    CheckRequest, Epoch, Kind, RegionName, ScheduledTick, Shard, SiteId, Tickets, Timestamp,
    job::JobTemplate, subject, ticket::TicketClaims,
};
use picket_runtime::streams::{self, StreamLimits};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Error,
    bench_report::RunOptions,
    log_progress, proc_usage,
    table::{Percentiles, ShortNumber, Table},
    testbed::{Process, REGION, Testbed, with_context},
    windowed_publish,
};

/// How much.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Schedules that are held in memory
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) schedules: u32,
    /// How often each of those is due, in seconds
    #[arg(long, default_value_t = 300)]
    pub(crate) interval: u32,
    /// Schedules whose jobs are more than can be published
    #[arg(long, default_value_t = 250_000)]
    pub(crate) load: u32,
    /// How often each of those is due, in seconds
    #[arg(long, default_value_t = 5)]
    pub(crate) load_interval: u32,
    /// How long each load is measured, in seconds
    #[arg(long, default_value_t = 8)]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// What a job costs, in CPU µs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct JobCost {
    pub(crate) per_s: f64,
    /// The coordinator's, or the loop's.
    pub(crate) client_us: f64,
    pub(crate) nats_us: f64,
}

/// A load on the coordinator.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CoordinatorLoad {
    /// Of its capacity.
    pub(crate) share: f64,
    pub(crate) cost: JobCost,
    /// From the due time to the time in the stream, in ms.
    pub(crate) lateness_ms: Percentiles,
    /// How many jobs that was seen of.
    pub(crate) sampled: usize,
}

/// Many schedules in one coordinator.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct HeldSchedules {
    pub(crate) schedules: u32,
    /// From the start of the process.
    pub(crate) first_publish_s: f64,
    /// From the start of the process until all are scheduled.
    pub(crate) all_scheduled_s: f64,
    /// PSS when all are scheduled, in bytes.
    pub(crate) memory: u64,
    pub(crate) filled_s: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CoordinatorReport {
    pub(crate) bare: JobCost,
    /// With more due than can be published.
    pub(crate) full: JobCost,
    pub(crate) loads: Vec<CoordinatorLoad>,
    pub(crate) held: HeldSchedules,
}

/// As many as the coordinator lets be under way.
const ACK_WINDOW: usize = 8_192;
const LOAD_SHARES: [f64; 3] = [0.9, 0.5, 0.1];
/// Sites whose newest job is looked at, at each look.
const MAX_SAMPLED_SITES: u32 = 2_000;

/// Measures, and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let coordinator = measure_coordinator(options).await?;
    crate::bench_report::write_results(
        options.run_options.json.as_deref(),
        &coordinator,
        &coordinator.to_markdown(),
    )
}

/// Measures.
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

fn unused_address() -> [std::net::SocketAddr; 1] {
    [([127, 0, 0, 1], 20_000).into()]
}

/// Jobs of so many sites, as the coordinator makes them, published by the least that loses none. The stream holds a job of
/// each of these sites already, as it does when nobody takes them.
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
    let (before, own, began) = (proc_usage::cpu_seconds(nats), proc_usage::own_cpu_seconds(), Instant::now());
    windowed_publish::publish_windowed(&jetstream, second.into_iter(), ACK_WINDOW).await?;
    let (after, own, wall) =
        (proc_usage::cpu_seconds(nats), proc_usage::own_cpu_seconds() - own, began.elapsed());
    let stream = jetstream.get_stream(subject::JOBS_STREAM).await.map_err(with_context("stream"))?;
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
    (subject::scheduled_job(region, SiteId(site)).into(), message)
}

/// A job's id, and what is in it.
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
        kind: Kind::Scheduled,
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

/// With more than can be published, then with shares of what could be.
async fn measure_loads(bed: &Testbed, options: &Options) -> Result<(JobCost, Vec<CoordinatorLoad>), Error> {
    bed.bulk_insert_sites(options.load, options.load_interval, &unused_address()).await?;
    let coordinator = bed.spawn_coordinator()?;
    coordinator.wait_ready().await?;
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
        // What was left behind is done or given up, and each site has had its turn.
        sleep(turn + Duration::from_secs(1)).await;
        let mut seen = Vec::new();
        let (cost, ()) = tokio::try_join!(measure_publishing(bed, &coordinator, length), async {
            sleep(length / 2).await;
            seen.extend(sample_lateness(&jetstream, sites).await?);
            Ok(())
        })?;
        // Each has had its next turn by now.
        sleep(turn.saturating_sub(length / 2)).await;
        seen.extend(sample_lateness(&jetstream, sites).await?);
        let load = CoordinatorLoad {
            share,
            cost,
            sampled: seen.len(),
            lateness_ms: Percentiles::from_samples(seen),
        };
        log_progress(format_args!("{load:?}"));
        loads.push(load);
    }
    coordinator.stop().await?;
    Ok((full, loads))
}

/// What is published in so long, and what it costs.
async fn measure_publishing(
    bed: &Testbed,
    coordinator: &Process,
    length: Duration,
) -> Result<JobCost, Error> {
    const JOBS: &str = "picket_coordinator_jobs_published_total";
    let cost = || (proc_usage::cpu_seconds(coordinator.pid), proc_usage::cpu_seconds(bed.nats.pid()));
    let (jobs, before, began) = (coordinator.read_metric(JOBS).await, cost(), Instant::now());
    sleep(length).await;
    let (after, wall) = (cost(), began.elapsed());
    let jobs = coordinator.read_metric(JOBS).await - jobs;
    Ok(self::per_job_cost(jobs, after.0 - before.0, after.1 - before.1, wall))
}

/// How late the newest job of some sites came into the stream, in ms.
async fn sample_lateness(jetstream: &Context, sites: u32) -> Result<Vec<f64>, Error> {
    const AT_ONCE: usize = 32;
    let region: RegionName = REGION.parse().map_err(with_context("region"))?;
    let jobs = jetstream.get_stream(subject::JOBS_STREAM).await.map_err(with_context("stream"))?;
    let some: Vec<u32> = (0..MAX_SAMPLED_SITES.min(sites)).map(|_| fastrand::u32(1..=sites)).collect();
    let looks = some.into_iter().map(|site| {
        let (jobs, subject) = (&jobs, subject::scheduled_job(&region, SiteId(i64::from(site))));
        async move {
            // One that has just expired is not there.
            let message = jobs.direct_get_last_for_subject(subject).await.ok()?;
            let due = CheckRequest::decode(&message.payload).ok()?.scheduled_at?;
            Some((message.time.unix_timestamp_nanos() / 1_000) as f64 / 1e3 - due.as_micros() as f64 / 1e3)
        }
    });
    Ok(stream::iter(looks).buffer_unordered(AT_ONCE).filter_map(async |late| late).collect().await)
}

async fn measure_held_schedules(bed: &Testbed, options: &Options) -> Result<HeldSchedules, Error> {
    const LIMIT: Duration = Duration::from_secs(120);
    let began = Instant::now();
    bed.bulk_insert_sites(options.schedules, options.interval, &unused_address()).await?;
    let filled_s = began.elapsed().as_secs_f64();
    let (client, _) = bed.connect_jetstream().await?;
    let mut jobs = client.subscribe(subject::JOB_SUBJECTS).await.map_err(with_context("subscribe"))?;
    client.flush().await.map_err(with_context("subscribe"))?;
    let began = Instant::now();
    let coordinator = bed.spawn_coordinator()?;
    let first = async {
        let first = timeout(LIMIT, jobs.next()).await.map_err(with_context("the first job"))?;
        first.ok_or_else(|| Error::Failed("the bus is gone".to_owned()))?;
        let first_publish_s = began.elapsed().as_secs_f64();
        jobs.unsubscribe().await.map_err(with_context("unsubscribe"))?;
        Ok(first_publish_s)
    };
    let all = async {
        wait_scheduled(&coordinator, options.schedules).await?;
        Ok(began.elapsed().as_secs_f64())
    };
    let (first_publish_s, all_scheduled_s) = tokio::try_join!(first, all)?;
    // What was needed to read them has been given back, or never will be.
    sleep(Duration::from_secs(5)).await;
    let memory = proc_usage::memory_bytes(coordinator.pid);
    coordinator.stop().await?;
    let held =
        HeldSchedules { schedules: options.schedules, first_publish_s, all_scheduled_s, memory, filled_s };
    log_progress(format_args!("{held:?}"));
    Ok(held)
}

/// Waits until it holds so many.
pub(crate) async fn wait_scheduled(coordinator: &Process, schedules: u32) -> Result<(), Error> {
    const LIMIT: Duration = Duration::from_secs(120);
    let there = async {
        while coordinator.read_metric("picket_coordinator_schedules").await != f64::from(schedules) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, there).await.map_err(|_| Error::Failed(format!("{schedules} schedules are not held")))
}

impl CoordinatorReport {
    /// Jobs per CPU-second by the coordinator, by those of the bare loop.
    pub(crate) fn cpu_ratio(&self) -> f64 {
        self.bare.client_us / self.full.client_us
    }

    /// The same with the bus's share on both sides.
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
