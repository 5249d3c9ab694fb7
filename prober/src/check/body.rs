//! Response body reader: streams the body up to the size limit, and no further than the verdict
//! requires.

use bytes::Bytes;
use futures_util::FutureExt;
use picket_proto::Cause;
use reqwest::{
    Response, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::{
    body_match::{
        BodyExtent, BodyMatcher, Evaluation,
        match_queue::{MatchQueue, MatchTask},
    },
    content_encoding::{ContentEncoding, Decoder},
    failure::{self, Failure},
    inbound::{Flood, MAX_BODY_CHUNKS},
    response_so_far::ResponseSoFar,
    timing::{Phase, PhaseRecorder},
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
    /// Decoded body read so far; empty without assertions.
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

    /// Reads until the verdict is decided.
    ///
    /// # Errors
    /// Fails if the body violates an assertion, cannot be decoded, or is incomplete.
    pub(super) async fn read_until_decided(mut self) -> Result<(), Failure> {
        loop {
            self.recorder.enter_phase(Phase::Transfer);
            let extent = match self.next_event().await {
                BodyEvent::Decided(verdict) => return verdict,
                BodyEvent::End => BodyExtent::Complete,
                BodyEvent::Chunk(raw) => self.decode_chunk(&raw)?,
            };
            // A partial body is evaluated only now and then, since each evaluation rescans it.
            if (extent != BodyExtent::Partial || self.matcher.should_evaluate(self.body.len(), false))
                && let Some(verdict) = self.evaluate(extent).await
            {
                return verdict;
            }
        }
    }

    async fn next_event(&mut self) -> BodyEvent {
        // An idle connection is the cheapest moment for an early verdict: evaluate before waiting.
        let ready = self.response.chunk().now_or_never();
        let next = match ready {
            Some(next) => next,
            None => {
                if self.matcher.should_evaluate(self.body.len(), true) {
                    if let Some(verdict) = self.evaluate(BodyExtent::Partial).await {
                        return BodyEvent::Decided(verdict);
                    }
                    self.recorder.enter_phase(Phase::Transfer);
                }
                self.response.chunk().await
            }
        };
        match next {
            Ok(Some(raw)) => BodyEvent::Chunk(raw),
            Ok(None) => self.finish_decoding(),
            // Without a length the end of the connection ends the body, with or without a TLS
            // `close_notify`.
            Err(why) if self.is_close_delimited() && failure::is_bare_close(&why) => self.finish_decoding(),
            Err(why) => BodyEvent::Decided(Err(failure::classify_error(&why, self.recorder, self.observed))),
        }
    }

    /// Returns true if only the end of the connection marks the end of the body.
    fn is_close_delimited(&self) -> bool {
        let headers = self.response.headers();
        matches!(self.response.version(), Version::HTTP_10 | Version::HTTP_11)
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(TRANSFER_ENCODING)
    }

    fn finish_decoding(&self) -> BodyEvent {
        match &self.decoder {
            Ok(decoder) => match decoder.check_complete() {
                Ok(()) => BodyEvent::End,
                Err(why) => BodyEvent::Decided(Err(Failure::new(Cause::Http, why.to_string()))),
            },
            // An unsupported coding is no failure without assertions; `decode_chunk` rejects it
            // otherwise.
            Err(_) => BodyEvent::End,
        }
    }

    /// Decodes a chunk as far as the limit allows.
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
            Err(_) if !kept => return Ok(if cut { BodyExtent::Truncated } else { BodyExtent::Partial }),
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
        Ok(if cut { BodyExtent::Truncated } else { BodyExtent::Partial })
    }

    /// Evaluates the body read so far. Returns the verdict if it is decided.
    async fn evaluate(&mut self, extent: BodyExtent) -> Option<Result<(), Failure>> {
        self.recorder.enter_phase(Phase::BodyMatch);
        let look = match self.matcher.is_cheap(self.body.len()) {
            true => self.matcher.evaluate(&self.body, extent),
            false => self.evaluate_blocking(extent).await,
        };
        self.observed.regex_matched = self.matcher.regex_matched;
        match look {
            Evaluation::Decided(verdict) => Some(verdict),
            Evaluation::Undecided | Evaluation::Interrupted => None,
        }
    }

    async fn evaluate_blocking(&mut self, extent: BodyExtent) -> Evaluation {
        // The task owns matcher and body while a match thread works; both come back with the
        // result.
        let (matching, body) = (std::mem::take(&mut self.matcher), std::mem::take(&mut self.body));
        match self.match_queue.evaluate_task(MatchTask { matcher: matching, body, extent }).await {
            Some((look, task)) => {
                (self.matcher, self.body) = (task.matcher, task.body);
                look
            }
            None => Evaluation::Decided(Err(Failure::new(Cause::Overloaded, "the body match thread failed"))),
        }
    }
}

enum BodyEvent {
    Chunk(Bytes),
    End,
    Decided(Result<(), Failure>),
}
