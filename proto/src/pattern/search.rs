//! A search that can be interrupted after any byte and goes on where it was, with its steps counted.
//!
//! It remembers sets of states that it has been in (a lazy DFA), as the regex crate does. Where that does not help, because
//! almost every byte leads to a new set, or because a word boundary meets bytes that are not ASCII, the states
//! are followed one by one.

use std::sync::Arc;

use regex_automata::{
    hybrid::{
        LazyStateID,
        dfa::{Cache, Config, DFA},
    },
    nfa::thompson::{NFA, State},
    util::{primitives::StateID, start},
};

use super::{MAX_CACHE, MAX_STEPS, Pattern, Program};

/// How far a search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is a match, whatever follows.
    Matched,
    /// There is none in what there is.
    NotMatched,
    /// The steps that it was allowed are used up; it may go on.
    Interrupted,
}

/// A search through a text of which more and more may come.
pub struct Search {
    program: Arc<Program>,
    steps: u64,
    engine: Engine,
}

enum Engine {
    LazyDfa(Box<LazyDfa>),
    Nfa(Box<Simulation>),
}

impl Pattern {
    /// A search from the beginning of a text.
    pub fn search(&self) -> Search {
        let program = Arc::clone(&self.program);
        let engine = match LazyDfa::new(&program) {
            Some(lazy) => Engine::LazyDfa(Box::new(lazy)),
            None => Engine::Nfa(Box::new(Simulation::new(&program.nfa))),
        };
        Search { program, steps: 0, engine }
    }
}

impl Search {
    /// What the lazy DFA may cost, in steps, before it is given up.
    const MAX_STEPS_OF_LAZY_DFA: u64 = MAX_STEPS / 4;

    /// Goes on through `text`, which begins as at the last call, and is all that comes if it `is_whole`; for about
    /// `steps` steps.
    pub fn resume(&mut self, text: &[u8], is_whole: bool, steps: u64) -> Progress {
        let until = self.steps.saturating_add(steps);
        if let Engine::LazyDfa(lazy) = &mut self.engine {
            let dfa = self.program.dfa.get().and_then(Option::as_ref);
            let states = self.program.nfa.states().len() as u64;
            let most = until.min(Self::MAX_STEPS_OF_LAZY_DFA);
            let done = dfa.and_then(|dfa| lazy.resume(dfa, states, text, is_whole, &mut self.steps, most));
            match done {
                Some(Progress::Interrupted) if self.steps < Self::MAX_STEPS_OF_LAZY_DFA => {
                    return Progress::Interrupted;
                }
                Some(Progress::Interrupted) | None => {
                    self.engine = Engine::Nfa(Box::new(Simulation::new(&self.program.nfa)));
                }
                Some(done) => return done,
            }
        }
        match &mut self.engine {
            Engine::LazyDfa(_) => Progress::Interrupted,
            Engine::Nfa(simulation) => {
                simulation.resume(&self.program.nfa, text, is_whole, &mut self.steps, until)
            }
        }
    }

    /// The steps that it has taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

/// A lazy DFA, and where it is.
struct LazyDfa {
    cache: Cache,
    now: LazyStateID,
    at: usize,
    /// Whether nothing that follows can match any more.
    is_dead: bool,
}

impl LazyDfa {
    /// The cost of a byte that leads from a known set to a known set, as a shift: a step is some of them.
    const BYTES_A_STEP_SHIFT: u32 = 2;
    /// Bytes between two looks at the steps.
    const WINDOW: usize = 1 << 12;

    fn new(program: &Program) -> Option<Self> {
        let config = Config::new()
            .cache_capacity(MAX_CACHE)
            .skip_cache_capacity_check(true)
            .unicode_word_boundary(true)
            .minimum_cache_clear_count(Some(2));
        let dfa = program
            .dfa
            .get_or_init(|| DFA::builder().configure(config).build_from_nfa(program.nfa.clone()).ok());
        let dfa = dfa.as_ref()?;
        let mut cache = dfa.create_cache();
        let now = dfa.start_state(&mut cache, &start::Config::new()).ok()?;
        Some(Self { cache, now, at: 0, is_dead: false })
    }

    /// `None` when this way leads no further.
    fn resume(
        &mut self,
        dfa: &DFA,
        states: u64,
        text: &[u8],
        is_whole: bool,
        steps: &mut u64,
        until: u64,
    ) -> Option<Progress> {
        if self.is_dead {
            return Some(Progress::NotMatched);
        }
        while self.at < text.len() {
            if *steps >= until {
                return Some(Progress::Interrupted);
            }
            let window = &text[self.at..text.len().min(self.at + Self::WINDOW)];
            let mut taken = 0;
            for byte in window {
                taken += 1;
                let known = match self.now.is_tagged() {
                    true => None,
                    false => Some(dfa.next_state_untagged(&self.cache, self.now, *byte)),
                };
                self.now = match known {
                    Some(known) if !known.is_unknown() => known,
                    _ => {
                        // At most all of them are looked at.
                        *steps += states;
                        dfa.next_state(&mut self.cache, self.now, *byte).ok()?
                    }
                };
                if self.now.is_tagged() {
                    if self.now.is_match() {
                        return Some(Progress::Matched);
                    }
                    if self.now.is_dead() {
                        self.is_dead = true;
                        return Some(Progress::NotMatched);
                    }
                    if self.now.is_quit() {
                        return None;
                    }
                }
                if *steps >= until {
                    break;
                }
            }
            self.at += taken;
            *steps += 1 + (taken >> Self::BYTES_A_STEP_SHIFT) as u64;
        }
        if is_whole {
            let end = dfa.next_eoi_state(&mut self.cache, self.now).ok()?;
            if end.is_match() {
                return Some(Progress::Matched);
            }
        }
        Some(Progress::NotMatched)
    }
}

/// A set of states that is emptied often.
#[derive(Clone)]
struct Set {
    members: Vec<StateID>,
    /// For each state, the round in which it was last added.
    added_in: Vec<u32>,
    round: u32,
}

impl Set {
    fn new(states: usize) -> Self {
        Self { members: Vec::new(), added_in: vec![0; states], round: 1 }
    }

    fn clear(&mut self) {
        self.members.clear();
        self.round += 1;
    }

    /// Whether it was not there yet.
    fn insert(&mut self, state: StateID) -> bool {
        let added_in = &mut self.added_in[state.as_usize()];
        let is_new = *added_in != self.round;
        if is_new {
            *added_in = self.round;
            self.members.push(state);
        }
        is_new
    }
}

/// The live states of the program, followed one by one.
#[derive(Clone)]
pub(super) struct Simulation {
    live: Set,
    next: Set,
    stack: Vec<StateID>,
    at: usize,
    has_begun: bool,
}

impl Simulation {
    /// What decides a look-around: a letter, which is as many bytes at most.
    const LOOK_AHEAD: usize = 4;

    pub(super) fn new(nfa: &NFA) -> Self {
        let states = nfa.states().len();
        Self { live: Set::new(states), next: Set::new(states), stack: Vec::new(), at: 0, has_begun: false }
    }

    pub(super) fn live(&self) -> &[StateID] {
        &self.live.members
    }

    fn resume(&mut self, nfa: &NFA, text: &[u8], is_whole: bool, steps: &mut u64, until: u64) -> Progress {
        // Bytes at which it is known what follows.
        let decided = if is_whole { Some(text.len()) } else { text.len().checked_sub(Self::LOOK_AHEAD) };
        let Some(decided) = decided else { return Progress::NotMatched };
        if !self.has_begun {
            self.has_begun = true;
            if self.begin(nfa, text, steps) {
                return Progress::Matched;
            }
        }
        while self.at < decided {
            if *steps >= until {
                return Progress::Interrupted;
            }
            if self.step(nfa, text, steps) {
                return Progress::Matched;
            }
        }
        Progress::NotMatched
    }

    /// Enters the states in which a search begins; whether one of them matches.
    pub(super) fn begin(&mut self, nfa: &NFA, text: &[u8], steps: &mut u64) -> bool {
        let is_match = follow(nfa, nfa.start_unanchored(), text, 0, &mut self.next, &mut self.stack, steps);
        std::mem::swap(&mut self.live, &mut self.next);
        is_match
    }

    /// Takes one byte; whether it, or what there is between it and the next, matches.
    pub(super) fn step(&mut self, nfa: &NFA, text: &[u8], steps: &mut u64) -> bool {
        self.next.clear();
        let byte = text[self.at];
        self.at += 1;
        for &state in &self.live.members {
            let to = match nfa.state(state) {
                State::ByteRange { trans } if trans.matches_byte(byte) => Some(trans.next),
                State::Sparse(transitions) => transitions.matches_byte(byte),
                State::Dense(transitions) => transitions.matches_byte(byte),
                _ => None,
            };
            if let Some(to) = to
                && follow(nfa, to, text, self.at, &mut self.next, &mut self.stack, steps)
            {
                return true;
            }
        }
        std::mem::swap(&mut self.live, &mut self.next);
        false
    }
}

/// Adds to `set` what can be reached from `from` without a byte; whether a match is among it.
fn follow(
    nfa: &NFA,
    from: StateID,
    text: &[u8],
    at: usize,
    set: &mut Set,
    stack: &mut Vec<StateID>,
    steps: &mut u64,
) -> bool {
    stack.clear();
    stack.push(from);
    while let Some(state) = stack.pop() {
        if !set.insert(state) {
            continue;
        }
        *steps += 1;
        match nfa.state(state) {
            State::Match { .. } => return true,
            State::Look { look, next } => {
                if nfa.look_matcher().matches(*look, text, at) {
                    stack.push(*next);
                }
            }
            State::Union { alternates } => stack.extend(alternates.iter().copied()),
            State::BinaryUnion { alt1, alt2 } => stack.extend([*alt1, *alt2]),
            State::Capture { next, .. } => stack.push(*next),
            State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) | State::Fail => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Searches `text` as it comes in pieces, for some steps at a time.
    fn is_match(pattern: &Pattern, text: &[u8], piece: usize, steps: u64, simulate: bool) -> bool {
        let mut search = pattern.search();
        if simulate {
            search.engine = Engine::Nfa(Box::new(Simulation::new(&pattern.program.nfa)));
        }
        let mut have = 0;
        loop {
            have = text.len().min(have + piece);
            match search.resume(&text[..have], have == text.len(), steps) {
                Progress::Matched => return true,
                Progress::NotMatched if have == text.len() => return false,
                Progress::NotMatched | Progress::Interrupted => {}
            }
        }
    }

    proptest! {
        #[test]
        fn a_search_in_pieces_finds_what_the_regex_crate_finds(
            pattern in r"(\^|\\b|\(\?i\)|\(\?m\)|\(\?s\)|\(\?-u\))?([ab.]|\\w|\\s|[a-c]{0,3}|(ab|ba?)*|é|[^b]|a{0,3}b){1,4}(\\b|\$|\\z|\\B|(\?-u:\\b))?",
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
    fn an_interrupted_search_has_taken_about_the_steps_that_it_was_allowed() {
        let pattern = Pattern::compile("regex", r"(?:[a-z]{0,30}x?){10}!").unwrap();
        let text = b"abcdefghijklmnopqrstuvwxyz ".repeat(4_000);
        let states = pattern.max_steps(1);
        let mut search = pattern.search();
        let mut before = 0;
        while search.resume(&text, true, 10_000) == Progress::Interrupted {
            assert!(
                (10_000..=10_000 + 3 * states).contains(&(search.steps() - before)),
                "{}",
                search.steps()
            );
            before = search.steps();
        }
        assert!(before > 10_000);
    }
}
