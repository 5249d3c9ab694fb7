//! What a check is at, and how long each phase of it took, summed over its hops.
//!
//! reqwest tells none of this. What it calls on the way to a connection (the resolver, the session store, the
//! certificate's verifier, a layer round the connector) runs in the check's own task, since no connection is
//! pooled; so each of them finds the check's marks in a task-local.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use picket_proto::{IpVersion, Timestamp, Timing};
use tokio::time::Instant;

use super::{inbound::Inbound, tls::Certificate};

tokio::task_local! {
    static MARKS: Arc<Marks>;
}

/// What a check is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Between phases; its time counts in the total only.
    Between,
    /// For one of our own resolver's threads.
    Queue,
    Dns,
    Connect,
    Tls,
    FirstByte,
    Transfer,
    /// The answer is in; it is being judged.
    Judging,
}

impl Stage {
    const MEASURED: usize = 5;

    /// What the check was doing, for a person.
    pub(super) fn doing(self) -> &'static str {
        match self {
            Self::Between => "before a connection",
            Self::Queue => "waiting for a free resolver",
            Self::Dns => "resolving the name",
            Self::Connect => "connecting",
            Self::Tls => "in the TLS handshake",
            Self::FirstByte => "waiting for the first byte",
            Self::Transfer => "reading the body",
            Self::Judging => "matching the body",
        }
    }

    fn index(self) -> Option<usize> {
        match self {
            Self::Between | Self::Queue | Self::Judging => None,
            Self::Dns => Some(0),
            Self::Connect => Some(1),
            Self::Tls => Some(2),
            Self::FirstByte => Some(3),
            Self::Transfer => Some(4),
        }
    }
}

/// The marks of one check.
pub(super) struct Marks {
    /// Which addresses the check may use.
    pub(super) ip_version: IpVersion,
    began: Instant,
    noted: Mutex<Noted>,
}

struct Noted {
    stage: Stage,
    since: Instant,
    spent: [Option<Duration>; Stage::MEASURED],
    /// The hop's host is an address, for which no resolver is asked.
    literal: bool,
    blocked: Option<IpAddr>,
    /// This machine's own name servers do not answer.
    has_silent_name_servers: bool,
    /// Where the hop's connection may go.
    candidates: Vec<IpAddr>,
    port: u16,
    /// What comes in on the hop's connection.
    inbound: Arc<Inbound>,
    /// The hop's.
    certificate: Option<Certificate>,
    /// Of all hops' certificates, the first to end.
    certificate_ends: Option<Timestamp>,
}

impl Marks {
    pub(super) fn new(ip_version: IpVersion, began: Instant) -> Arc<Self> {
        Arc::new(Self {
            ip_version,
            began,
            noted: Mutex::new(Noted {
                stage: Stage::Between,
                since: began,
                spent: [None; Stage::MEASURED],
                literal: false,
                blocked: None,
                has_silent_name_servers: false,
                candidates: Vec::new(),
                port: 0,
                inbound: Arc::default(),
                certificate: None,
                certificate_ends: None,
            }),
        })
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the phase that the check is in, and begins `stage`.
    pub(super) fn enter(&self, stage: Stage) {
        self.noted().enter(stage, Instant::now());
    }

    /// A hop begins, to a host that is this address or else a name.
    pub(super) fn hop(&self, literal: Option<IpAddr>, port: u16) {
        let mut noted = self.noted();
        noted.enter(Stage::Between, Instant::now());
        noted.literal = literal.is_some();
        noted.candidates = literal.into_iter().collect();
        noted.port = port;
        noted.inbound = Arc::default();
        noted.certificate = None;
    }

    fn connecting(&self) {
        let mut noted = self.noted();
        if noted.literal {
            noted.enter(Stage::Connect, Instant::now());
        }
    }

    /// What comes in on the hop's connection.
    pub(super) fn inbound(&self) -> Arc<Inbound> {
        Arc::clone(&self.noted().inbound)
    }

    pub(super) fn stage(&self) -> Stage {
        self.noted().stage
    }

    pub(super) fn block(&self, address: IpAddr) {
        self.noted().blocked = Some(address);
    }

    pub(super) fn blocked(&self) -> Option<IpAddr> {
        self.noted().blocked
    }

    pub(super) fn note_silent_name_servers(&self) {
        self.noted().has_silent_name_servers = true;
    }

    pub(super) fn has_silent_name_servers(&self) -> bool {
        self.noted().has_silent_name_servers
    }

    /// The addresses that the hop's name has, in the order in which they are tried.
    pub(super) fn set_candidates(&self, addresses: impl Iterator<Item = IpAddr>) {
        self.noted().candidates = addresses.collect();
    }

    /// Where the hop's connection may go.
    pub(super) fn candidates(&self) -> Vec<SocketAddr> {
        let noted = self.noted();
        noted.candidates.iter().map(|address| SocketAddr::new(*address, noted.port)).collect()
    }

    /// The address of the last connection, where there was one and it is known: of several candidates only the
    /// answer tells which one it was.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        let noted = self.noted();
        let connected =
            matches!(noted.stage, Stage::Tls | Stage::FirstByte | Stage::Transfer | Stage::Judging);
        match noted.candidates.as_slice() {
            [only] if connected => Some(SocketAddr::new(*only, noted.port)),
            _ => None,
        }
    }

    pub(super) fn set_certificate(&self, certificate: Option<Certificate>) {
        let mut noted = self.noted();
        let ends = certificate.as_ref().map(|certificate| certificate.ends);
        noted.certificate_ends = noted.certificate_ends.into_iter().chain(ends).min();
        noted.certificate = certificate;
    }

    pub(super) fn certificate(&self) -> Option<Certificate> {
        self.noted().certificate.clone()
    }

    pub(super) fn certificate_ends(&self) -> Option<Timestamp> {
        self.noted().certificate_ends
    }

    /// Ends the last phase and says how long each took. The stage stays as it was.
    pub(super) fn finish(&self) -> Timing {
        let now = Instant::now();
        let mut noted = self.noted();
        let stage = noted.stage;
        noted.enter(stage, now);
        let micros = |stage: Stage| noted.spent[stage.index()?].map(Timing::micros);
        Timing {
            dns_us: micros(Stage::Dns),
            connect_us: micros(Stage::Connect),
            tls_us: micros(Stage::Tls),
            first_byte_us: micros(Stage::FirstByte),
            transfer_us: micros(Stage::Transfer),
            total_us: Some(Timing::micros(now.duration_since(self.began))),
        }
    }
}

impl Noted {
    fn enter(&mut self, stage: Stage, now: Instant) {
        if let Some(index) = self.stage.index() {
            *self.spent[index].get_or_insert_default() += now.duration_since(self.since);
        }
        self.stage = stage;
        self.since = now;
    }
}

/// Runs `check` so that [`current`] finds `marks`. Not an `async fn`, which would keep room for `check` twice.
pub(super) fn within<T>(marks: Arc<Marks>, check: impl Future<Output = T>) -> impl Future<Output = T> {
    MARKS.scope(marks, check)
}

/// The marks of the check whose task this is.
pub(super) fn current() -> Option<Arc<Marks>> {
    MARKS.try_with(Arc::clone).ok()
}

/// Tells the marks of this task's check, if there is one.
pub(super) fn mark(tell: impl FnOnce(&Marks)) {
    let _ = MARKS.try_with(|marks| tell(marks));
}

/// A layer round reqwest's connector that marks where connecting begins and where the connection is ready.
#[derive(Clone)]
pub(super) struct ConnectLayer;

#[derive(Clone)]
pub(super) struct Connect<S>(S);

impl<S> tower::Layer<S> for ConnectLayer {
    type Service = Connect<S>;

    fn layer(&self, inner: S) -> Connect<S> {
        Connect(inner)
    }
}

impl<S, R> tower::Service<R> for Connect<S>
where
    S: tower::Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, target: R) -> Self::Future {
        mark(Marks::connecting);
        let connecting = self.0.call(target);
        Box::pin(async move {
            let connected = connecting.await?;
            mark(|marks| marks.enter(Stage::FirstByte));
            Ok(connected)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn phases_are_summed_over_hops_and_what_did_not_happen_is_absent() {
        let marks = Marks::new(IpVersion::Any, Instant::now());
        let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));

        for _ in 0..2 {
            marks.hop(Some(IpAddr::from([127, 0, 0, 1])), 80);
            pause(1).await;
            marks.connecting();
            pause(10).await;
            marks.enter(Stage::FirstByte);
            pause(100).await;
        }
        let timing = marks.finish();

        assert_eq!(
            timing,
            Timing {
                connect_us: Some(20_000),
                first_byte_us: Some(200_000),
                total_us: Some(222_000),
                ..Timing::default()
            }
        );
    }

    /// The clock here stands still for the wall clock's part, and leaps for the marks'; so a wall clock that leaps
    /// is not seen by them either.
    #[tokio::test(start_paused = true)]
    async fn durations_are_of_the_monotonic_clock_and_not_of_the_wall_clock() {
        let wall = picket_runtime::clock::wall();
        let marks = Marks::new(IpVersion::Any, Instant::now());

        marks.enter(Stage::Dns);
        tokio::time::advance(Duration::from_secs(3_000)).await;
        let timing = marks.finish();

        assert_eq!((timing.dns_us, timing.total_us), (Some(3_000_000_000), Some(3_000_000_000)));
        assert!(picket_runtime::clock::wall().since(wall) < Duration::from_secs(1_000));
    }
}
