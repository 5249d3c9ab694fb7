//! Settings of a kind of channel on the command line.

use clap::Args;
use picket_proto::{
    ChannelKind, ValidationError, channel_definition::ChannelDefinition,
    channel_setting::check_channel_settings,
};
use serde_json::{Map, Value, json};

/// Settings of the kind. A given option replaces the value of its setting.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Settings of the kind")]
pub(super) struct SettingArgs {
    /// Where messages go; secret:NAME where the URL itself is a credential
    #[arg(long, value_name = "URL|secret:NAME")]
    url: Option<String>,
    /// Recipient; may be repeated where the kind takes several
    #[arg(long, value_name = "RECIPIENT")]
    to: Vec<String>,
    /// Another setting; may be repeated. VALUE is a text, a number, JSON for a list or an object, or
    /// secret:NAME, as the setting needs it (picket channel kinds KIND); an empty one removes the
    /// setting; 'headers.X-Key=…' sets a field within one
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SettingArgs {
    pub(super) fn apply_to(
        &self,
        kind: ChannelKind,
        settings: &mut Map<String, Value>,
    ) -> Result<(), ValidationError> {
        if let Some(url) = &self.url {
            settings.insert("url".to_owned(), parse_secret(url).unwrap_or_else(|| url.as_str().into()));
        }
        match (kind, &self.to[..]) {
            (_, []) => {}
            (ChannelKind::Email, all) => drop(settings.insert("to".to_owned(), json!(all))),
            (_, [one]) => drop(settings.insert("to".to_owned(), one.as_str().into())),
            (_, all) => drop(settings.insert("to".to_owned(), json!(all))),
        }
        self.set.iter().try_for_each(|text| apply_setting(kind, settings, text))
    }
}

/// Sets or removes what `KEY=VALUE` names; dots in the key lead into objects.
fn apply_setting(
    kind: ChannelKind,
    settings: &mut Map<String, Value>,
    text: &str,
) -> Result<(), ValidationError> {
    const ALLOWED: &str = "KEY=VALUE, such as port=465, token=secret:NAME or headers.X-Key=secret:NAME";
    // The value may be a credential, so it is not repeated.
    let refuse = |key: &str| ValidationError::new("--set", format_args!("{key}…"), ALLOWED);
    let (path, value) = text.split_once('=').ok_or_else(|| refuse(""))?;
    let (name, inner_path) = path.split_once('.').unwrap_or((path, ""));
    let mut parts = path.split('.').peekable();
    let mut place = settings;
    while let Some(part) = parts.next() {
        if part.is_empty() {
            return Err(refuse(path));
        }
        if parts.peek().is_some() {
            let inner = place.entry(part).or_insert_with(|| Value::Object(Map::new()));
            place = inner.as_object_mut().ok_or_else(|| refuse(path))?;
        } else if value.is_empty() {
            place.remove(part);
        } else {
            let parsed = match kind.find_setting(name) {
                Some(setting) => setting.form.parse_text(inner_path, value),
                None => parse_value(value),
            };
            place.insert(part.to_owned(), parsed);
        }
    }
    Ok(())
}

/// Value of an unknown setting: `secret:NAME`, or JSON, or else a text.
fn parse_value(text: &str) -> Value {
    if let Some(secret) = parse_secret(text) {
        return secret;
    }
    match serde_json::from_str(text) {
        Ok(Value::Null) | Err(_) => text.into(),
        Ok(value) => value,
    }
}

fn parse_secret(text: &str) -> Option<Value> {
    text.strip_prefix("secret:").map(|name| json!({"secret": name}))
}

/// Validates the settings of a channel, by its kind with the code of the notifiers. A command without
/// that code leaves it to them: a channel that they cannot use is shown with its problem.
///
/// # Errors
/// Names the setting that is wrong, and repeats no value that may be a secret.
pub(crate) fn validate_settings(channel: &ChannelDefinition) -> Result<(), ValidationError> {
    channel.validate()?;
    check_channel_settings(channel.kind, &channel.settings)?;
    #[cfg(feature = "local")]
    picket_notifier::channel::ChannelSettings::parse(channel.kind, &Value::Object(channel.settings.clone()))
        .map_err(explain_secrets)?;
    Ok(())
}

/// Says where the value of a secret belongs, if one is needed.
#[cfg(feature = "local")]
fn explain_secrets(why: ValidationError) -> ValidationError {
    use picket_proto::channel_definition::SECRETS_HINT;
    match why.expected.contains("{\"secret\": NAME}") && !why.expected.contains("PICKET_SECRETS_FILE") {
        true => ValidationError { expected: format!("{}: {SECRETS_HINT}", why.expected), ..why },
        false => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kind: ChannelKind, args: SettingArgs) -> Result<Value, ValidationError> {
        let mut settings = Map::new();
        settings.insert("old".into(), 1.into());
        args.apply_to(kind, &mut settings)?;
        Ok(settings.into())
    }

    fn args(url: Option<&str>, to: &[&str], set: &[&str]) -> SettingArgs {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        SettingArgs { url: url.map(str::to_owned), to: own(to), set: own(set) }
    }

    #[test]
    fn values_are_texts_numbers_json_and_names_of_secrets() {
        let set = [
            "old=",
            "port=465",
            "from=+4912",
            "verify=true",
            "chat_id=\"7\"",
            "a.b=secret:x",
            "a.c=text",
            "list=[1,2]",
            "none=null",
        ];
        assert_eq!(
            settings(ChannelKind::Email, args(Some("secret:u"), &["a@b"], &set)).unwrap(),
            json!({"url": {"secret": "u"}, "to": ["a@b"], "port": 465, "from": "+4912", "verify": true, "chat_id": "7",
                   "a": {"b": {"secret": "x"}, "c": "text"}, "list": [1, 2], "none": "null"})
        );
        let twilio = settings(ChannelKind::Twilio, args(None, &["+49"], &["old="])).unwrap();
        assert_eq!(twilio, json!({"to": "+49"}));
    }

    #[test]
    fn a_template_that_begins_like_json_stays_a_text() {
        let body = r#"{"text": 1}"#;
        let set = ["old=", &format!("body={body}"), "headers.X-Count=5"];
        let settings = settings(ChannelKind::Webhook, args(None, &[], &set)).unwrap();
        assert_eq!(settings, json!({"body": body, "headers": {"X-Count": "5"}}));
    }

    #[test]
    fn a_setting_of_another_form_is_refused_without_its_value() {
        for text in ["hunter2", "=hunter2", "a..b=hunter2", "old.x=hunter2"] {
            let refusal = settings(ChannelKind::Slack, args(None, &[], &[text])).unwrap_err().to_string();
            assert!(refusal.contains("KEY=VALUE") && !refusal.contains("hunter2"), "{refusal}");
        }
    }
}
