//! Cases with assertions about headers, with several regexes, and with checks that must fail.

use picket_proto::{Cause, http_assertions::HeaderAssertion};

use crate::{
    comparison_case::{ComparisonCase, new_case},
    target_sites::TargetSites,
};

/// All cases with assertions.
pub(crate) fn all_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    [header_cases(sites), body_cases(sites), must_fail_cases(sites)].into_iter().flatten().collect()
}

/// Condition for the values of a header.
enum HeaderIs<'a> {
    Like(&'a str),
    Unlike(&'a str),
    Absent,
}

impl ComparisonCase {
    fn assert_header(self, name: &str, condition: &HeaderIs<'_>) -> Self {
        let mut assertion = HeaderAssertion { name: name.to_owned(), ..HeaderAssertion::default() };
        match *condition {
            HeaderIs::Like(regex) => assertion.regex = Some(regex.to_owned()),
            HeaderIs::Unlike(regex) => assertion.not_regex = Some(regex.to_owned()),
            HeaderIs::Absent => assertion.absent = Some(true),
        }
        self.with_assertions(|assertions| assertions.headers.push(assertion))
    }

    fn assert_bodies(self, regexes: &[&str], not_regexes: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        self.with_assertions(|assertions| {
            assertions.regexes = owned(regexes);
            assertions.not_regexes = owned(not_regexes);
        })
    }

    fn must_fail(self, causes: &[Cause]) -> Self {
        self.with_assertions(|assertions| assertions.must_fail = causes.to_vec())
    }
}

fn header_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    use HeaderIs::{Absent, Like, Unlike};
    let scripted = |path: &str| sites.scripted.url(path);
    let tagged = |name| new_case(name, scripted("/tagged"));
    let twice = |name| new_case(name, scripted("/twice"));
    let plain = |name, path: &str| new_case(name, sites.plain.url(path));
    vec![
        tagged("header matches").assert_header("Content-Type", &Like("^text/html")),
        tagged("header matches, name in lower case").assert_header("content-type", &Like("utf-8$")),
        tagged("header does not match")
            .assert_header("Content-Type", &Like("json"))
            .expect_down(Cause::Header),
        tagged("header is missing").assert_header("X-Missing", &Like("a")).expect_down(Cause::Header),
        tagged("header is missing, and may match anything")
            .assert_header("X-Missing", &Like("^.*$"))
            .expect_down(Cause::Header),
        tagged("header is empty").assert_header("X-Empty", &Like("^$")),
        tagged("header must not match, and does not").assert_header("Cache-Control", &Unlike("no-store")),
        tagged("header must not match, and does")
            .assert_header("Cache-Control", &Unlike("max-age"))
            .expect_down(Cause::Header),
        tagged("header must not match, and is missing")
            .assert_header("X-Missing", &Unlike("a"))
            .expect_down(Cause::Header),
        tagged("header must be absent, and is").assert_header("X-Debug", &Absent),
        tagged("header must be absent, and is present")
            .assert_header("Cache-Control", &Absent)
            .expect_down(Cause::Header),
        tagged("header must be absent, and is empty")
            .assert_header("X-Empty", &Absent)
            .expect_down(Cause::Header),
        twice("one of two values matches").assert_header("Via", &Like("b$")),
        twice("neither of two values matches").assert_header("Via", &Like("c$")).expect_down(Cause::Header),
        twice("one of two values must not match")
            .assert_header("Via", &Unlike("b$"))
            .expect_down(Cause::Header),
        twice("two values in one line").assert_header("X-List", &Like("^a, b$")),
        twice("two lines are not one value").assert_header("Via", &Like("a.*b")).expect_down(Cause::Header),
        twice("two assertions that hold")
            .assert_header("Via", &Like("a$"))
            .assert_header("X-List", &Unlike("c")),
        twice("two assertions, one does not hold")
            .assert_header("Via", &Like("a$"))
            .assert_header("X-List", &Unlike("b"))
            .expect_down(Cause::Header),
        new_case("header of HTTP/2", sites.http2.localhost_url("/headers/3"))
            .assert_header("X-2", &Like("room$")),
        plain("header of the last response", "/redirect/1").assert_header("Location", &Absent),
        plain("header of a redirect that is not followed", "/redirect/1")
            .without_redirects()
            .with_status("302")
            .assert_header("Location", &Like("/")),
        plain("header on a 500", "/status/500").assert_header("X-Debug", &Absent).expect_down(Cause::Status),
        tagged("header and body, the body does not match")
            .with_regex("all is ill")
            .assert_header("Content-Type", &Like("html"))
            .expect_down(Cause::Body),
        new_case("header of a host that refuses", format!("http://{}/", sites.refused))
            .assert_header("X-Debug", &Absent)
            .expect_down(Cause::Connect),
        plain("header Host of the site's", "/echo")
            .with_request(|request| request.options.host_header = Some("shop.example".to_owned()))
            .with_regex("(?i)host: shop\\.example"),
    ]
}

fn body_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    let plain = |name, path: &str| new_case(name, sites.plain.url(path));
    let ok = |name| plain(name, "/ok");
    vec![
        ok("several regexes, all match").assert_bodies(&["all", "is", "well$"], &[]),
        ok("several regexes, the last does not")
            .assert_bodies(&["all", "is", "ill"], &[])
            .expect_down(Cause::Body),
        ok("several regexes, in any order").assert_bodies(&["well", "^all"], &[]),
        ok("several forbidden, none matches").assert_bodies(&[], &["ill", "error", "^well"]),
        ok("several forbidden, the last matches")
            .assert_bodies(&[], &["ill", "well"])
            .expect_down(Cause::Body),
        ok("both kinds").assert_bodies(&["all", "well"], &["ill", "error"]),
        ok("both kinds and regex and not_regex")
            .with_regex("is")
            .with_not_regex("are")
            .assert_bodies(&["all", "well"], &["ill", "error"]),
        ok("regex matches, and one of several does not")
            .with_regex("is")
            .assert_bodies(&["all", "ill"], &[])
            .expect_down(Cause::Body),
        ok("wanted and forbidden at once").assert_bodies(&["well"], &["well"]).expect_down(Cause::Body),
        plain("several regexes on an empty body", "/status/204").assert_bodies(&["^$", "^"], &["."]),
        plain("several regexes over 900 KB", "/large/900000").assert_bodies(&["^x", "end$"], &["y"]),
        plain("several regexes, forbidden at the end of 900 KB", "/large/900000")
            .assert_bodies(&["^x"], &["y", "end$"])
            .expect_down(Cause::Body),
        plain("several regexes after more than 1 MiB", "/large/2000000")
            .with_body_limit()
            .assert_bodies(&["^x", "end$"], &[])
            .expect_down(Cause::BodyTooLarge),
        plain("several regexes on a 500", "/status/500")
            .assert_bodies(&["a", "b"], &["c"])
            .expect_down(Cause::Status),
        plain("several forbidden, closed without an answer", "/close")
            .assert_bodies(&[], &["a", "b"])
            .expect_down(Cause::Http),
    ]
}

fn must_fail_cases(sites: &TargetSites) -> Vec<ComparisonCase> {
    const OTHER_CAUSE: &str =
        "the inverted result of blackbox_exporter is success after any failure; must_fail lists causes";
    let plain = |name, path: &str| new_case(name, sites.plain.url(path));
    let refused = |name| new_case(name, format!("http://{}/", sites.refused));
    vec![
        refused("must fail to connect, and does").must_fail(&[Cause::Connect]),
        refused("must fail to connect or in time, and does").must_fail(&[Cause::Timeout, Cause::Connect]),
        refused("must fail in TLS, and fails to connect").must_fail(&[Cause::Tls]).expect_difference(
            true,
            Some(Cause::UnexpectedResponse),
            OTHER_CAUSE,
        ),
        plain("must fail, and is well", "/ok")
            .must_fail(&[Cause::Connect, Cause::Timeout])
            .expect_down(Cause::UnexpectedResponse),
        plain("must time out, and does", "/never").must_fail(&[Cause::Timeout]),
        plain("must have another status, and does", "/status/500").must_fail(&[Cause::Status]),
        plain("must have another status, and is well", "/ok")
            .must_fail(&[Cause::Status])
            .expect_down(Cause::UnexpectedResponse),
        plain("must fail to connect, and has another status", "/status/500")
            .must_fail(&[Cause::Connect])
            .expect_difference(true, Some(Cause::UnexpectedResponse), OTHER_CAUSE),
        plain("must be no HTTP, and is none", "/garbage").must_fail(&[Cause::Http]),
        plain("must loop, and does", "/loop").must_fail(&[Cause::Redirect]),
        plain("must not match, and does not", "/ok").with_regex("ill").must_fail(&[Cause::Body]),
        new_case("must be untrusted, and has expired", sites.expired.localhost_url("/ok"))
            .must_fail(&[Cause::Tls]),
        new_case("must be untrusted, and is trusted", sites.secure.localhost_url("/ok"))
            .must_fail(&[Cause::Tls])
            .expect_down(Cause::UnexpectedResponse),
        new_case("must not resolve, and does not", "http://no-such-host.invalid/")
            .must_fail(&[Cause::Dns])
            .expect_difference(
                true,
                Some(Cause::ProberOffline),
                "without canaries Picket does not take a failure for the site's that may be its own: missed",
            ),
        new_case("must not be reached, and is blocked", "http://192.0.2.1/")
            .must_fail(&[Cause::Connect, Cause::Timeout])
            .expect_difference(
                true,
                Some(Cause::Blocked),
                "Picket refuses addresses that are not public: missed",
            ),
    ]
}
