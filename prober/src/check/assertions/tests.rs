use std::time::Duration;

use picket_proto::{CheckRequest, Outcome, Timestamp, Timing, Warning};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{Observation, certificate::CertificateEnd},
    *,
};

fn check(assertions: Value) -> Check {
    let request = json!({"url": "http://a.example/", "assertions": assertions}).to_string();
    CheckRequest::decode(request.as_bytes()).unwrap().validate().unwrap()
}

/// Evaluates until the verdict, with the number of slices.
fn evaluate(
    check: &Check,
    headers: &HeaderMap,
    body: &[u8],
    extent: BodyExtent,
) -> (Result<(), Failure>, usize) {
    let mut matcher = AssertionMatcher::new(check).unwrap();
    matcher.set_head(headers, &Url::parse("https://a.example/login?token=x#part").unwrap());
    let mut slices = 1;
    loop {
        let before = matcher.steps_spent();
        if let Some(verdict) = matcher.evaluate(body, extent, MAX_STEPS) {
            return (verdict, slices);
        }
        let taken = matcher.steps_spent() - before;
        assert!(
            taken < 3 * STEPS_PER_SLICE + AssertionMatcher::MAX_JSON_STEPS,
            "{taken} steps without a pause"
        );
        slices += 1;
    }
}

/// Cause and message of the verdict.
fn verdict(assertions: Value, body: &str, extent: BodyExtent) -> Option<(Cause, String)> {
    let (verdict, _) = evaluate(&check(assertions), &HeaderMap::new(), body.as_bytes(), extent);
    verdict.err().map(|why| (why.cause, why.message))
}

#[test]
fn each_assertion_has_its_cause_and_says_what_was_found_and_expected() {
    use BodyExtent::{Complete, Truncated};
    let (body, too_large) = (Cause::Body, Cause::BodyTooLarge);
    for (assertions, text, extent, expected) in [
        (json!({"regexes": ["a", "b"]}), "ab", Complete, None),
        (
            json!({"regexes": ["a", "c"]}),
            "ab",
            Complete,
            Some((body, "regexes[1]: found no match in 2 bytes, expected a match of 'c'")),
        ),
        (
            json!({"regexes": ["c"]}),
            "ab",
            Truncated,
            Some((
                too_large,
                "regexes[0] is not decided: only the first 2 bytes are read, expected a match of 'c'",
            )),
        ),
        (
            json!({"not_regexes": ["b"]}),
            "ab",
            Complete,
            Some((body, "not_regexes[0]: found a match, expected no match of 'b'")),
        ),
        (json!({"not_regexes": ["c"]}), "ab", Complete, None),
        (json!({"not_regexes": ["c"]}), "ab", Truncated, Some((too_large, "not_regexes[0] is not decided"))),
        // A failure for certain counts more than an undecided assertion before it.
        (
            json!({"regexes": ["c"], "not_regexes": ["ab"]}),
            "ab after which more comes",
            Truncated,
            Some((body, "not_regexes[0]: found a match")),
        ),
        (json!({"body_bytes": {"min": 2, "max": 2}}), "ab", Complete, None),
        (
            json!({"body_bytes": {"min": 3}}),
            "ab",
            Complete,
            Some((body, "body_bytes: found 2 bytes, expected at least 3 bytes")),
        ),
        (
            json!({"body_bytes": {"max": 1}}),
            "ab",
            Complete,
            Some((body, "body_bytes: found 2 bytes, expected at most 1 bytes")),
        ),
        (
            json!({"body_bytes": {"max": 2}}),
            "ab",
            Truncated,
            Some((body, "body_bytes: found more than 2 bytes")),
        ),
        (json!({"body_bytes": {"max": 3}}), "ab", Truncated, Some((too_large, "body_bytes is not decided"))),
        (json!({"body_bytes": {"min": 2}}), "ab", Truncated, None),
        (json!({"body_bytes": {"min": 3}}), "ab", Truncated, Some((too_large, "body_bytes is not decided"))),
        (json!({"final_url": r"^https://a\.example/login\?token=x$"}), "", Complete, None),
        (
            json!({"final_url": "dashboard"}),
            "",
            Complete,
            Some((
                Cause::Redirect,
                "final_url: found https://a.example/login, expected a URL that matches 'dashboard'",
            )),
        ),
        (
            json!({"json": [{"path": "$.a", "equals": 1}]}),
            "{",
            Complete,
            Some((body, "json[0]: found a body of 1 bytes that is not JSON (EOF while parsing an object")),
        ),
        (json!({"json": [{"path": "$.a", "equals": 1}]}), "", Complete, Some((body, "that is empty"))),
        (
            json!({"json": [{"path": "$.a", "equals": 1}]}),
            r#"{"a":1}"#,
            Truncated,
            Some((too_large, "json[0] is not decided")),
        ),
    ] {
        let seen = verdict(assertions.clone(), text, extent);
        match (&seen, expected) {
            (None, None) => {}
            (Some((cause, message)), Some((expected, part))) => {
                assert_eq!(*cause, expected, "{assertions}: {message}");
                assert!(message.contains(part), "{assertions}: '{message}' does not say '{part}'");
            }
            _ => panic!("{assertions} on {text}: {seen:?}"),
        }
    }
}

#[test]
fn every_condition_of_json_is_met_and_missed_by_type_and_value() {
    let document = r#"{"status":"ok","n":1,"f":1.0,"big":9007199254740993,"no":null,"yes":true,"list":[1,2,3],
        "texts":["aé","b"],"object":{"x":1,"y":[{}]},"token":"abc"}"#;
    for (condition, expected) in [
        (json!({"path": "$.status", "equals": "ok"}), None),
        (
            json!({"path": "$.status", "equals": "up"}),
            Some("found \"ok\", expected $.status equal to \"up\""),
        ),
        (json!({"path": "$.n", "equals": "1"}), Some("found the number 1, expected $.n equal to \"1\"")),
        (json!({"path": "$.f", "equals": 1}), None),
        (json!({"path": "$.big", "equals": 9_007_199_254_740_992_u64}), Some("the number 9007199254740993")),
        (json!({"path": "$.no", "equals": null}), None),
        (json!({"path": "$.missing", "equals": null}), Some("found no such value")),
        (json!({"path": "$.missing", "not_equals": 1}), Some("found no such value")),
        (json!({"path": "$.object", "equals": {"y": [{}], "x": 1.0}}), None),
        (json!({"path": "$.object", "equals": {"x": 1}}), Some("found an object of 2 members")),
        (json!({"path": "$.no", "not_equals": false}), None),
        (json!({"path": "$.list[*]", "not_equals": 3}), Some("found the number 3 as value 3 of 3")),
        (json!({"path": "$.n", "less_than": 1.5}), None),
        (json!({"path": "$.n", "less_than": 1}), Some("less than 1")),
        (json!({"path": "$.status", "less_than": 1}), Some("found \"ok\"")),
        (json!({"path": "$.list[*]", "greater_than": 0}), None),
        (json!({"path": "$.list[*]", "greater_than": 1}), Some("found the number 1 as value 1 of 3")),
        (json!({"path": "$.status", "matches": "^o"}), None),
        (
            json!({"path": "$.n", "matches": "1"}),
            Some("found the number 1, expected $.n a text that matches '1'"),
        ),
        (json!({"path": "$.texts[*]", "matches": "^b"}), Some("as value 1 of 2")),
        (json!({"path": "$.no", "exists": true}), None),
        (
            json!({"path": "$.missing", "exists": true}),
            Some("found no such value, expected $.missing to exist"),
        ),
        (json!({"path": "$.missing", "absent": true}), None),
        (json!({"path": "$.no", "absent": true}), Some("found null, expected $.no to be absent")),
        (json!({"path": "$.texts[0]", "max_length": 2}), None),
        (json!({"path": "$.texts[0]", "min_length": 3}), Some("of a length of at least 3")),
        (json!({"path": "$.list", "min_length": 3}), None),
        (json!({"path": "$.object", "max_length": 1}), Some("found an object of 2 members")),
        (json!({"path": "$.n", "min_length": 0}), Some("found the number 1")),
        (json!({"path": "$.token", "equals": "x"}), Some("found a text of 3 characters")),
        (json!({"path": "$..token", "equals": "x"}), Some("found a text of 3 characters")),
        (json!({"path": "$.*", "equals": "ok"}), Some("found the number 1 as value 2 of 10")),
    ] {
        let assertions = json!({"json": [{"path": "$", "exists": true}, condition]});
        let seen = verdict(assertions, document, BodyExtent::Complete);
        match (&seen, expected) {
            (None, None) => {}
            (Some((cause, message)), Some(part)) => {
                assert_eq!(*cause, Cause::Body, "{condition}");
                assert!(
                    message.starts_with("json[1]: found ") && message.contains(part),
                    "{condition}: {message}"
                );
            }
            _ => panic!("{condition}: {seen:?}"),
        }
    }
}

#[test]
fn headers_are_matched_as_bytes_by_any_case_of_the_name_and_any_of_several_values() {
    let mut headers = HeaderMap::new();
    headers.append("cache-control", HeaderValue::from_static("no-store"));
    headers.append("cache-control", HeaderValue::from_static("max-age=60"));
    headers.append("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    for (header, expected) in [
        (json!({"name": "Cache-Control", "regex": "^max-age=[0-9]+$"}), None),
        (
            json!({"name": "cache-control", "regex": "immutable"}),
            Some("found 'no-store' and 1 more, expected a value of cache-control that matches 'immutable'"),
        ),
        (json!({"name": "cache-control", "not_regex": "immutable"}), None),
        (
            json!({"name": "cache-control", "not_regex": "max"}),
            Some("found 'max-age=60', expected cache-control without"),
        ),
        (json!({"name": "x-none", "regex": "."}), Some("found no header x-none")),
        (json!({"name": "x-none", "not_regex": "."}), Some("found no header x-none")),
        (json!({"name": "x-none", "absent": true}), None),
        (
            json!({"name": "X-Latin", "absent": true}),
            Some("found a value of 4 bytes, expected no header x-latin"),
        ),
        (json!({"name": "x-latin", "regex": r"(?-u)^caf\xe9$"}), None),
    ] {
        let (verdict, _) =
            evaluate(&check(json!({"headers": [header]})), &headers, b"", BodyExtent::Complete);
        match (verdict.err(), expected) {
            (None, None) => {}
            (Some(why), Some(part)) => {
                assert_eq!(why.cause, Cause::Header);
                assert!(
                    why.message.starts_with("headers[0]: ") && why.message.contains(part),
                    "{}",
                    why.message
                );
            }
            (seen, _) => panic!("{header}: {seen:?}"),
        }
    }
}

/// As expensive as validation accepts.
const EXPENSIVE_REGEX: &str = r"(?:[ab]{0,99}b?){5}\b!";

#[test]
fn the_most_expensive_assertions_end_in_slices_and_the_site_is_not_blamed() {
    const BODY_BYTES: usize = 1 << 20;
    let letters = "\u{e9}".to_owned() + &"ab".repeat(BODY_BYTES / 2);
    // In text of ASCII alone, word boundaries are cheap.
    let plain = "ab ".repeat(BODY_BYTES / 3);
    let objects = format!("[{}]", vec![r#"{"a":1}"#; BODY_BYTES / 8].join(","));
    let regexes: Vec<String> = (0..16).map(|number| format!("{EXPENSIVE_REGEX}{number}")).collect();
    let ordinary: Vec<String> = (0..16).map(|number| format!(r"\bword{number}\b|error {number}")).collect();
    for (assertions, body, cause) in [
        (json!({"not_regexes": regexes}), &letters, Some(Cause::Overloaded)),
        (json!({"regexes": ["ab"], "not_regexes": ordinary}), &plain, None),
        (json!({"json": [{"path": "$[?@.a == 2]", "absent": true}]}), &objects, None),
        (
            json!({"json": [{"path": "$[?count($..a) == 1]", "exists": true}]}),
            &objects,
            Some(Cause::Overloaded),
        ),
        (
            json!({"json": vec![json!({"path": "$..[?@.a == 1].a", "equals": 1}); 16]}),
            &objects,
            Some(Cause::Overloaded),
        ),
        (json!({"json": [{"path": "$", "exists": true}]}), &"[".repeat(BODY_BYTES), Some(Cause::Body)),
    ] {
        let check = check(assertions.clone());
        let began = Instant::now();
        let (verdict, slices) = evaluate(&check, &HeaderMap::new(), body.as_bytes(), BodyExtent::Complete);
        eprintln!("{assertions:.60}: {verdict:?} in {slices} slices and {:?}", began.elapsed());
        assert_eq!(verdict.err().map(|why| why.cause), cause, "{assertions}");
        // A generous bound: debug builds take ten times as long as release builds.
        assert!(began.elapsed() < Duration::from_secs(60), "{assertions}: {:?}", began.elapsed());
    }
}

#[test]
fn a_small_body_of_json_that_takes_long_is_not_evaluated_inline() {
    let nested = format!("{}0{}", "[".repeat(120), "]".repeat(120));
    let body = format!("[{}]", vec![nested; 30].join(","));
    let check = check(json!({"json": [{"path": "$..*..*", "exists": true}]}));
    let mut matcher = AssertionMatcher::new(&check).unwrap();
    assert!(body.len() <= AssertionMatcher::MAX_INLINE_JSON_BYTES && matcher.max_steps(body.len()) == 0);
    assert_eq!(matcher.max_steps(AssertionMatcher::MAX_INLINE_JSON_BYTES + 1), u64::MAX, "never inline");

    assert!(matcher.evaluate(body.as_bytes(), BodyExtent::Complete, MAX_STEPS).is_none());
    assert!(matcher.steps_spent() < 2 * AssertionMatcher::MAX_INLINE_JSON_STEPS, "{}", matcher.steps_spent());
    assert!(matches!(matcher.evaluate(body.as_bytes(), BodyExtent::Complete, MAX_STEPS), Some(Ok(()))));
}

fn end_in_days(days: i64) -> (CertificateEnd, Timestamp) {
    let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    let end = Timestamp::from_micros(now.as_micros() + days * 86_400_000_000 + 1);
    (
        CertificateEnd {
            expires_at: end,
            serial: Box::new([1, 0xab]),
            subject: Some("a.example".to_owned()),
        },
        now,
    )
}

#[test]
fn limits_of_time_and_certificates_are_down_or_warn_by_the_sites_own_time() {
    let compiled = |assertions: Value| check(assertions).assertions.unwrap();
    let took =
        |ms: u32| Timing { first_byte_us: Some(ms * 1_000), total_us: Some(9_000_000), ..Timing::default() };
    let (in_five_days, now) = end_in_days(5);
    let slow = compiled(json!({"warn_after_ms": 100, "fail_after_ms": 200}));
    assert!(check_limits(&slow, &took(199), None, now).is_ok());
    let why = check_limits(&slow, &took(200), None, now).unwrap_err();
    assert_eq!(
        (why.cause, why.message.as_str()),
        (Cause::Slow, "fail_after_ms: found a response after 200 ms, expected less than 200 ms")
    );
    assert_eq!(list_warnings(Some(&slow), &took(99), None, now), (vec![], None));
    let (warnings, details) = list_warnings(Some(&slow), &took(100), None, now);
    assert_eq!(warnings, [Warning::Slow]);
    assert_eq!(Value::from(details.unwrap()), json!({"slow": {"took_ms": 100, "warn_after_ms": 100}}));

    let (warnings, details) = list_warnings(None, &took(1), Some(&in_five_days), now);
    assert_eq!(warnings, [Warning::Certificate]);
    let end = json!({"serial": "01ab", "expires_at": "2026-11-25T12:00:00.000001Z", "subject": "a.example"});
    assert_eq!(details.unwrap()["certificate"], end);
    let never = compiled(json!({"certificate_warn_days": 0}));
    assert_eq!(list_warnings(Some(&never), &took(1), Some(&in_five_days), now).0, []);
    assert_eq!(list_warnings(None, &took(1), Some(&end_in_days(14).0), now).0, []);
    assert_eq!(list_warnings(None, &took(1), Some(&end_in_days(13).0), now).0, [Warning::Certificate]);

    let six = compiled(json!({"certificate_min_days": 6}));
    let why = check_limits(&six, &took(1), Some(&in_five_days), now).unwrap_err();
    assert_eq!(why.cause, Cause::Certificate);
    assert!(why.message.contains("a certificate that ends in 5 days, at 2026-11-25"), "{}", why.message);
    assert!(check_limits(&six, &took(1), Some(&end_in_days(6).0), now).is_ok());
    assert!(check_limits(&six, &took(1), None, now).is_ok(), "without TLS there is no certificate");
}

fn observation(outcome: Outcome, cause: Option<Cause>) -> Observation {
    Observation {
        started_at: Timestamp::from_micros(0),
        outcome,
        cause,
        message: cause.map(|_| "why".to_owned()),
        http_status: None,
        http_version: None,
        remote_addr: None,
        timing: Timing::default(),
        redirects: 0,
        body_bytes: 0,
        regex_matched: None,
        tls_expires_at: None,
        warnings: Vec::new(),
        details: None,
        network_scope: picket_runtime::NetworkScope::Internet,
    }
}

#[test]
fn a_check_that_must_fail_is_up_only_by_one_of_its_causes_and_missed_stays_missed() {
    let check = check(json!({"must_fail": ["connect", "status"]}));
    let unexpected = Some(Cause::UnexpectedResponse);
    for (outcome, cause, expected, message) in [
        (Outcome::Down, Some(Cause::Connect), (Outcome::Up, None), "found connect, as expected (why)"),
        (Outcome::Down, Some(Cause::Status), (Outcome::Up, None), "found status, as expected"),
        (
            Outcome::Down,
            Some(Cause::Dns),
            (Outcome::Down, unexpected),
            "found dns, expected connect, status (why)",
        ),
        (Outcome::Up, None, (Outcome::Down, unexpected), "it answered, and should not"),
        (Outcome::Missed, Some(Cause::Blocked), (Outcome::Missed, Some(Cause::Blocked)), "why"),
        (Outcome::Missed, Some(Cause::Overloaded), (Outcome::Missed, Some(Cause::Overloaded)), "why"),
    ] {
        let seen = apply_must_fail(&check, observation(outcome, cause));
        assert_eq!((seen.outcome, seen.cause), expected);
        assert!(seen.message.as_deref().unwrap().contains(message), "{seen:?}");
    }
    let plain = CheckRequest::new("http://a.example/").validate().unwrap();
    let seen = apply_must_fail(&plain, observation(Outcome::Down, Some(Cause::Connect)));
    assert_eq!(seen.cause, Some(Cause::Connect));
}

proptest! {
    #[test]
    fn no_body_and_no_assertion_panics(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            r#"[\[\]{}",:a0-9.eE +\-\\untf]{0,200}"#.prop_map(String::into_bytes),
        ],
        path in r"\$(\.[a-c]|\[-?[0-9]{1,3}\]|\[\*\]|\.\.[a-c]|\[[0-9]?:[0-9]?\]|\[\?@\.a [<=]= [0-9]\]|[.\[\]?@*()!&|' ]){0,4}",
        length in 0_u64..5,
        regex in r"[a-c.*?\[\]()|^$\\bw]{1,8}",
        is_cut in any::<bool>(),
    ) {
        for condition in ["exists", "absent", "equals", "less_than", "matches", "min_length", "max_length"] {
            let value = match condition {
                "exists" | "absent" => json!(true),
                "matches" => json!(regex),
                _ => json!(length),
            };
            let request = json!({"url": "http://a.example/", "explain": true, "assertions": {
                "json": [{"path": path, condition: value}], "regexes": [regex], "body_bytes": {"max": length},
            }}).to_string();
            let Ok(check) = CheckRequest::decode(request.as_bytes()).unwrap().validate() else { continue };
            let extent = if is_cut { BodyExtent::Truncated } else { BodyExtent::Complete };
            let (verdict, _) = evaluate(&check, &HeaderMap::new(), &body, extent);
            if let Err(why) = verdict {
                prop_assert!(matches!(why.cause, Cause::Body | Cause::BodyTooLarge | Cause::Overloaded), "{why:?}");
                prop_assert!(why.message.len() <= 600 && !why.message.chars().any(char::is_control));
            }
        }
    }
}
