//! Writes batches, one at a time and in order, and acknowledges their letters after the commit.
//!
//! **Bound**: the leave to hold a batch, which comes back when it is acknowledged. **Loss**: what was not committed was
//! not acknowledged and comes again; what was committed but not acknowledged comes again and is a duplicate.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::jetstream::AckKind;
use bytes::Bytes;
use picket_proto::{Cause, Outcome, Timestamp, subject};
use picket_runtime::{Backoff, Chain, Condition, streams};
use picket_store::{
    Store,
    incidents::Decided,
    results::{Entry, Results, Written},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use crate::{
    batch::Batch,
    clock::Clock,
    letter::Content,
    metrics::{Metrics, Says, Why},
    outbox,
    recovery::{self, Recovery},
    report::report,
};

pub(crate) enum Msg {
    Write(Batch),
    /// What became of the first batch.
    Wrote(Option<Result<Done, recovery::Error>>),
    Retry,
    /// Time to send `+WPI`, to check that the database is there and complete, and to read its clock.
    Tick,
    Looked(Option<Result<(), recovery::Error>>),
    /// Answered when all is written.
    Finish(RpcReplyPort<()>),
}

/// A batch that was committed.
pub(crate) struct Done {
    written: Written,
    took: Duration,
    at: Timestamp,
}

pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// Guarded by `recovery`.
    pub(crate) results: Results,
    pub(crate) recovery: Recovery,
    pub(crate) client: async_nats::Client,
    pub(crate) metrics: Metrics,
    pub(crate) database: Condition,
    pub(crate) outbox: ActorRef<outbox::Msg>,
}

/// A third of the time after which NATS takes a letter for lost.
const TICK: Duration = Duration::from_secs(streams::RESULT_ACK_WAIT.as_secs() / 3);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// For what is said to NATS and needs no answer; it waits for room only while NATS is away.
const SAY: Duration = Duration::from_secs(2);

impl Actor for Writer {
    type Msg = Msg;
    type State = Queue;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Queue, ActorProcessingErr> {
        myself.send_after(TICK, || Msg::Tick);
        Ok(Queue::new())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        queue: &mut Queue,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Write(batch) => {
                self.metrics.batch_size.observe(batch.letters.len() as f64);
                self.write(&myself, queue.push(batch, Instant::now()));
            }
            Msg::Wrote(None) => return Err("a write panicked".into()),
            Msg::Wrote(Some(Ok(done))) => {
                self.database.holds();
                let (batch, next) = queue.wrote();
                self.write(&myself, next);
                if let Some(batch) = batch {
                    // Nobody waits for an answer: an acknowledgement that gets lost costs a duplicate.
                    say(&self.client, &batch, AckKind::Ack).await;
                    self.tell(&done.written.decided).await;
                    self.count(&batch, &done);
                }
                queue.answer_if_empty();
            }
            Msg::Wrote(Some(Err(error))) => {
                let wait = queue.failed();
                self.complain(&error, wait);
                myself.send_after(wait, || Msg::Retry);
            }
            Msg::Retry => self.write(&myself, queue.first()),
            Msg::Tick => {
                for batch in queue.held_since(Instant::now() - TICK / 2) {
                    say(&self.client, &batch, AckKind::Progress).await;
                }
                if !std::mem::replace(&mut queue.looking, true) {
                    self.look(&myself);
                }
                myself.send_after(TICK, || Msg::Tick);
            }
            Msg::Looked(looked) => {
                queue.looking = false;
                match looked {
                    Some(Err(error)) if queue.is_empty() => self.complain(&error, TICK),
                    Some(Ok(())) if queue.is_empty() => self.database.holds(),
                    _ => {} // A write knows better.
                }
            }
            Msg::Finish(reply) => queue.finish(reply),
        }
        Ok(())
    }
}

impl Writer {
    /// Begins to write. The task is never cancelled: an insert under way is best left to come to its end.
    fn write(&self, myself: &ActorRef<Msg>, batch: Option<Arc<Batch>>) {
        let Some(batch) = batch else { return };
        let (results, recovery, clock) = (self.results.clone(), self.recovery.clone(), self.clock.clone());
        let writing = async move {
            let entries: Vec<Entry<'_>> = batch.letters.iter().filter_map(|letter| letter.entry()).collect();
            loop {
                // Lost results are replayed before new ones are written.
                recovery.ensure_complete().await?;
                let began = Instant::now();
                match results.insert(&entries, clock.bounds(None).latest).await {
                    Err(picket_store::Error::NotCompared) => {}
                    written => {
                        return Ok(Done { written: written?, took: began.elapsed(), at: clock.now() });
                    }
                }
            }
        };
        report(myself.clone(), writing, Msg::Wrote);
    }

    fn look(&self, myself: &ActorRef<Msg>) {
        let (results, recovery) = (self.results.clone(), self.recovery.clone());
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let looking = async move {
            results.ping().await?;
            clock.measure(&store).await?;
            match recovery.ensure_complete().await {
                // The database is not to blame; whoever pulls reports whose bus it is.
                Err(recovery::Error::Foreign(_)) => return Ok(()),
                ensured => ensured?,
            }
            if let Err(error) = recovery.advance_watermark().await {
                debug!(error = %Chain(&error), "could not advance the watermark of results");
            }
            Ok(())
        };
        report(myself.clone(), looking, Msg::Looked);
    }

    fn complain(&self, error: &recovery::Error, wait: Duration) {
        self.metrics.database_errors.inc();
        let why = Chain(error).to_string();
        let wait_ms = wait.as_millis();
        if error.is_transient() {
            warn!(error = why, wait_ms, "the database takes no results, trying again");
        } else {
            // A missing table or a permission: somebody may still mend it, and nothing is lost meanwhile.
            error!(error = why, wait_ms, "the database refuses all results, trying again");
        }
        self.database.fails(why);
    }

    /// Says what was decided to those who wait for it.
    async fn tell(&self, decided: &Decided) {
        if decided.opened + decided.closed > 0 {
            self.metrics.incidents_opened.inc_by(decided.opened);
            self.metrics.incidents_closed.inc_by(decided.closed);
            // One that is gone takes the pipeline with it.
            let _ = self.outbox.cast(outbox::Msg::Wake(Instant::now()));
        }
        let telling = async {
            for suspect in &decided.suspects {
                self.metrics.suspects.inc_by(u64::from(suspect.rounds > 0));
                let payload = serde_json::to_vec(suspect).unwrap_or_default();
                // Nobody listens where no coordinator runs. Then the next ticks tell, only later.
                self.client.publish(subject::suspect(suspect.shard), payload.into()).await?;
            }
            Ok::<_, async_nats::PublishError>(())
        };
        match timeout(SAY, telling).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = %Chain(&error), "could not ask for confirming checks"),
            Err(_) => warn!("NATS takes no requests for confirming checks"),
        }
    }

    fn count(&self, batch: &Batch, done: &Done) {
        let Done { written, took, at } = done;
        let metrics = &self.metrics;
        metrics.write_seconds.observe(took.as_secs_f64());
        metrics.duplicates.inc_by(written.duplicates);
        for ((outcome, cause), count) in &written.new {
            metrics.results.get_or_create(&says(*outcome, *cause)).inc_by(*count);
        }
        let dead = |reason, count| {
            if count > 0 {
                metrics.dead_letters.get_or_create(&Why { reason }).inc_by(count);
            }
        };
        dead("region", written.of_unknown_regions);
        dead("refused", written.refused);
        for letter in &batch.letters {
            match &letter.content {
                Content::Unusable(unusable) => dead(unusable.kind, 1),
                Content::Check(result) => {
                    metrics.delay_seconds.observe(at.since(result.scheduled_at).as_secs_f64());
                }
                Content::Adhoc(_) | Content::Foreign(_) => {}
            }
        }
        if let Some(reason) = &written.reason {
            warn!(dead = written.dead(), reason, "messages that cannot be rows are in picket.dead_letters");
        }
        debug!(
            results = written.inserted(),
            duplicates = written.duplicates,
            duration_ms = took.as_millis(),
            "results written"
        );
    }
}

fn says(outcome: Outcome, cause: Option<Cause>) -> Says {
    Says { outcome: outcome.as_str(), cause: cause.map_or("", Cause::as_str) }
}

async fn say(client: &async_nats::Client, batch: &Batch, kind: AckKind) {
    let payload = Bytes::from(kind);
    let saying = async {
        for reply in &batch.replies {
            client.publish(reply.clone(), payload.clone()).await?;
        }
        Ok::<_, async_nats::PublishError>(())
    };
    match timeout(SAY, saying).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = %Chain(&error), "could not acknowledge results; they come again"),
        Err(_) => warn!("NATS takes no acknowledgements of results; they come again"),
    }
}

/// Batches that wait, in order; the first is being written, or waits to be tried again.
pub(crate) struct Queue {
    held: VecDeque<(Arc<Batch>, Instant)>,
    backoff: Backoff,
    failing: bool,
    looking: bool,
    finishing: Vec<RpcReplyPort<()>>,
}

impl Queue {
    fn new() -> Self {
        Self {
            held: VecDeque::new(),
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            failing: false,
            looking: false,
            finishing: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn first(&self) -> Option<Arc<Batch>> {
        self.held.front().map(|(batch, _)| batch.clone())
    }

    /// Gives the batch back if it is to be written now.
    fn push(&mut self, batch: Batch, now: Instant) -> Option<Arc<Batch>> {
        self.held.push_back((Arc::new(batch), now));
        if self.held.len() == 1 { self.first() } else { None }
    }

    /// Gives the batch that is done, and the next to be written.
    fn wrote(&mut self) -> (Option<Arc<Batch>>, Option<Arc<Batch>>) {
        if std::mem::take(&mut self.failing) {
            info!("the database takes results again");
        }
        self.backoff.reset();
        let done = self.held.pop_front().map(|(batch, _)| batch);
        (done, self.first())
    }

    fn failed(&mut self) -> Duration {
        self.failing = true;
        self.backoff.next_wait()
    }

    fn held_since(&self, before: Instant) -> Vec<Arc<Batch>> {
        self.held.iter().filter(|(_, since)| *since <= before).map(|(batch, _)| batch.clone()).collect()
    }

    fn finish(&mut self, reply: RpcReplyPort<()>) {
        self.finishing.push(reply);
        self.answer_if_empty();
    }

    fn answer_if_empty(&mut self) {
        if self.held.is_empty() {
            for reply in self.finishing.drain(..) {
                // Who no longer waits need not know.
                let _ = reply.send(());
            }
        }
    }
}
