//! Says in our words why a message is no request: the field, the value, what is allowed, what was meant.

use serde_json::Value;

use crate::{CheckRequest, Invalid, invalid::shorten};

fn allowed(field: &str) -> Option<&'static str> {
    CheckRequest::FIELDS.iter().find(|(name, _)| *name == field).map(|(_, allowed)| *allowed)
}

/// Refuses the first field that is none of ours, with the one that was probably meant.
pub(super) fn refuse_unknown(bytes: &[u8]) -> Result<(), Invalid> {
    let Ok(Value::Object(given)) = serde_json::from_slice::<Value>(bytes) else {
        return Ok(());
    };
    match given.iter().find(|(name, _)| allowed(name).is_none()) {
        Some((name, value)) => Err(unknown(name, value)),
        None => Ok(()),
    }
}

fn unknown(name: &str, value: &Value) -> Invalid {
    let allowed = match meant(name) {
        Some(known) => format!("no such field; did you mean '{known}'?"),
        None => {
            let known: Vec<&str> = CheckRequest::FIELDS[..13].iter().map(|(known, _)| *known).collect();
            format!("no such field; there are {}", known.join(", "))
        }
    };
    let shown = if name.is_empty() { "(a field without a name)".to_owned() } else { shorten(name, 64) };
    Invalid::new(shown, value, allowed)
}

/// The field that was probably meant by `name`: one or two slips of the fingers away, or made of the same words, or
/// of which it is a part, as `timeout` is of `timeout_ms`.
fn meant(name: &str) -> Option<&'static str> {
    const CLOSE: usize = 2;
    /// Shorter ones are a part of too many.
    const PART: usize = 4;
    // Longer than any field is no slip, and comparing costs the product of the lengths.
    const LONGEST: usize = 32;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let words = |text: &str| {
        let mut words: Vec<String> = text.split('_').map(str::to_owned).collect();
        words.sort();
        words
    };
    let fields = || CheckRequest::FIELDS.iter().map(|(known, _)| *known);
    let slips = |known: &&str| strsim::damerau_levenshtein(known, &name);
    fields()
        .min_by_key(slips)
        .filter(|known| slips(known) <= CLOSE && slips(known) < name.len())
        .or_else(|| fields().find(|known| words(known) == words(&name)))
        .or_else(|| fields().find(|known| name.len() >= PART && known.contains(name.as_str())))
}

/// Says in our words why `bytes` is no request.
pub(super) fn explain(bytes: &[u8]) -> Invalid {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let why = match serde_path_to_error::deserialize::<_, CheckRequest>(&mut json) {
        Ok(_) => "one JSON object and nothing after it".to_owned(),
        Err(why) => {
            let path = why.path().to_string();
            let field = path.split(['.', '[']).next().unwrap_or_default();
            if let Some(allowed) = allowed(field) {
                let value =
                    serde_json::from_slice::<Value>(bytes).ok().and_then(|all| all.get(field).cloned());
                return Invalid::new(field, value.unwrap_or(Value::Null), allowed);
            }
            why.inner().to_string()
        }
    };
    match serde_json::from_slice::<Value>(bytes) {
        // A misspelt `url` is both missing and unknown; the second says more.
        Ok(Value::Object(given)) => refuse_unknown(bytes).err().unwrap_or_else(|| match twice(&why) {
            Some(field) => Invalid::new(field, text_of(given.get(field)), "the field given once"),
            None => Invalid::new(
                "url",
                "(absent)",
                "an http or https URL, such as {\"url\":\"https://example.com\"}",
            ),
        }),
        _ => Invalid::new(
            "request",
            shorten(&String::from_utf8_lossy(bytes), 200),
            format!("a JSON object such as {{\"url\":\"https://example.com\"}} ({why})"),
        ),
    }
}

/// The field that serde says is there twice.
fn twice(why: &str) -> Option<&str> {
    why.strip_prefix("duplicate field `")?.split('`').next()
}

fn text_of(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}
