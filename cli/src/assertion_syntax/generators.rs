//! Generators of valid assertions and options for property tests.

use picket_proto::{
    Cause, HttpAssertions, HttpOptions,
    http_assertions::{ByteRange, HeaderAssertion, JsonAssertion},
    http_options::{Auth, HttpVersion, SecretRef},
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::Value;

/// Regexes, with what a file or a shell may misread.
const REGEXES: &[&str] = &[
    "ok",
    "^text/html(; |$)",
    "\\d+\\s",
    "yes",
    "~",
    "'a' \"b\"",
    "# no",
    "- x: y",
    "\\{\"a\": ?1\\}",
    "ü€",
    "null",
    "1.0",
];
const PATHS: &[&str] = &["$", "$.a.b", "$..ü", "$['x == \"1\" exists']", "$[?@.a > 1 && @['b]'] == 'c'].d"];

fn any_regex() -> impl Strategy<Value = String> {
    select(REGEXES).prop_map(str::to_owned)
}

/// A value of JSON, up to three levels deep.
fn any_value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![any::<i64>().prop_map(Value::from), (-1e300..1e300).prop_map(Value::from)];
    let text = prop_oneof![any_regex(), ".{0,8}"].prop_map(Value::from);
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number, text];
    leaf.prop_recursive(2, 9, 3, |inner| {
        let fields = prop::collection::btree_map(".{0,4}", inner.clone(), 0..3);
        prop_oneof![vec(inner, 0..3).prop_map(Value::from), fields.prop_map(Value::from_iter)]
    })
}

/// An assertion about JSON, with one condition.
pub(crate) fn any_json_assertion() -> impl Strategy<Value = JsonAssertion> {
    let path = select(PATHS).prop_map(str::to_owned);
    (path, 0..9, any_value(), -1e18..1e18, any_regex(), 0..1_000_u64).prop_map(
        |(path, condition, value, number, regex, length)| {
            let mut assertion = JsonAssertion { path, ..JsonAssertion::default() };
            match condition {
                0 => assertion.equals = Some(value),
                1 => assertion.not_equals = Some(value),
                2 => assertion.less_than = Some(number),
                3 => assertion.greater_than = Some(number),
                4 => assertion.matches = Some(regex),
                5 => assertion.exists = Some(true),
                6 => assertion.absent = Some(true),
                7 => assertion.min_length = Some(length),
                _ => assertion.max_length = Some(length),
            }
            assertion
        },
    )
}

/// An assertion about a header, with one condition.
pub(crate) fn any_header_assertion() -> impl Strategy<Value = HeaderAssertion> {
    ("[!#-&*-+a-zA-Z0-9~.-]{1,12}", any_regex(), 0..3).prop_map(|(name, regex, condition)| {
        let mut header = HeaderAssertion { name, ..HeaderAssertion::default() };
        match condition {
            0 => header.regex = Some(regex),
            1 => header.not_regex = Some(regex),
            _ => header.absent = Some(true),
        }
        header
    })
}

/// Assertions that a site may have.
pub(crate) fn any_assertions() -> impl Strategy<Value = HttpAssertions> {
    let must_fail =
        vec(select(&[Cause::Dns, Cause::Connect, Cause::Tls, Cause::Timeout, Cause::Status][..]), 1..3)
            .prop_map(|mut causes| {
                causes.sort();
                causes.dedup();
                HttpAssertions { must_fail: causes, ..HttpAssertions::default() }
            });
    let bounds = (0..100_u64, 100..1_000_000_u64, 0..3).prop_map(|(min, max, bounds)| ByteRange {
        min: (bounds != 1).then_some(min),
        max: (bounds != 0).then_some(max),
    });
    let lists = (
        vec(any_regex(), 0..3),
        vec(any_regex(), 0..3),
        vec(any_header_assertion(), 0..3),
        vec(any_json_assertion(), 0..4),
    );
    let limits = (
        option::of(bounds),
        option::of(any_regex()),
        option::of(100..4_000_i64),
        option::of(4_000..9_000_i64),
        option::of(14..60_i64),
        option::of(1..14_i64),
    );
    let response = (lists, limits).prop_map(
        |((regexes, not_regexes, headers, json), (bytes, url, warn, fail, warn_days, min_days))| {
            HttpAssertions {
                regexes,
                not_regexes,
                headers,
                json,
                body_bytes: bytes,
                final_url: url,
                must_fail: Vec::new(),
                warn_after_ms: warn,
                fail_after_ms: fail,
                certificate_warn_days: warn_days,
                certificate_min_days: min_days,
            }
        },
    );
    prop_oneof![4 => response, 1 => must_fail]
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,20}[a-z0-9]"
}

/// Options that a site with an https URL may have.
pub(crate) fn any_options() -> impl Strategy<Value = HttpOptions> {
    let secret = || any_name().prop_map(|secret| SecretRef { secret });
    let auth = prop_oneof![
        (any_name(), secret()).prop_map(|(user, password)| Auth::Basic { user, password }),
        secret().prop_map(Auth::Bearer),
        (any_name(), secret(), vec(any_name(), 0..3)).prop_map(|(client_id, client_secret, scopes)| {
            Auth::Oauth2 {
                token_url: "https://id.example/token?a=b".to_owned(),
                client_id,
                client_secret,
                scopes,
            }
        }),
    ];
    let headers = prop::collection::btree_map("X-[A-Z][a-z]{1,6}", secret(), 0..3);
    let to = select(&["192.0.2.7", "192.0.2.7:8443", "[2001:db8::1]:443", "origin.example:8443"][..]);
    let version = select(&[HttpVersion::Any, HttpVersion::Http1, HttpVersion::Http2][..]);
    let names = (option::of(any_name()), option::of(any_name()), option::of(any_name()));
    (option::of(auth), headers, option::of(to), option::of(any_name()), names, version).prop_map(
        |(auth, secret_headers, connect_to, host_header, (client_certificate, ca, proxy), http_version)| {
            HttpOptions {
                auth,
                secret_headers,
                // A proxy connects by itself.
                connect_to: connect_to.filter(|_| proxy.is_none()).map(str::to_owned),
                host_header,
                client_certificate,
                ca,
                proxy,
                http_version,
            }
        },
    )
}
