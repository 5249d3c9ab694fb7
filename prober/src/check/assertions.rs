//! Assertions about a finished response beyond the status and one regex: its headers, its URL, and
//! its body.
//!
//! Assertions are evaluated one after the other, and each can be interrupted between slices of
//! steps. The parts about JSON have a budget of their own, small enough to need no interruption.

mod asserted_item;
mod explanation;
mod json_condition;
mod limits;
mod shape;

use std::sync::Arc;

use picket_proto::{
    Cause, Check, Pattern,
    http_assertions::{ByteRange, CompiledAssertions, CompiledHeader, CompiledJson, HeaderCondition},
    json_path::{DocumentError, JsonDocument, StepBudget},
    pattern::MAX_STEPS,
};
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;

use self::asserted_item::AssertedItem;
pub use self::limits::apply_must_fail;
pub(crate) use self::limits::expects_failure;
pub(super) use self::{
    explanation::{ExplainedCheck, explain_assertions},
    limits::{check_limits, list_warnings},
};
use super::{
    failure::Failure,
    finding::{Finding, FindingStatus},
    tracked_pattern::{BodyExtent, STEPS_PER_SLICE, SearchResult, TrackedPattern},
};

/// Evaluation of the assertions of one check.
pub(super) struct AssertionMatcher {
    assertions: Arc<CompiledAssertions>,
    is_explaining: bool,
    headers: HeaderMap,
    /// URL of the response, without fragment.
    url: String,
    /// Index of the assertion that is evaluated next.
    next_item: usize,
    /// Index of the header's value that is searched next.
    next_value: usize,
    /// Current search, if interrupted.
    search: Option<TrackedPattern>,
    /// Steps of finished searches and of JSON.
    finished_steps: u64,
    document: Option<Result<JsonDocument, DocumentError>>,
    json_steps: u64,
    max_json_steps: u64,
    /// Results that decide the verdict; all results if the check is explained.
    findings: Vec<Finding>,
}

/// Result of an assertion, and the description of what was found.
type ItemResult = (FindingStatus, String);

impl AssertionMatcher {
    /// Maximum steps of all assertions about JSON. They run without interruption, on a thread of
    /// the match queue. A step takes 8 to 25 ns, and parsing a body of 1 MiB up to 30 ms before.
    const MAX_JSON_STEPS: u64 = 1 << 20;
    /// Maximum length of a body that is parsed inline, and maximum steps of its evaluation.
    const MAX_INLINE_JSON_BYTES: usize = 16 << 10;
    const MAX_INLINE_JSON_STEPS: u64 = 1 << 16;
    /// Maximum steps of a search without interruption. All searches of a check together stay far
    /// below the steps that a check may take.
    const MAX_UNBROKEN_STEPS: u64 = 1 << 20;

    /// Creates the evaluation; `None` if nothing is asserted about the response.
    pub(super) fn new(check: &Check) -> Option<Self> {
        let assertions = check.assertions.as_ref()?;
        assertions.needs_response().then(|| Self {
            assertions: Arc::clone(assertions),
            is_explaining: check.explain,
            headers: HeaderMap::new(),
            url: String::new(),
            next_item: 0,
            next_value: 0,
            search: None,
            finished_steps: 0,
            document: None,
            json_steps: 0,
            max_json_steps: Self::MAX_JSON_STEPS,
            findings: Vec::new(),
        })
    }

    /// Sets the headers and the URL of the response.
    pub(super) fn set_head(&mut self, headers: &HeaderMap, url: &Url) {
        if !self.assertions.headers.is_empty() {
            self.headers = headers.clone();
        }
        if self.assertions.final_url.is_some() {
            let mut url = url.clone();
            url.set_fragment(None);
            self.url = url.into();
        }
    }

    pub(super) fn needs_body(&self) -> bool {
        self.assertions.needs_body()
    }

    pub(super) fn is_explaining(&self) -> bool {
        self.is_explaining
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    /// Upper bound for the steps of all searches with a body of `length` bytes. JSON counts as
    /// expensive if the body is too long to parse inline.
    pub(super) fn max_steps(&self, length: usize) -> u64 {
        let assertions = &*self.assertions;
        let body = assertions.regexes.iter().chain(&assertions.not_regexes);
        let body = body.map(|pattern| pattern.max_steps(length));
        let headers = assertions.headers.iter().filter_map(|header| match &header.condition {
            HeaderCondition::Matches(pattern) | HeaderCondition::MatchesNot(pattern) => {
                let length = self.headers.get_all(&header.name).iter().map(HeaderValue::len).sum();
                Some(pattern.max_steps(length))
            }
            HeaderCondition::Absent => None,
        });
        let url = assertions.final_url.iter().map(|pattern| pattern.max_steps(self.url.len()));
        let is_long = !assertions.json.is_empty() && length > Self::MAX_INLINE_JSON_BYTES;
        let json = if is_long { u64::MAX } else { 0 };
        body.chain(headers).chain(url).fold(json, u64::saturating_add)
    }

    /// Steps spent so far, as an upper bound.
    pub(super) fn steps_spent(&self) -> u64 {
        self.finished_steps + self.search.as_ref().map_or(0, TrackedPattern::steps_spent)
    }

    /// Evaluates for one slice, and for at most `limit` steps in all calls together. Returns `None`
    /// if the slice is used up.
    pub(super) fn evaluate(
        &mut self,
        body: &[u8],
        extent: BodyExtent,
        limit: u64,
    ) -> Option<Result<(), Failure>> {
        let assertions = Arc::clone(&self.assertions);
        let slice_end = self.steps_spent() + STEPS_PER_SLICE;
        while let Some(item) = AssertedItem::nth(&assertions, self.next_item) {
            if self.steps_spent() >= slice_end {
                return None;
            }
            let left = limit.saturating_sub(self.steps_spent());
            let result = self.evaluate_item(&item, body, extent, left);
            let result = match result {
                Some(result) => result,
                None if self.steps_spent() < limit => return None,
                None => overloaded_result(body),
            };
            self.finished_steps = self.steps_spent();
            self.search = None;
            self.next_value = 0;
            self.next_item += 1;
            let status = result.0;
            if status != FindingStatus::Passed || self.is_explaining {
                self.findings.push(Finding { name: item.name(), status, found: result.1 });
            }
            if matches!(status, FindingStatus::Failed(_)) && !self.is_explaining {
                break;
            }
        }
        Some(self.decide_verdict())
    }

    /// Evaluates an assertion; `None` if it is interrupted.
    fn evaluate_item(
        &mut self,
        item: &AssertedItem<'_>,
        body: &[u8],
        extent: BodyExtent,
        left: u64,
    ) -> Option<ItemResult> {
        match item {
            AssertedItem::FinalUrl(pattern) => {
                let url = std::mem::take(&mut self.url);
                let result = self.search_text(pattern, url.as_bytes(), BodyExtent::Complete, left);
                let found = shape::describe_url(&url);
                self.url = url;
                Some((to_status(result? == SearchResult::Matched, Cause::Redirect), found))
            }
            AssertedItem::Header(_, header) => self.evaluate_header(header, left),
            AssertedItem::BodyBytes(range) => Some(evaluate_size(*range, body.len(), extent)),
            AssertedItem::Regex(_, pattern) => {
                Some(describe_match(self.search_text(pattern, body, extent, left)?, true, body))
            }
            AssertedItem::NotRegex(_, pattern) => {
                Some(describe_match(self.search_text(pattern, body, extent, left)?, false, body))
            }
            AssertedItem::Json(_, json) => self.evaluate_json(json, body, extent, left),
        }
    }

    /// Searches a text for one slice; `None` if the search is interrupted.
    fn search_text(
        &mut self,
        pattern: &Pattern,
        text: &[u8],
        extent: BodyExtent,
        left: u64,
    ) -> Option<SearchResult> {
        let search = self.search.get_or_insert_with(|| {
            TrackedPattern::with_unbroken_steps(pattern.clone(), Self::MAX_UNBROKEN_STEPS)
        });
        let result = search.advance(text, extent, left)?;
        self.finished_steps += search.steps_spent();
        self.search = None;
        Some(result)
    }

    fn evaluate_header(&mut self, header: &CompiledHeader, limit: u64) -> Option<ItemResult> {
        // The map is taken for the time of the call, since the search changes the matcher.
        let headers = std::mem::take(&mut self.headers);
        let result = self.evaluate_values(header, &headers, limit);
        self.headers = headers;
        result
    }

    fn evaluate_values(
        &mut self,
        header: &CompiledHeader,
        headers: &HeaderMap,
        limit: u64,
    ) -> Option<ItemResult> {
        let values: Vec<&HeaderValue> = headers.get_all(&header.name).iter().collect();
        let (pattern, wanted) = match &header.condition {
            HeaderCondition::Absent => {
                let found = shape::describe_header(&header.name, &values);
                return Some((to_status(values.is_empty(), Cause::Header), found));
            }
            HeaderCondition::Matches(pattern) => (pattern, true),
            HeaderCondition::MatchesNot(pattern) => (pattern, false),
        };
        let before = self.steps_spent();
        while let Some(value) = values.get(self.next_value) {
            let left = limit.saturating_sub(self.steps_spent() - before);
            let result = self.search_text(pattern, value.as_bytes(), BodyExtent::Complete, left)?;
            if result == SearchResult::Matched {
                let found = shape::describe_header(&header.name, &values[self.next_value..=self.next_value]);
                return Some((to_status(wanted, Cause::Header), found));
            }
            self.next_value += 1;
        }
        let is_met = !wanted && !values.is_empty();
        Some((to_status(is_met, Cause::Header), shape::describe_header(&header.name, &values)))
    }

    fn evaluate_json(
        &mut self,
        json: &CompiledJson,
        body: &[u8],
        extent: BodyExtent,
        left: u64,
    ) -> Option<ItemResult> {
        if extent == BodyExtent::Truncated {
            return Some(too_large_result(body));
        }
        if self.document.is_none() && body.len() <= Self::MAX_INLINE_JSON_BYTES {
            self.max_json_steps = Self::MAX_INLINE_JSON_STEPS;
        }
        let document = self.document.get_or_insert_with(|| JsonDocument::parse(body));
        let document = match document {
            Ok(document) => document,
            Err(DocumentError::TooManyValues) => {
                let found = format!("a body of more than {} JSON values", JsonDocument::MAX_VALUES);
                return Some((FindingStatus::Undecided(Cause::Overloaded), found));
            }
            Err(why) => {
                let found = format!("a body of {} bytes that is {why}", body.len());
                return Some((FindingStatus::Failed(Cause::Body), found));
            }
        };
        let mut budget = StepBudget::new(left.min(self.max_json_steps.saturating_sub(self.json_steps)));
        let result = json_condition::evaluate_condition(json, document, &mut budget);
        self.json_steps += budget.taken();
        self.finished_steps += budget.taken();
        match result {
            Ok((is_met, found)) => Some((to_status(is_met, Cause::Body), found)),
            // Inline evaluation has fewer steps; the next call has all of them.
            Err(_) if self.max_json_steps < Self::MAX_JSON_STEPS => {
                self.max_json_steps = Self::MAX_JSON_STEPS;
                None
            }
            Err(_) => {
                let found = format!("no result after {} steps", self.json_steps);
                Some((FindingStatus::Undecided(Cause::Overloaded), found))
            }
        }
    }

    /// The first failure for certain, or else the first undecided assertion of the prober's fault,
    /// or else the first of a cut body.
    fn decide_verdict(&self) -> Result<(), Failure> {
        let find =
            |wanted: fn(FindingStatus) -> bool| self.findings.iter().find(|finding| wanted(finding.status));
        let deciding = find(|status| matches!(status, FindingStatus::Failed(_)))
            .or_else(|| find(|status| status == FindingStatus::Undecided(Cause::Overloaded)))
            .or_else(|| find(|status| matches!(status, FindingStatus::Undecided(_))));
        let Some(finding) = deciding else { return Ok(()) };
        let expected = AssertedItem::all(&self.assertions)
            .find(|item| item.name() == finding.name)
            .map(|item| item.expected())
            .unwrap_or_default();
        let Finding { name, status, found } = finding;
        match status {
            FindingStatus::Passed => Ok(()),
            FindingStatus::Failed(cause) => {
                Err(Failure::new(*cause, format!("{name}: found {found}, expected {expected}")))
            }
            FindingStatus::Undecided(cause) => {
                Err(Failure::new(*cause, format!("{name} is not decided: {found}, expected {expected}")))
            }
        }
    }
}

fn to_status(is_met: bool, cause: Cause) -> FindingStatus {
    if is_met { FindingStatus::Passed } else { FindingStatus::Failed(cause) }
}

fn too_large_result(body: &[u8]) -> ItemResult {
    let found = format!("only the first {} bytes are read", body.len());
    (FindingStatus::Undecided(Cause::BodyTooLarge), found)
}

fn overloaded_result(body: &[u8]) -> ItemResult {
    let found =
        format!("no result after {MAX_STEPS} steps, the most for a check, in a body of {} bytes", body.len());
    (FindingStatus::Undecided(Cause::Overloaded), found)
}

/// Result of a regex for the body that is `wanted` to match or not.
fn describe_match(result: SearchResult, wanted: bool, body: &[u8]) -> ItemResult {
    let found = match result {
        SearchResult::Matched => "a match".to_owned(),
        SearchResult::NotMatched => format!("no match in {} bytes", body.len()),
        SearchResult::Uncertain => return too_large_result(body),
    };
    (to_status((result == SearchResult::Matched) == wanted, Cause::Body), found)
}

fn evaluate_size(ByteRange { min, max }: ByteRange, length: usize, extent: BodyExtent) -> ItemResult {
    let length = length as u64;
    let is_cut = extent == BodyExtent::Truncated;
    let found = if is_cut { format!("more than {length} bytes") } else { format!("{length} bytes") };
    let is_too_long = max.is_some_and(|max| length > max || (is_cut && length == max));
    let is_too_short = min.is_some_and(|min| length < min);
    match is_cut {
        _ if is_too_long => (FindingStatus::Failed(Cause::Body), found),
        // More bytes follow, so that a minimum may be met and a maximum exceeded.
        true if is_too_short || max.is_some() => (FindingStatus::Undecided(Cause::BodyTooLarge), found),
        _ => (to_status(!is_too_short, Cause::Body), found),
    }
}

#[cfg(test)]
mod tests;
