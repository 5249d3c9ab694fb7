//! Cache of compiled regexes: a site uses the same regex in each check, and compiling costs more
//! than matching.
//!
//! Bound: number of regexes, and total bytes. A returned regex shares the compiled program but has
//! search memory of its own, which is freed with the check. Cached regexes therefore do not grow.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use picket_proto::{Pattern, ValidationError};

/// Cache of the most recently used regexes in two generations: once the young generation is full,
/// it replaces the old generation.
pub(crate) struct RegexCache {
    generation_capacity: CacheCapacity,
    generations: Mutex<Generations>,
}

/// Maximum size of a generation.
#[derive(Clone, Copy)]
struct CacheCapacity {
    regexes: usize,
    bytes: usize,
}

#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    regexes: HashMap<Box<str>, CachedRegex>,
    bytes: usize,
}

/// Regex with an upper bound of its size in bytes.
struct CachedRegex {
    regex: Pattern,
    bytes: usize,
}

impl RegexCache {
    /// Memory of a regex beside its program in bytes, mainly tables for literal search. Measured: a
    /// few bytes for most regexes, 24 KiB for some case-insensitive words.
    const REGEX_OVERHEAD_BYTES: usize = 32 << 10;

    /// Creates a cache for at most `regexes` regexes of at most `bytes` bytes in total.
    pub(crate) fn new(regexes: usize, bytes: usize) -> Self {
        let half = CacheCapacity { regexes: regexes.div_ceil(2).max(1), bytes: bytes.div_ceil(2) };
        Self { generation_capacity: half, generations: Mutex::default() }
    }

    /// Returns the regex of `pattern`, compiled on a cache miss.
    ///
    /// # Errors
    /// Fails if `pattern` does not compile; the error names `field`.
    pub(crate) fn get_or_compile(&self, field: &str, pattern: &str) -> Result<Pattern, ValidationError> {
        if let Some(regex) = self.find_cached(pattern) {
            return Ok(regex);
        }
        let regex = Pattern::compile(field, pattern)?;
        let bytes = regex.memory_usage() + Self::REGEX_OVERHEAD_BYTES;
        self.insert_regex(pattern.into(), CachedRegex { regex: regex.clone(), bytes });
        Ok(regex)
    }

    fn find_cached(&self, pattern: &str) -> Option<Pattern> {
        let mut kept = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sized) = kept.young.regexes.get(pattern) {
            return Some(sized.regex.clone());
        }
        let (pattern, sized) = kept.old.regexes.remove_entry(pattern)?;
        kept.old.bytes -= sized.bytes;
        drop(kept);
        let regex = sized.regex.clone();
        self.insert_regex(pattern, sized);
        Some(regex)
    }

    fn insert_regex(&self, pattern: Box<str>, sized: CachedRegex) {
        let mut kept = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let full = kept.young.regexes.len() >= self.generation_capacity.regexes
            || kept.young.bytes + sized.bytes > self.generation_capacity.bytes;
        if full {
            kept.old = std::mem::take(&mut kept.young);
        }
        kept.young.bytes += sized.bytes;
        if let Some(before) = kept.young.regexes.insert(pattern, sized) {
            kept.young.bytes -= before.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl RegexCache {
        /// Number of cached regexes, with their bytes summed up and as accounted.
        fn kept(&self) -> (usize, usize, usize) {
            let kept = self.generations.lock().unwrap();
            let both = [&kept.young, &kept.old];
            (
                both.iter().map(|generation| generation.regexes.len()).sum(),
                both.iter().flat_map(|generation| generation.regexes.values()).map(|sized| sized.bytes).sum(),
                both.iter().map(|generation| generation.bytes).sum(),
            )
        }
    }

    #[test]
    fn no_more_are_kept_than_allowed_and_those_in_use_stay() {
        let regexes = RegexCache::new(4, 1 << 30);

        for i in 0..100 {
            regexes.get_or_compile("regex", "often").unwrap();
            regexes.get_or_compile("regex", &format!("{i}")).unwrap();
        }

        let (number, bytes, account) = regexes.kept();
        assert!(number <= 4, "{number}");
        assert_eq!(bytes, account);
        let kept = regexes.generations.lock().unwrap();
        assert!(kept.young.regexes.contains_key("often") || kept.old.regexes.contains_key("often"));
    }

    #[test]
    fn no_more_bytes_are_kept_than_allowed_however_large_each_is() {
        const MOST: usize = 8 << 20;
        let regexes = RegexCache::new(10_000, MOST);

        for i in 0..40 {
            regexes.get_or_compile("regex", &format!(r"{i}\w{{15}}")).unwrap();
            regexes.get_or_compile("regex", &format!("{i}")).unwrap();
            let (_, bytes, account) = regexes.kept();
            assert!(bytes <= MOST && bytes == account, "{bytes} {account}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_and_not_kept() {
        let regexes = RegexCache::new(4, 1 << 30);

        assert_eq!(regexes.get_or_compile("not_regex", "(").unwrap_err().field, "not_regex");
        assert_eq!(regexes.kept(), (0, 0, 0));
    }
}
