//! Explains why a message is not a request: the field, the value, the allowed values, and a
//! suggestion.

use serde_json::Value;

use crate::{
    CheckRequest, HttpAssertions, HttpOptions, ValidationError, nested_object::decode_object,
    suggestion::suggest_name, validation::sanitize_text,
};

fn expected_for(field: &str) -> Option<&'static str> {
    CheckRequest::KNOWN_FIELDS.iter().find(|(name, _)| *name == field).map(|(_, allowed)| *allowed)
}

/// Rejects the first unknown field, with a suggestion, and anything that is not an object.
pub(super) fn reject_unknown_fields(bytes: &[u8]) -> Result<(), ValidationError> {
    let Ok(Value::Object(given)) = serde_json::from_slice::<Value>(bytes) else {
        return Err(explain_error(bytes));
    };
    match given.iter().find(|(name, _)| expected_for(name).is_none()) {
        Some((name, value)) => Err(unknown_field_error(name, value)),
        None => Ok(()),
    }
}

/// Rejects an object without `url`; a misspelt `url` is reported as the unknown field.
pub(super) fn require_url(bytes: &[u8]) -> Result<(), ValidationError> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(given)) if given.contains_key("url") => Ok(()),
        _ => Err(explain_error(bytes)),
    }
}

fn unknown_field_error(name: &str, value: &Value) -> ValidationError {
    let fields = || CheckRequest::KNOWN_FIELDS.iter().map(|(known, _)| *known);
    // The fields of a tick, which begin with `site_id`, are suggested and not listed.
    let allowed = match suggest_name(name, fields()) {
        Some(known) => format!("no such field; did you mean '{known}'?"),
        None => format!(
            "no such field; there are {}",
            fields().take_while(|known| *known != "site_id").collect::<Vec<_>>().join(", ")
        ),
    };
    let shown = if name.is_empty() { "(a field without a name)".to_owned() } else { sanitize_text(name, 64) };
    ValidationError::new(shown, value, allowed)
}

/// Explains why `bytes` is not a request.
pub(crate) fn explain_error(bytes: &[u8]) -> ValidationError {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // The bytes are decoded again here, because tracking the path slows down the usual, valid case.
    let why = match serde_path_to_error::deserialize::<_, CheckRequest>(&mut json) {
        Ok(_) => "one JSON object and nothing after it".to_owned(),
        Err(why) => {
            let path = why.path().to_string();
            let field = path.split(['.', '[']).next().unwrap_or_default();
            if let Some(allowed) = expected_for(field) {
                let value =
                    serde_json::from_slice::<Value>(bytes).ok().and_then(|all| all.get(field).cloned());
                let value = value.unwrap_or(Value::Null);
                return explain_object(field, &value)
                    .unwrap_or_else(|| ValidationError::new(field, value, allowed));
            }
            why.inner().to_string()
        }
    };
    match serde_json::from_slice::<Value>(bytes) {
        // A misspelt `url` is both missing and unknown; the unknown field is more helpful to
        // report.
        Ok(Value::Object(given)) => {
            reject_unknown_fields(bytes).err().unwrap_or_else(|| match duplicate_field(&why) {
                Some(field) => {
                    ValidationError::new(field, value_to_text(given.get(field)), "the field given once")
                }
                None => ValidationError::new(
                    "url",
                    "(absent)",
                    "an http or https URL, such as {\"url\":\"https://example.com\"}",
                ),
            })
        }
        _ => ValidationError::new(
            "request",
            sanitize_text(&String::from_utf8_lossy(bytes), 200),
            format!("a JSON object such as {{\"url\":\"https://example.com\"}} ({why})"),
        ),
    }
}

/// Explains why `value` is no object of the field `field`; `None` if the field holds no object of
/// known fields.
fn explain_object(field: &str, value: &Value) -> Option<ValidationError> {
    match field {
        "options" => decode_object::<HttpOptions>(field, value).err(),
        "assertions" => decode_object::<HttpAssertions>(field, value).err(),
        _ => None,
    }
}

/// The field that serde reports as a duplicate.
fn duplicate_field(why: &str) -> Option<&str> {
    why.strip_prefix("duplicate field `")?.split('`').next()
}

fn value_to_text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}
