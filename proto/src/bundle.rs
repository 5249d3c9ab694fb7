//! Several results in one message: a result a line, since JSON holds no line break outside of white space.
//!
//! A message costs the bus and both its ends more than what is in it. Only results of scheduled and confirming checks go
//! so, on [`subject::results`](crate::subject::results).

/// The most results in one message.
pub const MOST: usize = 64;
/// The most bytes of them; the stream takes 64 KiB with all that is around.
pub const MOST_BYTES: usize = 60 << 10;

/// The results in a message, each still to be read.
pub fn results(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload.split(|byte| *byte == b'\n')
}
