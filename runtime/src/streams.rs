//! The streams and their consumers: declared here, made at start, made again when somebody deletes them.

use std::time::Duration;

use async_nats::jetstream::{
    Context, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    context::{GetStreamError, GetStreamErrorKind},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
};
use picket_proto::{InstallationId, RegionName, Timestamp, subject};

use crate::clock::{Boottime, ClockReading};

/// How many copies the servers of a cluster keep, and how large a stream may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// 1 on a single server, 3 on a cluster.
    pub replicas: usize,
    /// The most that the stream of results may hold, in bytes.
    pub max_results_bytes: i64,
    /// The most that the stream of jobs may hold, in bytes.
    pub max_jobs_bytes: i64,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { replicas: 1, max_results_bytes: 8 << 30, max_jobs_bytes: 1 << 30 }
    }
}

/// The window in which the stream drops the second of two jobs of one tick. It outlasts a lease, so that a
/// coordinator which wakes from a pause cannot bring a tick back; ids cost memory by rate times window.
const DEDUP_WINDOW: Duration = Duration::from_secs(60);
/// A prober that says nothing of a job for so long is taken for dead, and another gets the job: while it is still worth
/// doing, which it is for a minute at most. One that is at work on a job says so more often.
pub const JOB_ACK_WAIT: Duration = Duration::from_secs(15);
/// No job outlives this, whatever its own time to live says.
const MAX_JOB_AGE: Duration = Duration::from_secs(600);
/// A sink that says nothing of a result for so long is taken for dead, and another gets the result. One that holds a
/// batch says so more often.
pub const RESULT_ACK_WAIT: Duration = Duration::from_secs(15);
const ONE_DAY: Duration = Duration::from_secs(86_400);

/// What could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A stream.
    #[error("could not make the stream {name}")]
    CreateStream {
        /// Its name.
        name: String,
        /// What the server said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A consumer.
    #[error("could not make the consumer {name}")]
    CreateConsumer {
        /// Its name.
        name: String,
        /// What the server said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The stream is another installation's.
    #[error(
        "the bus belongs to another installation: the stream {name} is that of installation {owner}, and this database \
         is installation {installation}; either give this installation a NATS of its own, or, if its database was made \
         anew beside this bus, take the bus over with: picket nats adopt"
    )]
    ForeignStream {
        /// Its name.
        name: String,
        /// The installation in its metadata.
        owner: String,
        /// The installation of this process.
        installation: String,
    },
}

/// In a stream's metadata, the installation that it belongs to.
const OWNER_METADATA_KEY: &str = "picket.installation";

/// `config` with the mark that it belongs to `installation`.
pub fn with_owner(mut config: Config, installation: InstallationId) -> Config {
    config.metadata.insert(OWNER_METADATA_KEY.to_owned(), installation.to_string());
    config
}

/// The installation that the stream of this configuration belongs to. `None`: it was made by a version without owners.
pub fn stream_owner(config: &Config) -> Option<&str> {
    config.metadata.get(OWNER_METADATA_KEY).map(String::as_str)
}

/// Refuses a stream that is there as `found` if it is another installation's than `config` says.
///
/// # Errors
/// [`Error::Foreign`].
pub fn check_owner(config: &Config, found: &Config) -> Result<(), Error> {
    match (stream_owner(config), stream_owner(found)) {
        (Some(installation), Some(owner)) if installation != owner => Err(Error::ForeignStream {
            name: found.name.clone(),
            owner: owner.to_owned(),
            installation: installation.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn base_config(name: &str, subjects: &str, durability: StreamLimits) -> Config {
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
pub fn jobs_config(durability: StreamLimits) -> Config {
    Config {
        description: Some("checks that wait for a prober".to_owned()),
        retention: RetentionPolicy::WorkQueue,
        max_messages_per_subject: 1,
        max_age: MAX_JOB_AGE,
        max_bytes: durability.max_jobs_bytes,
        // The longest body and headers, all of which JSON may have to escape.
        max_message_size: 768 << 10,
        duplicate_window: DEDUP_WINDOW,
        allow_message_ttl: true,
        ..base_config(subject::JOBS_STREAM, subject::JOB_SUBJECTS, durability)
    }
}

/// Results that wait for the sink, kept for three days so that they can be read again after a restore.
pub fn results_config(durability: StreamLimits) -> Config {
    Config {
        description: Some("results of checks".to_owned()),
        retention: RetentionPolicy::Limits,
        max_age: 3 * ONE_DAY,
        max_bytes: durability.max_results_bytes,
        max_message_size: 64 << 10,
        ..base_config(subject::RESULTS_STREAM, subject::RESULT_SUBJECTS, durability)
    }
}

/// What happened: incidents, silent regions. An event that is published again, however late, is dropped by its id.
pub fn events_config(durability: StreamLimits) -> Config {
    Config {
        description: Some("incidents and silent regions".to_owned()),
        retention: RetentionPolicy::Limits,
        max_age: 30 * ONE_DAY,
        max_bytes: 1 << 30,
        duplicate_window: ONE_DAY,
        ..base_config(subject::EVENTS_STREAM, subject::EVENT_SUBJECTS, durability)
    }
}

/// The consumer that a region's probers share.
pub fn prober_consumer_config(region: &RegionName) -> pull::Config {
    pull::Config {
        durable_name: Some(subject::prober_consumer(region)),
        filter_subject: subject::region_jobs_filter(region),
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
pub fn sink_consumer_config() -> pull::Config {
    pull::Config {
        durable_name: Some(subject::SINK_CONSUMER.to_owned()),
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
/// Returns the stream as it is then. The caller has [checked](check_owner) whose it is.
///
/// # Errors
/// When the server refuses, or does not answer in time.
pub async fn create_or_update(jetstream: &Context, config: Config) -> Result<Info, Error> {
    let name = config.name.clone();
    match jetstream.create_or_update_stream(config).await {
        Ok(info) => Ok(info),
        Err(source) => Err(Error::CreateStream { name, source: Box::new(source) }),
    }
}

/// Makes the stream if it is not there, and leaves one that is there as it is.
///
/// # Errors
/// When the stream is another installation's, or the server refuses, or does not answer in time.
pub async fn create_if_missing(jetstream: &Context, config: Config) -> Result<(), Error> {
    let name = config.name.clone();
    match jetstream.get_or_create_stream(config.clone()).await {
        Ok(stream) => check_owner(&config, &stream.cached_info().config),
        Err(source) => Err(Error::CreateStream { name, source: Box::new(source) }),
    }
}

/// Whether there is no such stream, and not just no answer.
pub fn is_stream_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// A stream that [`adopt`] took over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedStream {
    /// Its name.
    pub name: &'static str,
    /// Whose it was, if it said.
    pub previous_owner: Option<String>,
}

/// Makes the streams that are there `installation`'s, whoever's they were. What they hold stays, and sinks of
/// `installation` refuse results of the owner before. Returns those that were another's.
///
/// # Errors
/// When the server refuses, or does not answer in time.
pub async fn adopt_streams(
    jetstream: &Context,
    installation: InstallationId,
) -> Result<Vec<AdoptedStream>, Error> {
    let mut adopted = Vec::new();
    for name in [subject::JOBS_STREAM, subject::RESULTS_STREAM, subject::EVENTS_STREAM] {
        let failed = |source| Error::CreateStream { name: name.to_owned(), source };
        let found = match jetstream.get_stream(name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) if is_stream_missing(&error) => continue,
            Err(error) => return Err(failed(error.into())),
        };
        let before = stream_owner(&found).map(str::to_owned);
        if before.as_deref() != Some(&installation.to_string()) {
            jetstream
                .update_stream(with_owner(found, installation))
                .await
                .map_err(|error| failed(error.into()))?;
            adopted.push(AdoptedStream { name, previous_owner: before });
        }
    }
    Ok(adopted)
}

/// Makes the consumer, or brings its settings up to date.
///
/// # Errors
/// When the server refuses, or does not answer in time.
pub async fn create_or_update_consumer(
    jetstream: &Context,
    stream_name: &str,
    config: pull::Config,
) -> Result<(), Error> {
    let name = config.durable_name.clone().unwrap_or_default();
    match jetstream.create_consumer_on_stream(config, stream_name).await {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::CreateConsumer { name, source: Box::new(source) }),
    }
}

/// What the NATS server's clock says, as it answers a request about the stream of jobs; `None` if it does not.
pub async fn read_server_clock(jetstream: &Context) -> Option<ClockReading> {
    let sent = Boottime::now();
    let request = format!("STREAM.INFO.{}", subject::JOBS_STREAM);
    let answer: serde_json::Value = jetstream.request(request, &()).await.ok()?;
    let now: Timestamp = answer.get("ts")?.as_str()?.parse().ok()?;
    Some(ClockReading { sent_at: sent, received_at: Boottime::now(), remote_time: now })
}
