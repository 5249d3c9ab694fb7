//! A check that can be done: a request of which every field has been judged.

use std::{net::IpAddr, time::Duration};

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Invalid, status::StatusRule};

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
    pub status: StatusRule,
    /// Must match the body.
    pub regex: Option<Regex>,
    /// Must not match the body.
    pub not_regex: Option<Regex>,
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
    const ALL: [Self; 7] =
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
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|method| method.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| Invalid::new("method", name, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
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
    pub fn parse(word: &str) -> Result<Self, Invalid> {
        [Self::Any, Self::V4, Self::V6]
            .into_iter()
            .find(|version| version.as_str() == word)
            .ok_or_else(|| Invalid::new("ip_version", word, "any, 4, 6"))
    }

    /// Whether a check may connect to `address`.
    pub fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// The longest URL, in bytes.
pub const MAX_URL: usize = 4_096;
/// The longest regex, in bytes.
pub const MAX_PATTERN: usize = 4_096;
/// The largest program that a regex may compile to, in bytes.
pub const MAX_REGEX_SIZE: usize = 1 << 20;
/// The most that one search may remember of where it has been, in bytes. A search that needs more is slower.
const MAX_SEARCH_SIZE: usize = 256 << 10;

/// Reads the URL of a check.
///
/// # Errors
/// When it is not an http or https URL with a host, when it holds a password, or when it is too long.
pub fn parse_url(text: &str) -> Result<Url, Invalid> {
    let refusal = |allowed: &str| Invalid::new("url", text, allowed);
    if text.len() > MAX_URL {
        return Err(refusal(&format!("at most {MAX_URL} bytes")));
    }
    let url = Url::parse(text).map_err(|why| {
        refusal(&format!("http or https with a host, such as https://example.com/ ({why})"))
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(refusal("http or https with a host, such as https://example.com/"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // The URL stands in every report; a secret does not belong there.
        return Err(Invalid::new(
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

/// Compiles a regex of a check: linear time, on bytes, bounded in size.
///
/// # Errors
/// When it is no regex, or one that takes too much memory; `field` is named.
pub fn compile(field: &str, pattern: &str) -> Result<Regex, Invalid> {
    // Once, within the largest size: who keeps no program need not know how large it is.
    compile_within(&[1], field, pattern).map(|(regex, _)| regex)
}

/// The same, and a bound in bytes on the program that it compiled to, of which a regex holds some. Takes up to five times
/// as long.
///
/// # Errors
/// As [`compile`].
pub fn compile_sized(field: &str, pattern: &str) -> Result<(Regex, usize), Invalid> {
    // A regex does not tell its size; so it is built within a small one first.
    compile_within(&[256, 64, 16, 4, 1], field, pattern)
}

/// Compiles within these parts of the largest size, one after the other, until one is large enough.
fn compile_within(parts: &[usize], field: &str, pattern: &str) -> Result<(Regex, usize), Invalid> {
    if pattern.len() > MAX_PATTERN {
        return Err(Invalid::new(field, pattern, format!("at most {MAX_PATTERN} bytes")));
    }
    let build = |size: usize| {
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(size).dfa_size_limit(MAX_SEARCH_SIZE).build().map(|regex| (regex, size))
    };
    let too_big = |why: &regex::Error| matches!(why, regex::Error::CompiledTooBig(_));
    let mut built = Err(regex::Error::CompiledTooBig(0));
    for part in parts {
        built = build(MAX_REGEX_SIZE / part);
        if !built.as_ref().is_err_and(too_big) {
            break;
        }
    }
    built.map_err(|why| {
        let allowed = match why {
            regex::Error::CompiledTooBig(limit) => {
                format!("a regex that compiles to at most {limit} bytes")
            }
            why => {
                // The last line of a syntax error is the reason; those before draw the pattern.
                let reason = why.to_string();
                let reason =
                    reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                format!("a regular expression as in Rust's regex crate ({reason})")
            }
        };
        Invalid::new(field, pattern, allowed)
    })
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

    #[test]
    fn a_regex_that_is_wrong_or_too_large_is_refused_with_the_reason() {
        assert!(compile("regex", "a(b").unwrap_err().to_string().contains("unclosed group"));
        assert!(compile("not_regex", r"(\w{500}){500}").unwrap_err().allowed.contains("bytes"));
        assert!(compile("regex", "ok").unwrap().is_match(b"\xffok"));
    }

    #[test]
    fn a_compiled_regex_has_a_bound_that_grows_with_it() {
        let sizes = ["ok", r"\w{10}", r"\w{15}"].map(|pattern| compile_sized("regex", pattern).unwrap().1);
        assert!(sizes.is_sorted() && sizes[0] < sizes[2] && sizes[2] <= MAX_REGEX_SIZE, "{sizes:?}");
    }
}
