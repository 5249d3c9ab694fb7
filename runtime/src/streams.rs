//! The streams and their consumers: declared here, made at start, made again when somebody deletes them.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
};
use picket_proto::{Region, Timestamp, subject};

use crate::clock::{Boottime, Reading};

/// How many copies the servers of a cluster keep, and how large a stream may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durability {
    /// 1 on a single server, 3 on a cluster.
    pub replicas: usize,
    /// The most that the stream of results may hold, in bytes.
    pub results_bytes: i64,
    /// The most that the stream of jobs may hold, in bytes.
    pub jobs_bytes: i64,
}

impl Default for Durability {
    fn default() -> Self {
        Self { replicas: 1, results_bytes: 8 << 30, jobs_bytes: 1 << 30 }
    }
}

/// The window in which the stream drops the second of two jobs of one tick. It outlasts a lease, so that a
/// coordinator which wakes from a pause cannot bring a tick back; ids cost memory by rate times window.
const DUPLICATES: Duration = Duration::from_secs(60);
/// A prober that says nothing of a job for so long is taken for dead, and another gets the job: while it is still worth
/// doing, which it is for a minute at most. One that is at work on a job says so more often.
pub const JOB_ACK_WAIT: Duration = Duration::from_secs(15);
/// No job outlives this, whatever its own time to live says.
const JOB_MAX_AGE: Duration = Duration::from_secs(600);
/// A sink that says nothing of a result for so long is taken for dead, and another gets the result. One that holds a
/// batch says so more often.
pub const RESULT_ACK_WAIT: Duration = Duration::from_secs(15);
const DAY: Duration = Duration::from_secs(86_400);

/// What could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A stream.
    #[error("could not make the stream {name}")]
    Stream {
        /// Its name.
        name: String,
        /// What the server said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A consumer.
    #[error("could not make the consumer {name}")]
    Consumer {
        /// Its name.
        name: String,
        /// What the server said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn stream(name: &str, subjects: &str, durability: Durability) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        storage: StorageType::File,
        num_replicas: durability.replicas,
        discard: DiscardPolicy::Old,
        allow_direct: true,
        ..Config::default()
    }
}

/// Jobs that wait for a prober: of each site and region the newest only, gone when too old to be worth doing.
pub fn jobs(durability: Durability) -> Config {
    Config {
        description: Some("checks that wait for a prober".to_owned()),
        retention: RetentionPolicy::WorkQueue,
        max_messages_per_subject: 1,
        max_age: JOB_MAX_AGE,
        max_bytes: durability.jobs_bytes,
        // The longest body and headers, all of which JSON may have to escape.
        max_message_size: 768 << 10,
        duplicate_window: DUPLICATES,
        allow_message_ttl: true,
        ..stream(subject::JOBS, subject::JOB_SUBJECTS, durability)
    }
}

/// Results that wait for the sink, kept for three days so that they can be read again after a restore.
pub fn results(durability: Durability) -> Config {
    Config {
        description: Some("results of checks".to_owned()),
        retention: RetentionPolicy::Limits,
        max_age: 3 * DAY,
        max_bytes: durability.results_bytes,
        max_message_size: 64 << 10,
        ..stream(subject::RESULTS, subject::RESULT_SUBJECTS, durability)
    }
}

/// What happened: incidents, silent regions. An event that is published again, however late, is dropped by its id.
pub fn events(durability: Durability) -> Config {
    Config {
        description: Some("incidents and silent regions".to_owned()),
        retention: RetentionPolicy::Limits,
        max_age: 30 * DAY,
        max_bytes: 1 << 30,
        duplicate_window: DAY,
        ..stream(subject::EVENTS, subject::EVENT_SUBJECTS, durability)
    }
}

/// The consumer that a region's probers share.
pub fn prober_consumer(region: &Region) -> pull::Config {
    pull::Config {
        durable_name: Some(subject::prober_consumer(region)),
        filter_subject: subject::jobs_of(region),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: JOB_ACK_WAIT,
        max_deliver: 2,
        // What probers have under way is bounded by their own slots.
        max_ack_pending: 100_000,
        max_waiting: 2_048,
        ..pull::Config::default()
    }
}

/// The consumer that all sinks share. Deliveries are unlimited: a database outage must not use them up.
pub fn sink_consumer() -> pull::Config {
    pull::Config {
        durable_name: Some(subject::SINK.to_owned()),
        filter_subject: subject::RESULT_SUBJECTS.to_owned(),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: RESULT_ACK_WAIT,
        max_deliver: -1,
        // A sink holds three batches of at most ten thousand, and one that hangs must not keep the others from theirs.
        max_ack_pending: 100_000,
        max_waiting: 512,
        ..pull::Config::default()
    }
}

/// Makes the stream, or brings its settings up to date. The coordinator's part, which knows the settings.
/// Returns the stream as it is then.
///
/// # Errors
/// When the server refuses, or does not answer in time.
pub async fn bring_up_to_date(jetstream: &Context, config: Config) -> Result<Info, Error> {
    let name = config.name.clone();
    match jetstream.create_or_update_stream(config).await {
        Ok(info) => Ok(info),
        Err(source) => Err(Error::Stream { name, source: Box::new(source) }),
    }
}

/// Makes the stream if it is not there, and leaves one that is there as it is.
///
/// # Errors
/// When the server refuses, or does not answer in time.
pub async fn ensure(jetstream: &Context, config: Config) -> Result<(), Error> {
    let name = config.name.clone();
    match jetstream.get_or_create_stream(config).await {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Stream { name, source: Box::new(source) }),
    }
}

/// Makes the consumer, or brings its settings up to date.
///
/// # Errors
/// When the server refuses, or does not answer in time.
pub async fn ensure_consumer(
    jetstream: &Context,
    stream_name: &str,
    config: pull::Config,
) -> Result<(), Error> {
    let name = config.durable_name.clone().unwrap_or_default();
    match jetstream.create_consumer_on_stream(config, stream_name).await {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Consumer { name, source: Box::new(source) }),
    }
}

/// What the NATS server's clock says, as it answers a request about the stream of jobs; `None` if it does not.
pub async fn server_time(jetstream: &Context) -> Option<Reading> {
    let sent = Boottime::now();
    let request = format!("STREAM.INFO.{}", subject::JOBS);
    let answer: serde_json::Value = jetstream.request(request, &()).await.ok()?;
    let now: Timestamp = answer.get("ts")?.as_str()?.parse().ok()?;
    Some(Reading { sent, received: Boottime::now(), now })
}
