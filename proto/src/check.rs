//! A check that can be done: a request of which every field has been judged.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Pattern, ValidationError, status_ranges::StatusRanges};

/// What to ask, and what answer is well.
#[derive(Clone, Debug)]
pub struct Check {
    /// Where; http or https, with a host, without user or password.
    pub url: Url,
    /// How to ask.
    pub method: Method,
    /// Sent as they are.
    pub headers: Vec<(String, String)>,
    /// Sent with the request.
    pub body: Option<String>,
    /// For all phases and hops together.
    pub timeout: Duration,
    /// The statuses that are well.
    pub status: StatusRanges,
    /// Must match the body.
    pub regex: Option<Pattern>,
    /// Must not match the body.
    pub not_regex: Option<Pattern>,
    /// How many redirects to follow; with 0 the redirect is the answer.
    pub max_redirects: u8,
    /// Which addresses to connect to.
    pub ip_version: IpVersion,
    /// Whether a certificate that cannot be trusted makes the check fail.
    pub tls_verify: bool,
}

/// The methods that a check may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The default.
    Get,
    /// Without a body in the answer.
    Head,
    /// With a body.
    Post,
    /// With a body.
    Put,
    /// With a body.
    Patch,
    /// May have a body.
    Delete,
    /// What does the server allow?
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

    /// Reads a method's name; letters may be of either case.
    ///
    /// # Errors
    /// When it is none of ours.
    pub fn parse(name: &str) -> Result<Self, ValidationError> {
        Self::ALL_METHODS.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(name)).ok_or_else(
            || ValidationError::new("method", name, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        )
    }
}

/// Which of a host's addresses a check may connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpVersion {
    /// The first that answers.
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

    /// Reads `any`, `4` or `6`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(word: &str) -> Result<Self, ValidationError> {
        [Self::Any, Self::V4, Self::V6]
            .into_iter()
            .find(|version| version.as_str() == word)
            .ok_or_else(|| ValidationError::new("ip_version", word, "any, 4, 6"))
    }

    /// Whether a check may connect to `address`.
    pub fn allows_address(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// The longest URL, in bytes.
pub const MAX_URL_BYTES: usize = 4_096;
/// Reads the URL of a check.
///
/// # Errors
/// When it is not an http or https URL with a host, when it holds a password, or when it is too long.
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
        // The URL stands in every report; a secret does not belong there.
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
