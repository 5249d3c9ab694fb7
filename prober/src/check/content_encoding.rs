//! Streaming content decoders: decode at most one small buffer ahead of the consumer.

use flate2::{Decompress, FlushDecompress, Status};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// Content encodings offered to servers. Brotli and zstd are excluded: a response of a few bytes
/// can make their decoders allocate a window of 16 MiB (measured with brotli), and a thousand
/// checks run at once. The decoders of gzip and deflate take 32 KiB.
pub(super) const ACCEPTED_ENCODINGS: &str = "gzip, deflate";

/// Content encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentEncoding {
    Identity,
    Gzip,
    Deflate,
}

impl ContentEncoding {
    /// Parses the `Content-Encoding` headers.
    ///
    /// # Errors
    /// Returns the encoding if it is unsupported, or if several encodings are stacked.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Self, String> {
        let mut found = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for word in String::from_utf8_lossy(value.as_bytes()).split(',') {
                let coding = match word.trim().to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    other => return Err(other.to_owned()),
                };
                if found != Self::Identity {
                    return Err("several, one upon the other".to_owned());
                }
                found = coding;
            }
        }
        Ok(found)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// Creates a decompressor for a stream that begins with `first`.
    fn new_decompressor(self, first: u8) -> Decompress {
        /// Largest window of the format, as a power of two.
        const GZIP_WINDOW: u8 = 15;
        match self {
            Self::Gzip => Decompress::new_gzip(GZIP_WINDOW),
            // Some servers omit the two-byte zlib header. Its first byte has 8 in its lower half.
            Self::Deflate | Self::Identity => Decompress::new(first & 0x0f == 8),
        }
    }
}

/// Reasons why a body cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("the body is not what its content-encoding says: no valid {0}")]
    Invalid(&'static str),
    #[error("the body's {0} breaks off before its end")]
    Truncated(&'static str),
    #[error("the body's gzip has more than {} members", Decoder::MAX_MEMBERS)]
    TooManyMembers,
}

/// Decoder of one encoding.
pub(super) struct Decoder {
    encoding: ContentEncoding,
    /// Created when the first data arrives.
    decompressor: Option<Box<Decompress>>,
    scratch: Box<[u8]>,
    /// True once the end of the encoded stream was read.
    is_ended: bool,
    /// Gzip members begun so far.
    member_count: u32,
}

impl Decoder {
    const SCRATCH_BYTES: usize = 16 << 10;
    /// Maximum members of a gzip file. Each member needs a decoder of its own, and a member of 20
    /// bytes can be empty.
    const MAX_MEMBERS: u32 = 1_024;

    pub(super) fn new(encoding: ContentEncoding) -> Self {
        let scratch = if encoding == ContentEncoding::Identity { 0 } else { Self::SCRATCH_BYTES };
        Self {
            encoding,
            decompressor: None,
            scratch: vec![0; scratch].into(),
            is_ended: false,
            member_count: 1,
        }
    }

    /// Decodes `raw` and passes the output to `take` until `take` returns `false`.
    ///
    /// # Errors
    /// Fails if `raw` is not valid in this encoding.
    pub(super) fn decode_bytes(
        &mut self,
        mut raw: &[u8],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), DecodeError> {
        if self.encoding == ContentEncoding::Identity {
            take(raw);
            return Ok(());
        }
        let mut all_out = true;
        while !raw.is_empty() || !all_out {
            if self.is_ended {
                // A gzip file may contain another member. Other trailing data is ignored, as in
                // browsers.
                if self.encoding != ContentEncoding::Gzip || raw.first() != Some(&0x1f) {
                    return Ok(());
                }
                (self.decompressor, self.is_ended) = (None, false);
                self.member_count += 1;
                if self.member_count > Self::MAX_MEMBERS {
                    return Err(DecodeError::TooManyMembers);
                }
            }
            let engine = match &mut self.decompressor {
                Some(engine) => engine,
                none => none.insert(Box::new(
                    self.encoding.new_decompressor(raw.first().copied().unwrap_or_default()),
                )),
            };
            let (input, output) = (engine.total_in(), engine.total_out());
            let status = engine
                .decompress(raw, &mut self.scratch, FlushDecompress::None)
                .map_err(|_| DecodeError::Invalid(self.encoding.as_str()))?;
            let consumed = usize::try_from(engine.total_in() - input).unwrap_or(raw.len());
            let produced = usize::try_from(engine.total_out() - output).unwrap_or(self.scratch.len());
            raw = &raw[consumed..];
            self.is_ended = status == Status::StreamEnd;
            if produced > 0 && !take(&self.scratch[..produced]) {
                return Ok(());
            }
            // A filled buffer may leave more output inside the decompressor: loop even without
            // input.
            all_out = produced == 0;
            if all_out && consumed == 0 && !self.is_ended {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Verifies at the end of the body that the encoded stream has ended too.
    ///
    /// # Errors
    /// Fails if the encoded stream is incomplete. An empty body is valid.
    pub(super) fn check_complete(&self) -> Result<(), DecodeError> {
        match self.decompressor.is_some() && !self.is_ended {
            true => Err(DecodeError::Truncated(self.encoding.as_str())),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use reqwest::header::HeaderValue;

    use super::*;

    const TEXT: &[u8] = b"all is well, all is well";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn bare(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Decodes `raw` in chunks of `size` bytes.
    fn decode(coding: ContentEncoding, raw: &[u8], size: usize) -> Result<Vec<u8>, DecodeError> {
        let mut decoder = Decoder::new(coding);
        let mut text = Vec::new();
        for piece in raw.chunks(size) {
            decoder.decode_bytes(piece, |bytes| {
                text.extend_from_slice(bytes);
                true
            })?;
        }
        decoder.check_complete().map(|()| text)
    }

    #[test]
    fn each_encoding_is_decoded_however_it_is_split_into_chunks() {
        for (coding, raw) in [
            (ContentEncoding::Gzip, gzip(TEXT)),
            (ContentEncoding::Gzip, [gzip(b"all is well, "), gzip(b"all is well")].concat()),
            (ContentEncoding::Gzip, [gzip(TEXT), b"\0\0 garbage".to_vec()].concat()),
            (ContentEncoding::Deflate, zlib(TEXT)),
            (ContentEncoding::Deflate, bare(TEXT)),
        ] {
            for size in [1, 2, 7, 1_000] {
                assert_eq!(decode(coding, &raw, size).as_deref(), Ok(TEXT), "{coding:?} by {size}");
            }
        }
    }

    #[test]
    fn an_invalid_or_truncated_encoding_is_an_error() {
        let mut wrong_sum = gzip(TEXT);
        let place = wrong_sum.len() - 8;
        wrong_sum[place] ^= 1;

        assert_eq!(decode(ContentEncoding::Gzip, &wrong_sum, 100), Err(DecodeError::Invalid("gzip")));
        for (coding, name, raw) in [
            (ContentEncoding::Gzip, "gzip", gzip(TEXT)),
            (ContentEncoding::Deflate, "deflate", zlib(TEXT)),
            (ContentEncoding::Deflate, "deflate", bare(TEXT)),
        ] {
            assert_eq!(decode(coding, TEXT, 5), Err(DecodeError::Invalid(name)));
            assert_eq!(decode(coding, &raw[..raw.len() - 1], 5), Err(DecodeError::Truncated(name)));
            assert_eq!(decode(coding, b"", 5), Ok(Vec::new()), "nothing at all is well");
        }
    }

    #[test]
    fn a_decoder_stops_as_soon_as_its_reader_has_enough() {
        let bomb = gzip(&vec![0; 64 << 20]);
        let mut taken = 0;

        Decoder::new(ContentEncoding::Gzip)
            .decode_bytes(&bomb, |bytes| {
                taken += bytes.len();
                taken < 100_000
            })
            .unwrap();

        assert!((100_000..100_000 + Decoder::SCRATCH_BYTES).contains(&taken), "{taken}");
    }

    #[test]
    fn a_gzip_body_with_too_many_members_is_refused() {
        let members = |number: usize| gzip(b"x").repeat(number);
        let most = usize::try_from(Decoder::MAX_MEMBERS).unwrap();

        assert_eq!(decode(ContentEncoding::Gzip, &members(most), 1_000).map(|text| text.len()), Ok(most));
        assert_eq!(
            decode(ContentEncoding::Gzip, &members(most + 1), 1_000),
            Err(DecodeError::TooManyMembers)
        );
    }

    #[test]
    fn damaged_bodies_are_decoded_or_refused_and_never_panic() {
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        let whole = [
            (ContentEncoding::Gzip, gzip(TEXT)),
            (ContentEncoding::Deflate, zlib(TEXT)),
            (ContentEncoding::Deflate, bare(TEXT)),
        ];

        for _ in 0..5_000 {
            let (coding, raw) = &whole[random(whole.len())];
            let mut raw = raw.clone();
            for _ in 0..=random(3) {
                let place = random(raw.len());
                raw[place] = u8::try_from(random(256)).unwrap();
            }
            raw.truncate(1 + random(raw.len()));
            let _ = decode(*coding, &raw, 1 + random(20));
        }
    }

    #[test]
    fn content_encoding_is_case_insensitive() {
        let of = |value: &'static str| {
            ContentEncoding::from_headers(&HeaderMap::from_iter([(
                CONTENT_ENCODING,
                HeaderValue::from_static(value),
            )]))
        };

        assert_eq!(ContentEncoding::from_headers(&HeaderMap::new()), Ok(ContentEncoding::Identity));
        assert_eq!(of("GZip"), Ok(ContentEncoding::Gzip));
        assert_eq!(of("identity, deflate"), Ok(ContentEncoding::Deflate));
        assert_eq!(of("br"), Err("br".to_owned()));
        assert_eq!(of("zstd"), Err("zstd".to_owned()));
        assert!(of("gzip, gzip").is_err());
    }
}
