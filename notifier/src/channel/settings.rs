//! Settings that several kinds of channels have, and their checks.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

pub(super) use picket_proto::channel_setting::{MAX_TIMEOUT_MS, SETTINGS_FIELD as FIELD};
use picket_proto::{
    ValidationError,
    credentials::is_credential_header,
    http_options::{SecretRef, check_secret_name},
    nested_object::{HIDDEN_VALUE, decode_object},
};
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

/// Maximum length of a URL and of a text.
const MAX_URL_BYTES: usize = 2_048;
const MAX_TEXT_BYTES: usize = 512;
/// Maximum number of headers.
const MAX_HEADERS: usize = 16;
/// Headers that belong to the transport or to the protocol.
const RESERVED_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Settings of the connection, which every kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransportSettings {
    /// File with the only authorities to trust.
    pub(crate) ca_file: Option<PathBuf>,
    /// Maximum time of an attempt.
    pub(crate) timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransportFields {
    ca_file: Option<String>,
    timeout_ms: Option<u64>,
}

impl TransportSettings {
    const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

    /// Decodes these settings of a channel, and returns the rest.
    pub(super) fn split(value: &Value) -> Result<(Self, Value), ValidationError> {
        let Some(fields) = value.as_object() else {
            return Err(ValidationError::new(FIELD, HIDDEN_VALUE, "an object"));
        };
        let is_common = |name: &str| matches!(name, "ca_file" | "timeout_ms");
        let select = |wanted: bool| {
            let fields = fields.iter().filter(|(name, _)| is_common(name) == wanted);
            Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
        };
        let common: TransportFields = decode_object(FIELD, &select(true))?;
        if let Some(path) = &common.ca_file
            && (!path.starts_with('/') || path.contains('\0') || path.len() > MAX_URL_BYTES)
        {
            return Err(ValidationError::new(field("ca_file"), path, "an absolute path"));
        }
        let settings = Self {
            ca_file: common.ca_file.map(PathBuf::from),
            timeout: common.timeout_ms.map_or(Self::DEFAULT_TIMEOUT, Duration::from_millis),
        };
        Ok((settings, select(false)))
    }
}

/// Name of a setting in errors.
pub(super) fn field(name: &str) -> String {
    format!("{FIELD}.{name}")
}

/// A URL, or the name of a secret that is one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a URL, or the name of a secret as {\"secret\": NAME}")]
pub(crate) enum UrlSetting {
    /// A URL without credentials.
    Plain(String),
    /// A URL that is a credential.
    Secret(SecretRef),
}

impl UrlSetting {
    pub(super) fn check(&self, name: &str) -> Result<(), ValidationError> {
        match self {
            Self::Plain(text) => parse_url(name, text).map(drop),
            Self::Secret(secret) => check_secret(name, secret),
        }
    }
}

/// A text, or the name of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a text, or the name of a secret as {\"secret\": NAME}")]
pub(crate) enum TextSetting {
    /// A text that anyone may know.
    Plain(String),
    /// A credential.
    Secret(SecretRef),
}

/// Refuses a name that no secret can have.
pub(super) fn check_secret(name: &str, secret: &SecretRef) -> Result<(), ValidationError> {
    check_secret_name(&format!("{}.secret", field(name)), &secret.secret)
}

/// Parses a URL of the settings. It has no credentials, since everyone who sees the channel sees it.
pub(super) fn parse_url(name: &str, text: &str) -> Result<Url, ValidationError> {
    let allowed = "an http or https URL without user, password and fragment; a credential is given by the \
        name of a secret";
    let parsed = Url::parse(text).ok().filter(|url| {
        let has_login = !url.username().is_empty() || url.password().is_some();
        matches!(url.scheme(), "http" | "https") && url.has_host() && !has_login && url.fragment().is_none()
    });
    match parsed {
        Some(url) if text.len() <= MAX_URL_BYTES => Ok(url),
        // It may be a credential, or contain one.
        _ => Err(ValidationError::new(field(name), HIDDEN_VALUE, allowed)),
    }
}

/// The base of a service's API.
pub(super) fn check_api_url(api_url: Option<&str>) -> Result<(), ValidationError> {
    let Some(text) = api_url else { return Ok(()) };
    match parse_url("api_url", text)?.query() {
        None => Ok(()),
        Some(_) => Err(ValidationError::new(field("api_url"), HIDDEN_VALUE, "a URL without a query")),
    }
}

/// Joins path segments to the base of an API. Each is percent-encoded.
pub(super) fn join_url(base: &str, segments: &[&str]) -> Result<Url, ValidationError> {
    let mut url = parse_url("api_url", base)?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    Ok(url)
}

/// Refuses a text that is empty, too long, or has control characters.
pub(super) fn check_text(name: &str, text: &str) -> Result<(), ValidationError> {
    match (1..=MAX_TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(ValidationError::new(field(name), text, "1 to 512 bytes without control characters")),
    }
}

/// Refuses headers that cannot be sent, and plain ones that look like credentials.
pub(super) fn check_headers(
    headers: &BTreeMap<String, TextSetting>,
    own: &[&str],
) -> Result<(), ValidationError> {
    if headers.len() > MAX_HEADERS {
        let count = format_args!("{} of them", headers.len());
        return Err(ValidationError::new(field("headers"), count, format!("at most {MAX_HEADERS}")));
    }
    for (name, value) in headers {
        let place = field(&format!("headers.{name}"));
        let lower = name.to_ascii_lowercase();
        let is_reserved = RESERVED_HEADERS.contains(&lower.as_str()) || own.contains(&lower.as_str());
        if name.parse::<HeaderName>().is_err() || is_reserved {
            return Err(ValidationError::new(place, name, "a header that Picket does not set itself"));
        }
        match value {
            TextSetting::Secret(secret) => check_secret_name(&format!("{place}.secret"), &secret.secret)?,
            TextSetting::Plain(_) if is_credential_header(name) => {
                let allowed = "the name of a secret, as {\"secret\": NAME}";
                return Err(ValidationError::new(place, HIDDEN_VALUE, allowed));
            }
            TextSetting::Plain(text) => {
                if text.len() > MAX_TEXT_BYTES || HeaderValue::from_str(text).is_err() {
                    return Err(ValidationError::new(place, text, "visible ASCII, at most 512 bytes"));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
