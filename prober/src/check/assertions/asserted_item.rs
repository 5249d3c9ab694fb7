//! The single assertions of a check about its response, in the order of their evaluation.

use picket_proto::{
    Pattern,
    http_assertions::{
        ByteRange, CompiledAssertions, CompiledHeader, CompiledJson, HeaderCondition, JsonCondition,
    },
    validation::sanitize_text,
};
use picket_runtime::redact;

/// One assertion about a response, with its index in its list.
pub(super) enum AssertedItem<'a> {
    FinalUrl(&'a Pattern),
    Header(usize, &'a CompiledHeader),
    BodyBytes(ByteRange),
    Regex(usize, &'a Pattern),
    NotRegex(usize, &'a Pattern),
    Json(usize, &'a CompiledJson),
}

impl<'a> AssertedItem<'a> {
    /// Maximum length of an expected text in a message, in bytes.
    const MAX_EXPECTED_BYTES: usize = 100;

    /// All assertions about the response.
    pub(super) fn all(assertions: &'a CompiledAssertions) -> impl Iterator<Item = Self> {
        let url = assertions.final_url.iter().map(AssertedItem::FinalUrl);
        let headers =
            assertions.headers.iter().enumerate().map(|(index, header)| Self::Header(index, header));
        let size = assertions.body_bytes.into_iter().map(AssertedItem::BodyBytes);
        let regexes = assertions.regexes.iter().enumerate().map(|(index, regex)| Self::Regex(index, regex));
        let not_regexes =
            assertions.not_regexes.iter().enumerate().map(|(index, regex)| Self::NotRegex(index, regex));
        let json = assertions.json.iter().enumerate().map(|(index, json)| Self::Json(index, json));
        url.chain(headers).chain(size).chain(regexes).chain(not_regexes).chain(json)
    }

    pub(super) fn nth(assertions: &'a CompiledAssertions, index: usize) -> Option<Self> {
        Self::all(assertions).nth(index)
    }

    /// Name as in the field `assertions`.
    pub(super) fn name(&self) -> String {
        match self {
            Self::FinalUrl(_) => "final_url".to_owned(),
            Self::Header(index, _) => format!("headers[{index}]"),
            Self::BodyBytes(_) => "body_bytes".to_owned(),
            Self::Regex(index, _) => format!("regexes[{index}]"),
            Self::NotRegex(index, _) => format!("not_regexes[{index}]"),
            Self::Json(index, _) => format!("json[{index}]"),
        }
    }

    /// Description of a response that meets the assertion.
    pub(super) fn expected(&self) -> String {
        match self {
            Self::FinalUrl(pattern) => format!("a URL that matches {}", quote_pattern(pattern)),
            Self::Header(_, header) => {
                let name = &header.name;
                match &header.condition {
                    HeaderCondition::Matches(pattern) => {
                        format!("a value of {name} that matches {}", quote_pattern(pattern))
                    }
                    HeaderCondition::MatchesNot(pattern) => {
                        format!("{name} without a value that matches {}", quote_pattern(pattern))
                    }
                    HeaderCondition::Absent => format!("no header {name}"),
                }
            }
            Self::BodyBytes(ByteRange { min: Some(min), max: Some(max) }) => format!("{min} to {max} bytes"),
            Self::BodyBytes(ByteRange { min: Some(min), .. }) => format!("at least {min} bytes"),
            Self::BodyBytes(ByteRange { max, .. }) => format!("at most {} bytes", max.unwrap_or(u64::MAX)),
            Self::Regex(_, pattern) => format!("a match of {}", quote_pattern(pattern)),
            Self::NotRegex(_, pattern) => format!("no match of {}", quote_pattern(pattern)),
            Self::Json(_, json) => {
                let path = sanitize_text(&redact(json.path.as_str()), Self::MAX_EXPECTED_BYTES);
                format!("{path} {}", describe_condition(&json.condition))
            }
        }
    }
}

fn describe_condition(condition: &JsonCondition) -> String {
    let shorten = |text: &str| sanitize_text(&redact(text), AssertedItem::MAX_EXPECTED_BYTES);
    match condition {
        JsonCondition::Equals(value) => format!("equal to {}", shorten(&value.text)),
        JsonCondition::NotEquals(value) => format!("not equal to {}", shorten(&value.text)),
        JsonCondition::LessThan(limit) => format!("less than {limit}"),
        JsonCondition::GreaterThan(limit) => format!("greater than {limit}"),
        JsonCondition::Matches(pattern) => format!("a text that matches {}", quote_pattern(pattern)),
        JsonCondition::Exists => "to exist".to_owned(),
        JsonCondition::Absent => "to be absent".to_owned(),
        JsonCondition::MinLength(length) => format!("of a length of at least {length}"),
        JsonCondition::MaxLength(length) => format!("of a length of at most {length}"),
    }
}

pub(super) fn quote_pattern(pattern: &Pattern) -> String {
    format!("'{}'", sanitize_text(&redact(pattern.regex().as_str()), AssertedItem::MAX_EXPECTED_BYTES))
}
