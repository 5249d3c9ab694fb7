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
use picket_runtime::{Backoff, Bus, Chain, Condition, streams};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Config,
    batch::{Batch, Leaves},
    clock::Clock,
    guard::{self, Guard, Verified},
    letter::{Content, Judge},
    metrics::Metrics,
    pull::{self, End, Pull},
    report::report,
    writer,
};

pub(crate) enum Msg {
    /// Ask for the next messages.
    Pull,
    /// How that ended.
    Pulled(Option<Result<Pulled, Error>>),
    /// Take no more; answered when what is on its way has been handed on.
    Stop(RpcReplyPort<()>),
}

#[derive(Clone)]
pub(crate) struct Puller {
    pub(crate) config: Config,
    pub(crate) bus: Bus,
    pub(crate) clock: Clock,
    pub(crate) guard: Guard,
    pub(crate) writer: ActorRef<writer::Msg>,
    pub(crate) metrics: Metrics,
    pub(crate) stream: Condition,
    pub(crate) leaves: Leaves,
}

/// The consumer still serves.
pub(crate) struct Pulled {
    consumer: Box<PullConsumer>,
    verified: Verified,
    /// Whether there may be more by now.
    more: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Ensure(#[from] streams::Error),
    #[error("could not find the consumer of results")]
    Find(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Guard(#[from] guard::Error),
    #[error(transparent)]
    Pull(#[from] pull::Error),
    #[error("the writer is gone")]
    NoWriter,
}

pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(100);
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long what is on its way may take once a stop was asked for, and the silence that says that nothing is.
const LAST: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_millis(50);
/// How often the backlog is looked at while nothing may be taken.
const LOOK: Duration = Duration::from_secs(5);

/// What is under way.
pub(crate) struct Pulling {
    consumer: Option<Box<PullConsumer>>,
    verified: Verified,
    task: Option<AbortHandle>,
    stop: CancellationToken,
    stopped: Option<RpcReplyPort<()>>,
    backoff: Backoff,
}

/// An actor that is killed leaves nothing behind.
impl Drop for Pulling {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Actor for Puller {
    type Msg = Msg;
    type State = Pulling;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Pulling, ActorProcessingErr> {
        myself.cast(Msg::Pull)?;
        Ok(Pulling {
            consumer: None,
            verified: self.guard.at_start(),
            task: None,
            stop: CancellationToken::new(),
            stopped: None,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        pulling: &mut Pulling,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Pull if pulling.stop.is_cancelled() => {}
            Msg::Pull => self.begin(myself, pulling),
            Msg::Pulled(None) => return Err("a pull panicked".into()),
            Msg::Pulled(Some(ended)) => self.ended(&myself, ended, pulling),
            Msg::Stop(reply) => {
                pulling.stop.cancel();
                pulling.stopped = Some(reply);
                pulling.answer_if_idle();
            }
        }
        Ok(())
    }
}

impl Puller {
    fn begin(&self, myself: ActorRef<Msg>, pulling: &mut Pulling) {
        let (puller, stop, consumer) = (self.clone(), pulling.stop.clone(), pulling.consumer.take());
        let verified = pulling.verified;
        let pull = async move { puller.pull(consumer, verified, &stop).await };
        pulling.task = Some(report(myself, pull, Msg::Pulled));
    }

    fn ended(&self, myself: &ActorRef<Msg>, ended: Result<Pulled, Error>, pulling: &mut Pulling) {
        pulling.task = None;
        match ended {
            Ok(Pulled { consumer, verified, more }) => {
                pulling.consumer = Some(consumer);
                pulling.verified = verified;
                pulling.backoff.reset();
                match more {
                    _ if pulling.stop.is_cancelled() => {}
                    true => self.begin(myself.clone(), pulling),
                    false => drop(myself.send_after(self.config.batch_age, || Msg::Pull)),
                }
            }
            Err(error) => {
                let why = Chain(&error).to_string();
                let wait = pulling.backoff.next_wait();
                self.metrics.pull_errors.inc();
                if !pulling.stop.is_cancelled() {
                    warn!(error = why, wait_ms = wait.as_millis(), "no results can be taken, trying again");
                    self.stream.fails(why);
                    myself.send_after(wait, || Msg::Pull);
                }
            }
        }
        pulling.answer_if_idle();
    }

    /// Takes one batch's worth of messages, or what there is.
    async fn pull(
        &self,
        consumer: Option<Box<PullConsumer>>,
        verified: Verified,
        stop: &CancellationToken,
    ) -> Result<Pulled, Error> {
        let consumer = match consumer {
            Some(consumer) => consumer,
            None => self.ensure().await?,
        };
        let verified = self.guard.verify(verified).await?;
        let Some(mut batch) = stop.run_until_cancelled(self.leave(&consumer)).await else {
            return Ok(Pulled { consumer, verified, more: true });
        };
        let (messages, bytes) = self.config.most();
        let mut pull = Pull::ask(&self.bus.client, &consumer, messages, bytes).await?;
        let ended = match stop.run_until_cancelled(self.take(&mut pull, &mut batch)).await {
            Some(ended) => ended,
            None => self.last(&mut pull, &mut batch).await,
        };
        // What has come is written, however the request ended.
        if !batch.replies.is_empty() {
            self.writer.cast(writer::Msg::Write(batch)).map_err(|_| Error::NoWriter)?;
        }
        let more = match ended? {
            End::Drained => false,
            End::Full => true,
            End::Badly(why) => return Err(pull::Error::Ended(why).into()),
        };
        self.stream.holds();
        Ok(Pulled { consumer, verified, more })
    }

    /// Reads messages until the request ends; cancel-safe.
    async fn take(&self, pull: &mut Pull, batch: &mut Batch) -> Result<End, pull::Error> {
        loop {
            let chunk = pull.next().await?;
            self.read(chunk.messages, batch);
            if let Some(end) = chunk.end {
                return Ok(end);
            }
        }
    }

    /// Reads what the server has sent already: it would come again only when the server misses it.
    async fn last(&self, pull: &mut Pull, batch: &mut Batch) -> Result<End, pull::Error> {
        let until = Instant::now() + LAST;
        while let Ok(chunk) = timeout_at(until.min(Instant::now() + SILENCE), pull.next()).await {
            let chunk = chunk?;
            self.read(chunk.messages, batch);
            if let Some(end) = chunk.end {
                return Ok(end);
            }
        }
        Ok(End::Drained)
    }

    fn read(&self, messages: Vec<async_nats::Message>, batch: &mut Batch) {
        let tickets = self.guard.tickets();
        let judge = Judge { retention: self.config.retention, tickets: &tickets };
        let told = messages.last().and_then(|message| self.told(message));
        if let Some((pending, _)) = told {
            self.metrics.pending.set(pending);
        }
        // Whoever's clock is behind must not take what is new for what is to come.
        let now = self.clock.bounds(told.map(|(_, stored)| stored));
        for message in messages {
            for letter in judge.open(&message, now) {
                match letter.content {
                    Content::Foreign(installation) => self.guard.refuse_foreign(installation),
                    _ => batch.letters.push(letter),
                }
            }
            batch.replies.extend(message.reply);
        }
    }

    /// How many messages waited when this one was delivered, and when the stream had stored it.
    fn told(&self, message: &async_nats::Message) -> Option<(i64, Timestamp)> {
        let message = jetstream::Message { message: message.clone(), context: self.bus.jetstream.clone() };
        let info = message.info().ok()?;
        Some((i64::try_from(info.pending).ok()?, Timestamp::from(info.published)))
    }

    /// Waits for the leave to hold a batch; while there is none nothing is taken that would tell of the backlog.
    async fn leave(&self, consumer: &PullConsumer) -> Batch {
        let mut waiting = std::pin::pin!(self.leaves.batch());
        loop {
            match timeout(LOOK, &mut waiting).await {
                Ok(batch) => return batch,
                Err(_) => {
                    if let Ok(info) = consumer.get_info().await {
                        self.metrics.pending.set(i64::try_from(info.num_pending).unwrap_or(i64::MAX));
                    }
                }
            }
        }
    }

    /// Makes the stream and the consumer where they are not there.
    async fn ensure(&self) -> Result<Box<PullConsumer>, Error> {
        let jetstream = &self.bus.jetstream;
        self.guard.ensure_results().await?;
        streams::ensure_consumer(jetstream, subject::RESULTS, streams::sink_consumer()).await?;
        let found = jetstream.get_consumer_from_stream(subject::SINK, subject::RESULTS).await;
        let consumer = found.map_err(|error| Error::Find(error.into()))?;
        self.stream.holds();
        info!("taking results from the stream {}", subject::RESULTS);
        Ok(Box::new(consumer))
    }
}

impl Pulling {
    fn answer_if_idle(&mut self) {
        if self.task.is_none()
            && let Some(reply) = self.stopped.take()
        {
            // Who no longer waits need not know.
            let _ = reply.send(());
        }
    }
}
