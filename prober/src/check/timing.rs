//! Current phase of a check and the duration of each phase, summed over all hops.
//!
//! reqwest reports no phases. Its callbacks on the way to a connection (resolver, session store,
//! certificate verifier, connector layer) run in the check's own task, since no connection is
//! pooled. Each callback therefore finds the check's recorder in a task-local.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use picket_proto::{IpVersion, Timestamp, Timing};
use picket_runtime::NetworkScope;
use tokio::time::Instant;

use super::{
    certificate::{Certificate, CertificateEnd},
    inbound::InboundMeter,
};

tokio::task_local! {
    static CURRENT_RECORDER: Arc<PhaseRecorder>;
}

/// Current activity of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between phases; counts in the total only.
    Between,
    /// Waiting for a resolver thread of this prober.
    ResolverWait,
    Dns,
    Connect,
    /// A proxy connects to the site.
    ProxyConnect,
    Tls,
    FirstByte,
    Transfer,
    /// The response is complete and is being evaluated.
    BodyMatch,
}

impl Phase {
    const MEASURED_PHASES: usize = 5;

    /// Human-readable description of the phase.
    pub(super) fn activity(self) -> &'static str {
        match self {
            Self::Between => "before a connection",
            Self::ResolverWait => "waiting for a free resolver",
            Self::Dns => "resolving the name",
            Self::Connect => "connecting",
            Self::ProxyConnect => "waiting for the proxy to connect",
            Self::Tls => "in the TLS handshake",
            Self::FirstByte => "waiting for the first byte",
            Self::Transfer => "reading the body",
            Self::BodyMatch => "matching the body",
        }
    }

    fn timing_index(self) -> Option<usize> {
        match self {
            Self::Between | Self::ResolverWait | Self::ProxyConnect | Self::BodyMatch => None,
            Self::Dns => Some(0),
            Self::Connect => Some(1),
            Self::Tls => Some(2),
            Self::FirstByte => Some(3),
            Self::Transfer => Some(4),
        }
    }
}

/// Recorder of the phases of one check.
pub(super) struct PhaseRecorder {
    /// Address family allowed for the check.
    pub(super) ip_version: IpVersion,
    started_at: Instant,
    state: Mutex<RecorderState>,
}

struct RecorderState {
    phase: Phase,
    phase_started_at: Instant,
    durations: [Option<Duration>; Phase::MEASURED_PHASES],
    /// True if the host of the hop is an address literal, which needs no resolver.
    is_literal_address: bool,
    blocked_address: Option<IpAddr>,
    /// True if the name servers of this machine do not respond.
    has_silent_name_servers: bool,
    /// Addresses that the hop may connect to.
    candidates: Vec<IpAddr>,
    port: u16,
    /// Name of the proxy that the hop connects to, and true if the hop goes through a tunnel.
    proxy: Option<(Arc<str>, bool)>,
    /// Inbound counts of the hop's connection.
    inbound: Arc<InboundMeter>,
    /// Certificate of the current hop.
    certificate: Option<Certificate>,
    /// Earliest expiry of all hops' certificates.
    earliest_expiry: Option<Timestamp>,
    /// First end of all certificates of all hops' chains.
    first_end: Option<CertificateEnd>,
}

impl PhaseRecorder {
    pub(super) fn new(ip_version: IpVersion, began: Instant) -> Arc<Self> {
        Arc::new(Self {
            ip_version,
            started_at: began,
            state: Mutex::new(RecorderState {
                phase: Phase::Between,
                phase_started_at: began,
                durations: [None; Phase::MEASURED_PHASES],
                is_literal_address: false,
                blocked_address: None,
                has_silent_name_servers: false,
                candidates: Vec::new(),
                port: 0,
                proxy: None,
                inbound: Arc::default(),
                certificate: None,
                earliest_expiry: None,
                first_end: None,
            }),
        })
    }

    /// Ends the current phase and begins `stage`.
    pub(super) fn enter_phase(&self, stage: Phase) {
        self.state.lock().enter_phase(stage, Instant::now());
    }

    /// Begins a hop to the address `literal`, or to a name if `literal` is `None`.
    pub(super) fn start_hop(&self, literal: Option<IpAddr>, port: u16) {
        let mut noted = self.state.lock();
        noted.enter_phase(Phase::Between, Instant::now());
        noted.is_literal_address = literal.is_some();
        noted.candidates = literal.into_iter().collect();
        noted.port = port;
        noted.proxy = None;
        noted.inbound = Arc::default();
        noted.certificate = None;
    }

    /// Marks the hop as one to the proxy `name`, through a tunnel or by a forwarded request.
    pub(super) fn set_proxy(&self, name: Arc<str>, is_tunnel: bool) {
        self.state.lock().proxy = Some((name, is_tunnel));
    }

    /// Name of the proxy that the hop connects to.
    pub(super) fn proxy(&self) -> Option<Arc<str>> {
        self.state.lock().proxy.as_ref().map(|(name, _)| Arc::clone(name))
    }

    /// Name of the proxy that has a request and has not responded to it, nor has the site behind it.
    pub(super) fn silent_proxy(&self) -> Option<Arc<str>> {
        let noted = self.state.lock();
        let (name, is_tunnel) = noted.proxy.as_ref()?;
        let waits = match noted.phase {
            Phase::ProxyConnect => true,
            Phase::FirstByte => !is_tunnel,
            _ => false,
        };
        waits.then(|| Arc::clone(name))
    }

    pub(super) fn start_connect(&self) {
        let mut noted = self.state.lock();
        // A name's connect phase begins at the end of its lookup, and not here.
        if noted.is_literal_address {
            noted.enter_phase(Phase::Connect, Instant::now());
        }
    }

    /// Inbound counts of the hop's connection.
    pub(super) fn inbound(&self) -> Arc<InboundMeter> {
        Arc::clone(&self.state.lock().inbound)
    }

    pub(super) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub(super) fn set_blocked_address(&self, address: IpAddr) {
        self.state.lock().blocked_address = Some(address);
    }

    pub(super) fn blocked_address(&self) -> Option<IpAddr> {
        self.state.lock().blocked_address
    }

    pub(super) fn mark_silent_servers(&self) {
        self.state.lock().has_silent_name_servers = true;
    }

    pub(super) fn has_silent_name_servers(&self) -> bool {
        self.state.lock().has_silent_name_servers
    }

    /// Part of the network that the current hop needs. Behind a proxy every site counts as far away.
    pub(super) fn network_scope(&self) -> NetworkScope {
        let noted = self.state.lock();
        let farthest = noted.candidates.iter().map(|address| NetworkScope::of_address(*address)).max();
        farthest.filter(|_| noted.proxy.is_none()).unwrap_or(NetworkScope::Internet)
    }

    /// Stores the addresses of the hop's name, in the order of connection attempts.
    pub(super) fn set_candidates(&self, addresses: impl Iterator<Item = IpAddr>) {
        self.state.lock().candidates = addresses.collect();
    }

    /// Addresses that the hop may connect to.
    pub(super) fn candidates(&self) -> Vec<SocketAddr> {
        let noted = self.state.lock();
        noted.candidates.iter().map(|address| SocketAddr::new(*address, noted.port)).collect()
    }

    /// Address of the last connection, if connected and unambiguous. Among several candidates only
    /// the response reveals the address used.
    pub(super) fn remote_address(&self) -> Option<SocketAddr> {
        let noted = self.state.lock();
        let connected =
            matches!(noted.phase, Phase::Tls | Phase::FirstByte | Phase::Transfer | Phase::BodyMatch);
        match noted.candidates.as_slice() {
            [only] if connected => Some(SocketAddr::new(*only, noted.port)),
            _ => None,
        }
    }

    pub(super) fn set_certificate(
        &self,
        certificate: Option<Certificate>,
        first_end: Option<CertificateEnd>,
    ) {
        let mut noted = self.state.lock();
        let earlier = noted.first_end.take();
        noted.first_end = earlier.into_iter().chain(first_end).min_by_key(|end| end.expires_at);
        let ends = certificate.as_ref().map(|certificate| certificate.expires_at);
        noted.earliest_expiry = noted.earliest_expiry.into_iter().chain(ends).min();
        noted.certificate = certificate;
    }

    pub(super) fn certificate(&self) -> Option<Certificate> {
        self.state.lock().certificate.clone()
    }

    pub(super) fn earliest_expiry(&self) -> Option<Timestamp> {
        self.state.lock().earliest_expiry
    }

    /// First end of all certificates of all hops' chains.
    pub(super) fn first_certificate_end(&self) -> Option<CertificateEnd> {
        self.state.lock().first_end.clone()
    }

    /// Ends the last phase and returns all durations. The phase itself stays set.
    pub(super) fn finish_timing(&self) -> Timing {
        let now = Instant::now();
        let mut noted = self.state.lock();
        let stage = noted.phase;
        noted.enter_phase(stage, now);
        let micros = |stage: Phase| noted.durations[stage.timing_index()?].map(Timing::saturating_micros);
        Timing {
            dns_us: micros(Phase::Dns),
            connect_us: micros(Phase::Connect),
            tls_us: micros(Phase::Tls),
            first_byte_us: micros(Phase::FirstByte),
            transfer_us: micros(Phase::Transfer),
            total_us: Some(Timing::saturating_micros(now.duration_since(self.started_at))),
        }
    }
}

impl RecorderState {
    fn enter_phase(&mut self, stage: Phase, now: Instant) {
        if let Some(index) = self.phase.timing_index() {
            *self.durations[index].get_or_insert_default() += now.duration_since(self.phase_started_at);
        }
        self.phase = stage;
        self.phase_started_at = now;
    }
}

/// Runs `check` with `marks` as its [`current_recorder`]. Not an `async fn`, which would reserve
/// space for `check` twice.
pub(super) fn with_recorder<T>(
    marks: Arc<PhaseRecorder>,
    check: impl Future<Output = T>,
) -> impl Future<Output = T> {
    CURRENT_RECORDER.scope(marks, check)
}

/// Recorder of the check that runs in this task.
pub(super) fn current_recorder() -> Option<Arc<PhaseRecorder>> {
    CURRENT_RECORDER.try_with(Arc::clone).ok()
}

/// Applies `tell` to the recorder of this task, if there is one.
pub(super) fn update_recorder(tell: impl FnOnce(&PhaseRecorder)) {
    let _ = CURRENT_RECORDER.try_with(|marks| tell(marks));
}

/// Connector layer that records the beginning and the end of connecting.
#[derive(Clone)]
pub(super) struct ConnectLayer;

#[derive(Clone)]
pub(super) struct ConnectService<S>(S);

impl<S> tower::Layer<S> for ConnectLayer {
    type Service = ConnectService<S>;

    fn layer(&self, inner: S) -> ConnectService<S> {
        ConnectService(inner)
    }
}

impl<S, R> tower::Service<R> for ConnectService<S>
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
        update_recorder(PhaseRecorder::start_connect);
        let connecting = self.0.call(target);
        Box::pin(async move {
            let connected = connecting.await?;
            update_recorder(|marks| marks.enter_phase(Phase::FirstByte));
            Ok(connected)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn phases_are_summed_over_hops_and_skipped_ones_are_absent() {
        let marks = PhaseRecorder::new(IpVersion::Any, Instant::now());
        let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));

        for _ in 0..2 {
            marks.start_hop(Some(IpAddr::from([127, 0, 0, 1])), 80);
            pause(1).await;
            marks.start_connect();
            pause(10).await;
            marks.enter_phase(Phase::FirstByte);
            pause(100).await;
        }
        let timing = marks.finish_timing();

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

    /// Tokio's paused clock leaps while the wall clock stands still. A leap of the wall clock would
    /// therefore not affect the recorder either.
    #[tokio::test(start_paused = true)]
    async fn durations_use_the_monotonic_clock_and_not_the_wall_clock() {
        let wall = picket_runtime::clock::wall_clock_now();
        let marks = PhaseRecorder::new(IpVersion::Any, Instant::now());

        marks.enter_phase(Phase::Dns);
        tokio::time::advance(Duration::from_secs(3_000)).await;
        let timing = marks.finish_timing();

        assert_eq!((timing.dns_us, timing.total_us), (Some(3_000_000_000), Some(3_000_000_000)));
        assert!(
            picket_runtime::clock::wall_clock_now().saturating_duration_since(wall)
                < Duration::from_secs(1_000)
        );
    }
}
