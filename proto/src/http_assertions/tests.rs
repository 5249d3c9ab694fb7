use serde_json::{Value, json};

use crate::{CheckRequest, HttpAssertions, ValidationError};

/// The refusal of `assertions`, in a check with the default timeout of 10 s.
fn refusal(assertions: &Value) -> ValidationError {
    let request = json!({"url": "http://x/", "assertions": assertions}).to_string();
    CheckRequest::decode(request.as_bytes()).unwrap().validate().map(drop).unwrap_err()
}

#[test]
fn a_refusal_names_the_item_the_value_and_what_is_allowed() {
    let many: Vec<String> = (0..17).map(|number| format!("a{number}")).collect();
    let long = "x".repeat(HttpAssertions::MAX_VALUE_BYTES);
    for (assertions, field, value, allowed) in [
        (json!({"regexes": many}), "regexes", "17 of them", "at most 16 of them"),
        (json!({"not_regexes": many}), "not_regexes", "17 of them", "at most 16 of them"),
        (json!({"regexes": ["ok", "a(b"]}), "regexes[1]", "a(b", "unclosed group"),
        (json!({"not_regexes": [""]}), "not_regexes[0]", "", "at least one character"),
        (
            json!({"headers": vec![json!({"name": "a", "regex": "b"}); 17]}),
            "headers",
            "17 of them",
            "at most 16",
        ),
        (json!({"headers": [{"name": "a b", "regex": "c"}]}), "headers[0].name", "a b", "RFC 9110"),
        (json!({"headers": [{"regex": "c"}]}), "headers[0].name", "", "RFC 9110"),
        (
            json!({"headers": [{"name": "a"}]}),
            "headers[0]",
            "(no condition)",
            "exactly one of regex, not_regex, absent",
        ),
        (
            json!({"headers": [{"name": "a", "regex": "b", "absent": true}]}),
            "headers[0]",
            "regex, absent",
            "exactly one of",
        ),
        (
            json!({"headers": [{"name": "a", "absent": false}]}),
            "headers[0].absent",
            "false",
            "true; a header that",
        ),
        (
            json!({"headers": [{"name": "a", "not_regex": "("}]}),
            "headers[0].not_regex",
            "(",
            "unclosed group",
        ),
        (json!({"json": vec![json!({"path": "$", "exists": true}); 17]}), "json", "17 of them", "at most 16"),
        (json!({"json": [{"path": "status", "exists": true}]}), "json[0].path", "status", "RFC 9535"),
        (json!({"json": [{"exists": true}]}), "json[0].path", "", "RFC 9535"),
        (json!({"json": [{"path": "$"}]}), "json[0]", "(no condition)", "exactly one of equals, not_equals"),
        (
            json!({"json": [{"path": "$", "min_length": 1, "max_length": 2}]}),
            "json[0]",
            "min_length, max_length",
            "exactly one of",
        ),
        (json!({"json": [{"path": "$", "exists": false}]}), "json[0].exists", "false", "true; a value that"),
        (
            json!({"json": [{"path": "$", "matches": "["}]}),
            "json[0].matches",
            "[",
            "unclosed character class",
        ),
        (
            json!({"json": [{"path": "$[?match(@, '(')]", "exists": true}]}),
            "json[0].path",
            "(",
            "unclosed group",
        ),
        (json!({"json": [{"path": "$", "equals": long}]}), "json[0].equals", "\"xxx", "at most 1024 bytes"),
        (json!({"body_bytes": {}}), "body_bytes", "{}", "min, max, or both"),
        (json!({"body_bytes": {"min": 2, "max": 1}}), "body_bytes.min", "2", "at most max, which is 1"),
        (
            json!({"body_bytes": {"max": 2_147_483_648_u64}}),
            "body_bytes.max",
            "2147483648",
            "0 to 1073741824",
        ),
        (json!({"final_url": "("}), "final_url", "(", "unclosed group"),
        (json!({"must_fail": ["connect", "overloaded"]}), "must_fail[1]", "overloaded", "dns, connect, tls"),
        (json!({"must_fail": ["connect", "connect"]}), "must_fail[1]", "connect", "at most once"),
        (json!({"warn_after_ms": 0}), "warn_after_ms", "0", "1 to 9999, which is less than timeout_ms"),
        (json!({"fail_after_ms": 10_000}), "fail_after_ms", "10000", "1 to 9999"),
        (
            json!({"warn_after_ms": 5, "fail_after_ms": 5}),
            "warn_after_ms",
            "5",
            "less than fail_after_ms, which is 5",
        ),
        (json!({"certificate_warn_days": -1}), "certificate_warn_days", "-1", "0 to 3650"),
        (json!({"certificate_min_days": 0}), "certificate_min_days", "0", "1 to 3650"),
        (
            json!({"certificate_min_days": 7, "certificate_warn_days": 7}),
            "certificate_min_days",
            "7",
            "less than certificate_warn_days, which is 7",
        ),
    ] {
        let why = refusal(&assertions);
        assert_eq!(why.field, format!("assertions.{field}"), "{assertions}: {why}");
        assert!(why.value.starts_with(value), "{assertions}: {why}");
        assert!(why.expected.contains(allowed), "{assertions}: {why}");
    }
}

#[test]
fn assertions_within_the_limits_are_compiled_and_absent_ones_cost_nothing() {
    let whole = json!({
        "regexes": ["a", "b"],
        "not_regexes": ["c"],
        "headers": [{"name": "Content-Type", "regex": "json"}, {"name": "x", "absent": true}],
        "json": [{"path": "$.a", "equals": null}, {"path": "$.b", "less_than": 5}, {"path": "$", "exists": true}],
        "body_bytes": {"min": 1, "max": 1},
        "final_url": "^https:",
        "must_fail": ["connect"],
        "warn_after_ms": 1,
        "fail_after_ms": 9_999,
        "certificate_warn_days": 0,
        "certificate_min_days": 3_650,
    });
    let request = |assertions: &Value| {
        let json = json!({"url": "http://x/", "assertions": assertions}).to_string();
        CheckRequest::decode(json.as_bytes()).unwrap()
    };

    let compiled = request(&whole).validate().unwrap().assertions.unwrap();

    assert_eq!((compiled.regexes.len(), compiled.headers[0].name.as_str()), (2, "content-type"));
    assert_eq!((compiled.json.len(), compiled.certificate_warn_days), (3, 0));
    assert!(request(&json!({})).validate().unwrap().assertions.is_none());
    let mut judged = Vec::new();
    request(&whole)
        .check_validity(|field, pattern| {
            judged.push(format!("{field}={pattern}"));
            Ok(0)
        })
        .unwrap();
    judged.sort();
    assert_eq!(
        judged,
        [
            "assertions.final_url=^https:",
            "assertions.headers[0].regex=json",
            "assertions.not_regexes[0]=c",
            "assertions.regexes[0]=a",
            "assertions.regexes[1]=b",
        ]
    );
}

#[test]
fn a_value_of_null_is_a_condition_and_an_unknown_field_is_refused_by_name() {
    let compiled = HttpAssertions {
        json: vec![serde_json::from_str(r#"{"path":"$.a","not_equals":null}"#).unwrap()],
        ..HttpAssertions::default()
    };
    compiled.compile_with(1_000, crate::Pattern::compile).unwrap().unwrap();

    let json = br#"{"url":"http://x/","assertions":{"json":[{"path":"$.a","equal":1}]}}"#;
    assert!(CheckRequest::decode(json).unwrap_err().to_string().contains("assertions"));
}
