//! The response of a token endpoint (RFC 6749, sections 5.1 and 5.2).

use std::time::Duration;

use picket_proto::validation::sanitize_text;
use picket_runtime::{SecretValue, redact};
use serde_json::Value;

/// A token with its lifetime.
pub(in crate::check) struct AccessToken {
    pub(in crate::check) token: SecretValue,
    pub(in crate::check) lifetime: Duration,
}

/// Body of a token response, zeroed when dropped.
pub(in crate::check) struct TokenBody(zeroize::Zeroizing<Vec<u8>>);

impl TokenBody {
    /// Maximum size of a body.
    pub(in crate::check) const MAX_BYTES: usize = 64 << 10;
    /// Lifetime of a token whose response names none.
    const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
    /// Maximum lifetime. A token that lives longer is requested again.
    const MAX_LIFETIME: Duration = Duration::from_secs(86_400);
    /// Minimum length of a token. A shorter one could not be redacted.
    const MIN_TOKEN_BYTES: usize = 6;

    pub(in crate::check) fn new() -> Self {
        Self(zeroize::Zeroizing::new(Vec::with_capacity(4 << 10)))
    }

    /// Adds a chunk, unless the body becomes too large.
    pub(in crate::check) fn push_chunk(&mut self, chunk: &[u8]) -> Result<(), String> {
        if self.0.len() + chunk.len() > Self::MAX_BYTES {
            return Err(format!("a body of more than {} KiB", Self::MAX_BYTES >> 10));
        }
        self.0.extend_from_slice(chunk);
        Ok(())
    }

    /// The token of a response with `status`. Errors contain no part of the body except the error
    /// code that the standard defines.
    pub(in crate::check) fn parse_token(&self, status: u16) -> Result<AccessToken, String> {
        let json = serde_json::from_slice::<Value>(&self.0).unwrap_or_default();
        if status != 200 {
            let code = json.get("error").and_then(Value::as_str).filter(|code| is_error_code(code));
            return Err(match code {
                Some(code) => format!("status {status} ({})", sanitize_text(&redact(code), 64)),
                None => format!("status {status}"),
            });
        }
        let token = json.get("access_token").and_then(Value::as_str).unwrap_or_default();
        if token.len() < Self::MIN_TOKEN_BYTES {
            return Err("no access_token in the response".to_owned());
        }
        let kind = json.get("token_type").and_then(Value::as_str).unwrap_or("bearer");
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err("a token_type that is not Bearer".to_owned());
        }
        // Some endpoints write the number as a text.
        let lifetime = json.get("expires_in").and_then(|seconds| match seconds {
            Value::String(text) => text.trim().parse::<f64>().ok(),
            other => other.as_f64(),
        });
        let lifetime = lifetime.filter(|seconds| *seconds > 0.0);
        let lifetime = lifetime.map_or(Self::DEFAULT_LIFETIME, |seconds| {
            Duration::from_secs_f64(seconds.min(Self::MAX_LIFETIME.as_secs_f64()))
        });
        Ok(AccessToken { token: SecretValue::new(token.to_owned()), lifetime })
    }
}

/// Returns true for the form of the error codes in RFC 6749, such as `invalid_client`. An endpoint
/// might echo the secret elsewhere.
fn is_error_code(code: &str) -> bool {
    code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(status: u16, body: &str) -> Result<(String, u64), String> {
        let mut response = TokenBody::new();
        response.push_chunk(body.as_bytes())?;
        response
            .parse_token(status)
            .map(|token| (token.token.expose_text().to_owned(), token.lifetime.as_secs()))
    }

    #[test]
    fn a_response_has_a_token_and_its_lifetime() {
        for (body, lifetime) in [
            (r#"{"access_token":"a-token","token_type":"Bearer","expires_in":3600}"#, 3_600),
            (r#"{"access_token":"a-token","token_type":"bearer","expires_in":"60"}"#, 60),
            (r#"{"access_token":"a-token","expires_in":1e300}"#, 86_400),
            (r#"{"access_token":"a-token","expires_in":-1}"#, 300),
            (r#"{"access_token":"a-token","expires_in":null}"#, 300),
        ] {
            assert_eq!(parse(200, body).unwrap(), ("a-token".to_owned(), lifetime), "{body}");
        }
    }

    #[test]
    fn a_refusal_has_the_code_of_the_standard_and_nothing_else_of_the_body() {
        for (status, body, why) in [
            (401, r#"{"error":"invalid_client","error_description":"MARK"}"#, "status 401 (invalid_client)"),
            (400, r#"{"error":"MARK is wrong"}"#, "status 400"),
            (500, "MARK", "status 500"),
            (200, "MARK", "no access_token in the response"),
            (200, r#"{"access_token":"MARK"}"#, "no access_token in the response"),
            (200, r#"{"access_token":"MARKMARK","token_type":"mac"}"#, "a token_type that is not Bearer"),
            (302, "", "status 302"),
        ] {
            assert_eq!(parse(status, body).unwrap_err(), why, "{body}");
        }
        assert!(parse(200, &"x".repeat(TokenBody::MAX_BYTES + 1)).unwrap_err().contains("64 KiB"));
    }
}
