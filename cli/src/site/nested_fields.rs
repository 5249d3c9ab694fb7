//! Options and assertions of a check as lines of text: one for each field, and one for each entry
//! of a list.

use picket_proto::{
    CheckRequest, HttpAssertions, HttpOptions,
    http_options::{Auth, SecretRef},
};
use serde_json::{Map, Value};

use crate::assertion_syntax::{format_byte_range, format_header, format_json};

/// A field within `options` or `assertions`, with the text of one value.
pub(crate) type FieldLine = (String, String);

/// Lines of the options and assertions of `check`. Fields at their default have none.
pub(crate) fn describe_nested_fields(check: &CheckRequest) -> Vec<FieldLine> {
    let mut lines = describe_fields("options", describe_options(&check.options));
    lines.extend(describe_fields("assertions", describe_assertions(&check.assertions)));
    lines
}

/// Texts of a field, in the order of the list if the field has one.
type FieldTexts = (&'static str, Vec<String>);

fn describe_fields<const N: usize>(object: &str, fields: [FieldTexts; N]) -> Vec<FieldLine> {
    let lines = |(field, texts): FieldTexts| {
        let name = format!("{object}.{field}");
        texts.into_iter().map(move |text| (name.clone(), text))
    };
    fields.into_iter().flat_map(lines).collect()
}

fn describe_options(options: &HttpOptions) -> [FieldTexts; 8] {
    // A new field does not compile until it has a line.
    let HttpOptions {
        auth,
        secret_headers,
        connect_to,
        host_header,
        client_certificate,
        ca,
        proxy,
        http_version,
    } = options;
    let version = match http_version.is_any() {
        true => Vec::new(),
        false => serde_json::to_value(http_version).ok().and_then(to_text).into_iter().collect(),
    };
    let headers = secret_headers.iter().map(|(name, secret)| format!("{name}={}", format_secret(secret)));
    [
        ("auth", auth.iter().map(format_auth).collect()),
        ("secret_headers", headers.collect()),
        ("connect_to", connect_to.iter().cloned().collect()),
        ("host_header", host_header.iter().cloned().collect()),
        ("client_certificate", client_certificate.iter().cloned().collect()),
        ("ca", ca.iter().cloned().collect()),
        ("proxy", proxy.iter().cloned().collect()),
        ("http_version", version),
    ]
}

fn describe_assertions(assertions: &HttpAssertions) -> [FieldTexts; 11] {
    let HttpAssertions {
        regexes,
        not_regexes,
        headers,
        json,
        body_bytes,
        final_url,
        must_fail,
        warn_after_ms,
        fail_after_ms,
        certificate_warn_days,
        certificate_min_days,
    } = assertions;
    let number = |number: &Option<i64>| number.iter().map(ToString::to_string).collect();
    [
        ("json", json.iter().map(format_json).collect()),
        ("headers", headers.iter().map(format_header).collect()),
        ("regexes", regexes.clone()),
        ("not_regexes", not_regexes.clone()),
        ("body_bytes", body_bytes.iter().map(|range| format_byte_range(*range)).collect()),
        ("final_url", final_url.iter().cloned().collect()),
        ("must_fail", must_fail.iter().map(ToString::to_string).collect()),
        ("warn_after_ms", number(warn_after_ms)),
        ("fail_after_ms", number(fail_after_ms)),
        ("certificate_warn_days", number(certificate_warn_days)),
        ("certificate_min_days", number(certificate_min_days)),
    ]
}

/// Credentials in the form of the command line.
fn format_auth(auth: &Auth) -> String {
    match auth {
        Auth::Basic { user, password } => format!("basic {user}:{}", format_secret(password)),
        Auth::Bearer(secret) => format!("bearer {}", format_secret(secret)),
        Auth::Oauth2 { token_url, client_id, client_secret, scopes } => {
            let secret = format_secret(client_secret);
            let scopes = match scopes.is_empty() {
                true => String::new(),
                false => format!(" scopes={}", scopes.join(",")),
            };
            format!("oauth2 token_url={token_url} client_id={client_id} client_secret={secret}{scopes}")
        }
    }
}

fn format_secret(secret: &SecretRef) -> String {
    format!("secret:{}", secret.secret)
}

fn to_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Removes `options` and `assertions` from `definition` if nothing is set in them.
pub(crate) fn remove_empty_objects(definition: &mut Map<String, Value>) {
    for name in ["options", "assertions"] {
        if definition.get(name).and_then(Value::as_object).is_some_and(Map::is_empty) {
            definition.remove(name);
        }
    }
}

/// One change of a field from a list of texts to another, as lines `+ text` and `- text`, or as
/// `before → after` if there is at most one text on each side.
pub(crate) fn diff_nested_fields(before: &[FieldLine], after: &[FieldLine]) -> Vec<FieldLine> {
    let mut names: Vec<&String> = before.iter().chain(after).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .flat_map(|name| diff_field(name, &texts_of(before, name), &texts_of(after, name)))
        .collect()
}

fn texts_of<'a>(lines: &'a [FieldLine], name: &str) -> Vec<&'a str> {
    lines.iter().filter(|(field, _)| field == name).map(|(_, text)| text.as_str()).collect()
}

fn diff_field(name: &str, before: &[&str], after: &[&str]) -> Vec<FieldLine> {
    let line = |text: String| (name.to_owned(), text);
    match (before, after) {
        _ if before == after => Vec::new(),
        ([], [only]) => vec![line(format!("none → {only}"))],
        ([only], []) => vec![line(format!("{only} → none"))],
        ([old], [new]) => vec![line(format!("{old} → {new}"))],
        _ => {
            let removed = subtract(before, after).into_iter().map(|text| line(format!("- {text}")));
            let added = subtract(after, before).into_iter().map(|text| line(format!("+ {text}")));
            let mut lines: Vec<FieldLine> = removed.chain(added).collect();
            if lines.is_empty() {
                lines.push(line("the same in another order".to_owned()));
            }
            lines
        }
    }
}

/// The texts of `all` without those of `other`, each as often as it occurs.
fn subtract<'a>(all: &[&'a str], other: &[&str]) -> Vec<&'a str> {
    let mut other = other.to_vec();
    let is_extra = |text: &&&str| match other.iter().position(|there| there == *text) {
        Some(position) => {
            other.swap_remove(position);
            false
        }
        None => true,
    };
    all.iter().filter(is_extra).copied().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(options: Value, assertions: Value) -> Vec<FieldLine> {
        describe_nested_fields(&CheckRequest {
            options: serde_json::from_value(options).unwrap(),
            assertions: serde_json::from_value(assertions).unwrap(),
            ..CheckRequest::new("https://example.com/")
        })
    }

    fn text(lines: &[FieldLine]) -> String {
        lines.iter().map(|(name, text)| format!("{name}: {text}\n")).collect()
    }

    #[test]
    fn only_what_is_set_has_a_line_in_the_form_of_the_command_line() {
        assert_eq!(lines(json!({}), json!({})), []);
        let all = lines(
            json!({"auth": {"oauth2": {"token_url": "https://id.example/", "client_id": "shop",
                       "client_secret": {"secret": "s"}, "scopes": ["a", "b"]}},
                   "secret_headers": {"X-Key": {"secret": "k"}}, "http_version": "2", "ca": "inside"}),
            json!({"json": [{"path": "$.a", "equals": null}, {"path": "$.b", "exists": true}],
                   "headers": [{"name": "Server", "absent": true}], "body_bytes": {"min": 1},
                   "must_fail": ["connect", "timeout"], "warn_after_ms": 2000}),
        );

        let expected = "\
options.auth: oauth2 token_url=https://id.example/ client_id=shop client_secret=secret:s scopes=a,b
options.secret_headers: X-Key=secret:k
options.ca: inside
options.http_version: 2
assertions.json: $.a == null
assertions.json: $.b exists
assertions.headers: Server absent
assertions.body_bytes: 1..
assertions.must_fail: connect
assertions.must_fail: timeout
assertions.warn_after_ms: 2000
";
        assert_eq!(text(&all), expected);
    }

    #[test]
    fn a_difference_names_what_was_added_removed_and_replaced() {
        let before = lines(
            json!({"auth": {"bearer": {"secret": "a"}}, "connect_to": "192.0.2.7"}),
            json!({"regexes": ["a", "b", "b"], "not_regexes": ["x", "y"], "warn_after_ms": 2000}),
        );
        let after = lines(
            json!({"auth": {"bearer": {"secret": "b"}}}),
            json!({"regexes": ["b", "c"], "not_regexes": ["y", "x"], "warn_after_ms": 2000,
                   "json": [{"path": "$.a", "exists": true}]}),
        );

        let expected = "\
assertions.json: none → $.a exists
assertions.not_regexes: the same in another order
assertions.regexes: - a
assertions.regexes: - b
assertions.regexes: + c
options.auth: bearer secret:a → bearer secret:b
options.connect_to: 192.0.2.7 → none
";
        assert_eq!(text(&diff_nested_fields(&before, &after)), expected);
        assert_eq!(diff_nested_fields(&after, &after), []);
    }
}
