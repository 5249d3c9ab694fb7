//! A simulation of the program: the set of live states, advanced byte by byte, with a count of its
//! steps. Slower than the lazy DFA, and without its limits.
//!
//! While no match has begun, the search skips to the next text with which a match can begin, if the
//! regex has such texts.

use regex_automata::{
    Span,
    nfa::thompson::{NFA, State},
    util::{prefilter::Prefilter, primitives::StateID},
};

use super::SearchStatus;
use crate::pattern::Program;

/// A set of states that is cleared often, in constant time.
#[derive(Clone)]
struct StateSet {
    members: Vec<StateID>,
    /// Round of the last insertion of each state.
    added_in_round: Vec<u32>,
    round: u32,
}

impl StateSet {
    fn new(states: usize) -> Self {
        Self { members: Vec::new(), added_in_round: vec![0; states], round: 1 }
    }

    fn clear(&mut self) {
        self.members.clear();
        self.round += 1;
    }

    /// Inserts `state`; returns true if it is new.
    fn insert(&mut self, state: StateID) -> bool {
        let added_in = &mut self.added_in_round[state.as_usize()];
        let is_new = *added_in != self.round;
        if is_new {
            *added_in = self.round;
            self.members.push(state);
        }
        is_new
    }
}

/// Simulation of the program: the set of live states, advanced byte by byte.
#[derive(Clone)]
pub(in crate::pattern) struct NfaSimulation {
    current: StateSet,
    next: StateSet,
    stack: Vec<StateID>,
    position: usize,
    has_begun: bool,
    /// True if no live state has taken a byte of a possible match.
    is_idle: bool,
}

impl NfaSimulation {
    /// Bytes that a look-around may need: one character of at most 4 bytes.
    const LOOK_AHEAD_BYTES: usize = 4;
    /// Maximum length of the texts of a prefilter, with much room.
    const MAX_PREFIX_BYTES: usize = 1 << 10;
    /// Cost of a byte that is skipped, as a shift, as of a cached transition of the lazy DFA.
    const SKIPPED_BYTES_PER_STEP_SHIFT: u32 = 2;

    pub(in crate::pattern) fn new(nfa: &NFA) -> Self {
        let states = nfa.states().len();
        Self {
            current: StateSet::new(states),
            next: StateSet::new(states),
            stack: Vec::new(),
            position: 0,
            has_begun: false,
            is_idle: true,
        }
    }

    pub(in crate::pattern) fn live_states(&self) -> &[StateID] {
        &self.current.members
    }

    pub(super) fn resume(
        &mut self,
        program: &Program,
        text: &[u8],
        is_whole: bool,
        steps: &mut u64,
        until: u64,
    ) -> SearchStatus {
        let (nfa, prefilter) = (&program.nfa, program.find_prefilter());
        // Position up to which all look-arounds can be decided.
        let decided =
            if is_whole { Some(text.len()) } else { text.len().checked_sub(Self::LOOK_AHEAD_BYTES) };
        let Some(decided) = decided else { return SearchStatus::NotMatched };
        if !self.has_begun {
            self.has_begun = true;
            if self.enter_start_states(nfa, text, steps) {
                return SearchStatus::Matched;
            }
        }
        while self.position < decided {
            if *steps >= until {
                return SearchStatus::Interrupted;
            }
            if let Some(prefilter) = prefilter
                && self.is_idle
                && self.skip_to_prefix(nfa, prefilter, text, decided, steps)
            {
                return SearchStatus::Matched;
            }
            if self.position < decided && self.step_byte(nfa, text, steps) {
                return SearchStatus::Matched;
            }
        }
        SearchStatus::NotMatched
    }

    /// Skips to the next place at which a match can begin, and enters the start states there. Without
    /// such a place, the rest in which the beginning of a match may be cut off remains. Returns true
    /// if a match is among the start states.
    fn skip_to_prefix(
        &mut self,
        nfa: &NFA,
        prefilter: &Prefilter,
        text: &[u8],
        decided: usize,
        steps: &mut u64,
    ) -> bool {
        let to = match prefilter.find(text, Span::from(self.position..text.len())) {
            Some(found) => found.start.min(decided),
            None => text.len().saturating_sub(Self::MAX_PREFIX_BYTES).clamp(self.position, decided),
        };
        *steps += 1 + ((to - self.position) >> Self::SKIPPED_BYTES_PER_STEP_SHIFT) as u64;
        if to == self.position {
            return false;
        }
        self.position = to;
        self.next.clear();
        let (set, stack) = (&mut self.next, &mut self.stack);
        let is_match = add_epsilon_closure(nfa, nfa.start_unanchored(), text, to, set, stack, steps);
        std::mem::swap(&mut self.current, &mut self.next);
        is_match
    }

    /// Enters the start states; returns true if a match is among them.
    pub(in crate::pattern) fn enter_start_states(&mut self, nfa: &NFA, text: &[u8], steps: &mut u64) -> bool {
        let is_match =
            add_epsilon_closure(nfa, nfa.start_unanchored(), text, 0, &mut self.next, &mut self.stack, steps);
        std::mem::swap(&mut self.current, &mut self.next);
        is_match
    }

    /// Advances by one byte; returns true if a match ends there, decided by the look-around to the
    /// next byte where necessary.
    pub(in crate::pattern) fn step_byte(&mut self, nfa: &NFA, text: &[u8], steps: &mut u64) -> bool {
        self.next.clear();
        let byte = text[self.position];
        self.position += 1;
        self.is_idle = true;
        for &state in &self.current.members {
            let to = match nfa.state(state) {
                State::ByteRange { trans } if trans.matches_byte(byte) => Some(trans.next),
                State::Sparse(transitions) => transitions.matches_byte(byte),
                State::Dense(transitions) => transitions.matches_byte(byte),
                _ => None,
            };
            // The loop before a match leads back to its start.
            self.is_idle &= to.is_none_or(|to| to == nfa.start_unanchored());
            if let Some(to) = to
                && add_epsilon_closure(nfa, to, text, self.position, &mut self.next, &mut self.stack, steps)
            {
                return true;
            }
        }
        std::mem::swap(&mut self.current, &mut self.next);
        false
    }
}

/// Adds all states that `from` reaches without a byte to `set`; returns true if a match is among
/// them.
fn add_epsilon_closure(
    nfa: &NFA,
    from: StateID,
    text: &[u8],
    at: usize,
    set: &mut StateSet,
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
