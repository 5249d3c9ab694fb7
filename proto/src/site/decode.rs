//! Decoding of a site from JSON, with errors that name the field.

use serde_json::Value;

use super::{SiteFields, SiteSpec};
use crate::{
    ValidationError,
    nested_object::{HIDDEN_VALUE, describe_serde_message},
    suggestion::describe_known_names,
    validation::sanitize_text,
};

/// Fields that [`SiteFields`] has beside those of [`SiteSpec`].
pub const ALTERNATIVE_FIELDS: [&str; 2] = ["interval", "timeout"];

/// Fields whose values may be secrets, and are therefore not repeated.
const HIDDEN_FIELDS: [&str; 4] = ["headers", "body", "options", "assertions"];

impl SiteSpec {
    /// Decodes a site from JSON, in the form of [`SiteFields`]. It is not validated.
    ///
    /// # Errors
    /// If a field is unknown or does not have the form that it must have; names the field.
    pub fn decode(value: &Value) -> Result<Self, ValidationError> {
        let Value::Object(given) = value else {
            let allowed = "an object such as {\"url\": \"https://example.com\"}";
            return Err(ValidationError::new("site", HIDDEN_VALUE, allowed));
        };
        let known: Vec<&str> = Self::FIELDS.iter().chain(&ALTERNATIVE_FIELDS).copied().collect();
        if let Some(name) = given.keys().find(|name| !known.contains(&name.as_str())) {
            let allowed = describe_known_names(name, &known);
            let name = if name.is_empty() { "(a field without a name)" } else { name };
            return Err(ValidationError::new(sanitize_text(name, 64), HIDDEN_VALUE, allowed));
        }
        if !given.contains_key("url") {
            let allowed = "an http or https URL, such as https://example.com";
            return Err(ValidationError::new("url", "(absent)", allowed));
        }
        let fields: SiteFields = serde_path_to_error::deserialize(value).map_err(|why| {
            let path = why.path().to_string();
            let field = path.split(['.', '[']).next().unwrap_or_default();
            let shown = match given.get(field) {
                Some(Value::String(text)) if !HIDDEN_FIELDS.contains(&field) => text.clone(),
                Some(value) if !HIDDEN_FIELDS.contains(&field) => value.to_string(),
                _ => HIDDEN_VALUE.to_owned(),
            };
            ValidationError::new(path, shown, describe_serde_message(&why.inner().to_string()))
        })?;
        fields.into_spec()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_site_decodes_from_json_with_its_alternative_durations() {
        let value = json!({"url": "https://a.example/", "interval": "30s", "name": null});

        let site = SiteSpec::decode(&value).unwrap();

        assert_eq!(site, SiteSpec { interval_seconds: 30, ..SiteSpec::new("https://a.example/") });
    }

    #[test]
    fn a_field_that_cannot_be_decoded_is_refused_by_its_path_and_without_a_secret() {
        for (value, field, refusal) in [
            (json!([]), "site", "an object"),
            (json!({"name": "a"}), "url", "(absent)"),
            (json!({"url": "https://a/", "intervall": "hunter2"}), "intervall", "did you mean 'interval"),
            (json!({"url": "https://a/", "enabled": "maybe"}), "enabled", "'maybe'"),
            (json!({"url": "https://a/", "interval_seconds": 1.5}), "interval_seconds", "'1.5'"),
            (json!({"url": "https://a/", "tags": [1]}), "tags[0]", "a string"),
            (json!({"url": "https://a/", "interval": "soon"}), "interval", "1h30m"),
            (json!({"url": "https://a/", "headers": {"A": ["hunter2"]}}), "headers.A", "(hidden)"),
            (json!({"url": "https://a/", "options": {"auth": "hunter2"}}), "options.auth", "basic"),
            (
                json!({"url": "https://a/", "assertions": {"json": [{"path": "$", "equal": 1}]}}),
                "assertions.json[0].equal",
                "did you mean 'equals'",
            ),
        ] {
            let error = SiteSpec::decode(&value).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.to_string().contains(refusal), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
