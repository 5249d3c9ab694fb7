use proptest::prelude::*;
use serde_json::json;

use super::{
    generators::{any_header_assertion, any_json_assertion},
    *,
};

fn json_of(path: &str) -> JsonAssertion {
    JsonAssertion { path: path.to_owned(), ..JsonAssertion::default() }
}

#[test]
fn a_json_assertion_is_a_path_an_operator_and_a_value() {
    let cases = [
        (r#"$.status == "ok""#, JsonAssertion { equals: Some(json!("ok")), ..json_of("$.status") }),
        ("$.n==1", JsonAssertion { equals: Some(json!(1)), ..json_of("$.n") }),
        ("$.n != null", JsonAssertion { not_equals: Some(Value::Null), ..json_of("$.n") }),
        ("$.n < 5", JsonAssertion { less_than: Some(5.0), ..json_of("$.n") }),
        ("$.n>-1.5e3", JsonAssertion { greater_than: Some(-1500.0), ..json_of("$.n") }),
        ("$.v =~ ^2\\.(3|4) $", JsonAssertion { matches: Some("^2\\.(3|4) $".into()), ..json_of("$.v") }),
        ("$ exists", JsonAssertion { exists: Some(true), ..json_of("$") }),
        ("  $.errors absent ", JsonAssertion { absent: Some(true), ..json_of("$.errors") }),
        ("$.list length >= 1", JsonAssertion { min_length: Some(1), ..json_of("$.list") }),
        ("$.list length <=9", JsonAssertion { max_length: Some(9), ..json_of("$.list") }),
        (
            "$[?@.a == 1 && @.b > 2].c exists",
            JsonAssertion { exists: Some(true), ..json_of("$[?@.a == 1 && @.b > 2].c") },
        ),
        ("$['a]\\' exists'] absent", JsonAssertion { absent: Some(true), ..json_of("$['a]\\' exists']") }),
        ("$ .a [0] exists", JsonAssertion { exists: Some(true), ..json_of("$ .a [0]") }),
        (
            "$..a == [1, {\"b\": null}]",
            JsonAssertion { equals: Some(json!([1, {"b": null}])), ..json_of("$..a") },
        ),
    ];
    for (text, assertion) in cases {
        assert_eq!(parse_json(text), Ok(assertion), "{text}");
    }
}

#[test]
fn a_json_assertion_that_cannot_be_parsed_is_answered_with_what_is_allowed_there() {
    for (text, allowed) in [
        ("", "begins with $"),
        ("status == 1", "begins with $"),
        ("$.status", "one of these after the path $.status: == VALUE"),
        ("$.status is ok", "one of these after the path $.status: =="),
        ("$.status = 1", "one of these after the path $.status: =="),
        ("$.status == ok", "a text in double quotes"),
        ("$.status ==", "a JSON value after =="),
        ("$.status != 'ok'", "a JSON value after !="),
        ("$.n < many", "a number after <"),
        ("$.n > inf", "a number after >"),
        ("$.n >= 3", "length >= 1"),
        ("$.v =~", "a regular expression"),
        ("$.v exists now", "nothing after 'exists'"),
        ("$.list length > 1", "'length >= NUMBER'"),
        ("$.list length >= -1", "with a whole number"),
        ("$[0 == 1", "'[' is closed"),
        ("$['a == 1", "' is closed"),
    ] {
        let refusal = parse_json(text).unwrap_err();
        assert!(refusal.contains(allowed), "{text}: {refusal}");
    }
}

#[test]
fn a_header_assertion_is_a_name_and_a_condition() {
    let of = |name: &str| HeaderAssertion { name: name.to_owned(), ..HeaderAssertion::default() };
    for (text, assertion) in [
        (
            "Content-Type =~ ^text/html",
            HeaderAssertion { regex: Some("^text/html".into()), ..of("Content-Type") },
        ),
        ("Content-Type=~a = b", HeaderAssertion { regex: Some("a = b".into()), ..of("Content-Type") }),
        (
            "Cache-Control !~ no-store",
            HeaderAssertion { not_regex: Some("no-store".into()), ..of("Cache-Control") },
        ),
        ("X-Debug absent", HeaderAssertion { absent: Some(true), ..of("X-Debug") }),
    ] {
        assert_eq!(parse_header(text), Ok(assertion), "{text}");
    }
    for (text, allowed) in [
        ("", "a header's name"),
        ("Content-Type: text/html", "without a colon"),
        ("Content-Type", "one of these after the name Content-Type: =~ REGEX"),
        ("Content-Type == text/html", "=~ REGEX, !~ REGEX, absent"),
        ("Content-Type =~", "a regular expression"),
        ("X-Debug absent here", "=~ REGEX, !~ REGEX, absent"),
    ] {
        let refusal = parse_header(text).unwrap_err();
        assert!(refusal.contains(allowed), "{text}: {refusal}");
    }
}

#[test]
fn a_range_of_sizes_has_one_bound_or_two() {
    for (text, min, max) in
        [("1..100000", Some(1), Some(100_000)), ("1..", Some(1), None), (" ..64KiB", None, Some(65_536))]
    {
        let range = ByteRange { min, max };
        assert_eq!(parse_byte_range(text), Ok(range), "{text}");
        assert_eq!(parse_byte_range(&format_byte_range(range)), Ok(range), "{text}");
    }
    for text in ["", "..", "5", "a..b", "-1..5", "1..2..3"] {
        assert!(parse_byte_range(text).unwrap_err().contains("MIN..MAX"), "{text}");
    }
}

proptest! {
    #[test]
    fn a_formatted_assertion_is_parsed_back_unchanged(
        json in any_json_assertion(), header in any_header_assertion(),
    ) {
        prop_assert_eq!(parse_json(&format_json(&json)), Ok(json));
        prop_assert_eq!(parse_header(&format_header(&header)), Ok(header));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "[$.\\[\\]'\"\\\\=~<>! a-c0-9ü]{0,24}") {
        let _ = parse_json(&text);
        let _ = parse_header(&text);
        let _ = parse_byte_range(&text);
        let _ = parse_json(&format!("$.a {text}"));
    }
}
