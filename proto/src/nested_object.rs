//! Decoding of the objects within a request and a site: options and assertions.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{ValidationError, suggestion::describe_known_names};

/// Shown in place of a value that may be a secret.
pub const HIDDEN_VALUE: &str = "(hidden)";

/// Decodes the object in the field `field`.
///
/// # Errors
/// If the value does not have the form of a `T`. The error names the field within the object and
/// repeats no value, because people write secrets where names belong.
pub fn decode_object<T: DeserializeOwned>(field: &str, value: &Value) -> Result<T, ValidationError> {
    serde_path_to_error::deserialize(value).map_err(|why| {
        let path = why.path().to_string();
        let field = match path.as_str() {
            // The path of the object itself.
            "." => field.to_owned(),
            path => format!("{field}.{path}"),
        };
        ValidationError::new(field, HIDDEN_VALUE, describe_serde_message(&why.inner().to_string()))
    })
}

/// What is allowed, from a message of serde, without the value that the message repeats.
pub(crate) fn describe_serde_message(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown field `")
        && let Some((name, rest)) = rest.split_once('`')
    {
        // Names alternate with the text between them.
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        return describe_known_names(name, &known);
    }
    if message.starts_with("missing field ") || message.starts_with("duplicate field ") {
        return message.to_owned();
    }
    // The value comes first, so the last "expected" is serde's.
    match message.rsplit_once("expected ") {
        Some((_, expected)) => expected.to_owned(),
        None => "a value of another form".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{HttpAssertions, HttpOptions};

    #[test]
    fn a_refusal_names_the_nested_field_and_what_is_allowed_and_no_value() {
        let options = [
            (json!({"auth": {"bearer": "hunter2"}}), "options.auth.bearer", "{\"secret\": NAME}"),
            (json!({"auth": "hunter2"}), "options.auth", "`basic`, `bearer`, `oauth2`"),
            (
                json!({"auth": {"bearer": {"token": "hunter2"}}}),
                "options.auth.bearer.token",
                "there are secret",
            ),
            (
                json!({"secret_headers": {"X-Key": "hunter2"}}),
                "options.secret_headers.X-Key",
                "{\"secret\": NAME}",
            ),
            (json!({"conect_to": "hunter2"}), "options.conect_to", "did you mean 'connect_to'"),
            (json!({"http_version": "hunter2"}), "options.http_version", "`any`, `1.1`, `2`"),
            (json!("hunter2"), "options", "an object"),
        ];
        for (value, field, allowed) in options {
            let refusal = decode_object::<HttpOptions>("options", &value).unwrap_err();
            assert_eq!(refusal.field, field, "{refusal}");
            assert!(refusal.expected.contains(allowed), "{refusal}");
            assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
        }
        let assertions = [
            (
                json!({"json": [{"path": "$", "equal": 1}]}),
                "assertions.json[0].equal",
                "did you mean 'equals'",
            ),
            (json!({"regexes": "ok"}), "assertions.regexes", "a sequence"),
            (json!({"must_fail": ["conect"]}), "assertions.must_fail[0]", "`connect`"),
            (json!({"warn_after": "2s"}), "assertions.warn_after", "did you mean 'warn_after_ms'"),
        ];
        for (value, field, allowed) in assertions {
            let refusal = decode_object::<HttpAssertions>("assertions", &value).unwrap_err();
            assert_eq!(refusal.field, field, "{refusal}");
            assert!(refusal.expected.contains(allowed), "{refusal}");
        }
    }
}
