//! Causes of errors of the HTTP, TLS and I/O libraries, and words for those of the system.

use std::{error::Error, io};

/// Describes a connection error.
pub fn describe_io_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::ConnectionAborted => "connection aborted".to_owned(),
        kind if is_connection_end(kind) => "connection closed".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to the host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "no route to the network".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no address to go there from".to_owned(),
        _ => innermost_source(error).to_string(),
    }
}

/// Returns true if `kind` says that the other side ended the connection.
pub fn is_connection_end(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
}

/// Returns the first error of type `T` among `error` and its sources.
pub fn find_source<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
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

/// The last error among `error` and its sources.
pub fn innermost_source<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
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
