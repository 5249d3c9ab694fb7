//! Descriptions of parts of a response for messages: the value if it is short and cannot be a
//! secret, else its shape.

use picket_proto::{
    json_path::{NodeRef, NodeValue},
    validation::sanitize_text,
};
use picket_runtime::redact;
use reqwest::header::HeaderValue;
use url::Url;

/// Maximum length of a value in a message, in bytes.
const MAX_VALUE_BYTES: usize = 64;
/// Length from which a text of letters and digits may be a token.
const MIN_TOKEN_BYTES: usize = 16;
/// Parts of names whose values are secrets.
const SECRET_NAMES: [&str; 12] = [
    "auth",
    "cookie",
    "credential",
    "csrf",
    "jwt",
    "key",
    "passw",
    "pin",
    "secret",
    "session",
    "signature",
    "token",
];

/// Returns true if the value of `name` may be a secret by its name.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|part| match *part {
        // Short words are part of harmless ones, such as monkey and shipping.
        "key" | "pin" => {
            name.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| word.ends_with(part))
        }
        part => name.contains(part),
    })
}

/// Returns true if a part of `text` looks like a token: a long word with letters and digits.
fn has_token(text: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "+/_-=.".contains(letter);
    text.split(|letter| !is_part(letter)).any(|word| {
        word.len() >= MIN_TOKEN_BYTES
            && word.bytes().any(|byte| byte.is_ascii_digit())
            && word.bytes().any(|byte| byte.is_ascii_alphabetic())
    })
}

fn is_presentable(name: &str, text: &str) -> bool {
    text.len() <= MAX_VALUE_BYTES && !is_secret_name(name) && !has_token(text)
}

/// Description of a JSON value, selected by `name`.
pub(super) fn describe_node(node: NodeRef<'_>, name: &str) -> String {
    match node.value() {
        NodeValue::Null => "null".to_owned(),
        NodeValue::Bool(value) => value.to_string(),
        NodeValue::Number(_) if is_secret_name(name) => "a number".to_owned(),
        NodeValue::Number(number) => format!("the number {number}"),
        NodeValue::Text(text) if is_presentable(name, text) => {
            format!("\"{}\"", sanitize_text(&redact(text), MAX_VALUE_BYTES))
        }
        NodeValue::Text(text) => format!("a text of {} characters", text.chars().count()),
        NodeValue::Array(length) => format!("an array of {length} items"),
        NodeValue::Object(length) => format!("an object of {length} members"),
    }
}

/// Description of the values of a header.
pub(super) fn describe_header(name: &str, values: &[&HeaderValue]) -> String {
    let Some(first) = values.first() else { return format!("no header {name}") };
    let value = match std::str::from_utf8(first.as_bytes()) {
        Ok(text) if is_presentable(name, text) => {
            format!("'{}'", sanitize_text(&redact(text), MAX_VALUE_BYTES))
        }
        _ => format!("a value of {} bytes", first.len()),
    };
    match values.len() {
        1 => value,
        count => format!("{value} and {} more", count - 1),
    }
}

/// Description of a URL without its query, which may have secrets.
pub(super) fn describe_url(text: &str) -> String {
    let Ok(url) = Url::parse(text) else { return format!("a URL of {} bytes", text.len()) };
    let (origin, path) = (url.origin().ascii_serialization(), url.path());
    match path.len() <= MAX_VALUE_BYTES && !has_token(path) {
        true => sanitize_text(&redact(&format!("{origin}{path}")), 2 * MAX_VALUE_BYTES),
        false => sanitize_text(&format!("a URL of {} bytes at {origin}", text.len()), 2 * MAX_VALUE_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::json_path::JsonDocument;

    use super::*;

    #[test]
    fn a_value_is_shown_if_it_is_short_and_cannot_be_a_secret() {
        let described = |name: &str, json: &str| {
            let document = JsonDocument::parse(json.as_bytes()).unwrap();
            describe_node(document.root(), name)
        };
        for (name, json, expected) in [
            ("status", r#""down""#, "\"down\""),
            ("status", "null", "null"),
            ("count", "12.5", "the number 12.5"),
            ("apiKey", r#""short""#, "a text of 5 characters"),
            ("session_id", "123456", "a number"),
            ("monkeys", r#""two""#, "\"two\""),
            ("shipping", r#""done""#, "\"done\""),
            ("value", r#""eyJhbGciOiJIUzI1NiJ9.e30""#, "a text of 24 characters"),
            ("value", r#""Bearer abcdefghijklmnop1""#, "a text of 24 characters"),
            ("at", r#""2026-11-20T12:00:00Z""#, "\"2026-11-20T12:00:00Z\""),
            ("a", &format!("{:?}", "é".repeat(33)), "a text of 33 characters"),
            ("a", "[1,2]", "an array of 2 items"),
            ("a", r#"{"password":"x"}"#, "an object of 1 members"),
        ] {
            assert_eq!(described(name, json), expected, "{name} {json}");
        }
        let value = HeaderValue::from_static("no-store");
        assert_eq!(describe_header("cache-control", &[&value, &value]), "'no-store' and 1 more");
        assert_eq!(describe_header("set-cookie", &[&value]), "a value of 8 bytes");
        assert_eq!(describe_header("x", &[&HeaderValue::from_bytes(b"\xff").unwrap()]), "a value of 1 bytes");
        assert_eq!(describe_url("https://a.example/login?token=1"), "https://a.example/login");
        assert_eq!(
            describe_url("https://a.example/reset/abcdefgh12345678"),
            "a URL of 40 bytes at https://a.example"
        );
    }
}
