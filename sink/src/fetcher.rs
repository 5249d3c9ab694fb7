//! Pulls results from the stream in batches, and recreates a deleted consumer.
//!
//! Results wait in the stream and not in the sink. A pull request fetches all available messages.
//! The next request follows after the batch age, or at once if the batch was full. So the first
//! result after an idle period is written at once, and under load the sink and the server wake up
//! only a few times a second.
//!
//! **Bound**: a batch permit is acquired before each pull request. **Loss**: none; NATS redelivers
//! messages that were not passed on, because they are not acknowledged.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use picket_proto::{Timestamp, subject};
use picket_runtime::{Backoff, Bus, ErrorChain, ReadinessCheck, streams};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout},
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
    /// Start the next pull request.
    Fetch,
    /// Result of the pull request; `None` if its task panicked.
    FetchEnded(Option<Result<FetchOutcome, Error>>),
    /// Stop pulling; answered when all messages in flight have been passed on.
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

/// End of a pull request after which the consumer can be used again.
pub(crate) struct FetchOutcome {
    consumer: Box<PullConsumer>,
    verification: Verification,
    /// True if more messages may be available.
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
/// Maximum time for messages in flight after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without a message, after an answer of the server, after which no more messages are assumed
/// in flight.
const QUIET_PERIOD: Duration = Duration::from_millis(50);
/// Interval of backlog readings while no permit is available.
const BACKLOG_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The running pull request, and the state kept between requests.
pub(crate) struct FetcherState {
    consumer: Option<Box<PullConsumer>>,
    verification: Verification,
    task: Option<AbortHandle>,
    stop: CancellationToken,
    stop_reply: Option<RpcReplyPort<()>>,
    backoff: Backoff,
}

/// Aborts the running task, also if the actor is killed.
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
        state: &mut FetcherState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Fetch if state.stop.is_cancelled() => {}
            Msg::Fetch => self.start_fetch(myself, state),
            Msg::FetchEnded(None) => return Err("a pull panicked".into()),
            Msg::FetchEnded(Some(ended)) => self.on_fetch_ended(&myself, ended, state),
            Msg::Stop(reply) => {
                state.stop.cancel();
                state.stop_reply = Some(reply);
                state.reply_if_idle();
            }
        }
        Ok(())
    }
}

impl Fetcher {
    fn start_fetch(&self, myself: ActorRef<Msg>, state: &mut FetcherState) {
        let (fetcher, stop, consumer) = (self.clone(), state.stop.clone(), state.consumer.take());
        let verified = state.verification;
        let pull = async move { fetcher.fetch_batch(consumer, verified, &stop).await };
        state.task = Some(pipe_to_self(myself, pull, Msg::FetchEnded));
    }

    fn on_fetch_ended(
        &self,
        myself: &ActorRef<Msg>,
        ended: Result<FetchOutcome, Error>,
        state: &mut FetcherState,
    ) {
        state.task = None;
        match ended {
            Ok(FetchOutcome { consumer, verification: verified, has_more: more }) => {
                state.consumer = Some(consumer);
                state.verification = verified;
                state.backoff.reset();
                match more {
                    // `reply_if_idle` below answers the stop.
                    _ if state.stop.is_cancelled() => {}
                    true => self.start_fetch(myself.clone(), state),
                    false => drop(myself.send_after(self.config.batch_age, || Msg::Fetch)),
                }
            }
            Err(error) => {
                let why = ErrorChain(&error).to_string();
                // The consumer is not kept: it may be the one that was deleted, so the next fetch
                // opens it again.
                let wait = state.backoff.next_delay();
                self.metrics.pull_errors.inc();
                if !state.stop.is_cancelled() {
                    warn!(error = why, wait_ms = wait.as_millis(), "could not pull results, retrying");
                    self.stream.set_unready(why);
                    myself.send_after(wait, || Msg::Fetch);
                }
            }
        }
        state.reply_if_idle();
    }

    /// Fetches up to a batch of messages for the writer.
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
        // The permit comes first, so that every delivered message has room in memory.
        let Some(mut batch) = stop.run_until_cancelled(self.acquire_batch(&consumer)).await else {
            // Stopped before anything was requested.
            return Ok(FetchOutcome { consumer, verification: verified, has_more: true });
        };
        let (messages, bytes) = self.config.pull_limits();
        let mut pull = PullRequest::send(&self.bus.client, &consumer, messages, bytes).await?;
        let ended = match stop.run_until_cancelled(self.read_until_end(&mut pull, &mut batch)).await {
            Some(ended) => ended,
            None => self.drain_in_flight(&consumer, &mut pull, &mut batch).await,
        };
        // Received messages are written however the request ended.
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

    /// Reads messages until the request ends. Cancel-safe.
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

    /// Reads the messages already sent by the server, which would be redelivered only after the
    /// acknowledgement timeout.
    async fn drain_in_flight(
        &self,
        consumer: &PullConsumer,
        pull: &mut PullRequest,
        batch: &mut ResultBatch,
    ) -> Result<PullEnd, pull::Error> {
        let until = Instant::now() + STOP_TIMEOUT;
        loop {
            // A loaded server takes longer than a short pause to send what it has, and as long to
            // answer.
            let quiet = async {
                let _ = consumer.get_info().await;
                sleep(QUIET_PERIOD).await;
            };
            let chunk = tokio::select! {
                biased;
                chunk = pull.next_chunk() => chunk?,
                () = quiet => break,
                () = sleep_until(until) => break,
            };
            self.decode_messages(chunk.messages, batch);
            if let Some(end) = chunk.end {
                return Ok(end);
            }
        }
        Ok(PullEnd::Drained)
    }

    fn decode_messages(&self, messages: Vec<async_nats::Message>, batch: &mut ResultBatch) {
        let tickets = self.guard.tickets();
        let decoder = ResultDecoder { retention: self.guard.retention(), tickets: &tickets };
        let last_delivery = messages.last().and_then(|message| self.delivery_info(message));
        // Each message carries the count at its own delivery; the last one is the newest.
        if let Some((pending, _)) = last_delivery {
            self.metrics.pending_messages.set(pending);
        }
        // The server's clock at storage widens the bounds, so that a slow database clock does not
        // make new results appear to lie in the future.
        let now = self.clock.time_bounds(last_delivery.map(|(_, stored)| stored));
        for message in messages {
            for decoded in decoder.decode_message(&message, now) {
                match decoded.content {
                    DecodedContent::Foreign(installation) => self.guard.count_foreign_result(installation),
                    _ => batch.results.push(decoded),
                }
            }
            // Also of rejected and foreign results: without an acknowledgement they would come
            // again for ever.
            batch.reply_subjects.extend(message.reply);
        }
    }

    /// Number of messages waiting at the delivery of `message`, and its time of storage in the
    /// stream.
    fn delivery_info(&self, message: &async_nats::Message) -> Option<(i64, Timestamp)> {
        let message = jetstream::Message { message: message.clone(), context: self.bus.jetstream.clone() };
        let info = message.info().ok()?;
        Some((i64::try_from(info.pending).ok()?, Timestamp::from(info.published)))
    }

    /// Waits for a batch permit. Reads the backlog from the consumer meanwhile, because without
    /// pulled messages the metric would be stale.
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

    /// Creates the stream and the consumer if they do not exist.
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
        info!(stream = subject::RESULTS_STREAM, "pulling results");
        Ok(Box::new(consumer))
    }
}

impl FetcherState {
    fn reply_if_idle(&mut self) {
        if self.task.is_none()
            && let Some(reply) = self.stop_reply.take()
        {
            // The caller may have stopped waiting.
            let _ = reply.send(());
        }
    }
}
