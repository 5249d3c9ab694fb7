//! Whether a request is a sign of its sender, or one that an open page sends by itself.

use http::{HeaderMap, Method, header};

/// Header of the requests by which a page refreshes itself. `page.js` sends it.
const BACKGROUND_HEADER: &str = "x-picket-background";

/// See the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// A person or a program acts. The idle time of its session starts anew.
    Active,
    /// An open page refreshes itself or follows events. A session that nobody uses must end in spite of it.
    Background,
}

impl Activity {
    pub(crate) fn of_request(method: &Method, headers: &HeaderMap) -> Self {
        // A browser opens a stream of events again by itself, without any header of the page.
        let accept = headers.get(header::ACCEPT).map(|value| value.as_bytes());
        let is_stream = accept == Some(b"text/event-stream");
        let is_background = is_stream || headers.contains_key(BACKGROUND_HEADER);
        // A page changes nothing by itself.
        if is_background && *method == Method::GET { Self::Background } else { Self::Active }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_refresh_and_a_followed_stream_are_background_and_a_requested_check_is_not() {
        let activity = |method: Method, name: &'static str, value: &'static str| {
            let name = http::HeaderName::from_static(name);
            Activity::of_request(&method, &HeaderMap::from_iter([(name, HeaderValue::from_static(value))]))
        };

        assert_eq!(activity(Method::GET, BACKGROUND_HEADER, "1"), Activity::Background);
        assert_eq!(activity(Method::GET, "accept", "text/event-stream"), Activity::Background);
        assert_eq!(activity(Method::POST, "accept", "text/event-stream"), Activity::Active);
        assert_eq!(activity(Method::POST, BACKGROUND_HEADER, "1"), Activity::Active);
        assert_eq!(activity(Method::GET, "accept", "text/html"), Activity::Active);
    }

    #[test]
    fn the_module_of_pages_sends_the_header() {
        assert!(include_str!("../../assets/page.js").contains(BACKGROUND_HEADER));
    }
}
