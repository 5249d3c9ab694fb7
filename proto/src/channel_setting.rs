//! Settings of the kinds of channels: names, forms, defaults and meanings, and the check of a channel
//! against them. The command line and the reference are made from the same table.

mod form;
mod service_url;
mod table;

use serde_json::{Map, Value};

pub use self::{form::SettingForm, service_url::find_service_of_url};
use crate::{
    ChannelKind, ValidationError, nested_object::HIDDEN_VALUE, suggestion::suggest_name,
    validation::sanitize_text,
};

/// Field of a channel with the settings of its kind.
pub const SETTINGS_FIELD: &str = "settings";
/// Maximum time of an attempt, in milliseconds: shorter than the lease of a lane.
pub const MAX_TIMEOUT_MS: u64 = 25_000;

/// A setting of a kind of channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelSetting {
    /// Name of the setting.
    pub name: &'static str,
    /// Form of its values.
    pub form: SettingForm,
    /// Value of an absent setting.
    pub default: SettingDefault,
    /// Purpose, as part of a sentence.
    pub meaning: &'static str,
}

/// Value of an absent setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingDefault {
    /// The setting must be present.
    Required,
    /// Nothing.
    Absent,
    /// This value, as typed.
    Value(&'static str),
    /// A value by other settings, in words.
    Described(&'static str),
}

impl ChannelKind {
    /// All settings of the kind, the most important first.
    pub fn settings(self) -> impl Iterator<Item = &'static ChannelSetting> {
        table::own_settings(self).iter().chain(table::common_settings(self))
    }

    /// The setting of this name.
    pub fn find_setting(self, name: &str) -> Option<&'static ChannelSetting> {
        self.settings().find(|setting| setting.name == name)
    }
}

/// Checks the names and the forms of the settings of a channel. A credential of a known service is
/// refused.
///
/// # Errors
/// Names the first unusable setting, and repeats no possible secret.
pub fn check_channel_settings(
    kind: ChannelKind,
    settings: &Map<String, Value>,
) -> Result<(), ValidationError> {
    for (name, value) in settings {
        let field = format!("{SETTINGS_FIELD}.{name}");
        let Some(setting) = kind.find_setting(name) else {
            return Err(ValidationError::new(field, HIDDEN_VALUE, describe_known_settings(kind, name)));
        };
        if setting.form != SettingForm::Template {
            service_url::refuse_service_urls(&field, value)?;
        }
        if let Some((place, value, allowed)) = setting.form.find_fault(value) {
            let shown =
                if setting.form.may_be_secret() { HIDDEN_VALUE.to_owned() } else { show_value(value) };
            let allowed = format!("{allowed} ({})", setting.meaning);
            return Err(ValidationError::new(format!("{field}{place}"), shown, allowed));
        }
    }
    let is_absent = |setting: &&ChannelSetting| {
        setting.default == SettingDefault::Required && !settings.contains_key(setting.name)
    };
    let absent: Vec<_> = kind.settings().filter(is_absent).collect();
    let Some((first, others)) = absent.split_first() else { return Ok(()) };
    let mut allowed = format!("{} ({}), which {kind} needs", first.form, first.meaning);
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(|setting| setting.name).collect();
        allowed.push_str(&format!("; also absent: {}", names.join(", ")));
    }
    Err(ValidationError::new(format!("{SETTINGS_FIELD}.{}", first.name), "(absent)", allowed))
}

/// Text for an unknown setting: the probable name, or else all names with their purposes.
fn describe_known_settings(kind: ChannelKind, name: &str) -> String {
    let describe = |setting: &ChannelSetting| format!("{} ({})", setting.name, setting.meaning);
    let meant = suggest_name(name, kind.settings().map(|setting| setting.name));
    match meant.and_then(|meant| kind.find_setting(meant)) {
        Some(meant) => format!("no such setting of {kind}; did you mean {}?", describe(meant)),
        None => {
            let all: Vec<_> = kind.settings().map(describe).collect();
            format!("no such setting of {kind}; there are {}", all.join(", "))
        }
    }
}

/// A value of a setting without secrets.
fn show_value(value: &Value) -> String {
    /// Longer texts may be credentials in the wrong place.
    const MAX_SHOWN_BYTES: usize = 16;
    match value {
        Value::String(text) if text.len() <= MAX_SHOWN_BYTES => sanitize_text(text, MAX_SHOWN_BYTES),
        Value::Number(_) | Value::Bool(_) | Value::Null => value.to_string(),
        _ => HIDDEN_VALUE.to_owned(),
    }
}

#[cfg(test)]
mod tests;
