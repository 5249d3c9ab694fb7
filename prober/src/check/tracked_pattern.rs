//! Search of one pattern in a text, with its cost and its result.

use picket_proto::{
    Pattern,
    pattern::{PatternSearch, SearchStatus},
};

/// Steps between two points at which a search can be interrupted.
pub(super) const STEPS_PER_SLICE: u64 = 1 << 20;
/// Bytes after a match that can still invalidate it: `$` and `\b` look ahead by one character.
const LOOK_AHEAD_BYTES: usize = 4;

/// Extent of the body received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyExtent {
    /// The complete body.
    Complete,
    /// The body is longer, and the rest is not read.
    Truncated,
}

/// Pattern with the cost and the result of its search.
pub(super) struct TrackedPattern {
    pattern: Pattern,
    /// Maximum steps of an uninterruptible search.
    max_unbroken_steps: u64,
    /// Resumable search, for a search that may take long.
    search: Option<Box<PatternSearch>>,
    /// Upper bound for the steps of the search that cannot be interrupted.
    unbroken_steps: u64,
    /// `None` until the search has ended.
    result: Option<SearchResult>,
}

/// Result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SearchResult {
    Matched,
    NotMatched,
    /// The rest of a truncated body could change the result.
    Uncertain,
}

impl TrackedPattern {
    /// Maximum steps of an uninterruptible search for one of few patterns.
    const MAX_UNBROKEN_STEPS: u64 = 1 << 22;

    pub(super) fn new(pattern: Pattern) -> Self {
        Self::with_unbroken_steps(pattern, Self::MAX_UNBROKEN_STEPS)
    }

    /// A search that can be interrupted if it may take more than `max_unbroken_steps`.
    pub(super) fn with_unbroken_steps(pattern: Pattern, max_unbroken_steps: u64) -> Self {
        Self { pattern, max_unbroken_steps, search: None, unbroken_steps: 0, result: None }
    }

    /// Upper bound for the steps of a search through `length` bytes.
    pub(super) fn max_steps(&self, length: usize) -> u64 {
        self.pattern.max_steps(length)
    }

    /// The result; `None` until the search has ended.
    pub(super) fn result(&self) -> Option<SearchResult> {
        self.result
    }

    /// Steps spent so far, as an upper bound.
    pub(super) fn steps_spent(&self) -> u64 {
        self.unbroken_steps + self.search.as_ref().map_or(0, |search| search.steps_taken())
    }

    /// Searches `body` for one slice and at most `left` steps. Returns the result once it is known.
    pub(super) fn advance(&mut self, body: &[u8], extent: BodyExtent, left: u64) -> Option<SearchResult> {
        if self.result.is_none() {
            self.result = self.search_body(body, extent == BodyExtent::Complete, left);
        }
        self.result
    }

    fn search_body(&mut self, body: &[u8], whole: bool, left: u64) -> Option<SearchResult> {
        let most = self.pattern.max_steps(body.len());
        // While the worst case is affordable, a full search is faster than the resumable one.
        if most <= self.max_unbroken_steps.min(left) && self.search.is_none() {
            self.unbroken_steps = most;
            let regex = self.pattern.regex();
            let is_match = match whole {
                true => regex.is_match(body),
                false => regex.shortest_match(body).is_some_and(|end| end + LOOK_AHEAD_BYTES <= body.len()),
            };
            return Some(SearchResult::from_match(is_match, whole));
        }
        let search = self.search.get_or_insert_with(|| Box::new(self.pattern.start_search()));
        match search.resume(body, whole, left.min(STEPS_PER_SLICE)) {
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
