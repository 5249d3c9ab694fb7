//! Body assertions, evaluated once on the whole body or on its part up to the limit.
//!
//! The cost of a search is bounded in advance or counted while the search runs. Short searches run
//! inline; longer searches run in slices on the threads of [`match_queue`].

pub(super) mod match_queue;

use picket_proto::{
    Cause, Check, Pattern,
    pattern::{MAX_STEPS, PatternSearch, SearchStatus},
};

use super::failure::Failure;

/// Extent of the body received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyExtent {
    /// The complete body.
    Complete,
    /// The body is longer, and the rest is not read.
    Truncated,
}

/// Result of an evaluation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Evaluation {
    Decided(Result<(), Failure>),
    /// The slice is used up; the next call resumes the search.
    Interrupted,
}

/// Patterns that the body must and must not match, with the progress of their searches.
pub(super) struct BodyMatcher {
    regex: Option<TrackedPattern>,
    not_regex: Option<TrackedPattern>,
}

impl BodyMatcher {
    /// Bytes after a match that can still invalidate it: `$` and `\b` look ahead by one character.
    const LOOK_AHEAD_BYTES: usize = 4;
    /// Maximum steps of all inline searches of a check: some milliseconds, mostly far less.
    const MAX_INLINE_STEPS: u64 = 1 << 20;
    /// Steps between two points at which a search can be interrupted.
    const STEPS_PER_SLICE: u64 = 1 << 20;

    pub(super) fn new(check: &Check) -> Self {
        let searched = |pattern: &Option<Pattern>| pattern.clone().map(TrackedPattern::new);
        Self { regex: searched(&check.regex), not_regex: searched(&check.not_regex) }
    }

    /// Returns true if the verdict does not depend on the body.
    pub(super) fn is_unasserted(&self) -> bool {
        self.regex.is_none() && self.not_regex.is_none()
    }

    /// Result of `regex`, if decided.
    pub(super) fn regex_matched(&self) -> Option<bool> {
        match self.regex.as_ref()?.result? {
            SearchResult::Matched => Some(true),
            SearchResult::NotMatched => Some(false),
            SearchResult::Uncertain => None,
        }
    }

    fn iter_searches(&self) -> impl Iterator<Item = &TrackedPattern> {
        self.regex.iter().chain(&self.not_regex)
    }

    /// Returns true if evaluating a body of this length is cheap enough to run inline.
    pub(super) fn is_cheap(&self, length: usize) -> bool {
        let steps =
            self.iter_searches().map(|search| search.pattern.max_steps(length)).fold(0, u64::saturating_add);
        steps <= Self::MAX_INLINE_STEPS
    }

    /// Steps spent so far, as an upper bound.
    pub(super) fn steps_spent(&self) -> u64 {
        self.iter_searches().map(TrackedPattern::steps_spent).fold(0, u64::saturating_add)
    }

    /// Evaluates the body for one slice. The body is the same in each call.
    pub(super) fn evaluate(&mut self, body: &[u8], extent: BodyExtent) -> Evaluation {
        use SearchResult::{Matched, NotMatched, Uncertain};
        let size = body.len();
        let refusal = |cause, why: String| Evaluation::Decided(Err(Failure::new(cause, why)));
        let left = MAX_STEPS.saturating_sub(self.steps_spent());
        // `not_regex` first: a match decides the verdict alone and makes `regex` irrelevant.
        let not_regex = self.not_regex.as_mut().map(|search| search.advance(body, extent, left));
        let regex = self.regex.as_mut().map(|search| search.advance(body, extent, left));
        match (regex, not_regex) {
            (_, Some(Some(Matched))) => refusal(Cause::Body, "not_regex matches the body".to_owned()),
            (Some(Some(NotMatched)), _) => {
                refusal(Cause::Body, format!("regex does not match the body ({size} bytes)"))
            }
            (Some(None), _) | (_, Some(None)) if self.steps_spent() < MAX_STEPS => Evaluation::Interrupted,
            (Some(None), _) | (_, Some(None)) => {
                // The regex is the operator's and the step limit is Picket's: no verdict about the
                // site.
                let open = if regex == Some(None) { "regex" } else { "not_regex" };
                let why = format!(
                    "{open} is not decided after {MAX_STEPS} steps, which is the most that a check may take; the body \
                     has {size} bytes"
                );
                refusal(Cause::Overloaded, why)
            }
            (Some(Some(Uncertain)), _) | (_, Some(Some(Uncertain))) => {
                let open = if regex == Some(Some(Uncertain)) { "regex" } else { "not_regex" };
                let why = format!("{open} is not decided after the first {size} bytes, and no more is read");
                refusal(Cause::BodyTooLarge, why)
            }
            (None | Some(Some(Matched)), None | Some(Some(NotMatched))) => Evaluation::Decided(Ok(())),
        }
    }
}

/// Pattern with the cost and the result of its search.
struct TrackedPattern {
    pattern: Pattern,
    /// Resumable search, for a search that may take long.
    search: Option<Box<PatternSearch>>,
    /// Upper bound for the steps of the search that cannot be interrupted.
    unbroken_steps: u64,
    /// `None` until the search has ended.
    result: Option<SearchResult>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchResult {
    Matched,
    NotMatched,
    /// The rest of a truncated body could change the result.
    Uncertain,
}

impl TrackedPattern {
    /// Maximum steps of an uninterruptible search.
    const MAX_UNBROKEN_STEPS: u64 = 1 << 22;

    fn new(pattern: Pattern) -> Self {
        Self { pattern, search: None, unbroken_steps: 0, result: None }
    }

    fn steps_spent(&self) -> u64 {
        self.unbroken_steps + self.search.as_ref().map_or(0, |search| search.steps_taken())
    }

    /// Searches `body` for one slice and at most `left` steps. Returns the result once it is known.
    fn advance(&mut self, body: &[u8], extent: BodyExtent, left: u64) -> Option<SearchResult> {
        if self.result.is_none() {
            self.result = self.search_body(body, extent == BodyExtent::Complete, left);
        }
        self.result
    }

    fn search_body(&mut self, body: &[u8], whole: bool, left: u64) -> Option<SearchResult> {
        let most = self.pattern.max_steps(body.len());
        // While the worst case is affordable, a full search is faster than the resumable one.
        if most <= Self::MAX_UNBROKEN_STEPS {
            self.unbroken_steps = most;
            let regex = self.pattern.regex();
            let is_match = match whole {
                true => regex.is_match(body),
                false => regex
                    .shortest_match(body)
                    .is_some_and(|end| end + BodyMatcher::LOOK_AHEAD_BYTES <= body.len()),
            };
            return Some(SearchResult::from_match(is_match, whole));
        }
        let search = self.search.get_or_insert_with(|| Box::new(self.pattern.start_search()));
        match search.resume(body, whole, left.min(BodyMatcher::STEPS_PER_SLICE)) {
            SearchStatus::Matched => Some(SearchResult::Matched),
            SearchStatus::NotMatched => Some(SearchResult::from_match(false, whole)),
            SearchStatus::Interrupted => None,
        }
    }
}

impl SearchResult {
    fn from_match(is_match: bool, whole: bool) -> Self {
        match (is_match, whole) {
            (true, _) => Self::Matched,
            (false, true) => Self::NotMatched,
            (false, false) => Self::Uncertain,
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::CheckRequest;

    use super::*;

    fn matching(regex: Option<&str>, not_regex: Option<&str>) -> BodyMatcher {
        let request = CheckRequest {
            regex: regex.map(Into::into),
            not_regex: not_regex.map(Into::into),
            ..CheckRequest::new("http://a.example/")
        };
        BodyMatcher::new(&request.validate().unwrap())
    }

    /// The cause of the failure, if any.
    fn verdict(matching: &mut BodyMatcher, body: &[u8], extent: BodyExtent) -> Option<Cause> {
        loop {
            if let Evaluation::Decided(verdict) = matching.evaluate(body, extent) {
                return verdict.err().map(|failure| failure.cause);
            }
        }
    }

    #[test]
    fn a_body_is_matched_by_both_regexes_and_a_truncated_one_only_where_decidable() {
        use BodyExtent::{Complete, Truncated};
        let (up, body, too_large) = (None, Some(Cause::Body), Some(Cause::BodyTooLarge));
        for (regex, not_regex, extent, expected, matched) in [
            (None, None, Complete, up, None),
            (None, None, Truncated, up, None),
            (Some("well"), None, Complete, up, Some(true)),
            (Some("well"), None, Truncated, up, Some(true)),
            (Some("bad"), None, Complete, body, Some(false)),
            (Some("bad"), None, Truncated, too_large, None),
            (None, Some("well"), Complete, body, None),
            (None, Some("well"), Truncated, body, None),
            (None, Some("bad"), Complete, up, None),
            (None, Some("bad"), Truncated, too_large, None),
            (Some("well"), Some("bad"), Complete, up, Some(true)),
            (Some("well"), Some("bad"), Truncated, too_large, Some(true)),
            (Some("bad"), Some("well"), Truncated, body, None),
            (Some("bad"), Some("well"), Complete, body, Some(false)),
        ] {
            let mut matching = matching(regex, not_regex);
            let seen = verdict(&mut matching, b"\xffall is well here", extent);
            assert_eq!(
                (seen, matching.regex_matched()),
                (expected, matched),
                "{regex:?} {not_regex:?} {extent:?}"
            );
        }
    }

    #[test]
    fn a_match_that_unread_bytes_could_change_is_undecided() {
        let too_large = Some(Cause::BodyTooLarge);
        for pattern in ["well$", r"well\b", r"well\z", "well"] {
            let cut = verdict(&mut matching(Some(pattern), None), b"all is well", BodyExtent::Truncated);
            assert_eq!(cut, too_large, "{pattern}: it is not the body's end");
            let more = b"all is wellington, and more";
            let expected = if pattern == "well" { None } else { Some(Cause::Body) };
            let seen = verdict(&mut matching(Some(pattern), None), more, BodyExtent::Complete);
            assert_eq!(seen, expected, "{pattern}");
        }
        for pattern in ["(?m)well$", r"well\b", "w.*", r"well(\z|\n)"] {
            let cut =
                verdict(&mut matching(Some(pattern), None), b"all is well\nand so on", BodyExtent::Truncated);
            assert_eq!(cut, None, "{pattern}");
        }
    }

    #[test]
    fn bytes_are_matched_and_not_text() {
        let latin = "caf\u{e9} ferm\u{e9}".chars().map(|letter| letter as u8).collect::<Vec<u8>>();
        for pattern in [r"(?-u)caf\xe9", "ferm", r"(?s-u)caf. ferm.$"] {
            let seen = verdict(&mut matching(Some(pattern), None), &latin, BodyExtent::Complete);
            assert_eq!(seen, None, "{pattern}");
        }
    }

    /// As expensive as validation accepts, with a word boundary, for which the regex engine cannot
    /// cache state sets in non-ASCII text.
    const COSTLY_PATTERN: &str = r"(?:[ab]{0,99}b?){5}\b!";

    fn dear_body(length: usize) -> Vec<u8> {
        "\u{e9}".bytes().chain(b"ab".iter().copied().cycle()).take(length).collect()
    }

    #[test]
    fn a_regex_beyond_the_matching_limit_is_abandoned_as_missed() {
        let mut matching = matching(Some(COSTLY_PATTERN), None);
        let body = dear_body(200_000);
        let mut turns = 0;
        let verdict = loop {
            let before = matching.steps_spent();
            match matching.evaluate(&body, BodyExtent::Complete) {
                Evaluation::Decided(verdict) => break verdict,
                look => assert_eq!(look, Evaluation::Interrupted),
            }
            turns += 1;
            assert!(
                matching.steps_spent() - before < 2 * BodyMatcher::STEPS_PER_SLICE,
                "{}",
                matching.steps_spent() - before
            );
        };
        let failure = verdict.unwrap_err();
        assert_eq!(failure.cause, Cause::Overloaded);
        assert!(failure.message.starts_with("regex is not decided after 67108864 steps"), "{failure:?}");
        assert!(turns > 50 && matching.steps_spent() < MAX_STEPS + BodyMatcher::STEPS_PER_SLICE, "{turns}");
    }

    #[test]
    fn a_body_matched_in_slices_has_the_same_verdict_as_at_once() {
        for (pattern, matches) in
            [("end of it$", true), (r"\bend\b", true), ("(?i)END OF", true), (COSTLY_PATTERN, false)]
        {
            let mut body = dear_body(if pattern == COSTLY_PATTERN { 20_000 } else { 600_000 });
            body.extend(b" the end of it");
            let expected = if matches { None } else { Some(Cause::Body) };
            let seen = verdict(&mut matching(Some(pattern), None), &body, BodyExtent::Complete);
            assert_eq!(seen, expected, "{pattern}");
        }
    }
}
