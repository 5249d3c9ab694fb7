//! Content-encodings, undone piece by piece: never more than one small buffer ahead of what is wanted.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// What we say that we can read. zstd is left out: its windows may take megabytes for each answer.
pub(super) const ACCEPTED: &str = "gzip, br, deflate";

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
}

impl Coding {
    /// What the headers say.
    ///
    /// # Errors
    /// With what they say, when it is nothing that we can undo.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, String> {
        let mut found = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for word in String::from_utf8_lossy(value.as_bytes()).split(',') {
                let coding = match word.trim().to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    "br" => Self::Brotli,
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
            Self::Brotli => "br",
        }
    }
}

/// Why a body cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Undecodable {
    #[error("the body is not what its content-encoding says: no valid {0}")]
    Invalid(&'static str),
    #[error("the body's {0} breaks off before its end")]
    Short(&'static str),
}

/// Undoes one coding.
pub(super) struct Decoder {
    coding: Coding,
    engine: Engine,
    scratch: Box<[u8]>,
    /// Whether anything has come, and whether the coding's end has.
    begun: bool,
    ended: bool,
}

enum Engine {
    None,
    Flate(Box<Decompress>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
}

/// What one step of an engine did.
struct Step {
    consumed: usize,
    produced: usize,
    ended: bool,
}

impl Decoder {
    const SCRATCH: usize = 16 << 10;
    /// The largest window that the format has, as a power of two.
    const GZIP_WINDOW: u8 = 15;

    pub(super) fn new(coding: Coding) -> Self {
        let scratch = if coding == Coding::Identity { 0 } else { Self::SCRATCH };
        Self { coding, engine: Engine::None, scratch: vec![0; scratch].into(), begun: false, ended: false }
    }

    /// Decodes `raw`, giving what comes out to `take` until that has enough and says `false`.
    ///
    /// # Errors
    /// When `raw` is not of the coding.
    pub(super) fn push(
        &mut self,
        mut raw: &[u8],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Undecodable> {
        if self.coding == Coding::Identity {
            take(raw);
            return Ok(());
        }
        let mut all_out = true;
        while !raw.is_empty() || !all_out {
            if self.ended {
                // A gzip file may go on with another. What else follows an end is ignored, as browsers do.
                if self.coding != Coding::Gzip || raw.first() != Some(&0x1f) {
                    return Ok(());
                }
                (self.begun, self.ended) = (false, false);
            }
            if !self.begun {
                self.engine = Engine::new(self.coding, raw[0]);
                self.begun = true;
            }
            let step =
                self.engine.step(raw, &mut self.scratch).ok_or(Undecodable::Invalid(self.coding.as_str()))?;
            raw = &raw[step.consumed..];
            self.ended = step.ended;
            if step.produced > 0 && !take(&self.scratch[..step.produced]) {
                return Ok(());
            }
            all_out = step.produced == 0;
            if all_out && step.consumed == 0 && !step.ended {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    /// When the coding has not. A body of no bytes at all is well.
    pub(super) fn finish(&self) -> Result<(), Undecodable> {
        match self.begun && !self.ended {
            true => Err(Undecodable::Short(self.coding.as_str())),
            false => Ok(()),
        }
    }
}

impl Engine {
    fn new(coding: Coding, first: u8) -> Self {
        match coding {
            Coding::Identity => Self::None,
            Coding::Gzip => Self::Flate(Box::new(Decompress::new_gzip(Decoder::GZIP_WINDOW))),
            // Some servers leave zlib's two bytes out; with them the first has this in its lower half.
            Coding::Deflate => Self::Flate(Box::new(Decompress::new(first & 0x0f == 8))),
            Coding::Brotli => Self::Brotli(Box::new(BrotliState::new_strict(
                StandardAlloc::default(),
                StandardAlloc::default(),
                StandardAlloc::default(),
            ))),
        }
    }

    fn step(&mut self, raw: &[u8], out: &mut [u8]) -> Option<Step> {
        match self {
            Self::None => None,
            Self::Flate(engine) => {
                let (input, output) = (engine.total_in(), engine.total_out());
                let status = engine.decompress(raw, out, FlushDecompress::None).ok()?;
                Some(Step {
                    consumed: usize::try_from(engine.total_in() - input).ok()?,
                    produced: usize::try_from(engine.total_out() - output).ok()?,
                    ended: status == Status::StreamEnd,
                })
            }
            Self::Brotli(engine) => {
                let (mut left, mut consumed) = (raw.len(), 0);
                let (mut room, mut produced, mut total) = (out.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut consumed,
                    raw,
                    &mut room,
                    &mut produced,
                    out,
                    &mut total,
                    engine,
                );
                match result {
                    BrotliResult::ResultFailure => None,
                    BrotliResult::ResultSuccess => Some(Step { consumed, produced, ended: true }),
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {
                        Some(Step { consumed, produced, ended: false })
                    }
                }
            }
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
    /// `TEXT` by Google's brotli.
    const BROTLI: &[u8] = &[
        0x1b, 0x17, 0x00, 0xf8, 0x8d, 0xd4, 0x4e, 0xf9, 0xc3, 0x50, 0xd4, 0x61, 0x65, 0x69, 0x77, 0x9a, 0x0d,
        0x84, 0x65, 0x6e, 0x00, 0x15, 0x0d, 0x1c, 0xea, 0x2d, 0x0b,
    ];

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

    /// Decodes `raw` in pieces of `size`.
    fn decode(coding: Coding, raw: &[u8], size: usize) -> Result<Vec<u8>, Undecodable> {
        let mut decoder = Decoder::new(coding);
        let mut text = Vec::new();
        for piece in raw.chunks(size) {
            decoder.push(piece, |bytes| {
                text.extend_from_slice(bytes);
                true
            })?;
        }
        decoder.finish().map(|()| text)
    }

    #[test]
    fn each_coding_is_undone_whatever_the_pieces_it_comes_in() {
        for (coding, raw) in [
            (Coding::Gzip, gzip(TEXT)),
            (Coding::Gzip, [gzip(b"all is well, "), gzip(b"all is well")].concat()),
            (Coding::Gzip, [gzip(TEXT), b"\0\0 garbage".to_vec()].concat()),
            (Coding::Deflate, zlib(TEXT)),
            (Coding::Deflate, bare(TEXT)),
            (Coding::Brotli, BROTLI.to_vec()),
        ] {
            for size in [1, 2, 7, 1_000] {
                assert_eq!(decode(coding, &raw, size).as_deref(), Ok(TEXT), "{coding:?} by {size}");
            }
        }
    }

    #[test]
    fn what_is_not_of_its_coding_or_breaks_off_is_no_body() {
        let mut wrong_sum = gzip(TEXT);
        let place = wrong_sum.len() - 8;
        wrong_sum[place] ^= 1;

        assert_eq!(decode(Coding::Gzip, &wrong_sum, 100), Err(Undecodable::Invalid("gzip")));
        for (coding, name, raw) in [
            (Coding::Gzip, "gzip", gzip(TEXT)),
            (Coding::Deflate, "deflate", zlib(TEXT)),
            (Coding::Deflate, "deflate", bare(TEXT)),
            (Coding::Brotli, "br", BROTLI.to_vec()),
        ] {
            assert_eq!(decode(coding, TEXT, 5), Err(Undecodable::Invalid(name)));
            assert_eq!(decode(coding, &raw[..raw.len() - 1], 5), Err(Undecodable::Short(name)));
            assert_eq!(decode(coding, b"", 5), Ok(Vec::new()), "nothing at all is well");
        }
    }

    #[test]
    fn a_decoder_stops_as_soon_as_its_taker_has_enough() {
        let bomb = gzip(&vec![0; 64 << 20]);
        let mut taken = 0;

        Decoder::new(Coding::Gzip)
            .push(&bomb, |bytes| {
                taken += bytes.len();
                taken < 100_000
            })
            .unwrap();

        assert!((100_000..100_000 + Decoder::SCRATCH).contains(&taken), "{taken}");
    }

    #[test]
    fn damaged_bodies_are_refused_or_read_and_never_panic() {
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        let whole =
            [(Coding::Gzip, gzip(TEXT)), (Coding::Deflate, zlib(TEXT)), (Coding::Brotli, BROTLI.to_vec())];

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
    fn the_coding_is_what_the_header_says_in_any_case_of_letters() {
        let of = |value: &'static str| {
            Coding::of(&HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(value))]))
        };

        assert_eq!(Coding::of(&HeaderMap::new()), Ok(Coding::Identity));
        assert_eq!(of("GZip"), Ok(Coding::Gzip));
        assert_eq!(of("identity, br"), Ok(Coding::Brotli));
        assert_eq!(of("zstd"), Err("zstd".to_owned()));
        assert!(of("gzip, gzip").is_err());
    }
}
