//! Several results in one message: a result a line, since JSON holds no line break outside of white space.
//!
//! A message costs the bus and both its ends more than what is in it. Only results of scheduled and confirming checks go
//! so, on [`subject::results`](crate::subject::results).

use memchr::memchr;

use crate::subject::ResultSubject;

/// The most results in one message.
pub const MAX_RESULTS: usize = 64;
/// The most bytes of them; the stream takes 64 KiB with all that is around.
pub const MAX_BYTES: usize = 60 << 10;

/// More results than these in one message are no bundle: whoever publishes a region's results could else make a row of each
/// line break. More than are written, so that a later version may write more.
pub const MAX_ACCEPTED_RESULTS: usize = 512;

/// Whether a bundle holds more than may be read.
pub fn has_too_many_results(payload: &[u8]) -> bool {
    split_results(payload, true).nth(MAX_ACCEPTED_RESULTS).is_some()
}

/// The results in a message that came on `subject`, each still to be read.
pub fn result_payloads<'a>(subject: &str, payload: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    split_results(payload, matches!(ResultSubject::parse(subject), Ok(ResultSubject::Bundle(_))))
}

/// The results in a message, each still to be read: the lines of a bundle, and of any other the whole.
pub fn split_results(payload: &[u8], is_bundle: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(payload);
    std::iter::from_fn(move || {
        let lines = rest?;
        let (line, after) = match is_bundle.then(|| memchr(b'\n', lines)).flatten() {
            Some(end) => (&lines[..end], Some(&lines[end + 1..])),
            None => (lines, None),
        };
        rest = after;
        Some(line)
    })
}
