//! What went wrong, as a cause and as a sentence for a person.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use picket_proto::{Cause, invalid::shorten};

use super::{
    Seen,
    phases::{Marks, Stage},
    resolver, tls,
    words::{find, in_words, innermost, of_http},
};

/// Why a check is not `up`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) message: String,
}

impl Failure {
    /// The longest message, in bytes; part of it may be a site's.
    const MAX_MESSAGE: usize = 500;

    pub(super) fn new(cause: Cause, message: impl AsRef<str>) -> Self {
        Self { cause, message: shorten(message.as_ref(), Self::MAX_MESSAGE) }
    }
}

/// The time allowed was over.
pub(super) fn timeout(allowed: Duration, marks: &Marks, seen: &Seen) -> Failure {
    let stage = marks.stage();
    if stage == Stage::Connect && lacks_a_route(marks) {
        return no_route(marks, seen);
    }
    if stage == Stage::Dns && marks.has_silent_name_servers() {
        let message = format!("this prober's name servers do not answer ({})", seen.doing(marks));
        return Failure::new(Cause::ProberOffline, message);
    }
    let cause = match stage {
        // Ours, and not the site's.
        Stage::Queue | Stage::Between | Stage::Judging => Cause::Overloaded,
        _ => Cause::Timeout,
    };
    let what = if stage == Stage::Transfer { "no end of the body" } else { "no answer" };
    let allowed = match allowed.subsec_millis() {
        0 => format!("{} s", allowed.as_secs()),
        _ => format!("{} ms", allowed.as_millis()),
    };
    Failure::new(cause, format!("{what} within {allowed} ({})", seen.doing(marks)))
}

/// What the HTTP client could not do.
pub(super) fn of_error(error: &(dyn Error + 'static), marks: &Marks, seen: &Seen) -> Failure {
    let innermost = || innermost(error).to_string();
    if marks.blocked().is_some() {
        let message = find::<resolver::Error>(error).map_or_else(innermost, ToString::to_string);
        return Failure::new(Cause::Blocked, message);
    }
    let system = find::<io::Error>(error);
    if system.is_some_and(|why| is_ours(why) && !lacks_a_family(why, &marks.candidates())) {
        return Failure::new(
            Cause::Overloaded,
            format!("this prober has no more files, ports or memory for sockets: {}", innermost()),
        );
    }
    let doing = seen.doing(marks);
    if let Some(flood) = marks.inbound().flood() {
        let cause = if marks.stage() == Stage::Tls { Cause::Tls } else { Cause::Http };
        return Failure::new(cause, format!("{flood} ({doing})"));
    }
    match (marks.stage(), find::<rustls::Error>(error)) {
        // Only a URL that a site sent us to can be one that was not looked at before.
        (Stage::Between, _) if seen.redirects > 0 => Failure::new(Cause::Redirect, innermost()),
        (Stage::Between, _) => Failure::new(Cause::Invalid, innermost()),
        (Stage::Queue, _) => Failure::new(Cause::Overloaded, innermost()),
        (Stage::Dns, _) => {
            let why = find::<resolver::Error>(error);
            let cause = why.map_or(Cause::Dns, resolver::Error::cause);
            Failure::new(cause, why.map_or_else(innermost, ToString::to_string))
        }
        (Stage::Connect, _) if lacks_a_route(marks) => no_route(marks, seen),
        (Stage::Connect, _) => {
            let what = system.map_or_else(innermost, in_words);
            Failure::new(Cause::Connect, format!("{what} ({doing})"))
        }
        // In TLS 1.3 a server may refuse a client after the handshake; its refusal comes instead of an answer.
        (Stage::Tls | Stage::FirstByte | Stage::Transfer, Some(why)) => {
            Failure::new(Cause::Tls, tls::explain(why, marks.certificate().as_ref()))
        }
        (Stage::Tls, None) => {
            let what = system.map_or_else(innermost, in_words);
            Failure::new(Cause::Tls, format!("{what} in the TLS handshake"))
        }
        (Stage::FirstByte | Stage::Transfer | Stage::Judging, _) => {
            let what = of_http(error).or_else(|| system.map(in_words)).unwrap_or_else(innermost);
            Failure::new(Cause::Http, format!("{what} ({doing})"))
        }
    }
}

/// Whether a TLS connection ended without the farewell that the rules ask for. Many servers leave it out, and
/// browsers do not mind where nothing else says how long a body is.
pub(super) fn is_bare_close(error: &(dyn Error + 'static)) -> bool {
    find::<io::Error>(error).is_some_and(|why| why.kind() == io::ErrorKind::UnexpectedEof)
}

/// Whether it is this machine that has run out of something.
pub(super) fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

/// Whether `error` is that this machine cannot go to some of `places` at all, mostly for want of IPv6, and no shortage
/// of ports. It is the error of the last place that was tried; what the others said, which may be the site's
/// fault, is lost.
fn lacks_a_family(error: &io::Error, places: &[SocketAddr]) -> bool {
    let no_address = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();
    error.raw_os_error() == Some(no_address) && !places.iter().all(|place| can_go_to(*place))
}

/// Whether this machine has a route to none of the places where the hop's connection may go, so that no packet left it.
/// What is out of reach beyond the first router looks like a site that does not answer.
fn lacks_a_route(marks: &Marks) -> bool {
    let places = marks.candidates();
    !places.is_empty() && !places.iter().any(|place| can_go_to(*place))
}

fn no_route(marks: &Marks, seen: &Seen) -> Failure {
    Failure::new(Cause::ProberOffline, format!("this prober has no route ({})", seen.doing(marks)))
}

/// Whether this machine has a route to addresses of the world: to one of those kept for documents, as an example.
pub(super) fn has_public_route() -> bool {
    const EXAMPLES: [IpAddr; 4] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ];
    EXAMPLES.iter().any(|example| can_go_to(SocketAddr::new(*example, 53)))
}

/// Whether this machine has an address and a route to go to `place` from. Nothing is sent.
fn can_go_to(place: SocketAddr) -> bool {
    use rustix::io::Errno;
    const NOWHERE: [Errno; 6] = [
        Errno::NETUNREACH,
        Errno::HOSTUNREACH,
        Errno::NETDOWN,
        Errno::ADDRNOTAVAIL,
        Errno::AFNOSUPPORT,
        Errno::ACCESS,
    ];
    let socket = match place {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let failed = socket.and_then(|socket| socket.connect(place)).err().and_then(|why| why.raw_os_error());
    // Of a want of files or memory nothing follows for routes.
    !failed.is_some_and(|code| NOWHERE.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use picket_proto::IpVersion;
    use tokio::time::Instant;

    use super::*;

    fn late(allowed: Duration, stage: Stage) -> Failure {
        let marks = Marks::new(IpVersion::Any, Instant::now());
        marks.hop(Some([127, 0, 0, 2].into()), 80);
        marks.enter(stage);
        let seen = Seen { raw_bytes: 3, body_length: Some(10), ..Seen::default() };
        timeout(allowed, &marks, &seen)
    }

    /// To the broadcast address nobody may go, as some machines may not to any of IPv6.
    #[test]
    fn a_place_that_this_machine_cannot_go_to_is_told_from_a_want_of_ports() {
        let no_address = io::Error::from_raw_os_error(rustix::io::Errno::ADDRNOTAVAIL.raw_os_error());
        let no_files = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let here = SocketAddr::from(([127, 0, 0, 1], 80));
        let nowhere = SocketAddr::from(([255, 255, 255, 255], 80));

        assert!(!lacks_a_family(&no_address, &[here]));
        assert!(lacks_a_family(&no_address, &[here, nowhere]));
        assert!(!lacks_a_family(&no_files, &[here, nowhere]));
    }

    /// The broadcast address stands for one without a route.
    #[test]
    fn a_connection_for_which_there_is_no_route_says_nothing_of_the_site() {
        let marks = Marks::new(IpVersion::Any, Instant::now());
        marks.hop(Some([255, 255, 255, 255].into()), 80);
        marks.enter(Stage::Connect);
        let failure = timeout(Duration::from_secs(10), &marks, &Seen::default());

        assert_eq!(failure.cause, Cause::ProberOffline);
        assert_eq!(failure.message, "this prober has no route (connecting to 255.255.255.255:80)");
        marks.set_candidates([[255, 255, 255, 255].into(), [127, 0, 0, 1].into()].into_iter());
        assert_eq!(timeout(Duration::from_secs(10), &marks, &Seen::default()).cause, Cause::Timeout);
    }

    #[test]
    fn a_timeout_says_what_was_waited_for_and_whose_fault_it_is() {
        for (stage, cause, message) in [
            (Stage::Queue, Cause::Overloaded, "no answer within 10 s (waiting for a free resolver)"),
            (Stage::Dns, Cause::Timeout, "no answer within 10 s (resolving the name)"),
            (Stage::Connect, Cause::Timeout, "no answer within 10 s (connecting to 127.0.0.2:80)"),
            (Stage::Tls, Cause::Timeout, "no answer within 10 s (in the TLS handshake)"),
            (Stage::FirstByte, Cause::Timeout, "no answer within 10 s (waiting for the first byte)"),
            (
                Stage::Transfer,
                Cause::Timeout,
                "no end of the body within 10 s (reading the body: 3 of 10 bytes came)",
            ),
            (Stage::Judging, Cause::Overloaded, "no answer within 10 s (matching the body)"),
        ] {
            let failure = late(Duration::from_secs(10), stage);
            assert_eq!((failure.cause, failure.message.as_str()), (cause, message));
        }
        assert!(late(Duration::from_millis(1_500), Stage::Dns).message.contains("within 1500 ms"));
    }
}
