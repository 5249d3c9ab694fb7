//! Assertions about responses of real websites, each met and missed.

use picket_harness::targets::{CertificateAuthority, Step, Target, Validity};
use picket_prober::check::{CheckLimits, Checker, Observation};
use picket_proto::{Cause, CheckRequest, CheckResult, Outcome, Warning, subject};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    bus::{STATE_TIMEOUT, TestRegion},
    http::{assert_down, check_with_limits, test_limits},
};

fn request(url: String, assertions: Value) -> CheckRequest {
    CheckRequest { assertions: serde_json::from_value(assertions).unwrap(), ..CheckRequest::new(url) }
}

async fn serve_body(head: &'static str, body: &'static str) -> Target {
    let answer = format!("HTTP/1.1 200 OK\r\n{head}content-length: {}\r\n\r\n{body}", body.len());
    Target::serve_script(move |_| vec![Step::send(&answer)]).await
}

async fn check_asserting(url: String, assertions: Value) -> Observation {
    check_with_limits(&request(url, assertions)).await
}

/// Checks that `met` is up, and that `missed` is down by `cause` with `message`.
async fn assert_both(target: &Target, met: Value, missed: Value, cause: Cause, message: &str) {
    let seen = check_asserting(target.url("/"), met.clone()).await;
    assert_eq!((seen.outcome, seen.cause), (Outcome::Up, None), "{met}: {seen:?}");
    assert_down(&check_asserting(target.url("/"), missed).await, cause, message);
}

#[tokio::test]
async fn every_regex_must_match_and_no_other_may() {
    let target = serve_body("", "all is well").await;
    let (met, missed) = (json!({"regexes": ["all", "well$"]}), json!({"regexes": ["all", "ill"]}));
    assert_both(
        &target,
        met,
        missed,
        Cause::Body,
        "regexes[1]: found no match in 11 bytes, expected a match of 'ill'",
    )
    .await;
    let (met, missed) = (json!({"not_regexes": ["ill", "bad"]}), json!({"not_regexes": ["ill", "well"]}));
    assert_both(
        &target,
        met,
        missed,
        Cause::Body,
        "not_regexes[1]: found a match, expected no match of 'well'",
    )
    .await;
}

#[tokio::test]
async fn a_header_is_asserted_by_any_of_its_values_as_bytes() {
    let target = serve_body("X-Cache: MISS\r\nx-cache: HIT\r\nServer: caf\u{e9}\r\n", "").await;
    for (met, missed, message) in [
        (
            json!({"name": "x-CACHE", "regex": "^HIT$"}),
            json!({"name": "x-cache", "regex": "STALE"}),
            "headers[0]: found 'MISS' and 1 more, expected a value of x-cache that matches 'STALE'",
        ),
        (
            json!({"name": "x-cache", "not_regex": "STALE"}),
            json!({"name": "x-cache", "not_regex": "HIT"}),
            "headers[0]: found 'HIT', expected x-cache without a value that matches 'HIT'",
        ),
        (
            json!({"name": "x-powered-by", "absent": true}),
            json!({"name": "server", "absent": true}),
            "expected no header server",
        ),
        (
            json!({"name": "server", "regex": "(?-u)caf\\xc3\\xa9"}),
            json!({"name": "x-none", "not_regex": "x"}),
            "headers[0]: found no header x-none",
        ),
    ] {
        assert_both(&target, json!({"headers": [met]}), json!({"headers": [missed]}), Cause::Header, message)
            .await;
    }
}

#[tokio::test]
async fn a_value_of_json_is_asserted_in_the_decoded_body() {
    let target = serve_body(
        "content-type: application/json\r\n",
        "\u{feff}{\"status\":\"ok\",\"checks\":[{\"name\":\"db\",\"ms\":4.5},{\"name\":\"disk\",\"ms\":12}]}",
    )
    .await;
    for (met, missed, message) in [
        (
            json!({"path": "$.status", "equals": "ok"}),
            json!({"path": "$.status", "equals": "OK"}),
            "json[0]: found \"ok\", expected $.status equal to \"OK\"",
        ),
        (
            json!({"path": "$.checks[*].ms", "less_than": 13}),
            json!({"path": "$.checks[*].ms", "less_than": 10}),
            "json[0]: found the number 12 as value 2 of 2, expected $.checks[*].ms less than 10",
        ),
        (
            json!({"path": "$.checks[?@.ms > 20]", "absent": true}),
            json!({"path": "$.checks[?@.ms > 10]", "absent": true}),
            "json[0]: found an object of 2 members, expected $.checks[?@.ms > 10] to be absent",
        ),
        (
            json!({"path": "$.checks", "min_length": 2}),
            json!({"path": "$.checks", "max_length": 1}),
            "json[0]: found an array of 2 items",
        ),
        (
            json!({"path": "$..name", "matches": "^d"}),
            json!({"path": "$..name", "matches": "^db"}),
            "json[0]: found \"disk\" as value 2 of 2",
        ),
        (
            json!({"path": "$.status", "exists": true}),
            json!({"path": "$.state", "exists": true}),
            "found no such value",
        ),
        (
            json!({"path": "$.status", "not_equals": null}),
            json!({"path": "$.state", "not_equals": null}),
            "no such value",
        ),
        (
            json!({"path": "$.checks[0].ms", "greater_than": 4}),
            json!({"path": "$.status", "greater_than": 4}),
            "found \"ok\"",
        ),
    ] {
        assert_both(&target, json!({"json": [met]}), json!({"json": [missed]}), Cause::Body, message).await;
    }
    let text = serve_body("", "<html>").await;
    let seen = check_asserting(text.url("/"), json!({"json": [{"path": "$", "exists": true}]})).await;
    assert_down(&seen, Cause::Body, "json[0]: found a body of 6 bytes that is not JSON (expected value");
}

#[tokio::test]
async fn the_size_of_the_decoded_body_is_asserted() {
    let target = serve_body("", "all is well").await;
    let (met, missed) = (json!({"body_bytes": {"min": 11, "max": 11}}), json!({"body_bytes": {"min": 12}}));
    assert_both(&target, met, missed, Cause::Body, "body_bytes: found 11 bytes, expected at least 12 bytes")
        .await;

    let target = Target::serve_http().await;
    let seen = check_asserting(target.url("/gzip"), json!({"body_bytes": {"max": 18}})).await;
    assert_down(&seen, Cause::Body, "body_bytes: found 19 bytes, expected at most 18 bytes");
}

#[tokio::test]
async fn a_body_that_is_cut_at_the_limit_is_not_judged_as_json() {
    let target = Target::serve_http().await;
    let url = target.url("/large/200000");
    for assertions in [
        json!({"json": [{"path": "$", "absent": true}]}),
        json!({"regexes": ["end"]}),
        json!({"not_regexes": ["end"]}),
        json!({"body_bytes": {"min": 150_000}}),
        json!({"body_bytes": {"max": 150_000}}),
    ] {
        let seen = check_asserting(url.clone(), assertions.clone()).await;
        assert_eq!(
            (seen.cause, seen.body_bytes),
            (Some(Cause::BodyTooLarge), 100_000),
            "{assertions}: {seen:?}"
        );
    }
    let seen = check_asserting(url.clone(), json!({"body_bytes": {"max": 50_000}})).await;
    assert_down(&seen, Cause::Body, "body_bytes: found more than 100000 bytes, expected at most 50000 bytes");
    // Nothing is asserted of the body, so that only its beginning is read.
    let headers = json!({"headers": [{"name": "content-length", "regex": "^200003$"}]});
    let seen = check_asserting(url, headers).await;
    assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 64 << 10), "{seen:?}");
}

#[tokio::test]
async fn the_url_of_the_last_response_is_asserted() {
    let target = Target::serve_http().await;
    let url = || target.url("/redirect/2");
    let seen = check_asserting(url(), json!({"final_url": "/ok$"})).await;
    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 2), "{seen:?}");
    let seen = check_asserting(url(), json!({"final_url": "^https:"})).await;
    let message = format!("final_url: found {}, expected a URL that matches '^https:'", target.url("/ok"));
    assert_down(&seen, Cause::Redirect, &message);
}

#[tokio::test]
async fn a_slow_response_is_down_or_warned_of_and_keeps_its_phases() {
    let target = Target::serve_http().await;
    let url = || target.url("/slow/300");

    let seen = check_asserting(url(), json!({"warn_after_ms": 200, "fail_after_ms": 9_000})).await;
    assert_eq!((seen.outcome, seen.warnings.as_slice()), (Outcome::Up, &[Warning::Slow][..]), "{seen:?}");
    let seen = check_asserting(url(), json!({"fail_after_ms": 200})).await;
    assert_down(&seen, Cause::Slow, "ms, expected less than 200 ms");
    assert!(seen.http_status == Some(200) && seen.timing.first_byte_us >= Some(300_000), "{seen:?}");
    assert_eq!(seen.warnings, []);
    let seen = check_asserting(url(), json!({"warn_after_ms": 9_000})).await;
    assert_eq!((seen.outcome, seen.warnings.len()), (Outcome::Up, 0), "{seen:?}");
}

async fn check_trusting(authority: &CertificateAuthority, target: &Target, assertions: Value) -> Observation {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let limits = CheckLimits { ca_file: Some(file.path().to_owned()), ..test_limits() };
    let request = request(target.localhost_url("/ok"), assertions);
    Checker::new(&limits).unwrap().run_check(&request.validate().unwrap()).await
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_warned_of_or_down_and_the_whole_chain_counts() {
    let root = CertificateAuthority::new();
    let intermediate = root.new_intermediate(Validity::EndsInDays(10));
    let by_chain = intermediate.issue_identity(&["localhost"], Validity::Current);
    for identity in [root.issue_identity(&["localhost"], Validity::EndsInDays(10)), by_chain] {
        let target = Target::serve_https(&identity).await;

        let seen = check_trusting(&root, &target, json!({})).await;
        assert_eq!(
            (seen.outcome, seen.warnings.as_slice()),
            (Outcome::Up, &[Warning::Certificate][..]),
            "{seen:?}"
        );
        let certificate = &seen.details.as_ref().unwrap()["certificate"];
        let serial = certificate["serial"].as_str().unwrap();
        assert!(serial.len() >= 16 && serial.bytes().all(|byte| byte.is_ascii_hexdigit()), "{certificate}");
        assert!(certificate["expires_at"].as_str().unwrap().ends_with('Z'), "{certificate}");
        assert!(!certificate["subject"].as_str().unwrap().is_empty(), "{certificate}");
        assert!(serde_json::to_string(&seen.details).unwrap().len() <= 2_048);

        for quiet in [json!({"certificate_warn_days": 0}), json!({"certificate_warn_days": 9})] {
            let seen = check_trusting(&root, &target, quiet).await;
            assert_eq!(
                (seen.outcome, seen.warnings.len(), &seen.details),
                (Outcome::Up, 0, &None),
                "{seen:?}"
            );
        }
        let seen = check_trusting(&root, &target, json!({"certificate_min_days": 11})).await;
        assert_down(&seen, Cause::Certificate, "certificate_min_days: found a certificate that ends in");
        let seen = check_trusting(&root, &target, json!({"certificate_min_days": 5})).await;
        assert_eq!((seen.outcome, seen.warnings.as_slice()), (Outcome::Up, &[Warning::Certificate][..]));
    }
    let good = Target::serve_https(&root.issue_identity(&["localhost"], Validity::Current)).await;
    let seen = check_trusting(&root, &good, json!({"certificate_min_days": 3_650})).await;
    assert_eq!((seen.outcome, seen.warnings.len()), (Outcome::Up, 0), "{seen:?}");
}

#[tokio::test]
async fn a_failed_transport_satisfies_no_assertion_and_negative_ones_neither() {
    let closed = format!("http://{}/", Target::closed_address().await);
    let target = Target::serve_http().await;
    let negative = json!({
        "not_regexes": ["x"],
        "headers": [{"name": "x", "absent": true}],
        "json": [{"path": "$.x", "absent": true}],
        "body_bytes": {"max": 10},
    });

    assert_down(&check_asserting(closed, negative.clone()).await, Cause::Connect, "connection refused");
    assert_down(&check_asserting(target.url("/close"), negative.clone()).await, Cause::Http, "");
    assert_down(&check_asserting(target.url("/status/503"), negative.clone()).await, Cause::Status, "503");
    let stalled = CheckRequest { timeout_ms: 300, ..request(target.url("/slow-body/60000"), negative) };
    assert_down(&check_with_limits(&stalled).await, Cause::Timeout, "no end of the body within 300 ms");
}

/// The reply of a prober to an ad-hoc request.
async fn ask(place: &TestRegion, request: Value) -> CheckResult {
    let (to, payload) = (subject::region_check(&place.region), request.to_string());
    let reply = timeout(STATE_TIMEOUT, place.bus.client.request(to, payload.into())).await.unwrap().unwrap();
    serde_json::from_slice(&reply.payload).unwrap()
}

#[tokio::test]
async fn a_check_that_must_fail_is_up_by_its_causes_alone() {
    let (place, target) = (TestRegion::on_shared_nats("must-fail").await, Target::serve_http().await);
    let _prober = place.start_ready_prober("one", 10).await;
    let closed = format!("http://{}/", Target::closed_address().await);
    let must_fail = json!({"must_fail": ["connect", "status"]});
    for (url, outcome, cause, message) in [
        (closed, Outcome::Up, None, "must_fail: found connect, as expected (connection refused"),
        (target.url("/status/403"), Outcome::Up, None, "must_fail: found status, as expected"),
        (
            target.url("/ok"),
            Outcome::Down,
            Some(Cause::UnexpectedResponse),
            "it answered, and should not: must_fail expects connect, status",
        ),
        (
            "http://no-such-host.invalid/".to_owned(),
            Outcome::Down,
            Some(Cause::UnexpectedResponse),
            "must_fail: found dns, expected connect, status",
        ),
        ("http://169.254.169.254/".to_owned(), Outcome::Missed, Some(Cause::Blocked), "may not connect"),
    ] {
        let result = ask(&place, json!({"url": url, "assertions": must_fail})).await;
        assert_eq!((result.outcome, result.cause), (outcome, cause), "{url}: {result:?}");
        assert!(result.message.as_deref().unwrap().contains(message), "{url}: {result:?}");
    }
}

#[tokio::test]
async fn an_explained_request_is_answered_with_each_assertion_and_stored_without() {
    let (place, target) =
        (TestRegion::on_shared_nats("explained").await, serve_body("x: y\r\n", "{\"a\":1}").await);
    let _prober = place.start_ready_prober("one", 10).await;
    let asking = json!({"url": target.url("/"), "explain": true, "regex": "a", "assertions": {
        "headers": [{"name": "x", "regex": "z"}],
        "json": [{"path": "$.a", "equals": 1}, {"path": "$.b", "exists": true}],
        "fail_after_ms": 9_000,
    }});

    let result = ask(&place, asking).await;

    assert_eq!((result.outcome, result.cause), (Outcome::Down, Some(Cause::Header)), "{result:?}");
    let list = result.details.as_ref().unwrap()["assertions"].as_array().unwrap();
    let entry = |name: &str| list.iter().find(|entry| entry["name"] == name).unwrap();
    for (name, word, expected, found) in [
        ("status", "passed", "a status of 200-299", "200"),
        ("regex", "passed", "a match of 'a'", "a match"),
        ("headers[0]", "failed", "a value of x that matches 'z'", "'y'"),
        ("json[0]", "passed", "$.a equal to 1", "the number 1"),
        ("json[1]", "failed", "$.b to exist", "no such value"),
    ] {
        let [result, expects, finds] =
            ["result", "expected", "found"].map(|field| entry(name)[field].as_str().unwrap());
        assert_eq!((result, expects, finds), (word, expected, found), "{name}");
    }
    assert_eq!((entry("fail_after_ms")["result"].as_str(), list.len()), (Some("passed"), 6), "{list:?}");
    let stored = place.read_results(1).await;
    assert_eq!(
        (stored[0].outcome, &stored[0].details),
        (Outcome::Down, &None),
        "the explanation is not stored"
    );

    let closed = format!("http://{}/", Target::closed_address().await);
    let result = ask(&place, json!({"url": closed, "explain": true})).await;
    let list = &result.details.as_ref().unwrap()["assertions"];
    assert_eq!(list[0]["result"], "not_evaluated", "{list}");
    assert!(ask(&place, json!({"url": target.url("/")})).await.details.is_none());
}
