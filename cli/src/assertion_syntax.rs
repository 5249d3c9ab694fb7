//! Assertions as a single line of text, such as `$.status == "ok"`: parsing and formatting.
//!
//! A line is a subject (a JSONPath or a header's name), an operator, and a value. What
//! [`format_json`] and [`format_header`] write, [`parse_json`] and [`parse_header`] read back.

#[cfg(test)]
pub(crate) mod generators;
#[cfg(test)]
mod tests;

use picket_proto::http_assertions::{ByteRange, HeaderAssertion, JsonAssertion};
use picket_runtime::options::ByteSize;
use serde_json::Value;

/// Conditions of a JSON assertion, as error messages list them.
const JSON_CONDITIONS: &str =
    "== VALUE, != VALUE, < NUMBER, > NUMBER, =~ REGEX, exists, absent, length >= NUMBER, length <= NUMBER";
/// Conditions of a header assertion, as error messages list them.
const HEADER_CONDITIONS: &str = "=~ REGEX, !~ REGEX, absent";

/// Parses an assertion about JSON.
///
/// # Errors
/// The text that is allowed where parsing failed.
pub(crate) fn parse_json(text: &str) -> Result<JsonAssertion, String> {
    let text = text.trim();
    let (path, condition) = split_path(text)?;
    let mut assertion = JsonAssertion { path: path.to_owned(), ..JsonAssertion::default() };
    if let Some(regex) = condition.strip_prefix("=~") {
        assertion.matches = Some(required_regex(regex)?);
    } else if let Some(value) = condition.strip_prefix("==") {
        assertion.equals = Some(parse_value("==", value)?);
    } else if let Some(value) = condition.strip_prefix("!=") {
        assertion.not_equals = Some(parse_value("!=", value)?);
    } else if condition.starts_with("<=") || condition.starts_with(">=") {
        return Err("< or > and a number; <= and >= compare a length, as in 'length >= 1'".to_owned());
    } else if let Some(number) = condition.strip_prefix('<') {
        assertion.less_than = Some(parse_number('<', number)?);
    } else if let Some(number) = condition.strip_prefix('>') {
        assertion.greater_than = Some(parse_number('>', number)?);
    } else {
        match condition.split_once(char::is_whitespace).unwrap_or((condition, "")) {
            ("exists", "") => assertion.exists = Some(true),
            ("absent", "") => assertion.absent = Some(true),
            (word @ ("exists" | "absent"), _) => return Err(format!("nothing after '{word}'")),
            ("length", bound) => set_length(&mut assertion, bound.trim())?,
            _ => return Err(format!("one of these after the path {path}: {JSON_CONDITIONS}")),
        }
    }
    Ok(assertion)
}

/// Formats an assertion about JSON.
pub(crate) fn format_json(assertion: &JsonAssertion) -> String {
    let conditions = [
        assertion.equals.as_ref().map(|value| format!("== {value}")),
        assertion.not_equals.as_ref().map(|value| format!("!= {value}")),
        assertion.less_than.map(|number| format!("< {}", format_number(number))),
        assertion.greater_than.map(|number| format!("> {}", format_number(number))),
        assertion.matches.as_ref().map(|regex| format!("=~ {regex}")),
        assertion.exists.map(|wanted| negate_unless(wanted, "exists")),
        assertion.absent.map(|wanted| negate_unless(wanted, "absent")),
        assertion.min_length.map(|length| format!("length >= {length}")),
        assertion.max_length.map(|length| format!("length <= {length}")),
    ];
    join_conditions(&assertion.path, conditions)
}

/// Parses an assertion about a header.
///
/// # Errors
/// The text that is allowed where parsing failed.
pub(crate) fn parse_header(text: &str) -> Result<HeaderAssertion, String> {
    let text = text.trim();
    // `=` cannot be in a name. `!` and `~` can, so only a blank ends a name before `!~`.
    let end = text.find(|letter: char| letter.is_whitespace() || letter == '=').unwrap_or(text.len());
    let (name, condition) = (&text[..end], text[end..].trim_start());
    if name.is_empty() || name.contains(':') {
        return Err(format!("a header's name without a colon, a blank, and one of {HEADER_CONDITIONS}"));
    }
    let mut assertion = HeaderAssertion { name: name.to_owned(), ..HeaderAssertion::default() };
    if let Some(regex) = condition.strip_prefix("=~") {
        assertion.regex = Some(required_regex(regex)?);
    } else if let Some(regex) = condition.strip_prefix("!~") {
        assertion.not_regex = Some(required_regex(regex)?);
    } else if condition == "absent" {
        assertion.absent = Some(true);
    } else {
        return Err(format!("one of these after the name {name}: {HEADER_CONDITIONS}"));
    }
    Ok(assertion)
}

/// Formats an assertion about a header.
pub(crate) fn format_header(assertion: &HeaderAssertion) -> String {
    let conditions = [
        assertion.regex.as_ref().map(|regex| format!("=~ {regex}")),
        assertion.not_regex.as_ref().map(|regex| format!("!~ {regex}")),
        assertion.absent.map(|wanted| negate_unless(wanted, "absent")),
    ];
    join_conditions(&assertion.name, conditions)
}

/// Parses an inclusive range of sizes, such as `1..100KiB`, `1..` or `..100000`.
///
/// # Errors
/// The text that is allowed.
pub(crate) fn parse_byte_range(text: &str) -> Result<ByteRange, String> {
    const ALLOWED: &str = "MIN..MAX, MIN.. or ..MAX in bytes, both included, such as 1..100000 or ..64KiB";
    let bound = |text: &str| match text.trim() {
        "" => Ok(None),
        size => size.parse::<ByteSize>().map(|size| Some(size.0)).map_err(|_| ALLOWED.to_owned()),
    };
    let (min, max) = text.split_once("..").ok_or(ALLOWED)?;
    match (bound(min)?, bound(max)?) {
        (None, None) => Err(ALLOWED.to_owned()),
        (min, max) => Ok(ByteRange { min, max }),
    }
}

/// Formats a range of sizes.
pub(crate) fn format_byte_range(range: ByteRange) -> String {
    let bound = |bound: Option<u64>| bound.map_or_else(String::new, |bytes| bytes.to_string());
    format!("{}..{}", bound(range.min), bound(range.max))
}

/// Splits `text` into a JSONPath and the condition after it. Operators within brackets and quotes
/// belong to the path.
fn split_path(text: &str) -> Result<(&str, &str), String> {
    const EXAMPLE: &str = "a JSONPath that begins with $, and a condition, such as $.status == \"ok\"";
    if !text.starts_with('$') {
        return Err(EXAMPLE.to_owned());
    }
    let mut open_brackets = 0_usize;
    let mut quote = None;
    let mut letters = text.char_indices();
    let end = loop {
        let Some((position, letter)) = letters.next() else { break text.len() };
        match (quote, letter) {
            (Some(_), '\\') => drop(letters.next()),
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if open_brackets > 0 => quote = Some(letter),
            (None, '[') => open_brackets += 1,
            (None, ']') => open_brackets = open_brackets.saturating_sub(1),
            (None, '=' | '!' | '<' | '>' | '~') if open_brackets == 0 => break position,
            // RFC 9535 allows blanks before a segment.
            (None, letter) if letter.is_whitespace() && open_brackets == 0 => {
                if !text[position..].trim_start().starts_with(['.', '[']) {
                    break position;
                }
            }
            (None, _) => {}
        }
    };
    if let Some(quote) = quote {
        return Err(format!("a JSONPath whose {quote} is closed"));
    }
    if open_brackets > 0 {
        return Err("a JSONPath whose '[' is closed".to_owned());
    }
    Ok((text[..end].trim_end(), text[end..].trim_start()))
}

fn required_regex(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a regular expression after =~ or !~".to_owned()),
        regex => Ok(regex.to_owned()),
    }
}

fn parse_value(operator: &str, text: &str) -> Result<Value, String> {
    serde_json::from_str(text.trim()).map_err(|_| {
        format!("a JSON value after {operator}: a text in double quotes, a number, true, false, null, a list or an object")
    })
}

/// Parses a number of JSON, so that neither `inf` nor `nan` is one.
fn parse_number(operator: char, text: &str) -> Result<f64, String> {
    serde_json::from_str(text.trim()).map_err(|_| format!("a number after {operator}"))
}

fn set_length(assertion: &mut JsonAssertion, bound: &str) -> Result<(), String> {
    const ALLOWED: &str = "'length >= NUMBER' or 'length <= NUMBER', with a whole number";
    let (field, number) = match (bound.strip_prefix(">="), bound.strip_prefix("<=")) {
        (Some(number), _) => (&mut assertion.min_length, number),
        (None, Some(number)) => (&mut assertion.max_length, number),
        (None, None) => return Err(ALLOWED.to_owned()),
    };
    *field = Some(number.trim().parse().map_err(|_| ALLOWED)?);
    Ok(())
}

/// A whole number without a fraction, and any other number as JSON.
fn format_number(number: f64) -> String {
    let text = Value::from(number).to_string();
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn negate_unless(wanted: bool, word: &str) -> String {
    format!("{}{word}", if wanted { "" } else { "not " })
}

fn join_conditions<const N: usize>(subject: &str, conditions: [Option<String>; N]) -> String {
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    format!("{subject} {}", conditions.join(" and ")).trim_end().to_owned()
}
