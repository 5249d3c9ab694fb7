//! Cache of validation results of patterns not yet recorded as valid. Each pattern text is compiled
//! once, however many sites use it.
//!
//! Bound: the bytes of the texts; above the limit the cache is cleared. Loss: none, results are
//! computed again.

use std::collections::HashMap;

use picket_proto::{Pattern, ValidationError};
use prometheus_client::metrics::counter::Counter;

/// Validation results by pattern text.
#[derive(Default)]
pub(super) struct PatternCache {
    /// Size of each compiled regex, or its refusal.
    results: HashMap<Box<str>, Result<usize, ValidationError>>,
    size_bytes: usize,
    /// Counts compilations.
    compiled: Counter,
}

impl PatternCache {
    /// Approximate maximum size of texts and results, in bytes.
    const MAX_BYTES: usize = 16 << 20;
    /// Approximate size of a result and its table entry.
    const ENTRY_BYTES: usize = 128;

    /// Creates an empty cache that counts compilations in `compiled`.
    pub(super) fn new(compiled: Counter) -> Self {
        Self { compiled, ..Self::default() }
    }

    /// Validates `pattern` for use in `field`, and returns its compiled size in bytes.
    ///
    /// # Errors
    /// If the pattern cannot be used.
    pub(super) fn validate_pattern(&mut self, field: &str, pattern: &str) -> Result<usize, ValidationError> {
        if let Some(verdict) = self.results.get(pattern) {
            return verdict.clone().map_err(|why| ValidationError { field: field.to_owned(), ..why });
        }
        let verdict = Pattern::compile(field, pattern).map(|regex| regex.memory_usage());
        self.compiled.inc();
        if self.size_bytes > Self::MAX_BYTES {
            *self = Self::new(self.compiled.clone());
        }
        self.size_bytes += pattern.len() + Self::ENTRY_BYTES;
        self.results.insert(pattern.into(), verdict.clone());
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_verdict_equals_the_first_and_names_the_requested_field() {
        let mut patterns = PatternCache::default();

        for _ in 0..2 {
            let size = Pattern::compile("regex", "ok").unwrap().memory_usage();
            assert_eq!(patterns.validate_pattern("regex", "ok"), Ok(size));
            let refusal = patterns.validate_pattern("regex", "a(b").unwrap_err();
            assert_eq!(Some(refusal.clone()), Pattern::compile("regex", "a(b").err());
            let elsewhere = patterns.validate_pattern("not_regex", "a(b").unwrap_err();
            assert_eq!(elsewhere, ValidationError { field: "not_regex".into(), ..refusal });
        }
        assert_eq!((patterns.results.len(), patterns.compiled.get()), (2, 2));
    }

    #[test]
    fn the_number_of_cached_patterns_is_bounded() {
        let mut patterns = PatternCache::default();
        for n in 0..6_000 {
            // Rejected by the parser, so that nothing is compiled.
            patterns.validate_pattern("regex", &format!("({n}{}", "x".repeat(3_000))).unwrap_err();
        }
        assert!(patterns.size_bytes <= PatternCache::MAX_BYTES + 4_096 && patterns.results.len() < 6_000);
    }
}
