//! Options for the assertions of a check.

use clap::Args;
use picket_proto::{
    HttpAssertions, ValidationError,
    http_assertions::{HeaderAssertion, JsonAssertion},
};
use picket_runtime::options::DurationArg;

use crate::assertion_syntax::{parse_byte_range, parse_header, parse_json};

/// Assertions about the response beyond its status and one regex.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Assertions")]
pub(crate) struct AssertionOptions {
    /// Condition on the body as JSON: a JSONPath with == != < > and a JSON value, =~ and a regular
    /// expression, exists, absent, length >= or length <=; such as '$.status == "ok"'; may be
    /// repeated; '' removes all
    #[arg(long, value_name = "CONDITION")]
    assert_json: Option<Vec<String>>,
    /// Condition on a header: its name with =~ or !~ and a regular expression, or absent; such as
    /// 'Content-Type =~ ^text/html'; may be repeated; '' removes all
    #[arg(long, value_name = "CONDITION")]
    assert_header: Option<Vec<String>>,
    /// Further regular expression that the body must match; may be repeated; '' removes all
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    assert_regex: Option<Vec<String>>,
    /// Further regular expression that the body must not match; may be repeated; '' removes all
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    assert_not_regex: Option<Vec<String>>,
    /// Allowed size of the decoded body, such as 1..100000 or ..64KiB; '' removes it
    #[arg(long, value_name = "MIN..MAX")]
    assert_body_bytes: Option<String>,
    /// Regular expression that the URL of the last response must match; '' removes it
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    assert_final_url: Option<String>,
    /// Causes of failure, such as connect,timeout: the check is up only if it fails with one of
    /// them; may be repeated; '' removes all
    #[arg(long, value_name = "CAUSES", value_delimiter = ',')]
    must_fail: Option<Vec<String>>,
    /// Total time from which an up result has the warning slow, such as 2s; '' removes it
    #[arg(long, value_name = "DURATION")]
    warn_after: Option<String>,
    /// Total time from which the check is down, such as 8s; '' removes it
    #[arg(long, value_name = "DURATION")]
    fail_after: Option<String>,
    /// Days before the end of a certificate at which results have the warning certificate; 0 for
    /// never; '' for the default [default: 14]
    #[arg(long, value_name = "DAYS", allow_negative_numbers = true)]
    certificate_warn_days: Option<String>,
    /// Days before the end of a certificate at which the check is down; '' removes it
    #[arg(long, value_name = "DAYS", allow_negative_numbers = true)]
    certificate_min_days: Option<String>,
}

impl AssertionOptions {
    /// Sets the given fields of `assertions`.
    pub(super) fn apply_to(&self, assertions: &mut HttpAssertions) -> Result<(), ValidationError> {
        replace_parsed::<JsonAssertion>(&mut assertions.json, self.assert_json.as_ref(), "json", parse_json)?;
        replace_parsed::<HeaderAssertion>(
            &mut assertions.headers,
            self.assert_header.as_ref(),
            "headers",
            parse_header,
        )?;
        super::replace_list(&mut assertions.regexes, self.assert_regex.as_ref());
        super::replace_list(&mut assertions.not_regexes, self.assert_not_regex.as_ref());
        replace_parsed(&mut assertions.must_fail, self.must_fail.as_ref(), "must_fail", |word| {
            word.trim().parse().map_err(|why: ValidationError| why.expected)
        })?;
        super::replace_text(&mut assertions.final_url, self.assert_final_url.as_ref());
        replace_value(
            &mut assertions.body_bytes,
            self.assert_body_bytes.as_ref(),
            "body_bytes",
            parse_byte_range,
        )?;
        replace_value(
            &mut assertions.warn_after_ms,
            self.warn_after.as_ref(),
            "warn_after_ms",
            parse_millis,
        )?;
        replace_value(
            &mut assertions.fail_after_ms,
            self.fail_after.as_ref(),
            "fail_after_ms",
            parse_millis,
        )?;
        let (warn, min) = (self.certificate_warn_days.as_ref(), self.certificate_min_days.as_ref());
        replace_value(&mut assertions.certificate_warn_days, warn, "certificate_warn_days", parse_days)?;
        replace_value(&mut assertions.certificate_min_days, min, "certificate_min_days", parse_days)
    }
}

fn parse_millis(text: &str) -> Result<i64, String> {
    match text.parse::<DurationArg>() {
        Ok(duration) => Ok(duration.as_saturating_millis()),
        Err(_) => Err("a number with ms or s, such as 800ms or 2s; '' removes it".to_owned()),
    }
}

fn parse_days(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "a whole number of days; '' removes it".to_owned())
}

/// Replaces `list` by the parsed texts that are not empty. A refusal names the position in the list.
fn replace_parsed<T>(
    list: &mut Vec<T>,
    given: Option<&Vec<String>>,
    field: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<(), ValidationError> {
    let Some(texts) = given else { return Ok(()) };
    let texts = texts.iter().filter(|text| !text.trim().is_empty()).enumerate();
    *list = texts
        .map(|(position, text)| {
            parse(text).map_err(|allowed| {
                ValidationError::new(format!("assertions.{field}[{position}]"), text, allowed)
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(())
}

/// Replaces `value` by the parsed text, or removes it if the text is empty.
fn replace_value<T>(
    value: &mut Option<T>,
    given: Option<&String>,
    field: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<(), ValidationError> {
    let Some(text) = given else { return Ok(()) };
    *value = match text.trim() {
        "" => None,
        trimmed => Some(
            parse(trimmed)
                .map_err(|allowed| ValidationError::new(format!("assertions.{field}"), text, allowed))?,
        ),
    };
    Ok(())
}
