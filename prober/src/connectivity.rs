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

mod window;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use picket_proto::{Cause, Check, CheckRequest, Outcome};
use picket_runtime::{ReadinessCheck, clock::Boottime};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};
use url::Url;

pub(crate) use self::window::Attribution;
use self::window::FailureWindow;
use crate::{
    check::{Checker, Observation},
    metrics::Metrics,
};

/// What is known of the network. Clones share it.
#[derive(Clone)]
pub(crate) struct Connectivity(Option<Arc<ConnectivityState>>);

struct ConnectivityState {
    window: Mutex<FailureWindow>,
    /// Something has changed that held results may wait for.
    changed: watch::Sender<()>,
    canary_actor: Mutex<Option<ActorRef<Msg>>>,
    hasher: RandomState,
}

/// What a check says of the network, and not of its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NetworkSignal {
    /// Somebody was there.
    Alive,
    /// Nobody was, which may be our own network.
    Suspect,
    Neutral,
}

impl NetworkSignal {
    fn from_observation(seen: &Observation) -> Self {
        match (seen.outcome, seen.cause) {
            (_, Some(Cause::ProberOffline)) => Self::Suspect,
            (Outcome::Missed, _) => Self::Neutral,
            // Who answers with another's certificate may be a captive portal, which answers for all.
            (_, Some(Cause::Dns | Cause::Connect | Cause::Timeout | Cause::Tls)) => Self::Suspect,
            _ => Self::Alive,
        }
    }

    /// The same of a canary, of which any answer will do, but for one by somebody else.
    fn from_canary(seen: &Observation) -> Self {
        match (seen.outcome, seen.http_status) {
            (Outcome::Missed, _) if seen.cause == Some(Cause::ProberOffline) => Self::Suspect,
            (Outcome::Missed, _) => Self::Neutral,
            (_, Some(_)) => Self::Alive,
            (_, None) => Self::Suspect,
        }
    }
}

impl Connectivity {
    /// How long a result is held at most; without a verdict by then something is wrong with this prober.
    const MAX_HOLD_TIME: Duration = Duration::from_secs(8);

    /// A network that canaries watch, or that nobody does.
    pub(crate) fn new(is_watched: bool) -> Self {
        Self(is_watched.then(|| {
            Arc::new(ConnectivityState {
                window: Mutex::default(),
                changed: watch::Sender::default(),
                canary_actor: Mutex::default(),
                hasher: RandomState::new(),
            })
        }))
    }

    /// Whether this prober has no network.
    pub(crate) fn is_offline(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.lock_window().is_offline())
    }

    /// Notes what a check of `host` saw, and says whether it is to be believed. Waits where that is not known yet.
    pub(crate) async fn attribute_failure(&self, host: &str, seen: &Observation) -> Attribution {
        let Some(shared) = &self.0 else { return Attribution::Site };
        let sign = NetworkSignal::from_observation(seen);
        if sign == NetworkSignal::Neutral {
            return Attribution::Site;
        }
        let failed_at = Boottime::now();
        shared.lock_window().record_check(
            shared.hasher.hash_one(host),
            sign == NetworkSignal::Suspect,
            failed_at,
        );
        if sign == NetworkSignal::Alive {
            shared.changed.send_replace(());
            return Attribution::Site;
        }
        let mut changed = shared.changed.subscribe();
        let until = Instant::now() + Self::MAX_HOLD_TIME;
        let _held = PendingGuard::new(shared);
        let mut is_told = false;
        loop {
            changed.mark_unchanged();
            if let Some(verdict) = shared.lock_window().decide_attribution(failed_at) {
                return verdict;
            }
            // Once: what changes meanwhile changes for all who are held.
            if !std::mem::replace(&mut is_told, true) {
                shared.notify_actor(Msg::ResultHeld);
            }
            if !matches!(timeout_at(until, changed.changed()).await, Ok(Ok(()))) {
                return Attribution::Unknown;
            }
        }
    }
}

impl ConnectivityState {
    fn lock_window(&self) -> MutexGuard<'_, FailureWindow> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify_actor(&self, message: Msg) {
        let lookout = self.canary_actor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookout) = lookout.as_ref() {
            // One that is gone has a successor, which looks by itself.
            let _ = lookout.cast(message);
        }
    }
}

/// A result that waits for a verdict.
struct PendingGuard<'a>(&'a ConnectivityState);

impl<'a> PendingGuard<'a> {
    fn new(shared: &'a ConnectivityState) -> Self {
        shared.lock_window().pending_results += 1;
        Self(shared)
    }
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.0.lock_window().pending_results -= 1;
    }
}

/// What the lookout is told.
pub(crate) enum Msg {
    /// A result is held.
    ResultHeld,
    /// It was held for long enough to ask.
    HoldElapsed,
    /// Ask the canaries.
    ProbeCanaries,
    /// Whether any has answered; `None` if they could not be asked.
    CanariesProbed(Option<bool>),
}

/// The actor: asks the canaries.
#[derive(Clone)]
pub(crate) struct CanaryActor {
    pub(crate) connectivity: Connectivity,
    pub(crate) canaries: Arc<[Check]>,
    pub(crate) checker: Checker,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: ReadinessCheck,
}

/// What the lookout is at.
#[derive(Default)]
pub(crate) struct CanaryState {
    is_deciding: bool,
    is_probing: bool,
    last_round: Option<Instant>,
}

impl Actor for CanaryActor {
    type Msg = Msg;
    type State = CanaryState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<CanaryState, ActorProcessingErr> {
        if let Some(shared) = &self.connectivity.0 {
            *shared.canary_actor.lock().unwrap_or_else(PoisonError::into_inner) = Some(myself.clone());
        }
        match self.connectivity.is_offline() {
            true => myself.cast(Msg::ProbeCanaries)?,
            false => {
                self.readiness.set_ready();
                myself.cast(Msg::ResultHeld)?;
            }
        }
        Ok(CanaryState::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        looking: &mut CanaryState,
    ) -> Result<(), ActorProcessingErr> {
        let Some(shared) = &self.connectivity.0 else { return Ok(()) };
        match message {
            Msg::ResultHeld if looking.is_deciding || looking.is_probing => {}
            Msg::ResultHeld => {
                looking.is_deciding = true;
                let wait =
                    if shared.lock_window().is_suspicious() { Duration::ZERO } else { Self::CANARY_DELAY };
                let rest = looking
                    .last_round
                    .map_or(Duration::ZERO, |asked| Self::CANARY_INTERVAL.saturating_sub(asked.elapsed()));
                myself.send_after(wait.max(rest), || Msg::HoldElapsed);
            }
            Msg::HoldElapsed => {
                looking.is_deciding = false;
                if shared.lock_window().should_probe_canaries() {
                    self.probe_canaries(&myself, looking);
                }
            }
            Msg::ProbeCanaries => self.probe_canaries(&myself, looking),
            Msg::CanariesProbed(answer) => {
                looking.is_probing = false;
                self.on_canaries_probed(&myself, shared, answer);
            }
        }
        Ok(())
    }
}

impl CanaryActor {
    /// How long a result is held before canaries are asked, in which other sites may show that there is a network.
    const CANARY_DELAY: Duration = Duration::from_millis(500);
    /// Between two rounds: canaries are not ours. Where half of all sites are down it is always time for one.
    const CANARY_INTERVAL: Duration = Duration::from_secs(2);
    /// Between two rounds of an offline prober.
    const OFFLINE_RETRY_INTERVAL: Duration = Duration::from_secs(3);
    /// For a canary's answer.
    const CANARY_TIMEOUT_MS: i64 = 3_000;

    /// How a canary is asked: any answer will do.
    pub(crate) fn canary_check(url: &Url) -> Result<Check, picket_proto::ValidationError> {
        CheckRequest {
            timeout_ms: Self::CANARY_TIMEOUT_MS,
            status: "100-599".to_owned(),
            max_redirects: 0,
            ..CheckRequest::new(url.as_str())
        }
        .validate()
    }

    fn probe_canaries(&self, myself: &ActorRef<Msg>, looking: &mut CanaryState) {
        if std::mem::replace(&mut looking.is_probing, true) {
            return;
        }
        looking.last_round = Some(Instant::now());
        self.metrics.canary_rounds.inc();
        let (checker, canaries) = (self.checker.clone(), Arc::clone(&self.canaries));
        let mut answering = RoundGuard { canary_actor: myself.clone(), answer: None };
        tokio::spawn(async move {
            let mut asked: FuturesUnordered<_> =
                canaries.iter().map(|canary| checker.run_check(canary)).collect();
            while let Some(seen) = asked.next().await {
                match NetworkSignal::from_canary(&seen) {
                    NetworkSignal::Alive => {
                        answering.answer = Some(true);
                        break;
                    }
                    NetworkSignal::Suspect => answering.answer = Some(false),
                    // Held back by this prober itself: that proves nothing.
                    NetworkSignal::Neutral => {
                        warn!(error = seen.message, "a canary could not be asked");
                    }
                }
            }
            drop(answering);
        });
    }

    fn on_canaries_probed(&self, myself: &ActorRef<Msg>, shared: &ConnectivityState, answer: Option<bool>) {
        let was_offline = shared.lock_window().is_offline();
        if let Some(answer) = answer {
            shared.lock_window().record_canaries(answer, Boottime::now());
        }
        let is_offline = shared.lock_window().is_offline();
        self.metrics.offline.set(is_offline.into());
        if is_offline {
            myself.send_after(Self::OFFLINE_RETRY_INTERVAL, || Msg::ProbeCanaries);
        }
        if answer.is_none() && shared.lock_window().should_probe_canaries() {
            myself.send_after(Self::CANARY_DELAY, || Msg::ResultHeld);
        }
        shared.changed.send_replace(());
        match (was_offline, is_offline) {
            (false, true) => {
                let why = format!("offline: none of {} canaries answers", self.canaries.len());
                self.readiness.set_unready(&why);
                warn!("{why}; this prober takes no jobs until one does");
            }
            (true, false) => {
                self.readiness.set_ready();
                info!("a canary answers, taking jobs again");
            }
            _ => {}
        }
    }
}

/// Tells the lookout what came of a round, however it ended.
struct RoundGuard {
    canary_actor: ActorRef<Msg>,
    answer: Option<bool>,
}

impl Drop for RoundGuard {
    fn drop(&mut self) {
        // A lookout that is gone has a successor, which asks anew.
        let _ = self.canary_actor.cast(Msg::CanariesProbed(self.answer));
    }
}
