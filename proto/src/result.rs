//! The record of a finished or missed check.

use std::{str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Cause, CheckKind, InstallationId, Outcome, RegionName, ScheduledTick, Shard, SiteId, Tickets, Timestamp,
    Warning, features,
    ticket::{TicketClaims, TicketError},
    validation::sanitize_text,
};

/// A check result in its wire format; fields that do not apply are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckResult {
    /// Version of the message.
    pub v: u32,
    /// Id of the request.
    pub id: String,
    /// Site; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_id: Option<SiteId>,
    /// Origin of the check.
    pub kind: CheckKind,
    /// Region of the prober.
    pub region: RegionName,
    /// Shard of the site; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Name of the prober.
    pub prober: String,
    /// Checked URL.
    pub url: String,
    /// Time at which the check was due: the tick, or the arrival of an ad-hoc request.
    pub scheduled_at: Timestamp,
    /// The job's `expires_at`; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Start of the check; absent if the check never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Judgement about the site.
    pub outcome: Outcome,
    /// Reason for an outcome other than `up`.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// Explanation of the cause for a person.
    #[serde(default)]
    pub message: Option<String>,
    /// Status of the last response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Version of HTTP: `1.0`, `1.1` or `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_version: Option<String>,
    /// Address and port of the last connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_addr: Option<String>,
    /// Duration of each phase.
    #[serde(default, skip_serializing_if = "Timing::is_empty")]
    pub timing: Timing,
    /// Number of followed redirects.
    #[serde(default)]
    pub redirects: u8,
    /// Number of bytes read of the decoded body.
    #[serde(default)]
    pub body_bytes: u64,
    /// True if `regex` matched; absent without a regex, or if the regex was not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex_matched: Option<bool>,
    /// Expiry of the server's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_expires_at: Option<Timestamp>,
    /// Properties of an `up` result that need attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// Observations that depend on the type of check: at most 2 KiB, without secrets and bodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// Features that a reader of this result must know, or else not use the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Installation of the job; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<InstallationId>,
    /// Ticket of the job; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Observations by name.
pub type Details = serde_json::Map<String, Value>;

/// Duration of each phase of a check in microseconds, summed over all hops; a phase that did not
/// happen is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// Name resolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_us: Option<u32>,
    /// TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_us: Option<u32>,
    /// The TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_us: Option<u32>,
    /// From an established connection to the head of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u32>,
    /// From the head of the response to the end of its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_us: Option<u32>,
    /// From the start to the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_us: Option<u32>,
}

impl Timing {
    /// Returns true if no phase was measured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `duration` in whole microseconds, capped at the maximum of the field (71 minutes).
    pub fn saturating_micros(duration: Duration) -> u32 {
        u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
    }
}

/// Reasons why a message is not a result that this version can use.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// The bytes are not JSON of this form.
    #[error("not a result: {0}")]
    Json(serde_json::Error),
    /// The result uses a feature of a newer version.
    #[error("requires: '{0}' is unknown to version {version}", version = env!("CARGO_PKG_VERSION"))]
    Unsupported(String),
    /// The details cannot be stored.
    #[error("details: {0}")]
    Details(String),
}

impl CheckResult {
    /// Maximum size of the details as JSON, in bytes.
    pub const MAX_DETAILS_BYTES: usize = 2 << 10;
    /// Maximum length of an unknown word that is quoted.
    const MAX_WORD_BYTES: usize = 64;

    /// Decodes a result. A cause that this version does not know becomes [`Cause::Other`], with its
    /// word at the start of the message. An unknown warning is dropped, because the outcome is
    /// valid without it.
    ///
    /// # Errors
    /// If the bytes are not a result, or the result requires a feature that this version does not
    /// know.
    pub fn decode(bytes: &[u8]) -> Result<Self, ResultError> {
        // A check of all bytes for UTF-8 makes the check of each string unnecessary.
        let read = match str::from_utf8(bytes) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(bytes),
        };
        let result: Self = match read {
            Ok(result) => result,
            Err(why) => Self::decode_newer(bytes).unwrap_or(Err(ResultError::Json(why)))?,
        };
        if let Some(feature) = features::find_unknown(&result.requires, features::RESULT_FEATURES) {
            return Err(ResultError::Unsupported(sanitize_text(feature, Self::MAX_WORD_BYTES)));
        }
        match result.details.as_ref().and_then(find_details_error) {
            Some(why) => Err(ResultError::Details(why)),
            None => Ok(result),
        }
    }

    /// Decodes a result of a newer version by the words that this version knows. `None` if unknown
    /// words are not the reason why it could not be decoded.
    fn decode_newer(bytes: &[u8]) -> Option<Result<Self, ResultError>> {
        fn is_known<T: FromStr>(word: &Value) -> bool {
            word.as_str().is_some_and(|word| word.parse::<T>().is_ok())
        }
        let mut json: Value = serde_json::from_slice(bytes).ok()?;
        let fields = json.as_object_mut()?;
        // The feature explains the result better than the field that cannot be read because of it.
        let required = fields.get("requires").and_then(Value::as_array).into_iter().flatten();
        let mut required = required.filter_map(Value::as_str);
        if let Some(feature) = required.find(|word| !features::RESULT_FEATURES.contains(word)) {
            return Some(Err(ResultError::Unsupported(sanitize_text(feature, Self::MAX_WORD_BYTES))));
        }
        let word = fields.get("cause").and_then(Value::as_str).filter(|word| word.parse::<Cause>().is_err());
        if let Some(word) = word.map(|word| sanitize_text(word, Self::MAX_WORD_BYTES)) {
            let message = match fields.get("message").and_then(Value::as_str) {
                Some(message) => format!("{word}: {message}"),
                None => word,
            };
            fields.insert("cause".to_owned(), Cause::Other.as_str().into());
            fields.insert("message".to_owned(), message.into());
        }
        if let Some(Value::Array(warnings)) = fields.get_mut("warnings") {
            warnings.retain(is_known::<Warning>);
        }
        Some(serde_json::from_value(json).map_err(ResultError::Json))
    }

    /// Verifies that this result belongs to a check that its region was given by this installation.
    ///
    /// # Errors
    /// If the ticket was not issued for this check, or is missing although tickets are required.
    pub fn verify_ticket(&self, tickets: &Tickets) -> Result<(), TicketError> {
        let (Some(site), Some(shard), Some(expires_at)) = (self.site_id, self.shard, self.expires_at) else {
            // No ticket is valid for incomplete claims. A prober of an older version copies neither
            // `expires_at` nor the ticket.
            return match self.ticket {
                Some(_) => Err(TicketError::MacMismatch),
                None if tickets.is_required() => Err(TicketError::Missing),
                None => Ok(()),
            };
        };
        let Self { kind, scheduled_at, .. } = *self;
        let tick = ScheduledTick { site, shard, kind, scheduled_at, expires_at };
        let claims = TicketClaims { tick, region: &self.region };
        tickets.verify_ticket(self.ticket.as_deref(), &claims)
    }

    /// Time from `scheduled_at` to the start of the check; `None` if the check never began.
    pub fn lateness(&self) -> Option<Duration> {
        Some(self.started_at?.saturating_duration_since(self.scheduled_at))
    }
}

/// The reason why a database could not store these details; `None` if it can.
fn find_details_error(details: &Details) -> Option<String> {
    fn has_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(has_nul),
            Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    // An object with texts as keys can always be written.
    let bytes = serde_json::to_vec(details).map_or(usize::MAX, |json| json.len());
    if bytes > CheckResult::MAX_DETAILS_BYTES {
        return Some(format!("{bytes} bytes; allowed: at most {}", CheckResult::MAX_DETAILS_BYTES));
    }
    let is_unusable = details.iter().any(|(name, value)| name.contains('\0') || has_nul(value));
    is_unusable.then(|| "a text with the character U+0000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the contract, with the shard that the sink compares. All later versions must
    /// decode it.
    const GOLDEN: &str = r#"{"v":1,"id":"a","site_id":42,"kind":"scheduled","region":"eu-west","shard":7,"prober":"host-7f3a","url":"https://example.com/","scheduled_at":"2026-11-20T12:00:00.000000Z","expires_at":"2026-11-20T12:01:00.000000Z","started_at":"2026-11-20T12:00:00.004211Z","outcome":"up","cause":null,"message":null,"http_status":200,"http_version":"2","remote_addr":"93.184.216.34:443","timing":{"dns_us":1200,"connect_us":8100,"tls_us":9500,"first_byte_us":15200,"transfer_us":300,"total_us":34300},"redirects":0,"body_bytes":1256,"regex_matched":true,"tls_expires_at":"2027-01-15T23:59:59.000000Z","installation":"6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33","ticket":"0001fa15b87b276e7ec3f7f2b9f3c4b7043b"}"#;

    #[test]
    fn a_result_serializes_as_documented() {
        let result: CheckResult = serde_json::from_str(GOLDEN).unwrap();

        assert_eq!(serde_json::to_string(&result).unwrap(), GOLDEN);
        assert_eq!(result.lateness(), Some(Duration::from_micros(4_211)));
    }

    #[test]
    fn absent_phases_are_omitted_and_unknown_fields_ignored() {
        let json = r#"{"v":9,"id":"a","kind":"adhoc","region":"eu","prober":"p","url":"http://x/","new":{},
            "scheduled_at":"2026-11-20T12:00:00.000000Z","outcome":"missed","cause":"expired"}"#;
        let result: CheckResult = serde_json::from_str(json).unwrap();
        let written = serde_json::to_string(&result).unwrap();

        for absent in ["timing", "started_at", "http_status", "tls_expires_at", "site_id"] {
            assert!(!written.contains(absent), "{written}");
        }
    }

    fn decode(fields: &str) -> Result<CheckResult, ResultError> {
        let result = format!(
            r#"{{"v":2,"id":"a","site_id":1,"kind":"scheduled","region":"eu","prober":"p","url":"http://x/",
                "scheduled_at":"2026-11-20T12:00:00.000000Z",{fields}}}"#
        );
        CheckResult::decode(result.as_bytes())
    }

    #[test]
    fn an_unknown_cause_is_other_with_its_word_in_the_message_and_the_outcome_is_the_results_own() {
        for (outcome, message, expected) in [
            ("down", r#","message":"no more of it""#, "future_cause: no more of it"),
            ("missed", r#","message":null"#, "future_cause"),
        ] {
            let read = decode(&format!(r#""outcome":"{outcome}","cause":"future_cause"{message}"#)).unwrap();

            assert_eq!((read.outcome.as_str(), read.cause), (outcome, Some(Cause::Other)));
            assert_eq!(read.message.as_deref(), Some(expected));
        }
        // Another error is not hidden by an unknown cause.
        assert!(matches!(decode(r#""outcome":"best","cause":"future_cause""#), Err(ResultError::Json(_))));
    }

    #[test]
    fn an_unknown_warning_is_dropped_and_the_others_stay() {
        let read = decode(r#""outcome":"up","warnings":["slow","future_warning",7,"certificate"]"#).unwrap();

        assert_eq!(read.warnings, [Warning::Slow, Warning::Certificate]);
        assert!(decode(r#""outcome":"up","warnings":"slow""#).is_err());
    }

    #[test]
    fn a_result_with_an_unknown_required_feature_is_refused_by_its_name() {
        for fields in
            [r#""outcome":"up""#, r#""outcome":"better""#, r#""outcome":"down","cause":"future_cause""#]
        {
            let why = decode(&format!(r#"{fields},"requires":["result.future"]"#)).unwrap_err();

            assert!(matches!(why, ResultError::Unsupported(_)), "{why}");
            assert!(why.to_string().contains("'result.future'"), "{why}");
        }
    }

    #[test]
    fn details_that_cannot_be_stored_are_refused() {
        for (details, reason) in [
            (format!(r#"{{"a":"{}"}}"#, "x".repeat(2_048)), "2056 bytes; allowed: at most 2048"),
            (r#"{"a":[{"b":"\u0000"}]}"#.to_owned(), "U+0000"),
        ] {
            let why = decode(&format!(r#""outcome":"up","details":{details}"#)).unwrap_err();

            assert!(why.to_string().contains(reason), "{why}");
        }
        let read = decode(r#""outcome":"up","details":{"records":["192.0.2.1"]}"#).unwrap();
        assert_eq!(read.details.unwrap()["records"][0], "192.0.2.1");
    }
}
