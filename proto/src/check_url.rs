//! The URLs that a check may request.

use url::Url;

use crate::ValidationError;

/// Maximum length of a URL, in bytes.
pub const MAX_URL_BYTES: usize = 4_096;

/// Parses the URL of a check.
///
/// # Errors
/// If `text` is not an http or https URL with a host, if the URL contains a user or a password, or
/// if the URL is too long.
pub fn parse_url(text: &str) -> Result<Url, ValidationError> {
    parse_url_of("url", text)
}

/// As [`parse_url`], for the URL in another field.
pub(crate) fn parse_url_of(field: &str, text: &str) -> Result<Url, ValidationError> {
    let refusal = |allowed: &str| ValidationError::new(field, text, allowed);
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
            field,
            "(with a user or password)",
            "no user or password; use options.auth or an Authorization header",
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
