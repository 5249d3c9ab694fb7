//! Whether it is the sites that do not answer, or this prober that has no network: canaries tell.
//!
//! A check that failed as it would without a network is held until somebody is known to answer: another site, or a
//! canary, which is asked when no site does, or when most of many do not. If no canary answers either, the prober
//! is offline: what is held is `missed/prober_offline`, no jobs are taken, and canaries are asked until one answers.
//! Without canaries nothing is held, and only what the prober's own system says is held against the prober: a check for
//! which it has no route, or whose lookup its own name servers leave without an answer as they do any other question, is
//! `missed/prober_offline` (`http/verdict.rs`, `http/resolver/servers.rs`). A network that fails farther away cannot be told from
//! sites that fail: whoever watches a few sites of one hoster would never hear of its outage.
//!
//! Bound: a check is held in its own slot, for [`Network::PATIENCE`] at most. Loss: the view outlives the actor,
//! and the next one goes on where this one was.

mod view;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use picket_proto::{Cause, Check, CheckRequest, Outcome};
use picket_runtime::{Condition, clock::Boottime};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};
use url::Url;

pub(crate) use self::view::Verdict;
use self::view::View;
use crate::{
    http::{Checker, Observation},
    metrics::Metrics,
};

/// What is known of the network. Clones share it.
#[derive(Clone)]
pub(crate) struct Network(Option<Arc<Shared>>);

struct Shared {
    view: Mutex<View>,
    /// Something has changed that held results may wait for.
    changed: watch::Sender<()>,
    lookout: Mutex<Option<ActorRef<Msg>>>,
    hasher: RandomState,
}

/// What a check says of the network, and not of its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Somebody was there.
    Life,
    /// Nobody was, which may be our own network.
    Doubt,
    Nothing,
}

impl Sign {
    fn of(seen: &Observation) -> Self {
        match (seen.outcome, seen.cause) {
            (_, Some(Cause::ProberOffline)) => Self::Doubt,
            (Outcome::Missed, _) => Self::Nothing,
            // Who answers with another's certificate may be a captive portal, which answers for all.
            (_, Some(Cause::Dns | Cause::Connect | Cause::Timeout | Cause::Tls)) => Self::Doubt,
            _ => Self::Life,
        }
    }

    /// The same of a canary, of which any answer will do, but for one by somebody else.
    fn of_canary(seen: &Observation) -> Self {
        match (seen.outcome, seen.http_status) {
            (Outcome::Missed, _) if seen.cause == Some(Cause::ProberOffline) => Self::Doubt,
            (Outcome::Missed, _) => Self::Nothing,
            (_, Some(_)) => Self::Life,
            (_, None) => Self::Doubt,
        }
    }
}

impl Network {
    /// How long a result is held at most; without a verdict by then something is wrong with this prober.
    const PATIENCE: Duration = Duration::from_secs(8);

    /// A network that canaries watch, or that nobody does.
    pub(crate) fn new(is_watched: bool) -> Self {
        Self(is_watched.then(|| {
            Arc::new(Shared {
                view: Mutex::default(),
                changed: watch::Sender::default(),
                lookout: Mutex::default(),
                hasher: RandomState::new(),
            })
        }))
    }

    /// Whether this prober has no network.
    pub(crate) fn is_offline(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.view().is_offline())
    }

    /// Notes what a check of `host` saw, and says whether it is to be believed. Waits where that is not known yet.
    pub(crate) async fn judge(&self, host: &str, seen: &Observation) -> Verdict {
        let Some(shared) = &self.0 else { return Verdict::Believed };
        let sign = Sign::of(seen);
        if sign == Sign::Nothing {
            return Verdict::Believed;
        }
        let failed_at = Boottime::now();
        shared.view().saw(shared.hasher.hash_one(host), sign == Sign::Doubt, failed_at);
        if sign == Sign::Life {
            shared.changed.send_replace(());
            return Verdict::Believed;
        }
        let mut changed = shared.changed.subscribe();
        let until = Instant::now() + Self::PATIENCE;
        let _held = Held::new(shared);
        let mut is_told = false;
        loop {
            changed.mark_unchanged();
            if let Some(verdict) = shared.view().verdict(failed_at) {
                return verdict;
            }
            // Once: what changes meanwhile changes for all who are held.
            if !std::mem::replace(&mut is_told, true) {
                shared.tell(Msg::Doubted);
            }
            if !matches!(timeout_at(until, changed.changed()).await, Ok(Ok(()))) {
                return Verdict::Unknown;
            }
        }
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, message: Msg) {
        let lookout = self.lookout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookout) = lookout.as_ref() {
            // One that is gone has a successor, which looks by itself.
            let _ = lookout.cast(message);
        }
    }
}

/// A result that waits for a verdict.
struct Held<'a>(&'a Shared);

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.view().held += 1;
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.view().held -= 1;
    }
}

/// What the lookout is told.
pub(crate) enum Msg {
    /// A result is held.
    Doubted,
    /// It was held for long enough to ask.
    Decide,
    /// Ask the canaries.
    Ask,
    /// Whether any has answered; `None` if they could not be asked.
    Answered(Option<bool>),
}

/// The actor: asks the canaries.
#[derive(Clone)]
pub(crate) struct Lookout {
    pub(crate) network: Network,
    pub(crate) canaries: Arc<[Check]>,
    pub(crate) checker: Checker,
    pub(crate) metrics: Metrics,
    pub(crate) condition: Condition,
}

/// What the lookout is at.
#[derive(Default)]
pub(crate) struct Looking {
    deciding: bool,
    asking: bool,
    asked: Option<Instant>,
}

impl Actor for Lookout {
    type Msg = Msg;
    type State = Looking;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Looking, ActorProcessingErr> {
        if let Some(shared) = &self.network.0 {
            *shared.lookout.lock().unwrap_or_else(PoisonError::into_inner) = Some(myself.clone());
        }
        match self.network.is_offline() {
            true => myself.cast(Msg::Ask)?,
            false => {
                self.condition.holds();
                myself.cast(Msg::Doubted)?;
            }
        }
        Ok(Looking::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        looking: &mut Looking,
    ) -> Result<(), ActorProcessingErr> {
        let Some(shared) = &self.network.0 else { return Ok(()) };
        match message {
            Msg::Doubted if looking.deciding || looking.asking => {}
            Msg::Doubted => {
                looking.deciding = true;
                let wait = if shared.view().is_suspicious() { Duration::ZERO } else { Self::HOLD };
                let rest =
                    looking.asked.map_or(Duration::ZERO, |asked| Self::REST.saturating_sub(asked.elapsed()));
                myself.send_after(wait.max(rest), || Msg::Decide);
            }
            Msg::Decide => {
                looking.deciding = false;
                if shared.view().needs_canaries() {
                    self.ask(&myself, looking);
                }
            }
            Msg::Ask => self.ask(&myself, looking),
            Msg::Answered(answer) => {
                looking.asking = false;
                self.answered(&myself, shared, answer);
            }
        }
        Ok(())
    }
}

impl Lookout {
    /// How long a result is held before canaries are asked, in which other sites may show that there is a network.
    const HOLD: Duration = Duration::from_millis(500);
    /// Between two rounds: canaries are not ours. Where half of all sites are down it is always time for one.
    const REST: Duration = Duration::from_secs(2);
    /// Between two rounds of an offline prober.
    const AGAIN: Duration = Duration::from_secs(3);
    /// For a canary's answer.
    const TIMEOUT_MS: i64 = 3_000;

    /// How a canary is asked: any answer will do.
    pub(crate) fn question(url: &Url) -> Result<Check, picket_proto::Invalid> {
        CheckRequest {
            timeout_ms: Self::TIMEOUT_MS,
            status: "100-599".to_owned(),
            max_redirects: 0,
            ..CheckRequest::new(url.as_str())
        }
        .validate()
    }

    fn ask(&self, myself: &ActorRef<Msg>, looking: &mut Looking) {
        if std::mem::replace(&mut looking.asking, true) {
            return;
        }
        looking.asked = Some(Instant::now());
        self.metrics.canary_rounds.inc();
        let (checker, canaries) = (self.checker.clone(), Arc::clone(&self.canaries));
        let mut answering = Answering { lookout: myself.clone(), answer: None };
        tokio::spawn(async move {
            let mut asked: FuturesUnordered<_> =
                canaries.iter().map(|canary| checker.check(canary)).collect();
            while let Some(seen) = asked.next().await {
                match Sign::of_canary(&seen) {
                    Sign::Life => {
                        answering.answer = Some(true);
                        break;
                    }
                    Sign::Doubt => answering.answer = Some(false),
                    // Held back by this prober itself: that proves nothing.
                    Sign::Nothing => {
                        warn!(error = seen.message, "a canary could not be asked");
                    }
                }
            }
            drop(answering);
        });
    }

    fn answered(&self, myself: &ActorRef<Msg>, shared: &Shared, answer: Option<bool>) {
        let was_offline = shared.view().is_offline();
        if let Some(answer) = answer {
            shared.view().answered(answer, Boottime::now());
        }
        let is_offline = shared.view().is_offline();
        self.metrics.offline.set(is_offline.into());
        if is_offline {
            myself.send_after(Self::AGAIN, || Msg::Ask);
        }
        if answer.is_none() && shared.view().needs_canaries() {
            myself.send_after(Self::HOLD, || Msg::Doubted);
        }
        shared.changed.send_replace(());
        match (was_offline, is_offline) {
            (false, true) => {
                let why = format!("offline: none of {} canaries answers", self.canaries.len());
                self.condition.fails(&why);
                warn!("{why}; this prober takes no jobs until one does");
            }
            (true, false) => {
                self.condition.holds();
                info!("a canary answers, taking jobs again");
            }
            _ => {}
        }
    }
}

/// Tells the lookout what came of a round, however it ended.
struct Answering {
    lookout: ActorRef<Msg>,
    answer: Option<bool>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        // A lookout that is gone has a successor, which asks anew.
        let _ = self.lookout.cast(Msg::Answered(self.answer));
    }
}
