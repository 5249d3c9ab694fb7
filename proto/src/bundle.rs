//! Several results in one message, one result per line. JSON has no line feed outside of white
//! space.
//!
//! A message costs the bus and both clients more than its content. Only results of scheduled and
//! confirming checks are bundled, on [`subject::result_bundle`](crate::subject::result_bundle).

use memchr::memchr;

use crate::subject::ResultSubject;

/// Maximum results in a message that is written.
pub const MAX_RESULTS: usize = 64;
/// Maximum bytes of the results in a message that is written. The stream accepts messages of 64
/// KiB, headers included.
pub const MAX_BYTES: usize = 60 << 10;

/// Maximum results in a message that is accepted. Without a limit, a prober could create one row
/// per line feed. The limit is above [`MAX_RESULTS`], so that a later version may write larger
/// bundles.
pub const MAX_ACCEPTED_RESULTS: usize = 512;

/// Returns true if a bundle has more than [`MAX_ACCEPTED_RESULTS`] results.
pub fn has_too_many_results(payload: &[u8]) -> bool {
    split_results(payload, true).nth(MAX_ACCEPTED_RESULTS).is_some()
}

/// The encoded results of a message received on `subject`.
pub fn result_payloads<'a>(subject: &str, payload: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    split_results(payload, matches!(ResultSubject::parse(subject), Ok(ResultSubject::Bundle(_))))
}

/// The encoded results of a message: each line of a bundle, or the whole payload of any other
/// message.
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
