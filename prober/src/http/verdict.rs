//! What went wrong, as a cause and as a sentence for a person; and whether a body is as it should be.

use std::{error::Error, io, time::Duration};

use picket_proto::{Cause, Check, invalid::shorten};

use super::{
    phases::{Marks, Stage},
    resolver, tls,
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

/// The time allowed was over at `stage`.
pub(super) fn timeout(allowed: Duration, stage: Stage) -> Failure {
    let cause = match stage {
        // Ours, and not the site's.
        Stage::Queue | Stage::Between | Stage::Judging => Cause::Overloaded,
        _ => Cause::Timeout,
    };
    let allowed = match allowed.subsec_millis() {
        0 => format!("{} s", allowed.as_secs()),
        _ => format!("{} ms", allowed.as_millis()),
    };
    Failure::new(cause, format!("no answer within {allowed} ({})", stage.doing()))
}

/// What reqwest could not do.
pub(super) fn of_error(error: &reqwest::Error, marks: &Marks) -> Failure {
    let innermost = || innermost(error).to_string();
    if marks.blocked().is_some() {
        let message = find::<resolver::Error>(error).map_or_else(innermost, ToString::to_string);
        return Failure::new(Cause::Blocked, message);
    }
    let system = find::<io::Error>(error);
    if system.is_some_and(is_ours) {
        return Failure::new(
            Cause::Overloaded,
            format!("this prober has no more files or ports: {}", innermost()),
        );
    }
    match marks.stage() {
        Stage::Between => Failure::new(Cause::Invalid, innermost()),
        Stage::Queue => Failure::new(Cause::Overloaded, innermost()),
        Stage::Dns => Failure::new(
            Cause::Dns,
            find::<resolver::Error>(error).map_or_else(innermost, ToString::to_string),
        ),
        Stage::Connect => Failure::new(Cause::Connect, system.map_or_else(innermost, in_words)),
        Stage::Tls => {
            let message = match (find::<rustls::Error>(error), system) {
                (Some(why), _) => tls::explain(why),
                (None, Some(why)) => format!("{} in the TLS handshake", in_words(why)),
                (None, None) => innermost(),
            };
            Failure::new(Cause::Tls, message)
        }
        stage @ (Stage::FirstByte | Stage::Transfer | Stage::Judging) => {
            let what = system.map_or_else(innermost, in_words);
            Failure::new(Cause::Http, format!("{what} ({})", stage.doing()))
        }
    }
}

/// Whether it is this machine that has run out of something.
pub(super) fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::ConnectionAborted => "connection aborted".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "connection closed".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to the host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "no route to the network".to_owned(),
        _ => innermost(error).to_string(),
    }
}

/// The first error of type `T` among `error` and its causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            // An `io::Error` that only wraps says less than what it wraps.
            let wraps = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            return wraps.and_then(|inner| find(inner)).or(Some(found));
        }
        next = cause(error);
    }
    None
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut last = error;
    while let Some(next) = cause(last) {
        last = next;
    }
    last
}

/// What caused `error`. The standard library's `source` of an `io::Error` leaves out what it wraps.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(wrapper) => wrapper.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// Whether `body` is as it should be; `whole` unless it was cut at the limit. Beside the failure: whether
/// `regex` matched.
pub(super) fn of_body(check: &Check, body: &[u8], whole: bool) -> (Option<bool>, Option<Failure>) {
    let cut = |field: &str| {
        Failure::new(
            Cause::BodyTooLarge,
            format!("{field} is not decided after the first {} bytes", body.len()),
        )
    };
    let matched = check.regex.as_ref().map(|regex| regex.is_match(body));
    if matched == Some(false) {
        let failure = match whole {
            true => Failure::new(Cause::Body, "regex does not match"),
            false => cut("regex"),
        };
        return (matched, Some(failure));
    }
    let failure = check.not_regex.as_ref().and_then(|regex| match regex.is_match(body) {
        true => Some(Failure::new(Cause::Body, "not_regex matches")),
        false if whole => None,
        false => Some(cut("not_regex")),
    });
    (matched, failure)
}

#[cfg(test)]
mod tests {
    use picket_proto::CheckRequest;

    use super::*;

    fn verdict(regex: Option<&str>, not_regex: Option<&str>, whole: bool) -> (Option<bool>, Option<Cause>) {
        let request = CheckRequest {
            regex: regex.map(Into::into),
            not_regex: not_regex.map(Into::into),
            ..CheckRequest::new("http://a.example/")
        };
        let (matched, failure) = of_body(&request.validate().unwrap(), b"\xffall is well", whole);
        (matched, failure.map(|failure| failure.cause))
    }

    #[test]
    fn a_body_is_judged_by_both_regexes_and_a_cut_one_only_where_it_can_be() {
        let (body, too_large) = (Some(Cause::Body), Some(Cause::BodyTooLarge));
        for (regex, not_regex, whole, expected) in [
            (None, None, false, (None, None)),
            (Some("well"), None, true, (Some(true), None)),
            (Some("well"), None, false, (Some(true), None)),
            (Some("bad"), None, true, (Some(false), body)),
            (Some("bad"), None, false, (Some(false), too_large)),
            (None, Some("well"), false, (None, body)),
            (None, Some("bad"), true, (None, None)),
            (None, Some("bad"), false, (None, too_large)),
            (Some("well"), Some("bad"), false, (Some(true), too_large)),
        ] {
            assert_eq!(verdict(regex, not_regex, whole), expected, "{regex:?} {not_regex:?} {whole}");
        }
    }

    #[test]
    fn a_timeout_says_what_was_waited_for_and_whose_fault_it_is() {
        let theirs = timeout(Duration::from_secs(10), Stage::FirstByte);
        let ours = timeout(Duration::from_millis(1_500), Stage::Queue);

        assert_eq!(theirs.message, "no answer within 10 s (waiting for the first byte)");
        assert_eq!(theirs.cause, Cause::Timeout);
        assert_eq!(ours.message, "no answer within 1500 ms (waiting for a free resolver)");
        assert_eq!(ours.cause, Cause::Overloaded);
    }

    #[test]
    fn the_cause_within_wrapped_io_errors_is_found() {
        let wrapped = io::Error::other(io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::NoCertificatesPresented,
        ));

        assert_eq!(find::<rustls::Error>(&wrapped), Some(&rustls::Error::NoCertificatesPresented));
    }
}
