//! Redirects: the next request of a chain, its headers, and the detection of loops.

use bytes::Bytes;
use picket_proto::{Cause, Check, validation::sanitize_text};
use reqwest::{
    Method, Request, StatusCode,
    header::{ACCEPT_ENCODING, COOKIE, HeaderMap, HeaderName, HeaderValue, RANGE},
};
use url::Url;

use super::{content_encoding, failure::Failure};

/// Request of one hop.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) url: Url,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

impl Hop {
    /// Builds the first request of a check.
    pub(super) fn from_check(check: &Check) -> Result<Self, Failure> {
        let unusable = |what: String| Failure::new(Cause::Invalid, what);
        let mut headers = HeaderMap::with_capacity(check.headers.len());
        for (name, value) in &check.headers {
            let name: HeaderName =
                name.parse().map_err(|_| unusable(format!("header '{name}' cannot be sent")))?;
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| unusable(format!("the value of header '{name}' cannot be sent")))?;
            headers.append(name, value);
        }
        Ok(Self {
            headers: with_accept_encoding(headers),
            url: check.url.clone(),
            method: Method::from_bytes(check.method.as_str().as_bytes())
                .map_err(|_| unusable("the method cannot be sent".to_owned()))?,
            body: check.body.clone().map(Bytes::from),
        })
    }

    /// Builds the request after a redirect. Method and body change as in browsers. The site's
    /// headers are dropped for another origin, since any header may be a secret.
    pub(super) fn follow_redirect(self, status: StatusCode, location: &HeaderValue) -> Result<Self, Failure> {
        let refusal = |why: String| Failure::new(Cause::Redirect, why);
        let location = decode_location(location.as_bytes());
        let shown = || sanitize_text(&picket_runtime::redact(&location), 100);
        let mut url = self
            .url
            .join(&location)
            .map_err(|why| refusal(format!("redirect to '{}', which is no URL ({why})", shown())))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(refusal(format!("redirect to '{}', which is not http or https", shown())));
        }
        if url.port() == Some(0) {
            return Err(refusal(format!("redirect to '{}', where the port is 0", shown())));
        }
        if url.as_str().len() > MAX_REDIRECT_URL_BYTES {
            return Err(refusal(format!(
                "redirect to a URL of more than {MAX_REDIRECT_URL_BYTES} bytes: '{}'",
                shown()
            )));
        }
        // reqwest would turn credentials into a header. Both calls succeed for a URL with a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        // A fragment is inherited by a redirect without a fragment, as in browsers.
        if url.fragment().is_none() {
            url.set_fragment(self.url.fragment());
        }

        let mut next = Self { url, ..self.clone() };
        let becomes_get = match status {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            StatusCode::SEE_OTHER => self.method != Method::GET && self.method != Method::HEAD,
            _ => false,
        };
        if becomes_get {
            next.method = Method::GET;
            next.body = None;
            for name in ["content-type", "content-encoding", "content-language", "content-location"] {
                next.headers.remove(name);
            }
        }
        if next.url.origin() != self.url.origin() {
            next.headers = with_accept_encoding(HeaderMap::new());
        }
        Ok(next)
    }
}

/// Maximum length of a redirect target in bytes.
const MAX_REDIRECT_URL_BYTES: usize = 16 << 10;

/// Adds `Accept-Encoding` with the supported encodings, unless the site's own headers rule
/// encodings out.
fn with_accept_encoding(mut headers: HeaderMap) -> HeaderMap {
    if !headers.contains_key(ACCEPT_ENCODING) && !headers.contains_key(RANGE) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(content_encoding::ACCEPTED_ENCODINGS));
    }
    headers
}

/// Decodes a `Location` as browsers do: as UTF-8, or else with each non-ASCII byte percent-encoded.
fn decode_location(location: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(location) {
        return text.to_owned();
    }
    location.iter().fold(String::new(), |mut text, byte| {
        match byte.is_ascii() {
            true => text.push(char::from(*byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

/// Returns true if the status is a redirect.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Requests of a check so far.
#[derive(Default)]
pub(super) struct RedirectHistory(Vec<VisitedRequest>);

/// Identity of a request for loop detection: an equal request gets an equal response. A redirect
/// that sets a cookie may lead back to the same URL, with a different response.
#[derive(PartialEq)]
struct VisitedRequest {
    method: Method,
    url: Url,
    cookies: Option<HeaderValue>,
}

impl RedirectHistory {
    /// Adds `request`, unless it closes a loop or exceeds `most` redirects.
    pub(super) fn push_request(&mut self, request: &Request, most: u8) -> Result<(), Failure> {
        let refusal = |why: String| Err(Failure::new(Cause::Redirect, why));
        let mut url = request.url().clone();
        url.set_fragment(None);
        let cookies = request.headers().get(COOKIE).cloned();
        let here = VisitedRequest { method: request.method().clone(), url, cookies };
        if self.0.contains(&here) {
            return refusal(format!("redirect loop: back at {}", here.url));
        }
        if self.0.len() > usize::from(most) {
            return refusal(format!("more than {most} redirects; the next would be to {}", here.url));
        }
        self.0.push(here);
        Ok(())
    }

    /// Number of redirects followed.
    pub(super) fn redirect_count(&self) -> u8 {
        u8::try_from(self.0.len().saturating_sub(1)).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::CheckRequest;

    use super::*;

    fn hop(method: &str) -> Hop {
        let request = CheckRequest {
            method: method.into(),
            headers: [("Authorization".to_owned(), "secret".to_owned())].into(),
            body: Some("body".into()),
            ..CheckRequest::new("https://a.example/start")
        };
        Hop::from_check(&request.validate().unwrap()).unwrap()
    }

    fn follow(method: &str, status: u16, location: &'static str) -> Result<Hop, Failure> {
        hop(method)
            .follow_redirect(StatusCode::from_u16(status).unwrap(), &HeaderValue::from_static(location))
    }

    #[test]
    fn methods_and_bodies_change_as_in_browsers() {
        for (method, status, then, has_body) in [
            ("POST", 301, "GET", false),
            ("POST", 302, "GET", false),
            ("PUT", 302, "PUT", true),
            ("PUT", 303, "GET", false),
            ("HEAD", 303, "HEAD", true),
            ("POST", 307, "POST", true),
            ("POST", 308, "POST", true),
        ] {
            let next = follow(method, status, "/next").unwrap();
            assert_eq!((next.method.as_str(), next.body.is_some()), (then, has_body), "{method} {status}");
        }
    }

    #[test]
    fn headers_stay_within_the_origin() {
        let has_secret = |hop: Hop| hop.headers.contains_key("authorization");
        assert!(has_secret(follow("GET", 302, "/next").unwrap()));
        for elsewhere in
            ["https://b.example/", "http://a.example/", "https://a.example:8443/", "//b.example/"]
        {
            let there = follow("GET", 302, elsewhere).unwrap();
            assert!(!has_secret(there.clone()), "{elsewhere}");
            let back = there
                .follow_redirect(StatusCode::FOUND, &HeaderValue::from_static("https://a.example/"))
                .unwrap();
            assert!(!has_secret(back), "not on the way back either");
        }
        assert_eq!(
            follow("GET", 302, "https://user:word@a.example/").unwrap().url.as_str(),
            "https://a.example/"
        );
    }

    #[test]
    fn a_redirect_to_an_invalid_url_is_down() {
        for location in [
            "ftp://a.example/",
            "file:///etc/passwd",
            "http://",
            "https:///",
            "javascript:1",
            "data:,x",
            "mailto:a@b.example",
            "http://a.example:0/",
            "http://a.example:99999/",
            "http://[::1/",
            "http://a b.example/",
        ] {
            let failure = follow("GET", 302, location).unwrap_err();
            assert_eq!(failure.cause, Cause::Redirect, "{location}");
            assert!(failure.message.starts_with("redirect to '"), "{}", failure.message);
        }
        let long = HeaderValue::try_from(format!("/{}", "x".repeat(MAX_REDIRECT_URL_BYTES))).unwrap();
        let failure = hop("GET").follow_redirect(StatusCode::FOUND, &long).unwrap_err();
        assert!(failure.message.starts_with("redirect to a URL of more than"), "{}", failure.message);
    }

    #[test]
    fn a_location_is_parsed_as_browsers_parse_it() {
        let latin = HeaderValue::from_bytes(b"/caf\xe9").unwrap();
        let next = |location: &HeaderValue| {
            hop("GET").follow_redirect(StatusCode::FOUND, location).unwrap().url.to_string()
        };
        assert_eq!(next(&latin), "https://a.example/caf%E9");
        for (location, url) in [
            ("next", "https://a.example/next"),
            ("?q", "https://a.example/start?q"),
            ("../../up", "https://a.example/up"),
            ("//b.example", "https://b.example/"),
            ("", "https://a.example/start"),
            ("#part", "https://a.example/start#part"),
            (" /spaced ", "https://a.example/spaced"),
            ("HTTP:\\\\b.example\\x", "http://b.example/x"),
        ] {
            assert_eq!(next(&HeaderValue::from_static(location)), url, "{location}");
        }
    }

    #[test]
    fn a_redirect_loop_and_too_many_hops_are_refused_and_a_new_cookie_breaks_a_loop() {
        let ask = |path: &str, cookie: Option<&'static str>| {
            let url = Url::parse("https://a.example/").unwrap().join(path).unwrap();
            let mut request = Request::new(Method::GET, url);
            if let Some(cookie) = cookie {
                request.headers_mut().insert(COOKIE, HeaderValue::from_static(cookie));
            }
            request
        };
        let mut trail = RedirectHistory::default();

        trail.push_request(&ask("/", None), 2).unwrap();
        let again = trail.push_request(&ask("/#part", None), 2).unwrap_err();
        assert_eq!(again.message, "redirect loop: back at https://a.example/");
        trail.push_request(&ask("/", Some("seen=1")), 2).unwrap();
        trail.push_request(&ask("/2", None), 2).unwrap();
        let more = trail.push_request(&ask("/3", None), 2).unwrap_err();
        assert_eq!(more.message, "more than 2 redirects; the next would be to https://a.example/3");
        assert_eq!(trail.redirect_count(), 2);
    }
}
