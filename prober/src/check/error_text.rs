//! Human-readable texts for errors of the HTTP, TLS and I/O libraries.

use std::{error::Error, io};

use picket_runtime::error_source::{self, find_source, innermost_source, is_connection_end};

/// Describes a connection error.
pub(super) fn describe_io_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => "this prober has no address to go there from".to_owned(),
        _ => error_source::describe_io_error(error),
    }
}

const INCOMPLETE_ANSWER_TEXT: &str = "connection closed before the answer was complete";

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
        Some(why) if is_connection_end(why.kind()) => return Some(INCOMPLETE_ANSWER_TEXT.to_owned()),
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
