//! Compiled regexes, kept: a site's is the same at each of its checks, and compiling costs more than matching.
//!
//! Bound: a number of regexes, and a number of bytes. What is handed out is a copy that shares the program and has
//! memory of its own to search with, which goes with the check; so what is kept does not grow.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use picket_proto::{Pattern, ValidationError};

/// The most recently used regexes, in two generations: when the young one is full, the old one is forgotten.
pub(crate) struct RegexCache {
    generation_capacity: CacheCapacity,
    generations: Mutex<Generations>,
}

/// How much there may be.
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

/// A regex, and a bound on what it takes, in bytes.
struct CachedRegex {
    regex: Pattern,
    bytes: usize,
}

impl RegexCache {
    /// What a regex takes beside its program, in bytes: tables to find its literals by, above all. Measured: a few
    /// for most, 24 KiB for some words in any case of letters.
    const REGEX_OVERHEAD_BYTES: usize = 32 << 10;

    /// Keeps at most so many regexes, of at most so many bytes together.
    pub(crate) fn new(regexes: usize, bytes: usize) -> Self {
        let half = CacheCapacity { regexes: regexes.div_ceil(2).max(1), bytes: bytes.div_ceil(2) };
        Self { generation_capacity: half, generations: Mutex::default() }
    }

    /// The regex of `pattern`.
    ///
    /// # Errors
    /// When it cannot be compiled; `field` is named.
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
        /// How many are kept, and their bytes, by what is there and by the account.
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
