//! Replay of results lost by the database.
//!
//! A sink acknowledges a result after its commit; a failover to a replica or a restore can lose
//! this commit. The database therefore holds a watermark: the sequence of the stream up to which
//! the database has all results. At its start, and after every event that may have cost commits
//! (including a restart of the server), a sink writes the messages delivered after the watermark
//! again, before new ones. Incidents are then decided from the same results as before. Existing
//! rows stay unchanged.
//!
//! **Bound**: one batch at a time, in one sink at a time: the consumer has a fixed name, and a sink
//! that cannot create it retries. **Loss**: none while the stream holds the messages. The watermark
//! advances with each batch, so that another sink can continue. If NATS leaves the creation of the
//! consumer unanswered, new results are written without a replay, the watermark stays, and the
//! replay is retried once a minute.

mod stream;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::consumer::{self, PullConsumer};
use picket_proto::subject;
use picket_runtime::{Bus, streams};
use picket_store::{
    ServerGuard, Store,
    result_watermark::{self, ResultWatermark, ServerWatermark},
    results::{IncomingResult, ResultStore},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, timeout},
};
use tracing::{debug, error, warn};

use crate::{
    Config,
    database_clock::SharedDatabaseClock,
    decode::{DecodedResult, ResultDecoder},
    installation_guard,
    metrics::Metrics,
    pull::{self, PullEnd, PullRequest},
    recovery::stream::{Delivery, StreamPositions},
};

/// Timeout of a request to NATS.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Unanswered requests to create the consumer, in a row, after which new results are written
/// without a replay. NATS leaves a request unanswered that a credential does not permit, or while
/// JetStream has no leader.
const MAX_UNANSWERED_REQUESTS: u32 = 3;
/// Interval between attempts of a replay while results are written without a replay.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Inactivity after which the server deletes the consumer of a sink that died during a replay;
/// other sinks wait for the deletion. If the write of a batch takes longer, the replay restarts at
/// the watermark.
const REPLAY_CONSUMER_TTL: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] picket_store::Error),
    #[error("could not read the state of the results stream")]
    Bus(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not replay results")]
    Pull(#[from] pull::Error),
    #[error(transparent)]
    Foreign(streams::Error),
    #[error("no answer to the request to create the consumer {}", subject::SINK_REPLAY_CONSUMER)]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("another sink is replaying results")]
    Busy,
    #[error("the consumer {} was deleted, or another sink pulled from it", subject::SINK_REPLAY_CONSUMER)]
    Interrupted,
    #[error("NATS returned none of {pending} messages that are left to replay")]
    Incomplete { pending: u64 },
    #[error("the database server changed during the replay")]
    ServerChanged,
}

impl Error {
    /// Returns true if a retry may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Bus(_)
            | Self::Pull(_)
            | Self::Foreign(_)
            | Self::Unanswered(_)
            | Self::Busy
            | Self::Interrupted
            | Self::Incomplete { .. }
            | Self::ServerChanged => true,
        }
    }
}

/// Clones are cheap and share their state.
#[derive(Clone)]
pub(crate) struct Recovery {
    config: Config,
    bus: Bus,
    store: Store,
    /// Writes replayed results; not guarded.
    results: ResultStore,
    guard: ServerGuard,
    /// Verifies the owner of the stream, and the tickets of replayed results.
    installation: installation_guard::InstallationGuard,
    clock: SharedDatabaseClock,
    metrics: Metrics,
    /// The run of the server to which results are written.
    compared: Arc<Mutex<Option<ComparedServer>>>,
    /// Consecutive replays that failed because NATS left the request to create the consumer
    /// unanswered.
    unanswered_requests: Arc<AtomicU32>,
}

/// A run of the database server, already compared with the stream.
#[derive(Clone)]
struct ComparedServer {
    server: String,
    /// Time of the next attempt of a failed replay. Absent if the server is known to hold all
    /// acknowledged results; only then the watermark advances.
    retry_at: Option<Instant>,
}

/// The messages of one pull request.
#[derive(Default)]
struct ReplayBatch {
    /// Results of messages at or below the acknowledgement floor.
    acknowledged: Vec<DecodedResult>,
    /// Results of messages above the floor: acknowledged out of order, or still to be written by a
    /// sink.
    in_flight: Vec<DecodedResult>,
    /// Sequence of the last message; absent where there was none.
    last_sequence: Option<u64>,
    /// Messages delivered by the consumer since its creation.
    delivered_count: u64,
}

impl Recovery {
    pub(crate) fn new(
        config: Config,
        bus: Bus,
        store: Store,
        installation: installation_guard::InstallationGuard,
        clock: SharedDatabaseClock,
        metrics: Metrics,
    ) -> Self {
        let (results, guard) = (ResultStore::new(store.clone()), store.new_guard());
        Self {
            config,
            bus,
            store,
            results,
            guard,
            installation,
            clock,
            metrics,
            compared: Arc::default(),
            unanswered_requests: Arc::default(),
        }
    }

    /// The writer for new results. Rejects connections made since the last comparison of the
    /// server.
    pub(crate) fn guarded_results(&self) -> ResultStore {
        self.results.clone().with_guard(self.guard.clone())
    }

    /// Returns when results can be written: the database holds all acknowledged results, or a
    /// replay was not possible repeatedly. Costs two atomic loads if no connection was made since
    /// the last call.
    pub(crate) async fn ensure_complete(&self) -> Result<(), Error> {
        if self.guard.is_verified() {
            return Ok(());
        }
        let mut compared = self.compared.lock().await;
        while !self.guard.is_verified() {
            let connections = self.guard.connection_count();
            let stored = result_watermark::load_watermark(&self.store).await?;
            if compared.as_ref().is_none_or(|known| known.server != stored.server) {
                *compared = None;
                // A restored database may have given a region's number to another region.
                self.results.ping().await?;
                *compared = Some(self.compare_with_stream(stored).await?);
            }
            // Connections that were made during the comparison are not covered by it.
            self.guard.mark_verified(connections);
        }
        Ok(())
    }

    /// Advances the watermark to the acknowledgement floor, unless the server must be compared
    /// first. After an impossible replay, retries the replay once a minute instead.
    pub(crate) async fn advance_watermark(&self) -> Result<(), Error> {
        let Ok(mut compared) = self.compared.try_lock() else { return Ok(()) };
        let Some(ComparedServer { server, retry_at }) = compared.clone() else { return Ok(()) };
        if let Some(at) = retry_at {
            if Instant::now() >= at {
                let stored = result_watermark::load_watermark(&self.store).await?;
                match stored.server == server {
                    true => *compared = Some(self.compare_with_stream(stored).await?),
                    false => self.invalidate_comparison(compared),
                }
            }
            return Ok(());
        }
        // The floor is read before the server is compared. If the server is still the same, every
        // message below the floor that the stream held was committed to this server, or replayed
        // into it.
        let positions = stream::fetch_positions(&self.bus, &self.installation).await?;
        let to =
            ResultWatermark { stream_created_at: positions.created_at, last_sequence: positions.ack_floor };
        if !result_watermark::advance_watermark(&self.store, &server, to).await? {
            self.invalidate_comparison(compared);
        }
        Ok(())
    }

    fn invalidate_comparison(&self, mut compared: MutexGuard<'_, Option<ComparedServer>>) {
        *compared = None;
        self.guard.mark_unverified();
    }

    /// Replays the results that the server may have lost. Pauses for [`RETRY_INTERVAL`] if NATS
    /// repeatedly leaves the creation of the consumer unanswered: new results must not wait for a
    /// permission that the operator has not granted.
    async fn compare_with_stream(&self, stored: ServerWatermark) -> Result<ComparedServer, Error> {
        let replayed = self.replay_lost(&stored).await;
        let unanswered = match &replayed {
            Err(Error::Unanswered(_)) => self.unanswered_requests.load(Ordering::Relaxed).saturating_add(1),
            _ => 0,
        };
        self.unanswered_requests.store(unanswered, Ordering::Relaxed);
        if unanswered < MAX_UNANSWERED_REQUESTS {
            return replayed.map(|()| ComparedServer { server: stored.server, retry_at: None });
        }
        self.metrics.pull_errors.inc();
        error!(
            consumer = subject::SINK_REPLAY_CONSUMER,
            retry_s = RETRY_INTERVAL.as_secs(),
            "no answer to the request to create the replay consumer; results that the database may have lost are not \
             replayed yet. If this sink is not permitted to create the consumer, run 'picket nats init' again and reload \
             the NATS servers"
        );
        Ok(ComparedServer { server: stored.server, retry_at: Some(Instant::now() + RETRY_INTERVAL) })
    }

    /// Writes the messages delivered after the watermark.
    async fn replay_lost(
        &self,
        ServerWatermark { server, watermark }: &ServerWatermark,
    ) -> Result<(), Error> {
        // A database without a watermark may be a new one beside an old stream, so no result is
        // known to be missing.
        let Some(mark) = watermark else { return Ok(()) };
        let positions = stream::fetch_positions(&self.bus, &self.installation).await?;
        let from = if mark.stream_created_at == positions.created_at { mark.last_sequence + 1 } else { 1 };
        if from > positions.last_delivered {
            return Ok(());
        }
        if positions.first_sequence > from {
            warn!(
                from,
                first = positions.first_sequence,
                "the stream no longer holds all messages after the watermark; results that the database lost among them \
                 cannot be replayed"
            );
        }
        let config = stream::consumer_config(from.max(positions.first_sequence), self.bus.client.new_inbox());
        let replayed = self.replay_messages(&config, server, &positions, from).await;
        // A sink whose consumer is deleted by another sink notices at its next message, and starts
        // again at the watermark.
        if !matches!(replayed, Err(Error::Busy | Error::Unanswered(_))) {
            let deleting = self
                .bus
                .jetstream
                .delete_consumer_from_stream(subject::SINK_REPLAY_CONSUMER, subject::RESULTS_STREAM);
            if !matches!(timeout(REQUEST_TIMEOUT, deleting).await, Ok(Ok(_))) {
                debug!("replay consumer not deleted; it expires by itself");
            }
        }
        let inserted = replayed?;
        if inserted > 0 {
            self.metrics.replays.inc();
            warn!(results = inserted, "replayed results that the database had lost");
        }
        Ok(())
    }

    /// Writes all delivered messages; returns the number of new rows.
    async fn replay_messages(
        &self,
        config: &consumer::pull::Config,
        server: &str,
        positions: &StreamPositions,
        from: u64,
    ) -> Result<u64, Error> {
        let (mut next, mut taken, mut inserted) = (from, 0, 0);
        while next <= positions.last_delivered {
            // Created before each pull: during the last write the server may have deleted the
            // consumer, and another sink may have created its own.
            let consumer = stream::create_consumer(&self.bus, config).await?;
            let batch = self.pull_batch(&consumer, positions, taken).await?;
            let Some(through) = batch.last_sequence else {
                match consumer.cached_info().num_pending {
                    // The remaining messages up to the last delivered one are no longer in the
                    // stream.
                    0 => break,
                    pending => return Err(Error::Incomplete { pending }),
                }
            };
            taken = batch.delivered_count;
            let lost = self.insert_results(&batch.acknowledged).await?;
            inserted += lost;
            self.metrics.replayed_results.inc_by(lost);
            self.insert_results(&batch.in_flight).await?;
            let to = ResultWatermark { stream_created_at: positions.created_at, last_sequence: through };
            if !result_watermark::advance_watermark(&self.store, server, to).await? {
                return Err(Error::ServerChanged);
            }
            next = through + 1;
        }
        Ok(inserted)
    }

    /// Writes results; returns the number of new rows.
    async fn insert_results(&self, results: &[DecodedResult]) -> Result<u64, Error> {
        if results.is_empty() {
            return Ok(0);
        }
        let entries: Vec<IncomingResult<'_>> =
            results.iter().filter_map(DecodedResult::incoming_result).collect();
        Ok(self.results.insert_batch(&entries, self.clock.time_bounds(None).latest).await?.count_inserted())
    }

    /// Pulls the next messages of a consumer that has delivered `taken` messages.
    async fn pull_batch(
        &self,
        consumer: &PullConsumer,
        positions: &StreamPositions,
        taken: u64,
    ) -> Result<ReplayBatch, Error> {
        let (messages, bytes) = self.config.pull_limits();
        let tickets = self.installation.tickets();
        let judge = ResultDecoder { retention: self.installation.retention(), tickets: &tickets };
        let mut pull = PullRequest::send(&self.bus.client, consumer, messages, bytes).await?;
        let mut batch = ReplayBatch { delivered_count: taken, ..ReplayBatch::default() };
        loop {
            let chunk = pull.next_chunk().await?;
            for message in chunk.messages {
                let Some(Delivery {
                    consumer_sequence: number,
                    stream_sequence: sequence,
                    stored_at: stored,
                }) = stream::parse_delivery(&self.bus, &message)
                else {
                    continue;
                };
                // A gap in the consumer's sequence means that another sink pulled from this
                // consumer.
                if number != batch.delivered_count + 1 {
                    return Err(Error::Interrupted);
                }
                batch.delivered_count = number;
                batch.last_sequence = Some(sequence);
                let decoded = judge.decode_message(&message, self.clock.time_bounds(Some(stored)));
                match sequence <= positions.ack_floor {
                    true => batch.acknowledged.extend(decoded),
                    false => batch.in_flight.extend(decoded),
                }
            }
            match chunk.end {
                Some(PullEnd::Failed(why)) => return Err(pull::Error::Ended(why).into()),
                Some(_) => return Ok(batch),
                None if batch.last_sequence.is_some_and(|through| through >= positions.last_delivered) => {
                    return Ok(batch);
                }
                None => {}
            }
        }
    }
}
