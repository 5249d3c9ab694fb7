//! Compiled regexes, kept: a site's is the same at each of its checks, and compiling costs more than matching.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use picket_proto::{Invalid, check};
use regex::bytes::Regex;

/// The most recently used regexes, in two generations: when the young one is full, the old one is forgotten.
pub(crate) struct Regexes {
    generation: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    young: HashMap<Box<str>, Regex>,
    old: HashMap<Box<str>, Regex>,
}

impl Regexes {
    /// Keeps at most `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { generation: most.div_ceil(2).max(1), kept: Mutex::default() }
    }

    /// The regex of `pattern`.
    ///
    /// # Errors
    /// When it cannot be compiled; `field` is named.
    pub(crate) fn get(&self, field: &str, pattern: &str) -> Result<Regex, Invalid> {
        if let Some(regex) = self.find(pattern) {
            return Ok(regex);
        }
        let regex = check::compile(field, pattern)?;
        self.keep(pattern.into(), regex.clone());
        Ok(regex)
    }

    fn find(&self, pattern: &str) -> Option<Regex> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(regex) = kept.young.get(pattern) {
            return Some(regex.clone());
        }
        let (pattern, regex) = kept.old.remove_entry(pattern)?;
        drop(kept);
        self.keep(pattern, regex.clone());
        Some(regex)
    }

    fn keep(&self, pattern: Box<str>, regex: Regex) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.young.len() >= self.generation {
            kept.old = std::mem::take(&mut kept.young);
        }
        kept.young.insert(pattern, regex);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_kept_than_allowed_and_those_in_use_stay() {
        let regexes = Regexes::new(4);

        for i in 0..100 {
            regexes.get("regex", "often").unwrap();
            regexes.get("regex", &format!("{i}")).unwrap();
        }

        let kept = regexes.kept.lock().unwrap();
        assert!(kept.young.len() + kept.old.len() <= 4);
        assert!(kept.young.contains_key("often") || kept.old.contains_key("often"));
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_and_not_kept() {
        let regexes = Regexes::new(4);

        assert_eq!(regexes.get("not_regex", "(").unwrap_err().field, "not_regex");
        assert!(regexes.kept.lock().unwrap().young.is_empty());
    }
}
