//! A check run by both programs, and its expected verdicts.

use picket_proto::{Cause, CheckRequest, HttpAssertions, IpVersion};

use crate::blackbox::BlackboxOptions;

/// Check run by both programs.
#[derive(Clone)]
pub(crate) struct ComparisonCase {
    pub(crate) name: &'static str,
    pub(crate) request: CheckRequest,
    pub(crate) blackbox_options: BlackboxOptions,
    pub(crate) expected: ExpectedVerdict,
}

/// Expected verdict of both programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedVerdict {
    /// Success by blackbox_exporter, inverted if the check must fail.
    pub(crate) success: bool,
    /// Cause by Picket, or none if up.
    pub(crate) cause: Option<Cause>,
    /// Reason for a difference, or none if both agree.
    pub(crate) difference: Option<&'static str>,
}

/// Timeout of a check, in milliseconds. Far longer than any response takes, and short enough to
/// wait for a missing one.
const TIMEOUT_MS: i64 = 3_000;

/// Case that both programs should report as well.
pub(crate) fn new_case(name: &'static str, url: impl Into<String>) -> ComparisonCase {
    let request = CheckRequest { timeout_ms: TIMEOUT_MS, ..CheckRequest::new(url) };
    ComparisonCase {
        name,
        request,
        blackbox_options: BlackboxOptions::default(),
        expected: ExpectedVerdict { success: true, cause: None, difference: None },
    }
}

impl ComparisonCase {
    /// Returns true if success by blackbox_exporter means failure here: it has no `must_fail`.
    pub(crate) fn is_inverted(&self) -> bool {
        !self.request.assertions.must_fail.is_empty()
    }

    pub(crate) fn with_request(mut self, change: impl FnOnce(&mut CheckRequest)) -> Self {
        change(&mut self.request);
        self
    }

    pub(crate) fn with_assertions(self, change: impl FnOnce(&mut HttpAssertions)) -> Self {
        self.with_request(|request| change(&mut request.assertions))
    }

    pub(crate) fn with_method(self, method: &str, body: &str) -> Self {
        self.with_request(|request| {
            request.method = method.to_owned();
            request.body = Some(body.to_owned()).filter(|body| !body.is_empty());
        })
    }

    pub(crate) fn with_header(self, name: &str, value: &str) -> Self {
        self.with_request(|request| drop(request.headers.insert(name.to_owned(), value.to_owned())))
    }

    pub(crate) fn with_status(self, rule: &str) -> Self {
        self.with_request(|request| request.status = rule.to_owned())
    }

    pub(crate) fn with_regex(self, pattern: &str) -> Self {
        self.with_request(|request| request.regex = Some(pattern.to_owned()))
    }

    pub(crate) fn with_not_regex(self, pattern: &str) -> Self {
        self.with_request(|request| request.not_regex = Some(pattern.to_owned()))
    }

    pub(crate) fn without_redirects(self) -> Self {
        self.with_request(|request| request.max_redirects = 0)
    }

    pub(crate) fn with_ip_version(self, version: IpVersion) -> Self {
        self.with_request(|request| request.ip_version = version)
    }

    pub(crate) fn without_tls_verify(self) -> Self {
        self.with_request(|request| request.tls_verify = false)
    }

    pub(crate) fn with_gzip(mut self) -> Self {
        self.blackbox_options.has_gzip = true;
        self
    }

    pub(crate) fn with_body_limit(mut self) -> Self {
        self.blackbox_options.has_body_limit = true;
        self
    }

    pub(crate) fn expect_down(mut self, cause: Cause) -> Self {
        self.expected = ExpectedVerdict { success: false, cause: Some(cause), difference: None };
        self
    }

    /// Expects a difference: blackbox_exporter reports `success`, Picket reports `cause`.
    pub(crate) fn expect_difference(
        mut self,
        success: bool,
        cause: Option<Cause>,
        why: &'static str,
    ) -> Self {
        self.expected = ExpectedVerdict { success, cause, difference: Some(why) };
        self
    }
}
