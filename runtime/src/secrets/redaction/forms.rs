//! The forms in which a value may stand in a text.

use std::ops::Range;

use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use url::Host;

/// One text to search for.
pub(super) struct Form {
    pub(super) text: String,
    /// True for a part of a base64 text, whose neighbours belong to the same value.
    pub(super) is_base64: bool,
}

/// Minimum length of a line of a longer value, such as a private key, that is a value of its own.
const MIN_LINE_BYTES: usize = 12;

/// All forms of `value`, except percent-encoded ones, which [`PercentDecoded`] undoes.
pub(super) fn forms_of_value(value: &str) -> Vec<Form> {
    let mut forms = Vec::new();
    if !value.contains('\n') {
        add_forms(value, &mut forms);
        return forms;
    }
    // Certificates beside a key are public, and their lines are not redacted.
    let mut is_certificate = false;
    for line in value.lines().map(str::trim) {
        if line.starts_with("-----") {
            is_certificate = line.contains("BEGIN") && line.contains("CERTIFICATE");
        } else if !is_certificate && line.len() >= MIN_LINE_BYTES {
            add_forms(line, &mut forms);
        }
    }
    forms
}

fn add_forms(value: &str, forms: &mut Vec<Form>) {
    let mut plain = vec![value.to_owned()];
    plain.push(value.escape_debug().to_string());
    plain.push(value.escape_default().to_string());
    plain.push(value.as_bytes().escape_ascii().to_string());
    // As in JSON, where only quotation marks and backslashes of a line are escaped.
    plain.push(value.replace('\\', "\\\\").replace('"', "\\\""));
    plain.push(value.replace('\\', "\\\\").replace('"', "\\\"").replace('/', "\\/"));
    // As in a form, where a space is a plus sign.
    plain.push(value.replace(' ', "+"));
    // As in the host of a URL, where letters are lower-case and those beyond ASCII are encoded.
    plain.push(value.to_ascii_lowercase());
    if let Ok(Host::Domain(host)) = Host::parse(value) {
        plain.push(host);
    }
    forms.extend(plain.into_iter().map(|text| Form { text, is_base64: false }));
    for alignment in 0..3 {
        for engine in [&BASE64_STANDARD_NO_PAD, &BASE64_URL_SAFE_NO_PAD] {
            let text = aligned_base64(value.as_bytes(), alignment, engine);
            forms.push(Form { text, is_base64: true });
        }
    }
}

/// The base64 characters that depend on `value` alone if `before` bytes stand before it.
fn aligned_base64(value: &[u8], before: usize, engine: &impl base64::Engine) -> String {
    let padded = [vec![0; before], value.to_vec()].concat();
    let encoded = engine.encode(&padded);
    let first = (before * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    encoded.get(first..last).unwrap_or_default().to_owned()
}

/// Extends `range` to all neighbouring characters of base64, which encode the rest of the value.
pub(super) fn extend_base64(text: &str, range: Range<usize>) -> Range<usize> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte);
    let bytes = text.as_bytes();
    let before = bytes[..range.start].iter().rev().take_while(|byte| is_base64(byte)).count();
    let after = bytes[range.end..].iter().take_while(|byte| is_base64(byte)).count();
    range.start - before..range.end + after
}

/// A text with its percent-encoded bytes decoded, and the origin of each byte.
pub(super) struct PercentDecoded {
    pub(super) bytes: Vec<u8>,
    /// Start of each byte in the text, and the end of the text.
    starts: Vec<usize>,
}

impl PercentDecoded {
    pub(super) fn identity(text: &str) -> Self {
        // Without a percent sign nothing is ever decoded, so nothing is copied.
        match text.contains('%') {
            true => Self { bytes: text.as_bytes().to_vec(), starts: (0..=text.len()).collect() },
            false => Self { bytes: Vec::new(), starts: vec![0] },
        }
    }

    /// Decodes once more. Returns `None` if nothing is encoded.
    pub(super) fn decode_again(&self) -> Option<Self> {
        let hex = |index: usize| self.bytes.get(index).and_then(|byte| char::from(*byte).to_digit(16));
        let mut decoded = Self { bytes: Vec::new(), starts: Vec::new() };
        let mut index = 0;
        let mut has_decoded = false;
        while let Some(byte) = self.bytes.get(index) {
            decoded.starts.push(self.starts[index]);
            match (byte, hex(index + 1), hex(index + 2)) {
                (b'%', Some(high), Some(low)) => {
                    decoded.bytes.push(u8::try_from(high << 4 | low).unwrap_or_default());
                    has_decoded = true;
                    index += 3;
                }
                _ => {
                    decoded.bytes.push(*byte);
                    index += 1;
                }
            }
        }
        decoded.starts.push(self.starts.last().copied().unwrap_or_default());
        has_decoded.then_some(decoded)
    }

    /// The range of the text that was decoded to `range`.
    pub(super) fn source_range(&self, range: Range<usize>) -> Range<usize> {
        self.starts[range.start]..self.starts[range.end]
    }
}
