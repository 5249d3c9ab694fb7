//! The cookie of a session.
//!
//! Off loopback it is `Secure` and has the prefix `__Host-`, so that no other host of the domain can set it. On
//! loopback, where there is no https, browsers would refuse such a cookie.

use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use http::{HeaderMap, header};
use picket_store::sessions::SESSION_LIMIT;

const SECURE_NAME: &str = "__Host-picket";
const LOCAL_NAME: &str = "picket";

fn cookie_name(is_secure: bool) -> &'static str {
    if is_secure { SECURE_NAME } else { LOCAL_NAME }
}

/// Secret of the session in the cookies of a request.
pub(crate) fn find_session_secret(headers: &HeaderMap, is_secure: bool) -> Option<String> {
    let jar = CookieJar::from_headers(headers);
    jar.get(cookie_name(is_secure)).map(|cookie| cookie.value().to_owned())
}

/// The cookie of a new session.
pub(crate) fn build_session_cookie(secret: &str, is_secure: bool) -> Cookie<'static> {
    Cookie::build((cookie_name(is_secure), secret.to_owned()))
        .path("/")
        .http_only(true)
        .secure(is_secure)
        .same_site(SameSite::Lax)
        .max_age(SESSION_LIMIT.try_into().unwrap_or_default())
        .build()
}

/// A cookie that removes that of the session.
pub(crate) fn build_removal_cookie(is_secure: bool) -> Cookie<'static> {
    let mut cookie = build_session_cookie("", is_secure);
    cookie.make_removal();
    cookie
}

/// True if the headers of a response set the cookie of the session, or remove it.
pub(crate) fn sets_session_cookie(headers: &HeaderMap, is_secure: bool) -> bool {
    let beginning = format!("{}=", cookie_name(is_secure));
    headers.get_all(header::SET_COOKIE).iter().any(|value| value.as_bytes().starts_with(beginning.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_off_loopback_is_secure_and_bound_to_the_host() {
        let cookie = build_session_cookie("pks_x", true).to_string();

        for part in ["__Host-picket=pks_x", "HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=604800"]
        {
            assert!(cookie.contains(part), "{part}: {cookie}");
        }
        assert!(!cookie.contains("Domain"), "{cookie}");
    }

    #[test]
    fn a_cookie_on_loopback_is_not_secure_and_one_of_the_other_kind_is_not_read() {
        let cookie = build_session_cookie("pks_x", false).to_string();
        assert!(cookie.starts_with("picket=pks_x") && !cookie.contains("Secure"), "{cookie}");

        let mut headers = HeaderMap::new();
        headers.insert("cookie", "picket=local; __Host-picket=secure".parse().unwrap());
        assert_eq!(find_session_secret(&headers, false).as_deref(), Some("local"));
        assert_eq!(find_session_secret(&headers, true).as_deref(), Some("secure"));
    }
}
