//! What both check, and what is expected to come of it: the same from both, or a difference and its reason.

use std::net::ToSocketAddrs;

use picket_proto::{Cause, CheckRequest, IpVersion};

use crate::{blackbox::Own, sites::Sites};

/// One check by both.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) request: CheckRequest,
    pub(crate) own: Own,
    pub(crate) expected: Expected,
}

/// What comes of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// By blackbox_exporter.
    pub(crate) success: bool,
    /// By Picket; none if up.
    pub(crate) cause: Option<Cause>,
    /// Why the two differ; none if they agree.
    pub(crate) why: Option<&'static str>,
}

/// In milliseconds: what answers is far quicker, and what does not is waited for.
const TIMEOUT_MS: i64 = 3_000;

fn case(name: &'static str, url: impl Into<String>) -> Case {
    let request = CheckRequest { timeout_ms: TIMEOUT_MS, ..CheckRequest::new(url) };
    Case { name, request, own: Own::default(), expected: Expected { success: true, cause: None, why: None } }
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut CheckRequest)) -> Self {
        change(&mut self.request);
        self
    }

    fn asking(self, method: &str, body: &str) -> Self {
        self.with(|request| {
            request.method = method.to_owned();
            request.body = Some(body.to_owned()).filter(|body| !body.is_empty());
        })
    }

    fn header(self, name: &str, value: &str) -> Self {
        self.with(|request| drop(request.headers.insert(name.to_owned(), value.to_owned())))
    }

    fn status(self, rule: &str) -> Self {
        self.with(|request| request.status = rule.to_owned())
    }

    fn regex(self, pattern: &str) -> Self {
        self.with(|request| request.regex = Some(pattern.to_owned()))
    }

    fn not_regex(self, pattern: &str) -> Self {
        self.with(|request| request.not_regex = Some(pattern.to_owned()))
    }

    fn not_followed(self) -> Self {
        self.with(|request| request.max_redirects = 0)
    }

    fn of_ip(self, version: IpVersion) -> Self {
        self.with(|request| request.ip_version = version)
    }

    fn unverified(self) -> Self {
        self.with(|request| request.tls_verify = false)
    }

    fn gzip(mut self) -> Self {
        self.own.gzip = true;
        self
    }

    fn limited(mut self) -> Self {
        self.own.limited = true;
        self
    }

    fn down(mut self, cause: Cause) -> Self {
        self.expected = Expected { success: false, cause: Some(cause), why: None };
        self
    }

    /// Blackbox_exporter calls it well, or not; Picket says `cause`.
    fn differs(mut self, success: bool, cause: Option<Cause>, why: &'static str) -> Self {
        self.expected = Expected { success, cause, why: Some(why) };
        self
    }
}

/// All of them.
pub(crate) fn all(sites: &Sites) -> Vec<Case> {
    [answers(sites), redirects(sites), trouble(sites), bodies(sites), secure(sites), addresses(sites)]
        .into_iter()
        .flatten()
        .collect()
}

fn answers(sites: &Sites) -> Vec<Case> {
    let (plain, scripted) = (|path: &str| sites.plain.url(path), |path: &str| sites.scripted.url(path));
    vec![
        case("well", plain("/ok")),
        case("well, by name", sites.plain.named_url("/ok")),
        case("204", plain("/status/204")),
        case("404", plain("/status/404")).down(Cause::Status),
        case("500", plain("/status/500")).down(Cause::Status),
        case("404 is well", plain("/status/404")).status("404"),
        case("200 is not well", plain("/ok")).status("201-299,404").down(Cause::Status),
        case("HEAD", plain("/ok")).asking("HEAD", ""),
        case("HEAD, a length and no body", plain("/gzip")).asking("HEAD", ""),
        case("POST with a body", plain("/echo")).asking("POST", "here it is").regex("POST(?s:.*)here it is$"),
        case("PUT with a body", plain("/echo")).asking("PUT", "here it is").regex("^PUT "),
        case("DELETE", plain("/echo")).asking("DELETE", "").regex("^DELETE "),
        case("OPTIONS", plain("/echo")).asking("OPTIONS", "").regex("^OPTIONS "),
        case("a header of the site's", plain("/echo")).header("X-Own", "yes").regex("(?i)x-own: yes"),
        case("a user agent of the site's", plain("/echo"))
            .header("User-Agent", "own/1")
            .regex("(?i)agent: own/1"),
        case("the head after 300 ms", plain("/slow/300")),
        case("the body after 300 ms", plain("/slow-body/300")),
        case("chunked", scripted("/chunked")).regex("^all is well$"),
        case("chunked with trailers", scripted("/trailers")).regex("^all is well$"),
        case("HTTP/1.0, ended by closing", scripted("/http-1.0")).regex("^all is well$"),
        case("103 before 200", scripted("/early-hints")),
        case("no reason phrase", scripted("/no-reason")),
        case("lines that end in LF alone", scripted("/bare-lf")),
        case("more body than it says", scripted("/longer")).regex("^ok$"),
        case("a folded header", scripted("/folded")),
        case("a space before a header's colon", scripted("/spaced")),
        case("a header's name that is none", scripted("/odd-name")),
        case("a control character in a header", scripted("/control")),
        case("a line that is no header", scripted("/no-colon")).differs(
            false,
            None,
            "to Picket, as to browsers, an invalid header is none; Go refuses a line without a colon",
        ),
        case("two spaces in the status line", scripted("/two-spaces")).differs(
            true,
            Some(Cause::Http),
            "Go and browsers put up with it; hyper does not",
        ),
        case("an empty line before the status line", scripted("/empty-line")).differs(
            false,
            None,
            "hyper puts up with it; Go does not",
        ),
        case("the same length twice", scripted("/same-lengths")),
        case("a length and chunks", scripted("/length-and-chunks")),
        case("200 headers", plain("/headers/200")),
        case("10,000 headers", plain("/headers/10000")).differs(
            true,
            Some(Cause::Http),
            "a head of more than 256 headers is refused by Picket; Go allows 10 MiB",
        ),
        case("a header of 1 MiB", scripted("/large-head")).differs(
            true,
            Some(Cause::Http),
            "a head of more than some 400 KiB is refused by Picket; Go allows 10 MiB",
        ),
    ]
}

fn redirects(sites: &Sites) -> Vec<Case> {
    let (plain, scripted) = (|path: &str| sites.plain.url(path), |path: &str| sites.scripted.url(path));
    let from = |path: &str, to: String| plain(&format!("{path}/{to}"));
    vec![
        case("1 redirect", plain("/redirect/1")),
        case("10 redirects", plain("/redirect/10")),
        case("11 redirects", plain("/redirect/11")).down(Cause::Redirect),
        case("a loop", plain("/loop")).down(Cause::Redirect),
        case("a loop, and 302 is well", plain("/loop")).status("200-399").differs(
            true,
            Some(Cause::Redirect),
            "blackbox_exporter goes round ten times and then judges the redirect",
        ),
        case("redirects are not followed", plain("/redirect/1")).not_followed().down(Cause::Status),
        case("not followed, and 302 is well", plain("/redirect/1")).not_followed().status("302"),
        case("302 without a Location", scripted("/nowhere")).down(Cause::Status),
        case("302 without one is well", scripted("/nowhere")).status("302"),
        case("308 without a Location", scripted("/nowhere-308")).down(Cause::Status),
        case("an empty Location", scripted("/empty-location")).down(Cause::Redirect),
        case("to ftp", scripted("/ftp")).down(Cause::Redirect),
        case("to no URL", scripted("/no-url")).down(Cause::Redirect),
        case("to a port where nobody listens", from("/to", format!("http://{}/", sites.refused)))
            .down(Cause::Connect),
        case("to a name that is none", from("/to", "http://no-such-host.invalid/".to_owned()))
            .down(Cause::Dns),
        case("to a 500", from("/to", plain("/status/500"))).down(Cause::Status),
        case("http to https", from("/to", sites.secure.named_url("/ok"))),
        case("http to https with a bad certificate", from("/to", sites.expired.named_url("/ok")))
            .down(Cause::Tls),
        case("https to http", sites.secure.named_url(&format!("/to/{}", plain("/ok")))),
        case("back to itself with a cookie", scripted("/cookie")),
        case("301 to a POST", scripted("/301")).asking("POST", "the body"),
        case("303 to a PUT", scripted("/303")).asking("PUT", "the body"),
        case("307 to a POST", scripted("/307")).asking("POST", "the body"),
        case("308 to a PUT", scripted("/308")).asking("PUT", "the body"),
        case("a header within the origin", scripted("/stay")).header("X-Key", "secret"),
        case("a header to another origin", from("/to", scripted("/without-key")))
            .header("X-Key", "secret")
            .differs(
                false,
                None,
                "blackbox_exporter hands the site's headers to whoever it is redirected to",
            ),
    ]
}

fn trouble(sites: &Sites) -> Vec<Case> {
    let (plain, scripted) = (|path: &str| sites.plain.url(path), |path: &str| sites.scripted.url(path));
    vec![
        case("closed without an answer", plain("/close")).down(Cause::Http),
        case("reset without an answer", plain("/reset")).down(Cause::Http),
        case("closed in the head", scripted("/partial-head")).down(Cause::Http),
        case("reset in the head", scripted("/reset-head")).down(Cause::Http),
        case("closed in the body", plain("/broken-body")).down(Cause::Http),
        case("reset in the body", scripted("/reset-body")).down(Cause::Http),
        case("closed between chunks", scripted("/chunk-cut")).down(Cause::Http),
        case("a chunk without a length", scripted("/chunk-wrong")).down(Cause::Http),
        case("no HTTP", plain("/garbage")).down(Cause::Http),
        case("HTTP/0.9", scripted("/http-0.9")).down(Cause::Http),
        case("two lengths", scripted("/two-lengths")).down(Cause::Http),
        case("a status line without version", scripted("/no-version")).down(Cause::Http),
        case("a status line in lower case", scripted("/lower-case")).down(Cause::Http),
        case("a length with a sign", scripted("/signed-length")).down(Cause::Http),
        case("a length in words", scripted("/worded-length")).down(Cause::Http),
        case("a status of two digits", scripted("/status-20")).down(Cause::Http),
        case("never an answer", plain("/never")).down(Cause::Timeout),
        case("an answer after the deadline", plain("/slow/9000")).down(Cause::Timeout),
        case("a byte a second of the head", plain("/drip")).down(Cause::Timeout),
        case("a byte a second of the body", plain("/drip-body")).down(Cause::Timeout),
        case("a body that stalls", scripted("/stalled-body")).down(Cause::Timeout),
        case("nobody listens", format!("http://{}/", sites.refused)).down(Cause::Connect),
        case("connecting goes unanswered", format!("http://{}/", sites.crowded.address()))
            .down(Cause::Timeout),
    ]
}

fn bodies(sites: &Sites) -> Vec<Case> {
    let (plain, scripted) = (|path: &str| sites.plain.url(path), |path: &str| sites.scripted.url(path));
    vec![
        case("regex matches", plain("/ok")).regex("all is w.l+"),
        case("regex does not", plain("/ok")).regex("all is ill").down(Cause::Body),
        case("not_regex matches", plain("/ok")).not_regex("is well").down(Cause::Body),
        case("not_regex does not", plain("/ok")).not_regex("is ill"),
        case("both as they should", plain("/ok")).regex("(?i)ALL").not_regex("ill$"),
        case("regex on a 500", plain("/status/500")).regex("a status").down(Cause::Status),
        case("regex on an empty body", scripted("/empty")).regex("^$"),
        case("regex on a 204", plain("/status/204")).regex("well").down(Cause::Body),
        case("regex on HEAD", plain("/ok")).asking("HEAD", "").regex("well").down(Cause::Body),
        case("letters of several bytes", scripted("/utf-8")).regex("^caf. ferm[éè]\nall"),
        case("lines", scripted("/utf-8")).regex("(?m)^all is well$"),
        case("Latin-1, plain letters", scripted("/latin")).regex("ferm"),
        case("Latin-1, any letter", scripted("/latin")).regex("caf. ferm").differs(true, Some(Cause::Body), "to Go's regex a byte that is no UTF-8 is a letter (U+FFFD); to Rust's it is none, unless written (?-u:.)"),
        case("the end of 900 KB", plain("/large/900000")).regex("end$"),
        case("after more than 1 MiB", plain("/large/2000000")).regex("end$").limited().down(Cause::BodyTooLarge),
        case("after more than 1 MiB, no limit", plain("/large/2000000")).regex("end$").differs(true, Some(Cause::BodyTooLarge), "blackbox_exporter reads without limit unless it has a body_size_limit"),
        case("2 MB, nothing asserted", plain("/large/2000000")),
        case("2 MB, nothing asserted, limited", plain("/large/2000000")).limited().differs(false, None, "blackbox_exporter reads all of a body that nobody asks about, and fails at its limit"),
        case("a body without end", plain("/endless")).limited().differs(false, None, "as above: Picket reads 64 KiB of a body that nothing is asserted of"),
        case("without end, and matches", plain("/endless")).limited().regex("x{9}").differs(false, None, "Picket has decided when the regex has matched, and reads no more"),
        case("without end, no match", plain("/endless")).limited().regex("end").down(Cause::BodyTooLarge),
        case("gzip", plain("/gzip")).gzip().regex("^compressed and well$"),
        case("gzip, nothing asserted", plain("/gzip")),
        case("gzip, regex, not undone", plain("/gzip")).regex("^compressed").differs(false, None, "blackbox_exporter undoes gzip only where the module says compression: gzip"),
        case("gzip that is none", scripted("/no-gzip")).gzip().down(Cause::Http),
        case("gzip that is none, not undone", scripted("/no-gzip")).differs(true, Some(Cause::Http), "as above: it does not see that the body cannot be read"),
        case("gzip that breaks off", scripted("/gzip-cut")).gzip().regex("end").down(Cause::Http),
        case("a gzip bomb", scripted("/bomb")).gzip().limited().regex("end").down(Cause::BodyTooLarge),
        case("brotli, nothing asserted", scripted("/brotli")),
        case("brotli and a regex", scripted("/brotli")).gzip().regex("^all is well$").down(Cause::Http),
    ]
}

fn secure(sites: &Sites) -> Vec<Case> {
    let h2 = |path: &str| sites.http2.named_url(path);
    vec![
        case("https", sites.secure.named_url("/ok")),
        case("https, closed in the body", sites.secure.named_url("/broken-body")).down(Cause::Http),
        case("https, no farewell", sites.no_farewell.named_url("/")),
        case("TLS 1.2", sites.old_tls.named_url("/ok")),
        case("a chain", sites.chain.named_url("/ok")),
        case("the handshake after 300 ms", sites.slow_tls.named_url("/ok")),
        case("expired", sites.expired.named_url("/ok")).down(Cause::Tls),
        case("expired, not verified", sites.expired.named_url("/ok")).unverified(),
        case("not valid yet", sites.not_yet.named_url("/ok")).down(Cause::Tls),
        case("for another host", sites.other_host.named_url("/ok")).down(Cause::Tls),
        case("for a name and not the address", sites.secure.url("/ok")).down(Cause::Tls),
        case("self-signed", sites.self_signed.named_url("/ok")).down(Cause::Tls),
        case("self-signed, not verified", sites.self_signed.named_url("/ok")).unverified(),
        case("of an unknown issuer", sites.foreign.named_url("/ok")).down(Cause::Tls),
        case("without its intermediate", sites.broken_chain.named_url("/ok")).down(Cause::Tls),
        case("a client's certificate wanted", sites.client_certificate.named_url("/ok")).down(Cause::Tls),
        case("no cipher in common", sites.no_cipher.named_url("/ok")).down(Cause::Tls),
        case("another protocol (ALPN)", sites.other_protocol.named_url("/ok")).down(Cause::Tls),
        case("no TLS", sites.no_tls.named_url("/")).down(Cause::Tls),
        case("https where http is", format!("https://{}/ok", sites.plain.address())).down(Cause::Tls),
        case("reset in the handshake", sites.reset_tls.named_url("/")).down(Cause::Tls),
        case("silence in the handshake", sites.mute.named_url("/")).down(Cause::Timeout),
        case("HTTP/2", h2("/ok")).regex("^all is well$"),
        case("HTTP/2, 900 KB", h2("/large/900000")).regex("^x+$"),
        case("HTTP/2 with trailers", h2("/trailers")).regex("^all is well$"),
        case("HTTP/2, the body after 300 ms", h2("/slow-body/300")),
        case("HTTP/2, refused", h2("/refuse")).down(Cause::Http),
        case("HTTP/2, reset in the body", h2("/break")).down(Cause::Http),
        case("HTTP/2, GOAWAY", h2("/go-away")).down(Cause::Http),
        case("HTTP/2, never an answer", h2("/never")).down(Cause::Timeout),
    ]
}

fn addresses(sites: &Sites) -> Vec<Case> {
    const BLOCKED: &str =
        "Picket goes to no address that is not public unless it is allowed, and says that it did not";
    let plain = |path: &str| sites.plain.url(path);
    let mut cases = vec![
        case("a name that is none", "http://no-such-host.invalid/").down(Cause::Dns),
        case("IPv4 wanted", sites.plain.named_url("/ok")).of_ip(IpVersion::V4),
        case("IPv6 wanted of an IPv4 address", plain("/ok")).of_ip(IpVersion::V6).down(Cause::Dns),
        case("a private address", "http://192.0.2.1/").differs(false, Some(Cause::Blocked), BLOCKED),
        case("a redirect to a private address", plain("/to/http://192.0.2.1/")).differs(
            false,
            Some(Cause::Blocked),
            BLOCKED,
        ),
    ];
    if let Some(ipv6) = &sites.ipv6 {
        cases.push(case("IPv6", ipv6.url("/ok")));
        cases.push(case("IPv6 wanted", ipv6.url("/ok")).of_ip(IpVersion::V6));
        cases.push(
            case("IPv4 wanted of an IPv6 address", ipv6.url("/ok")).of_ip(IpVersion::V4).down(Cause::Dns),
        );
    }
    let mut localhost = ("localhost", 0).to_socket_addrs().into_iter().flatten();
    if localhost.any(|address| address.is_ipv6()) {
        let mut dead = case("two families, one dead", sites.plain.named_url("/ok")).differs(
            false,
            None,
            "blackbox_exporter tries one address, of IPv6 unless told otherwise; Picket the others too",
        );
        dead.own.prefers_ip6 = true;
        cases.push(dead);
    }
    cases
}
