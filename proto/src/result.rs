//! What a prober says of a check that it did, or could not do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Cause, InstallationId, Kind, Outcome, RegionName, Shard, SiteId, Tickets, Timestamp,
    ticket::{TicketClaims, TicketError},
};

/// A check's result as it is on the wire; what did not happen is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Version of the message.
    pub v: u32,
    /// The request's id.
    pub id: String,
    /// The site; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_id: Option<SiteId>,
    /// Why the check was there.
    pub kind: Kind,
    /// Where it was done.
    pub region: RegionName,
    /// The site's shard; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Who did it.
    pub prober: String,
    /// What was asked.
    pub url: String,
    /// When it was due: the tick, or the arrival of an ad-hoc request.
    pub scheduled_at: Timestamp,
    /// The job's `expires_at`; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it began; absent if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// What it says of the site.
    pub outcome: Outcome,
    /// Why not up.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// The cause in words for a person.
    #[serde(default)]
    pub message: Option<String>,
    /// Of the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// `1.0`, `1.1`, `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_version: Option<String>,
    /// Address and port of the last connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_addr: Option<String>,
    /// How long each phase took.
    #[serde(default, skip_serializing_if = "Timing::is_empty")]
    pub timing: Timing,
    /// How many redirects were followed.
    #[serde(default)]
    pub redirects: u8,
    /// Bytes of the decoded body that were read.
    #[serde(default)]
    pub body_bytes: u64,
    /// Whether `regex` matched; absent without one, or when it was not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex_matched: Option<bool>,
    /// When the certificate ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_expires_at: Option<Timestamp>,
    /// The job's installation; absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<InstallationId>,
    /// The job's [ticket](crate::ticket); absent for an ad-hoc check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// How long each phase of a check took, in microseconds, summed over the hops; absent if it did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Resolving the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_us: Option<u32>,
    /// Connecting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_us: Option<u32>,
    /// The TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_us: Option<u32>,
    /// From a connection that is ready to the head of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u32>,
    /// From the head of the answer to the end of its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_us: Option<u32>,
    /// From the start to the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_us: Option<u32>,
}

impl Timing {
    /// Whether no phase was measured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `duration` in whole microseconds, at most what the field holds (71 minutes).
    pub fn saturating_micros(duration: Duration) -> u32 {
        u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
    }
}

impl CheckResult {
    /// Whether the sink of this installation accepts it as the result of a check that its region was given.
    ///
    /// # Errors
    /// When its ticket was not made for this check.
    pub fn verify_ticket(&self, tickets: &Tickets) -> Result<(), TicketError> {
        let (Some(site), Some(shard), Some(expires_at)) = (self.site_id, self.shard, self.expires_at) else {
            // Incomplete claims have no ticket, and a prober of an older version copies neither.
            return match self.ticket {
                Some(_) => Err(TicketError::MacMismatch),
                None if tickets.is_required() => Err(TicketError::Missing),
                None => Ok(()),
            };
        };
        let Self { region, kind, scheduled_at, .. } = self;
        let claims =
            TicketClaims { site, shard, region, kind: *kind, scheduled_at: *scheduled_at, expires_at };
        tickets.verify_ticket(self.ticket.as_deref(), &claims)
    }

    /// How long after it was due the check began.
    pub fn lateness(&self) -> Option<Duration> {
        Some(self.started_at?.saturating_duration_since(self.scheduled_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract's own example, with the shard that the sink compares; today's code must read it for ever.
    const GOLDEN: &str = r#"{"v":1,"id":"a","site_id":42,"kind":"scheduled","region":"eu-west","shard":7,"prober":"host-7f3a","url":"https://example.com/","scheduled_at":"2026-11-20T12:00:00.000000Z","expires_at":"2026-11-20T12:01:00.000000Z","started_at":"2026-11-20T12:00:00.004211Z","outcome":"up","cause":null,"message":null,"http_status":200,"http_version":"2","remote_addr":"93.184.216.34:443","timing":{"dns_us":1200,"connect_us":8100,"tls_us":9500,"first_byte_us":15200,"transfer_us":300,"total_us":34300},"redirects":0,"body_bytes":1256,"regex_matched":true,"tls_expires_at":"2027-01-15T23:59:59.000000Z","installation":"6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33","ticket":"0001fa15b87b276e7ec3f7f2b9f3c4b7043b"}"#;

    #[test]
    fn a_result_is_written_as_the_contract_shows_it() {
        let result: CheckResult = serde_json::from_str(GOLDEN).unwrap();

        assert_eq!(serde_json::to_string(&result).unwrap(), GOLDEN);
        assert_eq!(result.lateness(), Some(Duration::from_micros(4_211)));
    }

    #[test]
    fn what_did_not_happen_is_absent_and_unknown_fields_are_ignored() {
        let json = r#"{"v":9,"id":"a","kind":"adhoc","region":"eu","prober":"p","url":"http://x/","new":{},
            "scheduled_at":"2026-11-20T12:00:00.000000Z","outcome":"missed","cause":"expired"}"#;
        let result: CheckResult = serde_json::from_str(json).unwrap();
        let written = serde_json::to_string(&result).unwrap();

        for absent in ["timing", "started_at", "http_status", "tls_expires_at", "site_id"] {
            assert!(!written.contains(absent), "{written}");
        }
    }
}
