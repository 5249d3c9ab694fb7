//! Results that the database has lost, read from the stream again.
//!
//! A result is acknowledged once it is committed; a failover to a replica or a restore can lose such commits. So the database keeps
//! a watermark: a sequence of the stream up to which it holds all results. After everything that may have cost commits, which is
//! also each restart of a server, and at its own start, a sink writes what was delivered after the watermark once more, before
//! it writes anything new: what was decided from those results is then decided from them again. Rows that are there stay.
//!
//! **Bound**: one batch at a time, of one sink at a time: the consumer has one name, and who does not get it tries again.
//! **Loss**: none; the watermark moves behind what was written, so that another sink goes on from there.

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
use picket_runtime::{Bus, clock};
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
    letter::{Judge, Letter},
    metrics::Metrics,
    pull::{self, End, Pull},
};

/// For what the server of the bus answers at once.
const ASK: Duration = Duration::from_secs(5);
/// A request that is not answered so often in a row, while others are, is not allowed.
const MAX_UNANSWERED: u8 = 3;
/// The server deletes the consumer of a sink that died in a replay when nobody has asked it for so long: others wait for that. Should
/// a batch take longer to be written, the replay begins again behind what was written.
const CONSUMER_LIFE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] picket_store::Error),
    #[error("could not look at the stream of results")]
    Bus(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not read results again")]
    Pull(#[from] pull::Error),
    #[error("another sink reads results again")]
    Busy,
    #[error("the database was replaced while results were read again")]
    Replaced,
}

impl Error {
    /// Whether the same may work later.
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
    /// For what is read again; takes any connection.
    results: Results,
    guard: Guard,
    metrics: Metrics,
    /// The run of the server that holds all that was acknowledged.
    complete: Arc<Mutex<Option<String>>>,
    /// How often in a row the server of the bus did not answer to the making of a consumer.
    unanswered: Arc<AtomicU8>,
}

/// What one request brought.
#[derive(Default)]
struct Replayed {
    /// Of messages that were acknowledged.
    letters: Vec<Letter>,
    /// Of messages that were given out after those: acknowledged or about to be written by somebody.
    given_out: Vec<Letter>,
    /// The last message; absent where there was none.
    through: Option<u64>,
}

/// Where the stream stands.
struct Place {
    created: Timestamp,
    first: u64,
    /// All up to here were acknowledged.
    acknowledged: u64,
    /// None after this was given out.
    delivered: u64,
}

impl Recovery {
    pub(crate) fn new(config: Config, bus: Bus, store: Store, metrics: Metrics) -> Self {
        let (results, guard) = (Results::new(store.clone()), store.guard());
        Self {
            config,
            bus,
            store,
            results,
            guard,
            metrics,
            complete: Arc::default(),
            unanswered: Arc::default(),
        }
    }

    /// What results are to be written through: refuses connections that were made since the database was last compared.
    pub(crate) fn guarded(&self) -> Results {
        self.results.clone().guarded_by(self.guard.clone())
    }

    /// Returns when the database holds all that was acknowledged. Costs nothing where no connection was made since the last time.
    pub(crate) async fn ensure(&self) -> Result<(), Error> {
        if self.guard.holds() {
            return Ok(());
        }
        let mut complete = self.complete.lock().await;
        while !self.guard.holds() {
            let made = self.guard.connections();
            let stored = stored::read(&self.store).await?;
            if complete.as_ref() != Some(&stored.server) {
                *complete = None;
                // Regions too: a number may name another one.
                self.results.ping().await?;
                self.replay(&stored).await?;
                *complete = Some(stored.server);
            }
            // Connections that were made meanwhile may lead to another server.
            self.guard.trust(made);
        }
        Ok(())
    }

    /// Moves the watermark to what is acknowledged by now, unless the database has to be compared first.
    pub(crate) async fn note(&self) -> Result<(), Error> {
        let Ok(complete) = self.complete.try_lock() else { return Ok(()) };
        let Some(server) = complete.clone() else { return Ok(()) };
        // Looked at before the server is compared: what was acknowledged was committed to this run of it, or an earlier one
        // whose losses were made up for.
        let place = self.place().await?;
        let to = Watermark { stream_created: place.created, through: place.acknowledged };
        if !stored::advance(&self.store, &server, to).await? {
            self.distrust(complete);
        }
        Ok(())
    }

    fn distrust(&self, mut complete: MutexGuard<'_, Option<String>>) {
        *complete = None;
        self.guard.distrust();
    }

    /// Writes what was given out after the watermark.
    async fn replay(&self, Stored { server, watermark }: &Stored) -> Result<(), Error> {
        // Of a database that never had one nobody knows what it holds, and it may be another one than the stream's.
        let Some(mark) = watermark else { return Ok(()) };
        let place = self.place().await?;
        let from = if mark.stream_created == place.created { mark.through + 1 } else { 1 };
        if from > place.delivered {
            return Ok(());
        }
        if place.first > from {
            warn!(
                from,
                first = place.first,
                "the stream has no results before {} any more: what the database lost of those is lost",
                place.first
            );
        }
        let Some(consumer) = self.consumer(from.max(place.first)).await? else { return Ok(()) };
        let replayed = self.read(&consumer, server, &place, from).await;
        let deleting = self.bus.jetstream.delete_consumer_from_stream(subject::SINK_REPLAY, subject::RESULTS);
        if !matches!(timeout(ASK, deleting).await, Ok(Ok(_))) {
            debug!("the consumer of a replay goes by itself");
        }
        let inserted = replayed?;
        if inserted > 0 {
            self.metrics.replays.inc();
            warn!(
                results = inserted,
                "the database had lost {inserted} results: they were read from the stream again"
            );
        }
        Ok(())
    }

    /// Writes all that `consumer` has of what was given out; returns how many rows were new.
    async fn read(
        &self,
        consumer: &PullConsumer,
        server: &str,
        place: &Place,
        from: u64,
    ) -> Result<u64, Error> {
        let (mut next, mut inserted) = (from, 0);
        while next <= place.delivered {
            let batch = self.batch(consumer, place).await?;
            let Some(through) = batch.through else { break };
            let lost = self.write(&batch.letters).await?;
            inserted += lost;
            self.metrics.replayed.inc_by(lost);
            self.write(&batch.given_out).await?;
            let to = Watermark { stream_created: place.created, through };
            if !stored::advance(&self.store, server, to).await? {
                return Err(Error::Replaced);
            }
            next = through + 1;
        }
        Ok(inserted)
    }

    /// Returns how many rows were new.
    async fn write(&self, letters: &[Letter]) -> Result<u64, Error> {
        if letters.is_empty() {
            return Ok(0);
        }
        let entries: Vec<Entry<'_>> = letters.iter().map(Letter::entry).collect();
        Ok(self.results.insert(&entries).await?.inserted())
    }

    /// The next messages of those that were given out.
    async fn batch(&self, consumer: &PullConsumer, place: &Place) -> Result<Replayed, Error> {
        let (messages, bytes) = self.config.most();
        let judge = Judge { retention: self.config.retention };
        let mut pull = Pull::ask(&self.bus.client, consumer, messages, bytes).await?;
        let mut batch = Replayed::default();
        loop {
            let chunk = pull.next().await?;
            for message in chunk.messages {
                let Some((sequence, stored)) = self.sequence(&message) else { continue };
                batch.through = Some(sequence);
                let letters = judge.open(&message, clock::wall().max(stored));
                match sequence <= place.acknowledged {
                    true => batch.letters.extend(letters),
                    false => batch.given_out.extend(letters),
                }
            }
            match chunk.end {
                Some(End::Badly(why)) => return Err(pull::Error::Ended(why).into()),
                Some(_) => return Ok(batch),
                None if batch.through.is_some_and(|through| through >= place.delivered) => return Ok(batch),
                None => {}
            }
        }
    }

    fn sequence(&self, message: &async_nats::Message) -> Option<(u64, Timestamp)> {
        let message = jetstream::Message { message: message.clone(), context: self.bus.jetstream.clone() };
        let info = message.info().ok()?;
        Some((info.stream_sequence, Timestamp::from(info.published)))
    }

    async fn place(&self) -> Result<Place, Error> {
        let bus = |error: Box<dyn std::error::Error + Send + Sync>| Error::Bus(error);
        let jetstream = &self.bus.jetstream;
        let asking = async {
            let stream = jetstream.get_stream(subject::RESULTS).await.map_err(|error| bus(error.into()))?;
            let info = stream.cached_info();
            let (created, first) = (Timestamp::from(info.created), info.state.first_sequence);
            let consumer: Result<PullConsumer, _> = stream.get_consumer(subject::SINK).await;
            // One that was deleted is made again, and begins with the first message.
            let (acknowledged, delivered) = consumer.map_or((0, 0), |consumer| {
                let info = consumer.cached_info();
                (info.ack_floor.stream_sequence, info.delivered.stream_sequence)
            });
            Ok(Place { created, first, acknowledged, delivered })
        };
        timeout(ASK, asking).await.map_err(|elapsed| bus(elapsed.into()))?
    }

    /// A consumer of this replay alone, from this message on; nothing is acknowledged to it. None where the server of the bus does
    /// not let this sink make it: it answers such a request never, though it answers others.
    async fn consumer(&self, from: u64) -> Result<Option<PullConsumer>, Error> {
        let bus = |error: Box<dyn std::error::Error + Send + Sync>| Error::Bus(error);
        let config = consumer::pull::Config {
            name: Some(subject::SINK_REPLAY.to_owned()),
            // No two are alike, so that the server does not take one for the other.
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
            "the credential of this sink does not allow the consumer {}: what the database may have lost from message \
             {from} on is not read again; run 'picket nats init' once more and reload the NATS servers",
            subject::SINK_REPLAY
        );
        Ok(None)
    }
}

/// Whether there is such a consumer already.
fn exists(error: &ConsumerCreateStrictError) -> bool {
    match error.kind() {
        ConsumerCreateStrictErrorKind::AlreadyExists => true,
        ConsumerCreateStrictErrorKind::JetStream(why) => why.error_code() == ErrorCode::CONSUMER_NAME_EXIST,
        _ => false,
    }
}
