//! Distinguishes failing sites from a prober without network, by means of canaries.
//!
//! A check that failed as it would without a network is held until a response from elsewhere proves
//! that the network works: from another site, or from a canary. Canaries are probed if no site
//! responds, or if most of many sites fail. If no canary responds either, the prober is offline:
//! held results become `missed/prober_offline`, no jobs are pulled, and canaries are probed until a
//! canary responds.
//!
//! Without canaries no result is held, and only evidence from the prober's own system counts
//! against the prober: a check without a route or with a silent gateway, or a lookup for which the
//! prober's name servers do not work, is `missed/prober_offline` (`check/failure.rs`,
//! `check/gateway.rs`, `check/resolver/name_server_probe.rs`). A network failure farther away looks the same
//! as failing sites, and is attributed to the sites: otherwise an operator with a few sites at one
//! hoster would never see an outage of this hoster.
//!
//! A failure that a check must have would be `up` there, though it may be the prober's own. Such a
//! result is held until another check proves by a good response from as far away that the network
//! works (`connectivity/response_log.rs`), and is `missed` otherwise.
//!
//! Bound: a check is held in its own slot, for at most [`Connectivity::MAX_HOLD_TIME`]. Loss: the
//! view of the network outlives the actor, and a restarted actor continues with it.

mod response_log;
mod window;

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
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
use self::{response_log::ResponseLog, window::FailureWindow};
use crate::{
    check::{Checker, Observation},
    metrics::Metrics,
};

/// Recent evidence about the network. Clones share the state.
#[derive(Clone)]
pub(crate) enum Connectivity {
    /// Canaries decide.
    Watched(Arc<ConnectivityState>),
    /// Without canaries.
    Unwatched(Arc<ResponseLog>),
}

pub(crate) struct ConnectivityState {
    window: Mutex<FailureWindow>,
    /// Signals that held results may be decidable.
    changed: watch::Sender<()>,
    canary_actor: Mutex<Option<ActorRef<Msg>>>,
    hasher: RandomState,
}

/// Evidence of a check about the network, irrespective of its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NetworkSignal {
    /// A server responded.
    Alive,
    /// No server responded, possibly for lack of a network.
    Suspect,
    Neutral,
}

impl NetworkSignal {
    fn from_observation(seen: &Observation) -> Self {
        match (seen.outcome, seen.cause) {
            (_, Some(Cause::ProberOffline)) => Self::Suspect,
            (Outcome::Missed, _) => Self::Neutral,
            // A wrong certificate may come from a captive portal, which responds for every host.
            (_, Some(Cause::Dns | Cause::Connect | Cause::Timeout | Cause::Tls)) => Self::Suspect,
            _ => Self::Alive,
        }
    }

    /// Evidence of a canary: any response counts, except from an impostor.
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
    /// Maximum time that a result is held. A later verdict would mean a fault in this prober.
    const MAX_HOLD_TIME: Duration = Duration::from_secs(8);

    /// Creates the state; `is_watched` if canaries are configured.
    pub(crate) fn new(is_watched: bool) -> Self {
        match is_watched {
            true => Self::Watched(Arc::new(ConnectivityState {
                window: Mutex::default(),
                changed: watch::Sender::default(),
                canary_actor: Mutex::default(),
                hasher: RandomState::new(),
            })),
            false => Self::Unwatched(Arc::default()),
        }
    }

    /// Returns true if this prober has no network.
    pub(crate) fn is_offline(&self) -> bool {
        self.watched_state().is_some_and(|shared| shared.window.lock().is_offline())
    }

    fn watched_state(&self) -> Option<&Arc<ConnectivityState>> {
        match self {
            Self::Watched(shared) => Some(shared),
            Self::Unwatched(_) => None,
        }
    }

    /// Attributes the failure in `seen` that a check since `since` must have. Waits for a proof that
    /// the network works, without which the failure may be the prober's. Canaries have given this
    /// proof before.
    pub(crate) async fn attribute_wanted_failure(&self, seen: &Observation, since: Boottime) -> Attribution {
        let Self::Unwatched(responses) = self else { return Attribution::Site };
        let is_suspect = NetworkSignal::from_observation(seen) == NetworkSignal::Suspect;
        match !is_suspect || responses.wait_for_proof(seen.network_scope, since, Self::MAX_HOLD_TIME).await {
            true => Attribution::Site,
            false => Attribution::Unproven,
        }
    }

    /// Records the evidence of a check of `host` and attributes its failure. Waits while the
    /// attribution is undecided.
    pub(crate) async fn attribute_failure(&self, host: &str, seen: &Observation) -> Attribution {
        let shared = match self {
            Self::Watched(shared) => shared,
            Self::Unwatched(responses) => {
                if seen.outcome == Outcome::Up {
                    responses.record(seen.network_scope, Boottime::now());
                }
                return Attribution::Site;
            }
        };
        let signal = NetworkSignal::from_observation(seen);
        if signal == NetworkSignal::Neutral {
            return Attribution::Site;
        }
        let failed_at = Boottime::now();
        shared.window.lock().record_check(
            shared.hasher.hash_one(host),
            signal == NetworkSignal::Suspect,
            failed_at,
        );
        // Any response may release results held by other checks.
        if signal == NetworkSignal::Alive {
            shared.changed.send_replace(());
            return Attribution::Site;
        }
        let mut changed = shared.changed.subscribe();
        let until = Instant::now() + Self::MAX_HOLD_TIME;
        let _held = PendingGuard::new(shared);
        let mut is_notified = false;
        loop {
            changed.mark_unchanged();
            if let Some(verdict) = shared.window.lock().decide_attribution(failed_at) {
                return verdict;
            }
            // Notify once: a change of the window wakes all held results.
            if !std::mem::replace(&mut is_notified, true) {
                shared.notify_actor(Msg::ResultHeld);
            }
            if !matches!(timeout_at(until, changed.changed()).await, Ok(Ok(()))) {
                return Attribution::Unknown;
            }
        }
    }
}

impl ConnectivityState {
    fn notify_actor(&self, message: Msg) {
        let actor = self.canary_actor.lock();
        if let Some(actor) = actor.as_ref() {
            // A restarted actor inspects the window by itself.
            let _ = actor.cast(message);
        }
    }
}

/// Counts a held result for its lifetime.
struct PendingGuard<'a>(&'a ConnectivityState);

impl<'a> PendingGuard<'a> {
    fn new(shared: &'a ConnectivityState) -> Self {
        shared.window.lock().pending_results += 1;
        Self(shared)
    }
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.0.window.lock().pending_results -= 1;
    }
}

/// Messages of the canary actor.
pub(crate) enum Msg {
    /// A result is held.
    ResultHeld,
    /// A result was held long enough to probe the canaries.
    HoldElapsed,
    /// Probe the canaries.
    ProbeCanaries,
    /// True if any canary responded; `None` if no canary could be probed.
    CanariesProbed(Option<bool>),
}

/// Actor that probes the canaries.
#[derive(Clone)]
pub(crate) struct CanaryActor {
    pub(crate) connectivity: Connectivity,
    pub(crate) canaries: Arc<[Check]>,
    pub(crate) checker: Checker,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: ReadinessCheck,
}

/// State of the canary actor.
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
        if let Some(shared) = self.connectivity.watched_state() {
            *shared.canary_actor.lock() = Some(myself.clone());
        }
        // After a restart while offline, only canaries can end the state.
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
        state: &mut CanaryState,
    ) -> Result<(), ActorProcessingErr> {
        let Some(shared) = self.connectivity.watched_state() else { return Ok(()) };
        match message {
            Msg::ResultHeld if state.is_deciding || state.is_probing => {}
            Msg::ResultHeld => {
                state.is_deciding = true;
                // Suspicion needs no grace: other sites cannot clear it.
                let wait =
                    if shared.window.lock().is_suspicious() { Duration::ZERO } else { Self::CANARY_DELAY };
                let rest = state
                    .last_round
                    .map_or(Duration::ZERO, |asked| Self::CANARY_INTERVAL.saturating_sub(asked.elapsed()));
                myself.send_after(wait.max(rest), || Msg::HoldElapsed);
            }
            Msg::HoldElapsed => {
                state.is_deciding = false;
                if shared.window.lock().should_probe_canaries() {
                    self.probe_canaries(&myself, state);
                }
            }
            Msg::ProbeCanaries => self.probe_canaries(&myself, state),
            Msg::CanariesProbed(answer) => {
                state.is_probing = false;
                self.on_canaries_probed(&myself, shared, answer);
            }
        }
        Ok(())
    }
}

impl CanaryActor {
    /// Time that a result is held before canaries are probed. Other sites may prove the network
    /// meanwhile.
    const CANARY_DELAY: Duration = Duration::from_millis(500);
    /// Minimum time between two rounds, since canaries belong to others. If half of all sites are
    /// down, a round is always due.
    const CANARY_INTERVAL: Duration = Duration::from_secs(2);
    /// Time between two rounds of an offline prober.
    const OFFLINE_RETRY_INTERVAL: Duration = Duration::from_secs(3);
    /// Timeout of a canary check.
    const CANARY_TIMEOUT_MS: i64 = 3_000;

    /// Check of a canary: any response counts as success.
    pub(crate) fn canary_check(url: &Url) -> Result<Check, picket_proto::ValidationError> {
        CheckRequest {
            timeout_ms: Self::CANARY_TIMEOUT_MS,
            status: "100-599".to_owned(),
            max_redirects: 0,
            ..CheckRequest::new(url.as_str())
        }
        .validate()
    }

    fn probe_canaries(&self, myself: &ActorRef<Msg>, state: &mut CanaryState) {
        if std::mem::replace(&mut state.is_probing, true) {
            return;
        }
        state.last_round = Some(Instant::now());
        self.metrics.canary_rounds.inc();
        let (checker, canaries) = (self.checker.clone(), Arc::clone(&self.canaries));
        let mut answering = RoundGuard { canary_actor: myself.clone(), answer: None };
        tokio::spawn(async move {
            let mut probes: FuturesUnordered<_> =
                canaries.iter().map(|canary| checker.run_check(canary)).collect();
            while let Some(seen) = probes.next().await {
                match NetworkSignal::from_canary(&seen) {
                    NetworkSignal::Alive => {
                        answering.answer = Some(true);
                        break;
                    }
                    NetworkSignal::Suspect => answering.answer = Some(false),
                    // Prevented by this prober itself: no evidence.
                    NetworkSignal::Neutral => {
                        warn!(error = seen.message, "canary could not be probed");
                    }
                }
            }
            drop(answering);
        });
    }

    fn on_canaries_probed(&self, myself: &ActorRef<Msg>, shared: &ConnectivityState, answer: Option<bool>) {
        let was_offline = shared.window.lock().is_offline();
        // A round in which no canary could be probed changes nothing.
        if let Some(answer) = answer {
            shared.window.lock().record_canaries(answer, Boottime::now());
        }
        let is_offline = shared.window.lock().is_offline();
        self.metrics.offline.set(is_offline.into());
        if is_offline {
            myself.send_after(Self::OFFLINE_RETRY_INTERVAL, || Msg::ProbeCanaries);
        }
        // A round without evidence decides nothing: held results need another round.
        if answer.is_none() && shared.window.lock().should_probe_canaries() {
            myself.send_after(Self::CANARY_DELAY, || Msg::ResultHeld);
        }
        shared.changed.send_replace(());
        match (was_offline, is_offline) {
            (false, true) => {
                let why = format!("offline: none of {} canaries answers", self.canaries.len());
                self.readiness.set_unready(&why);
                warn!(
                    canaries = self.canaries.len(),
                    "no canary responds, prober is offline and pulls no jobs"
                );
            }
            (true, false) => {
                self.readiness.set_ready();
                info!("canary responds, prober is online again");
            }
            _ => {}
        }
    }
}

/// Reports the result of a round, also after a panic or cancellation.
struct RoundGuard {
    canary_actor: ActorRef<Msg>,
    answer: Option<bool>,
}

impl Drop for RoundGuard {
    fn drop(&mut self) {
        // A restarted actor probes again.
        let _ = self.canary_actor.cast(Msg::CanariesProbed(self.answer));
    }
}
