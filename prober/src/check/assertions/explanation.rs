//! The list of all assertions of a check with their results, for the reply to an ad-hoc request.

use picket_proto::{Cause, Check, Timestamp, Timing, validation::sanitize_text};
use serde_json::{Value, json};

use super::{
    super::{
        certificate::CertificateEnd,
        finding::{Finding, FindingStatus},
    },
    asserted_item::{AssertedItem, quote_pattern},
    limits,
};

/// Observations of a finished check that assertions are about.
pub(in crate::check) struct ExplainedCheck<'a> {
    pub(in crate::check) check: &'a Check,
    pub(in crate::check) http_status: Option<u16>,
    pub(in crate::check) timing: &'a Timing,
    pub(in crate::check) certificate: Option<&'a CertificateEnd>,
    pub(in crate::check) now: Timestamp,
    /// Results of the assertions about the response.
    pub(in crate::check) findings: Vec<Finding>,
}

/// Lists each assertion with its name, its result, the expected and the found response. An
/// assertion that was not evaluated has the result `not_evaluated`.
pub(in crate::check) fn explain_assertions(explained: &ExplainedCheck<'_>) -> Value {
    let ExplainedCheck { check, http_status, .. } = *explained;
    let mut list = vec![describe_entry(
        "status",
        format!("a status of {}", check.status),
        http_status.map(|status| {
            let is_met = check.status.allows_status(status);
            (super::to_status(is_met, Cause::Status), status.to_string())
        }),
    )];
    for (name, pattern, expected) in
        [("regex", &check.regex, "a match of"), ("not_regex", &check.not_regex, "no match of")]
    {
        if let Some(pattern) = pattern {
            let expected = format!("{expected} {}", quote_pattern(pattern));
            list.push(describe_entry(name, expected, find_result(&explained.findings, name)));
        }
    }
    if let Some(assertions) = &check.assertions {
        list.extend(AssertedItem::all(assertions).map(|item| {
            let name = item.name();
            let result = find_result(&explained.findings, &name);
            describe_entry(&name, item.expected(), result)
        }));
        list.extend(explain_limits(explained));
    }
    Value::Array(list)
}

fn find_result(findings: &[Finding], name: &str) -> Option<(FindingStatus, String)> {
    let finding = findings.iter().find(|finding| finding.name == name)?;
    Some((finding.status, finding.found.clone()))
}

/// Limits of time are about the whole check, so a check without a response has no result for them.
fn explain_limits(explained: &ExplainedCheck<'_>) -> Vec<Value> {
    let Some(assertions) = &explained.check.assertions else { return Vec::new() };
    let mut list = Vec::new();
    let took = limits::site_time(explained.timing);
    for (name, limit) in [("fail_after_ms", assertions.fail_after), ("warn_after_ms", assertions.warn_after)]
    {
        let Some(limit) = limit else { continue };
        let result = explained.http_status.map(|_| {
            let status = super::to_status(took < limit, Cause::Slow);
            (status, format!("a response after {} ms", took.as_millis()))
        });
        list.push(describe_entry(name, format!("less than {} ms", limit.as_millis()), result));
    }
    if let Some(min) = assertions.certificate_min_days {
        let result = explained.certificate.map(|certificate| {
            let status = super::to_status(certificate.days_left(explained.now) >= min, Cause::Certificate);
            (status, limits::describe_certificate(certificate, explained.now))
        });
        let expected = format!("a certificate of at least {min} days");
        list.push(describe_entry("certificate_min_days", expected, result));
    }
    list
}

fn describe_entry(name: &str, expected: String, result: Option<(FindingStatus, String)>) -> Value {
    /// Maximum length of a text, in bytes.
    const MAX_TEXT_BYTES: usize = 300;
    let (result, found) = match result {
        None => ("not_evaluated", None),
        Some((status, found)) => {
            let word = match status {
                FindingStatus::Passed => "passed",
                FindingStatus::Failed(_) => "failed",
                FindingStatus::Undecided(_) => "undecided",
            };
            (word, Some(sanitize_text(&found, MAX_TEXT_BYTES)))
        }
    };
    json!({"name": name, "result": result, "expected": sanitize_text(&expected, MAX_TEXT_BYTES), "found": found})
}
