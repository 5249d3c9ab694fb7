//! Body assertions, decided as early as possible while the body arrives.
//!
//! The cost of a search is bounded in advance or counted while the search runs. Short searches run
//! inline; longer searches run in slices on the threads of [`match_queue`].

pub(super) mod match_queue;

use picket_proto::{
    Cause, Check, Pattern,
    pattern::{MAX_STEPS, PatternSearch, SearchStatus},
};

use super::failure::Failure;

/// Extent of the body received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyExtent {
    /// More of the body may follow.
    Partial,
    /// The complete body.
    Complete,
    /// The body is longer, and the rest is not read.
    Truncated,
}

/// Result of an evaluation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Evaluation {
    Decided(Result<(), Failure>),
    /// More of the body is needed.
    Undecided,
    /// The slice is used up; the next call resumes the search.
    Interrupted,
}

/// Patterns that the body must and must not match, with the progress of their searches.
#[derive(Default)]
pub(super) struct BodyMatcher {
    regex: Option<TrackedPattern>,
    not_regex: Option<TrackedPattern>,
    /// Result of `regex`, if decided.
    pub(super) regex_matched: Option<bool>,
    /// Body length at the last evaluation.
    evaluated_len: usize,
    /// Bytes scanned so far, including repeated scans.
    scanned_bytes: usize,
}

impl BodyMatcher {
    /// Bytes after a match that can still invalidate it: `$` and `\b` look ahead by one character.
    const LOOK_AHEAD_BYTES: usize = 4;
    /// Smaller bodies are evaluated whenever more data has arrived.
    const SMALL_BODY_BYTES: usize = 64 << 10;
    /// Maximum scanning before the end of the body, as a multiple of its current length.
    const MAX_RESCANS: usize = 4;
    /// Maximum steps of all inline searches of a check: some milliseconds, mostly far less.
    const MAX_INLINE_STEPS: u64 = 1 << 20;
    /// Steps between two points at which a search can be interrupted.
    const STEPS_PER_SLICE: u64 = 1 << 20;

    pub(super) fn new(check: &Check) -> Self {
        let searched = |pattern: &Option<Pattern>| pattern.clone().map(TrackedPattern::new);
        Self {
            regex: searched(&check.regex),
            not_regex: searched(&check.not_regex),
            regex_matched: None,
            evaluated_len: 0,
            scanned_bytes: 0,
        }
    }

    /// Returns true if the verdict does not depend on the body.
    pub(super) fn is_unasserted(&self) -> bool {
        self.regex.is_none() && self.not_regex.is_none()
    }

    fn iter_searches(&self) -> impl Iterator<Item = &TrackedPattern> {
        self.regex.iter().chain(&self.not_regex)
    }

    /// Returns true if evaluating a body of this length is cheap enough to run inline.
    pub(super) fn is_cheap(&self, length: usize) -> bool {
        let steps = self
            .iter_searches()
            .map(|searched| searched.max_steps_after(length))
            .fold(0, u64::saturating_add);
        steps <= Self::MAX_INLINE_STEPS && self.iter_searches().all(|searched| searched.search.is_none())
    }

    /// Steps spent so far, as an upper bound.
    pub(super) fn steps_spent(&self) -> u64 {
        self.iter_searches().map(TrackedPattern::steps_spent).fold(0, u64::saturating_add)
    }

    /// Returns true if evaluating the partial body is worth the cost. The total cost is bounded for
    /// any chunking of the body.
    ///
    /// An evaluation is due each time the body has doubled. With `waiting` for more data, it is
    /// also due as long as the total effort is small.
    pub(super) fn should_evaluate(&self, length: usize, waiting: bool) -> bool {
        let small = |effort: usize| effort <= Self::MAX_RESCANS * length.max(Self::SMALL_BODY_BYTES);
        length > self.evaluated_len
            && (length / 2 >= self.evaluated_len.max(Self::SMALL_BODY_BYTES)
                || (waiting && small(self.scanned_bytes + length)))
    }

    /// Evaluates the body read so far, for one slice.
    pub(super) fn evaluate(&mut self, body: &[u8], extent: BodyExtent) -> Evaluation {
        if self.evaluated_len != body.len() {
            self.evaluated_len = body.len();
            self.scanned_bytes += body.len();
        }
        let size = body.len();
        let refusal = |why: String| Evaluation::Decided(Err(Failure::new(Cause::Body, why)));
        let left = MAX_STEPS.saturating_sub(self.steps_spent());
        let mut is_interrupted = false;
        let mut is_match = |searched: &mut TrackedPattern| match searched.search_body(body, extent, left) {
            SearchOutcome::Certain(matched) => Some(matched),
            SearchOutcome::Uncertain => None,
            SearchOutcome::Interrupted => {
                is_interrupted = true;
                None
            }
        };
        // `not_regex` first: a match decides the verdict alone and makes `regex` irrelevant.
        let not_matched = self.not_regex.as_mut().map_or(Some(false), &mut is_match);
        if self.regex_matched != Some(true) {
            self.regex_matched = self.regex.as_mut().and_then(&mut is_match);
        }
        if not_matched == Some(true) {
            return refusal("not_regex matches the body".to_owned());
        }
        if self.regex.is_some() && self.regex_matched == Some(false) {
            return refusal(format!("regex does not match the body ({size} bytes)"));
        }
        let open = match (self.regex.is_some() && self.regex_matched.is_none(), not_matched.is_none()) {
            (true, _) => "regex",
            (false, true) => "not_regex",
            (false, false) => return Evaluation::Decided(Ok(())),
        };
        if is_interrupted && self.steps_spent() < MAX_STEPS {
            return Evaluation::Interrupted;
        }
        if is_interrupted {
            // The regex is the operator's and the step limit is Picket's: no verdict about the
            // site.
            let why = format!(
                "{open} is not decided after {MAX_STEPS} steps, which is the most that a check may take; the body has \
                 {size} bytes so far"
            );
            return Evaluation::Decided(Err(Failure::new(Cause::Overloaded, why)));
        }
        if extent != BodyExtent::Truncated {
            return Evaluation::Undecided;
        }
        let why = format!("{open} is not decided after the first {size} bytes, and no more is read");
        Evaluation::Decided(Err(Failure::new(Cause::BodyTooLarge, why)))
    }
}

/// Pattern with the cost of its searches.
struct TrackedPattern {
    pattern: Pattern,
    /// Resumable search; created once repeated full searches may become expensive.
    search: Option<Box<PatternSearch>>,
    /// Upper bound for the steps of all full searches so far.
    max_steps_spent: u64,
}

enum SearchOutcome {
    Certain(bool),
    Uncertain,
    Interrupted,
}

impl TrackedPattern {
    /// Maximum steps of uninterruptible searches over the whole check.
    const MAX_UNBROKEN_STEPS: u64 = 1 << 22;

    fn new(pattern: Pattern) -> Self {
        Self { pattern, search: None, max_steps_spent: 0 }
    }

    fn max_steps_after(&self, length: usize) -> u64 {
        self.max_steps_spent.saturating_add(self.pattern.max_steps(length))
    }

    fn steps_spent(&self) -> u64 {
        self.max_steps_spent.saturating_add(self.search.as_ref().map_or(0, |search| search.steps_taken()))
    }

    /// Searches `seen`, the beginning of the body, for one slice and at most `left` steps.
    fn search_body(&mut self, seen: &[u8], extent: BodyExtent, left: u64) -> SearchOutcome {
        let whole = extent == BodyExtent::Complete;
        let most = self.max_steps_after(seen.len());
        // While the worst case is affordable, a full search is faster than the resumable one.
        if self.search.is_none() && most <= Self::MAX_UNBROKEN_STEPS {
            self.max_steps_spent = most;
            let regex = self.pattern.regex();
            if whole {
                return SearchOutcome::Certain(regex.is_match(seen));
            }
            return match regex.shortest_match(seen) {
                Some(end) if end + BodyMatcher::LOOK_AHEAD_BYTES <= seen.len() => {
                    SearchOutcome::Certain(true)
                }
                _ => SearchOutcome::Uncertain,
            };
        }
        let search = self.search.get_or_insert_with(|| Box::new(self.pattern.start_search()));
        match search.resume(seen, whole, left.min(BodyMatcher::STEPS_PER_SLICE)) {
            SearchStatus::Matched => SearchOutcome::Certain(true),
            SearchStatus::NotMatched if whole => SearchOutcome::Certain(false),
            SearchStatus::NotMatched => SearchOutcome::Uncertain,
            SearchStatus::Interrupted => SearchOutcome::Interrupted,
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

    /// `None` while undecided, else the cause of the failure, if any.
    fn verdict(matching: &mut BodyMatcher, body: &[u8], extent: BodyExtent) -> Option<Option<Cause>> {
        loop {
            match matching.evaluate(body, extent) {
                Evaluation::Decided(verdict) => return Some(verdict.err().map(|failure| failure.cause)),
                Evaluation::Undecided => return None,
                Evaluation::Interrupted => {}
            }
        }
    }

    #[test]
    fn a_body_is_judged_by_both_regexes_and_a_cut_one_only_where_it_can_be() {
        use BodyExtent::{Complete, Partial, Truncated};
        let (up, body, too_large) = (Some(None), Some(Some(Cause::Body)), Some(Some(Cause::BodyTooLarge)));
        for (regex, not_regex, extent, expected, matched) in [
            (None, None, Partial, up, None),
            (Some("well"), None, Complete, up, Some(true)),
            (Some("well"), None, Partial, up, Some(true)),
            (Some("well"), None, Truncated, up, Some(true)),
            (Some("bad"), None, Complete, body, Some(false)),
            (Some("bad"), None, Partial, None, None),
            (Some("bad"), None, Truncated, too_large, None),
            (None, Some("well"), Partial, body, None),
            (None, Some("bad"), Complete, up, None),
            (None, Some("bad"), Partial, None, None),
            (None, Some("bad"), Truncated, too_large, None),
            (Some("well"), Some("bad"), Partial, None, Some(true)),
            (Some("well"), Some("bad"), Truncated, too_large, Some(true)),
            (Some("bad"), Some("well"), Partial, body, None),
            (Some("bad"), Some("well"), Complete, body, Some(false)),
        ] {
            let mut matching = matching(regex, not_regex);
            let seen = verdict(&mut matching, b"\xffall is well here", extent);
            assert_eq!(
                (seen, matching.regex_matched),
                (expected, matched),
                "{regex:?} {not_regex:?} {extent:?}"
            );
        }
    }

    #[test]
    fn what_may_be_undone_by_what_follows_is_not_decided() {
        for pattern in ["well$", r"well\b", r"well\z", "well"] {
            let mut matching = matching(Some(pattern), None);
            assert_eq!(verdict(&mut matching, b"all is well", BodyExtent::Partial), None, "{pattern}");
            let more = b"all is wellington, and more";
            let expected = if pattern == "well" { None } else { Some(Cause::Body) };
            assert_eq!(verdict(&mut matching, more, BodyExtent::Complete), Some(expected), "{pattern}");
        }
        for pattern in ["(?m)well$", r"well\b", "w.*", r"well(\z|\n)"] {
            let seen =
                verdict(&mut matching(Some(pattern), None), b"all is well\nand so on", BodyExtent::Partial);
            assert_eq!(seen, Some(None), "{pattern}");
        }
        let cut = verdict(&mut matching(Some("well$"), None), b"all is well", BodyExtent::Truncated);
        assert_eq!(cut, Some(Some(Cause::BodyTooLarge)), "it is not the body's end");
    }

    #[test]
    fn a_body_in_the_smallest_pieces_costs_a_bounded_number_of_looks() {
        const LENGTH: usize = 1 << 20;
        let mut matching = matching(Some("bad"), None);
        let body = vec![b'x'; LENGTH];

        for length in 1..=LENGTH {
            if matching.should_evaluate(length, true) {
                let _ = matching.evaluate(&body[..length], BodyExtent::Partial);
            }
        }

        assert!(
            matching.scanned_bytes <= (BodyMatcher::MAX_RESCANS + 2) * LENGTH,
            "{}",
            matching.scanned_bytes
        );
    }

    #[test]
    fn bytes_are_matched_and_not_text() {
        let latin = "caf\u{e9} ferm\u{e9}".chars().map(|letter| letter as u8).collect::<Vec<u8>>();
        for pattern in [r"(?-u)caf\xe9", "ferm", r"(?s-u)caf. ferm.$"] {
            let seen = verdict(&mut matching(Some(pattern), None), &latin, BodyExtent::Complete);
            assert_eq!(seen, Some(None), "{pattern}");
        }
    }

    /// As expensive as validation accepts, with a word boundary, for which the regex engine cannot
    /// cache state sets in non-ASCII text.
    const DEAR: &str = r"(?:[ab]{0,99}b?){5}\b!";

    fn dear_body(length: usize) -> Vec<u8> {
        "\u{e9}".bytes().chain(b"ab".iter().copied().cycle()).take(length).collect()
    }

    #[test]
    fn a_regex_that_takes_more_than_a_check_may_is_given_up_and_the_site_is_not_blamed() {
        let mut matching = matching(Some(DEAR), None);
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
    fn a_long_body_is_judged_in_pieces_as_it_would_be_at_once() {
        for (pattern, matches) in
            [("end of it$", true), (r"\bend\b", true), ("(?i)END OF", true), (DEAR, false)]
        {
            let mut body = dear_body(if pattern == DEAR { 20_000 } else { 600_000 });
            body.extend(b" the end of it");
            let mut matching = matching(Some(pattern), None);
            for length in (1..body.len()).step_by(body.len() / 12).take(11) {
                assert_eq!(verdict(&mut matching, &body[..length], BodyExtent::Partial), None, "{pattern}");
            }
            let expected = if matches { None } else { Some(Cause::Body) };
            assert_eq!(verdict(&mut matching, &body, BodyExtent::Complete), Some(expected), "{pattern}");
        }
    }
}
