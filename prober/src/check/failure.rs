//! Failures of checks: a cause and a human-readable message.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use picket_proto::{Cause, validation::sanitize_text};
use picket_runtime::error_source::{find_source, innermost_source};

use super::{
    connection_error::ConnectionError,
    error_text::{describe_http_error, describe_io_error},
    gateway::is_way_blocked,
    os_error::{has_route, is_resource_exhaustion},
    proxy::liveness,
    resolver,
    response_so_far::ResponseSoFar,
    timing::{Phase, PhaseRecorder},
    tls,
};

/// Reason why a check is not `up`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) message: String,
}

impl Failure {
    /// Maximum message length in bytes; the message may contain text from the site.
    const MAX_MESSAGE_BYTES: usize = 500;

    pub(super) fn new(cause: Cause, message: impl AsRef<str>) -> Self {
        // Before the truncation, which could leave the beginning of a secret.
        let message = picket_runtime::redact(message.as_ref());
        Self { cause, message: sanitize_text(&message, Self::MAX_MESSAGE_BYTES) }
    }
}

/// Failure of a check that exceeded its timeout.
pub(super) fn timeout_failure(allowed: Duration, marks: &PhaseRecorder, seen: &ResponseSoFar) -> Failure {
    let stage = marks.phase();
    if stage == Phase::Connect && has_no_route(marks) {
        return no_route_failure(marks, seen);
    }
    if stage == Phase::Dns && marks.has_silent_name_servers() {
        let message = format!("this prober's name servers do not answer ({})", seen.describe_activity(marks));
        return Failure::new(Cause::ProberOffline, message);
    }
    if let (Phase::Dns | Phase::Connect, Some(proxy)) = (stage, marks.proxy()) {
        return proxy_failure(&proxy, "no answer in time", &seen.describe_activity(marks));
    }
    let cause = match stage {
        // Phases in which the check waits for this prober and not for the site.
        Phase::ResolverWait | Phase::Between | Phase::BodyMatch => Cause::Overloaded,
        _ => Cause::Timeout,
    };
    let what = if stage == Phase::Transfer { "no end of the body" } else { "no answer" };
    let allowed = match allowed.subsec_millis() {
        0 => format!("{} s", allowed.as_secs()),
        _ => format!("{} ms", allowed.as_millis()),
    };
    Failure::new(cause, format!("{what} within {allowed} ({})", seen.describe_activity(marks)))
}

/// Failure of a check whose request or body read failed.
pub(super) fn classify_error(
    error: &(dyn Error + 'static),
    marks: &PhaseRecorder,
    seen: &ResponseSoFar,
) -> Failure {
    let innermost = || innermost_source(error).to_string();
    // Address policy first: by its phase a blocked name would be classified as a DNS failure.
    if marks.blocked_address().is_some() {
        let message =
            find_source::<resolver::ResolveError>(error).map_or_else(innermost, ToString::to_string);
        return Failure::new(Cause::Blocked, message);
    }
    let system = find_source::<io::Error>(error);
    // Before the phase is considered: lack of resources is the prober's fault in every phase.
    if system.is_some_and(|why| is_resource_exhaustion(why) && !is_missing_family(why, &marks.candidates())) {
        return Failure::new(
            Cause::Overloaded,
            format!("this prober has no more files, ports or memory for sockets: {}", innermost()),
        );
    }
    let doing = seen.describe_activity(marks);
    if let Some(failure) = classify_connection_error(error, marks, &doing) {
        return failure;
    }
    if let Some(flood) = marks.inbound().flood() {
        let cause = if marks.phase() == Phase::Tls { Cause::Tls } else { Cause::Http };
        return Failure::new(cause, format!("{flood} ({doing})"));
    }
    match (marks.phase(), find_source::<rustls::Error>(error)) {
        // Only the URL of a redirect was not validated before.
        (Phase::Between, _) if seen.redirects > 0 => Failure::new(Cause::Redirect, innermost()),
        (Phase::Between, _) => Failure::new(Cause::Invalid, innermost()),
        (Phase::ResolverWait, _) => Failure::new(Cause::Overloaded, innermost()),
        (Phase::Dns, _) => {
            let why = find_source::<resolver::ResolveError>(error);
            let cause = why.map_or(Cause::Dns, resolver::ResolveError::cause);
            Failure::new(cause, why.map_or_else(innermost, ToString::to_string))
        }
        (Phase::Connect, _) if has_no_route(marks) => no_route_failure(marks, seen),
        (Phase::Connect | Phase::ProxyConnect, _) => {
            let what = system.map_or_else(innermost, describe_io_error);
            Failure::new(Cause::Connect, format!("{what} ({doing})"))
        }
        // In TLS 1.3 a server may reject a client after the handshake; the rejection then arrives
        // in place of a response.
        (Phase::Tls | Phase::FirstByte | Phase::Transfer, Some(why)) => {
            Failure::new(Cause::Tls, tls::explain_tls_error(why, marks.certificate().as_ref()))
        }
        (Phase::Tls, None) => {
            let what = system.map_or_else(innermost, describe_io_error);
            Failure::new(Cause::Tls, format!("{what} in the TLS handshake"))
        }
        (Phase::FirstByte | Phase::Transfer | Phase::BodyMatch, _) => {
            let what = describe_http_error(error)
                .or_else(|| system.map(describe_io_error))
                .unwrap_or_else(innermost);
            Failure::new(Cause::Http, format!("{what} ({doing})"))
        }
    }
}

/// Returns true if a TLS connection ended without the `close_notify` that the specification
/// requires. Many servers omit it, and browsers accept that if no length is announced.
pub(super) fn is_bare_close(error: &(dyn Error + 'static)) -> bool {
    find_source::<io::Error>(error).is_some_and(|why| why.kind() == io::ErrorKind::UnexpectedEof)
}

/// Returns true if `error` means that this machine cannot reach some of `places` at all, mostly for
/// lack of IPv6, and is not a shortage of ports. The error is the one of the last address tried;
/// errors of the other addresses, which may be the site's fault, are lost.
fn is_missing_family(error: &io::Error, places: &[SocketAddr]) -> bool {
    let no_address = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();
    error.raw_os_error() == Some(no_address) && !places.iter().all(|place| has_route(*place))
}

/// Returns true if this machine can send no packet to any candidate of the hop: it has no route, the
/// link has no carrier, or the first router does not answer. An outage beyond the first router looks
/// like a site that does not respond.
fn has_no_route(marks: &PhaseRecorder) -> bool {
    let places = marks.candidates();
    !places.is_empty() && places.iter().all(|place| !has_route(*place) || is_way_blocked(place.ip()))
}

/// Failure of a check with options for the connection, where such an option explains it. Without
/// them there is neither such an error nor a proxy.
fn classify_connection_error(
    error: &(dyn Error + 'static),
    marks: &PhaseRecorder,
    doing: &str,
) -> Option<Failure> {
    if let Some(why) = find_source::<ConnectionError>(error) {
        return Some(Failure::new(why.cause(), why.to_string()));
    }
    let proxy = marks.proxy()?;
    let lookup = find_source::<resolver::ResolveError>(error);
    let is_own_network = match marks.phase() {
        Phase::Dns => lookup.is_some_and(|why| why.cause() == Cause::ProberOffline),
        Phase::Connect => has_no_route(marks),
        Phase::ProxyConnect => false,
        _ => return None,
    };
    let why = || {
        let system = find_source::<io::Error>(error).map(describe_io_error);
        lookup.map(ToString::to_string).or(system).unwrap_or_else(|| innermost_source(error).to_string())
    };
    (!is_own_network).then(|| proxy_failure(&proxy, &why(), doing))
}

/// Attributes the failure of a request that a proxy had and did not respond to: to the proxy, unless
/// it responds to a request for itself.
pub(super) async fn attribute_to_proxy(
    failure: Failure,
    marks: &PhaseRecorder,
    seen: &ResponseSoFar,
) -> Failure {
    let Some(proxy) = marks.silent_proxy() else { return failure };
    // Other causes are judgements of the proxy's own response.
    if !matches!(failure.cause, Cause::Timeout | Cause::Http)
        || liveness::is_responding(&marks.candidates()).await
    {
        return failure;
    }
    let why = "no response, and none to a request for the proxy itself";
    proxy_failure(&proxy, why, &seen.describe_activity(marks))
}

/// Failure to connect to a proxy, which says nothing about the site.
fn proxy_failure(proxy: &str, why: &str, doing: &str) -> Failure {
    Failure::new(Cause::SourceUnavailable, format!("proxy '{proxy}': {why} ({doing})"))
}

fn no_route_failure(marks: &PhaseRecorder, seen: &ResponseSoFar) -> Failure {
    let what = match marks.candidates().iter().any(|place| has_route(*place)) {
        true => "this prober's link is down or its gateway does not answer",
        false => "this prober has no route",
    };
    Failure::new(Cause::ProberOffline, format!("{what} ({})", seen.describe_activity(marks)))
}

#[cfg(test)]
mod tests {
    use picket_proto::IpVersion;
    use tokio::time::Instant;

    use super::*;

    fn late(allowed: Duration, stage: Phase) -> Failure {
        let marks = PhaseRecorder::new(IpVersion::Any, Instant::now());
        marks.start_hop(Some([127, 0, 0, 2].into()), 80);
        marks.enter_phase(stage);
        let seen = ResponseSoFar { raw_bytes: 3, body_length: Some(10), ..ResponseSoFar::default() };
        timeout_failure(allowed, &marks, &seen)
    }

    /// The broadcast address is unreachable, as any IPv6 address is on some machines.
    #[test]
    fn a_missing_route_and_exhausted_ports_have_different_causes() {
        let no_address = io::Error::from_raw_os_error(rustix::io::Errno::ADDRNOTAVAIL.raw_os_error());
        let no_files = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let here = SocketAddr::from(([127, 0, 0, 1], 80));
        let nowhere = SocketAddr::from(([255, 255, 255, 255], 80));

        assert!(!is_missing_family(&no_address, &[here]));
        assert!(is_missing_family(&no_address, &[here, nowhere]));
        assert!(!is_missing_family(&no_files, &[here, nowhere]));
    }

    /// The broadcast address stands for an address without a route.
    #[test]
    fn a_connection_without_a_route_is_missed_and_not_down() {
        let marks = PhaseRecorder::new(IpVersion::Any, Instant::now());
        marks.start_hop(Some([255, 255, 255, 255].into()), 80);
        marks.enter_phase(Phase::Connect);
        let failure = timeout_failure(Duration::from_secs(10), &marks, &ResponseSoFar::default());

        assert_eq!(failure.cause, Cause::ProberOffline);
        assert_eq!(failure.message, "this prober has no route (connecting to 255.255.255.255:80)");
        marks.set_candidates([[255, 255, 255, 255].into(), [127, 0, 0, 1].into()].into_iter());
        assert_eq!(
            timeout_failure(Duration::from_secs(10), &marks, &ResponseSoFar::default()).cause,
            Cause::Timeout
        );
    }

    #[test]
    fn a_timeout_names_its_phase_and_is_attributed() {
        for (stage, cause, message) in [
            (Phase::ResolverWait, Cause::Overloaded, "no answer within 10 s (waiting for a free resolver)"),
            (Phase::Dns, Cause::Timeout, "no answer within 10 s (resolving the name)"),
            (Phase::Connect, Cause::Timeout, "no answer within 10 s (connecting to 127.0.0.2:80)"),
            (Phase::Tls, Cause::Timeout, "no answer within 10 s (in the TLS handshake)"),
            (Phase::FirstByte, Cause::Timeout, "no answer within 10 s (waiting for the first byte)"),
            (
                Phase::Transfer,
                Cause::Timeout,
                "no end of the body within 10 s (reading the body: 3 of 10 bytes came)",
            ),
            (Phase::BodyMatch, Cause::Overloaded, "no answer within 10 s (matching the body)"),
        ] {
            let failure = late(Duration::from_secs(10), stage);
            assert_eq!((failure.cause, failure.message.as_str()), (cause, message));
        }
        assert!(late(Duration::from_millis(1_500), Phase::Dns).message.contains("within 1500 ms"));
    }
}
