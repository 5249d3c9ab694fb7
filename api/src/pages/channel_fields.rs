//! Settings of a kind of channel as fields of a form, and back.

use std::collections::BTreeMap;

use picket_proto::{
    ChannelKind, ValidationError, http_options::check_secret_name, nested_object::HIDDEN_VALUE,
};
use serde_json::{Map, Value, json};

use super::list_page::FormField;

/// Name of the field with the settings that have no field of their own.
const OTHER_SETTINGS: &str = "other";

/// How a setting is written in a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SettingForm {
    Text,
    Number,
    /// A number if it looks like one, or else a text.
    NumberOrText,
    /// The name of a secret.
    Secret,
    /// A text, or `secret:NAME`.
    TextOrSecret,
    /// Texts, separated by commas.
    Texts,
    /// Names of secrets, separated by commas.
    Secrets,
}

/// Name, label, placeholder and form of a setting.
type Setting = (&'static str, &'static str, &'static str, SettingForm);

/// The settings of a kind that have a field. The needed ones come first.
fn list_settings(kind: ChannelKind) -> &'static [Setting] {
    use SettingForm::{Number, NumberOrText, Secret, Secrets, Text, TextOrSecret, Texts};
    const API_URL: Setting = ("api_url", "URL of the server (optional)", "https://…", Text);
    match kind {
        ChannelKind::Webhook => &[
            ("url", "URL, or secret:NAME", "https://hooks.example.com/picket", TextOrSecret),
            ("secrets", "Names of secrets that sign (optional)", "hook-signing", Secrets),
        ],
        ChannelKind::Email => &[
            ("host", "Mail server", "mail.example.com", Text),
            ("from", "Sender", "Picket <picket@example.com>", Text),
            ("to", "Recipients, separated by commas", "ops@example.com", Texts),
            ("port", "Port (optional)", "587", Number),
            ("security", "starttls, implicit or none (optional)", "starttls", Text),
            ("user", "User (optional)", "", Text),
            ("password", "Name of the secret with the password (optional)", "smtp-password", Secret),
        ],
        ChannelKind::Slack => &[
            ("url", "Name of the secret with the webhook", "slack-ops", Secret),
            ("token", "or name of the secret with a bot's token", "slack-bot", Secret),
            ("channel", "Conversation, with a bot's token", "C0123456", Text),
            ("mention", "Mention if something is down (optional)", "here", Text),
        ],
        ChannelKind::Discord => &[
            ("url", "Name of the secret with the webhook", "discord-ops", Secret),
            ("mention", "Mention if something is down (optional)", "here", Text),
        ],
        ChannelKind::Teams => &[("url", "Name of the secret with the workflow's URL", "teams-ops", Secret)],
        ChannelKind::Googlechat => &[("url", "Name of the secret with the webhook", "chat-ops", Secret)],
        ChannelKind::Telegram => &[
            ("token", "Name of the secret with the bot's token", "telegram-bot", Secret),
            ("chat_id", "Number of the chat, or @name", "-100123", NumberOrText),
            ("topic_id", "Topic (optional)", "", Number),
        ],
        ChannelKind::Pagerduty => {
            &[("routing_key", "Name of the secret with the integration key", "pagerduty", Secret), API_URL]
        }
        ChannelKind::Alertmanager => &[
            ("urls", "URLs of all instances, separated by commas", "http://alertmanager:9093", Texts),
            ("user", "User (optional)", "", Text),
            ("password", "Name of the secret with the password (optional)", "", Secret),
            ("token", "Name of the secret with a bearer token (optional)", "", Secret),
        ],
        ChannelKind::Ntfy => &[
            ("topic", "Topic, or secret:NAME", "picket-ops", TextOrSecret),
            ("token", "Name of the secret with an access token (optional)", "", Secret),
            API_URL,
        ],
        ChannelKind::Exec => &[
            ("program", "Absolute path of the program", "/usr/local/bin/notify", Text),
            ("args", "Arguments, separated by commas (optional)", "", Texts),
        ],
        ChannelKind::Opsgenie => {
            &[("api_key", "Name of the secret with the key", "opsgenie", Secret), API_URL]
        }
        ChannelKind::Pushover => &[
            ("token", "Name of the secret with the application's token", "pushover-app", Secret),
            ("user", "Name of the secret with the user's key", "pushover-user", Secret),
            ("priority", "Priority, -2 to 2 (optional)", "", Number),
        ],
        ChannelKind::Matrix => &[
            ("api_url", "Homeserver", "https://matrix.example.com", Text),
            ("room_id", "Room", "!abc:example.com", Text),
            ("token", "Name of the secret with the access token", "matrix-bot", Secret),
        ],
        ChannelKind::Gotify => &[
            ("api_url", "Server", "https://gotify.example.com", Text),
            ("token", "Name of the secret with the application's token", "gotify", Secret),
        ],
        ChannelKind::Twilio => &[
            ("account_sid", "Number of the account", "AC…", Text),
            ("auth_token", "Name of the secret with the account's token", "twilio", Secret),
            ("from", "Sender", "+4912345", Text),
            ("to", "Recipient", "+4954321", Text),
        ],
        ChannelKind::Watchdog => &[
            (
                "url",
                "URL to request while all works, or secret:NAME",
                "https://hc.example.com/ping/…",
                TextOrSecret,
            ),
            ("fail_url", "URL to request otherwise (optional)", "", TextOrSecret),
        ],
    }
}

/// The fields of a form for a channel of this kind.
pub(super) fn build_fields(kind: ChannelKind, settings: &Map<String, Value>) -> Vec<FormField> {
    let mut others = settings.clone();
    let mut fields: Vec<FormField> = list_settings(kind)
        .iter()
        .map(|&(name, label, placeholder, form)| {
            let written = settings.get(name).and_then(|value| write_setting(form, value));
            // What the form cannot show is kept below.
            if written.is_some() {
                others.remove(name);
            }
            FormField { name, label, value: written.unwrap_or_default(), placeholder, ..FormField::default() }
        })
        .collect();
    fields.push(FormField {
        name: OTHER_SETTINGS,
        label: "Further settings (JSON, optional)",
        value: if others.is_empty() { String::new() } else { Value::Object(others).to_string() },
        placeholder: r#"{"timeout_ms": 5000}"#,
        ..FormField::default()
    });
    fields
}

/// A setting as text; `None` for another form.
fn write_setting(form: SettingForm, value: &Value) -> Option<String> {
    let secret = |value: &Value| match value.as_object() {
        Some(fields) if fields.len() == 1 => fields.get("secret")?.as_str().map(str::to_owned),
        _ => None,
    };
    let join = |write: &dyn Fn(&Value) -> Option<String>| {
        let words: Option<Vec<String>> = value.as_array()?.iter().map(write).collect();
        words.filter(|words| words.iter().all(|word| !word.contains(','))).map(|words| words.join(", "))
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match form {
        SettingForm::Text => text(value),
        SettingForm::Number => value.as_i64().map(|number| number.to_string()),
        SettingForm::NumberOrText => value.as_i64().map(|number| number.to_string()).or_else(|| text(value)),
        SettingForm::Secret => secret(value),
        SettingForm::TextOrSecret => {
            secret(value).map(|name| format!("secret:{name}")).or_else(|| text(value))
        }
        SettingForm::Texts => join(&text),
        SettingForm::Secrets => join(&secret),
    }
}

/// The settings that a form has. An empty field is no setting.
///
/// # Errors
/// Names the unusable field, and repeats no possible secret.
pub(super) fn parse_settings(
    kind: ChannelKind,
    form: &BTreeMap<String, String>,
) -> Result<Map<String, Value>, ValidationError> {
    let get = |name: &str| form.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let mut settings = match get(OTHER_SETTINGS).map(serde_json::from_str) {
        None => Map::new(),
        Some(Ok(settings)) => settings,
        Some(Err(_)) => {
            let allowed = "a JSON object, such as {\"timeout_ms\": 5000}";
            return Err(ValidationError::new(OTHER_SETTINGS, HIDDEN_VALUE, allowed));
        }
    };
    for &(name, _, _, setting) in list_settings(kind) {
        if let Some(text) = get(name) {
            settings.insert(name.to_owned(), parse_setting(name, setting, text)?);
        }
    }
    Ok(settings)
}

/// A typed form without what may be a credential in place of the name of a secret, which is not repeated.
pub(super) fn drop_credentials(
    kind: ChannelKind,
    form: &BTreeMap<String, String>,
    error: &ValidationError,
) -> BTreeMap<String, String> {
    let is_name = |word: &str| check_secret_name("", word.trim().trim_start_matches("secret:")).is_ok();
    let is_shown = |name: &str, text: &str| match list_settings(kind).iter().find(|setting| setting.0 == name)
    {
        Some((_, _, _, SettingForm::Secret | SettingForm::Secrets)) => {
            text.is_empty() || text.split(',').all(is_name)
        }
        // The refused field may be one of these.
        None if name == OTHER_SETTINGS => error.value != HIDDEN_VALUE,
        _ => true,
    };
    let shown = form.iter().filter(|(name, text)| is_shown(name, text));
    shown.map(|(name, text)| (name.clone(), text.clone())).collect()
}

fn parse_setting(name: &str, form: SettingForm, text: &str) -> Result<Value, ValidationError> {
    let secret = |text: &str| json!({ "secret": text.strip_prefix("secret:").unwrap_or(text) });
    let words = || text.split(',').map(str::trim).filter(|word| !word.is_empty());
    Ok(match form {
        SettingForm::Text => text.into(),
        SettingForm::Number => {
            text.parse::<i64>().map_err(|_| ValidationError::new(name, text, "a whole number"))?.into()
        }
        SettingForm::NumberOrText => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        SettingForm::Secret => secret(text),
        SettingForm::TextOrSecret if text.starts_with("secret:") => secret(text),
        SettingForm::TextOrSecret => text.into(),
        SettingForm::Texts => words().map(Value::from).collect(),
        SettingForm::Secrets => words().map(secret).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_every_kind_survive_a_form_and_so_do_those_without_a_field() {
        for &kind in ChannelKind::ALL_KINDS {
            let mut settings: Map<String, Value> = list_settings(kind)
                .iter()
                .map(|&(name, _, _, form)| {
                    let value = match form {
                        SettingForm::Text | SettingForm::NumberOrText => json!("@a b"),
                        SettingForm::Number => json!(7),
                        SettingForm::Secret | SettingForm::TextOrSecret => json!({"secret": "name"}),
                        SettingForm::Texts => json!(["a", "b"]),
                        SettingForm::Secrets => json!([{"secret": "a"}, {"secret": "b"}]),
                    };
                    (name.to_owned(), value)
                })
                .collect();
            settings.insert("unlisted".to_owned(), json!({"x": [1]}));

            let form =
                build_fields(kind, &settings).into_iter().map(|field| (field.name.to_owned(), field.value));

            assert_eq!(parse_settings(kind, &form.collect()).unwrap(), settings, "{kind}");
        }
    }

    #[test]
    fn a_value_that_its_field_cannot_show_stays_among_the_further_settings() {
        let Value::Object(settings) = json!({"to": ["a, b"], "port": "x"}) else { unreachable!() };

        let fields = build_fields(ChannelKind::Email, &settings);

        assert!(
            fields
                .iter()
                .filter(|field| field.name == "to" || field.name == "port")
                .all(|field| field.value.is_empty())
        );
        let form = fields.into_iter().map(|field| (field.name.to_owned(), field.value)).collect();
        assert_eq!(parse_settings(ChannelKind::Email, &form).unwrap(), settings);
    }

    #[test]
    fn a_refused_form_repeats_names_of_secrets_and_not_what_may_be_a_credential() {
        let form =
            [("token", "Hunter2!"), ("chat_id", "7"), ("other", "{\"token\": \"Hunter3\"}"), ("name", "bot")];
        let form = form.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let hidden = ValidationError::new("settings.token", HIDDEN_VALUE, "the name of a secret");

        let shown = drop_credentials(ChannelKind::Telegram, &form, &hidden);

        assert_eq!(shown.keys().collect::<Vec<_>>(), ["chat_id", "name"]);
        let named = BTreeMap::from([("token".to_owned(), "telegram-bot".to_owned())]);
        assert_eq!(drop_credentials(ChannelKind::Telegram, &named, &hidden), named);
    }

    #[test]
    fn a_wrong_value_is_refused_by_its_field_and_a_possible_secret_is_not_repeated() {
        for (field, text) in [("port", "high"), ("other", "hunter2"), ("other", "[1]")] {
            let form = BTreeMap::from([(field.to_owned(), text.to_owned())]);
            let refusal = parse_settings(ChannelKind::Email, &form).unwrap_err();
            assert_eq!(refusal.field, field);
            assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
        }
    }
}
