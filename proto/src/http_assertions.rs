//! Assertions about the response of an HTTP check, beyond the status and one regex.
//!
//! A failed transport satisfies no assertion, negative ones included.

mod compiled;
mod validation;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::compiled::{
    CompiledAssertions, CompiledHeader, CompiledJson, ExpectedValue, HeaderCondition, JsonCondition,
};
use crate::Cause;

/// The column `assertions` of a site, and the field of a request. Every field is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object, such as {\"warn_after_ms\": 2000}")]
pub struct HttpAssertions {
    /// Regexes that the body must match, each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regexes: Vec<String>,
    /// Regexes of which the body must match none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_regexes: Vec<String>,
    /// Assertions about headers of the last response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderAssertion>,
    /// Assertions about the body as JSON.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub json: Vec<JsonAssertion>,
    /// Allowed size of the decoded body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<ByteRange>,
    /// Regex that the URL of the last response must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_url: Option<String>,
    /// Causes of failure of which one must occur for the check to be `up`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub must_fail: Vec<Cause>,
    /// Total time, in milliseconds, from which an `up` result carries the warning `slow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warn_after_ms: Option<i64>,
    /// Total time, in milliseconds, from which the check is `down` with the cause `slow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_after_ms: Option<i64>,
    /// Days before the end of a certificate at which results carry the warning `certificate`; 0
    /// for never. Defaults to [`DEFAULT_CERTIFICATE_WARN_DAYS`](Self::DEFAULT_CERTIFICATE_WARN_DAYS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_warn_days: Option<i64>,
    /// Days before the end of a certificate at which the check is `down` with the cause
    /// `certificate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_min_days: Option<i64>,
}

/// An assertion about the values of one header: exactly one of the three conditions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, such as {\"name\": \"Server\", \"absent\": true}"
)]
pub struct HeaderAssertion {
    /// Name of the header, in any case.
    pub name: String,
    /// Regex that at least one value must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Regex that no value must match. The header must be present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_regex: Option<String>,
    /// True if the header must be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<bool>,
}

/// An assertion about the values that a JSONPath selects in the body: exactly one condition. The
/// path must select at least one value, and every selected value must meet the condition; only
/// `absent` is met if the path selects none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, such as {\"path\": \"$.status\", \"equals\": \"ok\"}"
)]
pub struct JsonAssertion {
    /// JSONPath as in RFC 9535.
    pub path: String,
    /// Value that is equal, type included.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present_value")]
    pub equals: Option<Value>,
    /// Value that is not equal.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present_value")]
    pub not_equals: Option<Value>,
    /// Exclusive upper bound of a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub less_than: Option<f64>,
    /// Exclusive lower bound of a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greater_than: Option<f64>,
    /// Regex that a text must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// True if the path must select at least one value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// True if the path must select no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<bool>,
    /// Minimum number of characters, items or members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u64>,
    /// Maximum number of characters, items or members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
}

/// An inclusive range of sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object, such as {\"min\": 1, \"max\": 100000}")]
pub struct ByteRange {
    /// Minimum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    /// Maximum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

impl HttpAssertions {
    /// Default of [`certificate_warn_days`](Self::certificate_warn_days).
    pub const DEFAULT_CERTIFICATE_WARN_DAYS: i64 = 14;

    /// Returns true if nothing is asserted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Maximum number of `regexes`, of `not_regexes`, of `headers` and of `json`.
    pub const MAX_ITEMS: usize = 16;
    /// Maximum of both limits of days.
    pub const MAX_CERTIFICATE_DAYS: i64 = 3_650;
    /// Maximum of both limits of the size of a body.
    pub const MAX_BODY_BYTES: u64 = 1 << 30;
    /// Maximum length of a value to compare with, in bytes of JSON.
    pub const MAX_VALUE_BYTES: usize = 1_024;

    /// Returns true if an assertion has a regex, or may have one in a path.
    pub fn has_patterns(&self) -> bool {
        !self.regexes.is_empty()
            || !self.not_regexes.is_empty()
            || !self.headers.is_empty()
            || !self.json.is_empty()
            || self.final_url.is_some()
    }
}

/// Keeps `null` as a value. An absent field stays absent.
fn present_value<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests;
