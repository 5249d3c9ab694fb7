//! Cases checked by both programs, with the expected verdicts: the same from both, or a difference
//! with its reason.

use std::net::ToSocketAddrs;

use picket_proto::{Cause, IpVersion};

use crate::{
    comparison_case::{ComparisonCase, new_case},
    target_sites::TargetSites,
};

/// All cases.
pub(crate) fn all_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    [
        response_cases(sites),
        redirect_cases(sites),
        failure_cases(sites),
        body_cases(sites),
        tls_cases(sites),
        address_cases(sites),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn response_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    let (plain, scripted) = (|path: &str| sites.plain.url(path), |path: &str| sites.scripted.url(path));
    vec![
        new_case("well", plain("/ok")),
        new_case("well, by name", sites.plain.localhost_url("/ok")),
        new_case("204", plain("/status/204")),
        new_case("404", plain("/status/404")).expect_down(Cause::Status),
        new_case("500", plain("/status/500")).expect_down(Cause::Status),
        new_case("404 is well", plain("/status/404")).with_status("404"),
        new_case("200 is not well", plain("/ok")).with_status("201-299,404").expect_down(Cause::Status),
        new_case("HEAD", plain("/ok")).with_method("HEAD", ""),
        new_case("HEAD, a length and no body", plain("/gzip")).with_method("HEAD", ""),
        new_case("POST with a body", plain("/echo"))
            .with_method("POST", "here it is")
            .with_regex("POST(?s:.*)here it is$"),
        new_case("PUT with a body", plain("/echo")).with_method("PUT", "here it is").with_regex("^PUT "),
        new_case("DELETE", plain("/echo")).with_method("DELETE", "").with_regex("^DELETE "),
        new_case("OPTIONS", plain("/echo")).with_method("OPTIONS", "").with_regex("^OPTIONS "),
        new_case("a header of the site's", plain("/echo"))
            .with_header("X-Own", "yes")
            .with_regex("(?i)x-own: yes"),
        new_case("a user agent of the site's", plain("/echo"))
            .with_header("User-Agent", "own/1")
            .with_regex("(?i)agent: own/1"),
        new_case("the head after 300 ms", plain("/slow/300")),
        new_case("the body after 300 ms", plain("/slow-body/300")),
        new_case("chunked", scripted("/chunked")).with_regex("^all is well$"),
        new_case("chunked with trailers", scripted("/trailers")).with_regex("^all is well$"),
        new_case("HTTP/1.0, ended by closing", scripted("/http-1.0")).with_regex("^all is well$"),
        new_case("103 before 200", scripted("/early-hints")),
        new_case("no reason phrase", scripted("/no-reason")),
        new_case("lines that end in LF alone", scripted("/bare-lf")),
        new_case("more body than announced", scripted("/longer")).with_regex("^ok$"),
        new_case("a folded header", scripted("/folded")),
        new_case("a space before a header's colon", scripted("/spaced")),
        new_case("an invalid header name", scripted("/odd-name")),
        new_case("a control character in a header", scripted("/control")),
        new_case("a line that is no header", scripted("/no-colon")).expect_difference(
            false,
            None,
            "Picket and browsers skip an invalid header; Go rejects a line without a colon",
        ),
        new_case("two spaces in the status line", scripted("/two-spaces")).expect_difference(
            true,
            Some(Cause::Http),
            "Go and browsers tolerate it; hyper does not",
        ),
        new_case("an empty line before the status line", scripted("/empty-line")).expect_difference(
            false,
            None,
            "hyper tolerates it; Go does not",
        ),
        new_case("the same length twice", scripted("/same-lengths")),
        new_case("a length and chunks", scripted("/length-and-chunks")),
        new_case("200 headers", plain("/headers/200")),
        new_case("10,000 headers", plain("/headers/10000")).expect_difference(
            true,
            Some(Cause::Http),
            "Picket rejects a head of more than 256 headers; Go allows 10 MiB",
        ),
        new_case("a header of 1 MiB", scripted("/large-head")).expect_difference(
            true,
            Some(Cause::Http),
            "Picket rejects a head of more than about 400 KiB; Go allows 10 MiB",
        ),
    ]
}

fn redirect_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    let (plain, scripted) = (|path: &str| sites.plain.url(path), |path: &str| sites.scripted.url(path));
    let from = |path: &str, to: String| plain(&format!("{path}/{to}"));
    vec![
        new_case("1 redirect", plain("/redirect/1")),
        new_case("10 redirects", plain("/redirect/10")),
        new_case("11 redirects", plain("/redirect/11")).expect_down(Cause::Redirect),
        new_case("a loop", plain("/loop")).expect_down(Cause::Redirect),
        new_case("a loop, and 302 is well", plain("/loop")).with_status("200-399").expect_difference(
            true,
            Some(Cause::Redirect),
            "blackbox_exporter follows ten redirects and then evaluates the last one",
        ),
        new_case("redirects are not followed", plain("/redirect/1"))
            .without_redirects()
            .expect_down(Cause::Status),
        new_case("not followed, and 302 is well", plain("/redirect/1"))
            .without_redirects()
            .with_status("302"),
        new_case("302 without a Location", scripted("/nowhere")).expect_down(Cause::Status),
        new_case("302 without one is well", scripted("/nowhere")).with_status("302"),
        new_case("308 without a Location", scripted("/nowhere-308")).expect_down(Cause::Status),
        new_case("an empty Location", scripted("/empty-location")).expect_down(Cause::Redirect),
        new_case("to ftp", scripted("/ftp")).expect_down(Cause::Redirect),
        new_case("to no URL", scripted("/no-url")).expect_down(Cause::Redirect),
        new_case("to a closed port", from("/to", format!("http://{}/", sites.refused)))
            .expect_down(Cause::Connect),
        new_case("to an invalid name", from("/to", "http://no-such-host.invalid/".to_owned()))
            .expect_down(Cause::Dns),
        new_case("to a 500", from("/to", plain("/status/500"))).expect_down(Cause::Status),
        new_case("http to https", from("/to", sites.secure.localhost_url("/ok"))),
        new_case("http to https with a bad certificate", from("/to", sites.expired.localhost_url("/ok")))
            .expect_down(Cause::Tls),
        new_case("https to http", sites.secure.localhost_url(&format!("/to/{}", plain("/ok")))),
        new_case("back to itself with a cookie", scripted("/cookie")),
        new_case("301 to a POST", scripted("/301")).with_method("POST", "the body"),
        new_case("303 to a PUT", scripted("/303")).with_method("PUT", "the body"),
        new_case("307 to a POST", scripted("/307")).with_method("POST", "the body"),
        new_case("308 to a PUT", scripted("/308")).with_method("PUT", "the body"),
        new_case("a header within the origin", scripted("/stay")).with_header("X-Key", "secret"),
        new_case("a header to another origin", from("/to", scripted("/without-key")))
            .with_header("X-Key", "secret")
            .expect_difference(
                false,
                None,
                "blackbox_exporter sends the site's headers to the target of any redirect",
            ),
    ]
}

fn failure_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    let (plain, scripted) = (|path: &str| sites.plain.url(path), |path: &str| sites.scripted.url(path));
    vec![
        new_case("closed without an answer", plain("/close")).expect_down(Cause::Http),
        new_case("reset without an answer", plain("/reset")).expect_down(Cause::Http),
        new_case("closed in the head", scripted("/partial-head")).expect_down(Cause::Http),
        new_case("reset in the head", scripted("/reset-head")).expect_down(Cause::Http),
        new_case("closed in the body", plain("/broken-body")).expect_down(Cause::Http),
        new_case("reset in the body", scripted("/reset-body")).expect_down(Cause::Http),
        new_case("closed between chunks", scripted("/chunk-cut")).expect_down(Cause::Http),
        new_case("a chunk without a length", scripted("/chunk-wrong")).expect_down(Cause::Http),
        new_case("no HTTP", plain("/garbage")).expect_down(Cause::Http),
        new_case("HTTP/0.9", scripted("/http-0.9")).expect_down(Cause::Http),
        new_case("two lengths", scripted("/two-lengths")).expect_down(Cause::Http),
        new_case("a status line without version", scripted("/no-version")).expect_down(Cause::Http),
        new_case("a status line in lower case", scripted("/lower-case")).expect_down(Cause::Http),
        new_case("a length with a sign", scripted("/signed-length")).expect_down(Cause::Http),
        new_case("a length in words", scripted("/worded-length")).expect_down(Cause::Http),
        new_case("a status of two digits", scripted("/status-20")).expect_down(Cause::Http),
        new_case("never an answer", plain("/never")).expect_down(Cause::Timeout),
        new_case("an answer after the deadline", plain("/slow/9000")).expect_down(Cause::Timeout),
        new_case("a byte a second of the head", plain("/drip")).expect_down(Cause::Timeout),
        new_case("a byte a second of the body", plain("/drip-body")).expect_down(Cause::Timeout),
        new_case("a body that stalls", scripted("/stalled-body")).expect_down(Cause::Timeout),
        new_case("closed port", format!("http://{}/", sites.refused)).expect_down(Cause::Connect),
        new_case("connecting goes unanswered", format!("http://{}/", sites.full_backlog.address()))
            .expect_down(Cause::Timeout),
    ]
}

fn body_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    let (plain, scripted) = (|path: &str| sites.plain.url(path), |path: &str| sites.scripted.url(path));
    vec![
        new_case("regex matches", plain("/ok")).with_regex("all is w.l+"),
        new_case("regex does not", plain("/ok")).with_regex("all is ill").expect_down(Cause::Body),
        new_case("not_regex matches", plain("/ok")).with_not_regex("is well").expect_down(Cause::Body),
        new_case("not_regex does not", plain("/ok")).with_not_regex("is ill"),
        new_case("both as they should", plain("/ok")).with_regex("(?i)ALL").with_not_regex("ill$"),
        new_case("regex on a 500", plain("/status/500")).with_regex("a status").expect_down(Cause::Status),
        new_case("regex on an empty body", scripted("/empty")).with_regex("^$"),
        new_case("regex on a 204", plain("/status/204")).with_regex("well").expect_down(Cause::Body),
        new_case("regex on HEAD", plain("/ok")).with_method("HEAD", "").with_regex("well").expect_down(Cause::Body),
        new_case("characters of several bytes", scripted("/utf-8")).with_regex("^caf. ferm[éè]\nall"),
        new_case("lines", scripted("/utf-8")).with_regex("(?m)^all is well$"),
        new_case("Latin-1, ASCII characters", scripted("/latin")).with_regex("ferm"),
        new_case("Latin-1, any character", scripted("/latin")).with_regex("caf. ferm").expect_difference(true, Some(Cause::Body), "Go's regex treats an invalid UTF-8 byte as a character (U+FFFD); Rust's does not, unless written (?-u:.)"),
        new_case("the end of 900 KB", plain("/large/900000")).with_regex("end$"),
        new_case("after more than 1 MiB", plain("/large/2000000")).with_regex("end$").with_body_limit().expect_down(Cause::BodyTooLarge),
        new_case("after more than 1 MiB, no limit", plain("/large/2000000")).with_regex("end$").expect_difference(true, Some(Cause::BodyTooLarge), "blackbox_exporter reads without a limit unless body_size_limit is set"),
        new_case("2 MB, nothing asserted", plain("/large/2000000")),
        new_case("2 MB, nothing asserted, limited", plain("/large/2000000")).with_body_limit().expect_difference(false, None, "blackbox_exporter reads all of a body without an assertion, and fails at its limit"),
        new_case("a body without end", plain("/endless")).with_body_limit().expect_difference(false, None, "as above: Picket reads 64 KiB of a body without an assertion"),
        new_case("without end, and matches", plain("/endless")).with_body_limit().with_regex("x{9}").expect_difference(false, None, "Picket judges a longer body by its part up to the limit"),
        new_case("without end, no match", plain("/endless")).with_body_limit().with_regex("end").expect_down(Cause::BodyTooLarge),
        new_case("gzip", plain("/gzip")).with_gzip().with_regex("^compressed and well$"),
        new_case("gzip, nothing asserted", plain("/gzip")),
        new_case("gzip, regex, not undone", plain("/gzip")).with_regex("^compressed").expect_difference(false, None, "blackbox_exporter decompresses gzip only if the module sets compression: gzip"),
        new_case("invalid gzip", scripted("/no-gzip")).with_gzip().expect_down(Cause::Http),
        new_case("invalid gzip, not decoded", scripted("/no-gzip")).expect_difference(true, Some(Cause::Http), "as above: blackbox_exporter does not detect the invalid body"),
        new_case("gzip that breaks off", scripted("/gzip-cut")).with_gzip().with_regex("end").expect_down(Cause::Http),
        new_case("a gzip bomb", scripted("/bomb")).with_gzip().with_body_limit().with_regex("end").expect_down(Cause::BodyTooLarge),
        new_case("brotli, nothing asserted", scripted("/brotli")),
        new_case("brotli and a regex", scripted("/brotli")).with_gzip().with_regex("^all is well$").expect_down(Cause::Http),
    ]
}

fn tls_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    let h2 = |path: &str| sites.http2.localhost_url(path);
    vec![
        new_case("https", sites.secure.localhost_url("/ok")),
        new_case("https, closed in the body", sites.secure.localhost_url("/broken-body"))
            .expect_down(Cause::Http),
        new_case("https, no farewell", sites.no_close_notify.localhost_url("/")),
        new_case("TLS 1.2", sites.old_tls.localhost_url("/ok")),
        new_case("a chain", sites.chain.localhost_url("/ok")),
        new_case("the handshake after 300 ms", sites.slow_tls.localhost_url("/ok")),
        new_case("expired", sites.expired.localhost_url("/ok")).expect_down(Cause::Tls),
        new_case("expired, not verified", sites.expired.localhost_url("/ok")).without_tls_verify(),
        new_case("not valid yet", sites.not_yet_valid.localhost_url("/ok")).expect_down(Cause::Tls),
        new_case("for another host", sites.other_host.localhost_url("/ok")).expect_down(Cause::Tls),
        new_case("for a name and not the address", sites.secure.url("/ok")).expect_down(Cause::Tls),
        new_case("self-signed", sites.self_signed.localhost_url("/ok")).expect_down(Cause::Tls),
        new_case("self-signed, not verified", sites.self_signed.localhost_url("/ok")).without_tls_verify(),
        new_case("of an unknown issuer", sites.unknown_issuer.localhost_url("/ok")).expect_down(Cause::Tls),
        new_case("without its intermediate", sites.broken_chain.localhost_url("/ok")).expect_down(Cause::Tls),
        new_case("a client's certificate wanted", sites.client_certificate.localhost_url("/ok"))
            .expect_down(Cause::Tls),
        new_case("no cipher in common", sites.no_cipher.localhost_url("/ok")).expect_down(Cause::Tls),
        new_case("another protocol (ALPN)", sites.other_protocol.localhost_url("/ok"))
            .expect_down(Cause::Tls),
        new_case("no TLS", sites.no_tls.localhost_url("/")).expect_down(Cause::Tls),
        new_case("https to an http port", format!("https://{}/ok", sites.plain.address()))
            .expect_down(Cause::Tls),
        new_case("reset in the handshake", sites.reset_tls.localhost_url("/")).expect_down(Cause::Tls),
        new_case("silence in the handshake", sites.never_responds.localhost_url("/"))
            .expect_down(Cause::Timeout),
        new_case("HTTP/2", h2("/ok")).with_regex("^all is well$"),
        new_case("HTTP/2, 900 KB", h2("/large/900000")).with_regex("^x+$"),
        new_case("HTTP/2 with trailers", h2("/trailers")).with_regex("^all is well$"),
        new_case("HTTP/2, the body after 300 ms", h2("/slow-body/300")),
        new_case("HTTP/2, refused", h2("/refuse")).expect_down(Cause::Http),
        new_case("HTTP/2, reset in the body", h2("/break")).expect_down(Cause::Http),
        new_case("HTTP/2, GOAWAY", h2("/go-away")).expect_down(Cause::Http),
        new_case("HTTP/2, never an answer", h2("/never")).expect_down(Cause::Timeout),
    ]
}

fn address_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    const BLOCKED: &str =
        "Picket refuses addresses that are not public unless they are allowed, and reports the refusal";
    let plain = |path: &str| sites.plain.url(path);
    let mut cases = vec![
        new_case("an invalid name", "http://no-such-host.invalid/").expect_down(Cause::Dns),
        new_case("IPv4 wanted", sites.plain.localhost_url("/ok")).with_ip_version(IpVersion::V4),
        new_case("IPv6 wanted of an IPv4 address", plain("/ok"))
            .with_ip_version(IpVersion::V6)
            .expect_down(Cause::Dns),
        new_case("a private address", "http://192.0.2.1/").expect_difference(
            false,
            Some(Cause::Blocked),
            BLOCKED,
        ),
        new_case("a redirect to a private address", plain("/to/http://192.0.2.1/")).expect_difference(
            false,
            Some(Cause::Blocked),
            BLOCKED,
        ),
    ];
    if let Some(ipv6) = &sites.ipv6 {
        cases.push(new_case("IPv6", ipv6.url("/ok")));
        cases.push(new_case("IPv6 wanted", ipv6.url("/ok")).with_ip_version(IpVersion::V6));
        cases.push(
            new_case("IPv4 wanted of an IPv6 address", ipv6.url("/ok"))
                .with_ip_version(IpVersion::V4)
                .expect_down(Cause::Dns),
        );
    }
    let mut localhost = ("localhost", 0).to_socket_addrs().into_iter().flatten();
    if localhost.any(|address| address.is_ipv6()) {
        let mut dead = new_case("two families, one dead", sites.plain.localhost_url("/ok"))
            .expect_difference(
                false,
                None,
                "blackbox_exporter tries a single address, IPv6 by default; Picket tries the others as well",
            );
        dead.blackbox_options.prefers_ip6 = true;
        cases.push(dead);
    }
    cases
}
