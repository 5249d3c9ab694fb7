//! Streams and their consumers. Declared here, created at start, and created again after a
//! deletion.

use std::time::Duration;

use async_nats::jetstream::{
    Context, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    context::{GetStreamError, GetStreamErrorKind},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
};
use picket_proto::{InstallationId, RegionName, Timestamp, subject};

use crate::clock::{Boottime, ClockReading};

/// Replicas and maximum sizes of the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Number of replicas: 1 on a single server, 3 on a cluster.
    pub replicas: usize,
    /// Maximum size of the results stream, in bytes.
    pub max_results_bytes: i64,
    /// Maximum size of the jobs stream, in bytes.
    pub max_jobs_bytes: i64,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { replicas: 1, max_results_bytes: 8 << 30, max_jobs_bytes: 1 << 30 }
    }
}

/// Dedup window of jobs: the stream drops a second job of the same tick. Longer than a lease, so
/// that a coordinator resumed from a pause cannot repeat a tick. Ids cost memory in proportion to
/// rate and window.
const DEDUP_WINDOW: Duration = Duration::from_secs(60);
/// Redelivery timeout of jobs. A prober that sends no progress for this time counts as dead, and
/// another prober gets the job. A job is worth doing for a minute at most, so the second prober is
/// usually in time. Probers at work report progress more often.
pub const JOB_ACK_WAIT: Duration = Duration::from_secs(15);
/// Maximum age of a job, whatever its own TTL is.
const MAX_JOB_AGE: Duration = Duration::from_secs(600);
/// Redelivery timeout of results. A sink that sends no progress for this time counts as dead, and
/// another sink gets the result. Sinks that hold a batch report progress more often.
pub const RESULT_ACK_WAIT: Duration = Duration::from_secs(15);
const ONE_DAY: Duration = Duration::from_secs(86_400);

/// Failure to create a stream or a consumer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not create or update a stream.
    #[error("could not make the stream {name}")]
    CreateStream {
        /// Name of the stream.
        name: String,
        /// Error of the server.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server could not create or update a consumer.
    #[error("could not make the consumer {name}")]
    CreateConsumer {
        /// Name of the consumer.
        name: String,
        /// Error of the server.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The stream belongs to another installation.
    #[error(
        "the bus belongs to another installation: the stream {name} is that of installation {owner}, and this database \
         is installation {installation}; either give this installation a NATS of its own, or, if its database was made \
         anew beside this bus, take the bus over with: picket nats adopt"
    )]
    ForeignStream {
        /// Name of the stream.
        name: String,
        /// Installation in the stream's metadata.
        owner: String,
        /// Installation of this process.
        installation: String,
    },
}

/// Metadata key of the installation that owns a stream.
const OWNER_METADATA_KEY: &str = "picket.installation";

/// Returns `config` marked as owned by `installation`.
pub fn with_owner(mut config: Config, installation: InstallationId) -> Config {
    config.metadata.insert(OWNER_METADATA_KEY.to_owned(), installation.to_string());
    config
}

/// Returns the installation that owns the stream, or `None` if a version without owners created the
/// stream.
pub fn stream_owner(config: &Config) -> Option<&str> {
    config.metadata.get(OWNER_METADATA_KEY).map(String::as_str)
}

/// Refuses the existing stream `found` if its owner differs from the owner in `config`.
///
/// # Errors
/// Fails with [`Error::ForeignStream`].
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

/// Stream of jobs that wait for a prober. Holds the newest job of each site and region, and drops
/// jobs too old to be worth doing.
pub fn jobs_config(durability: StreamLimits) -> Config {
    Config {
        description: Some("checks that wait for a prober".to_owned()),
        retention: RetentionPolicy::WorkQueue,
        max_messages_per_subject: 1,
        max_age: MAX_JOB_AGE,
        max_bytes: durability.max_jobs_bytes,
        // The longest body and headers, with all characters escaped in JSON.
        max_message_size: 768 << 10,
        duplicate_window: DEDUP_WINDOW,
        allow_message_ttl: true,
        ..base_config(subject::JOBS_STREAM, subject::JOB_SUBJECTS, durability)
    }
}

/// Stream of results that wait for a sink. Results stay for three days, so that they can be
/// replayed after a restore of the database.
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

/// Stream of events: incidents and silent regions. A repeated event is dropped by its id within a
/// day.
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

/// Consumer shared by the probers of a region.
pub fn prober_consumer_config(region: &RegionName) -> pull::Config {
    pull::Config {
        durable_name: Some(subject::prober_consumer(region)),
        filter_subject: subject::region_jobs_filter(region),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: JOB_ACK_WAIT,
        max_deliver: 2,
        // Each prober bounds its own unacknowledged jobs by its slots.
        max_ack_pending: 100_000,
        max_waiting: 2_048,
        ..pull::Config::default()
    }
}

/// Consumer shared by all sinks. Deliveries are unlimited, because a database outage must not
/// exhaust them.
pub fn sink_consumer_config() -> pull::Config {
    pull::Config {
        durable_name: Some(subject::SINK_CONSUMER.to_owned()),
        filter_subject: subject::RESULT_SUBJECTS.to_owned(),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: RESULT_ACK_WAIT,
        max_deliver: -1,
        // A sink holds three batches of at most ten thousand results, and a hanging sink must not
        // block the others.
        max_ack_pending: 100_000,
        max_waiting: 512,
        ..pull::Config::default()
    }
}

/// Creates the stream or updates its settings. Called by the coordinator only, which knows the
/// settings. Returns the resulting stream. The caller has [checked](check_owner) the owner.
///
/// # Errors
/// Fails if the server refuses or does not answer in time.
pub async fn create_or_update(jetstream: &Context, config: Config) -> Result<Info, Error> {
    let name = config.name.clone();
    match jetstream.create_or_update_stream(config).await {
        Ok(info) => Ok(info),
        Err(source) => Err(Error::CreateStream { name, source: Box::new(source) }),
    }
}

/// Creates the stream if it is missing. Leaves an existing stream as it is.
///
/// # Errors
/// Fails if the stream belongs to another installation, or if the server refuses or does not answer
/// in time.
pub async fn create_if_missing(jetstream: &Context, config: Config) -> Result<(), Error> {
    let name = config.name.clone();
    match jetstream.get_or_create_stream(config.clone()).await {
        // An existing stream may belong to another installation on the same bus.
        Ok(stream) => check_owner(&config, &stream.cached_info().config),
        Err(source) => Err(Error::CreateStream { name, source: Box::new(source) }),
    }
}

/// Returns true if the stream does not exist, as opposed to a missing answer.
pub fn is_stream_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Stream taken over by [`adopt_streams`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedStream {
    /// Name of the stream.
    pub name: &'static str,
    /// Previous owner, if the stream had one.
    pub previous_owner: Option<String>,
}

/// Makes `installation` the owner of all existing streams, whatever their previous owner. Messages
/// stay, and sinks of `installation` refuse results of the previous owner. Returns the streams
/// whose owner changed.
///
/// # Errors
/// Fails if the server refuses or does not answer in time.
pub async fn adopt_streams(
    jetstream: &Context,
    installation: InstallationId,
) -> Result<Vec<AdoptedStream>, Error> {
    let mut adopted = Vec::new();
    for name in [subject::JOBS_STREAM, subject::RESULTS_STREAM, subject::EVENTS_STREAM] {
        let failed = |source| Error::CreateStream { name: name.to_owned(), source };
        let found = match jetstream.get_stream(name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            // The coordinator creates missing streams with their owner.
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

/// Creates the consumer or updates its settings.
///
/// # Errors
/// Fails if the server refuses or does not answer in time.
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

/// Reads the NATS server's clock from its answer to a request about the jobs stream. Returns `None`
/// if there is no answer.
pub async fn read_server_clock(jetstream: &Context) -> Option<ClockReading> {
    let sent = Boottime::now();
    let request = format!("STREAM.INFO.{}", subject::JOBS_STREAM);
    let answer: serde_json::Value = jetstream.request(request, &()).await.ok()?;
    let now: Timestamp = answer.get("ts")?.as_str()?.parse().ok()?;
    Some(ClockReading { sent_at: sent, received_at: Boottime::now(), remote_time: now })
}
