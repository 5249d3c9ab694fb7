//! Takes jobs from the stream, for free slots only, and starts a task for each.
//!
//! Bound: a permit for each job asked for, which travels with its task. Loss: what was under way is not
//! acknowledged, so the stream delivers it again; asked for and not come is asked for anew.

mod credit;
mod pulling;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    StatusCode, Subscriber,
    jetstream::{self, consumer::pull::BatchConfig},
};
use picket_proto::subject;
use picket_runtime::{Bus, Condition};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::pulling::{Pulling, Slot, Source, left_of, listen};
use crate::work::{Work, give_back};

/// What the intake is told.
pub(crate) enum Msg {
    /// Begin to pull.
    Find,
    /// What came of it.
    Found(Result<Box<Found>, String>),
    /// The stream said something to the pulls of this number.
    Heard(u64, async_nats::Message),
    /// The pulls of this number hear nothing more.
    Silent(u64),
    /// A slot is free.
    Freed,
    /// See whether the stream is still heard.
    Watch,
    /// Take no more; the answer comes when nothing more can come.
    Drain(RpcReplyPort<()>),
}

/// The subscription that jobs will come to.
pub(crate) struct Found {
    subscriber: Subscriber,
    inbox: String,
}

/// The actor.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) work: Arc<Work>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) concurrency: usize,
    /// The tasks of jobs, which outlive an intake that is built anew.
    pub(crate) tasks: TaskTracker,
    pub(crate) condition: Condition,
}

impl Actor for Intake {
    type Msg = Msg;
    type State = Pulling;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Pulling, ActorProcessingErr> {
        self.condition.fails("looking for the consumer of jobs");
        myself.cast(Msg::Find)?;
        myself.cast(Msg::Watch)?;
        Ok(Pulling::new(self.concurrency))
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        pulling: &mut Pulling,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Find => self.find(&myself, pulling),
            Msg::Found(found) => self.found(&myself, pulling, found).await,
            Msg::Heard(number, message) => self.heard(&myself, pulling, number, message).await,
            Msg::Silent(number) => self.silent(&myself, pulling, number),
            Msg::Freed => self.pull(&myself, pulling).await,
            Msg::Watch => {
                self.watch(&myself, pulling).await;
                myself.send_after(Self::WATCH, || Msg::Watch);
            }
            Msg::Drain(done) => {
                pulling.draining = true;
                pulling.drained = Some(done);
                self.stop(pulling, "draining");
                pulling.answer_if_drained();
            }
        }
        Ok(())
    }
}

impl Intake {
    /// A pull ends by itself after this: with the library's default of 30 s a lost one is noticed too late.
    const EXPIRES: Duration = Duration::from_secs(5);
    const HEARTBEAT: Duration = Duration::from_secs(2);
    /// Without a sign of the stream for so long the pulls are lost.
    const SILENCE: Duration = Duration::from_secs(6);
    const WATCH: Duration = Duration::from_millis(250);
    const SAY_AGAIN: Duration = Duration::from_secs(30);

    fn find(&self, myself: &ActorRef<Msg>, pulling: &mut Pulling) {
        if pulling.draining || pulling.offline || pulling.finding || pulling.from.is_some() {
            return;
        }
        pulling.finding = true;
        let (bus, myself) = (self.bus.clone(), myself.clone());
        tokio::spawn(async move {
            let finding = async {
                let inbox = bus.client.new_inbox();
                let subscriber = bus.client.subscribe(inbox.clone()).await.map_err(|why| why.to_string())?;
                Ok(Box::new(Found { subscriber, inbox }))
            };
            let found = timeout(Bus::ACK_TIMEOUT * 2, finding)
                .await
                .unwrap_or_else(|_| Err("NATS does not answer".to_owned()));
            let _ = myself.cast(Msg::Found(found));
        });
    }

    async fn found(&self, myself: &ActorRef<Msg>, pulling: &mut Pulling, found: Result<Box<Found>, String>) {
        pulling.finding = false;
        if pulling.draining || pulling.offline {
            return;
        }
        let Found { subscriber, inbox } = match found {
            Ok(found) => *found,
            Err(why) => return self.lost(myself, pulling, &why),
        };
        pulling.number += 1;
        pulling.listening += 1;
        let stop = CancellationToken::new();
        tokio::spawn(listen(myself.clone(), pulling.number, subscriber, stop.clone()));
        pulling.from = Some(Source {
            inbox,
            answered: false,
            heard: Instant::now(),
            connects: self.connects(),
            _listener: stop.drop_guard(),
        });
        self.pull(myself, pulling).await;
    }

    fn connects(&self) -> u64 {
        self.bus.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Asks for jobs for the slots that are free; not while they could not be done well, which `watch` sees the end of.
    async fn pull(&self, myself: &ActorRef<Msg>, pulling: &mut Pulling) {
        if self.work.drift.is_late() {
            return;
        }
        let Some(from) = pulling.from.as_mut() else { return };
        let was_asked = pulling.credit.asked();
        // The first asks for what is there, and is answered at once by who is there: no right to look at the consumer is needed.
        let knocks = !from.answered;
        if knocks && was_asked > 0 {
            return;
        }
        let free = self.slots.available_permits();
        let number = if knocks { pulling.credit.ask(free.min(1)) } else { pulling.credit.ask(free) };
        if number == 0 {
            return;
        }
        let permits = u32::try_from(number).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_many_owned(permits) else {
            // Somebody else's since; the next one that is freed asks again.
            pulling.credit.ended(number);
            return;
        };
        match pulling.reserved.as_mut() {
            Some(reserved) => reserved.merge(permit),
            None => pulling.reserved = Some(permit),
        }
        if was_asked == 0 {
            from.heard = Instant::now();
        }
        let request = BatchConfig {
            batch: number,
            expires: (!knocks).then_some(Self::EXPIRES),
            idle_heartbeat: if knocks { Duration::ZERO } else { Self::HEARTBEAT },
            no_wait: knocks,
            ..BatchConfig::default()
        };
        // Plain data; nothing in it can fail to be written.
        let request = serde_json::to_vec(&request).unwrap_or_default();
        let place = subject::next_job(&self.work.publisher.region);
        let asking = self.bus.client.publish_with_reply(place, from.inbox.clone(), request.into());
        if !matches!(timeout(Duration::from_secs(1), asking).await, Ok(Ok(()))) {
            self.lost(myself, pulling, "NATS does not take a pull");
        }
    }

    async fn heard(
        &self,
        myself: &ActorRef<Msg>,
        pulling: &mut Pulling,
        number: u64,
        message: async_nats::Message,
    ) {
        let is_current = number == pulling.number;
        let status = message.status.unwrap_or(StatusCode::OK);
        if is_current && [StatusCode::OK, StatusCode::TIMEOUT, StatusCode::NOT_FOUND].contains(&status) {
            self.answered(pulling);
        }
        if status == StatusCode::OK {
            // What was asked for before has lost the slot that was kept for it.
            let kept = if is_current { pulling.came() } else { None };
            self.take(myself, pulling.draining, kept, message);
            return self.pull(myself, pulling).await;
        }
        if !is_current {
            return;
        }
        match status {
            StatusCode::IDLE_HEARTBEAT => pulling.heard(),
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => {
                pulling.heard();
                pulling.ended(left_of(&message).unwrap_or(usize::MAX));
                self.pull(myself, pulling).await;
            }
            StatusCode::NO_RESPONDERS => {
                let region = &self.work.publisher.region;
                let why = format!(
                    "no jobs consumer for region '{region}' yet: is the region added (picket region add {region}) and a \
                     coordinator running?"
                );
                self.lost(myself, pulling, &why);
            }
            status => {
                let why = message.description.unwrap_or_default();
                self.lost(myself, pulling, &format!("the stream ended a pull: {status} {why}"));
            }
        }
    }

    /// The consumer is there.
    fn answered(&self, pulling: &mut Pulling) {
        let Some(from) = pulling.from.as_mut() else { return };
        if !std::mem::replace(&mut from.answered, true) {
            info!(consumer = subject::prober_consumer(&self.work.publisher.region), "taking jobs");
            self.condition.holds();
            pulling.said = None;
        }
    }

    /// Starts the task of a job that has come, in the slot kept for it, or else in a free one.
    fn take(
        &self,
        myself: &ActorRef<Msg>,
        draining: bool,
        kept: Option<OwnedSemaphorePermit>,
        message: async_nats::Message,
    ) {
        let message = jetstream::Message { message, context: self.bus.jetstream.clone() };
        let permit = match draining {
            true => None,
            false => kept.or_else(|| Arc::clone(&self.slots).try_acquire_owned().ok()),
        };
        let Some(permit) = permit else {
            self.tasks.spawn(async move { give_back(&message).await });
            return;
        };
        self.work.metrics.jobs_pulled.inc();
        let (work, slot) = (Arc::clone(&self.work), Slot::taken(permit, myself, &self.work));
        self.tasks.spawn(async move { work.queued(message, Box::new(slot)).await });
    }

    /// The pulls are lost: looks for the consumer again, after a while.
    fn lost(&self, myself: &ActorRef<Msg>, pulling: &mut Pulling, why: &str) {
        self.work.metrics.pull_errors.inc();
        self.stop(pulling, why);
        let now = Instant::now();
        let is_news = pulling
            .said
            .as_ref()
            .is_none_or(|(said, when)| said != why || now.duration_since(*when) >= Self::SAY_AGAIN);
        if is_news {
            warn!(region = %self.work.publisher.region, "{why}");
            pulling.said = Some((why.to_owned(), now));
        }
        if !pulling.draining {
            myself.send_after(pulling.backoff.next_wait(), || Msg::Find);
        }
    }

    fn stop(&self, pulling: &mut Pulling, why: &str) {
        self.condition.fails(why);
        pulling.from = None;
        pulling.reserved = None;
        let asked = pulling.credit.asked();
        pulling.credit.ended(asked);
    }

    fn silent(&self, myself: &ActorRef<Msg>, pulling: &mut Pulling, number: u64) {
        pulling.listening = pulling.listening.saturating_sub(1);
        if number == pulling.number && pulling.from.is_some() {
            self.lost(myself, pulling, "the subscription of the pulls has ended");
        }
        pulling.answer_if_drained();
    }

    async fn watch(&self, myself: &ActorRef<Msg>, pulling: &mut Pulling) {
        let was_offline = std::mem::replace(&mut pulling.offline, self.work.network.is_offline());
        match (was_offline, pulling.offline) {
            // What was asked for is forgotten with the subscription; others of the region take it.
            (false, true) if !pulling.draining => self.stop(pulling, "this prober has no network"),
            (true, false) => self.find(myself, pulling),
            _ => {}
        }
        let Some(from) = &pulling.from else { return };
        if from.connects != self.connects() {
            // The server forgot what was asked for with the old connection.
            pulling.backoff.reset();
            return self.lost(myself, pulling, "the connection is a new one, pulling anew");
        }
        if pulling.credit.asked() > 0 && from.heard.elapsed() > Self::SILENCE {
            return self.lost(myself, pulling, "the stream of jobs is not heard");
        }
        // A slot of a task that an intake before this one started is freed without a word to this one.
        self.pull(myself, pulling).await;
    }
}
