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
    // One or two slips of the fingers: a letter wrong, missing, too many, or two swapped.
    const CLOSE: usize = 2;
    let nearest = CheckRequest::FIELDS
        .iter()
        .map(|(known, _)| (strsim::damerau_levenshtein(known, &name.to_lowercase()), *known))
        .min();
    let known = CheckRequest::FIELDS[..13].iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
    let allowed = match nearest {
        Some((slips, known)) if slips <= CLOSE => format!("no such field; did you mean '{known}'?"),
        _ => format!("no such field; there are {known}"),
    };
    Invalid::new(shorten(name, 64), value, allowed)
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
        Ok(Value::Object(_)) => refuse_unknown(bytes).err().unwrap_or_else(|| {
            Invalid::new("url", "(absent)", "an http or https URL, such as {\"url\":\"https://example.com\"}")
        }),
        _ => Invalid::new(
            "request",
            shorten(&String::from_utf8_lossy(bytes), 200),
            format!("a JSON object such as {{\"url\":\"https://example.com\"}} ({why})"),
        ),
    }
}
