//! Cost of a regex per byte, measured on a text that is built to be expensive for this regex.

use regex_automata::nfa::thompson::{NFA, State, Transition};

use super::{MAX_STEPS_PER_BYTE, search::nfa_simulation::NfaSimulation};

/// Length of the probe text, in bytes. The most expensive sets of states are reached after about as
/// many bytes as the largest repetition bound. Bounds above this length do not raise the measured
/// cost.
const PROBE_TEXT_BYTES: usize = 512;
/// Bytes tried at each position. The text ends if all of them match.
const MAX_CANDIDATES: usize = 4;

/// Maximum steps per byte over a text in which each byte keeps the most states alive. The result is
/// a count and not a time, so it is the same on each machine.
///
/// A program with few states cannot take many steps and is not measured.
pub(super) fn steps_per_byte(nfa: &NFA) -> u64 {
    // Each state is entered at most once per byte.
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
            // A match would end the search, so the text continues with another byte.
            text.pop();
        }
        break;
    }
    dearest
}

/// The bytes that the most live states accept, the most accepted byte first.
fn candidate_bytes(nfa: &NFA, states: &NfaSimulation) -> impl Iterator<Item = u8> + use<> {
    // Difference array: the number of accepting states of a byte, minus the number of the byte
    // before.
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
            // At equal counts a letter is preferred, because words begin with letters.
            (-taken, !byte.is_ascii_lowercase(), byte)
        })
        .collect();
    bytes.sort_unstable();
    bytes.into_iter().take(MAX_CANDIDATES).map(|(.., byte)| byte)
}
