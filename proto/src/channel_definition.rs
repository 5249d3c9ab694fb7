//! The definition of a notification channel, as people write it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ChannelKind, ValidationError, duration::DurationArg, http_options::check_secret_name,
    nested_object::HIDDEN_VALUE, request::check_range,
};

/// Where secrets of channels belong, for refusals.
pub const SECRETS_HINT: &str = "the name of a secret, as {\"secret\": NAME} (secret:NAME on the command line); its value belongs \
     in the file that PICKET_SECRETS_FILE of the notifiers names (.picket/secrets.toml of picket up)";

/// A channel, validated as far as its kind does not matter.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelDefinition {
    /// Name of the channel, unique among channels.
    pub name: String,
    /// What the channel speaks.
    pub kind: ChannelKind,
    /// Settings of the kind. Secrets are names, as `{"secret": NAME}`.
    pub settings: Map<String, Value>,
    /// False while the channel is paused.
    pub enabled: bool,
    /// False if the channel is not told of ends.
    pub send_closed: bool,
    /// Least time between two messages, in milliseconds; absent for the kind's own.
    pub pace_ms: Option<i64>,
}

/// A channel in its serialized form, without its name. The settings of the kind stand beside the
/// other fields or in `settings`. An absent field has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelFields {
    /// What the channel speaks, such as `slack` or `email`.
    pub kind: String,
    /// False while the channel is paused; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// False if the channel is not told of ends; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_closed: Option<bool>,
    /// Least time between two messages, such as `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<String>,
    /// Settings of the kind, such as `url`. A secret is written as `{"secret": NAME}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Map<String, Value>>,
    /// The same settings without the object around them.
    #[serde(flatten)]
    pub flat_settings: Map<String, Value>,
}

impl ChannelFields {
    /// The channel that these fields define.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn into_definition(self, name: String) -> Result<ChannelDefinition, ValidationError> {
        let mut settings = self.settings.unwrap_or_default();
        for (field, value) in self.flat_settings {
            if settings.contains_key(&field) {
                let allowed = format!("either {field} or settings.{field}, not both");
                return Err(ValidationError::new(field, HIDDEN_VALUE, allowed));
            }
            settings.insert(field, value);
        }
        let pace_ms = self.pace.as_deref().map(|pace| parse_duration_ms("pace", pace)).transpose()?;
        let definition = ChannelDefinition {
            name,
            kind: self.kind.parse()?,
            settings,
            enabled: self.enabled.unwrap_or(true),
            send_closed: self.send_closed.unwrap_or(true),
            pace_ms,
        };
        definition.validate()?;
        Ok(definition)
    }
}

impl ChannelDefinition {
    /// Maximum size of the settings as JSON, in bytes.
    const MAX_SETTINGS_BYTES: usize = 65_536;
    const MAX_PACE_MS: i64 = 3_600_000;

    /// A channel of this kind without settings.
    pub fn new(name: impl Into<String>, kind: ChannelKind) -> Self {
        let settings = Map::new();
        Self { name: name.into(), kind, settings, enabled: true, send_closed: true, pace_ms: None }
    }

    /// The fields that differ from their defaults, with the settings beside them.
    pub fn to_fields(&self) -> ChannelFields {
        ChannelFields {
            kind: self.kind.to_string(),
            enabled: (!self.enabled).then_some(false),
            send_closed: (!self.send_closed).then_some(false),
            pace: self.pace_ms.map(format_duration_ms),
            settings: None,
            flat_settings: self.settings.clone(),
        }
    }

    /// Validates what does not depend on the kind.
    ///
    /// # Errors
    /// Names the first field that cannot be used, and repeats no value that may be a secret.
    pub fn validate(&self) -> Result<(), ValidationError> {
        check_notification_name("name", &self.name)?;
        if let Some(pace) = self.pace_ms {
            check_duration_range("pace", pace, 0, Self::MAX_PACE_MS)?;
        }
        let bytes = Value::Object(self.settings.clone()).to_string().len();
        if bytes > Self::MAX_SETTINGS_BYTES {
            let allowed = format!("at most {} bytes", Self::MAX_SETTINGS_BYTES);
            return Err(ValidationError::new("settings", format_args!("{bytes} bytes"), allowed));
        }
        check_secrets("settings", &self.settings)
    }
}

/// Refuses credentials that stand where names of secrets belong, and names that no secrets file can
/// have.
fn check_secrets(path: &str, fields: &Map<String, Value>) -> Result<(), ValidationError> {
    for (name, value) in fields {
        let field = format!("{path}.{name}");
        match value {
            Value::Object(reference) if reference.contains_key("secret") => {
                match (reference.len(), reference.get("secret")) {
                    (1, Some(Value::String(secret))) => {
                        check_secret_name(&format!("{field}.secret"), secret)?
                    }
                    _ => return Err(ValidationError::new(field, HIDDEN_VALUE, SECRETS_HINT)),
                }
            }
            Value::Object(inner) => check_secrets(&field, inner)?,
            Value::String(text) if !text.is_empty() && is_credential_field(name) => {
                return Err(ValidationError::new(field, HIDDEN_VALUE, SECRETS_HINT));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns true if a field of this name holds a credential in every kind that has it.
fn is_credential_field(name: &str) -> bool {
    const ENDINGS: [&str; 4] = ["password", "token", "secret", "_key"];
    let name = name.to_ascii_lowercase().replace('-', "_");
    name == "authorization" || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Checks a name of a channel or of a route.
///
/// # Errors
/// If neither may have the name; the error names `field`.
pub fn check_notification_name(field: &str, name: &str) -> Result<(), ValidationError> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_allowed = |byte: u8| is_word(byte) || matches!(byte, b'_' | b'.' | b'-');
    let starts_well = name.bytes().next().is_some_and(is_word);
    match starts_well && name.len() <= 64 && name.bytes().all(is_allowed) {
        true => Ok(()),
        false => {
            let allowed =
                "1 to 64 lower-case letters, digits, '_', '.' and '-', the first a letter or a digit";
            Err(ValidationError::new(field, name, allowed))
        }
    }
}

/// Parses a duration in the field `field` to milliseconds.
pub(crate) fn parse_duration_ms(field: &str, text: &str) -> Result<i64, ValidationError> {
    match text.parse::<DurationArg>() {
        Ok(duration) => Ok(duration.as_saturating_millis()),
        Err(_) => {
            let allowed = "a number with ms, s, m, h or d, such as 15s or 1h30m";
            Err(ValidationError::new(field, text, allowed))
        }
    }
}

/// Milliseconds as a duration that people read, such as `10s`.
pub(crate) fn format_duration_ms(milliseconds: i64) -> String {
    DurationArg(std::time::Duration::from_millis(milliseconds.unsigned_abs())).to_string()
}

/// Refuses a duration outside of `min` to `max`, all in milliseconds.
pub(crate) fn check_duration_range(
    field: &str,
    value: i64,
    min: i64,
    max: i64,
) -> Result<(), ValidationError> {
    check_range(field, value, min, max).map(drop).map_err(|_| {
        let allowed = format!("{} to {}", format_duration_ms(min), format_duration_ms(max));
        ValidationError::new(field, format_duration_ms(value), allowed)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decode(fields: Value) -> Result<ChannelDefinition, ValidationError> {
        serde_json::from_value::<ChannelFields>(fields).unwrap().into_definition("ops".into())
    }

    #[test]
    fn settings_stand_beside_the_other_fields_or_in_an_object_of_their_own() {
        let flat = decode(json!({"kind": "slack", "url": {"secret": "slack-ops"}, "pace": "2s"})).unwrap();
        let nested =
            decode(json!({"kind": "slack", "settings": {"url": {"secret": "slack-ops"}}, "pace": "2s"}))
                .unwrap();

        assert_eq!(flat, nested);
        assert!(flat.enabled && flat.send_closed && flat.pace_ms == Some(2_000));
        let written = serde_json::to_value(flat.to_fields()).unwrap();
        assert_eq!(written, json!({"kind": "slack", "url": {"secret": "slack-ops"}, "pace": "2s"}));
        let twice = decode(json!({"kind": "slack", "url": "a", "settings": {"url": "b"}})).unwrap_err();
        assert_eq!(twice.field, "url");
    }

    #[test]
    fn a_refusal_names_the_field_and_repeats_no_secret() {
        for (fields, field, allowed) in [
            (json!({"kind": "slak"}), "kind", "did you mean 'slack'"),
            (json!({"kind": "slack", "pace": "2"}), "pace", "such as 15s"),
            (json!({"kind": "slack", "pace": "2h"}), "pace", "0s to 1h"),
            (json!({"kind": "telegram", "token": "MARK"}), "settings.token", "PICKET_SECRETS_FILE"),
            (json!({"kind": "ntfy", "Access-Token": "MARK"}), "settings.Access-Token", "PICKET_SECRETS_FILE"),
            (
                json!({"kind": "webhook", "headers": {"Authorization": "MARK"}}),
                "settings.headers.Authorization",
                "secret:NAME",
            ),
            (
                json!({"kind": "telegram", "token": {"secret": "MARK:1"}}),
                "settings.token.secret",
                "lower-case",
            ),
            (
                json!({"kind": "telegram", "token": {"secret": "a", "value": "MARK"}}),
                "settings.token",
                "secret:NAME",
            ),
        ] {
            let refusal = decode(fields).unwrap_err();
            assert_eq!(refusal.field, field, "{refusal}");
            assert!(refusal.expected.contains(allowed) && !refusal.to_string().contains("MARK"), "{refusal}");
        }
    }

    #[test]
    fn a_name_begins_with_a_letter_or_a_digit_and_has_no_blanks() {
        for good in ["ops", "7", "a-b_c.d", &"a".repeat(64)] {
            check_notification_name("name", good).unwrap();
        }
        for bad in ["", "-a", ".a", "Ops", "a b", "ä", &"a".repeat(65)] {
            check_notification_name("name", bad).unwrap_err();
        }
    }
}
