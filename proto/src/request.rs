//! Check requests: scheduled jobs and ad-hoc requests have the same form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Check, Epoch, InstallationId, IpVersion, Kind, MESSAGE_VERSION, Pattern, Shard, SiteId, Timestamp,
    ValidationError,
    check::{self, Method},
    status_ranges::StatusRanges,
};

mod decode_error;

/// A check request in its wire format. Only `url` is required; every other field has a default.
///
/// Numeric fields are wider than their ranges, so that [`CheckRequest::validate`] rejects a number
/// out of range with a clear error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Version of the message.
    #[serde(default = "default_version", skip_serializing_if = "is_default_version")]
    pub v: u32,
    /// Correlation id: any text of at most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// URL to check.
    pub url: String,
    /// HTTP method.
    #[serde(default = "default_method", skip_serializing_if = "is_default_method")]
    pub method: String,
    /// Headers to send.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Body to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Timeout for all phases and hops together, in milliseconds.
    #[serde(default = "default_timeout_ms", skip_serializing_if = "is_default_timeout_ms")]
    pub timeout_ms: i64,
    /// Allowed statuses.
    #[serde(default = "default_status", skip_serializing_if = "is_default_status")]
    pub status: String,
    /// Regex that the body must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Regex that the body must not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_regex: Option<String>,
    /// Maximum redirects to follow.
    #[serde(default = "default_max_redirects", skip_serializing_if = "is_default_max_redirects")]
    pub max_redirects: i64,
    /// Addresses to connect to.
    #[serde(default, skip_serializing_if = "is_any_ip_version")]
    pub ip_version: IpVersion,
    /// True if the certificate is verified.
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    pub tls_verify: bool,

    /// Site, in scheduled and confirming checks; absent in ad-hoc requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_id: Option<SiteId>,
    /// Origin of the check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Time at which the check is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    /// Time after which the check is not worth doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Shard of the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Epoch of the lease under which the job was published, for diagnosis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Installation that published the job; copied to the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<InstallationId>,
    /// [Ticket](crate::ticket) of the job; copied to the result unread, because only the sink
    /// verifies tickets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

fn default_version() -> u32 {
    MESSAGE_VERSION
}
fn is_default_version(v: &u32) -> bool {
    *v == MESSAGE_VERSION
}
fn default_method() -> String {
    "GET".to_owned()
}
fn is_default_method(name: &str) -> bool {
    name == "GET"
}
fn default_timeout_ms() -> i64 {
    CheckRequest::DEFAULT_TIMEOUT_MS
}
fn is_default_timeout_ms(ms: &i64) -> bool {
    *ms == CheckRequest::DEFAULT_TIMEOUT_MS
}
fn default_status() -> String {
    CheckRequest::DEFAULT_STATUS.to_owned()
}
fn is_default_status(rule: &str) -> bool {
    rule == CheckRequest::DEFAULT_STATUS
}
fn default_max_redirects() -> i64 {
    CheckRequest::DEFAULT_MAX_REDIRECTS
}
fn is_default_max_redirects(n: &i64) -> bool {
    *n == CheckRequest::DEFAULT_MAX_REDIRECTS
}
fn is_any_ip_version(version: &IpVersion) -> bool {
    *version == IpVersion::Any
}
fn default_true() -> bool {
    true
}
fn is_true(flag: &bool) -> bool {
    *flag
}

/// The tick of a scheduled or confirming request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledTick {
    /// Site to check.
    pub site: SiteId,
    /// Scheduled or confirming.
    pub kind: Kind,
    /// Time at which the check was due.
    pub scheduled_at: Timestamp,
    /// Time after which the check is not worth doing.
    pub expires_at: Timestamp,
    /// Shard of the site.
    pub shard: Shard,
}

impl CheckRequest {
    /// Default timeout, in milliseconds.
    pub const DEFAULT_TIMEOUT_MS: i64 = 10_000;
    /// Minimum timeout, in milliseconds.
    pub const MIN_TIMEOUT_MS: i64 = 100;
    /// Maximum timeout, in milliseconds.
    pub const MAX_TIMEOUT_MS: i64 = 60_000;
    /// Default of the allowed statuses: success.
    pub const DEFAULT_STATUS: &str = "200-299";
    /// Default of the maximum redirects, roughly as in browsers.
    pub const DEFAULT_MAX_REDIRECTS: i64 = 10;
    /// Upper limit of the maximum redirects.
    pub const MAX_REDIRECTS: i64 = 20;
    /// Maximum number of headers.
    pub const MAX_HEADERS: usize = 50;
    /// Maximum size of all headers together, in bytes.
    pub const MAX_HEADER_BYTES: usize = 16 << 10;
    /// Maximum length of the body, in bytes.
    pub const MAX_BODY_BYTES: usize = 64 << 10;
    /// Maximum length of the id, in bytes.
    pub const MAX_ID_BYTES: usize = 128;

    const KNOWN_FIELDS: [(&str, &str); 21] = [
        ("url", "an http or https URL"),
        ("method", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("headers", "an object of texts, such as {\"Accept\": \"text/html\"}"),
        ("body", "a text"),
        ("timeout_ms", "a whole number from 100 to 60000"),
        ("status", "a text of statuses and ranges, such as \"200-299,301\""),
        ("regex", "a text: a regular expression that the body must match"),
        ("not_regex", "a text: a regular expression that the body must not match"),
        ("max_redirects", "a whole number from 0 to 20"),
        ("ip_version", "\"any\", \"4\" or \"6\""),
        ("tls_verify", "true or false"),
        ("id", "a text of at most 128 bytes"),
        ("v", "1"),
        ("site_id", "a whole number"),
        ("kind", "\"scheduled\" or \"confirm\""),
        ("scheduled_at", "an RFC 3339 time"),
        ("expires_at", "an RFC 3339 time"),
        ("shard", "a whole number from 0 to 65535"),
        ("epoch", "a whole number"),
        ("installation", "a UUID"),
        ("ticket", "a text"),
    ];

    /// A request for `url` with every other field at its default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            v: MESSAGE_VERSION,
            id: None,
            url: url.into(),
            method: default_method(),
            headers: BTreeMap::new(),
            body: None,
            timeout_ms: Self::DEFAULT_TIMEOUT_MS,
            status: default_status(),
            regex: None,
            not_regex: None,
            max_redirects: Self::DEFAULT_MAX_REDIRECTS,
            ip_version: IpVersion::Any,
            tls_verify: true,
            site_id: None,
            kind: None,
            scheduled_at: None,
            expires_at: None,
            shard: None,
            epoch: None,
            installation: None,
            ticket: None,
        }
    }

    /// Decodes a request. Unknown fields are rejected by name in ad-hoc requests, which people
    /// type. They are ignored in jobs, because a newer coordinator may send fields that this prober
    /// does not know.
    ///
    /// # Errors
    /// If the bytes are not a JSON object of this form. The error names the field where possible.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValidationError> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(request) if request.site_id.is_some() => Ok(request),
            Ok(request) => decode_error::reject_unknown_fields(bytes).map(|()| request),
            Err(_) => Err(decode_error::explain_error(bytes)),
        }
    }

    /// Validates all fields of the check.
    ///
    /// # Errors
    /// If a field is invalid. The error names the first one.
    pub fn validate(&self) -> Result<Check, ValidationError> {
        self.validate_with(Pattern::compile)
    }

    /// As [`validate`](Self::validate), with regexes from `compile`, which may use a cache.
    ///
    /// # Errors
    /// If a field is invalid. The error names the first one.
    pub fn validate_with(
        &self,
        compile: impl FnMut(&str, &str) -> Result<Pattern, ValidationError>,
    ) -> Result<Check, ValidationError> {
        let (check, regex, not_regex) = self.validate_fields(compile)?;
        Ok(Check { regex, not_regex, ..check })
    }

    /// Validates all fields as [`validate`](Self::validate) does, without building a check.
    /// `judge_regex` validates regexes, for example from a cache.
    ///
    /// # Errors
    /// If a field is invalid. The error names the first one.
    pub fn check_validity(
        &self,
        judge_regex: impl FnMut(&str, &str) -> Result<(), ValidationError>,
    ) -> Result<(), ValidationError> {
        self.validate_fields(judge_regex).map(drop)
    }

    /// Returns the check without regexes, and the results of `compile` for `regex` and `not_regex`.
    fn validate_fields<R>(
        &self,
        mut compile: impl FnMut(&str, &str) -> Result<R, ValidationError>,
    ) -> Result<(Check, Option<R>, Option<R>), ValidationError> {
        let timeout_ms =
            check_range("timeout_ms", self.timeout_ms, Self::MIN_TIMEOUT_MS, Self::MAX_TIMEOUT_MS)?;
        let max_redirects = check_range("max_redirects", self.max_redirects, 0, Self::MAX_REDIRECTS)?;
        if let Some(id) = self.id.as_deref()
            && (id.is_empty() || id.len() > Self::MAX_ID_BYTES || id.chars().any(char::is_control))
        {
            return Err(ValidationError::new("id", id, "1 to 128 bytes without control characters"));
        }
        if let Some(body) = self.body.as_deref()
            && body.len() > Self::MAX_BODY_BYTES
        {
            return Err(ValidationError::new(
                "body",
                format_args!("{} bytes", body.len()),
                format!("at most {} bytes", Self::MAX_BODY_BYTES),
            ));
        }
        // The cheap fields come first: a request with an invalid one costs no regex compilation.
        let check = Check {
            url: check::parse_url(&self.url)?,
            method: Method::parse(&self.method)?,
            headers: validate_headers(&self.headers)?,
            body: self.body.clone(),
            timeout: std::time::Duration::from_millis(timeout_ms.unsigned_abs()),
            status: self.status.parse::<StatusRanges>()?,
            regex: None,
            not_regex: None,
            max_redirects: u8::try_from(max_redirects).unwrap_or(u8::MAX),
            ip_version: self.ip_version,
            tls_verify: self.tls_verify,
        };
        let regex = self.regex.as_deref().map(|pattern| compile("regex", pattern)).transpose()?;
        let not_regex = self.not_regex.as_deref().map(|pattern| compile("not_regex", pattern)).transpose()?;
        Ok((check, regex, not_regex))
    }

    /// The tick of this request; `None` for an ad-hoc request.
    ///
    /// # Errors
    /// If a scheduled or confirming request lacks a field of its tick.
    pub fn scheduled_tick(&self) -> Result<Option<ScheduledTick>, ValidationError> {
        fn needed<T: Copy>(field: &str, value: Option<T>) -> Result<T, ValidationError> {
            value.ok_or_else(|| ValidationError::new(field, "(absent)", "present where there is a site_id"))
        }
        let Some(site) = self.site_id else { return Ok(None) };
        let kind = needed("kind", self.kind)?;
        // An ad-hoc check belongs to no schedule, so a site id contradicts this kind.
        if kind == Kind::Adhoc {
            return Err(ValidationError::new("kind", kind, "scheduled or confirm where there is a site_id"));
        }
        Ok(Some(ScheduledTick {
            site,
            kind,
            scheduled_at: needed("scheduled_at", self.scheduled_at)?,
            expires_at: needed("expires_at", self.expires_at)?,
            shard: needed("shard", self.shard)?,
        }))
    }
}

/// Rejects a number outside of `min` to `max`.
pub(crate) fn check_range(field: &str, value: i64, min: i64, max: i64) -> Result<i64, ValidationError> {
    match (min..=max).contains(&value) {
        true => Ok(value),
        false => Err(ValidationError::new(field, value, format!("{min} to {max}"))),
    }
}

/// Headers that belong to the connection and not to the request, or that name the requested host.
const RESERVED_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn validate_headers(given: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, ValidationError> {
    if given.len() > CheckRequest::MAX_HEADERS {
        return Err(ValidationError::new("headers", format_args!("{} of them", given.len()), "at most 50"));
    }
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > CheckRequest::MAX_HEADER_BYTES {
        return Err(ValidationError::new(
            "headers",
            format_args!("{bytes} bytes"),
            "at most 16384 bytes together",
        ));
    }
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    for (name, value) in given {
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(ValidationError::new("headers", name, "a header name as in RFC 9110"));
        }
        if RESERVED_HEADERS.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
            return Err(ValidationError::new("headers", name, "no header of the connection or of the host"));
        }
        // The error does not repeat the value, which may be a secret.
        if value.chars().any(|letter| letter.is_control() && letter != '\t') {
            return Err(ValidationError::new(
                format!("headers.{name}"),
                "(hidden)",
                "a value without control characters",
            ));
        }
    }
    Ok(given.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests;
