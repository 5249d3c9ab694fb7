//! The record of a finished or missed check.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Cause, CheckKind, InstallationId, Outcome, RegionName, ScheduledTick, Shard, SiteId, Tickets, Timestamp,
    ticket::{TicketClaims, TicketError},
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
    /// Installation of the job; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<InstallationId>,
    /// Ticket of the job; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

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

impl CheckResult {
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
}
