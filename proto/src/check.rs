//! A check that is ready to run: a request with all fields validated.

use std::{net::IpAddr, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use url::Url;

use crate::{HttpOptions, Pattern, ValidationError, status_ranges::StatusRanges};

/// A validated request, and the conditions for a good response.
#[derive(Clone, Debug)]
pub struct Check {
    /// URL: http or https, with a host, without user or password.
    pub url: Url,
    /// Method of the request.
    pub method: Method,
    /// Headers, sent unchanged.
    pub headers: Vec<(String, String)>,
    /// Body of the request.
    pub body: Option<String>,
    /// Timeout for all phases and hops together.
    pub timeout: Duration,
    /// Allowed statuses.
    pub status: StatusRanges,
    /// Regex that the body must match.
    pub regex: Option<Pattern>,
    /// Regex that the body must not match.
    pub not_regex: Option<Pattern>,
    /// Maximum redirects to follow. With 0 a redirect counts as the response.
    pub max_redirects: u8,
    /// Addresses to connect to.
    pub ip_version: IpVersion,
    /// True if an untrusted certificate makes the check fail.
    pub tls_verify: bool,
    /// How to ask, beyond the fields above.
    pub options: Arc<HttpOptions>,
}

/// The methods that a check may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The default.
    Get,
    /// The response has no body.
    Head,
    /// The request has a body.
    Post,
    /// The request has a body.
    Put,
    /// The request has a body.
    Patch,
    /// The request may have a body.
    Delete,
    /// Queries the methods that the server allows.
    Options,
}

impl Method {
    const ALL_METHODS: [Self; 7] =
        [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    /// The method's name in HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }

    /// Parses the name of a method, in either case.
    ///
    /// # Errors
    /// If the name is not a supported method.
    pub fn parse(name: &str) -> Result<Self, ValidationError> {
        Self::ALL_METHODS.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(name)).ok_or_else(
            || ValidationError::new("method", name, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        )
    }
}

/// Versions of IP that a check may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub enum IpVersion {
    /// Either; the first address that accepts a connection.
    #[default]
    #[serde(rename = "any")]
    Any,
    /// IPv4 only.
    #[serde(rename = "4")]
    V4,
    /// IPv6 only.
    #[serde(rename = "6")]
    V6,
}

impl IpVersion {
    /// The word on the wire and in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }

    /// Parses `any`, `4` or `6`.
    ///
    /// # Errors
    /// If `word` is none of these.
    pub fn parse(word: &str) -> Result<Self, ValidationError> {
        [Self::Any, Self::V4, Self::V6]
            .into_iter()
            .find(|version| version.as_str() == word)
            .ok_or_else(|| ValidationError::new("ip_version", word, "any, 4, 6"))
    }

    /// Returns true if a check may connect to `address`.
    pub fn allows_address(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

impl<'de> Deserialize<'de> for IpVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As a text, because a sites file may have the number 4.
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Maximum length of a URL, in bytes.
pub const MAX_URL_BYTES: usize = 4_096;

/// Parses the URL of a check.
///
/// # Errors
/// If `text` is not an http or https URL with a host, if the URL contains a user or a password, or
/// if the URL is too long.
pub fn parse_url(text: &str) -> Result<Url, ValidationError> {
    let refusal = |allowed: &str| ValidationError::new("url", text, allowed);
    if text.len() > MAX_URL_BYTES {
        return Err(refusal(&format!("at most {MAX_URL_BYTES} bytes")));
    }
    let url = Url::parse(text).map_err(|why| {
        refusal(&format!("http or https with a host, such as https://example.com/ ({why})"))
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(refusal("http or https with a host, such as https://example.com/"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // The URL is part of every report, so it must not contain a secret.
        return Err(ValidationError::new(
            "url",
            "(with a user or password)",
            "no user or password; use an Authorization header",
        ));
    }
    if url.port() == Some(0) {
        return Err(refusal("a port from 1 to 65535"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_http_or_https_with_a_host_and_without_a_password() {
        for good in
            ["http://example.com", "https://example.com:8443/x?y#z", "http://[::1]:80/", "http://127.0.0.1/"]
        {
            parse_url(good).unwrap();
        }
        for bad in
            ["", "example.com", "ftp://example.com", "http://", "https://u:p@example.com/", "http://x:99999/"]
        {
            assert_eq!(parse_url(bad).unwrap_err().field, "url", "{bad}");
        }
        assert!(!parse_url("https://u:secret@example.com/").unwrap_err().to_string().contains("secret"));
    }
}
