//! Takes results from the stream, a batch at a time, and makes the consumer again when it is gone.
//!
//! Results gather in the stream and not here: what there is is taken at once, and then a while nothing is, unless there is
//! more than a batch. So the first after a silence is written at once, and at any rate each party wakes up a few times a
//! second.
//!
//! **Bound**: the leave to hold a batch is had before it is asked for. **Loss**: what was delivered and not handed on
//! was not acknowledged, so NATS delivers it again.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use picket_proto::{Timestamp, subject};
use picket_runtime::{Backoff, Bus, ErrorChain, ReadinessCheck, streams};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Config,
    actor::pipe_to_self,
    batch::{BatchPermits, ResultBatch},
    database_clock::SharedDatabaseClock,
    decode::{DecodedContent, ResultDecoder},
    installation_guard::{self, InstallationGuard, Verification},
    metrics::Metrics,
    pull::{self, PullEnd, PullRequest},
    writer,
};

pub(crate) enum Msg {
    /// Ask for the next messages.
    Fetch,
    /// How that ended.
    FetchEnded(Option<Result<FetchOutcome, Error>>),
    /// Take no more; answered when what is on its way has been handed on.
    Stop(RpcReplyPort<()>),
}

#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) config: Config,
    pub(crate) bus: Bus,
    pub(crate) clock: SharedDatabaseClock,
    pub(crate) guard: InstallationGuard,
    pub(crate) writer: ActorRef<writer::Msg>,
    pub(crate) metrics: Metrics,
    pub(crate) stream: ReadinessCheck,
    pub(crate) permits: BatchPermits,
}

/// The consumer still serves.
pub(crate) struct FetchOutcome {
    consumer: Box<PullConsumer>,
    verification: Verification,
    /// Whether there may be more by now.
    has_more: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Stream(#[from] streams::Error),
    #[error("could not find the consumer of results")]
    Consumer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Guard(#[from] installation_guard::Error),
    #[error(transparent)]
    Pull(#[from] pull::Error),
    #[error("the writer is gone")]
    WriterGone,
}

pub(crate) const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
pub(crate) const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// How long what is on its way may take once a stop was asked for, and the silence that says that nothing is.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
const QUIET_PERIOD: Duration = Duration::from_millis(50);
/// How often the backlog is looked at while nothing may be taken.
const BACKLOG_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// What is under way.
pub(crate) struct FetcherState {
    consumer: Option<Box<PullConsumer>>,
    verification: Verification,
    task: Option<AbortHandle>,
    stop: CancellationToken,
    stop_reply: Option<RpcReplyPort<()>>,
    backoff: Backoff,
}

/// An actor that is killed leaves nothing behind.
impl Drop for FetcherState {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Actor for Fetcher {
    type Msg = Msg;
    type State = FetcherState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<FetcherState, ActorProcessingErr> {
        myself.cast(Msg::Fetch)?;
        Ok(FetcherState {
            consumer: None,
            verification: self.guard.initial_verification(),
            task: None,
            stop: CancellationToken::new(),
            stop_reply: None,
            backoff: Backoff::new(MIN_RETRY_DELAY, MAX_RETRY_DELAY),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        pulling: &mut FetcherState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Fetch if pulling.stop.is_cancelled() => {}
            Msg::Fetch => self.start_fetch(myself, pulling),
            Msg::FetchEnded(None) => return Err("a pull panicked".into()),
            Msg::FetchEnded(Some(ended)) => self.on_fetch_ended(&myself, ended, pulling),
            Msg::Stop(reply) => {
                pulling.stop.cancel();
                pulling.stop_reply = Some(reply);
                pulling.reply_if_idle();
            }
        }
        Ok(())
    }
}

impl Fetcher {
    fn start_fetch(&self, myself: ActorRef<Msg>, pulling: &mut FetcherState) {
        let (puller, stop, consumer) = (self.clone(), pulling.stop.clone(), pulling.consumer.take());
        let verified = pulling.verification;
        let pull = async move { puller.fetch_batch(consumer, verified, &stop).await };
        pulling.task = Some(pipe_to_self(myself, pull, Msg::FetchEnded));
    }

    fn on_fetch_ended(
        &self,
        myself: &ActorRef<Msg>,
        ended: Result<FetchOutcome, Error>,
        pulling: &mut FetcherState,
    ) {
        pulling.task = None;
        match ended {
            Ok(FetchOutcome { consumer, verification: verified, has_more: more }) => {
                pulling.consumer = Some(consumer);
                pulling.verification = verified;
                pulling.backoff.reset();
                match more {
                    _ if pulling.stop.is_cancelled() => {}
                    true => self.start_fetch(myself.clone(), pulling),
                    false => drop(myself.send_after(self.config.batch_age, || Msg::Fetch)),
                }
            }
            Err(error) => {
                let why = ErrorChain(&error).to_string();
                let wait = pulling.backoff.next_delay();
                self.metrics.pull_errors.inc();
                if !pulling.stop.is_cancelled() {
                    warn!(error = why, wait_ms = wait.as_millis(), "no results can be taken, trying again");
                    self.stream.set_unready(why);
                    myself.send_after(wait, || Msg::Fetch);
                }
            }
        }
        pulling.reply_if_idle();
    }

    /// Takes one batch's worth of messages, or what there is.
    async fn fetch_batch(
        &self,
        consumer: Option<Box<PullConsumer>>,
        verified: Verification,
        stop: &CancellationToken,
    ) -> Result<FetchOutcome, Error> {
        let consumer = match consumer {
            Some(consumer) => consumer,
            None => self.open_consumer().await?,
        };
        let verified = self.guard.verify_if_due(verified).await?;
        let Some(mut batch) = stop.run_until_cancelled(self.acquire_batch(&consumer)).await else {
            return Ok(FetchOutcome { consumer, verification: verified, has_more: true });
        };
        let (messages, bytes) = self.config.pull_limits();
        let mut pull = PullRequest::send(&self.bus.client, &consumer, messages, bytes).await?;
        let ended = match stop.run_until_cancelled(self.read_until_end(&mut pull, &mut batch)).await {
            Some(ended) => ended,
            None => self.drain_in_flight(&mut pull, &mut batch).await,
        };
        // What has come is written, however the request ended.
        if !batch.reply_subjects.is_empty() {
            self.writer.cast(writer::Msg::Write(batch)).map_err(|_| Error::WriterGone)?;
        }
        let more = match ended? {
            PullEnd::Drained => false,
            PullEnd::Full => true,
            PullEnd::Failed(why) => return Err(pull::Error::Ended(why).into()),
        };
        self.stream.set_ready();
        Ok(FetchOutcome { consumer, verification: verified, has_more: more })
    }

    /// Reads messages until the request ends; cancel-safe.
    async fn read_until_end(
        &self,
        pull: &mut PullRequest,
        batch: &mut ResultBatch,
    ) -> Result<PullEnd, pull::Error> {
        loop {
            let chunk = pull.next_chunk().await?;
            self.decode_messages(chunk.messages, batch);
            if let Some(end) = chunk.end {
                return Ok(end);
            }
        }
    }

    /// Reads what the server has sent already: it would come again only when the server misses it.
    async fn drain_in_flight(
        &self,
        pull: &mut PullRequest,
        batch: &mut ResultBatch,
    ) -> Result<PullEnd, pull::Error> {
        let until = Instant::now() + STOP_TIMEOUT;
        while let Ok(chunk) = timeout_at(until.min(Instant::now() + QUIET_PERIOD), pull.next_chunk()).await {
            let chunk = chunk?;
            self.decode_messages(chunk.messages, batch);
            if let Some(end) = chunk.end {
                return Ok(end);
            }
        }
        Ok(PullEnd::Drained)
    }

    fn decode_messages(&self, messages: Vec<async_nats::Message>, batch: &mut ResultBatch) {
        let tickets = self.guard.tickets();
        let judge = ResultDecoder { retention: self.config.retention, tickets: &tickets };
        let told = messages.last().and_then(|message| self.delivery_info(message));
        if let Some((pending, _)) = told {
            self.metrics.pending_messages.set(pending);
        }
        // Whoever's clock is behind must not take what is new for what is to come.
        let now = self.clock.time_bounds(told.map(|(_, stored)| stored));
        for message in messages {
            for letter in judge.decode_message(&message, now) {
                match letter.content {
                    DecodedContent::Foreign(installation) => self.guard.count_foreign_result(installation),
                    _ => batch.results.push(letter),
                }
            }
            batch.reply_subjects.extend(message.reply);
        }
    }

    /// How many messages waited when this one was delivered, and when the stream had stored it.
    fn delivery_info(&self, message: &async_nats::Message) -> Option<(i64, Timestamp)> {
        let message = jetstream::Message { message: message.clone(), context: self.bus.jetstream.clone() };
        let info = message.info().ok()?;
        Some((i64::try_from(info.pending).ok()?, Timestamp::from(info.published)))
    }

    /// Waits for the leave to hold a batch; while there is none nothing is taken that would tell of the backlog.
    async fn acquire_batch(&self, consumer: &PullConsumer) -> ResultBatch {
        let mut waiting = std::pin::pin!(self.permits.acquire_empty_batch());
        loop {
            match timeout(BACKLOG_POLL_INTERVAL, &mut waiting).await {
                Ok(batch) => return batch,
                Err(_) => {
                    if let Ok(info) = consumer.get_info().await {
                        self.metrics
                            .pending_messages
                            .set(i64::try_from(info.num_pending).unwrap_or(i64::MAX));
                    }
                }
            }
        }
    }

    /// Makes the stream and the consumer where they are not there.
    async fn open_consumer(&self) -> Result<Box<PullConsumer>, Error> {
        let jetstream = &self.bus.jetstream;
        self.guard.ensure_results_stream().await?;
        streams::create_or_update_consumer(
            jetstream,
            subject::RESULTS_STREAM,
            streams::sink_consumer_config(),
        )
        .await?;
        let found = jetstream.get_consumer_from_stream(subject::SINK_CONSUMER, subject::RESULTS_STREAM).await;
        let consumer = found.map_err(|error| Error::Consumer(error.into()))?;
        self.stream.set_ready();
        info!("taking results from the stream {}", subject::RESULTS_STREAM);
        Ok(Box::new(consumer))
    }
}

impl FetcherState {
    fn reply_if_idle(&mut self) {
        if self.task.is_none()
            && let Some(reply) = self.stop_reply.take()
        {
            // Who no longer waits need not know.
            let _ = reply.send(());
        }
    }
}
