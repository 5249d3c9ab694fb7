use super::*;
use crate::http_assertions::HeaderAssertion;

fn refusal(json: &str) -> ValidationError {
    CheckRequest::decode(json.as_bytes()).and_then(|request| request.validate().map(|_| ())).unwrap_err()
}

#[test]
fn a_request_needs_only_its_url() {
    let request = CheckRequest::decode(br#"{"url":"https://example.com"}"#).unwrap();

    assert_eq!(request, CheckRequest::new("https://example.com"));
    assert_eq!(request.validate().unwrap().timeout.as_secs(), 10);
    assert_eq!(request.scheduled_tick().unwrap(), None);
}

#[test]
fn an_error_names_field_value_and_allowed_values() {
    let cases = [
        (r#"{"url":"ftp://x"}"#, "url", "ftp://x", "http or https"),
        (r#"{"url":"http://x","timeout_ms":5}"#, "timeout_ms", "5", "100 to 60000"),
        (r#"{"url":"http://x","timeout_ms":"5s"}"#, "timeout_ms", "\"5s\"", "whole number"),
        (r#"{"url":"http://x","timeout_ms":1.5}"#, "timeout_ms", "1.5", "whole number"),
        (r#"{"url":"http://x","headers":{"A":1}}"#, "headers", "{\"A\":1}", "object of texts"),
        (r#"{"url":"http://x","headers":{"Host":"y"}}"#, "headers", "Host", "no header of the connection"),
        (
            r#"{"url":"http://x","headers":{"X-Key":"hunter2","x-key":"hunter3"}}"#,
            "headers",
            "x-key",
            "each header once, in any case",
        ),
        (r#"{"url":"http://x","timout_ms":500}"#, "timout_ms", "500", "did you mean 'timeout_ms'"),
        (r#"{"ulr":"http://x"}"#, "ulr", "\"http://x\"", "did you mean 'url'"),
        (r#"{"url":"http://x","timeout":5}"#, "timeout", "5", "did you mean 'timeout_ms'"),
        (r#"{"url":"http://x","verify_tls":false}"#, "verify_tls", "false", "did you mean 'tls_verify'"),
        (r#"{"url":"http://x","Regexp":"a"}"#, "Regexp", "\"a\"", "did you mean 'regex'"),
        (r#"{"url":"http://x","redirects":1}"#, "redirects", "1", "did you mean 'max_redirects'"),
        (r#"{"url":"http://x","url":"http://y"}"#, "url", "http://y", "the field given once"),
        (r#"{"url":"http://x","x":1}"#, "x", "1", "there are url, method"),
        (r#"{"url":"http://x","colour":1}"#, "colour", "1", "there are url, method"),
        (r#"{"url":"http://x","ip_version":"5"}"#, "ip_version", "\"5\"", "\"any\""),
        (r#"{"url":"http://x","status":"2xx"}"#, "status", "2xx", "200-299,301"),
        (r#"{"url":"http://x","regex":"("}"#, "regex", "(", "unclosed group"),
        (
            r#"{"url":"http://x","options":{"auth":{"bearer":"t"}}}"#,
            "options.auth.bearer",
            "(hidden)",
            "NAME",
        ),
        (
            r#"{"url":"http://x","options":{"proxi":"t"}}"#,
            "options.proxi",
            "(hidden)",
            "did you mean 'proxy'",
        ),
        (r#"{"url":"http://x","assertions":"x"}"#, "assertions", "(hidden)", "an object"),
        (r#"{"url":"http://x","method":"BREW"}"#, "method", "BREW", "GET"),
        ("{}", "url", "(absent)", "such as"),
        ("https://example.com", "request", "https://example.com", "JSON object"),
        (r#"["http://x"]"#, "request", "[\"http://x\"]", "JSON object"),
        ("", "request", "", "JSON object"),
    ];
    for (json, field, value, allowed) in cases {
        let refusal = refusal(json);
        assert_eq!((refusal.field.as_str(), refusal.value.as_str()), (field, value), "{json}");
        assert!(refusal.expected.contains(allowed), "{json}: {}", refusal.expected);
    }
}

#[test]
fn a_scheduled_request_may_have_fields_of_a_newer_version_but_must_have_its_tick() {
    let json = r#"{"v":2,"site_id":1,"kind":"scheduled","scheduled_at":"2026-11-20T12:00:00.000000Z",
        "expires_at":"2026-11-20T12:01:00.000000Z","shard":3,"epoch":9,"url":"http://x","new":[1]}"#;
    let request = CheckRequest::decode(json.as_bytes()).unwrap();

    assert_eq!(request.scheduled_tick().unwrap().unwrap().shard, Shard(3));
    let without = CheckRequest { shard: None, ..request };
    assert_eq!(without.scheduled_tick().unwrap_err().field, "shard");
}

#[test]
fn an_error_never_repeats_a_header_value() {
    let refusal = refusal(r#"{"url":"http://x","headers":{"Authorization":"secret\n"}}"#);

    assert_eq!(refusal.field, "headers.Authorization");
    assert!(!refusal.to_string().contains("secret"));
}

#[test]
fn regexes_that_are_too_large_together_are_refused_with_their_field_size_and_limit() {
    let mut numbers = 0..;
    let mut many = || (&mut numbers).take(16).map(|number| format!(r"{number}\w{{17}}")).collect::<Vec<_>>();
    let mut request = CheckRequest::new("http://x");
    (request.assertions.regexes, request.assertions.not_regexes) = (many(), many());
    request.validate().unwrap();
    let headers = many().into_iter().map(|regex| HeaderAssertion {
        name: "a".to_owned(),
        regex: Some(regex),
        ..HeaderAssertion::default()
    });
    request.assertions.headers = headers.collect();

    let compiled = request.validate().unwrap_err();
    // A caller that only judges regexes states their sizes.
    let mut judged = 0;
    let judging = request.check_validity(|_, _| {
        judged += 1;
        Ok(MAX_CHECK_BYTES / 20)
    });

    assert!(compiled.field.starts_with("assertions.not_regexes["), "{compiled}");
    let judging = judging.unwrap_err();
    assert_eq!((judging.field.as_str(), judged), ("assertions.regexes[4]", 21));
    assert_eq!(judging.value, "(with the regexes before it 35232141 bytes)");
    assert_eq!(judging.expected, "regexes of one check that compile to at most 33554432 bytes in all");
}
