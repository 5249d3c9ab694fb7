//! Compiled regexes, kept: a site's is the same at each of its checks, and compiling costs more than matching.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use picket_proto::{Invalid, check};
use regex::bytes::Regex;

/// The most recently used regexes, in two generations: when the young one is full, the old one is forgotten.
///
/// Bound: their number, and their bytes. What the library keeps for a search (a lazily built automaton) grows with use;
/// a regex is counted at [`Regexes::IN_USE`] times its compiled size, and a little for its place here.
pub(crate) struct Regexes {
    most: usize,
    most_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    young: HashMap<Box<str>, Compiled>,
    young_bytes: usize,
    old: HashMap<Box<str>, Compiled>,
}

#[derive(Clone)]
struct Compiled {
    regex: Regex,
    bytes: usize,
}

impl Regexes {
    const IN_USE: usize = 2;
    const PLACE: usize = 256;

    /// Keeps at most `most`, of at most `bytes` together.
    pub(crate) fn new(most: usize, bytes: usize) -> Self {
        Self { most: most.div_ceil(2).max(1), most_bytes: bytes.div_ceil(2), kept: Mutex::default() }
    }

    /// The regex of `pattern`.
    ///
    /// # Errors
    /// When it cannot be compiled; `field` is named.
    pub(crate) fn get(&self, field: &str, pattern: &str) -> Result<Regex, Invalid> {
        if let Some(regex) = self.find(pattern) {
            return Ok(regex);
        }
        let (regex, size) = check::compile_sized(field, pattern)?;
        let bytes = size * Self::IN_USE + pattern.len() + Self::PLACE;
        self.kept().keep(self, pattern.into(), Compiled { regex: regex.clone(), bytes });
        Ok(regex)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, pattern: &str) -> Option<Regex> {
        let mut kept = self.kept();
        if let Some(compiled) = kept.young.get(pattern) {
            return Some(compiled.regex.clone());
        }
        let (pattern, compiled) = kept.old.remove_entry(pattern)?;
        let regex = compiled.regex.clone();
        kept.keep(self, pattern, compiled);
        Some(regex)
    }
}

impl Kept {
    fn keep(&mut self, limits: &Regexes, pattern: Box<str>, compiled: Compiled) {
        let is_full = self.young.len() >= limits.most
            || (self.young_bytes + compiled.bytes > limits.most_bytes && !self.young.is_empty());
        if is_full {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += compiled.bytes;
        // Two tasks may have compiled the same.
        if let Some(same) = self.young.insert(pattern, compiled) {
            self.young_bytes -= same.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_kept_than_allowed_and_those_in_use_stay() {
        let regexes = Regexes::new(4, 1 << 20);

        for i in 0..100 {
            regexes.get("regex", "often").unwrap();
            regexes.get("regex", &format!("{i}")).unwrap();
        }

        let kept = regexes.kept.lock().unwrap();
        assert!(kept.young.len() + kept.old.len() <= 4);
        assert!(kept.young.contains_key("often") || kept.old.contains_key("often"));
    }

    #[test]
    fn no_more_bytes_are_kept_than_allowed() {
        let regexes = Regexes::new(1_000, 16 << 20);

        for i in 0..200 {
            regexes.get("regex", &format!(r"\w{{5}}{i}")).unwrap();
        }

        let kept = regexes.kept();
        let bytes =
            |generation: &HashMap<_, Compiled>| generation.values().map(|one| one.bytes).sum::<usize>();
        assert!(bytes(&kept.young) + bytes(&kept.old) <= 16 << 20);
        assert_eq!(bytes(&kept.young), kept.young_bytes);
        assert!(kept.young.len() + kept.old.len() >= 2);
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_and_not_kept() {
        let regexes = Regexes::new(4, 1 << 20);

        assert_eq!(regexes.get("not_regex", "(").unwrap_err().field, "not_regex");
        assert!(regexes.kept.lock().unwrap().young.is_empty());
    }
}
