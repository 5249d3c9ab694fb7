//! Response body reader: reads the body to its end or to the size limit, then evaluates the
//! assertions once. The transfer time therefore does not depend on where a regex matches.

use picket_proto::Cause;
use reqwest::{
    Response, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::{
    body_match::{
        BodyMatcher,
        match_queue::{MatchQueue, MatchTask},
    },
    content_encoding::{ContentEncoding, Decoder},
    failure::{self, Failure},
    inbound::{Flood, MAX_BODY_CHUNKS},
    response_so_far::ResponseSoFar,
    timing::{Phase, PhaseRecorder},
    tracked_pattern::BodyExtent,
};

/// Maximum bytes read from a body without assertions: enough to detect that the body arrives at
/// all.
const MAX_UNASSERTED_BYTES: usize = 64 << 10;

/// Reader of one response body.
pub(super) struct BodyReader<'a> {
    response: Response,
    decoder: Result<Decoder, String>,
    matcher: BodyMatcher,
    match_queue: &'a MatchQueue,
    recorder: &'a PhaseRecorder,
    observed: &'a mut ResponseSoFar,
    /// Decoded body; empty without assertions.
    body: Vec<u8>,
    /// Maximum bytes read, applied to the raw body and to the decoded body separately.
    max_bytes: usize,
    /// Body chunks received.
    chunk_count: u32,
}

impl<'a> BodyReader<'a> {
    pub(super) fn new(
        response: Response,
        matcher: BodyMatcher,
        match_queue: &'a MatchQueue,
        limit: usize,
        recorder: &'a PhaseRecorder,
        observed: &'a mut ResponseSoFar,
    ) -> Self {
        Self {
            decoder: ContentEncoding::from_headers(response.headers()).map(Decoder::new),
            max_bytes: if matcher.is_unasserted() { limit.min(MAX_UNASSERTED_BYTES) } else { limit },
            response,
            matcher,
            match_queue,
            recorder,
            observed,
            body: Vec::new(),
            chunk_count: 0,
        }
    }

    /// Reads the body, then evaluates its assertions.
    ///
    /// # Errors
    /// Fails if the body violates an assertion, cannot be decoded, or is incomplete.
    pub(super) async fn read_and_evaluate(mut self) -> Result<(), Failure> {
        self.recorder.enter_phase(Phase::Transfer);
        let extent = self.read_to_limit().await?;
        self.recorder.enter_phase(Phase::BodyMatch);
        let task = MatchTask { matcher: self.matcher, body: self.body, extent };
        evaluate(task, self.match_queue, self.observed).await
    }

    async fn read_to_limit(&mut self) -> Result<BodyExtent, Failure> {
        loop {
            match self.response.chunk().await {
                Ok(Some(raw)) => {
                    if self.decode_chunk(&raw)? == BodyExtent::Truncated {
                        return Ok(BodyExtent::Truncated);
                    }
                }
                Ok(None) => break,
                // Without a length the end of the connection ends the body, with or without a TLS
                // `close_notify`.
                Err(why) if self.is_close_delimited() && failure::is_bare_close(&why) => break,
                Err(why) => return Err(failure::classify_error(&why, self.recorder, self.observed)),
            }
        }
        // An unsupported coding is no failure without assertions; `decode_chunk` rejects it
        // otherwise.
        if let Ok(decoder) = &self.decoder {
            decoder.check_complete().map_err(|why| Failure::new(Cause::Http, why.to_string()))?;
        }
        Ok(BodyExtent::Complete)
    }

    /// Returns true if only the end of the connection marks the end of the body.
    fn is_close_delimited(&self) -> bool {
        let headers = self.response.headers();
        matches!(self.response.version(), Version::HTTP_10 | Version::HTTP_11)
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(TRANSFER_ENCODING)
    }

    /// Decodes a chunk as far as the limit allows; the body is truncated if the chunk exceeds it.
    fn decode_chunk(&mut self, raw: &[u8]) -> Result<BodyExtent, Failure> {
        self.chunk_count += 1;
        if self.chunk_count > MAX_BODY_CHUNKS {
            let why = format!("{} ({})", Flood::BodyChunks, self.observed.describe_activity(self.recorder));
            return Err(Failure::new(Cause::Http, why));
        }
        // Count the raw bytes first: a compressed body may exceed either limit on its own.
        let left =
            self.max_bytes.saturating_sub(usize::try_from(self.observed.raw_bytes).unwrap_or(usize::MAX));
        let within = &raw[..raw.len().min(left)];
        self.observed.raw_bytes += within.len() as u64;
        let mut cut = within.len() < raw.len();
        let kept = !self.matcher.is_unasserted();
        let decoder = match &mut self.decoder {
            Ok(decoder) => decoder,
            // Without assertions the body is not needed in decoded form.
            Err(_) if !kept => return Ok(if cut { BodyExtent::Truncated } else { BodyExtent::Complete }),
            Err(coding) => {
                let why = format!("the body's content-encoding is {coding}, which was not asked for");
                return Err(Failure::new(Cause::Http, why));
            }
        };
        let (limit, body, count) = (self.max_bytes, &mut self.body, &mut self.observed.body_bytes);
        decoder
            .decode_bytes(within, |bytes| {
                let left = limit.saturating_sub(usize::try_from(*count).unwrap_or(usize::MAX));
                let taken = &bytes[..bytes.len().min(left)];
                *count += taken.len() as u64;
                if kept {
                    body.extend_from_slice(taken);
                }
                cut |= taken.len() < bytes.len();
                !cut
            })
            .map_err(|why| Failure::new(Cause::Http, why.to_string()))?;
        Ok(if cut { BodyExtent::Truncated } else { BodyExtent::Complete })
    }
}

/// Evaluates the assertions on a body.
///
/// # Errors
/// Fails if the body violates an assertion.
pub(super) async fn evaluate(
    task: MatchTask,
    match_queue: &MatchQueue,
    observed: &mut ResponseSoFar,
) -> Result<(), Failure> {
    let Some((verdict, matcher)) = task.evaluate_in(match_queue).await else {
        return Err(Failure::new(Cause::Overloaded, "the body match thread failed"));
    };
    observed.regex_matched = matcher.regex_matched();
    if observed.is_explained {
        observed.findings = matcher.into_findings();
    }
    verdict
}
