//! The refusal of a value in a form that a user can act on: the field, the value, and the allowed
//! values.

use std::fmt;

use crate::safe_text::to_visible;

/// Refusal of a request, a site or an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ValidationError {
    /// Name of the field, as the user types it.
    pub field: String,
    /// The given value, truncated to a readable length.
    pub value: String,
    /// Description of the allowed values.
    pub expected: String,
}

impl ValidationError {
    const MAX_VALUE_BYTES: usize = 200;

    /// A refusal of `value` in `field`; `allowed` describes the allowed values.
    pub fn new(field: impl Into<String>, value: impl fmt::Display, allowed: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: sanitize_text(&value.to_string(), Self::MAX_VALUE_BYTES),
            expected: allowed.into(),
        }
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: '{}' is not allowed; allowed: {}", self.field, self.value, self.expected)
    }
}

/// `text` with each character passed through [`to_visible`], truncated to at most `max` bytes at a
/// character boundary.
///
/// All external text that is displayed, logged or stored passes through this function: Postgres
/// rejects NUL in text, and terminals obey escape sequences.
pub fn sanitize_text(text: &str, max: usize) -> String {
    let mut short = String::with_capacity(text.len().min(max));
    for character in text.chars() {
        let character = to_visible(character);
        // Room for the ellipsis stays reserved, so the result never exceeds `max`.
        if short.len() + character.len_utf8() + '…'.len_utf8() > max {
            short.push('…');
            break;
        }
        short.push(character);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sanitized_text_has_no_control_characters_and_a_bounded_length() {
        assert_eq!(sanitize_text("a\0b\nc", 100), "a b c");
        assert_eq!(sanitize_text("txt.\u{202e}exe\u{9b}", 100), "txt.\u{fffd}exe ");
        assert_eq!(sanitize_text(&"ü".repeat(100), 20).len(), 19);
        assert!(sanitize_text(&"x".repeat(100), 20).ends_with('…'));
    }
}
