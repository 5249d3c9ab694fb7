//! Jobs: decoding, comparison with the subject, and conversion into results.

use picket_proto::{
    Cause, CheckKind, CheckRequest, CheckResult, MESSAGE_VERSION, Outcome, RegionName, ScheduledTick, Shard,
    SiteId, Timestamp, Timing, ValidationError,
    job::{DecodedJob, decode_job},
    result::Details,
    subject::JobSubject,
    validation::sanitize_text,
};
use picket_runtime::{redact, secrets::redact_json};

use crate::check::Observation;

/// Check request with its origin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) request: CheckRequest,
    id: String,
    origin: JobOrigin,
    /// The feature or field of the check that this build does not support, if there is one.
    unsupported: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum JobOrigin {
    Tick(ScheduledTick),
    /// Requested at this time.
    Adhoc(Timestamp),
}

impl Job {
    /// Decodes a queued job; `now` is the request time of an ad-hoc job.
    ///
    /// # Errors
    /// Fails if the payload is no valid request, lacks its tick, or contradicts its subject.
    pub(crate) fn from_queue(subject: &str, payload: &[u8], now: Timestamp) -> Result<Self, ValidationError> {
        let DecodedJob { request, unsupported } = decode_job(payload)?;
        // A queued job has no reply that could carry an explanation.
        let request = CheckRequest { explain: false, ..request };
        match (JobSubject::parse(subject)?, request.scheduled_tick()?) {
            (JobSubject::Scheduled(_, site) | JobSubject::Confirmation(_, site), Some(tick))
                if tick.site == site =>
            {
                Ok(Self {
                    id: request
                        .id
                        .clone()
                        .unwrap_or_else(|| format!("{site}.{}.{}", tick.kind, tick.scheduled_at.as_millis())),
                    request,
                    origin: JobOrigin::Tick(tick),
                    unsupported,
                })
            }
            // The payload must match the subject, since permissions are granted by subject.
            (JobSubject::Scheduled(_, site) | JobSubject::Confirmation(_, site), tick) => {
                Err(ValidationError::new(
                    "site_id",
                    tick.map_or("(absent)".to_owned(), |tick| tick.site.to_string()),
                    format!("{site} on this subject; for an ad-hoc check picket.job.<region>.adhoc.<id>"),
                ))
            }
            (JobSubject::Adhoc(_, id), None) => Ok(Self {
                id: request.id.clone().unwrap_or_else(|| sanitize_text(id, CheckRequest::MAX_ID_BYTES)),
                request,
                origin: JobOrigin::Adhoc(now),
                unsupported,
            }),
            (JobSubject::Adhoc(..), Some(tick)) => Err(reject_site_id(tick.site)),
        }
    }

    /// Decodes an ad-hoc request.
    ///
    /// # Errors
    /// Fails if the payload is no valid request, or names a site: only the coordinator may request
    /// checks of sites.
    pub(crate) fn from_request(payload: &[u8], now: Timestamp) -> Result<Self, ValidationError> {
        let request = CheckRequest::decode(payload)?;
        if let Some(site) = request.site_id {
            return Err(reject_site_id(site));
        }
        Ok(Self {
            id: request.id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            request,
            origin: JobOrigin::Adhoc(now),
            // The decoder refuses such a request.
            unsupported: None,
        })
    }

    /// Time since the expiry of the job, if expired at `now`.
    pub(crate) fn expired_by(&self, now: Timestamp) -> Option<std::time::Duration> {
        let expires_at = self.expires_at()?;
        (now > expires_at).then(|| now.saturating_duration_since(expires_at))
    }

    /// Expiry of the job; `None` for an ad-hoc job without expiry.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        match &self.origin {
            JobOrigin::Tick(tick) => Some(tick.expires_at),
            JobOrigin::Adhoc(_) => self.request.expires_at,
        }
    }

    fn tick(&self) -> Option<&ScheduledTick> {
        match &self.origin {
            JobOrigin::Tick(tick) => Some(tick),
            JobOrigin::Adhoc(_) => None,
        }
    }

    /// Time of the tick; `None` for an ad-hoc job.
    pub(crate) fn scheduled_at(&self) -> Option<Timestamp> {
        self.tick().map(|tick| tick.scheduled_at)
    }

    /// Shard of a site's job; `None` for an ad-hoc job.
    pub(crate) fn shard(&self) -> Option<Shard> {
        self.tick().map(|tick| tick.shard)
    }

    /// Id of the check.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns true for a confirmation, which is no tick.
    pub(crate) fn is_confirmation(&self) -> bool {
        matches!(&self.origin, JobOrigin::Tick(tick) if tick.kind == CheckKind::Confirm)
    }

    /// Why this build cannot perform the check; `None` if it can.
    pub(crate) fn unsupported_reason(&self) -> Option<String> {
        let what = self.unsupported.as_ref()?;
        Some(format!("version {} of this prober does not support {what}", env!("CARGO_PKG_VERSION")))
    }

    pub(crate) fn site_id(&self) -> Option<SiteId> {
        self.request.site_id
    }

    /// Result of a job whose check was not performed.
    pub(crate) fn missed_result(
        &self,
        region: &RegionName,
        prober: &str,
        cause: Cause,
        message: String,
    ) -> CheckResult {
        let (kind, scheduled_at) = match &self.origin {
            JobOrigin::Tick(tick) => (tick.kind, tick.scheduled_at),
            JobOrigin::Adhoc(asked) => (CheckKind::Adhoc, *asked),
        };
        CheckResult {
            v: MESSAGE_VERSION,
            id: self.id.clone(),
            site_id: self.site_id(),
            kind,
            region: region.clone(),
            shard: self.shard(),
            prober: prober.to_owned(),
            url: sanitize_text(&self.request.url, picket_proto::check::MAX_URL_BYTES),
            scheduled_at,
            expires_at: self.tick().map(|tick| tick.expires_at),
            started_at: None,
            outcome: Outcome::Missed,
            cause: Some(cause),
            message: Some(redact(&message).into_owned()),
            http_status: None,
            http_version: None,
            remote_addr: None,
            timing: Timing::default(),
            redirects: 0,
            body_bytes: 0,
            regex_matched: None,
            tls_expires_at: None,
            warnings: Vec::new(),
            details: None,
            requires: Vec::new(),
            // The ticket is passed on unchecked: only the sink can verify it.
            installation: self.tick().and(self.request.installation),
            ticket: self.tick().and(self.request.ticket.clone()),
        }
    }

    /// Result of a performed check.
    pub(crate) fn completed_result(
        &self,
        region: &RegionName,
        prober: &str,
        seen: Observation,
    ) -> CheckResult {
        CheckResult {
            started_at: Some(seen.started_at),
            outcome: seen.outcome,
            cause: seen.cause,
            message: seen.message.map(|message| redact(&message).into_owned()),
            http_status: seen.http_status,
            http_version: seen.http_version.map(str::to_owned),
            remote_addr: seen.remote_addr.map(|address| address.to_string()),
            timing: seen.timing,
            redirects: seen.redirects,
            body_bytes: seen.body_bytes,
            regex_matched: seen.regex_matched,
            tls_expires_at: seen.tls_expires_at,
            warnings: seen.warnings,
            details: seen.details.map(redact_details),
            ..self.missed_result(region, prober, Cause::Invalid, String::new())
        }
    }
}

fn redact_details(details: Details) -> Details {
    match redact_json(details.into()) {
        serde_json::Value::Object(redacted) => redacted,
        _ => Details::new(),
    }
}

fn reject_site_id(site: SiteId) -> ValidationError {
    ValidationError::new("site_id", site, "absent in an ad-hoc request")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TICK: &str = r#""site_id":42,"kind":"scheduled","scheduled_at":"2026-11-20T12:00:00.000000Z","expires_at":"2026-11-20T12:01:00.000000Z","shard":7"#;

    fn queued(subject: &str, rest: &str) -> Result<Job, ValidationError> {
        let json = format!(r#"{{"url":"http://a.example/"{rest}}}"#);
        Job::from_queue(subject, json.as_bytes(), Timestamp::from_millis(0))
    }

    #[test]
    fn a_scheduled_job_expires_with_its_tick() {
        let job = queued("picket.job.eu.42", &format!(",{TICK}")).unwrap();
        let expires: Timestamp = "2026-11-20T12:01:00Z".parse().unwrap();

        assert_eq!((job.shard(), job.site_id()), (Some(Shard(7)), Some(SiteId(42))));
        assert_eq!(job.expired_by(expires), None);
        let later = expires.saturating_add(Duration::from_secs(2));
        assert_eq!(job.expired_by(later), Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_jobs_result_carries_its_ticket_and_an_ad_hoc_result_carries_none() {
        let region: RegionName = "eu".parse().unwrap();
        let ticket = r#""installation":"6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33","ticket":"of any form""#;
        let job = queued("picket.job.eu.42", &format!(",{TICK},{ticket}")).unwrap();
        let adhoc = queued("picket.job.eu.adhoc.a1", &format!(",{ticket}")).unwrap();

        for cause in [Cause::Expired, Cause::Overloaded, Cause::Blocked, Cause::ProberOffline, Cause::Invalid]
        {
            let result = job.missed_result(&region, "prober", cause, String::new());
            assert_eq!(result.ticket.as_deref(), Some("of any form"));
            assert_eq!(
                (result.installation, result.expires_at),
                (job.request.installation, job.expires_at())
            );
            assert!(result.installation.is_some() && result.expires_at.is_some());
            let result = adhoc.missed_result(&region, "prober", cause, String::new());
            assert_eq!((result.ticket, result.installation, result.expires_at), (None, None, None));
        }
    }

    #[test]
    fn an_ad_hoc_job_has_the_id_of_its_json_or_else_of_its_subject() {
        assert_eq!(queued("picket.job.eu.adhoc.a1", "").unwrap().id, "a1");
        assert_eq!(queued("picket.job.eu.adhoc.a1", r#","id":"b2""#).unwrap().id, "b2");
    }

    #[test]
    fn a_job_that_contradicts_its_subject_is_refused() {
        let tick = format!(",{TICK}");
        for (subject, rest) in
            [("picket.job.eu.43", tick.as_str()), ("picket.job.eu.adhoc.a1", &tick), ("picket.job.eu.42", "")]
        {
            assert_eq!(queued(subject, rest).unwrap_err().field, "site_id", "{subject}");
        }
        assert_eq!(queued("picket.job.eu.x", "").unwrap_err().field, "subject");
        let asked =
            Job::from_request(br#"{"url":"http://a.example/","site_id":1}"#, Timestamp::from_millis(0));
        assert_eq!(asked.unwrap_err().field, "site_id");
    }
}
