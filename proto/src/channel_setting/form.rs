//! Forms of settings, as JSON and as text of the command line.

use std::fmt;

use serde_json::{Value, json};

use crate::{channel_definition::SECRETS_HINT, http_options::check_secret_name};

/// Form of the values of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingForm {
    /// A text.
    Text,
    /// A template. Its braces are no object.
    Template,
    /// One of some words.
    Word(&'static [&'static str]),
    /// A whole number in a range.
    Number(i64, i64),
    /// A number, or a text.
    NumberOrText,
    /// Any number of texts.
    Texts,
    /// A URL without credentials.
    PlainUrl,
    /// URLs without credentials.
    PlainUrls,
    /// A URL, or the name of a secret with a URL.
    Url,
    /// The name of a secret.
    Secret,
    /// Names of secrets.
    Secrets,
    /// A text, or the name of a secret.
    TextOrSecret,
    /// Texts by name.
    TextMap,
    /// Texts or names of secrets, by name.
    SecretMap,
}

/// Place within a setting, the value there, and the allowed ones.
type Fault<'a> = (String, &'a Value, String);

impl SettingForm {
    /// True if a refused value may be a credential.
    pub(super) fn may_be_secret(self) -> bool {
        !matches!(self, Self::Word(_) | Self::Number(..) | Self::NumberOrText | Self::Text | Self::Template)
    }

    /// The first part of `value` with another form.
    pub(super) fn find_fault(self, value: &Value) -> Option<Fault<'_>> {
        let whole = |is_good: bool| (!is_good).then(|| (String::new(), value, self.to_string()));
        match self {
            Self::Text | Self::PlainUrl | Self::Template => match value {
                Value::Number(_) | Value::Bool(_) => Some((
                    String::new(),
                    value,
                    format!("{self}; in YAML and JSON in quotation marks, as '{value}'"),
                )),
                _ => whole(value.is_string()),
            },
            Self::Word(words) => whole(value.as_str().is_some_and(|word| words.contains(&word))),
            Self::Number(min, max) => {
                whole(value.as_i64().is_some_and(|number| (min..=max).contains(&number)))
            }
            Self::NumberOrText => whole(value.is_string() || value.is_i64()),
            Self::Texts | Self::PlainUrls => find_entry(value, self, Self::Text),
            Self::Secrets => find_entry(value, self, Self::Secret),
            Self::Secret => match read_secret(value) {
                Some(name) => find_name_fault(name, value),
                None => Some((String::new(), value, SECRETS_HINT.to_owned())),
            },
            Self::Url | Self::TextOrSecret => match read_secret(value) {
                Some(name) => find_name_fault(name, value),
                None => whole(value.is_string()),
            },
            Self::TextMap => find_field(value, self, Self::Text),
            Self::SecretMap => find_field(value, self, Self::TextOrSecret),
        }
    }

    /// The value meant by `text` on the command line; `secret:NAME` names a secret where the form has
    /// secrets. `place` leads into an object, or is empty.
    pub fn parse_text(self, place: &str, text: &str) -> Value {
        match self {
            Self::Text | Self::Template | Self::PlainUrl | Self::Word(_) => text.into(),
            Self::TextMap if !place.is_empty() => text.into(),
            Self::SecretMap if !place.is_empty() => parse_secret(text).unwrap_or_else(|| text.into()),
            Self::Url | Self::TextOrSecret | Self::Secret => {
                parse_secret(text).or_else(|| parse_object(text)).unwrap_or_else(|| text.into())
            }
            Self::Number(..) | Self::NumberOrText => {
                text.parse::<i64>().map_or_else(|_| text.trim_matches('"').into(), Value::from)
            }
            Self::Texts | Self::PlainUrls => parse_list(text).unwrap_or_else(|| json!([text])),
            // Names have no commas, which texts and URLs may have.
            Self::Secrets => parse_list(text).unwrap_or_else(|| {
                text.split(',').map(|part| parse_secret(part.trim()).unwrap_or_else(|| part.into())).collect()
            }),
            Self::TextMap | Self::SecretMap => parse_object(text).unwrap_or_else(|| text.into()),
        }
    }
}

/// Forms in words, as part of a sentence.
impl fmt::Display for SettingForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("a text"),
            Self::Template => f.write_str("a template"),
            Self::Word(words) => write!(f, "one of {}", words.join(", ")),
            Self::Number(min, max) if *max == i64::MAX => write!(f, "a whole number from {min}"),
            Self::Number(min, max) => write!(f, "a whole number, {min} to {max}"),
            Self::NumberOrText => f.write_str("a number, or a text"),
            Self::Texts => f.write_str("a list of texts"),
            Self::PlainUrl => f.write_str("a URL"),
            Self::PlainUrls => f.write_str("a list of URLs"),
            Self::Url => f.write_str("a URL, or the name of a secret as {\"secret\": NAME}"),
            Self::Secret => f.write_str("the name of a secret as {\"secret\": NAME}"),
            Self::Secrets => f.write_str("a list of names of secrets, each as {\"secret\": NAME}"),
            Self::TextOrSecret => f.write_str("a text, or the name of a secret as {\"secret\": NAME}"),
            Self::TextMap => f.write_str("an object of texts"),
            Self::SecretMap => {
                f.write_str("an object of texts, or of names of secrets as {\"secret\": NAME}")
            }
        }
    }
}

fn find_entry(value: &Value, list: SettingForm, entry: SettingForm) -> Option<Fault<'_>> {
    let Some(entries) = value.as_array() else { return Some((String::new(), value, list.to_string())) };
    entries.iter().enumerate().find_map(|(index, value)| {
        entry.find_fault(value).map(|(place, value, allowed)| (format!("[{index}]{place}"), value, allowed))
    })
}

fn find_field(value: &Value, map: SettingForm, entry: SettingForm) -> Option<Fault<'_>> {
    let Some(fields) = value.as_object() else { return Some((String::new(), value, map.to_string())) };
    fields.iter().find_map(|(name, value)| {
        entry.find_fault(value).map(|(place, value, allowed)| (format!(".{name}{place}"), value, allowed))
    })
}

/// The name in a reference to a secret.
fn read_secret(value: &Value) -> Option<&str> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    fields.get("secret")?.as_str()
}

fn find_name_fault<'a>(name: &str, value: &'a Value) -> Option<Fault<'a>> {
    let refusal = check_secret_name("", name).err()?;
    Some((".secret".to_owned(), value, refusal.expected))
}

fn parse_secret(text: &str) -> Option<Value> {
    text.strip_prefix("secret:").map(|name| json!({"secret": name}))
}

fn parse_list(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_array)
}

fn parse_object(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_object)
}
