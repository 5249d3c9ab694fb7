//! Limits on data that a server sends on one connection besides its response: bytes before the
//! head, HTTP/2 frames without data, TLS records.
//!
//! The HTTP and TLS libraries process such data without limit, at the cost of a whole CPU. Bytes
//! are counted after TLS decryption, or on read without TLS. Beyond a limit the read fails.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

/// Limit that a server exceeded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flood {
    #[error("the server sent more than {} KiB and no final answer among them", MAX_BYTES_BEFORE_HEAD >> 10)]
    BeforeHead,
    #[error(
        "the server sent more than {MAX_CONTROL_FRAMES} HTTP/2 frames beside the body, the last one of type {0}"
    )]
    ControlFrames(FrameKind),
    #[error(
        "the server sent more than {kib} KiB in HTTP/2 frames beside the body, the last one of type {0}",
        kib = MAX_CONTROL_BYTES >> 10
    )]
    ControlBytes(FrameKind),
    #[error("the server sent the body in more than {MAX_BODY_CHUNKS} pieces")]
    BodyChunks,
    #[error("the server sent more than {MAX_CONTROL_RECORDS} TLS records without data")]
    ControlRecords,
}

/// Maximum HTTP/1 bytes before the final head is delivered: a head of 400 KiB, the maximum of
/// hyper, and body bytes read ahead.
const MAX_BYTES_BEFORE_HEAD: u64 = 1 << 20;
/// Maximum HTTP/2 frames without data per connection. Servers send about ten, and some servers one
/// more per data frame.
const MAX_CONTROL_FRAMES: u32 = 4_096;
/// Maximum bytes in frames without data. A head of the largest accepted size takes less in any
/// encoding.
const MAX_CONTROL_BYTES: u64 = 1 << 20;
/// Maximum body chunks: HTTP/2 data frames, HTTP/1 chunks, TLS records. A server that flushes each
/// byte stays within the limit.
pub(super) const MAX_BODY_CHUNKS: u32 = 1 << 16;
/// Maximum TLS records without data per connection: handshake, tickets, key updates.
const MAX_CONTROL_RECORDS: u32 = 1_024;

/// HTTP/2 frame type, as its number in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameKind(u8);

impl FrameKind {
    const DATA: Self = Self(0);
}

impl std::fmt::Display for FrameKind {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 10] = [
            "DATA",
            "HEADERS",
            "PRIORITY",
            "RST_STREAM",
            "SETTINGS",
            "PUSH_PROMISE",
            "PING",
            "GOAWAY",
            "WINDOW_UPDATE",
            "CONTINUATION",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => to.write_str(name),
            None => write!(to, "0x{:02x}", self.0),
        }
    }
}

/// Inbound counts of one connection. Shared by the check and the reader of the connection.
#[derive(Default)]
pub(super) struct InboundMeter {
    is_answered: AtomicBool,
    flood: OnceLock<Flood>,
    counts: Mutex<InboundCounts>,
}

impl InboundMeter {
    /// Marks the final head as delivered to the check.
    pub(super) fn set_answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    /// Returns the exceeded limit, if any.
    pub(super) fn flood(&self) -> Option<&Flood> {
        self.flood.get()
    }

    /// Returns true if the server sent something that is not HTTP/2.
    pub(super) fn has_other_than_http2(&self) -> bool {
        matches!(self.counts.lock().protocol, Some(Protocol::Http1))
    }

    /// Counts decrypted HTTP bytes.
    ///
    /// # Errors
    /// Fails once a limit is exceeded, and on every later call.
    pub(super) fn count_bytes(&self, bytes: &[u8]) -> Result<(), Flood> {
        let is_answered = self.is_answered.load(Ordering::Relaxed);
        self.check_counts(|meter| meter.count_bytes(bytes, is_answered))
    }

    /// Counts a TLS record and its HTTP bytes.
    ///
    /// # Errors
    /// As for [`count_bytes`](Self::count_bytes).
    pub(super) fn count_record(&self, data: Option<&[u8]>) -> Result<(), Flood> {
        self.check_counts(|meter| meter.count_record(data.is_some_and(|bytes| !bytes.is_empty())))?;
        data.map_or(Ok(()), |bytes| self.count_bytes(bytes))
    }

    fn check_counts(&self, count: impl FnOnce(&mut InboundCounts) -> Result<(), Flood>) -> Result<(), Flood> {
        if let Some(flood) = self.flood.get() {
            return Err(flood.clone());
        }
        count(&mut self.counts.lock()).inspect_err(|flood| {
            let _ = self.flood.set(flood.clone());
        })
    }
}

/// Counters behind an [`InboundMeter`].
#[derive(Default)]
struct InboundCounts {
    protocol: Option<Protocol>,
    bytes_before_head: u64,
    control_frames: u32,
    control_bytes: u64,
    data_frames: u32,
    data_records: u32,
    control_records: u32,
}

enum Protocol {
    Http1,
    Http2(FrameParser),
}

/// Position in the sequence of HTTP/2 frames.
#[derive(Default)]
struct FrameParser {
    header: [u8; FrameParser::HEADER_BYTES],
    /// Header bytes received.
    header_len: usize,
    /// Payload bytes outstanding.
    payload_left: usize,
}

impl FrameParser {
    const HEADER_BYTES: usize = 9;

    /// Consumes `bytes` up to the end of a frame header or payload. Returns kind and length of a
    /// frame once its header is complete.
    fn next_frame(&mut self, bytes: &mut &[u8]) -> Option<(FrameKind, u32)> {
        let skipped = self.payload_left.min(bytes.len());
        self.payload_left -= skipped;
        *bytes = &bytes[skipped..];
        let taken = (Self::HEADER_BYTES - self.header_len).min(bytes.len());
        self.header[self.header_len..self.header_len + taken].copy_from_slice(&bytes[..taken]);
        self.header_len += taken;
        *bytes = &bytes[taken..];
        if self.header_len < Self::HEADER_BYTES {
            return None;
        }
        self.header_len = 0;
        let length = u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]);
        self.payload_left = usize::try_from(length).unwrap_or(usize::MAX);
        Some((FrameKind(self.header[3]), length))
    }
}

impl InboundCounts {
    fn count_bytes(&mut self, bytes: &[u8], is_answered: bool) -> Result<(), Flood> {
        let Some(first) = bytes.first() else { return Ok(()) };
        // HTTP/2 begins with a SETTINGS frame below 64 KiB, so its first byte is 0. No HTTP/1
        // response begins with this byte.
        let protocol = self.protocol.get_or_insert_with(|| match first {
            0 => Protocol::Http2(FrameParser::default()),
            _ => Protocol::Http1,
        });
        match protocol {
            Protocol::Http1 if is_answered => Ok(()),
            Protocol::Http1 => {
                self.bytes_before_head += bytes.len() as u64;
                if self.bytes_before_head > MAX_BYTES_BEFORE_HEAD { Err(Flood::BeforeHead) } else { Ok(()) }
            }
            Protocol::Http2(framing) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let Some((kind, length)) = framing.next_frame(&mut rest) else { continue };
                    // Data frames are limited by number only; the body limit bounds their bytes.
                    if kind == FrameKind::DATA {
                        self.data_frames += 1;
                        if self.data_frames > MAX_BODY_CHUNKS {
                            return Err(Flood::BodyChunks);
                        }
                        continue;
                    }
                    self.control_frames += 1;
                    self.control_bytes += u64::from(length) + FrameParser::HEADER_BYTES as u64;
                    if self.control_frames > MAX_CONTROL_FRAMES {
                        return Err(Flood::ControlFrames(kind));
                    }
                    if self.control_bytes > MAX_CONTROL_BYTES {
                        return Err(Flood::ControlBytes(kind));
                    }
                }
                Ok(())
            }
        }
    }

    fn count_record(&mut self, has_data: bool) -> Result<(), Flood> {
        let (count, most, flood) = match has_data {
            true => (&mut self.data_records, MAX_BODY_CHUNKS, Flood::BodyChunks),
            false => (&mut self.control_records, MAX_CONTROL_RECORDS, Flood::ControlRecords),
        };
        *count += 1;
        if *count > most { Err(flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let length_bytes = u32::try_from(length).unwrap().to_be_bytes();
        [&length_bytes[1..], &[kind, 0, 0, 0, 0, 1], &vec![0xff; length]].concat()
    }

    /// Feeds `bytes` in chunks of `size` until a limit is exceeded or `most` bytes are consumed.
    fn flood(inbound: &InboundMeter, bytes: &[u8], size: usize, most: usize) -> Option<Flood> {
        let mut taken = 0;
        while taken < most {
            for piece in bytes.chunks(size) {
                if let Err(flood) = inbound.count_bytes(piece) {
                    assert_eq!(inbound.flood(), Some(&flood));
                    return Some(flood);
                }
                taken += piece.len();
            }
        }
        None
    }

    #[test]
    fn frames_without_data_are_counted_however_they_are_split_into_chunks() {
        for (kind, name) in [(1, "HEADERS"), (2, "PRIORITY"), (8, "WINDOW_UPDATE"), (0x5a, "0x5a")] {
            for size in [1, 7, 1_000] {
                let inbound = InboundMeter::default();
                let seen = flood(&inbound, &frame(kind, 4), size, 1 << 20).unwrap();
                assert_eq!(seen, Flood::ControlFrames(FrameKind(kind)));
                assert!(seen.to_string().ends_with(&format!("of type {name}")), "{seen}");
            }
        }
        let large = flood(&InboundMeter::default(), &frame(0x5a, 16 << 10), 4_000, 8 << 20);
        assert_eq!(large, Some(Flood::ControlBytes(FrameKind(0x5a))));
    }

    #[test]
    fn an_ordinary_http_2_response_is_within_all_limits() {
        let inbound = InboundMeter::default();
        let mut answer = [frame(4, 18), frame(4, 0), frame(8, 4), frame(1, 16 << 10)].concat();
        for _ in 0..64 {
            answer.extend([frame(0, 16 << 10), frame(6, 8)].concat());
        }

        assert_eq!(flood(&inbound, &answer, 1_400, 1), None);
        assert_eq!(flood(&InboundMeter::default(), &frame(0, 1), 100, 10 * (MAX_BODY_CHUNKS as usize)), None);
        assert_eq!(flood(&InboundMeter::default(), &frame(0, 1), 100, 1 << 20), Some(Flood::BodyChunks));
    }

    #[test]
    fn http_1_bytes_are_limited_until_the_head_is_complete() {
        let hint = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        assert_eq!(flood(&InboundMeter::default(), hint, 10, 2 << 20), Some(Flood::BeforeHead));

        let inbound = InboundMeter::default();
        assert_eq!(flood(&inbound, hint, 10, 400 << 10), None);
        inbound.set_answered();
        assert_eq!(flood(&inbound, &[b'x'; 1_000], 1_000, 10 << 20), None);
    }

    #[test]
    fn tls_records_without_data_are_counted_separately() {
        let inbound = InboundMeter::default();
        let mut records = 0;
        while inbound.count_record(None).is_ok() {
            records += 1;
            inbound.count_record(Some(b"x")).unwrap();
        }
        assert_eq!((records, inbound.flood()), (MAX_CONTROL_RECORDS, Some(&Flood::ControlRecords)));
        assert_eq!(inbound.count_record(Some(b"x")), Err(Flood::ControlRecords));
    }
}
