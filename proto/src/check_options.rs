//! The table of the options of a check: the one place that lists them.

/// Passes the options of a check to the macro `$define`, after `$arguments`.
///
/// The table defines the fields of [`CheckRequest`](crate::CheckRequest) and of
/// [`SiteFields`](crate::site::SiteFields). An option has a documentation text, a name, a type, a
/// default, and a description of its allowed values for error messages. The URL is not in the
/// table, because it has no default.
macro_rules! with_check_options {
    ($define:ident! { $($arguments:tt)* }) => {
        $define! {
            $($arguments)*
            check {
                /// HTTP method.
                method: String = "GET".to_owned(), "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
                /// Headers to send.
                headers: BTreeMap<String, String> = BTreeMap::new(),
                    "an object of texts, such as {\"Accept\": \"text/html\"}";
                /// Body to send.
                body: Option<String> = None, "a text";
                /// Timeout for all phases and hops together, in milliseconds.
                timeout_ms: i64 = CheckRequest::DEFAULT_TIMEOUT_MS, "a whole number from 100 to 60000";
                /// Allowed statuses.
                status: String = CheckRequest::DEFAULT_STATUS.to_owned(),
                    "a text of statuses and ranges, such as \"200-299,301\"";
                /// Regex that the body must match.
                regex: Option<String> = None, "a text: a regular expression that the body must match";
                /// Regex that the body must not match.
                not_regex: Option<String> = None,
                    "a text: a regular expression that the body must not match";
                /// Maximum redirects to follow.
                max_redirects: i64 = CheckRequest::DEFAULT_MAX_REDIRECTS, "a whole number from 0 to 20";
                /// Addresses to connect to.
                ip_version: IpVersion = IpVersion::Any, "\"any\", \"4\" or \"6\"";
                /// True if the certificate is verified.
                tls_verify: bool = true, "true or false";
                /// How to ask, beyond the fields above.
                options: HttpOptions = HttpOptions::default(), "an object, such as {\"http_version\": \"2\"}";
                /// What a good response is, beyond the fields above.
                assertions: HttpAssertions = HttpAssertions::default(),
                    "an object, such as {\"warn_after_ms\": 2000}";
            }
        }
    };
}

pub(crate) use with_check_options;
