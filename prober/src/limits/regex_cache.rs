//! Cache of compiled regexes: a site uses the same regex in each check, and compiling costs more
//! than matching.
//!
//! Bound: total bytes, and bytes for each check ([`picket_proto::pattern::MAX_CHECK_BYTES`]). A returned regex shares the compiled program but
//! has search memory of its own, which is freed with the check. Cached regexes therefore do not
//! grow. One check at a time has its regexes compiled. Loss: a check without a turn is missed.

use std::{panic::resume_unwind, sync::Arc, time::Duration};

use picket_proto::{Check, CheckRequest, Pattern, ValidationError};
use quick_cache::{Weighter, sync::Cache};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// Cache of the regexes in use. A regex that was used several times outlives new ones.
pub(crate) struct RegexCache {
    cache: Cache<String, Pattern, RegexWeighter>,
    /// Held while the regexes of a check are compiled.
    compiling: Arc<Mutex<()>>,
}

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
    /// Maximum wait until the regexes of other checks are compiled.
    const MAX_TURN_WAIT: Duration = Duration::from_secs(5);

    /// Creates a cache for regexes of at most `bytes` bytes in total.
    pub(crate) fn new(bytes: usize) -> Self {
        let cache = Cache::with_weighter(Self::ESTIMATED_REGEXES, bytes as u64, RegexWeighter);
        Self { cache, compiling: Arc::default() }
    }

    /// Validates `request` with regexes of the cache. Compiling all regexes of a check may take
    /// seconds, so it is done on a blocking thread. Returns `None` if that had no turn in time.
    ///
    /// # Errors
    /// Fails if a field is invalid, or if all regexes together are too large.
    pub(crate) async fn validate_request(
        self: &Arc<Self>,
        request: &CheckRequest,
    ) -> Option<Result<Check, ValidationError>> {
        let mut is_absent = false;
        let validated = request.validate_with(|field, pattern| match self.cache.get(pattern) {
            Some(regex) => Ok(regex),
            None => {
                is_absent = true;
                Err(ValidationError::new(field, pattern, "a regex that is compiled"))
            }
        });
        if !is_absent {
            return Some(validated);
        }
        let turn = timeout(Self::MAX_TURN_WAIT, Arc::clone(&self.compiling).lock_owned()).await.ok()?;
        let (cache, request) = (Arc::clone(self), request.clone());
        let compiled = spawn_blocking(move || {
            let _turn = turn;
            request.validate_with(|field, pattern| cache.get_or_compile(field, pattern))
        });
        match compiled.await {
            Ok(validated) => Some(validated),
            Err(why) if why.is_panic() => resume_unwind(why.into_panic()),
            // The process ends.
            Err(_) => None,
        }
    }

    /// Returns the regex of `pattern`, compiled on a cache miss.
    ///
    /// # Errors
    /// Fails if `pattern` does not compile; the error names `field`.
    fn get_or_compile(&self, field: &str, pattern: &str) -> Result<Pattern, ValidationError> {
        self.cache.get_or_insert_with(pattern, || Pattern::compile(field, pattern))
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::http_assertions::HeaderAssertion;

    use super::*;

    fn request(regexes: impl Iterator<Item = String>) -> CheckRequest {
        let mut request = CheckRequest::new("http://a.example/");
        request.assertions.regexes = regexes.collect();
        request
    }

    #[tokio::test]
    async fn the_regexes_of_a_check_are_compiled_once_and_beside_other_tasks() {
        let regexes = Arc::new(RegexCache::new(64 << 20));
        let costly = request((0..4).map(|number| format!(r"{number}\w{{8}}")));

        // On the only thread of this runtime a compilation would let the other task wait.
        let beside = tokio::spawn(std::future::ready(()));
        let check = regexes.validate_request(&costly).await.unwrap().unwrap();
        assert!(beside.is_finished());

        assert_eq!(check.assertions.as_ref().map(|asserted| asserted.regexes.len()), Some(4));
        assert_eq!(regexes.cache.len(), 4);
        let turn = Arc::clone(&regexes.compiling).lock_owned().await;
        regexes.validate_request(&costly).await.unwrap().unwrap();
        drop(turn);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_waits_for_a_limited_time_until_its_regexes_are_compiled() {
        let regexes = Arc::new(RegexCache::new(64 << 20));
        let _turn = Arc::clone(&regexes.compiling).lock_owned().await;

        assert!(regexes.validate_request(&request(["a".to_owned()].into_iter())).await.is_none());
        assert!(regexes.validate_request(&request(std::iter::empty())).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn the_regexes_of_a_check_that_are_too_large_together_are_refused_each_time() {
        let regexes = Arc::new(RegexCache::new(256 << 20));
        let mut numbers = 0..;
        let mut many = || (&mut numbers).take(16).map(|number| format!(r"{number}\w{{17}}")).collect();
        let mut large = request(std::iter::empty());
        (large.assertions.regexes, large.assertions.not_regexes) = (many(), many());
        regexes.validate_request(&large).await.unwrap().unwrap();
        let patterns: Vec<String> = many();
        large.assertions.headers = patterns
            .into_iter()
            .map(|regex| HeaderAssertion {
                name: "a".into(),
                regex: Some(regex),
                ..HeaderAssertion::default()
            })
            .collect();

        for _ in 0..2 {
            let why = regexes.validate_request(&large).await.unwrap().unwrap_err();
            assert!(why.expected.contains("at most 33554432 bytes in all"), "{why}");
        }
    }

    const REGEX_BYTES: usize = RegexWeighter::REGEX_OVERHEAD_BYTES + (16 << 10);

    #[test]
    fn the_cache_holds_no_more_patterns_than_allowed_and_keeps_used_ones() {
        let regexes = RegexCache::new(4 * REGEX_BYTES);

        for i in 0..100 {
            regexes.get_or_compile("regex", "often").unwrap();
            regexes.get_or_compile("regex", &format!("{i}")).unwrap();
        }

        assert!(
            regexes.cache.len() >= 2 && regexes.cache.weight() <= regexes.cache.capacity(),
            "{}",
            regexes.cache.weight()
        );
        assert!(regexes.cache.contains_key("often"));
    }

    #[test]
    fn the_cache_holds_no_more_bytes_than_allowed() {
        const MOST: usize = 8 << 20;
        let regexes = RegexCache::new(MOST);

        for i in 0..40 {
            regexes.get_or_compile("regex", &format!(r"{i}\w{{15}}")).unwrap();
            regexes.get_or_compile("regex", &format!("{i}")).unwrap();
            let bytes: u64 =
                regexes.cache.iter().map(|(pattern, regex)| RegexWeighter.weight(&pattern, &regex)).sum();
            assert!(
                bytes <= MOST as u64 && bytes == regexes.cache.weight(),
                "{bytes} {}",
                regexes.cache.weight()
            );
        }
    }

    #[test]
    fn an_invalid_pattern_is_refused_and_not_cached() {
        let regexes = RegexCache::new(4 * REGEX_BYTES);

        assert_eq!(regexes.get_or_compile("not_regex", "(").unwrap_err().field, "not_regex");
        assert_eq!((regexes.cache.len(), regexes.cache.weight()), (0, 0));
    }
}
