//! Explains why a message is not a request: the field, the value, the allowed values, and a
//! suggestion.

use serde_json::Value;

use crate::{CheckRequest, ValidationError, validation::sanitize_text};

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
    let allowed = match suggest_field(name) {
        Some(known) => format!("no such field; did you mean '{known}'?"),
        None => {
            // The fields of a tick, which begin with `site_id`, are not for people.
            let known = CheckRequest::KNOWN_FIELDS.iter().map(|(known, _)| *known);
            let known: Vec<&str> = known.take_while(|known| *known != "site_id").collect();
            format!("no such field; there are {}", known.join(", "))
        }
    };
    let shown = if name.is_empty() { "(a field without a name)".to_owned() } else { sanitize_text(name, 64) };
    ValidationError::new(shown, value, allowed)
}

/// The known field that `name` probably means: at most two edits away, or made of the same words,
/// or containing `name`, as `timeout_ms` contains `timeout`.
fn suggest_field(name: &str) -> Option<&'static str> {
    /// Maximum edits between a field and a misspelling.
    const MAX_EDITS: usize = 2;
    /// Minimum length of a part. Shorter names are part of too many fields.
    const MIN_PART_BYTES: usize = 4;
    /// Maximum length of a misspelling. All fields are shorter, and a comparison costs the product
    /// of the lengths.
    const MAX_NAME_BYTES: usize = 32;
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let words = |text: &str| {
        let mut words: Vec<String> = text.split('_').map(str::to_owned).collect();
        words.sort();
        words
    };
    let fields = || CheckRequest::KNOWN_FIELDS.iter().map(|(known, _)| *known);
    let slips = |known: &&str| strsim::damerau_levenshtein(known, &name);
    fields()
        .min_by_key(slips)
        .filter(|known| slips(known) <= MAX_EDITS && slips(known) < name.len())
        .or_else(|| fields().find(|known| words(known) == words(&name)))
        .or_else(|| fields().find(|known| name.len() >= MIN_PART_BYTES && known.contains(name.as_str())))
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
            if matches!(field, "options" | "assertions") {
                return explain_nested(path, &why.inner().to_string());
            }
            if let Some(allowed) = expected_for(field) {
                let value =
                    serde_json::from_slice::<Value>(bytes).ok().and_then(|all| all.get(field).cloned());
                return ValidationError::new(field, value.unwrap_or(Value::Null), allowed);
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

/// Explains an error inside of an object by serde's message about the field at `path`. The value is
/// not repeated, because it may be a secret that was written where a name belongs.
fn explain_nested(path: String, why: &str) -> ValidationError {
    let unknown = ["unknown field `", "unknown variant `", "missing field `"]
        .into_iter()
        .find_map(|start| why.strip_prefix(start)?.split('`').next())
        .filter(|name| path.rsplit('.').next() != Some(*name));
    let field = match unknown {
        Some(name) => format!("{path}.{}", sanitize_text(name, 64)),
        None => path,
    };
    let allowed = why.rsplit_once("expected ").map_or("a value", |(_, allowed)| allowed);
    // Serde appends the position, which a person who typed one line does not need.
    let allowed = allowed.split(" at line ").next().unwrap_or_default();
    ValidationError::new(field, "(hidden)", allowed)
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
