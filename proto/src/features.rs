//! Features of checks and results: the words by which a message states what its reader must know.
//!
//! A reader that skipped a feature which it does not know would report `up` for a site that was not
//! checked as defined. The field `requires` therefore names the features that a job or a result
//! uses, and is absent where there are none.

use serde::Serialize;
use serde_json::Value;

/// Features of checks that the prober of this build supports: the names of the options and
/// assertions beyond the fields that every version has.
pub const CHECK_FEATURES: &[&str] = &[
    "assertions.body_bytes",
    "assertions.certificate_min_days",
    "assertions.certificate_warn_days",
    "assertions.fail_after_ms",
    "assertions.final_url",
    "assertions.headers",
    "assertions.json",
    "assertions.must_fail",
    "assertions.not_regexes",
    "assertions.regexes",
    "assertions.warn_after_ms",
    "options.auth",
    "options.ca",
    "options.client_certificate",
    "options.connect_to",
    "options.host_header",
    "options.http_version",
    "options.proxy",
    "options.secret_headers",
];

/// Features of results that the sink of this build supports.
pub const RESULT_FEATURES: &[&str] = &[];

/// The first feature of `requires` that is not in `known`.
pub fn find_unknown<'a>(requires: &'a [String], known: &[&str]) -> Option<&'a str> {
    requires.iter().map(String::as_str).find(|feature| !known.contains(feature))
}

/// The names of the fields that differ from their default, which alone are serialized.
pub(crate) fn list_fields(prefix: &str, object: &impl Serialize) -> Vec<String> {
    match serde_json::to_value(object) {
        Ok(Value::Object(fields)) => fields.keys().map(|name| format!("{prefix}.{name}")).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use schemars::schema_for;

    use super::*;
    use crate::{CheckRequest, HttpAssertions, HttpOptions};

    #[test]
    fn a_check_uses_the_features_of_the_fields_that_it_sets() {
        let request: CheckRequest = serde_json::from_str(
            r#"{"url":"http://x/","options":{"http_version":"any","host_header":"x"},
                "assertions":{"json":[{"path":"$.a","exists":true}],"warn_after_ms":0}}"#,
        )
        .unwrap();

        assert_eq!(
            request.used_features(),
            ["options.host_header", "assertions.json", "assertions.warn_after_ms"]
        );
        assert!(CheckRequest::new("http://x/").used_features().is_empty());
    }

    #[test]
    fn every_supported_feature_is_a_field_of_options_or_assertions() {
        let schemas = [("options", schema_for!(HttpOptions)), ("assertions", schema_for!(HttpAssertions))];
        let fields: Vec<String> = schemas
            .iter()
            .flat_map(|(prefix, schema)| {
                let fields = schema.get("properties").and_then(Value::as_object).unwrap();
                fields.keys().map(move |name| format!("{prefix}.{name}"))
            })
            .collect();

        assert!(fields.len() > 10, "{fields:?}");
        for feature in CHECK_FEATURES {
            assert!(fields.iter().any(|field| field == feature), "{feature}: there are {fields:?}");
        }
    }

    #[test]
    fn the_first_unknown_feature_is_named() {
        let requires = ["a.b".to_owned(), "future".to_owned(), "later".to_owned()];

        assert_eq!(find_unknown(&requires, &["a.b"]), Some("future"));
        assert_eq!(find_unknown(&requires[..1], &["a.b"]), None);
    }
}
