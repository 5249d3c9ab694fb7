//! Human-readable texts for errors of the HTTP, TLS and I/O libraries.

use std::{error::Error, io};

/// Describes a connection error.
pub(super) fn describe_io_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::ConnectionAborted => "connection aborted".to_owned(),
        kind if is_close(kind) => "connection closed".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to the host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "no route to the network".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this prober has no address to go there from".to_owned(),
        _ => innermost_source(error).to_string(),
    }
}

const INCOMPLETE_ANSWER_TEXT: &str = "connection closed before the answer was complete";

fn is_close(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
}

/// Describes an HTTP protocol error, if the HTTP libraries recognise the error as one.
pub(super) fn describe_http_error(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(why) = find_source::<h2::Error>(error)
        && let Some(reason) = why.reason()
    {
        let name = format!("{reason:?}");
        return Some(match (why.is_remote(), why.is_go_away()) {
            (true, true) => format!("the server ended the HTTP/2 connection (GOAWAY, {name})"),
            (true, false) => format!("the server reset the HTTP/2 stream (RST_STREAM, {name})"),
            // h2 reports a header list above the limit with the same code.
            (false, _) if reason == h2::Reason::PROTOCOL_ERROR => format!(
                "the answer breaks the rules of HTTP/2, or its head is larger than {} KiB ({name})",
                super::settings::MAX_HEADER_LIST_BYTES >> 10
            ),
            (false, _) => format!("the answer breaks the rules of HTTP/2 ({name}: {})", reason.description()),
        });
    }
    match find_source::<io::Error>(error) {
        Some(why) if is_close(why.kind()) => return Some(INCOMPLETE_ANSWER_TEXT.to_owned()),
        // Chunk length that is not a number.
        Some(why) if matches!(why.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            return Some(format!("the answer is not HTTP: {}", innermost_source(why)));
        }
        _ => {}
    }
    let why = find_source::<hyper::Error>(error)?;
    if why.is_parse_too_large() {
        return Some(format!(
            "the answer's head is too large: more than {} headers, or more than 400 KiB",
            super::settings::MAX_HEADERS
        ));
    }
    if why.is_parse() {
        return Some(format!("the answer is not HTTP: {why}"));
    }
    if why.is_incomplete_message() {
        return Some(INCOMPLETE_ANSWER_TEXT.to_owned());
    }
    None
}

/// Returns the first error of type `T` among `error` and its sources.
pub(super) fn find_source<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            // An `io::Error` that only wraps another error is less specific than the wrapped error.
            let wraps = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            return wraps.and_then(|inner| find_source(inner)).or(Some(found));
        }
        next = next_source(error);
    }
    None
}

pub(super) fn innermost_source<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut last = error;
    while let Some(next) = next_source(last) {
        last = next;
    }
    last
}

/// Source of `error`. `io::Error::source` of the standard library skips the wrapped error itself.
fn next_source<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(wrapper) => wrapper.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_cause_of_wrapped_io_errors_is_found() {
        let wrapped = io::Error::other(io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::NoCertificatesPresented,
        ));

        assert_eq!(find_source::<rustls::Error>(&wrapped), Some(&rustls::Error::NoCertificatesPresented));
    }
}
