//! `messages`: CPU time of the server per job, from the publish to the acknowledgement, by headers,
//! pull size, acknowledgement and storage.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        AckKind, Context,
        consumer::{AckPolicy, Consumer, pull},
        message::PublishMessage,
        stream::{Config, RetentionPolicy, StorageType},
    },
};
use futures_util::StreamExt;
use picket_harness::{percentiles::Samples, proc};
use picket_proto::{RegionName, Tickets, Timestamp};
use picket_runtime::streams::{self, StreamLimits};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    Error,
    bench_report::RunOptions,
    coordinator::render_job,
    log_progress,
    table::{ShortNumber, Table},
    testbed::{REGION, Testbed, with_context},
    windowed_publish,
};

/// Sizes of the bench.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Messages of each variant
    #[arg(long, default_value_t = 50_000)]
    pub(crate) messages: u32,
    /// Rounds of all variants, in turns
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) run_options: RunOptions,
}

/// Variant of publishing and consuming jobs.
#[derive(Clone, Copy)]
struct PublishVariant {
    name: &'static str,
    has_id: bool,
    has_ttl: bool,
    pull_size: usize,
    ack_policy: AckPolicy,
    retention: RetentionPolicy,
    stream_in_memory: bool,
    consumer_in_memory: bool,
}

/// Publishes and consumes as the coordinator and a prober do.
const BASELINE_VARIANT: PublishVariant = PublishVariant {
    name: "as it is: id and TTL, a work queue in files, 256 at once, each acknowledged",
    has_id: true,
    has_ttl: true,
    pull_size: 256,
    ack_policy: AckPolicy::Explicit,
    retention: RetentionPolicy::WorkQueue,
    stream_in_memory: false,
    consumer_in_memory: false,
};
/// Baseline for other acknowledgement policies, which a work queue does not allow.
const LIMITS_VARIANT: PublishVariant =
    PublishVariant { name: "no work queue", retention: RetentionPolicy::Limits, ..BASELINE_VARIANT };
const PUBLISH_VARIANTS: [PublishVariant; 10] = [
    BASELINE_VARIANT,
    PublishVariant { name: "16 at once", pull_size: 16, ..BASELINE_VARIANT },
    PublishVariant { name: "1,000 at once", pull_size: 1_000, ..BASELINE_VARIANT },
    PublishVariant { name: "without the TTL", has_ttl: false, ..BASELINE_VARIANT },
    PublishVariant { name: "without the TTL and the id", has_ttl: false, has_id: false, ..BASELINE_VARIANT },
    LIMITS_VARIANT,
    PublishVariant {
        name: "no work queue, one acknowledgement for all that were pulled",
        ack_policy: AckPolicy::All,
        ..LIMITS_VARIANT
    },
    PublishVariant {
        name: "no work queue, none acknowledged",
        ack_policy: AckPolicy::None,
        ..LIMITS_VARIANT
    },
    PublishVariant { name: "the consumer in memory", consumer_in_memory: true, ..BASELINE_VARIANT },
    PublishVariant {
        name: "stream and consumer in memory",
        stream_in_memory: true,
        consumer_in_memory: true,
        ..BASELINE_VARIANT
    },
];

/// CPU time of the server per message in µs, by round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MessageCost {
    way: &'static str,
    published_us: Vec<f64>,
    taken_us: Vec<f64>,
}

const STREAM_NAME: &str = "BENCH";
const ACK_WINDOW: usize = 4_096;

/// Measures and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let options = match options.run_options.smoke {
        true => Options { messages: 500, rounds: 1, ..options.clone() },
        false => options.clone(),
    };
    let bed = Testbed::start().await?;
    let (client, jetstream) = bed.connect_jetstream().await?;
    let empty = |variant: &PublishVariant| MessageCost {
        way: variant.name,
        published_us: Vec::new(),
        taken_us: Vec::new(),
    };
    let mut costs: Vec<MessageCost> = PUBLISH_VARIANTS.iter().map(empty).collect();
    for _ in 0..options.rounds {
        for (variant, cost) in PUBLISH_VARIANTS.iter().zip(&mut costs) {
            let (published, taken) =
                measure_variant(&bed, &client, &jetstream, *variant, options.messages).await?;
            log_progress(format_args!("{}: {published:.1} + {taken:.1} µs", variant.name));
            cost.published_us.push(published);
            cost.taken_us.push(taken);
        }
    }
    bed.stop().await?;
    crate::bench_report::write_results(
        options.run_options.json.as_deref(),
        &costs,
        &format_markdown(&costs, &options),
    )
}

async fn measure_variant(
    bed: &Testbed,
    client: &Client,
    jetstream: &Context,
    variant: PublishVariant,
    messages: u32,
) -> Result<(f64, f64), Error> {
    let storage = |in_memory| if in_memory { StorageType::Memory } else { StorageType::File };
    let config = Config {
        name: STREAM_NAME.to_owned(),
        subjects: vec!["bench.job.>".to_owned()],
        retention: variant.retention,
        storage: storage(variant.stream_in_memory),
        ..streams::jobs_config(StreamLimits::default())
    };
    let stream = jetstream.create_stream(config).await.map_err(with_context("stream"))?;
    let consumer = pull::Config {
        durable_name: Some("bench".to_owned()),
        ack_policy: variant.ack_policy,
        memory_storage: variant.consumer_in_memory,
        max_ack_pending: if variant.ack_policy == AckPolicy::None { 0 } else { 100_000 },
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(consumer).await.map_err(with_context("consumer"))?;
    let tickets = bed.load_tickets().await?;
    let cpu = || proc::cpu_seconds(bed.nats.pid());
    let before = cpu();
    windowed_publish::publish_windowed(jetstream, build_jobs(variant, messages, tickets)?, ACK_WINDOW)
        .await?;
    let published = cpu();
    consume_all(client, &consumer, variant, messages).await?;
    let taken = cpu();
    // Each variant starts with a new stream.
    jetstream.delete_stream(STREAM_NAME).await.map_err(with_context("stream"))?;
    let each = |seconds: f64| seconds * 1e6 / f64::from(messages);
    Ok((each(published - before), each(taken - published)))
}

fn build_jobs(
    variant: PublishVariant,
    messages: u32,
    tickets: Tickets,
) -> Result<impl Iterator<Item = (async_nats::Subject, PublishMessage)>, Error> {
    let region: RegionName = REGION.parse().map_err(with_context("region"))?;
    let life = Duration::from_secs(60);
    Ok((1..=i64::from(messages)).map(move |site| {
        let at = Timestamp::from_millis(1_795_176_000_000);
        let (id, payload) = render_job(site, &region, at, life, &tickets);
        let message = PublishMessage::build().payload(payload.into());
        let message = if variant.has_id { message.message_id(id) } else { message };
        let message = if variant.has_ttl { message.ttl(life) } else { message };
        (format!("bench.job.{REGION}.{site}").into(), message)
    }))
}

/// Pulls all messages and acknowledges them as the variant requires, until the server has recorded
/// all acknowledgements.
async fn consume_all(
    client: &Client,
    consumer: &Consumer<pull::Config>,
    variant: PublishVariant,
    messages: u32,
) -> Result<(), Error> {
    const CONSUME_TIMEOUT: Duration = Duration::from_secs(60);
    let began = Instant::now();
    let mut remaining = messages as usize;
    while remaining > 0 {
        let pulled = consumer
            .fetch()
            .max_messages(variant.pull_size)
            .messages()
            .await
            .map_err(with_context("pull"))?;
        let pulled: Vec<_> = pulled.filter_map(|message| async { message.ok() }).collect().await;
        remaining -= pulled.len();
        let to_acknowledge = match variant.ack_policy {
            AckPolicy::Explicit => &pulled[..],
            AckPolicy::All => pulled.last_chunk::<1>().map_or(&[][..], |last| &last[..]),
            _ => &[],
        };
        for reply in to_acknowledge.iter().filter_map(|message| message.reply.clone()) {
            client.publish(reply, AckKind::Ack.into()).await.map_err(with_context("acknowledge"))?;
        }
        if began.elapsed() > CONSUME_TIMEOUT {
            return Err(Error::Failed(format!("{remaining} messages were not delivered")));
        }
    }
    while consumer.get_info().await.map_err(with_context("consumer"))?.num_ack_pending > 0 {
        sleep(Duration::from_millis(20)).await;
        if began.elapsed() > CONSUME_TIMEOUT {
            return Err(Error::Failed("the server has not recorded all acknowledgements".to_owned()));
        }
    }
    Ok(())
}

fn format_markdown(costs: &[MessageCost], options: &Options) -> String {
    let median = |samples: &[f64]| Samples::new(samples.to_vec()).quantile(0.5).unwrap_or_default();
    let together = |cost: &MessageCost| median(&cost.published_us) + median(&cost.taken_us);
    let ours = costs.first().map_or(1.0, together);
    let mut table =
        Table::new(["way", "CPU µs of the server, published", "taken", "together", "by as it is"]);
    for cost in costs {
        table.add_row([
            cost.way.to_owned(),
            ShortNumber(median(&cost.published_us)).to_string(),
            ShortNumber(median(&cost.taken_us)).to_string(),
            ShortNumber(together(cost)).to_string(),
            format!("{:.2}", together(cost) / ours),
        ]);
    }
    format!(
        "## What the server takes for a job\n\n{} of each kind, {} times in turns, the middle.\n\n{table}",
        options.messages, options.rounds
    )
}
