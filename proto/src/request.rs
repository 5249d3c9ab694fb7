//! Check requests: scheduled jobs and ad-hoc requests have the same form.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};

use crate::{
    Check, CheckKind, Epoch, HttpAssertions, HttpOptions, InstallationId, IpVersion, MESSAGE_VERSION,
    Pattern, ScheduledTick, Shard, SiteId, Timestamp, ValidationError,
    check::{self, Method},
    check_options::with_check_options,
    features,
    header_name::{check_distinct_names, check_header_name},
    http_assertions::CompiledAssertions,
    nested_object::HIDDEN_VALUE,
    pattern::MAX_CHECK_BYTES,
    status_ranges::StatusRanges,
};

pub(crate) mod decode_error;

/// Defines [`CheckRequest`] with the URL, the options of a check, and the fields of `request`.
macro_rules! define_request {
    (
        $(#[$meta:meta])*
        request { $($(#[$doc:meta])* $field:ident: $type:ty = $default:expr, $allowed:literal;)* }
        check { $($(#[$option_doc:meta])* $option:ident: $option_type:ty = $option_default:expr, $option_allowed:literal;)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(default)]
        pub struct CheckRequest {
            /// URL to check.
            pub url: String,
            $($(#[$option_doc])* pub $option: $option_type,)*
            $($(#[$doc])* pub $field: $type,)*
        }

        impl CheckRequest {
            /// Each field with a description of its allowed values.
            pub const KNOWN_FIELDS: &[(&str, &str)] = &[
                ("url", "an http or https URL"),
                $((stringify!($option), $option_allowed),)*
                $((stringify!($field), $allowed),)*
            ];

            /// A request for `url` with every other field at its default.
            pub fn new(url: impl Into<String>) -> Self {
                Self { url: url.into(), $($option: $option_default,)* $($field: $default,)* }
            }
        }

        impl Serialize for CheckRequest {
            /// Writes the URL and the fields that differ from their default.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                static DEFAULT: LazyLock<CheckRequest> = LazyLock::new(CheckRequest::default);
                let mut fields = serializer.serialize_map(None)?;
                fields.serialize_entry("url", &self.url)?;
                $(if self.$option != DEFAULT.$option {
                    fields.serialize_entry(stringify!($option), &self.$option)?;
                })*
                $(if self.$field != DEFAULT.$field {
                    fields.serialize_entry(stringify!($field), &self.$field)?;
                })*
                fields.end()
            }
        }
    };
}

with_check_options!(define_request! {
    /// A check request in its wire format. Only `url` is required; every other field has a default.
    ///
    /// Numeric fields are wider than their ranges, so that the validation rejects a number out of
    /// range with a clear error.
    request {
        /// Correlation id: any text of at most 128 bytes.
        id: Option<String> = None, "a text of at most 128 bytes";
        /// Version of the message.
        v: u32 = MESSAGE_VERSION, "1";
        /// Site, in scheduled and confirming checks; absent in ad-hoc requests.
        site_id: Option<SiteId> = None, "a whole number";
        /// Origin of the check.
        kind: Option<CheckKind> = None, "\"scheduled\" or \"confirm\"";
        /// Time at which the check is due.
        scheduled_at: Option<Timestamp> = None, "an RFC 3339 time";
        /// Time after which the check is not worth doing.
        expires_at: Option<Timestamp> = None, "an RFC 3339 time";
        /// Shard of the site.
        shard: Option<Shard> = None, "a whole number from 0 to 65535";
        /// Epoch of the lease under which the job was published, for diagnosis.
        epoch: Option<Epoch> = None, "a whole number";
        /// Installation that published the job; copied to the result.
        installation: Option<InstallationId> = None, "a UUID";
        /// Ticket of the job; copied to the result unread, because only the sink verifies tickets.
        ticket: Option<String> = None, "a text";
        /// Features that a prober must know to perform this check, or else not perform it.
        requires: Vec<String> = Vec::new(), "a list of features, such as [\"assertions.json\"]";
        /// True to get each assertion with its result, in the reply to an ad-hoc request.
        explain: bool = false, "true or false";
    }
});

/// The parts of a check that contain regexes.
struct CheckRegexes<R> {
    regex: Option<R>,
    not_regex: Option<R>,
    assertions: Option<CompiledAssertions<R>>,
}

impl Default for CheckRequest {
    /// A request without a URL, which is invalid.
    fn default() -> Self {
        Self::new(String::new())
    }
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
    /// Maximum size of the options, and of the assertions, as JSON, in bytes.
    pub const MAX_OBJECT_BYTES: usize = 32 << 10;
    /// Maximum length of the id, in bytes.
    pub const MAX_ID_BYTES: usize = 128;

    /// Decodes a request. Unknown fields and features are rejected by name in ad-hoc requests,
    /// which people type. Unknown fields are ignored in jobs, because a newer coordinator may send
    /// fields that this prober does not know; [`decode_job`](crate::job::decode_job) judges
    /// features.
    ///
    /// # Errors
    /// If the bytes are not a JSON object of this form. The error names the field where possible.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValidationError> {
        let request =
            serde_json::from_slice::<Self>(bytes).map_err(|_| decode_error::explain_error(bytes))?;
        // An absent URL has the default, which is empty.
        if request.url.is_empty() {
            decode_error::require_url(bytes)?;
        }
        if request.site_id.is_none() {
            decode_error::reject_unknown_fields(bytes)?;
            if let Some(feature) = request.find_unsupported() {
                let allowed = match features::CHECK_FEATURES {
                    [] => "no features".to_owned(),
                    known => known.join(", "),
                };
                return Err(ValidationError::new(
                    "requires",
                    feature,
                    format!("{allowed} (in version {})", env!("CARGO_PKG_VERSION")),
                ));
            }
        }
        Ok(request)
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
        mut compile: impl FnMut(&str, &str) -> Result<Pattern, ValidationError>,
    ) -> Result<Check, ValidationError> {
        let (check, regexes) = self.validate_fields(|field, pattern| {
            let regex = compile(field, pattern)?;
            let bytes = regex.memory_usage();
            Ok((regex, bytes))
        })?;
        let CheckRegexes { regex, not_regex, assertions } = regexes;
        Ok(Check { regex, not_regex, assertions: assertions.map(Arc::new), ..check })
    }

    /// Validates all fields as [`validate`](Self::validate) does, without building a check.
    /// `judge_regex` validates regexes, for example from a cache, and returns the size of each.
    ///
    /// # Errors
    /// If a field is invalid. The error names the first one.
    pub fn check_validity(
        &self,
        mut judge_regex: impl FnMut(&str, &str) -> Result<usize, ValidationError>,
    ) -> Result<(), ValidationError> {
        self.validate_fields(|field, pattern| Ok(((), judge_regex(field, pattern)?))).map(drop)
    }

    /// Returns the check without regexes, and the results of `compile`, which returns the size of
    /// each regex too.
    fn validate_fields<R>(
        &self,
        mut compile: impl FnMut(&str, &str) -> Result<(R, usize), ValidationError>,
    ) -> Result<(Check, CheckRegexes<R>), ValidationError> {
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
            assertions: None,
            explain: self.explain,
            options: self.share_options(),
        };
        self.check_object_sizes()?;
        self.options.validate()?;
        self.options.validate_connection(&check.url, check.ip_version, check.tls_verify)?;
        self.options.reject_header_clash(&self.headers)?;
        let mut bytes = 0;
        let mut compile = |field: &str, pattern: &str| {
            let (regex, size) = compile(field, pattern)?;
            bytes += size;
            check_regex_size(field, bytes).map(|()| regex)
        };
        let regex = self.regex.as_deref().map(|pattern| compile("regex", pattern)).transpose()?;
        let not_regex = self.not_regex.as_deref().map(|pattern| compile("not_regex", pattern)).transpose()?;
        let assertions = self.assertions.compile_with(timeout_ms, compile)?;
        Ok((check, CheckRegexes { regex, not_regex, assertions }))
    }

    /// The features that this check uses, such as `assertions.json`; empty for a plain check.
    pub fn used_features(&self) -> Vec<String> {
        if self.options.is_empty() && self.assertions.is_empty() {
            return Vec::new();
        }
        [
            features::list_fields("options", &self.options),
            features::list_fields("assertions", &self.assertions),
        ]
        .concat()
    }

    /// A feature that this check requires or uses, and that this build does not support.
    pub fn find_unsupported(&self) -> Option<String> {
        let named = features::find_unknown(&self.requires, features::CHECK_FEATURES).map(str::to_owned);
        named.or_else(|| {
            features::find_unknown(&self.used_features(), features::CHECK_FEATURES).map(str::to_owned)
        })
    }

    /// Rejects options and assertions that are too large for a row.
    fn check_object_sizes(&self) -> Result<(), ValidationError> {
        fn check_size<T: Default + PartialEq + Serialize>(
            name: &str,
            object: &T,
        ) -> Result<(), ValidationError> {
            // Measured only where there is something: a plain check pays nothing.
            if *object == T::default() {
                return Ok(());
            }
            let bytes = serde_json::to_vec(object).map_or(usize::MAX, |json| json.len());
            match bytes > CheckRequest::MAX_OBJECT_BYTES {
                true => {
                    let allowed = format!("at most {} bytes", CheckRequest::MAX_OBJECT_BYTES);
                    Err(ValidationError::new(name, format_args!("{bytes} bytes"), allowed))
                }
                false => Ok(()),
            }
        }
        check_size("options", &self.options)?;
        check_size("assertions", &self.assertions)
    }

    /// The options as shared by checks. Most checks have none, and share one value.
    fn share_options(&self) -> Arc<HttpOptions> {
        static NO_OPTIONS: LazyLock<Arc<HttpOptions>> = LazyLock::new(Arc::default);
        match self.options == **NO_OPTIONS {
            true => Arc::clone(&NO_OPTIONS),
            false => Arc::new(self.options.clone()),
        }
    }

    /// Returns true if a field has a regex, or may have one.
    pub fn has_patterns(&self) -> bool {
        self.regex.is_some() || self.not_regex.is_some() || self.assertions.has_patterns()
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
        if kind == CheckKind::Adhoc {
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

/// Rejects the regex of `field` if the regexes up to it have more than the allowed `bytes`.
fn check_regex_size(field: &str, bytes: usize) -> Result<(), ValidationError> {
    match bytes <= MAX_CHECK_BYTES {
        true => Ok(()),
        false => {
            let allowed =
                format!("regexes of one check that compile to at most {MAX_CHECK_BYTES} bytes in all");
            let size = format_args!("(with the regexes before it {bytes} bytes)");
            Err(ValidationError::new(field, size, allowed))
        }
    }
}

/// Rejects a number outside of `min` to `max`.
pub(crate) fn check_range(field: &str, value: i64, min: i64, max: i64) -> Result<i64, ValidationError> {
    match (min..=max).contains(&value) {
        true => Ok(value),
        false => Err(ValidationError::new(field, value, format!("{min} to {max}"))),
    }
}

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
    check_distinct_names("headers", given.keys())?;
    for (name, value) in given {
        check_header_name("headers", name)?;
        // The error does not repeat the value, which may be a secret.
        if value.chars().any(|letter| letter.is_control() && letter != '\t') {
            return Err(ValidationError::new(
                format!("headers.{name}"),
                HIDDEN_VALUE,
                "a value without control characters",
            ));
        }
    }
    Ok(given.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests;
