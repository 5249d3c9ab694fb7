//! A refusal that a person can act on: the field, the value, what is allowed.

use std::fmt;

use crate::safe_text::to_visible;

/// Why a request, a site or an option was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ValidationError {
    /// The name of the field, as the user types it.
    pub field: String,
    /// What was given, cut to a readable length.
    pub value: String,
    /// What would have been taken.
    pub expected: String,
}

impl ValidationError {
    const MAX_VALUE_BYTES: usize = 200;

    /// A refusal of `value` in `field`; `allowed` says what would have been taken.
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

/// `text` with each character [`visible`], cut to at most `max` bytes at a character's border.
///
/// What comes from outside and is shown, logged or stored goes through here: Postgres refuses NUL in text,
/// and terminals obey escape sequences.
pub fn sanitize_text(text: &str, max: usize) -> String {
    let mut short = String::with_capacity(text.len().min(max));
    for letter in text.chars() {
        let letter = to_visible(letter);
        if short.len() + letter.len_utf8() + '…'.len_utf8() > max {
            short.push('…');
            break;
        }
        short.push(letter);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_text_has_no_control_characters_and_keeps_its_bound() {
        assert_eq!(sanitize_text("a\0b\nc", 100), "a b c");
        assert_eq!(sanitize_text("txt.\u{202e}exe\u{9b}", 100), "txt.\u{fffd}exe ");
        assert_eq!(sanitize_text(&"ü".repeat(100), 20).len(), 19);
        assert!(sanitize_text(&"x".repeat(100), 20).ends_with('…'));
    }
}
