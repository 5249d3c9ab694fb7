//! The body of an answer: read as it comes, no further than a limit and no longer than the verdict needs it.

use bytes::Bytes;
use futures_util::FutureExt;
use picket_proto::Cause;
use reqwest::{
    Response, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::{
    Seen,
    encoding::{Coding, Decoder},
    inbound::{Flood, MAX_PIECES},
    matching::{
        Extent, Look, Matching,
        queue::{Queue, Task},
    },
    phases::{Marks, Stage},
    verdict::{self, Failure},
};

/// What is read of a body that nothing is asserted of: enough to see whether it comes at all.
const UNASKED: usize = 64 << 10;

/// The body of an answer that is being read.
pub(super) struct Reading<'a> {
    response: Response,
    decoder: Result<Decoder, String>,
    matching: Matching,
    queue: &'a Queue,
    marks: &'a Marks,
    seen: &'a mut Seen,
    /// The decoded body, as far as it is read; empty unless something is asserted of it.
    body: Vec<u8>,
    /// The most bytes that are read, counted before decoding and, apart from that, after it.
    limit: usize,
    /// Pieces that have come.
    pieces: u32,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        response: Response,
        matching: Matching,
        queue: &'a Queue,
        limit: usize,
        marks: &'a Marks,
        seen: &'a mut Seen,
    ) -> Self {
        Self {
            decoder: Coding::of(response.headers()).map(Decoder::new),
            limit: if matching.needs_nothing() { limit.min(UNASKED) } else { limit },
            response,
            matching,
            queue,
            marks,
            seen,
            body: Vec::new(),
            pieces: 0,
        }
    }

    /// Reads until the verdict is decided.
    ///
    /// # Errors
    /// When the body is not as it should be, cannot be decoded, or breaks off.
    pub(super) async fn judge(mut self) -> Result<(), Failure> {
        loop {
            self.marks.enter(Stage::Transfer);
            let extent = match self.next().await {
                Next::Decided(verdict) => return verdict,
                Next::End => Extent::Whole,
                Next::Piece(raw) => self.take(&raw)?,
            };
            if (extent != Extent::Growing || self.matching.is_worth_a_look(self.body.len(), false))
                && let Some(verdict) = self.look(extent).await
            {
                return verdict;
            }
        }
    }

    async fn next(&mut self) -> Next {
        let ready = self.response.chunk().now_or_never();
        let next = match ready {
            Some(next) => next,
            None => {
                if self.matching.is_worth_a_look(self.body.len(), true) {
                    if let Some(verdict) = self.look(Extent::Growing).await {
                        return Next::Decided(verdict);
                    }
                    self.marks.enter(Stage::Transfer);
                }
                self.response.chunk().await
            }
        };
        match next {
            Ok(Some(raw)) => Next::Piece(raw),
            Ok(None) => self.end(),
            Err(why) if self.ends_with_the_connection() && verdict::is_bare_close(&why) => self.end(),
            Err(why) => Next::Decided(Err(verdict::of_error(&why, self.marks, self.seen))),
        }
    }

    /// Whether nothing but the connection's end says where the body ends.
    fn ends_with_the_connection(&self) -> bool {
        let headers = self.response.headers();
        matches!(self.response.version(), Version::HTTP_10 | Version::HTTP_11)
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(TRANSFER_ENCODING)
    }

    fn end(&self) -> Next {
        match &self.decoder {
            Ok(decoder) => match decoder.finish() {
                Ok(()) => Next::End,
                Err(why) => Next::Decided(Err(Failure::new(Cause::Http, why.to_string()))),
            },
            Err(_) => Next::End,
        }
    }

    /// Takes what came, decoded, as far as the limit allows.
    fn take(&mut self, raw: &[u8]) -> Result<Extent, Failure> {
        self.pieces += 1;
        if self.pieces > MAX_PIECES {
            let why = format!("{} ({})", Flood::Pieces, self.seen.doing(self.marks));
            return Err(Failure::new(Cause::Http, why));
        }
        let left = self.limit.saturating_sub(usize::try_from(self.seen.raw_bytes).unwrap_or(usize::MAX));
        let within = &raw[..raw.len().min(left)];
        self.seen.raw_bytes += within.len() as u64;
        let mut cut = within.len() < raw.len();
        let kept = !self.matching.needs_nothing();
        let decoder = match &mut self.decoder {
            Ok(decoder) => decoder,
            Err(_) if !kept => return Ok(if cut { Extent::Cut } else { Extent::Growing }),
            Err(coding) => {
                let why = format!("the body's content-encoding is {coding}, which was not asked for");
                return Err(Failure::new(Cause::Http, why));
            }
        };
        let (limit, body, count) = (self.limit, &mut self.body, &mut self.seen.body_bytes);
        decoder
            .push(within, |bytes| {
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
        Ok(if cut { Extent::Cut } else { Extent::Growing })
    }

    /// Looks at the body so far; the verdict, if it is decided.
    async fn look(&mut self, extent: Extent) -> Option<Result<(), Failure>> {
        self.marks.enter(Stage::Judging);
        let look = match self.matching.is_short(self.body.len()) {
            true => self.matching.look(&self.body, extent),
            false => self.look_elsewhere(extent).await,
        };
        self.seen.regex_matched = self.matching.matched;
        match look {
            Look::Decided(verdict) => Some(verdict),
            Look::Undecided | Look::Interrupted => None,
        }
    }

    async fn look_elsewhere(&mut self, extent: Extent) -> Look {
        let (matching, body) = (std::mem::take(&mut self.matching), std::mem::take(&mut self.body));
        match self.queue.look(Task { matching, body, extent }).await {
            Some((look, task)) => {
                (self.matching, self.body) = (task.matching, task.body);
                look
            }
            None => {
                Look::Decided(Err(Failure::new(Cause::Overloaded, "the thread that matches bodies failed")))
            }
        }
    }
}

enum Next {
    Piece(Bytes),
    End,
    Decided(Result<(), Failure>),
}
