//! Validated assertions, ready for evaluation.

use std::time::Duration;

use serde_json::Value;

use super::ByteRange;
use crate::{
    Cause, Pattern,
    json_path::{DocumentError, JsonDocument, JsonPath},
};

/// The assertions of a check with compiled regexes and paths. `P` is the type of compiled regexes,
/// or `()` where regexes are only validated.
#[derive(Clone, Debug)]
pub struct CompiledAssertions<P = Pattern> {
    /// Regexes that the body must match, each.
    pub regexes: Vec<P>,
    /// Regexes of which the body must match none.
    pub not_regexes: Vec<P>,
    /// Assertions about headers.
    pub headers: Vec<CompiledHeader<P>>,
    /// Assertions about the body as JSON.
    pub json: Vec<CompiledJson<P>>,
    /// Allowed size of the decoded body.
    pub body_bytes: Option<ByteRange>,
    /// Regex that the URL of the last response must match.
    pub final_url: Option<P>,
    /// Causes of failure of which one must occur; empty if the check must not fail.
    pub must_fail: Vec<Cause>,
    /// Time from which the result carries the warning `slow`.
    pub warn_after: Option<Duration>,
    /// Time from which the check is `down` with the cause `slow`.
    pub fail_after: Option<Duration>,
    /// Days before the end of a certificate at which results carry a warning; 0 for never.
    pub certificate_warn_days: i64,
    /// Days before the end of a certificate at which the check is `down`.
    pub certificate_min_days: Option<i64>,
}

/// An assertion about one header.
#[derive(Clone, Debug)]
pub struct CompiledHeader<P = Pattern> {
    /// Name in lower case.
    pub name: String,
    /// Condition for its values.
    pub condition: HeaderCondition<P>,
}

/// The condition for the values of a header.
#[derive(Clone, Debug)]
pub enum HeaderCondition<P = Pattern> {
    /// At least one value matches.
    Matches(P),
    /// The header is present, and no value matches.
    MatchesNot(P),
    /// The header is absent.
    Absent,
}

/// An assertion about the values that a path selects.
#[derive(Clone, Debug)]
pub struct CompiledJson<P = Pattern> {
    /// The path.
    pub path: JsonPath<P>,
    /// Condition for the selected values.
    pub condition: JsonCondition<P>,
}

/// The condition for the values that a path selects.
#[derive(Clone, Debug)]
pub enum JsonCondition<P = Pattern> {
    /// Each value is equal.
    Equals(ExpectedValue),
    /// No value is equal.
    NotEquals(ExpectedValue),
    /// Each value is a smaller number.
    LessThan(f64),
    /// Each value is a greater number.
    GreaterThan(f64),
    /// Each value is a text that matches.
    Matches(P),
    /// At least one value is selected.
    Exists,
    /// No value is selected.
    Absent,
    /// Each value has at least this many characters, items or members.
    MinLength(u64),
    /// Each value has at most this many characters, items or members.
    MaxLength(u64),
}

/// A value to compare with.
#[derive(Clone, Debug)]
pub struct ExpectedValue {
    /// The value as a document of its own.
    pub document: JsonDocument,
    /// The value as JSON.
    pub text: String,
}

impl<P> CompiledAssertions<P> {
    /// Returns true if an assertion is about the body.
    pub fn needs_body(&self) -> bool {
        !self.regexes.is_empty()
            || !self.not_regexes.is_empty()
            || !self.json.is_empty()
            || self.body_bytes.is_some()
    }

    /// Returns true if an assertion is about the response, its headers and its body.
    pub fn needs_response(&self) -> bool {
        self.needs_body() || !self.headers.is_empty() || self.final_url.is_some()
    }
}

impl ExpectedValue {
    pub(super) fn from_value(value: &Value) -> Result<Self, DocumentError> {
        let text = value.to_string();
        Ok(Self { document: JsonDocument::parse(text.as_bytes())?, text })
    }
}
