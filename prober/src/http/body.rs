//! The body of an answer: read as it comes, up to a limit, kept only where a regex needs it.

use reqwest::Response;

/// What was read.
pub(super) struct Body {
    /// Empty unless it was to be kept.
    pub(super) kept: Vec<u8>,
    /// Whether it was read to its end, and not cut at the limit.
    pub(super) whole: bool,
}

/// Reads at most `limit` decoded bytes, counting them in `count` as they come.
///
/// # Errors
/// When the connection breaks, or when what comes cannot be decoded.
pub(super) async fn read(
    response: &mut Response,
    limit: usize,
    keep: bool,
    count: &mut u64,
) -> Result<Body, reqwest::Error> {
    let mut kept = Vec::new();
    let mut left = limit;
    while let Some(chunk) = response.chunk().await? {
        let taken = chunk.len().min(left);
        left -= taken;
        *count += taken as u64;
        if keep {
            kept.extend_from_slice(&chunk[..taken]);
        }
        if taken < chunk.len() {
            return Ok(Body { kept, whole: false });
        }
    }
    Ok(Body { kept, whole: true })
}
