//! Cache of compiled regexes: a site uses the same regex in each check, and compiling costs more
//! than matching.
//!
//! Bound: total bytes. A returned regex shares the compiled program but has search memory of its
//! own, which is freed with the check. Cached regexes therefore do not grow.

use picket_proto::{Pattern, ValidationError};
use quick_cache::{Weighter, sync::Cache};

/// Cache of the regexes in use. A regex that was used several times outlives new ones.
pub(crate) struct RegexCache(Cache<String, Pattern, RegexWeighter>);

/// Weighs a regex by an upper bound of its size in bytes.
#[derive(Clone)]
struct RegexWeighter;

impl RegexWeighter {
    /// Memory of a regex beside its program in bytes, mainly tables for literal search. Measured: a
    /// few bytes for most regexes, 24 KiB for some case-insensitive words.
    const REGEX_OVERHEAD_BYTES: usize = 32 << 10;
}

impl Weighter<String, Pattern> for RegexWeighter {
    fn weight(&self, pattern: &String, regex: &Pattern) -> u64 {
        (pattern.len() + regex.memory_usage() + Self::REGEX_OVERHEAD_BYTES) as u64
    }
}

impl RegexCache {
    /// Fewest regexes that the cache is made for. The library splits a cache into shards of at
    /// least 32 entries, each with its part of the capacity, and the largest regexes must fit.
    const ESTIMATED_REGEXES: usize = 32;

    /// Creates a cache for regexes of at most `bytes` bytes in total.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Cache::with_weighter(Self::ESTIMATED_REGEXES, bytes as u64, RegexWeighter))
    }

    /// Returns the regex of `pattern`, compiled on a cache miss.
    ///
    /// # Errors
    /// Fails if `pattern` does not compile; the error names `field`.
    pub(crate) fn get_or_compile(&self, field: &str, pattern: &str) -> Result<Pattern, ValidationError> {
        self.0.get_or_insert_with(pattern, || Pattern::compile(field, pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGEX_BYTES: usize = RegexWeighter::REGEX_OVERHEAD_BYTES + (16 << 10);

    #[test]
    fn the_cache_holds_no_more_patterns_than_allowed_and_keeps_used_ones() {
        let regexes = RegexCache::new(4 * REGEX_BYTES);

        for i in 0..100 {
            regexes.get_or_compile("regex", "often").unwrap();
            regexes.get_or_compile("regex", &format!("{i}")).unwrap();
        }

        assert!(regexes.0.len() >= 2 && regexes.0.weight() <= regexes.0.capacity(), "{}", regexes.0.weight());
        assert!(regexes.0.contains_key("often"));
    }

    #[test]
    fn the_cache_holds_no_more_bytes_than_allowed() {
        const MOST: usize = 8 << 20;
        let regexes = RegexCache::new(MOST);

        for i in 0..40 {
            regexes.get_or_compile("regex", &format!(r"{i}\w{{15}}")).unwrap();
            regexes.get_or_compile("regex", &format!("{i}")).unwrap();
            let bytes: u64 =
                regexes.0.iter().map(|(pattern, regex)| RegexWeighter.weight(&pattern, &regex)).sum();
            assert!(bytes <= MOST as u64 && bytes == regexes.0.weight(), "{bytes} {}", regexes.0.weight());
        }
    }

    #[test]
    fn an_invalid_pattern_is_refused_and_not_cached() {
        let regexes = RegexCache::new(4 * REGEX_BYTES);

        assert_eq!(regexes.get_or_compile("not_regex", "(").unwrap_err().field, "not_regex");
        assert_eq!((regexes.0.len(), regexes.0.weight()), (0, 0));
    }
}
