//! What a regex costs for each byte, measured on a text that is made to be dear for it.

use regex_automata::nfa::thompson::{NFA, State, Transition};

use super::{MAX_STEPS_PER_BYTE, search::NfaSimulation};

/// The bytes of the text that is tried. The dearest sets of states are reached after as many as the largest bounds of
/// repetitions; regexes in which those are larger do not become dearer any more in what counts here.
const PROBE_TEXT_BYTES: usize = 512;
/// The bytes that are tried at each place before the text is given up, because all of them match.
const MAX_CANDIDATES: usize = 4;

/// The steps that a search takes for a byte, at the dearest place of a text in which each byte is the one that keeps most
/// states alive. It is a count and no time: the same on each machine.
///
/// A program with few states cannot take many steps and is not tried.
pub(super) fn steps_per_byte(nfa: &NFA) -> u64 {
    // Each is entered once for a byte.
    let most = nfa.states().len() as u64;
    if most <= MAX_STEPS_PER_BYTE {
        return most;
    }
    let mut text = Vec::with_capacity(PROBE_TEXT_BYTES);
    let mut states = NfaSimulation::new(nfa);
    let mut dearest = 0;
    if states.enter_start_states(nfa, &text, &mut dearest) {
        return dearest;
    }
    'text: while text.len() < PROBE_TEXT_BYTES && dearest <= MAX_STEPS_PER_BYTE {
        for byte in candidate_bytes(nfa, &states) {
            text.push(byte);
            let mut tried = states.clone();
            let mut steps = 0;
            let is_match = tried.step_byte(nfa, &text, &mut steps);
            dearest = dearest.max(steps);
            if !is_match {
                states = tried;
                continue 'text;
            }
            // A search ends with its match; this text does not.
            text.pop();
        }
        break;
    }
    dearest
}

/// The bytes that most of the live states take, the most liked first.
fn candidate_bytes(nfa: &NFA, states: &NfaSimulation) -> impl Iterator<Item = u8> + use<> {
    // How many more states take a byte than take the one before it.
    let mut more = [0_i32; 257];
    let mut takes = |transition: &Transition| {
        more[usize::from(transition.start)] += 1;
        more[usize::from(transition.end) + 1] -= 1;
    };
    for &state in states.live_states() {
        match nfa.state(state) {
            State::ByteRange { trans } => takes(trans),
            State::Sparse(sparse) => sparse.transitions.iter().for_each(&mut takes),
            _ => {}
        }
    }
    let mut taken = 0;
    let mut bytes: Vec<(i32, bool, u8)> = (0..=u8::MAX)
        .map(|byte| {
            taken += more[usize::from(byte)];
            // Of as many a letter, at which words begin.
            (-taken, !byte.is_ascii_lowercase(), byte)
        })
        .collect();
    bytes.sort_unstable();
    bytes.into_iter().take(MAX_CANDIDATES).map(|(.., byte)| byte)
}
