//! An attempt to sign in, from the redirect to the provider to the return from there.
//!
//! Its secrets are kept in a cookie of the browser and in no process. Another browser cannot finish the attempt:
//! it lacks the cookie, and the provider ties the code to the verifier in it.

use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use time::Duration;

const SECURE_NAME: &str = "__Host-picket-oidc";
const LOCAL_NAME: &str = "picket-oidc";
/// Maximum time for a person to sign in at the provider.
const ATTEMPT_LIMIT: Duration = Duration::minutes(10);

/// See the module documentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignInAttempt {
    /// Value that the provider must return, against requests that another site made.
    pub(crate) state: String,
    /// Value that the ID token must contain, against replayed tokens.
    pub(crate) nonce: String,
    /// PKCE verifier, against a stolen code.
    pub(crate) verifier: String,
    /// Path to go to after the sign-in.
    pub(crate) next: String,
}

impl SignInAttempt {
    fn cookie_name(is_secure: bool) -> &'static str {
        if is_secure { SECURE_NAME } else { LOCAL_NAME }
    }

    /// The cookie that keeps the attempt. `Lax`, because the provider's redirect comes from another site.
    pub(crate) fn to_cookie(&self, is_secure: bool) -> Result<Cookie<'static>, serde_json::Error> {
        let value = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self)?);
        Ok(Self::build_cookie(value, is_secure))
    }

    /// A cookie that removes that of an attempt.
    pub(crate) fn removal_cookie(is_secure: bool) -> Cookie<'static> {
        let mut cookie = Self::build_cookie(String::new(), is_secure);
        cookie.make_removal();
        cookie
    }

    fn build_cookie(value: String, is_secure: bool) -> Cookie<'static> {
        Cookie::build((Self::cookie_name(is_secure), value))
            .path("/")
            .http_only(true)
            .secure(is_secure)
            .same_site(SameSite::Lax)
            .max_age(ATTEMPT_LIMIT)
            .build()
    }

    /// The attempt in the cookies of a request, if its state is the one that the provider returned.
    pub(crate) fn find(headers: &HeaderMap, is_secure: bool, returned_state: &str) -> Option<Self> {
        let jar = CookieJar::from_headers(headers);
        let value = jar.get(Self::cookie_name(is_secure))?.value().to_owned();
        let attempt: Self = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
        (attempt.state == returned_state).then_some(attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> SignInAttempt {
        SignInAttempt {
            state: "state-1".to_owned(),
            nonce: "nonce-1".to_owned(),
            verifier: "verifier-1".to_owned(),
            next: "/sites?q=ä;b".to_owned(),
        }
    }

    fn send_back(cookie: &Cookie<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let pair = format!("{}={}", cookie.name(), cookie.value());
        headers.insert(http::header::COOKIE, pair.parse().unwrap());
        headers
    }

    #[test]
    fn an_attempt_returns_from_its_cookie_with_the_state_of_the_provider_only() {
        let cookie = attempt().to_cookie(true).unwrap();
        let headers = send_back(&cookie);

        assert_eq!(SignInAttempt::find(&headers, true, "state-1"), Some(attempt()));
        assert_eq!(SignInAttempt::find(&headers, true, "state-2"), None);
        assert_eq!(SignInAttempt::find(&headers, false, "state-1"), None, "a cookie that others could set");
        assert_eq!(SignInAttempt::find(&HeaderMap::new(), true, "state-1"), None);
    }

    #[test]
    fn the_cookie_is_hidden_from_scripts_and_bound_to_the_host() {
        let cookie = attempt().to_cookie(true).unwrap();
        let text = cookie.to_string();

        for part in ["__Host-picket-oidc=", "HttpOnly", "SameSite=Lax", "Secure", "Path=/", "Max-Age=600"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!attempt().to_cookie(false).unwrap().to_string().contains("Secure"));
    }
}
