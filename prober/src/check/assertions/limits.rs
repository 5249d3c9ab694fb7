//! Assertions about a whole check: its time, its certificates, and failures that are wanted.

use std::time::Duration;

use picket_proto::{
    Cause, Check, HttpAssertions, Outcome, Timestamp, Timing, Warning, http_assertions::CompiledAssertions,
    result::Details, validation::sanitize_text,
};
use serde_json::{Value, json};

use super::super::{Observation, certificate::CertificateEnd, failure::Failure, finding::EXPLANATION_KEY};

/// The certificate that ends first, as it stands in the details of a result.
fn to_details(certificate: &CertificateEnd) -> Value {
    const MAX_NAME_BYTES: usize = 200;
    let serial: String = certificate.serial.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut details = json!({"serial": serial, "expires_at": certificate.expires_at});
    if let Some(subject) = &certificate.subject {
        details["subject"] = sanitize_text(subject, MAX_NAME_BYTES).into();
    }
    details
}

/// Time of the phases together. Time that the prober itself took is not the site's.
pub(super) fn site_time(timing: &Timing) -> Duration {
    let phases = [timing.dns_us, timing.connect_us, timing.tls_us, timing.first_byte_us, timing.transfer_us];
    Duration::from_micros(phases.into_iter().flatten().map(u64::from).sum())
}

/// Checks the hard limits of an otherwise successful check.
///
/// # Errors
/// If a certificate ends too soon, or the response took too long.
pub(in crate::check) fn check_limits(
    assertions: &CompiledAssertions,
    timing: &Timing,
    certificate: Option<&CertificateEnd>,
    now: Timestamp,
) -> Result<(), Failure> {
    if let Some(min) = assertions.certificate_min_days
        && let Some(certificate) = certificate
        && certificate.days_left(now) < min
    {
        let why = format!(
            "certificate_min_days: found {}, expected at least {min} days",
            describe_certificate(certificate, now)
        );
        return Err(Failure::new(Cause::Certificate, why));
    }
    match assertions.fail_after {
        Some(limit) if site_time(timing) >= limit => {
            let (took, limit) = (site_time(timing).as_millis(), limit.as_millis());
            let why =
                format!("fail_after_ms: found a response after {took} ms, expected less than {limit} ms");
            Err(Failure::new(Cause::Slow, why))
        }
        _ => Ok(()),
    }
}

/// Description of the certificate that ends first.
pub(super) fn describe_certificate(certificate: &CertificateEnd, now: Timestamp) -> String {
    match certificate.days_left(now) {
        days @ 0.. => format!("a certificate that ends in {days} days, at {}", certificate.expires_at),
        _ => format!("a certificate that ended at {}", certificate.expires_at),
    }
}

/// Warnings of a successful check, with the details that explain them: an object for each, by its
/// word.
pub(in crate::check) fn list_warnings(
    assertions: Option<&CompiledAssertions>,
    timing: &Timing,
    certificate: Option<&CertificateEnd>,
    now: Timestamp,
) -> (Vec<Warning>, Option<Details>) {
    let (mut warnings, mut details) = (Vec::new(), None);
    let mut add = |kind: Warning, facts: Value| {
        warnings.push(kind);
        details.get_or_insert_with(Details::new).insert(kind.as_str().to_owned(), facts);
    };
    let took = site_time(timing);
    if let Some(limit) =
        assertions.and_then(|assertions| assertions.warn_after).filter(|limit| took >= *limit)
    {
        let millis = |time: Duration| Value::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        add(Warning::Slow, json!({"took_ms": millis(took), "warn_after_ms": millis(limit)}));
    }
    let days = assertions
        .map_or(HttpAssertions::DEFAULT_CERTIFICATE_WARN_DAYS, |assertions| assertions.certificate_warn_days);
    if let Some(certificate) = certificate
        && days > 0
        && certificate.days_left(now) < days
    {
        add(Warning::Certificate, to_details(certificate));
    }
    (warnings, details)
}

/// Returns true if `check` must fail, and `seen` is such a failure.
pub(crate) fn expects_failure(check: &Check, seen: &Observation) -> bool {
    let causes = check.assertions.as_ref().map_or(&[][..], |assertions| &assertions.must_fail);
    seen.outcome == Outcome::Down && seen.cause.is_some_and(|cause| causes.contains(&cause))
}

/// Turns the result of a check that must fail: `up` if it failed with one of the causes, and `down`
/// if it succeeded or failed otherwise. A check that was not performed stays `missed`.
///
/// The caller has to rule out a fault of the prober first, by which every check fails.
pub fn apply_must_fail(check: &Check, seen: Observation) -> Observation {
    let causes = match &check.assertions {
        Some(assertions) if !assertions.must_fail.is_empty() => &assertions.must_fail,
        _ => return seen,
    };
    let wanted = || causes.iter().map(|cause| cause.as_str()).collect::<Vec<_>>().join(", ");
    let message = seen.message.as_deref().unwrap_or_default();
    let (outcome, cause, message) = match (seen.outcome, seen.cause) {
        (Outcome::Missed, _) => return seen,
        (Outcome::Down, Some(cause)) if causes.contains(&cause) => {
            (Outcome::Up, None, format!("must_fail: found {cause}, as expected ({message})"))
        }
        (Outcome::Down, cause) => {
            let cause = cause.map_or("a failure", Cause::as_str);
            let why = format!("must_fail: found {cause}, expected {} ({message})", wanted());
            (Outcome::Down, Some(Cause::UnexpectedResponse), why)
        }
        (Outcome::Up, _) => {
            let why = format!("it answered, and should not: must_fail expects {}", wanted());
            (Outcome::Down, Some(Cause::UnexpectedResponse), why)
        }
    };
    let message = match cause {
        Some(cause) => Failure::new(cause, message).message,
        None => Failure::new(Cause::Other, message).message,
    };
    let mut details = seen.details;
    if let Some(details) = &mut details {
        // Warnings are properties of a good response, which this check does not want.
        details.retain(|name, _| name.parse::<Warning>().is_err());
        if let Some(Value::Array(list)) = details.get_mut(EXPLANATION_KEY) {
            let result = if outcome == Outcome::Up { "passed" } else { "failed" };
            let found = seen.cause.map_or("a good response", Cause::as_str);
            let expected = format!("a failure: {}", wanted());
            list.push(json!({"name": "must_fail", "result": result, "expected": expected, "found": found}));
        }
    }
    let details = details.filter(|details| !details.is_empty());
    Observation { outcome, cause, message: Some(message), warnings: Vec::new(), details, ..seen }
}
