//! Replay of results that the database has lost.
//!
//! A sink acknowledges a result after its commit; a failover to a replica or a restore can lose that commit. The database therefore
//! holds a watermark: the sequence of the stream up to which it holds all results. At its own start, and after every event that may
//! have cost commits (a restart of the server included), a sink writes the messages that were delivered after the watermark once
//! more, before it writes new ones. Incidents are then decided from the same results as before. Existing rows stay unchanged.
//!
//! **Bound**: one batch at a time, in one sink at a time: the consumer has a fixed name, and a sink that cannot create it retries.
//! **Loss**: none; the watermark advances with each batch, so that another sink can continue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{self, AckPolicy, DeliverPolicy, PullConsumer},
    stream::{ConsumerCreateStrictError, ConsumerCreateStrictErrorKind},
};
use picket_proto::{Timestamp, subject};
use picket_runtime::Bus;
use picket_store::{
    Guard, Store,
    results::{Entry, Results},
    stored::{self, Stored, Watermark},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};
use tracing::{debug, error, warn};

use crate::{
    Config,
    clock::Clock,
    guard,
    letter::{Judge, Letter},
    metrics::Metrics,
    pull::{self, End, Pull},
};

/// Timeout of a request to NATS.
const ASK: Duration = Duration::from_secs(5);
/// A request that stays unanswered this many times in a row, while others are answered, is not permitted.
const MAX_UNANSWERED: u8 = 3;
/// Inactivity after which the server deletes the consumer of a sink that died during a replay; other sinks wait for that. If a batch
/// takes longer to write, the replay restarts at the watermark.
const CONSUMER_LIFE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] picket_store::Error),
    #[error("could not look at the stream of results")]
    Bus(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not replay results")]
    Pull(#[from] pull::Error),
    #[error("another sink is replaying results")]
    Busy,
    #[error("the database server changed during the replay")]
    Replaced,
}

impl Error {
    /// Whether a retry may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Bus(_) | Self::Pull(_) | Self::Busy | Self::Replaced => true,
        }
    }
}

/// Cheap to clone; all clones share what is known.
#[derive(Clone)]
pub(crate) struct Recovery {
    config: Config,
    bus: Bus,
    store: Store,
    /// Writes replayed results; not guarded.
    results: Results,
    guard: Guard,
    /// Verifies the tickets of replayed results.
    keys: guard::Guard,
    clock: Clock,
    metrics: Metrics,
    /// The run of the server that is known to hold all acknowledged results.
    complete: Arc<Mutex<Option<String>>>,
    /// Consecutive requests to create the consumer that stayed unanswered.
    unanswered: Arc<AtomicU8>,
}

/// The messages of one pull request.
#[derive(Default)]
struct Replayed {
    /// Results of messages at or below the acknowledgement floor.
    letters: Vec<Letter>,
    /// Results of messages above it: acknowledged out of order, or still to be written by a sink.
    in_flight: Vec<Letter>,
    /// Sequence of the last message; absent where there was none.
    through: Option<u64>,
}

/// Sequences of the stream and of the consumer that sinks share.
struct Positions {
    created: Timestamp,
    /// The first message that the stream still holds.
    first: u64,
    /// The acknowledgement floor.
    acknowledged: u64,
    /// The last message that was delivered.
    delivered: u64,
}

impl Recovery {
    pub(crate) fn new(
        config: Config,
        bus: Bus,
        store: Store,
        keys: guard::Guard,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let (results, guard) = (Results::new(store.clone()), store.guard());
        Self {
            config,
            bus,
            store,
            results,
            guard,
            keys,
            clock,
            metrics,
            complete: Arc::default(),
            unanswered: Arc::default(),
        }
    }

    /// The writer for new results: refuses connections that were made since the server was last compared.
    pub(crate) fn guarded(&self) -> Results {
        self.results.clone().guarded_by(self.guard.clone())
    }

    /// Returns when the database holds all acknowledged results. Two atomic loads where no connection was made since the last call.
    pub(crate) async fn ensure_complete(&self) -> Result<(), Error> {
        if self.guard.holds() {
            return Ok(());
        }
        let mut complete = self.complete.lock().await;
        while !self.guard.holds() {
            let made = self.guard.connections();
            let stored = stored::read(&self.store).await?;
            if complete.as_ref() != Some(&stored.server) {
                *complete = None;
                // A restored database may have given a region's number to another region.
                self.results.ping().await?;
                self.replay(&stored).await?;
                *complete = Some(stored.server);
            }
            // Connections that were made during the comparison are not covered by it.
            self.guard.trust(made);
        }
        Ok(())
    }

    /// Advances the watermark to the acknowledgement floor, unless the server has to be compared first.
    pub(crate) async fn advance_watermark(&self) -> Result<(), Error> {
        let Ok(complete) = self.complete.try_lock() else { return Ok(()) };
        let Some(server) = complete.clone() else { return Ok(()) };
        // The floor is read before the server is compared. If the server is still the same, everything below the floor was
        // committed to it, or was replayed into it.
        let positions = self.positions().await?;
        let to = Watermark { stream_created: positions.created, through: positions.acknowledged };
        if !stored::advance(&self.store, &server, to).await? {
            self.distrust(complete);
        }
        Ok(())
    }

    fn distrust(&self, mut complete: MutexGuard<'_, Option<String>>) {
        *complete = None;
        self.guard.distrust();
    }

    /// Writes the messages that were delivered after the watermark.
    async fn replay(&self, Stored { server, watermark }: &Stored) -> Result<(), Error> {
        // A database without a watermark may be a new one beside an old stream: nothing is known to be missing.
        let Some(mark) = watermark else { return Ok(()) };
        let positions = self.positions().await?;
        let from = if mark.stream_created == positions.created { mark.through + 1 } else { 1 };
        if from > positions.delivered {
            return Ok(());
        }
        if positions.first > from {
            warn!(
                from,
                first = positions.first,
                "the stream no longer holds messages before {}: results that the database lost among them cannot be replayed",
                positions.first
            );
        }
        let Some(consumer) = self.consumer(from.max(positions.first)).await? else { return Ok(()) };
        let replayed = self.read(&consumer, server, &positions, from).await;
        let deleting = self.bus.jetstream.delete_consumer_from_stream(subject::SINK_REPLAY, subject::RESULTS);
        if !matches!(timeout(ASK, deleting).await, Ok(Ok(_))) {
            debug!("the consumer of the replay was not deleted and expires by itself");
        }
        let inserted = replayed?;
        if inserted > 0 {
            self.metrics.replays.inc();
            warn!(
                results = inserted,
                "the database had lost {inserted} results; replayed them from the stream"
            );
        }
        Ok(())
    }

    /// Writes all delivered messages that `consumer` has; returns how many rows were new.
    async fn read(
        &self,
        consumer: &PullConsumer,
        server: &str,
        positions: &Positions,
        from: u64,
    ) -> Result<u64, Error> {
        let (mut next, mut inserted) = (from, 0);
        while next <= positions.delivered {
            let batch = self.batch(consumer, positions).await?;
            let Some(through) = batch.through else { break };
            let lost = self.write(&batch.letters).await?;
            inserted += lost;
            self.metrics.replayed.inc_by(lost);
            self.write(&batch.in_flight).await?;
            let to = Watermark { stream_created: positions.created, through };
            if !stored::advance(&self.store, server, to).await? {
                return Err(Error::Replaced);
            }
            next = through + 1;
        }
        Ok(inserted)
    }

    /// Writes results; returns how many rows were new.
    async fn write(&self, letters: &[Letter]) -> Result<u64, Error> {
        if letters.is_empty() {
            return Ok(0);
        }
        let entries: Vec<Entry<'_>> = letters.iter().filter_map(Letter::entry).collect();
        Ok(self.results.insert(&entries, self.clock.bounds(None).latest).await?.inserted())
    }

    /// Pulls the next messages.
    async fn batch(&self, consumer: &PullConsumer, positions: &Positions) -> Result<Replayed, Error> {
        let (messages, bytes) = self.config.most();
        let tickets = self.keys.tickets();
        let judge = Judge { retention: self.config.retention, tickets: &tickets };
        let mut pull = Pull::ask(&self.bus.client, consumer, messages, bytes).await?;
        let mut batch = Replayed::default();
        loop {
            let chunk = pull.next().await?;
            for message in chunk.messages {
                let Some((sequence, stored)) = self.sequence(&message) else { continue };
                batch.through = Some(sequence);
                let letters = judge.open(&message, self.clock.bounds(Some(stored)));
                match sequence <= positions.acknowledged {
                    true => batch.letters.extend(letters),
                    false => batch.in_flight.extend(letters),
                }
            }
            match chunk.end {
                Some(End::Badly(why)) => return Err(pull::Error::Ended(why).into()),
                Some(_) => return Ok(batch),
                None if batch.through.is_some_and(|through| through >= positions.delivered) => {
                    return Ok(batch);
                }
                None => {}
            }
        }
    }

    fn sequence(&self, message: &async_nats::Message) -> Option<(u64, Timestamp)> {
        let message = jetstream::Message { message: message.clone(), context: self.bus.jetstream.clone() };
        let info = message.info().ok()?;
        Some((info.stream_sequence, Timestamp::from(info.published)))
    }

    async fn positions(&self) -> Result<Positions, Error> {
        let bus = |error: Box<dyn std::error::Error + Send + Sync>| Error::Bus(error);
        let jetstream = &self.bus.jetstream;
        let asking = async {
            let stream = jetstream.get_stream(subject::RESULTS).await.map_err(|error| bus(error.into()))?;
            let info = stream.cached_info();
            let (created, first) = (Timestamp::from(info.created), info.state.first_sequence);
            let consumer: Result<PullConsumer, _> = stream.get_consumer(subject::SINK).await;
            // A deleted consumer is created again and starts at the first message.
            let (acknowledged, delivered) = consumer.map_or((0, 0), |consumer| {
                let info = consumer.cached_info();
                (info.ack_floor.stream_sequence, info.delivered.stream_sequence)
            });
            Ok(Positions { created, first, acknowledged, delivered })
        };
        timeout(ASK, asking).await.map_err(|elapsed| bus(elapsed.into()))?
    }

    /// Creates the consumer of this replay, which starts at the message `from` and needs no acknowledgements. `None` where the
    /// credential of this sink does not permit that: NATS leaves such a request unanswered.
    async fn consumer(&self, from: u64) -> Result<Option<PullConsumer>, Error> {
        let bus = |error: Box<dyn std::error::Error + Send + Sync>| Error::Bus(error);
        let config = consumer::pull::Config {
            name: Some(subject::SINK_REPLAY.to_owned()),
            // Unique, so that the server refuses a second consumer instead of sharing the first.
            description: Some(self.bus.client.new_inbox()),
            filter_subject: subject::RESULT_SUBJECTS.to_owned(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            inactive_threshold: CONSUMER_LIFE,
            num_replicas: 1,
            memory_storage: true,
            ..consumer::pull::Config::default()
        };
        let making = self.bus.jetstream.create_consumer_strict_on_stream(config, subject::RESULTS);
        let unanswered = match timeout(ASK, making).await {
            Ok(Ok(consumer)) => {
                self.unanswered.store(0, Ordering::Relaxed);
                return Ok(Some(consumer));
            }
            Ok(Err(error)) if exists(&error) => return Err(Error::Busy),
            Ok(Err(error)) if error.kind() != ConsumerCreateStrictErrorKind::TimedOut => {
                return Err(bus(error.into()));
            }
            Ok(Err(error)) => bus(error.into()),
            Err(elapsed) => bus(elapsed.into()),
        };
        if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 < MAX_UNANSWERED {
            return Err(unanswered);
        }
        self.metrics.pull_errors.inc();
        error!(
            "this sink is not permitted to create the consumer {}: results that the database may have lost from message {from} \
             on are not replayed; run 'picket nats init' again and reload the NATS servers",
            subject::SINK_REPLAY
        );
        Ok(None)
    }
}

/// Whether the consumer exists already.
fn exists(error: &ConsumerCreateStrictError) -> bool {
    match error.kind() {
        ConsumerCreateStrictErrorKind::AlreadyExists => true,
        ConsumerCreateStrictErrorKind::JetStream(why) => why.error_code() == ErrorCode::CONSUMER_NAME_EXIST,
        _ => false,
    }
}
