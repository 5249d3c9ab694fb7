//! What a regex costs for each byte, measured on a text that is made to be dear for it.

use regex_automata::nfa::thompson::{NFA, State, Transition};

use super::{MAX_STEPS_A_BYTE, search::Simulation};

/// The bytes of the text that is tried. The dearest sets of states are reached after as many as the largest bounds of
/// repetitions; regexes in which those are larger do not become dearer any more in what counts here.
const TEXT: usize = 512;
/// The bytes that are tried at each place before the text is given up, because all of them match.
const CANDIDATES: usize = 4;

/// The steps that a search takes for a byte, at the dearest place of a text in which each byte is the one that keeps most
/// states alive. It is a count and no time: the same on each machine.
///
/// A program with few states cannot take many steps and is not tried.
pub(super) fn steps_a_byte(nfa: &NFA) -> u64 {
    // Each is entered once for a byte.
    let most = nfa.states().len() as u64;
    if most <= MAX_STEPS_A_BYTE {
        return most;
    }
    let mut text = Vec::with_capacity(TEXT);
    let mut states = Simulation::new(nfa);
    let mut dearest = 0;
    if states.begin(nfa, &text, &mut dearest) {
        return dearest;
    }
    'text: while text.len() < TEXT && dearest <= MAX_STEPS_A_BYTE {
        for byte in candidates(nfa, &states) {
            text.push(byte);
            let mut tried = states.clone();
            let mut steps = 0;
            let is_match = tried.step(nfa, &text, &mut steps);
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
fn candidates(nfa: &NFA, states: &Simulation) -> impl Iterator<Item = u8> + use<> {
    // How many more states take a byte than take the one before it.
    let mut more = [0_i32; 257];
    let mut takes = |transition: &Transition| {
        more[usize::from(transition.start)] += 1;
        more[usize::from(transition.end) + 1] -= 1;
    };
    for &state in states.live() {
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
    bytes.into_iter().take(CANDIDATES).map(|(.., byte)| byte)
}
