use clap::Parser;
use picket_proto::site::IntervalRange;
use serde_json::json;

use super::*;

#[derive(Parser)]
struct Both {
    #[command(flatten)]
    check: CheckOptions,
    #[command(flatten)]
    site: SiteOptions,
}

fn applied(spec: &SiteSpec, options: &[&str]) -> Result<SiteSpec, ValidationError> {
    let both = Both::try_parse_from([&["test"], options].concat()).unwrap();
    let mut spec = spec.clone();
    both.check.apply_to(&mut spec.check)?;
    both.site.apply_to(&mut spec)?;
    Ok(spec)
}

#[test]
fn options_that_are_not_given_leave_their_fields_unchanged() {
    let mut spec = SiteSpec::new("https://example.com/");
    spec.check.regex = Some("ok".into());
    spec.check.tls_verify = false;
    spec.tags = vec!["a".into()];

    let changed = applied(&spec, &["--interval", "5m", "--quorum", "2"]).unwrap();

    assert_eq!((changed.interval_seconds, changed.quorum), (300, Some(2)));
    spec.interval_seconds = 300;
    spec.quorum = Some(2);
    assert_eq!(changed, spec);
}

#[test]
fn an_empty_text_clears_what_can_be_absent() {
    let mut spec = SiteSpec::new("https://example.com/");
    let plain = spec.clone();
    spec.check.regex = Some("ok".into());
    spec.check.body = Some("x".into());
    spec.check.headers.insert("A".into(), "b".into());
    spec.check.tls_verify = false;
    spec.quorum = Some(1);
    spec.regions = vec!["eu".into()];
    let clearing = ["--regex=", "--body=", "--header=", "--tls-verify", "--quorum=", "--region="];

    assert_eq!(applied(&spec, &clearing).unwrap(), plain);
}

#[test]
fn an_option_that_makes_no_sense_is_refused_with_field_value_and_what_is_allowed() {
    let spec = SiteSpec::new("https://example.com/");
    for (option, value, field, allowed) in [
        ("--method", "BREW", "method", "GET, HEAD"),
        ("--header", "nonsense", "headers", "a colon"),
        ("--ip-version", "5", "ip_version", "any, 4, 6"),
        ("--interval", "1500ms", "interval", "whole seconds"),
        ("--quorum", "most", "quorum", "a majority"),
        ("--timeout", "1ms", "timeout_ms", "100 to 60000"),
        ("--status", "2xx", "status", "200-299,301"),
        ("--max-redirects", "-1", "max_redirects", "0 to 20"),
        ("--regex", "(", "regex", ""),
        ("--interval", "2s", "interval_seconds", "5 to 86400"),
        ("--failures", "0", "failures_to_open", "1 to 100"),
    ] {
        let refusal = applied(&spec, &[option, value])
            .and_then(|spec| spec.validate(IntervalRange::default()))
            .unwrap_err();

        assert_eq!(refusal.field, field);
        assert!(refusal.expected.contains(allowed), "{refusal}");
    }
}

#[test]
fn headers_may_be_given_several_times_but_each_once() {
    let spec = SiteSpec::new("https://example.com/");

    let two = applied(&spec, &["--header", "A: 1", "--header", "B:http://x:1"]).unwrap();
    let twice = applied(&spec, &["--header", "A: 1", "--header", "A: 2"]).unwrap_err();

    assert_eq!((two.check.headers["A"].as_str(), two.check.headers["B"].as_str()), ("1", "http://x:1"));
    assert_eq!(twice.field, "headers");
}

#[test]
fn options_of_assertions_build_all_of_them() {
    let spec = SiteSpec::new("https://example.com/");

    let changed = applied(
        &spec,
        &[
            "--assert-json=$.status == \"ok\"",
            "--assert-json=$.items length >= 1",
            "--assert-header=Content-Type =~ ^text/html",
            "--assert-header=X-Debug absent",
            "--assert-regex=a",
            "--assert-regex=-b",
            "--assert-not-regex=c",
            "--assert-body-bytes=1..100000",
            "--assert-final-url=^https:",
            "--must-fail=connect,timeout",
            "--must-fail=dns",
            "--warn-after=2s",
            "--fail-after=8s",
            "--certificate-warn-days=0",
            "--certificate-min-days=3",
        ],
    )
    .unwrap();

    let expected = json!({
        "json": [{"path": "$.status", "equals": "ok"}, {"path": "$.items", "min_length": 1}],
        "headers": [{"name": "Content-Type", "regex": "^text/html"}, {"name": "X-Debug", "absent": true}],
        "regexes": ["a", "-b"],
        "not_regexes": ["c"],
        "body_bytes": {"min": 1, "max": 100_000},
        "final_url": "^https:",
        "must_fail": ["connect", "timeout", "dns"],
        "warn_after_ms": 2_000,
        "fail_after_ms": 8_000,
        "certificate_warn_days": 0,
        "certificate_min_days": 3,
    });
    assert_eq!(serde_json::to_value(&changed.check.assertions).unwrap(), expected);
    assert!(changed.check.options.is_empty());
}

#[test]
fn options_of_credentials_and_connection_build_all_of_them() {
    let spec = SiteSpec::new("https://example.com/");
    let options =
        |arguments: &[&str]| serde_json::to_value(applied(&spec, arguments).unwrap().check.options).unwrap();

    let all = options(&[
        "--auth-basic=alice:secret:shop-password",
        "--secret-header=X-Api-Key=secret:shop-key",
        "--secret-header=X-Other=secret:other",
        "--client-certificate=shop-client",
        "--ca=inside",
        "--proxy=squid",
        "--connect-to=192.0.2.7:8443",
        "--host-header=shop.example",
        "--http-version=1.1",
    ]);

    let expected = json!({
        "auth": {"basic": {"user": "alice", "password": {"secret": "shop-password"}}},
        "secret_headers": {"X-Api-Key": {"secret": "shop-key"}, "X-Other": {"secret": "other"}},
        "client_certificate": "shop-client",
        "ca": "inside",
        "proxy": "squid",
        "connect_to": "192.0.2.7:8443",
        "host_header": "shop.example",
        "http_version": "1.1",
    });
    assert_eq!(all, expected);
    assert_eq!(options(&["--auth-bearer", "secret:t"]), json!({"auth": {"bearer": {"secret": "t"}}}));
    let oauth2 =
        "token_url=https://id.example/token?a=b client_id=shop client_secret=secret:s scopes=read,write";
    assert_eq!(
        options(&["--auth-oauth2", oauth2]),
        json!({"auth": {"oauth2": {"token_url": "https://id.example/token?a=b", "client_id": "shop",
            "client_secret": {"secret": "s"}, "scopes": ["read", "write"]}}})
    );
}

#[test]
fn an_empty_text_clears_assertions_and_connection_one_by_one() {
    let spec = SiteSpec::new("https://example.com/");
    for (given, clearing) in [
        ("--assert-json=$.a exists", "--assert-json="),
        ("--assert-header=A absent", "--assert-header="),
        ("--assert-regex=a", "--assert-regex="),
        ("--assert-not-regex=a", "--assert-not-regex="),
        ("--assert-body-bytes=1..2", "--assert-body-bytes="),
        ("--assert-final-url=a", "--assert-final-url="),
        ("--must-fail=connect", "--must-fail="),
        ("--warn-after=1s", "--warn-after="),
        ("--fail-after=1s", "--fail-after="),
        ("--certificate-warn-days=1", "--certificate-warn-days="),
        ("--certificate-min-days=1", "--certificate-min-days="),
        ("--auth-basic=a:secret:b", "--auth-bearer="),
        ("--auth-bearer=secret:b", "--auth-oauth2="),
        ("--secret-header=A=secret:b", "--secret-header="),
        ("--client-certificate=a", "--client-certificate="),
        ("--ca=a", "--ca="),
        ("--proxy=a", "--proxy="),
        ("--connect-to=192.0.2.7", "--connect-to="),
        ("--host-header=a", "--host-header="),
        ("--http-version=2", "--http-version=any"),
    ] {
        let changed = applied(&spec, &[given]).unwrap();
        assert_ne!(changed, spec, "{given}");
        assert_eq!(applied(&changed, &["--interval=60s"]).unwrap(), changed, "{given}");
        assert_eq!(applied(&changed, &[clearing]).unwrap(), spec, "{clearing}");
    }
}

#[test]
fn an_assertion_that_cannot_be_parsed_is_refused_with_its_field_and_place() {
    let spec = SiteSpec::new("https://example.com/");
    for (options, field, value, allowed) in [
        (
            &["--assert-json=$.a exists", "--assert-json=$.b == ok"][..],
            "assertions.json[1]",
            "$.b == ok",
            "double quotes",
        ),
        (&["--assert-header=A: b"], "assertions.headers[0]", "A: b", "without a colon"),
        (&["--assert-body-bytes=5"], "assertions.body_bytes", "5", "MIN..MAX"),
        (&["--must-fail=connect,conect"], "assertions.must_fail[1]", "conect", "dns, connect"),
        (&["--warn-after=2"], "assertions.warn_after_ms", "2", "800ms or 2s"),
        (&["--certificate-min-days=week"], "assertions.certificate_min_days", "week", "whole number of days"),
        (&["--http-version=3"], "options.http_version", "3", "any, 1.1, 2"),
        (
            &["--secret-header=A=secret:b", "--secret-header=A=secret:c"],
            "options.secret_headers",
            "A",
            "once",
        ),
    ] {
        let refusal = applied(&spec, options).unwrap_err();
        assert_eq!((refusal.field.as_str(), refusal.value.as_str()), (field, value), "{refusal}");
        assert!(refusal.expected.contains(allowed), "{refusal}");
    }
}

#[test]
fn a_secret_in_place_of_its_name_is_refused_and_not_repeated() {
    let spec = SiteSpec::new("https://example.com/");
    for option in [
        "--auth-basic=alice:hunter2",
        "--auth-basic=hunter2",
        "--auth-bearer=hunter2",
        "--auth-bearer=secret:",
        "--auth-oauth2=https://id.example/token shop hunter2",
        "--auth-oauth2=token_url=https://id.example/ client_id=shop client_secret=hunter2",
        "--auth-oauth2=token_url=https://id.example/ client_id=shop secret=hunter2",
        "--auth-oauth2=client_secret=secret:a client_secret=hunter2 token_url=b client_id=c",
        "--secret-header=X-Api-Key=hunter2",
        "--secret-header=X-Api-Key: hunter2",
        "--secret-header=X-Api-Key: hunter2=secret:a",
    ] {
        let refusal = applied(&spec, &[option]).unwrap_err().to_string();
        assert!(!refusal.contains("hunter2"), "{refusal}");
        assert!(refusal.starts_with("options.") && refusal.contains("secret:NAME"), "{refusal}");
    }
}

#[test]
fn only_one_kind_of_credentials_can_be_given() {
    for pair in [
        ["--auth-basic=a:secret:b", "--auth-bearer=secret:c"],
        ["--auth-bearer=secret:c", "--auth-oauth2=x"],
        ["--auth-oauth2=x", "--auth-basic=a:secret:b"],
    ] {
        assert!(Both::try_parse_from([&["test"][..], &pair].concat()).is_err(), "{pair:?}");
    }
}
