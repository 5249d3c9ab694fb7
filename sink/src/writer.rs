//! Writes batches one at a time and in order, and acknowledges their messages after the commit.
//!
//! **Bound**: the permit of a batch, released when the batch is acknowledged. **Loss**: none. NATS
//! redelivers uncommitted results, which were not acknowledged. A committed result without an
//! acknowledgement is redelivered as well, and is then a duplicate.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::jetstream::AckKind;
use bytes::Bytes;
use picket_proto::{Cause, Outcome, Timestamp, subject};
use picket_runtime::{Backoff, ErrorChain, ReadinessCheck, streams};
use picket_store::{
    Store,
    results::{IncomingResult, InsertSummary, ResultStore},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::{Instant, timeout};
use tracing::{Instrument, debug, error, info, warn};

use crate::{
    actor::pipe_to_self,
    batch::ResultBatch,
    database_clock::SharedDatabaseClock,
    decode::DecodedContent,
    metrics::{Metrics, OutcomeLabels, ReasonLabel},
    outbox_publisher,
    recovery::{self, Recovery},
};

pub(crate) enum Msg {
    Write(ResultBatch),
    /// Result of the write of the first batch; `None` if its task panicked.
    WriteEnded(Option<Result<CommittedBatch, recovery::Error>>),
    Retry,
    /// Time to send `+WPI`, to verify an available and complete database, and to read its clock.
    Tick,
    PingEnded(Option<Result<(), recovery::Error>>),
    /// Answered when all batches are written.
    Finish(RpcReplyPort<()>),
}

/// Summary of a committed batch.
pub(crate) struct CommittedBatch {
    summary: InsertSummary,
    duration: Duration,
    committed_at: Timestamp,
}

pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) clock: SharedDatabaseClock,
    /// Guarded by `recovery`.
    pub(crate) results: ResultStore,
    pub(crate) recovery: Recovery,
    pub(crate) client: async_nats::Client,
    pub(crate) metrics: Metrics,
    pub(crate) database: ReadinessCheck,
    pub(crate) outbox: ActorRef<outbox_publisher::Msg>,
}

/// A third of the time after which NATS redelivers a message.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(streams::RESULT_ACK_WAIT.as_secs() / 3);
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// Timeout of publishing without an answer. Publishing blocks only while NATS is unavailable.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

impl Actor for Writer {
    type Msg = Msg;
    type State = WriteQueue;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<WriteQueue, ActorProcessingErr> {
        myself.send_after(PROGRESS_INTERVAL, || Msg::Tick);
        Ok(WriteQueue::new())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        queue: &mut WriteQueue,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Write(batch) => {
                self.metrics.batch_size.observe(batch.results.len() as f64);
                self.start_write(&myself, queue.push_batch(batch, Instant::now()));
            }
            Msg::WriteEnded(None) => return Err("a write panicked".into()),
            Msg::WriteEnded(Some(Ok(done))) => {
                self.database.set_ready();
                let (batch, next) = queue.complete_front();
                self.start_write(&myself, next);
                if let Some(batch) = batch {
                    // The acknowledgement is not confirmed: a lost one costs a duplicate only.
                    let settling = async {
                        ack_batch(&self.client, &batch, AckKind::Ack).await;
                        self.publish_decisions(&done.summary).await;
                        self.record_metrics(&batch, &done);
                    };
                    settling.instrument(batch.span.clone()).await;
                }
                queue.reply_if_empty();
            }
            Msg::WriteEnded(Some(Err(error))) => {
                let wait = queue.record_failure();
                self.report_database_error(&error, wait);
                myself.send_after(wait, || Msg::Retry);
            }
            Msg::Retry => self.start_write(&myself, queue.front_batch()),
            Msg::Tick => {
                // Younger batches have most of their acknowledgement timeout left.
                for batch in queue.batches_held_since(Instant::now() - PROGRESS_INTERVAL / 2) {
                    ack_batch(&self.client, &batch, AckKind::Progress).await;
                }
                if !std::mem::replace(&mut queue.is_pinging, true) {
                    self.ping_database(&myself);
                }
                myself.send_after(PROGRESS_INTERVAL, || Msg::Tick);
            }
            Msg::PingEnded(ping) => {
                queue.is_pinging = false;
                match ping {
                    Some(Err(error)) if queue.is_empty() => {
                        self.report_database_error(&error, PROGRESS_INTERVAL)
                    }
                    Some(Ok(())) if queue.is_empty() => self.database.set_ready(),
                    // While batches are queued, their writes decide about readiness.
                    _ => {}
                }
            }
            Msg::Finish(reply) => queue.finish_when_empty(reply),
        }
        Ok(())
    }
}

impl Writer {
    /// Starts to write `batch`. The task is never cancelled, because an insert under way is best
    /// left to finish.
    fn start_write(&self, myself: &ActorRef<Msg>, batch: Option<Arc<ResultBatch>>) {
        let Some(batch) = batch else { return };
        let (results, recovery, clock) = (self.results.clone(), self.recovery.clone(), self.clock.clone());
        let span = batch.span.clone();
        let writing = async move {
            let entries: Vec<IncomingResult<'_>> =
                batch.results.iter().filter_map(|result| result.incoming_result()).collect();
            loop {
                // Lost results are replayed before new ones are written.
                recovery.ensure_complete().await?;
                let began = Instant::now();
                match results.insert_batch(&entries, clock.time_bounds(None).latest).await {
                    // A new connection may lead to another server, so it is compared first.
                    Err(picket_store::Error::ServerNotVerified) => {}
                    written => {
                        return Ok(CommittedBatch {
                            summary: written?,
                            duration: began.elapsed(),
                            committed_at: clock.now(),
                        });
                    }
                }
            }
        };
        pipe_to_self(myself.clone(), writing.instrument(span), Msg::WriteEnded);
    }

    fn ping_database(&self, myself: &ActorRef<Msg>) {
        let (results, recovery) = (self.results.clone(), self.recovery.clone());
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let pinging = async move {
            results.ping().await?;
            clock.update_from_database(&store).await?;
            match recovery.ensure_complete().await {
                // The database is not at fault; the fetcher reports the foreign bus.
                Err(recovery::Error::Foreign(_)) => return Ok(()),
                ensured => ensured?,
            }
            if let Err(error) = recovery.advance_watermark().await {
                debug!(error = %ErrorChain(&error), "could not advance the result watermark");
            }
            Ok(())
        };
        pipe_to_self(myself.clone(), pinging, Msg::PingEnded);
    }

    fn report_database_error(&self, error: &recovery::Error, wait: Duration) {
        self.metrics.database_errors.inc();
        let why = ErrorChain(error).to_string();
        let wait_ms = wait.as_millis();
        if error.is_transient() {
            warn!(error = why, wait_ms, "database unavailable, retrying");
        } else {
            // For example a missing table or permission: an operator may still repair it, and no
            // result is lost meanwhile.
            error!(error = why, wait_ms, "database rejects all results, retrying");
        }
        self.database.set_unready(why);
    }

    /// Publishes the decisions of a commit: wakes the outbox for incidents and warnings, and
    /// requests confirmations.
    async fn publish_decisions(&self, InsertSummary { incidents: decided, warnings, .. }: &InsertSummary) {
        if decided.opened + decided.closed + warnings.opened + warnings.closed > 0 {
            self.metrics.incidents_opened.inc_by(decided.opened);
            self.metrics.incidents_closed.inc_by(decided.closed);
            self.metrics.warnings_opened.inc_by(warnings.opened);
            self.metrics.warnings_closed.inc_by(warnings.closed);
            // A stopped outbox takes the pipeline down with it.
            let _ = self.outbox.cast(outbox_publisher::Msg::Wake(Instant::now()));
        }
        for doubt in &decided.doubts {
            self.metrics.doubtful_windows.inc();
            warn!(
                region = doubt.region,
                prober = doubt.prober,
                hosts = doubt.hosts,
                since = %doubt.from,
                "all checks of a prober fail while other regions reach the same hosts; its failures open no incident"
            );
        }
        let publishing = async {
            for request in &decided.confirmations {
                self.metrics.confirmation_requests.inc_by(u64::from(request.rounds > 0));
                let payload = serde_json::to_vec(request).unwrap_or_default();
                // A request without a running coordinator is lost. The next ticks then decide, only
                // later.
                self.client.publish(subject::confirmation_request(request.shard), payload.into()).await?;
            }
            Ok::<_, async_nats::PublishError>(())
        };
        match timeout(PUBLISH_TIMEOUT, publishing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = %ErrorChain(&error), "could not request confirmation checks"),
            Err(_) => warn!("timed out requesting confirmation checks"),
        }
    }

    fn record_metrics(&self, batch: &ResultBatch, done: &CommittedBatch) {
        let CommittedBatch { summary: written, duration: took, committed_at: at } = done;
        let metrics = &self.metrics;
        metrics.write_seconds.observe(took.as_secs_f64());
        metrics.duplicates.inc_by(written.duplicates);
        for ((outcome, cause), count) in &written.new_rows {
            metrics.rows_written.get_or_create(&outcome_labels(*outcome, *cause)).inc_by(*count);
        }
        let dead = |reason, count| {
            if count > 0 {
                metrics.dead_letters.get_or_create(&ReasonLabel { reason }).inc_by(count);
            }
        };
        dead("region", written.unknown_region);
        dead("refused", written.refused_by_database);
        for result in &batch.results {
            match &result.content {
                DecodedContent::Rejected(rejection) => dead(rejection.kind, 1),
                DecodedContent::Check(check) => {
                    metrics
                        .delay_seconds
                        .observe(at.saturating_duration_since(check.scheduled_at).as_secs_f64());
                }
                DecodedContent::Adhoc(_) | DecodedContent::Foreign(_) => {}
            }
        }
        if let Some(reason) = &written.first_reason {
            warn!(
                dead = written.count_dead_letters(),
                reason, "messages rejected; stored in picket.dead_letters"
            );
        }
        debug!(
            results = written.count_inserted(),
            duplicates = written.duplicates,
            duration_ms = took.as_millis(),
            "results written"
        );
    }
}

fn outcome_labels(outcome: Outcome, cause: Option<Cause>) -> OutcomeLabels {
    OutcomeLabels { outcome: outcome.as_str(), cause: cause.map_or("", Cause::as_str) }
}

async fn ack_batch(client: &async_nats::Client, batch: &ResultBatch, kind: AckKind) {
    let payload = Bytes::from(kind);
    let publishing = async {
        for reply in &batch.reply_subjects {
            client.publish(reply.clone(), payload.clone()).await?;
        }
        Ok::<_, async_nats::PublishError>(())
    };
    match timeout(PUBLISH_TIMEOUT, publishing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(error = %ErrorChain(&error), "could not acknowledge results; they are redelivered")
        }
        Err(_) => warn!("timed out acknowledging results; they are redelivered"),
    }
}

/// Queued batches in order. The first is being written, or waits for its retry.
pub(crate) struct WriteQueue {
    batches: VecDeque<(Arc<ResultBatch>, Instant)>,
    backoff: Backoff,
    is_failing: bool,
    is_pinging: bool,
    finish_replies: Vec<RpcReplyPort<()>>,
}

impl WriteQueue {
    fn new() -> Self {
        Self {
            batches: VecDeque::new(),
            backoff: Backoff::new(MIN_RETRY_DELAY, MAX_RETRY_DELAY),
            is_failing: false,
            is_pinging: false,
            finish_replies: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn front_batch(&self) -> Option<Arc<ResultBatch>> {
        self.batches.front().map(|(batch, _)| batch.clone())
    }

    /// Appends a batch; returns the batch if the queue was empty, so its write starts now.
    fn push_batch(&mut self, batch: ResultBatch, now: Instant) -> Option<Arc<ResultBatch>> {
        self.batches.push_back((Arc::new(batch), now));
        if self.batches.len() == 1 { self.front_batch() } else { None }
    }

    /// Removes the written batch; returns this batch and the next batch to write.
    fn complete_front(&mut self) -> (Option<Arc<ResultBatch>>, Option<Arc<ResultBatch>>) {
        if std::mem::take(&mut self.is_failing) {
            info!("database available again");
        }
        self.backoff.reset();
        let done = self.batches.pop_front().map(|(batch, _)| batch);
        (done, self.front_batch())
    }

    fn record_failure(&mut self) -> Duration {
        self.is_failing = true;
        self.backoff.next_delay()
    }

    fn batches_held_since(&self, before: Instant) -> Vec<Arc<ResultBatch>> {
        self.batches.iter().filter(|(_, since)| *since <= before).map(|(batch, _)| batch.clone()).collect()
    }

    fn finish_when_empty(&mut self, reply: RpcReplyPort<()>) {
        self.finish_replies.push(reply);
        self.reply_if_empty();
    }

    fn reply_if_empty(&mut self) {
        if self.batches.is_empty() {
            for reply in self.finish_replies.drain(..) {
                // The caller may have stopped waiting.
                let _ = reply.send(());
            }
        }
    }
}
