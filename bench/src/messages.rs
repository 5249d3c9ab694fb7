//! `messages`: what the server takes for a job, from the publish to the acknowledgement, by what is in its headers, by how many
//! are pulled at once, and by how they are acknowledged and kept.

use std::{sync::Arc, time::Duration};

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
use picket_proto::{Region, Tickets, Timestamp};
use picket_runtime::streams::{self, Durability};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    Error,
    bed::{Bed, REGION, failed},
    bus,
    coordinator::text_of_a_job,
    cpu,
    report::How,
    say,
    table::{Short, Spread, Table},
};

/// How much.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Messages of each kind
    #[arg(long, default_value_t = 50_000)]
    pub(crate) messages: u32,
    /// How often, in turns
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) how: How,
}

/// One way to send jobs.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    id: bool,
    ttl: bool,
    pull: usize,
    ack: AckPolicy,
    retention: RetentionPolicy,
    stream_in_memory: bool,
    consumer_in_memory: bool,
}

/// As the coordinator and a prober do it.
const OURS: Way = Way {
    name: "as it is: id and TTL, a work queue in files, 256 at once, each acknowledged",
    id: true,
    ttl: true,
    pull: 256,
    ack: AckPolicy::Explicit,
    retention: RetentionPolicy::WorkQueue,
    stream_in_memory: false,
    consumer_in_memory: false,
};
/// A work queue takes no other policy.
const LIMITS: Way = Way { name: "no work queue", retention: RetentionPolicy::Limits, ..OURS };
const WAYS: [Way; 10] = [
    OURS,
    Way { name: "16 at once", pull: 16, ..OURS },
    Way { name: "1,000 at once", pull: 1_000, ..OURS },
    Way { name: "without the TTL", ttl: false, ..OURS },
    Way { name: "without the TTL and the id", ttl: false, id: false, ..OURS },
    LIMITS,
    Way {
        name: "no work queue, one acknowledgement for all that were pulled",
        ack: AckPolicy::All,
        ..LIMITS
    },
    Way { name: "no work queue, none acknowledged", ack: AckPolicy::None, ..LIMITS },
    Way { name: "the consumer in memory", consumer_in_memory: true, ..OURS },
    Way { name: "stream and consumer in memory", stream_in_memory: true, consumer_in_memory: true, ..OURS },
];

/// What a message cost the server, in CPU µs, round by round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    way: &'static str,
    published_us: Vec<f64>,
    taken_us: Vec<f64>,
}

const STREAM: &str = "BENCH";
const WINDOW: usize = 4_096;

/// Measures, and prints Markdown.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let options = match options.how.smoke {
        true => Options { messages: 500, rounds: 1, ..options.clone() },
        false => options.clone(),
    };
    let bed = Bed::start().await?;
    let (client, jetstream) = bed.jetstream().await?;
    let none = |way: &Way| Cost { way: way.name, published_us: Vec::new(), taken_us: Vec::new() };
    let mut costs: Vec<Cost> = WAYS.iter().map(none).collect();
    for _ in 0..options.rounds {
        for (way, cost) in WAYS.iter().zip(&mut costs) {
            let (published, taken) = measure(&bed, &client, &jetstream, *way, options.messages).await?;
            say(format_args!("{}: {published:.1} + {taken:.1} µs", way.name));
            cost.published_us.push(published);
            cost.taken_us.push(taken);
        }
    }
    bed.stop().await?;
    crate::report::write(options.how.json.as_deref(), &costs, &markdown(&costs, &options))
}

async fn measure(
    bed: &Bed,
    client: &Client,
    jetstream: &Context,
    way: Way,
    messages: u32,
) -> Result<(f64, f64), Error> {
    let storage = |in_memory| if in_memory { StorageType::Memory } else { StorageType::File };
    let config = Config {
        name: STREAM.to_owned(),
        subjects: vec!["bench.job.>".to_owned()],
        retention: way.retention,
        storage: storage(way.stream_in_memory),
        ..streams::jobs(Durability::default())
    };
    let stream = jetstream.create_stream(config).await.map_err(failed("stream"))?;
    let consumer = pull::Config {
        durable_name: Some("bench".to_owned()),
        ack_policy: way.ack,
        memory_storage: way.consumer_in_memory,
        max_ack_pending: if way.ack == AckPolicy::None { 0 } else { 100_000 },
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(consumer).await.map_err(failed("consumer"))?;
    let tickets = bed.tickets().await?;
    let cpu = || cpu::seconds(bed.nats.pid());
    let before = cpu();
    bus::publish(jetstream, jobs(way, messages, tickets)?, WINDOW).await?;
    let published = cpu();
    take(client, &consumer, way, messages).await?;
    let taken = cpu();
    jetstream.delete_stream(STREAM).await.map_err(failed("stream"))?;
    let each = |seconds: f64| seconds * 1e6 / f64::from(messages);
    Ok((each(published - before), each(taken - published)))
}

fn jobs(
    way: Way,
    messages: u32,
    tickets: Arc<Tickets>,
) -> Result<impl Iterator<Item = (async_nats::Subject, PublishMessage)>, Error> {
    let region: Region = REGION.parse().map_err(failed("region"))?;
    let life = Duration::from_secs(60);
    Ok((1..=i64::from(messages)).map(move |site| {
        let at = Timestamp::from_millis(1_795_176_000_000);
        let (id, payload) = text_of_a_job(site, &region, at, life, &tickets);
        let message = PublishMessage::build().payload(payload.into());
        let message = if way.id { message.message_id(id) } else { message };
        let message = if way.ttl { message.ttl(life) } else { message };
        (format!("bench.job.{REGION}.{site}").into(), message)
    }))
}

/// Pulls all of them and acknowledges what is to be acknowledged, until the server knows.
async fn take(
    client: &Client,
    consumer: &Consumer<pull::Config>,
    way: Way,
    messages: u32,
) -> Result<(), Error> {
    const LIMIT: Duration = Duration::from_secs(60);
    let began = Instant::now();
    let mut left = messages as usize;
    while left > 0 {
        let pulled = consumer.fetch().max_messages(way.pull).messages().await.map_err(failed("pull"))?;
        let pulled: Vec<_> = pulled.filter_map(|message| async { message.ok() }).collect().await;
        left -= pulled.len();
        let answered = match way.ack {
            AckPolicy::Explicit => &pulled[..],
            AckPolicy::All => pulled.last_chunk::<1>().map_or(&[][..], |last| &last[..]),
            _ => &[],
        };
        for reply in answered.iter().filter_map(|message| message.reply.clone()) {
            client.publish(reply, AckKind::Ack.into()).await.map_err(failed("acknowledge"))?;
        }
        if began.elapsed() > LIMIT {
            return Err(Error::Failed(format!("{left} messages did not come")));
        }
    }
    while consumer.get_info().await.map_err(failed("consumer"))?.num_ack_pending > 0 {
        sleep(Duration::from_millis(20)).await;
        if began.elapsed() > LIMIT {
            return Err(Error::Failed("the server does not know that all were acknowledged".to_owned()));
        }
    }
    Ok(())
}

fn markdown(costs: &[Cost], options: &Options) -> String {
    let middle = |of: &[f64]| Spread::of(of.to_vec()).p50;
    let together = |cost: &Cost| middle(&cost.published_us) + middle(&cost.taken_us);
    let ours = costs.first().map_or(1.0, together);
    let mut table =
        Table::new(["way", "CPU µs of the server, published", "taken", "together", "by as it is"]);
    for cost in costs {
        table.row([
            cost.way.to_owned(),
            Short(middle(&cost.published_us)).to_string(),
            Short(middle(&cost.taken_us)).to_string(),
            Short(together(cost)).to_string(),
            format!("{:.2}", together(cost) / ours),
        ]);
    }
    format!(
        "## What the server takes for a job\n\n{} of each kind, {} times in turns, the middle.\n\n{table}",
        options.messages, options.rounds
    )
}
