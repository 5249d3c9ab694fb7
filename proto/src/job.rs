//! The message of a job, rendered from a template of its site, which is encoded once, and from its
//! tick.
//!
//! A job whose check uses features (see [`features`](crate::features)) has its check in the field
//! `check`, and not beside the fields of the tick. Its URL is `requires:` with the features. A
//! prober from before `requires` therefore refuses the URL, which gives a row `missed` and names
//! the features; it would otherwise skip them and report `up`. A newer prober reads the features
//! before it reads the check, whose fields it may not know.

use std::{fmt::Write as _, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    CheckRequest, Epoch, MESSAGE_VERSION, ScheduledTick, Tickets, ValidationError, request::decode_error,
    ticket::TicketClaims, validation::sanitize_text,
};

/// The part of a job that depends on the site alone: the JSON fields of the check, without braces.
///
/// A coordinator holds a template for each of up to a million sites, so a template is one
/// allocation of the exact size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobTemplate(Box<str>);

/// Maximum time to live of a job after its tick.
pub const MAX_JOB_TTL: Duration = Duration::from_secs(60);

/// Time to live of a job after its tick: until the next tick, at most [`MAX_JOB_TTL`].
pub fn job_ttl(interval: Duration) -> Duration {
    interval.min(MAX_JOB_TTL)
}

impl JobTemplate {
    /// Encodes the fields of the check; the fields of a tick are left out.
    pub fn new(request: &CheckRequest) -> Self {
        let check = CheckRequest {
            v: MESSAGE_VERSION,
            id: None,
            site_id: None,
            kind: None,
            scheduled_at: None,
            expires_at: None,
            shard: None,
            epoch: None,
            installation: None,
            ticket: None,
            requires: Vec::new(),
            ..request.clone()
        };
        // Absent and default fields are not encoded. Without braces, the tick's fields can be put
        // first.
        let json = serde_json::to_string(&check).unwrap_or_default();
        let requires = check.used_features();
        if requires.is_empty() {
            return Self(json.trim_start_matches('{').strip_suffix('}').unwrap_or_default().into());
        }
        let words = Value::from(requires.as_slice());
        let url = Value::from(format!("{FEATURES_SCHEME}{}", requires.join(",")));
        Self(format!(r#""url":{url},"requires":{words},"check":{json}"#).into())
    }

    /// Appends the job of the tick in `claims`, with its ticket, to `out`. `id` must be the
    /// [`job_id`](crate::ScheduledTick::job_id) of the tick; `epoch` is that of the lease under which
    /// the job is published.
    pub fn render_job(
        &self,
        claims: &TicketClaims<'_>,
        epoch: Epoch,
        id: &str,
        tickets: &Tickets,
        out: &mut String,
    ) {
        let ScheduledTick { site, shard, kind, scheduled_at, expires_at } = claims.tick;
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#"{{"v":{MESSAGE_VERSION},"id":"{id}","site_id":{site},"kind":"{kind}","scheduled_at":"{scheduled_at}","expires_at":"{expires_at}","shard":{shard},"epoch":{epoch},"#
        );
        tickets.render_fields(claims, out);
        out.push_str(&self.0);
        out.push('}');
    }
}

/// Start of the URL of a job that requires features, which no prober takes for a website.
const FEATURES_SCHEME: &str = "requires:";

/// A job as this build understands it.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedJob {
    /// The check and its tick. If the check is unsupported, only the tick and the URL are reliable.
    pub request: CheckRequest,
    /// The feature, or the field, that this build does not support, if there is one.
    pub unsupported: Option<String>,
}

/// A job whose check uses features.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    check: Option<CheckRequest>,
}

/// Decodes a queued job. A job that requires features which this build does not support is decoded
/// as far as its tick, so that its result can say so.
///
/// # Errors
/// If the bytes are not a job, or an ad-hoc request is invalid. The error names the field where
/// possible.
pub fn decode_job(bytes: &[u8]) -> Result<DecodedJob, ValidationError> {
    let request = match CheckRequest::decode(bytes) {
        Ok(request) => request,
        Err(why) => return decode_unreadable(bytes, &why).ok_or(why),
    };
    let is_plain = request.requires.is_empty() && request.options.is_empty() && request.assertions.is_empty();
    // The features of an ad-hoc request have been judged.
    if is_plain || request.site_id.is_none() {
        return Ok(DecodedJob { request, unsupported: None });
    }
    // Before the check is read: a feature may have fields that this build cannot read.
    if let Some(feature) = request.find_unsupported() {
        return Ok(unsupported_job(request, bytes, &feature));
    }
    match serde_json::from_slice::<Envelope>(bytes) {
        Ok(Envelope { check: None }) => Ok(DecodedJob { request, unsupported: None }),
        Ok(Envelope { check: Some(check) }) => {
            if let Some(feature) = check.find_unsupported() {
                return Ok(unsupported_job(request, bytes, &feature));
            }
            Ok(DecodedJob { request: with_tick_of(check, request), unsupported: None })
        }
        Err(_) => {
            let check = find_check(bytes).unwrap_or_default();
            let why = decode_error::explain_error(check.to_string().as_bytes());
            Ok(unsupported_job(request, bytes, &explain_field(&why)))
        }
    }
}

/// The check with the fields of the tick of its job.
fn with_tick_of(check: CheckRequest, job: CheckRequest) -> CheckRequest {
    CheckRequest {
        v: job.v,
        id: job.id,
        site_id: job.site_id,
        kind: job.kind,
        scheduled_at: job.scheduled_at,
        expires_at: job.expires_at,
        shard: job.shard,
        epoch: job.epoch,
        installation: job.installation,
        ticket: job.ticket,
        requires: job.requires,
        ..check
    }
}

/// Decodes the tick of a job whose options or assertions cannot be read, as those of a newer
/// version. `None` if these are not the reason why the job could not be decoded.
fn decode_unreadable(bytes: &[u8], why: &ValidationError) -> Option<DecodedJob> {
    let mut json: Value = serde_json::from_slice(bytes).ok()?;
    let fields = json.as_object_mut()?;
    let removed = [fields.remove("options"), fields.remove("assertions")];
    let request: CheckRequest = serde_json::from_value(json).ok()?;
    if request.site_id.is_none() || removed.iter().all(Option::is_none) {
        return None;
    }
    let unsupported = request.find_unsupported().unwrap_or_else(|| explain_field(why));
    Some(unsupported_job(request, bytes, &unsupported))
}

fn unsupported_job(request: CheckRequest, bytes: &[u8], what: &str) -> DecodedJob {
    /// Maximum length of an unknown word that is quoted.
    const MAX_WORD_BYTES: usize = 200;
    let check = find_check(bytes);
    let url = check.as_ref().and_then(|check| check.get("url")).and_then(Value::as_str);
    let url = url.map_or(request.url.clone(), str::to_owned);
    DecodedJob {
        request: CheckRequest { url, ..request },
        unsupported: Some(sanitize_text(what, MAX_WORD_BYTES)),
    }
}

fn find_check(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Value>(bytes).ok()?.get_mut("check").map(Value::take)
}

/// The field and what is allowed, without the value, which may be a secret.
fn explain_field(why: &ValidationError) -> String {
    format!("{} ({})", why.field, why.expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CheckKind, RegionName, Shard, SiteId, Timestamp, ticket::TicketKey};

    #[test]
    fn a_rendered_job_reads_back_as_the_site_with_its_tick() {
        let site = CheckRequest {
            regex: Some("\"ok\\s\"".into()),
            headers: [("A".to_owned(), "{}".to_owned())].into(),
            ..CheckRequest::new("https://example.com/{}")
        };
        let region: RegionName = "eu".parse().unwrap();
        let tick = ScheduledTick {
            site: SiteId(42),
            shard: Shard(7),
            kind: CheckKind::Scheduled,
            scheduled_at: Timestamp::from_millis(1_795_176_000_000),
            expires_at: Timestamp::from_millis(1_795_176_060_000),
        };
        let claims = TicketClaims { tick, region: &region };

        let key = TicketKey { id: 1, secret: vec![7; 32], retired_at: None, is_usable: true };
        let tickets = Tickets::new(uuid::Uuid::from_u128(1).into(), true, &[key]);
        let mut json = String::new();
        JobTemplate::new(&site).render_job(&claims, Epoch(3), &tick.job_id(&region), &tickets, &mut json);
        let read = decode_job(json.as_bytes()).unwrap().request;

        let expected = CheckRequest {
            id: Some("42.eu.1795176000000".into()),
            site_id: Some(tick.site),
            kind: Some(tick.kind),
            scheduled_at: Some(tick.scheduled_at),
            expires_at: Some(tick.expires_at),
            shard: Some(tick.shard),
            epoch: Some(Epoch(3)),
            installation: Some(tickets.installation()),
            ticket: tickets.issue_ticket(&claims).map(|ticket| ticket.to_string()),
            ..site
        };
        assert!(read.ticket.is_some());
        assert_eq!(read, expected);
    }

    /// A job of the site of this JSON, as a coordinator publishes it.
    fn render(site: &str) -> String {
        let region: RegionName = "eu".parse().unwrap();
        let at = Timestamp::from_millis(1_795_176_000_000);
        let tick = ScheduledTick {
            site: SiteId(42),
            shard: Shard(7),
            kind: CheckKind::Confirm,
            scheduled_at: at,
            expires_at: at,
        };
        let tickets = Tickets::new(uuid::Uuid::from_u128(1).into(), false, &[]);
        let mut json = String::new();
        JobTemplate::new(&serde_json::from_str(site).unwrap()).render_job(
            &TicketClaims { tick, region: &region },
            Epoch(3),
            "id",
            &tickets,
            &mut json,
        );
        json
    }

    const FEATURED_SITE: &str = r#"{"url":"https://a.example/","method":"HEAD",
        "options":{"http_version":"2"},"assertions":{"json":[{"path":"$.a","equals":null}]}}"#;

    #[test]
    fn a_job_with_features_names_them_and_has_no_url_that_an_older_prober_would_check() {
        let job: Value = serde_json::from_str(&render(FEATURED_SITE)).unwrap();

        assert_eq!(job["requires"], serde_json::json!(["options.http_version", "assertions.json"]));
        assert_eq!(job["check"], serde_json::from_str::<Value>(FEATURED_SITE).unwrap());
        // As a prober reads it that knows neither field.
        let older = CheckRequest::new(job["url"].as_str().unwrap());
        let refusal = older.validate().unwrap_err();
        assert_eq!(refusal.field, "url");
        assert!(refusal.to_string().contains("assertions.json"), "{refusal}");
    }

    #[test]
    fn a_job_with_features_that_are_supported_reads_back_as_the_site_with_its_tick() {
        let bytes = render(FEATURED_SITE);
        let outer: CheckRequest = serde_json::from_str(&bytes).unwrap();
        let Envelope { check } = serde_json::from_str(&bytes).unwrap();
        let read = with_tick_of(check.unwrap(), outer);

        let site: CheckRequest = serde_json::from_str(FEATURED_SITE).unwrap();
        assert_eq!((read.site_id, read.kind), (Some(SiteId(42)), Some(CheckKind::Confirm)));
        assert_eq!((&read.url, &read.method), (&site.url, &site.method));
        assert_eq!((&read.options, &read.assertions), (&site.options, &site.assertions));
        assert_eq!(read.requires, site.used_features());
    }

    #[test]
    fn a_job_with_an_unknown_feature_is_read_as_far_as_its_tick_wherever_the_feature_is() {
        let tick = r#""v":2,"id":"a","site_id":42,"kind":"scheduled","scheduled_at":"2026-11-20T12:00:00.000000Z",
            "expires_at":"2026-11-20T12:01:00.000000Z","shard":7"#;
        for (rest, word) in [
            (
                r#""url":"requires:assertions.future","requires":["assertions.future"],
                    "check":{"url":"http://a.example/","assertions":{"future":1}}"#,
                "assertions.future",
            ),
            (
                r#""url":"http://a.example/","requires":["assertions.future"],"assertions":{"future":1}"#,
                "assertions.future",
            ),
            (r#""url":"http://a.example/","assertions":{"future":1}"#, "future"),
            (r#""url":"http://a.example/","requires":["x.y"]"#, "x.y"),
        ] {
            let job = decode_job(format!("{{{tick},{rest}}}").as_bytes()).unwrap();

            assert!(job.unsupported.as_ref().is_some_and(|what| what.contains(word)), "{rest}: {job:?}");
            assert_eq!((job.request.site_id, job.request.shard), (Some(SiteId(42)), Some(Shard(7))));
            assert_eq!(job.request.url, "http://a.example/");
        }
        // An invalid job is no job with a feature.
        assert!(decode_job(br#"{"url":7,"site_id":42,"options":{}}"#).is_err());
    }

    #[test]
    fn an_ad_hoc_request_with_an_unknown_feature_is_refused_by_its_name() {
        for (request, word) in [
            (r#"{"url":"http://x/","requires":["assertions.future"]}"#, "assertions.future"),
            (r#"{"url":"http://x/","assertions":{"future":"s3cret"}}"#, "assertions.future"),
            (r#"{"url":"http://x/","options":{"auth":{"future":"s3cret"}}}"#, "options.auth"),
            (r#"{"url":"http://x/","check":{}}"#, "check"),
        ] {
            let why = decode_job(request.as_bytes()).unwrap_err().to_string();

            assert!(why.contains(word) && !why.contains("s3cret"), "{request}: {why}");
        }
    }

    #[test]
    fn a_site_with_defaults_renders_as_its_url_alone() {
        assert_eq!(JobTemplate::new(&CheckRequest::new("http://x/")).0.as_ref(), r#""url":"http://x/""#);
    }

    #[test]
    fn a_job_lives_until_the_next_tick_and_a_minute_at_most() {
        assert_eq!(job_ttl(Duration::from_secs(5)), Duration::from_secs(5));
        assert_eq!(job_ttl(Duration::from_hours(24)), Duration::from_secs(60));
    }
}
