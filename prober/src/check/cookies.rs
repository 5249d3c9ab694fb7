//! Cookies of one check: set by a hop and sent by the following hops. Each check starts without
//! cookies.

use cookie_store::{CookieStore, RawCookie};
use reqwest::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use url::Url;

/// Cookie store of one check, allocated when the first cookie is set.
#[derive(Default)]
pub(super) struct Cookies(Option<Box<CookieStore>>);

impl Cookies {
    /// Maximum size of a stored cookie in bytes, as in browsers.
    const MAX_COOKIE_BYTES: usize = 4_096;
    /// Maximum bytes of stored cookies sent with one hop.
    const MAX_COOKIE_HEADER_BYTES: usize = 8 << 10;

    /// Stores the cookies set by a response from `url`.
    pub(super) fn store_cookies(&mut self, url: &Url, headers: &HeaderMap) {
        for value in headers.get_all(SET_COOKIE) {
            let Ok(text) = std::str::from_utf8(value.as_bytes()) else { continue };
            if text.len() > Self::MAX_COOKIE_BYTES {
                continue;
            }
            let Ok(cookie) = RawCookie::parse(text.to_owned()) else { continue };
            // Cookies that browsers reject, such as cookies of another domain, are skipped.
            let _ = self.0.get_or_insert_default().insert_raw(&cookie, url);
        }
    }

    /// Adds the cookies for `url` to the `Cookie` header, after the site's own cookies in
    /// `headers`.
    pub(super) fn apply_cookies(&self, url: &Url, headers: &mut HeaderMap) {
        let Some(store) = &self.0 else { return };
        let mut line = match headers.get(COOKIE).map(|own| String::from_utf8_lossy(own.as_bytes())) {
            Some(own) => own.into_owned(),
            None => String::new(),
        };
        let is_sensitive = headers.get(COOKIE).is_some_and(HeaderValue::is_sensitive);
        let most = line.len() + Self::MAX_COOKIE_HEADER_BYTES;
        let mut cookies: Vec<(&str, &str)> = store.get_request_values(url).collect();
        // A stable order keeps requests reproducible for the detection of redirect loops.
        cookies.sort_unstable();
        for (name, value) in cookies {
            // Bounds the request head, whatever a site sets.
            if line.len() + name.len() + value.len() + "; =".len() > most {
                break;
            }
            if !line.is_empty() {
                line.push_str("; ");
            }
            line.push_str(name);
            line.push('=');
            line.push_str(value);
        }
        if !line.is_empty()
            && let Ok(mut value) = HeaderValue::from_bytes(line.as_bytes())
        {
            // The site's own cookies may be a secret.
            value.set_sensitive(is_sensitive);
            headers.insert(COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(set: &[&'static str], own: Option<&'static str>, to: &str) -> Option<String> {
        let mut cookies = Cookies::default();
        let answer = set.iter().map(|cookie| (SET_COOKIE, HeaderValue::from_static(cookie))).collect();
        cookies.store_cookies(&"https://a.example/in/here".parse().unwrap(), &answer);
        let mut headers = HeaderMap::from_iter(own.map(|own| (COOKIE, HeaderValue::from_static(own))));
        cookies.apply_cookies(&to.parse().unwrap(), &mut headers);
        headers.get(COOKIE).map(|line| line.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_cookie_is_sent_where_browsers_would_send_it() {
        let all = |to| sent(&["a=1; Path=/", "b=2", "c=3; Domain=a.example; Path=/; Secure"], None, to);

        assert_eq!(all("https://a.example/in/there").as_deref(), Some("a=1; b=2; c=3"));
        assert_eq!(all("https://a.example/").as_deref(), Some("a=1; c=3"));
        assert_eq!(all("http://a.example/").as_deref(), Some("a=1"));
        assert_eq!(all("https://www.a.example/").as_deref(), Some("c=3"));
        assert_eq!(all("https://b.example/"), None);
    }

    #[test]
    fn cookies_of_the_sites_definition_are_kept_and_foreign_domains_refused() {
        let set = ["a=1; Path=/", "b=2; Domain=b.example", "c=3; Max-Age=0"];

        assert_eq!(sent(&set, Some("own=0"), "https://a.example/").as_deref(), Some("own=0; a=1"));
        assert_eq!(sent(&[], Some("own=0"), "https://a.example/").as_deref(), Some("own=0"));
    }

    #[test]
    fn the_size_of_the_cookie_header_is_bounded() {
        let mut cookies = Cookies::default();
        let url = "http://a.example/".parse().unwrap();
        let value = "x".repeat(1_000);
        let answer = (0..1_000)
            .map(|i| (SET_COOKIE, HeaderValue::try_from(format!("c{i}={value}")).unwrap()))
            .collect();
        cookies.store_cookies(&url, &answer);
        let mut headers = HeaderMap::new();
        cookies.apply_cookies(&url, &mut headers);

        assert!(headers[COOKIE].len() <= Cookies::MAX_COOKIE_HEADER_BYTES);
    }
}
