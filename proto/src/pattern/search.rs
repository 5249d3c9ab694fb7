//! A search that can be interrupted after any byte and resumed, with a count of its steps.
//!
//! The search caches sets of states (a lazy DFA), as the regex crate does. It falls back to a
//! simulation of single states in two cases: if almost every byte leads to a new set, or if a word
//! boundary meets bytes outside ASCII.

pub(super) mod nfa_simulation;

use std::sync::Arc;

use regex_automata::{
    hybrid::{
        LazyStateID,
        dfa::{Cache, Config, DFA},
    },
    util::start,
};

use self::nfa_simulation::NfaSimulation;
use super::{MAX_CACHE_BYTES, MAX_STEPS, Pattern, Program};

/// Status of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchStatus {
    /// The text matches, whatever follows.
    Matched,
    /// The text so far does not match.
    NotMatched,
    /// The allowed steps are used up; the search can be resumed.
    Interrupted,
}

/// A search through a text that arrives in chunks.
pub struct PatternSearch {
    program: Arc<Program>,
    steps: u64,
    engine: SearchEngine,
}

enum SearchEngine {
    LazyDfa(Box<LazyDfa>),
    Nfa(Box<NfaSimulation>),
}

impl Pattern {
    /// Starts a search at the beginning of a text.
    pub fn start_search(&self) -> PatternSearch {
        let program = Arc::clone(&self.program);
        let engine = match LazyDfa::new(&program) {
            Some(lazy) => SearchEngine::LazyDfa(Box::new(lazy)),
            None => SearchEngine::Nfa(Box::new(NfaSimulation::new(&program.nfa))),
        };
        PatternSearch { program, steps: 0, engine }
    }
}

impl PatternSearch {
    /// Maximum cost of the lazy DFA, in steps. The search then falls back to [`NfaSimulation`].
    const MAX_LAZY_DFA_STEPS: u64 = MAX_STEPS / 4;

    /// Continues the search through `text` for about `steps` steps. `text` must begin with the text
    /// of the last call; `is_whole` marks the end of the text.
    pub fn resume(&mut self, text: &[u8], is_whole: bool, steps: u64) -> SearchStatus {
        let until = self.steps.saturating_add(steps);
        if let SearchEngine::LazyDfa(lazy) = &mut self.engine {
            let dfa = self.program.dfa.get().and_then(Option::as_ref);
            let states = self.program.nfa.states().len() as u64;
            let most = until.min(Self::MAX_LAZY_DFA_STEPS);
            let done = dfa.and_then(|dfa| lazy.resume(dfa, states, text, is_whole, &mut self.steps, most));
            match done {
                Some(SearchStatus::Interrupted) if self.steps < Self::MAX_LAZY_DFA_STEPS => {
                    return SearchStatus::Interrupted;
                }
                // The simulation starts again at the first byte: a lazy DFA has no state to hand
                // over.
                Some(SearchStatus::Interrupted) | None => {
                    self.engine = SearchEngine::Nfa(Box::new(NfaSimulation::new(&self.program.nfa)));
                }
                Some(done) => return done,
            }
        }
        match &mut self.engine {
            SearchEngine::LazyDfa(_) => SearchStatus::Interrupted,
            SearchEngine::Nfa(simulation) => {
                simulation.resume(&self.program, text, is_whole, &mut self.steps, until)
            }
        }
    }

    /// Steps taken so far.
    pub fn steps_taken(&self) -> u64 {
        self.steps
    }
}

/// A lazy DFA with its current state and position.
struct LazyDfa {
    cache: Cache,
    state: LazyStateID,
    position: usize,
    /// True if no further byte can lead to a match.
    is_dead: bool,
}

impl LazyDfa {
    /// Cost of a byte that leads from a cached set to a cached set, as a shift: 4 such bytes are
    /// one step.
    const BYTES_PER_STEP_SHIFT: u32 = 2;
    /// Bytes between two checks of the step count.
    const WINDOW_BYTES: usize = 1 << 12;

    fn new(program: &Program) -> Option<Self> {
        let config = Config::new()
            .cache_capacity(MAX_CACHE_BYTES)
            .skip_cache_capacity_check(true)
            .unicode_word_boundary(true)
            .minimum_cache_clear_count(Some(2));
        let dfa = program
            .dfa
            .get_or_init(|| DFA::builder().configure(config).build_from_nfa(program.nfa.clone()).ok());
        let dfa = dfa.as_ref()?;
        let mut cache = dfa.create_cache();
        let now = dfa.start_state(&mut cache, &start::Config::new()).ok()?;
        Some(Self { cache, state: now, position: 0, is_dead: false })
    }

    /// Continues the search; `None` if the lazy DFA cannot continue.
    fn resume(
        &mut self,
        dfa: &DFA,
        states: u64,
        text: &[u8],
        is_whole: bool,
        steps: &mut u64,
        until: u64,
    ) -> Option<SearchStatus> {
        if self.is_dead {
            return Some(SearchStatus::NotMatched);
        }
        while self.position < text.len() {
            // The step limit is checked once per window and after each new set, because cached
            // transitions are cheap.
            if *steps >= until {
                return Some(SearchStatus::Interrupted);
            }
            let window = &text[self.position..text.len().min(self.position + Self::WINDOW_BYTES)];
            let mut taken = 0;
            for byte in window {
                taken += 1;
                // The fast path is valid for untagged states only.
                let known = match self.state.is_tagged() {
                    true => None,
                    false => Some(dfa.next_state_untagged(&self.cache, self.state, *byte)),
                };
                self.state = match known {
                    Some(known) if !known.is_unknown() => known,
                    _ => {
                        // A new set is built from the NFA and visits at most all of its states.
                        *steps += states;
                        dfa.next_state(&mut self.cache, self.state, *byte).ok()?
                    }
                };
                if self.state.is_tagged() {
                    if self.state.is_match() {
                        return Some(SearchStatus::Matched);
                    }
                    if self.state.is_dead() {
                        self.is_dead = true;
                        return Some(SearchStatus::NotMatched);
                    }
                    if self.state.is_quit() {
                        return None;
                    }
                }
                if *steps >= until {
                    break;
                }
            }
            self.position += taken;
            *steps += 1 + (taken >> Self::BYTES_PER_STEP_SHIFT) as u64;
        }
        if is_whole {
            // Anchors and word boundaries at the end are decided only when the text is complete.
            let end = dfa.next_eoi_state(&mut self.cache, self.state).ok()?;
            if end.is_match() {
                return Some(SearchStatus::Matched);
            }
        }
        Some(SearchStatus::NotMatched)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Searches `text` in chunks of `piece` bytes, `steps` steps at a time.
    fn is_match(pattern: &Pattern, text: &[u8], piece: usize, steps: u64, simulate: bool) -> bool {
        let mut search = pattern.start_search();
        if simulate {
            search.engine = SearchEngine::Nfa(Box::new(NfaSimulation::new(&pattern.program.nfa)));
        }
        let mut have = 0;
        loop {
            have = text.len().min(have + piece);
            match search.resume(&text[..have], have == text.len(), steps) {
                SearchStatus::Matched => return true,
                SearchStatus::NotMatched if have == text.len() => return false,
                SearchStatus::NotMatched | SearchStatus::Interrupted => {}
            }
        }
    }

    proptest! {
        #[test]
        fn a_sliced_search_agrees_with_the_regex_crate(
            pattern in r"(\^|é|ab|\\b|\(\?i\)|\(\?m\)|\(\?s\)|\(\?-u\))?([ab.]|\\w|\\s|[a-c]{0,3}|(ab|ba?)*|é|[^b]|a{0,3}b){1,4}(\\b|\$|\\z|\\B|(\?-u:\\b))?",
            text in r"[ab é\n_]{0,12}",
            odd in any::<bool>(),
            piece in 1_usize..6,
            steps in 1_u64..40,
        ) {
            let Ok(pattern) = Pattern::compile("regex", &pattern) else { return Ok(()) };
            let mut text = text.into_bytes();
            if odd {
                text.insert(text.len() / 2, 0xc3);
            }
            let expected = pattern.regex().is_match(&text);
            prop_assert_eq!(is_match(&pattern, &text, piece, steps, false), expected);
            prop_assert_eq!(is_match(&pattern, &text, piece, steps, true), expected);
        }
    }

    #[test]
    fn a_word_outside_ascii_is_found_by_its_beginning_for_a_fraction_of_the_steps() {
        let text = "größe überall straßen ".repeat(40_000);
        let text = [text.as_bytes(), b"fatal 7"].concat();
        for (pattern, is_found) in [(r"(?i)\b(?:error|fatal) *7\b", true), (r"\bfernweh\b", false)] {
            let pattern = Pattern::compile("regex", pattern).unwrap();
            let mut search = pattern.start_search();
            let status = search.resume(&text, true, u64::MAX);
            assert_eq!(status == SearchStatus::Matched, is_found, "{pattern:?}");
            assert!(search.steps_taken() < text.len() as u64, "{} steps", search.steps_taken());
        }
    }

    #[test]
    fn an_interrupted_search_took_about_the_allowed_steps() {
        let pattern = Pattern::compile("regex", r"(?:[a-z]{0,30}x?){10}!").unwrap();
        let text = b"abcdefghijklmnopqrstuvwxyz ".repeat(4_000);
        let states = pattern.max_steps(1);
        let mut search = pattern.start_search();
        let mut before = 0;
        while search.resume(&text, true, 10_000) == SearchStatus::Interrupted {
            assert!(
                (10_000..=10_000 + 3 * states).contains(&(search.steps_taken() - before)),
                "{}",
                search.steps_taken()
            );
            before = search.steps_taken();
        }
        assert!(before > 10_000);
    }
}
