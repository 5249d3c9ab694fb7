//! What a result says about its warnings: the facts of each, and the warning in words.

use picket_proto::{CheckResult, Timestamp, Warning, result::Details, validation::sanitize_text};
use serde_json::Value;

use crate::warning_rules::WarningDetails;

/// The warnings of a result.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportedWarnings(Vec<ReportedWarning>);

/// A warning of a result.
#[derive(Clone, Debug)]
pub(crate) struct ReportedWarning {
    pub(super) kind: Warning,
    pub(super) details: WarningDetails,
    /// The warning in words.
    pub(super) message: Option<String>,
}

impl ReportedWarnings {
    pub(crate) fn of_result(result: &CheckResult) -> Self {
        // Each once: a message may repeat one many times.
        let kinds = Warning::ALL_VALUES.iter().filter(|kind| result.warnings.contains(kind));
        Self(kinds.map(|kind| ReportedWarning::of_result(result, *kind)).collect())
    }

    pub(super) fn find(&self, kind: Warning) -> Option<&ReportedWarning> {
        self.0.iter().find(|warning| warning.kind == kind)
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Warning> {
        self.0.iter().map(|warning| warning.kind)
    }
}

impl ReportedWarning {
    /// Reads the object with the name of the kind in the details of the result.
    fn of_result(result: &CheckResult, kind: Warning) -> Self {
        /// A serial number has at most 20 bytes: 59 characters with colons.
        const MAX_SERIAL_BYTES: usize = 64;
        let facts =
            Facts(result.details.as_ref().and_then(|details| details.get(kind.as_str())?.as_object()));
        let of_certificate = result.tls_expires_at.filter(|_| kind == Warning::Certificate);
        let details = WarningDetails {
            serial: facts.text("serial", MAX_SERIAL_BYTES),
            expires_at: facts.text("expires_at", 64).and_then(|at| at.parse().ok()).or(of_certificate),
        };
        let checked_at = result.started_at.unwrap_or(result.scheduled_at);
        let message = facts.describe(kind, &details, checked_at).or_else(|| result.message.clone());
        Self { kind, details, message }
    }
}

/// The facts of a warning by name, from any prober.
struct Facts<'a>(Option<&'a Details>);

impl Facts<'_> {
    /// A text that is not empty.
    fn text(&self, name: &str, max_bytes: usize) -> Option<String> {
        let text = self.0?.get(name)?.as_str()?.trim();
        (!text.is_empty()).then(|| sanitize_text(text, max_bytes))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0?.get(name).and_then(Value::as_u64)
    }

    /// The warning in words; `None` if only the message of the result can have them.
    fn describe(&self, kind: Warning, details: &WarningDetails, checked_at: Timestamp) -> Option<String> {
        const MAX_NAME_BYTES: usize = 200;
        match kind {
            Warning::Slow => {
                let (took, limit) = (self.number("took_ms")?, self.number("warn_after_ms")?);
                Some(format!("the check took {took} ms, and warn_after_ms is {limit}"))
            }
            Warning::Certificate => {
                let name = match (self.text("subject", MAX_NAME_BYTES), &details.serial) {
                    (Some(subject), _) => format!("the certificate of {subject}"),
                    (None, Some(serial)) => format!("the certificate with the serial number {serial}"),
                    (None, None) => "a certificate".to_owned(),
                };
                Some(format!("{name} {}", describe_end(details.expires_at?, checked_at)))
            }
            Warning::Domain => {
                Some(format!("the registration {}", describe_end(details.expires_at?, checked_at)))
            }
            Warning::Loss => None,
        }
    }
}

/// The end of a certificate or a registration, as seen at `checked_at`.
fn describe_end(end: Timestamp, checked_at: Timestamp) -> String {
    const DAY_MICROS: i64 = 86_400_000_000;
    let time = end.to_string();
    let (date, _) = time.split_once('T').unwrap_or((&time, ""));
    match end.as_micros().saturating_sub(checked_at.as_micros()).div_euclid(DAY_MICROS) {
        ..0 => format!("ended on {date}"),
        0 => format!("ends in less than a day, on {date}"),
        1 => format!("ends in 1 day, on {date}"),
        days => format!("ends in {days} days, on {date}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The words of a result of 2026-11-20 12:00 with these details.
    fn words(kind: Warning, details: Value) -> Option<String> {
        let result: CheckResult = serde_json::from_value(json!({
            "v": 1, "id": "a", "kind": "scheduled", "region": "eu", "prober": "p", "url": "https://a/",
            "scheduled_at": "2026-11-20T12:00:00.000000Z", "outcome": "up", "warnings": [kind, kind], "details": details,
        }))
        .unwrap();
        let warnings = ReportedWarnings::of_result(&result);
        assert_eq!(warnings.kinds().collect::<Vec<_>>(), [kind]);
        warnings.find(kind).unwrap().message.clone()
    }

    #[test]
    fn a_certificate_is_named_with_the_days_that_it_has_left_and_the_date_of_its_end() {
        for (fields, expected) in [
            (
                json!({"subject": "shop.example", "serial": "0a", "expires_at": "2026-11-26T12:00:00.000000Z"}),
                "the certificate of shop.example ends in 6 days, on 2026-11-26",
            ),
            (
                json!({"serial": "0a", "expires_at": "2026-11-22T11:59:59.000000Z"}),
                "the certificate with the serial number 0a ends in 1 day, on 2026-11-22",
            ),
            (
                json!({"subject": " ", "expires_at": "2026-11-20T23:00:00.000000Z"}),
                "a certificate ends in less than a day, on 2026-11-20",
            ),
            (
                json!({"subject": "a\u{1b}[31m", "expires_at": "2026-11-19T12:00:00.000000Z"}),
                "the certificate of a [31m ended on 2026-11-19",
            ),
        ] {
            assert_eq!(
                words(Warning::Certificate, json!({ "certificate": fields })).as_deref(),
                Some(expected)
            );
        }
        let long = json!({"certificate": {"subject": "x".repeat(2_000), "expires_at": "2026-11-26T12:00:00.000000Z"}});
        assert!(words(Warning::Certificate, long).unwrap().len() < 300);
    }

    #[test]
    fn a_slow_check_is_described_by_its_time_and_the_limit() {
        let details = json!({"slow": {"took_ms": 812, "warn_after_ms": 500}});

        let message = words(Warning::Slow, details);

        assert_eq!(message.as_deref(), Some("the check took 812 ms, and warn_after_ms is 500"));
    }

    #[test]
    fn facts_of_another_shape_leave_a_warning_without_words() {
        for (kind, details) in [
            (Warning::Slow, json!({"slow": {"took_ms": -1, "warn_after_ms": "500"}})),
            (Warning::Slow, json!({"slow": 7})),
            (Warning::Certificate, json!({"certificate": {"serial": 7, "expires_at": "soon"}})),
            (Warning::Certificate, json!({})),
            (Warning::Domain, json!({"domain": {"expires_at": null}})),
            (Warning::Loss, json!({"loss": {"took_ms": 1}})),
        ] {
            assert_eq!(words(kind, details), None);
        }
    }
}
