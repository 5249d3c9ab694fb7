//! A compiled regex of a check, with bounded size and bounded search cost.

mod cost;
mod search;

use std::sync::{Arc, OnceLock};

use regex::bytes::{Regex, RegexBuilder};
use regex_automata::{
    MatchKind,
    hybrid::dfa::DFA,
    nfa::thompson::{NFA, WhichCaptures},
    util::{prefilter::Prefilter, syntax},
};

pub use self::search::{PatternSearch, SearchStatus};
use crate::ValidationError;

/// Version of the rules that accept a regex: the limits below, the cost model, and the syntax of
/// the regex crate. Raise it when a change rejects regexes that were accepted before, or when sites
/// get regexes that coordinators did not compile before, such as those of assertions: coordinators
/// then compile the regexes of all sites again.
pub const RULES_VERSION: i16 = 3;
/// Maximum length of a regex, in bytes.
pub const MAX_PATTERN_BYTES: usize = 4_096;
/// Maximum size of the compiled program, in bytes.
pub const MAX_PROGRAM_BYTES: usize = 1 << 20;
/// Maximum size of all regexes of one check together, in bytes as of [`Pattern::memory_usage`].
pub const MAX_CHECK_BYTES: usize = 32 << 20;
/// Maximum steps per byte on the most expensive text for the regex. At this rate a body of 6 KiB
/// stays within [`MAX_STEPS`].
pub const MAX_STEPS_PER_BYTE: u64 = 1_024;
/// Maximum steps of all regexes and paths of one check together. A step visits one state of the
/// program for one byte and takes 4 to 6 ns (`picket-bench assertions`), so that all of them take
/// less than 50 ms. Eighteen regexes with cached states search 1 MiB within this number.
pub const MAX_STEPS: u64 = 6 << 20;
/// Maximum size of the state cache of one search, in bytes. A search that needs more is slower.
const MAX_CACHE_BYTES: usize = 256 << 10;

/// A compiled regex. Clones share the program.
#[derive(Clone, Debug)]
pub struct Pattern {
    program: Arc<Program>,
}

/// The regex, and its program for resumable searches.
#[derive(Debug)]
struct Program {
    regex: Regex,
    nfa: NFA,
    /// Built by the first search; `None` inside if it cannot be built.
    dfa: OnceLock<Option<DFA>>,
    /// Built by the first search without the DFA; `None` inside if the matches of the regex have no
    /// common beginnings that can be found fast.
    prefilter: OnceLock<Option<Prefilter>>,
}

impl Program {
    /// Search for the texts with which each match begins.
    fn find_prefilter(&self) -> Option<&Prefilter> {
        let build = || {
            let hir = syntax::parse_with(self.regex.as_str(), &bytes_syntax()).ok()?;
            Prefilter::from_hir_prefix(MatchKind::LeftmostFirst, &hir).filter(Prefilter::is_fast)
        };
        self.prefilter.get_or_init(build).as_ref()
    }
}

/// Syntax of regexes that match bytes, as of [`regex::bytes`].
fn bytes_syntax() -> syntax::Config {
    syntax::Config::new().utf8(false)
}

impl Pattern {
    /// Compiles a regex that matches bytes in linear time, with bounded size and cost.
    ///
    /// # Errors
    /// If the pattern is not a regex, or takes too much memory or time. The error names `field`.
    pub fn compile(field: &str, pattern: &str) -> Result<Self, ValidationError> {
        let refusal = |allowed: String| ValidationError::new(field, pattern, allowed);
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(refusal(format!("at most {MAX_PATTERN_BYTES} bytes")));
        }
        let regex = RegexBuilder::new(pattern)
            .size_limit(MAX_PROGRAM_BYTES)
            .dfa_size_limit(MAX_CACHE_BYTES)
            .build()
            .map_err(|why| refusal(expected_regex(&why)))?;
        // The same syntax and size limit as above, without captures. This compilation cannot fail
        // after the first one succeeded.
        let nfa = NFA::compiler()
            .syntax(bytes_syntax())
            .configure(
                NFA::config()
                    .utf8(false)
                    .which_captures(WhichCaptures::None)
                    .nfa_size_limit(Some(MAX_PROGRAM_BYTES)),
            )
            .build(pattern)
            .map_err(|why| refusal(format!("a regular expression as in Rust's regex crate ({why})")))?;
        let steps = cost::steps_per_byte(&nfa);
        if steps > MAX_STEPS_PER_BYTE {
            return Err(refusal(format!(
                "a regex that takes at most {MAX_STEPS_PER_BYTE} steps for a byte; this one takes {steps}: nested or \
                 overlapping repetitions with large bounds, as in (a{{0,50}}b?){{50}}, are tried all at once"
            )));
        }
        let program = Program { regex, nfa, dfa: OnceLock::new(), prefilter: OnceLock::new() };
        Ok(Self { program: Arc::new(program) })
    }

    /// The regex for texts with few [`max_steps`](Self::max_steps). Such a search is fast, and
    /// cannot be interrupted.
    pub fn regex(&self) -> &Regex {
        &self.program.regex
    }

    /// Maximum steps of a search through `length` bytes.
    pub fn max_steps(&self, length: usize) -> u64 {
        (self.program.nfa.states().len() as u64).saturating_mul(length as u64)
    }

    /// Upper bound of the memory of the compiled programs, in bytes.
    pub fn memory_usage(&self) -> usize {
        /// Programs for the forward and the reverse search, and for resumable searches.
        const PROGRAMS: usize = 3;
        self.program.nfa.memory_usage() * PROGRAMS
    }
}

fn expected_regex(why: &regex::Error) -> String {
    match why {
        regex::Error::CompiledTooBig(limit) => format!("a regex that compiles to at most {limit} bytes"),
        why => {
            // The last line of a syntax error has the reason; the lines before draw the pattern.
            let reason = why.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            format!("a regular expression as in Rust's regex crate ({reason})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_or_oversized_regex_is_refused_with_the_reason() {
        let refused = |pattern: &str| Pattern::compile("regex", pattern).unwrap_err();
        assert!(refused("a(b").to_string().contains("unclosed group"));
        assert!(refused(r"(\w{500}){500}").expected.contains("bytes"));
        assert!(refused(&"x".repeat(MAX_PATTERN_BYTES + 1)).expected.contains("4096 bytes"));
        assert!(Pattern::compile("regex", "ok").unwrap().regex().is_match(b"\xffok"));
    }

    #[test]
    fn rules_with_other_limits_have_another_version() {
        assert_eq!(
            (RULES_VERSION, MAX_PATTERN_BYTES, MAX_PROGRAM_BYTES, MAX_CHECK_BYTES, MAX_STEPS_PER_BYTE),
            (3, 4_096, 1 << 20, 32 << 20, 1_024)
        );
    }

    #[test]
    fn a_regex_that_is_costly_per_byte_is_refused_with_its_cost() {
        for pattern in [
            r"(?:[a-z]{0,50}x?){50}!",
            r"(?-u)(?:[^\n]{0,40}[a-z]{0,40}){30}\x00",
            r"(?:a?){1000}(?:[ab]{0,1000}){2}c",
            r"(?s)^.*(?:[a-y]{1,90}|[b-z]{1,90}){20}0",
            r"\b(?:[a-z]{0,30}-?){40}\b!",
        ] {
            let why = Pattern::compile("not_regex", pattern).unwrap_err();
            assert_eq!(why.field, "not_regex");
            assert!(
                why.expected.contains("steps for a byte; this one takes "),
                "{pattern}: {}",
                why.expected
            );
        }
    }

    #[test]
    fn common_regexes_are_within_the_cost_limit() {
        let many: Vec<String> = (0..400).map(|i| format!("word{i}")).collect();
        for pattern in [
            "Welcome to our shop",
            r"(?i)\b(?:error|warning|fatal|exception|traceback|panicked at)\b",
            r#""status"\s*:\s*"(?:ok|up|healthy)""#,
            r"<title>[^<]{1,300}</title>",
            r"(?s)<html.*</html>\s*$",
            r"^\{.*\}$",
            r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}",
            r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}\.[A-Za-z]{2,63}",
            r"\w{15}",
            r"(?:\w+\s+){3,20}end",
            r"v\d+\.\d+\.\d+(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
            &many.join("|"),
            &format!("(?i){}", many[..300].join("|")),
        ] {
            assert!(Pattern::compile("regex", pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn the_measured_memory_of_a_regex_grows_with_its_program() {
        let memory = ["ok", r"\w{10}", r"\w{15}"]
            .map(|pattern| Pattern::compile("regex", pattern).unwrap().memory_usage());
        assert!(
            memory.is_sorted() && memory[0] < memory[2] && memory[2] <= 3 * MAX_PROGRAM_BYTES,
            "{memory:?}"
        );
    }
}
