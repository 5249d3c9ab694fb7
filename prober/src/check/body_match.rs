//! Body assertions, evaluated once on the whole body or on its part up to the limit.
//!
//! The cost of a search is bounded in advance or counted while the search runs. Short searches run
//! inline; longer searches run in slices on the threads of [`match_queue`].

pub(super) mod match_queue;

use picket_proto::{Cause, Check, Pattern, pattern::MAX_STEPS};
use reqwest::header::HeaderMap;
use url::Url;

use super::{
    assertions::AssertionMatcher,
    failure::Failure,
    finding::{Finding, FindingStatus},
    tracked_pattern::{BodyExtent, SearchResult, TrackedPattern},
};

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
    /// Assertions beyond both patterns, about the body and about the head.
    assertions: Option<Box<AssertionMatcher>>,
}

impl BodyMatcher {
    /// Maximum steps of all inline searches of a check: some milliseconds, mostly far less.
    const MAX_INLINE_STEPS: u64 = 1 << 20;

    pub(super) fn new(check: &Check) -> Self {
        let searched = |pattern: &Option<Pattern>| pattern.clone().map(TrackedPattern::new);
        Self {
            regex: searched(&check.regex),
            not_regex: searched(&check.not_regex),
            assertions: AssertionMatcher::new(check).map(Box::new),
        }
    }

    /// Sets the head of the response, which some assertions are about.
    pub(super) fn set_head(&mut self, headers: &HeaderMap, url: &Url) {
        if let Some(assertions) = &mut self.assertions {
            assertions.set_head(headers, url);
        }
    }

    /// Returns true if the verdict does not depend on the body.
    pub(super) fn is_unasserted(&self) -> bool {
        self.regex.is_none()
            && self.not_regex.is_none()
            && self.assertions.as_ref().is_none_or(|assertions| !assertions.needs_body())
    }

    /// Result of `regex`, if decided.
    pub(super) fn regex_matched(&self) -> Option<bool> {
        is_matched(self.regex.as_ref()?)
    }

    /// Results of the single assertions, as far as they were evaluated.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, search, wanted) in [("regex", &self.regex, true), ("not_regex", &self.not_regex, false)] {
            let Some(search) = search else { continue };
            let (status, found) = match is_matched(search) {
                Some(is_match) if is_match == wanted => (FindingStatus::Passed, is_match),
                Some(is_match) => (FindingStatus::Failed(Cause::Body), is_match),
                None => continue,
            };
            let found = if found { "a match" } else { "no match" };
            findings.push(Finding { name: name.to_owned(), status, found: found.to_owned() });
        }
        findings.extend(self.assertions.into_iter().flat_map(|assertions| assertions.into_findings()));
        findings
    }

    fn iter_searches(&self) -> impl Iterator<Item = &TrackedPattern> {
        self.regex.iter().chain(&self.not_regex)
    }

    /// Returns true if evaluating a body of this length is cheap enough to run inline.
    pub(super) fn is_cheap(&self, length: usize) -> bool {
        let steps = self.iter_searches().map(|search| search.max_steps(length)).fold(0, u64::saturating_add);
        let assertions = self.assertions.as_ref().map_or(0, |assertions| assertions.max_steps(length));
        steps.saturating_add(assertions) <= Self::MAX_INLINE_STEPS
    }

    /// Steps spent so far, as an upper bound.
    pub(super) fn steps_spent(&self) -> u64 {
        let assertions = self.assertions.as_ref().map_or(0, |assertions| assertions.steps_spent());
        self.pattern_steps().saturating_add(assertions)
    }

    fn pattern_steps(&self) -> u64 {
        self.iter_searches().map(TrackedPattern::steps_spent).fold(0, u64::saturating_add)
    }

    /// Evaluates the response for one slice. The body is the same in each call.
    pub(super) fn evaluate(&mut self, body: &[u8], extent: BodyExtent) -> Evaluation {
        let own = self.evaluate_patterns(body, extent);
        let left = MAX_STEPS.saturating_sub(self.pattern_steps());
        let Some(assertions) = &mut self.assertions else { return own };
        let own = match own {
            Evaluation::Interrupted => return Evaluation::Interrupted,
            Evaluation::Decided(own) => own,
        };
        // A failure for certain needs no further assertion.
        if matches!(&own, Err(why) if why.cause == Cause::Body) && !assertions.is_explaining() {
            return Evaluation::Decided(own);
        }
        match assertions.evaluate(body, extent, left) {
            Some(theirs) => Evaluation::Decided(graver_verdict(own, theirs)),
            None => Evaluation::Interrupted,
        }
    }

    fn evaluate_patterns(&mut self, body: &[u8], extent: BodyExtent) -> Evaluation {
        use SearchResult::{Matched, NotMatched, Uncertain};
        let size = body.len();
        let refusal = |cause, why: String| Evaluation::Decided(Err(Failure::new(cause, why)));
        let left = MAX_STEPS.saturating_sub(self.pattern_steps());
        // `not_regex` first: a match decides the verdict alone and makes `regex` irrelevant.
        let not_regex = self.not_regex.as_mut().map(|search| search.advance(body, extent, left));
        let regex = self.regex.as_mut().map(|search| search.advance(body, extent, left));
        match (regex, not_regex) {
            (_, Some(Some(Matched))) => refusal(Cause::Body, "not_regex matches the body".to_owned()),
            (Some(Some(NotMatched)), _) => {
                refusal(Cause::Body, format!("regex does not match the body ({size} bytes)"))
            }
            (Some(None), _) | (_, Some(None)) if self.pattern_steps() < MAX_STEPS => Evaluation::Interrupted,
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

fn is_matched(search: &TrackedPattern) -> Option<bool> {
    match search.result()? {
        SearchResult::Matched => Some(true),
        SearchResult::NotMatched => Some(false),
        SearchResult::Uncertain => None,
    }
}

/// The verdict that counts: a failure for certain, then the prober's fault, then a body that is too
/// large to decide.
fn graver_verdict(own: Result<(), Failure>, theirs: Result<(), Failure>) -> Result<(), Failure> {
    let weight = |verdict: &Result<(), Failure>| match verdict.as_ref().err().map(|why| why.cause) {
        None => 0,
        Some(Cause::BodyTooLarge) => 1,
        Some(Cause::Overloaded) => 2,
        Some(_) => 3,
    };
    if weight(&theirs) > weight(&own) { theirs } else { own }
}

#[cfg(test)]
mod tests {
    use picket_proto::CheckRequest;

    use super::{super::tracked_pattern::STEPS_PER_SLICE, *};

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
                matching.steps_spent() - before < 2 * STEPS_PER_SLICE,
                "{}",
                matching.steps_spent() - before
            );
        };
        let failure = verdict.unwrap_err();
        assert_eq!(failure.cause, Cause::Overloaded);
        assert!(failure.message.starts_with("regex is not decided after 6291456 steps"), "{failure:?}");
        assert!(turns > 4 && matching.steps_spent() < MAX_STEPS + STEPS_PER_SLICE, "{turns}");
    }

    #[test]
    fn a_body_matched_in_slices_has_the_same_verdict_as_at_once() {
        for (pattern, matches) in
            [("end of it$", true), (r"\bend\b", true), ("(?i)END OF", true), (COSTLY_PATTERN, false)]
        {
            let mut body = dear_body(if pattern == COSTLY_PATTERN { 4_000 } else { 600_000 });
            body.extend(b" the end of it");
            let expected = if matches { None } else { Some(Cause::Body) };
            let seen = verdict(&mut matching(Some(pattern), None), &body, BodyExtent::Complete);
            assert_eq!(seen, expected, "{pattern}");
        }
    }
}
