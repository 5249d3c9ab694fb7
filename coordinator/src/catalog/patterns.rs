//! Verdicts on regexes: each text is compiled once, however many sites have it and however often their shards are acquired.
//!
//! Bound: the texts' bytes; when there are too many, all are forgotten. Loss: none, a verdict is computed again.

use std::collections::HashMap;

use picket_proto::{Invalid, Pattern};

/// What is known of regexes, by their text.
#[derive(Default)]
pub(super) struct Patterns {
    verdicts: HashMap<Box<str>, Result<(), Invalid>>,
    bytes: usize,
}

impl Patterns {
    /// The most that texts and verdicts may take, in bytes, roughly.
    const MAX_BYTES: usize = 16 << 20;
    /// A verdict and its place in the table.
    const ENTRY_BYTES: usize = 128;

    /// Whether `pattern` can be used in `field`.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) fn judge(&mut self, field: &str, pattern: &str) -> Result<(), Invalid> {
        if let Some(verdict) = self.verdicts.get(pattern) {
            return verdict.clone().map_err(|why| Invalid { field: field.to_owned(), ..why });
        }
        let verdict = Pattern::compile(field, pattern).map(drop);
        if self.bytes > Self::MAX_BYTES {
            *self = Self::default();
        }
        self.bytes += pattern.len() + Self::ENTRY_BYTES;
        self.verdicts.insert(pattern.into(), verdict.clone());
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_the_same_the_second_time_and_names_the_field_that_was_asked_for() {
        let mut patterns = Patterns::default();

        for _ in 0..2 {
            assert_eq!(patterns.judge("regex", "ok"), Ok(()));
            let refusal = patterns.judge("regex", "a(b").unwrap_err();
            assert_eq!(Some(refusal.clone()), Pattern::compile("regex", "a(b").err());
            let elsewhere = patterns.judge("not_regex", "a(b").unwrap_err();
            assert_eq!(elsewhere, Invalid { field: "not_regex".into(), ..refusal });
        }
        assert_eq!(patterns.verdicts.len(), 2);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut patterns = Patterns::default();
        for n in 0..6_000 {
            // Refused while it is read, so that nothing is compiled.
            patterns.judge("regex", &format!("({n}{}", "x".repeat(3_000))).unwrap_err();
        }
        assert!(patterns.bytes <= Patterns::MAX_BYTES + 4_096 && patterns.verdicts.len() < 6_000);
    }
}
