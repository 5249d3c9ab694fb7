//! From one hop to the next: what is asked there, what is left out, and when it goes round in circles.

use bytes::Bytes;
use picket_proto::{Cause, Check};
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use url::Url;

use super::verdict::Failure;

/// What is asked of one server.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) url: Url,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

impl Hop {
    /// What the check asks, before any redirect.
    pub(super) fn first(check: &Check) -> Result<Self, Failure> {
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
            url: check.url.clone(),
            method: Method::from_bytes(check.method.as_str().as_bytes())
                .map_err(|_| unusable("the method cannot be sent".to_owned()))?,
            headers,
            body: check.body.clone().map(Bytes::from),
        })
    }

    /// Where a redirect leads: method and body as browsers keep or drop them, and no header of the site's
    /// to another origin, since any of them may be a secret.
    pub(super) fn next(self, status: StatusCode, location: &HeaderValue) -> Result<Self, Failure> {
        let refusal = |why: String| Failure::new(Cause::Redirect, why);
        let location = std::str::from_utf8(location.as_bytes())
            .map_err(|_| refusal("redirect to something that is no URL".to_owned()))?;
        let mut url = self
            .url
            .join(location)
            .map_err(|_| refusal(format!("redirect to '{location}', which is no URL")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(refusal(format!("redirect to '{location}', which is not http or https")));
        }
        // reqwest would make a header of them. Neither can fail where there is a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
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
            next.headers.clear();
        }
        Ok(next)
    }
}

/// Whether an answer sends the check elsewhere.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a check has been.
#[derive(Default)]
pub(super) struct Trail(Vec<(Method, Url)>);

impl Trail {
    /// Goes to `hop`, unless that is a circle or one redirect more than `most`.
    pub(super) fn go(&mut self, hop: &Hop, most: u8) -> Result<(), Failure> {
        let refusal = |why: String| Err(Failure::new(Cause::Redirect, why));
        let mut url = hop.url.clone();
        url.set_fragment(None);
        let here = (hop.method.clone(), url);
        if self.0.contains(&here) {
            return refusal(format!("redirect loop: back at {}", here.1));
        }
        if self.0.len() > usize::from(most) {
            return refusal(format!("more than {most} redirects"));
        }
        self.0.push(here);
        Ok(())
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
        Hop::first(&request.validate().unwrap()).unwrap()
    }

    fn follow(method: &str, status: u16, location: &'static str) -> Result<Hop, Failure> {
        hop(method).next(StatusCode::from_u16(status).unwrap(), &HeaderValue::from_static(location))
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
        assert_eq!(follow("GET", 302, "/next").unwrap().headers.len(), 1);
        for elsewhere in
            ["https://b.example/", "http://a.example/", "https://a.example:8443/", "//b.example/"]
        {
            assert!(follow("GET", 302, elsewhere).unwrap().headers.is_empty(), "{elsewhere}");
        }
        assert_eq!(
            follow("GET", 302, "https://user:word@a.example/").unwrap().url.as_str(),
            "https://a.example/"
        );
    }

    #[test]
    fn a_redirect_to_no_website_is_the_sites_fault() {
        for location in ["ftp://a.example/", "file:///etc/passwd", "http://", "javascript:1"] {
            let failure = follow("GET", 302, location).unwrap_err();
            assert_eq!(failure.cause, Cause::Redirect, "{location}");
        }
    }

    #[test]
    fn a_circle_and_too_long_a_way_are_refused() {
        let mut trail = Trail::default();
        let start = hop("GET");
        trail.go(&start, 1).unwrap();

        assert!(trail.go(&start, 10).unwrap_err().message.contains("loop"));
        let one = follow("GET", 302, "/1").unwrap();
        trail.go(&one, 1).unwrap();
        let two = follow("GET", 302, "/2").unwrap();
        assert_eq!(trail.go(&two, 1).unwrap_err().message, "more than 1 redirects");
    }
}
