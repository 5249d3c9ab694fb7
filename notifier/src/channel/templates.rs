//! Templates of a channel that speaks HTTP: of the title of its messages, and of their text.

use std::borrow::Cow;

use picket_proto::{ChannelKind, ValidationError, nested_object::decode_object};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::settings::{FIELD, field};
use crate::{
    message::Message,
    template::{Markup, check_template, describe_failure, render},
};

/// Templates, each checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Templates {
    /// Template of the title.
    title: Option<String>,
    /// Template of what stands below the title, in text without markup; of a webhook the whole body,
    /// in JSON.
    body: Option<String>,
}

impl Templates {
    /// Decodes and checks the templates of a channel of this kind, and returns the other settings.
    pub(super) fn split(kind: ChannelKind, value: &Value) -> Result<(Self, Value), ValidationError> {
        let fields = value.as_object().cloned().unwrap_or_default();
        let (own, rest): (Map<_, _>, Map<_, _>) =
            fields.into_iter().partition(|(name, _)| matches!(name.as_str(), "title" | "body"));
        let templates: Self = decode_object(FIELD, &Value::Object(own))?;
        if let Some(title) = &templates.title {
            check_template(&field("title"), title, Markup::Line)?;
        }
        if let Some(body) = &templates.body {
            check_template(&field("body"), body, body_markup(kind))?;
        }
        Ok((templates, Value::Object(rest)))
    }

    /// The message with what the templates make of it, and a note on each that failed. The built-in
    /// layout takes the place of those.
    pub(crate) fn apply<'a>(
        &self,
        kind: ChannelKind,
        message: &'a Message,
    ) -> (Cow<'a, Message>, Option<String>) {
        let mut message = Cow::Borrowed(message);
        let mut notes = Vec::new();
        if let Some(title) = &self.title {
            match render(title, Markup::Line, &message) {
                Ok(text) => message.to_mut().title = text,
                Err(why) => notes.push(describe_failure("title", &why)),
            }
        }
        if let Some(body) = &self.body {
            match render(body, body_markup(kind), &message) {
                Ok(text) => message.to_mut().body = Some(text),
                Err(why) => notes.push(describe_failure("body", &why)),
            }
        }
        (message, (!notes.is_empty()).then(|| notes.join("; ")))
    }
}

fn body_markup(kind: ChannelKind) -> Markup {
    match kind {
        ChannelKind::Webhook => Markup::Json,
        _ => Markup::Plain,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{channel::ChannelSettings, samples};

    fn apply(kind: ChannelKind, templates: &Value, message: &Message) -> (Message, Option<String>) {
        let (templates, _) = Templates::split(kind, templates).unwrap();
        let (message, note) = templates.apply(kind, message);
        (message.into_owned(), note)
    }

    #[test]
    fn a_title_and_a_body_take_the_places_of_the_built_in_ones() {
        let templates = json!({"title": "{{ items[0].name }} again", "body": "{{ items|length }} of them"});
        let (message, note) = apply(ChannelKind::Slack, &templates, &samples::down());
        assert_eq!(note, None);
        assert!(message.title.ends_with(" again"), "{}", message.title);
        assert_eq!(message.body.as_deref(), Some("1 of them"));
    }

    #[test]
    fn a_template_that_fails_leaves_the_built_in_layout_and_a_note() {
        // As a row that was written past the check.
        let templates = Templates { title: Some("{{ nothing.there }}".to_owned()), body: None };
        let sample = samples::down();
        let (message, note) = templates.apply(ChannelKind::Slack, &sample);
        assert_eq!(message.title, sample.title);
        assert!(note.unwrap().contains("template 'title' failed"));
    }

    #[test]
    fn a_bad_template_and_a_body_where_there_is_none_are_refused_by_name() {
        let refusal = |kind, settings: Value| ChannelSettings::parse(kind, &settings).unwrap_err();
        let bad = refusal(ChannelKind::Ntfy, json!({"topic": "a", "body": "{% for %}"}));
        assert_eq!(bad.field, "settings.body", "{bad}");
        let none = refusal(ChannelKind::Pagerduty, json!({"routing_key": {"secret": "k"}, "body": "x"}));
        assert!(none.field == "settings.body" && none.expected.contains("title (template of"), "{none}");
        let json = refusal(ChannelKind::Webhook, json!({"url": "https://a.example/", "body": "no JSON"}));
        assert_eq!(json.field, "settings.body", "{json}");
    }

    #[test]
    fn a_body_of_json_that_quotes_a_value_or_fails_for_a_test_is_refused_with_a_hint() {
        let refusal = |body: &str| {
            let settings = json!({"url": "https://a.example/", "body": body});
            ChannelSettings::parse(ChannelKind::Webhook, &settings).unwrap_err().to_string()
        };

        let quoted = refusal(r#"{"text": "{{ title }}"}"#);
        assert!(quoted.contains("{\"text\": {{ title }}} without marks around {{ title }}"), "{quoted}");
        let of_incident = refusal(r#"{"incident": {{ event.data.incident_id }}}"#);
        assert!(of_incident.contains("(a test): line 1: undefined value"), "{of_incident}");
        assert!(of_incident.contains("{{ event.data.incident_id|default(none) }}"), "{of_incident}");
        let settings = json!({"url": "https://a.example/", "body": r#"{"text": {{ title }}, "id": {{ event.data.incident_id|default(none) }}}"#});
        ChannelSettings::parse(ChannelKind::Webhook, &settings).unwrap();
    }

    #[test]
    fn email_and_exec_are_settings_of_channels() {
        let email =
            json!({"host": "mail.example.com", "from": "picket@example.com", "to": ["ops@example.com"]});
        assert_eq!(ChannelSettings::parse(ChannelKind::Email, &email).unwrap().kind(), ChannelKind::Email);
        let exec = json!({"program": "notify"});
        assert_eq!(ChannelSettings::parse(ChannelKind::Exec, &exec).unwrap_err().field, "settings.program");
    }
}
